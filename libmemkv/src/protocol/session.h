/* session.h: one connection's states, the same for both roles: bytes in, frames out.  No
 * I/O, no clock, no allocation but the two taggers of the handshake.  It lends memory
 * rather than copying: the owner moves bytes to and from the iovecs that the session
 * names, and tells it how many.
 *
 *     reading:  n = want_read(iov) ; recvmsg ; did_read(bytes) ; while (e = next()) ...
 *     writing:  send(frame) ; n = want_write(iov) ; sendmsg ; done = did_write(bytes)
 *
 * One thread at a time.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef MKV_SESSION_H
#define MKV_SESSION_H

#include <sys/uio.h>

#include "protocol/auth.h"
#include "protocol/wire.h"

/* cffi: on */
typedef enum mkv_role { MKV_CLIENT = 0, MKV_SERVER = 1 } mkv_role;

typedef enum mkv_event {
    MKV_EVENT_NONE = 0, /* read on */
    MKV_EVENT_OPEN,     /* the handshake is over; ->peer is valid */
    MKV_EVENT_TABLE, /* a frame of frame.table_len begins: give_table() before next() */
    MKV_EVENT_FRAME, /* frame and table are whole, proven and checked; valid until END */
    MKV_EVENT_BODY,  /* body_left bytes are to come and have no place: give_sink() */
    MKV_EVENT_END,   /* the frame's last byte is in; comes for an empty body too */
    MKV_EVENT_CLOSED /* ->reason.  Flush what want_write() still names, then hang up */
} mkv_event;

/* What the owner says of itself.  Copied, except for `key`, which must outlive the
 * handshake. */
typedef struct mkv_identity {
    const uint8_t *key;           /* MEMKV_AUTH_KEY_LEN bytes, or NULL */
    uint64_t key_id;              /* mkv_key_id(key); 0 without a key */
    uint8_t nonce[MKV_NONCE_LEN]; /* fresh random bytes for every session */
    const uint8_t *label;         /* client: its namespace.  server: its name */
    uint32_t label_len;
    uint64_t id;           /* client: its id.  server: its boot id */
    uint64_t uptime_ms;    /* server */
    uint32_t max_requests; /* in flight on this connection, 1..65535 */
    uint32_t features;     /* MKV_FEATURE_*: what it can and would use */
} mkv_identity;

/* What the other end said of itself. */
typedef struct mkv_peer_info {
    uint8_t label[MEMKV_MAX_NAMESPACE]; /* server: the client's namespace.  client: the
                                         * server's name */
    uint32_t label_len;
    uint64_t id;
    uint64_t uptime_ms;
    uint32_t max_requests; /* the lower of both ends */
    uint32_t features;     /* that both have */
    uint32_t max_table;    /* what it takes */
} mkv_peer_info;

/* A frame on its way out: `control` has room for MKV_PREFIX_LEN + frame.table_len bytes
 * with the table already in place behind the prefix; `body` is consumed as it is sent.
 * All of it is the owner's again when did_write() returns the node. */
typedef struct mkv_outgoing {
    struct mkv_outgoing *next;
    uint8_t *control;
    size_t control_len, control_sent;
    struct iovec *body;
    size_t n_body;
    uint64_t left; /* bytes unsent, control included */
} mkv_outgoing;

typedef struct mkv_session {
    mkv_role role;
    int phase, step; /* session.c's */
    int reason;
    mkv_identity self;
    uint8_t own_label[MEMKV_MAX_NAMESPACE]; /* self.label points here */
    mkv_peer_info peer;

    uint8_t prefix[MKV_PREFIX_LEN];
    size_t prefix_have;
    mkv_frame frame; /* the one being read */
    uint8_t *table;
    size_t table_have;
    struct iovec *sink;
    size_t n_sink;
    uint64_t body_left;

    mkv_outgoing *out_head, *out_tail;
    uint64_t out_bytes; /* unsent, of all frames queued */
    mkv_tagger *tag_in, *tag_out;

    /* the handshake's own memory; both HELLOs are kept whole for the transcript */
    uint8_t hello_in[MKV_MAX_GREETING];
    uint8_t hello_out[MKV_MAX_GREETING];
    size_t hello_in_len, hello_out_len;
    uint8_t proof_in[MKV_PROOF_LEN];
    uint8_t auth_out[MKV_PREFIX_LEN + MKV_PROOF_LEN];
    mkv_outgoing hello_node, auth_node;
} mkv_session;

/* A client's session has its HELLO queued at once.  MEMKV_ERR_INVALID: the label. */
int mkv_session_init(mkv_session *session, mkv_role role, const mkv_identity *self);
/* Frees the taggers; queued nodes stay their owner's: take them from out_head first, but
 * for hello_node and auth_node, which are the session's own. */
void mkv_session_fini(mkv_session *session);
bool mkv_session_is_open(const mkv_session *session);
/* Open, and between frames both ways. */
bool mkv_session_is_quiet(const mkv_session *session);

/* Where the next bytes go; up to cap (>= 2) iovecs.  0: next() has an event to be
 * answered first, or it is closed. */
size_t mkv_session_want_read(mkv_session *session, struct iovec *iov, size_t cap);
void mkv_session_did_read(mkv_session *session, size_t n);
/* The stream's end, or its error: later events are CLOSED with `reason`. */
void mkv_session_hang_up(mkv_session *session, int reason);
mkv_event mkv_session_next(mkv_session *session);

/* Answers TABLE: frame.table_len bytes, the session's until END. */
void mkv_session_give_table(mkv_session *session, uint8_t *table);
/* Answers BODY: memory for the next bytes of the body, 1 to body_left in all.  The
 * array is the session's, which consumes it, until the next BODY or END.  The owner
 * learns from body_left how far it has come. */
void mkv_session_give_sink(mkv_session *session, struct iovec *iov, size_t n);

/* Queues a frame: encodes its prefix and tag into out->control.  frame.items, table_len
 * and body_len must be what *_encode set; `body` must add up to body_len. */
int mkv_session_send(mkv_session *session, mkv_frame *frame, mkv_outgoing *out);
/* What to send next; 0: nothing. */
size_t mkv_session_want_write(mkv_session *session, struct iovec *iov, size_t cap);
/* Returns the nodes that are sent whole, linked by next, oldest first; NULL: none. */
mkv_outgoing *mkv_session_did_write(mkv_session *session, size_t n);

/* Drops n bytes from the front of an iovec array; returns the entries left and moves
 * *iov on. */
size_t mkv_iov_advance(struct iovec **iov, size_t n_iov, size_t n);

/* cffi: off */

#endif
