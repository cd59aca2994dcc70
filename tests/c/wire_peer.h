/* wire_peer.h: a client made of a bare session and a blocking loop, for tests that say what no
 * well-behaved client would.  Any failure ends the test.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef MKV_TEST_WIRE_PEER_H
#define MKV_TEST_WIRE_PEER_H

#include "check.h"

#include "net/stream.h"
#include "protocol/session.h"

#include <poll.h>
#include <string.h>

#define PEER_BODY (8u << 20)

typedef struct wire_peer {
    int fd;
    mkv_session session;
    uint32_t last_id;
    bool is_closed;
    uint8_t control[MKV_PREFIX_LEN + MKV_MAX_TABLE];
    uint8_t table[MKV_MAX_TABLE];
    uint8_t *body; /* of the reply frame read last */
    size_t body_len;
} wire_peer;

static inline void peer_wait(const wire_peer *peer, short events)
{
    struct pollfd poll_fd = {.fd = peer->fd, .events = events};
    CHECK_EQ(poll(&poll_fd, 1, 10000), 1);
}

static inline void peer_flush(wire_peer *peer)
{
    struct iovec iov[64];
    size_t n_iov, n;

    while ((n_iov = mkv_session_want_write(&peer->session, iov, 64)) > 0) {
        if (mkv_stream_write(peer->fd, iov, n_iov, &n) != MEMKV_OK) {
            peer->is_closed = true;
            return;
        }
        if (n == 0)
            peer_wait(peer, POLLOUT);
        mkv_session_did_write(&peer->session, n);
    }
}

/* The next event that is not NONE; bytes and tables are seen to. */
static inline mkv_event peer_event(wire_peer *peer)
{
    struct iovec iov[4];
    size_t n;

    for (;;) {
        mkv_event event = mkv_session_next(&peer->session);
        if (event == MKV_EVENT_TABLE)
            mkv_session_give_table(&peer->session, peer->table);
        else if (event != MKV_EVENT_NONE)
            return event;
        peer_flush(peer);
        size_t n_iov = mkv_session_want_read(&peer->session, iov, 4);
        if (n_iov == 0)
            continue;
        peer_wait(peer, POLLIN);
        if (mkv_stream_read(peer->fd, iov, n_iov, &n) != MEMKV_OK)
            mkv_session_hang_up(&peer->session, MEMKV_ERR_DISCONNECTED);
        else
            mkv_session_did_read(&peer->session, n);
    }
}

/* MEMKV_OK, or why the server would not have it. */
static inline int peer_open(wire_peer *peer, const char *address,
                            const char *name_space, const uint8_t *key)
{
    mkv_endpoint endpoint;
    bool is_name;
    mkv_identity self = {.key = key,
                         .label = (const uint8_t *)name_space,
                         .label_len = (uint32_t)strlen(name_space),
                         .max_requests = 8};

    memset(peer, 0, sizeof *peer);
    if (key != NULL)
        CHECK_EQ(mkv_key_id(key, &self.key_id), MEMKV_OK);
    CHECK_EQ(mkv_endpoint_parse(address, &endpoint, &is_name, NULL), MEMKV_OK);
    CHECK_EQ(mkv_stream_dial(&endpoint, &peer->fd, NULL), MEMKV_OK);
    peer_wait(peer, POLLOUT);
    CHECK_EQ(mkv_stream_dialled(peer->fd, NULL), MEMKV_OK);
    CHECK_EQ(mkv_session_init(&peer->session, MKV_CLIENT, &self), MEMKV_OK);
    peer->body = malloc(PEER_BODY);
    CHECK(peer->body != NULL);
    return peer_event(peer) == MKV_EVENT_OPEN ? MEMKV_OK : peer->session.reason;
}

static inline void peer_close(wire_peer *peer)
{
    mkv_session_fini(&peer->session);
    mkv_stream_close(peer->fd);
    free(peer->body);
}

/* Sends the table, and of the body what the caller has. */
static inline void peer_send(wire_peer *peer, mkv_frame *frame, const void *body,
                             size_t body_len)
{
    struct iovec iov = {(void *)(uintptr_t)body, body_len};
    mkv_outgoing node = {.control = peer->control};
    uint64_t announced = frame->body_len;

    frame->flags = MKV_FRAME_LAST;
    frame->id = ++peer->last_id;
    CHECK_EQ(mkv_session_send(&peer->session, frame, &node), MEMKV_OK);
    node.body = &iov;
    node.n_body = body_len > 0;
    node.left -= announced - body_len;
    peer->session.out_bytes -= announced - body_len;
    peer_flush(peer);
}

static inline void peer_request(wire_peer *peer, uint8_t kind, const mkv_request *items,
                                size_t n, uint32_t budget_ms, const void *body,
                                size_t body_len)
{
    mkv_frame frame = {.kind = kind, .flags = MKV_FRAME_LAST, .budget_ms = budget_ms};

    if (n > 0)
        CHECK_EQ(mkv_requests_encode(&frame, items, n, peer->control + MKV_PREFIX_LEN,
                                     MKV_MAX_TABLE),
                 MEMKV_OK);
    peer_send(peer, &frame, body, body_len);
}

/* Reads one reply frame whole; false: the connection is closed. */
static inline bool peer_reply(wire_peer *peer)
{
    struct iovec iov;

    peer->body_len = 0;
    for (;;) {
        switch (peer_event(peer)) {
        case MKV_EVENT_BODY:
            CHECK(peer->session.body_left <= PEER_BODY);
            peer->body_len = peer->session.body_left;
            iov = (struct iovec){peer->body, peer->body_len};
            mkv_session_give_sink(&peer->session, &iov, 1);
            break;
        case MKV_EVENT_END:
            CHECK_EQ(peer->session.frame.id, peer->last_id);
            return true;
        case MKV_EVENT_CLOSED:
            return false;
        default:
            break;
        }
    }
}

/* The rows of the reply just read; their number. */
static inline size_t peer_rows(const wire_peer *peer, mkv_reply *rows, size_t cap)
{
    mkv_cursor cursor;
    size_t n = 0;

    CHECK_EQ(mkv_replies_begin(&peer->session.frame, peer->table, &cursor), MEMKV_OK);
    while (n < cap && mkv_replies_next(&cursor, &rows[n]))
        n++;
    CHECK_EQ(cursor.left, 0);
    return n;
}

/* A request of one item, answered in one frame with one row. */
static inline mkv_reply peer_ask(wire_peer *peer, uint8_t kind, const mkv_request *item,
                                 const void *body)
{
    mkv_reply row;

    peer_request(peer, kind, item, 1, 60000, body, kind == MKV_PUT ? item->length : 0);
    CHECK(peer_reply(peer));
    CHECK_EQ(peer->session.frame.status, MEMKV_OK);
    CHECK(peer->session.frame.flags & MKV_FRAME_LAST);
    CHECK_EQ(peer_rows(peer, &row, 1), 1);
    return row;
}

#endif
