/* conn.c: dialling, the handshake, and moving bytes between a socket and its session.
 * What a request or a reply says is not known here.
 * SPDX-License-Identifier: Apache-2.0 */
#include "client/conn.h"

#include <poll.h>
#include <stdlib.h>

#include "status.h"

#define MAX_IOV 1024 /* UIO_MAXIOV: all the kernel takes in one call */

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
    conn->dial_deadline_ns = dial_deadline_ns;
    conn->n_landings = conn->landed = 0;
    int rc = mkv_session_init(&conn->session, MKV_CLIENT, self);
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
    mkv_stream_close(conn->fd);
    mkv_session_fini(&conn->session);
    free(conn);
}

bool mkv_conn_is_open(const mkv_conn *conn)
{
    return mkv_session_is_open(&conn->session);
}

bool mkv_conn_is_quiet(const mkv_conn *conn)
{
    return mkv_session_is_quiet(&conn->session);
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
        mkv_event event = mkv_session_next(&conn->session);
        if (event == MKV_EVENT_OPEN) {
            conn->was_open = true;
            return MEMKV_OK;
        }
        if (event == MKV_EVENT_CLOSED)
            return handshake_failed(conn, err);
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
    for (;;) {
        size_t n_iov = mkv_session_want_write(&conn->session, iov, MAX_IOV), n;
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
