/* call.c: one question, one answer, on one server's control connection: listing and
 * probing.
 * SPDX-License-Identifier: Apache-2.0 */
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "client/client.h"
#include "net/clock.h"
#include "status.h"

#define CALL_ID 1u

typedef struct call { /* the connection is lent; its table holds the reply */
    mkv_peer *peer;
    mkv_conn *conn;
    int64_t deadline_ns;
} call;

static void keep_node(mkv_outgoing *node)
{
    (void)node; /* on ask()'s stack, which outlives it */
}

/* MEMKV_OK and *is_over: frame.status is the answer. */
static int receive_reply(call *it, uint8_t kind, bool *is_over)
{
    mkv_session *session = &it->conn->session;
    for (;;) {
        switch (mkv_session_next(session)) {
        case MKV_EVENT_NONE:
            return MEMKV_OK;
        case MKV_EVENT_TABLE:
            mkv_session_give_table(session, it->conn->table);
            break;
        case MKV_EVENT_FRAME:
            if (session->frame.kind != kind || session->frame.id != CALL_ID ||
                (session->frame.flags & MKV_FRAME_LAST) == 0 ||
                session->frame.body_len > 0)
                return MEMKV_ERR_PROTOCOL;
            break;
        case MKV_EVENT_END:
            *is_over = true;
            return session->frame.status;
        case MKV_EVENT_CLOSED:
            return session->reason;
        default:
            return MEMKV_ERR_PROTOCOL;
        }
    }
}

/* Sends one frame and waits for its one reply, whose table stays in conn->table. */
static int ask(call *it, uint8_t kind, const mkv_request *item)
{
    uint8_t control[MKV_PREFIX_LEN + MKV_REQUEST_ROW];
    mkv_outgoing out = {.control = control};
    int64_t left_ms = (it->deadline_ns - mkv_now_ns()) / MKV_NS_PER_MS + 1;
    mkv_frame frame = {.kind = kind,
                       .flags = MKV_FRAME_LAST,
                       .id = CALL_ID,
                       .budget_ms = left_ms > 0 ? (uint32_t)left_ms : 1};
    int rc = MEMKV_OK;
    if (item != NULL)
        rc = mkv_requests_encode(&frame, item, 1, control + MKV_PREFIX_LEN,
                                 MKV_REQUEST_ROW);
    if (rc == MEMKV_OK)
        rc = mkv_session_send(&it->conn->session, &frame, &out);
    bool is_over = false;
    while (rc == MEMKV_OK && !is_over) {
        size_t n;
        rc = mkv_conn_flush(it->conn, keep_node);
        if (rc == MEMKV_OK)
            rc = mkv_conn_receive(it->conn, &n);
        if (rc == MEMKV_OK)
            rc = receive_reply(it, kind, &is_over);
        if (rc != MEMKV_OK || is_over || n > 0)
            continue;
        int64_t left_ns = it->deadline_ns - mkv_now_ns();
        if (left_ns <= 0)
            return MEMKV_ERR_TIMEOUT;
        struct pollfd fd = {.fd = it->conn->fd, .events = mkv_conn_events(it->conn)};
        poll(&fd, 1, (int)(left_ns / MKV_NS_PER_MS) + 1);
    }
    return rc;
}

/* Answered with an item's trouble or not at all: only then is it fit to be kept. */
static void end_call(call *it)
{
    if (!mkv_conn_is_quiet(it->conn))
        mkv_session_hang_up(&it->conn->session, MEMKV_ERR_DISCONNECTED);
    mkv_peer_give_back(it->peer, it->conn);
}

