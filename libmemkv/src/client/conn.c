/* conn.c: dialling, the handshake, and moving bytes between a socket and its session.
 * What a request or a reply says is not known here.
 * SPDX-License-Identifier: Apache-2.0 */
#include "client/conn.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "status.h"

#define RECEIVES 32 /* immediates under way; a server that has more waits a little */
#define LINK_BUDGET_MS 10000  /* the dial's own deadline is what counts */
#define TURN_BYTES (4u << 20) /* then the deadline is looked at */
#define MAX_IOV 1024          /* UIO_MAXIOV: all the kernel takes in one call */

int mkv_conn_dial(const mkv_endpoint *endpoint, const mkv_identity *self,
                  int64_t dial_deadline_ns, mkv_conn **out, memkv_error *err)
{
    /* not cleared: nearly all of it is scratch that a small batch never touches */
    mkv_conn *conn = aligned_alloc(_Alignof(mkv_conn), sizeof *conn);
    if (conn == NULL)
        return mkv_fail(err, MEMKV_ERR_NO_MEMORY, 0, "no memory for a connection");
    conn->next = NULL;
    conn->is_control = false;
    conn->connecting = true;
    conn->was_open = false;
    conn->is_strict = false;
    conn->rdma = NULL;
    conn->link = NULL;
    conn->is_attaching = conn->is_asked = false;
    conn->no_link.status = MEMKV_OK;
    conn->dial_deadline_ns = dial_deadline_ns;
    conn->n_landings = conn->landed = 0;
    int rc = mkv_session_init(&conn->session, MKV_CLIENT, self);
    if (rc != MEMKV_OK)
        mkv_fail(err, rc, 0, "the handshake cannot be made");
    if (rc == MEMKV_OK)
        rc = mkv_stream_dial(endpoint, &conn->fd, err);
    if (rc != MEMKV_OK) {
        free(conn);
        return rc;
    }
    *out = conn;
    return MEMKV_OK;
}

void mkv_conn_close(mkv_conn *conn)
{
    if (conn == NULL)
        return;
    mkv_link_close(conn->link);
    mkv_stream_close(conn->fd);
    mkv_session_fini(&conn->session);
    free(conn);
}

bool mkv_conn_is_open(const mkv_conn *conn)
{
    return mkv_session_is_open(&conn->session) && !conn->is_attaching;
}

bool mkv_conn_is_dialling(const mkv_conn *conn)
{
    return !mkv_conn_is_open(conn) && conn->session.reason == MEMKV_OK;
}

bool mkv_conn_is_quiet(const mkv_conn *conn)
{
    return mkv_session_is_quiet(&conn->session) && !conn->is_attaching;
}

short mkv_conn_events(const mkv_conn *conn)
{
    if (conn->connecting)
        return POLLOUT;
    return conn->session.out_head != NULL ? POLLIN | POLLOUT : POLLIN;
}

static int handshake_failed(const mkv_conn *conn, memkv_error *err)
{
    int reason = conn->session.reason;
    switch (reason) {
    case MEMKV_ERR_AUTH:
        return mkv_fail(err, reason, 0, "%s",
                        conn->session.self.key != NULL
                            ? "auth: the server has another auth_key, or none"
                            : "auth: the server wants an auth_key");
    case MEMKV_ERR_VERSION:
        return mkv_fail(err, reason, 0, "the server does not speak protocol version %d",
                        MKV_VERSION);
    case MEMKV_ERR_PROTOCOL:
        return mkv_fail(err, reason, 0, "what answers there is not a memkv server");
    default:
        return mkv_fail(err, reason, 0, "the server hung up during the handshake");
    }
}

static void no_node_is_ours(mkv_outgoing *node)
{
    (void)node;
}

/* ---- the link ---------------------------------------------------------------------- */

void mkv_conn_attach(mkv_conn *conn, mkv_rdma *rdma, int64_t dial_deadline_ns)
{
    conn->rdma = rdma;
    conn->dial_deadline_ns = dial_deadline_ns;
    conn->is_attaching = mkv_session_is_open(&conn->session);
    conn->is_asked = false;
    conn->no_link.status = MEMKV_OK;
}

static void detach(mkv_conn *conn)
{
    mkv_link_close(conn->link);
    conn->link = NULL;
    conn->is_attaching = false;
}

/* Makes our end of the link, and tells the server of it. */
static void ask_for_link(mkv_conn *conn)
{
    uint8_t *table = conn->rdma_frame + MKV_PREFIX_LEN;
    mkv_frame frame = {.kind = MKV_RDMA,
                       .flags = MKV_FRAME_LAST,
                       .budget_ms = LINK_BUDGET_MS,
                       .table_len = MKV_PARAMS_LEN};
    mkv_rdma_params own;
    size_t len;
    conn->is_asked = true;
    conn->rdma_node = (mkv_outgoing){.control = conn->rdma_frame};
    int rc = mkv_link_open(conn->rdma, conn->fd, NULL, RECEIVES, &conn->link, &own,
                           &conn->no_link);
    if (rc == MEMKV_OK)
        rc = mkv_rdma_params_encode(&own, table, MKV_PARAMS_LEN, &len);
    if (rc == MEMKV_OK)
        rc = mkv_session_send(&conn->session, &frame, &conn->rdma_node);
    if (rc == MEMKV_OK)
        return;
    if (conn->no_link.status == MEMKV_OK)
        mkv_fail(&conn->no_link, rc, 0, "no RDMA link: %s", memkv_strerror(rc));
    detach(conn);
}

