/* conn.h: one connection to a server, from the dial to the close: a socket, its session,
 * its RDMA link where there is one, and the memory that a batch using it needs.  Knows no operations.
 * One thread at a time; peer.c says whose.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef MKV_CONN_H
#define MKV_CONN_H

#include "net/rdma.h"
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
    uint32_t frame; /* remote: of the request's frames with remote rows, from 1 */
} mkv_landing;

typedef struct mkv_conn {
    struct mkv_conn *next; /* in its peer's list of idle ones */
    int fd;
    bool is_control; /* kept for requests without payload */
    bool connecting; /* the socket is; after it comes the handshake */
    bool was_open;   /* the dial once succeeded */
    bool is_strict;  /* without RDMA it is of no use */
    int64_t dial_deadline_ns;
    mkv_session session;

    mkv_rdma *rdma;         /* to make a link with; NULL: not wanted */
    mkv_link *link;         /* payload goes by it; NULL: inline */
    bool is_attaching;      /* the link is being made */
    bool is_asked;          /* the server was */
    memkv_error no_link;    /* why there is none, after an attempt */
    mkv_outgoing rdma_node; /* the RDMA request */
    uint8_t rdma_frame[MKV_PREFIX_LEN + MKV_PARAMS_LEN];

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
/* On return nothing touches memory on behalf of it; may block in a driver.  NULL is
 * fine. */
void mkv_conn_close(mkv_conn *conn);
/* Has `rdma` tried for a link when the dial is otherwise over; of an open connection, now:
 * it is dialling again until mkv_conn_advance is through. */
void mkv_conn_attach(mkv_conn *conn, mkv_rdma *rdma, int64_t dial_deadline_ns);

bool mkv_conn_is_open(const mkv_conn *conn);
/* Neither open nor broken: take it further. */
bool mkv_conn_is_dialling(const mkv_conn *conn);
/* Open, nothing under way in either direction: fit to be kept. */
bool mkv_conn_is_quiet(const mkv_conn *conn);
/* What to poll for. */
short mkv_conn_events(const mkv_conn *conn);

/* Takes a dial further as far as it goes now: MEMKV_OK (look at is_open), or the reason
 * why it failed, in words in err. */
int mkv_conn_advance(mkv_conn *conn, memkv_error *err);

/* Sends what is queued as far as the socket takes it now, within a turn's bound.  Nodes that are gone whole are
 * handed to `done`, one by one.  DISCONNECTED. */
int mkv_conn_flush(mkv_conn *conn, void (*done)(mkv_outgoing *));
/* One read into where the session wants it; *n 0: nothing there.  DISCONNECTED. */
int mkv_conn_receive(mkv_conn *conn, size_t *n);

#endif