static int begin_call(memkv_client *client, const char *server, int timeout_ms,
                      call *it, memkv_error *err)
{
    if (client == NULL)
        return MEMKV_ERR_INVALID;
    if (atomic_load(&client->is_stopped))
        return mkv_fail(err, MEMKV_ERR_CLOSED, 0, "the client is stopped");
    it->peer = mkv_client_find(client, server);
    if (it->peer == NULL)
        return mkv_fail(err, MEMKV_ERR_INVALID, 0, "no server is named %s",
                        server != NULL ? server : "(null)");
    it->deadline_ns = mkv_now_ns() + timeout_ms * MKV_NS_PER_MS;
    return mkv_peer_dial_now(it->peer, it->deadline_ns, &it->conn, err);
}

int memkv_client_probe(memkv_client *client, const char *server, char *json, size_t cap,
                       int timeout_ms, memkv_error *err)
{
    call it;
    int rc = begin_call(client, server, timeout_ms, &it, err);
    if (rc != MEMKV_OK)
        return rc;
    rc = ask(&it, MKV_INFO, NULL);
    uint32_t len = it.conn->session.frame.table_len;
    if (rc != MEMKV_OK)
        mkv_fail(err, rc, 0, "%s: %s", it.peer->address, memkv_strerror(rc));
    else if (len >= cap)
        rc =
            mkv_fail(err, MEMKV_ERR_TOO_SMALL, 0, "the answer takes %u bytes", len + 1);
    if (rc == MEMKV_OK) {
        memcpy(json, it.conn->table, len);
        json[len] = '\0';
    }
    end_call(&it);
    return rc;
}

/* Copies an entry's bytes into what is left of the caller's room; false: it is full. */
static bool keep_entry(const mkv_reply *reply, uint8_t **room, size_t *left,
                       memkv_entry *out)
{
    size_t need = (size_t)reply->key_len + reply->header_len;
    bool has_header = (reply->flags & MKV_ITEM_HEADER) != 0;
    if (!has_header)
        need = reply->key_len;
    if (need > *left)
        return false;
    memcpy(*room, reply->key, reply->key_len);
    out->key = *room;
    out->key_len = reply->key_len;
    out->header = *room + reply->key_len;
    out->header_len = has_header ? reply->header_len : 0;
    if (out->header_len > 0)
        memcpy(*room + reply->key_len, reply->header, reply->header_len);
    out->data_size = reply->length;
    out->idle_ms = reply->idle_ms;
    *room += need;
    *left -= need;
    return true;
}

int memkv_list(memkv_client *client, const char *server, uint64_t *cursor, void *room,
               size_t room_len, memkv_entry *out, size_t cap, size_t *n, int timeout_ms)
{
    if (cursor == NULL || room == NULL || out == NULL || n == NULL || cap == 0)
        return MEMKV_ERR_INVALID;
    call it;
    int rc = begin_call(client, server, timeout_ms, &it, NULL);
    if (rc != MEMKV_OK)
        return rc;
    mkv_request item = {.header_len = MEMKV_MAX_HEADER,
                        .length = cap < MKV_MAX_ITEMS ? cap : MKV_MAX_ITEMS,
                        .generation = *cursor};
    rc = ask(&it, MKV_LIST, &item);
    mkv_cursor rows;
    if (rc == MEMKV_OK)
        rc = mkv_replies_begin(&it.conn->session.frame, it.conn->table, &rows);
    if (rc == MEMKV_OK) {
        uint8_t *at = room;
        size_t count = 0;
        mkv_reply reply;
        uint64_t last = *cursor;
        bool is_full = false;
        while (rc == MEMKV_OK && count < cap && !is_full &&
               mkv_replies_next(&rows, &reply)) {
            is_full = !keep_entry(&reply, &at, &room_len, &out[count]);
            if (reply.index <= last) /* it would never end */
                rc = MEMKV_ERR_PROTOCOL;
            if (is_full)
                break;
            last = reply.index;
            count++;
        }
        if (rc == MEMKV_OK && is_full && count == 0)
            rc = MEMKV_ERR_TOO_SMALL;
        if (rc == MEMKV_OK) {
            *cursor = last;
            *n = count;
        }
    }
    end_call(&it);
    return rc;
}