/* The reply's table is whole. */
static int take_answer(mkv_conn *conn)
{
    const mkv_frame *frame = &conn->session.frame;
    mkv_rdma_params peer;
    if (!conn->is_asked || !conn->is_attaching || frame->kind != MKV_RDMA ||
        frame->id != 0)
        return MEMKV_ERR_PROTOCOL;
    if (frame->status != MEMKV_OK)
        mkv_fail(&conn->no_link, frame->status, 0, "the server makes no RDMA link: %s",
                 memkv_strerror(frame->status));
    if (frame->status != MEMKV_OK)
        return MEMKV_OK;
    int rc = mkv_rdma_params_decode(conn->table, frame->table_len, &peer);
    if (rc == MEMKV_OK)
        (void)mkv_link_connect(conn->link, &peer, &conn->no_link);
    return rc;
}

static void begin_attaching(mkv_conn *conn)
{
    bool has_rdma = conn->session.peer.features & MKV_FEATURE_RDMA;
    conn->is_attaching = has_rdma && conn->rdma != NULL;
    if (!has_rdma && conn->is_strict)
        mkv_fail(&conn->no_link, MEMKV_ERR_UNSUPPORTED, 0, "the server has no RDMA");
}

/* ---- the dial ---------------------------------------------------------------------- */

/* All that the bytes read so far say.  PROTOCOL. */
static int digest(mkv_conn *conn)
{
    int rc = MEMKV_OK;
    for (;;) {
        switch (mkv_session_next(&conn->session)) {
        case MKV_EVENT_OPEN:
            begin_attaching(conn);
            return MEMKV_OK;
        case MKV_EVENT_TABLE:
            mkv_session_give_table(&conn->session, conn->table);
            break;
        case MKV_EVENT_FRAME:
            rc = take_answer(conn);
            if (rc == MEMKV_ERR_PROTOCOL)
                return rc;
            break;
        case MKV_EVENT_END:
            if (conn->no_link.status != MEMKV_OK)
                detach(conn);
            conn->is_attaching = false;
            return MEMKV_OK;
        case MKV_EVENT_BODY:
            return MEMKV_ERR_PROTOCOL;
        case MKV_EVENT_NONE:
        case MKV_EVENT_CLOSED:
            return MEMKV_OK;
        }
    }
}

static int opened(mkv_conn *conn, memkv_error *err)
{
    if (conn->is_strict && conn->no_link.status != MEMKV_OK)
        return mkv_fail(err, MEMKV_ERR_UNREACHABLE, 0, "transport rdma: %.200s",
                        conn->no_link.text);
    conn->was_open = true;
    return MEMKV_OK;
}

int mkv_conn_advance(mkv_conn *conn, memkv_error *err)
{
    if (conn->connecting) {
        struct pollfd poll_fd = {.fd = conn->fd, .events = POLLOUT};
        if (poll(&poll_fd, 1, 0) == 0)
            return MEMKV_OK;
        int rc = mkv_stream_dialled(conn->fd, err);
        if (rc != MEMKV_OK)
            return rc;
        conn->connecting = false;
    }
    for (;;) {
        if (digest(conn) != MEMKV_OK)
            mkv_session_hang_up(&conn->session, MEMKV_ERR_PROTOCOL);
        if (conn->session.reason != MEMKV_OK)
            return handshake_failed(conn, err);
        if (conn->is_attaching && !conn->is_asked)
            ask_for_link(conn);
        if (mkv_conn_is_open(conn))
            return opened(conn, err);
        size_t n = 0;
        int rc = mkv_conn_flush(conn, no_node_is_ours);
        if (rc == MEMKV_OK)
            rc = mkv_conn_receive(conn, &n);
        if (rc != MEMKV_OK)
            mkv_session_hang_up(&conn->session, rc);
        else if (n == 0)
            return MEMKV_OK;
    }
}

int mkv_conn_flush(mkv_conn *conn, void (*done)(mkv_outgoing *))
{
    struct iovec iov[MAX_IOV];
    for (size_t turn = 0, n; turn < TURN_BYTES; turn += n) {
        size_t n_iov = mkv_session_want_write(&conn->session, iov, MAX_IOV);
        if (n_iov == 0)
            return MEMKV_OK;
        int rc = mkv_stream_write(conn->fd, iov, n_iov, &n);
        if (rc != MEMKV_OK)
            return rc;
        if (n == 0)
            return MEMKV_OK;
        mkv_outgoing *node = mkv_session_did_write(&conn->session, n);
        while (node != NULL) {
            mkv_outgoing *next = node->next;
            done(node);
            node = next;
        }
    }
    return MEMKV_OK;
}

int mkv_conn_receive(mkv_conn *conn, size_t *n)
{
    struct iovec iov[MAX_IOV];
    size_t n_iov = mkv_session_want_read(&conn->session, iov, MAX_IOV);
    *n = 0;
    if (n_iov == 0)
        return MEMKV_OK;
    int rc = mkv_stream_read(conn->fd, iov, n_iov, n);
    if (rc == MEMKV_OK)
        mkv_session_did_read(&conn->session, *n);
    return rc;
}
