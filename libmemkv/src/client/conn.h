/* conn.h: one connection to a server, from the dial to the close: a socket, its session,
 * and the memory that a batch using it needs.  Knows no operations.
 * One thread at a time; peer.c says whose.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef MKV_CONN_H
#define MKV_CONN_H

#include "net/stream.h"
#include "protocol/checksum.h"
#include "protocol/session.h"

/* A value on its way into a caller's memory. */
typedef struct mkv_landing {
    uint32_t op;
    uint8_t *data;
    uint64_t left, length;
    uint64_t seed, checksum, generation;
    uint32_t header_len;
} mkv_landing;

typedef struct mkv_conn {
    struct mkv_conn *next; /* in its peer's list of idle ones */
    int fd;
    bool is_control; /* kept for requests without payload */
    bool connecting; /* the socket is; after it comes the handshake */
    bool was_open;   /* the handshake once succeeded */
    int64_t dial_deadline_ns;
    mkv_session session;
    mkv_summer summer; /* of landings[landed] */
    size_t n_landings, landed;
    size_t n_sink; /* fewer: empty values need no place */
    mkv_landing landings[MKV_MAX_ITEMS];
    struct iovec sink[MKV_MAX_ITEMS];
    mkv_request items[MKV_MAX_ITEMS]; /* a request being built */
    uint8_t table[MKV_MAX_TABLE];     /* of the reply being read */
} mkv_conn;

/* Begins to dial.  UNREACHABLE with the reason in err, or NO_MEMORY. */
int mkv_conn_dial(const mkv_endpoint *endpoint, const mkv_identity *self,
                  int64_t dial_deadline_ns, mkv_conn **out, memkv_error *err);
void mkv_conn_close(mkv_conn *conn); /* NULL is fine */

bool mkv_conn_is_open(const mkv_conn *conn);
/* Open, nothing under way in either direction: fit to be kept. */
bool mkv_conn_is_quiet(const mkv_conn *conn);
/* What to poll for. */
short mkv_conn_events(const mkv_conn *conn);

/* Takes a dial further as far as it goes now: MEMKV_OK (look at is_open), or the reason
 * why it failed, in words in err. */
int mkv_conn_advance(mkv_conn *conn, memkv_error *err);

/* Sends what is queued as far as the socket takes it.  Nodes that are gone whole are
 * handed to `done`, one by one.  DISCONNECTED. */
int mkv_conn_flush(mkv_conn *conn, void (*done)(mkv_outgoing *));
/* One read into where the session wants it; *n 0: nothing there.  DISCONNECTED. */
int mkv_conn_receive(mkv_conn *conn, size_t *n);

#endif
