/* peer.h: one server as a client sees it: its connections, whether it is live, and what
 * was counted.  It lends a connection to one batch at a time and dials when there is
 * none to lend; it knows no operations.  All functions: any thread.
 *
 * Only mkv_peer_tend dials a server that is DOWN (breaker.h): nobody waits for it.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef MKV_PEER_H
#define MKV_PEER_H

#include <pthread.h>
#include <stdatomic.h>

#include "client/breaker.h"
#include "client/conn.h"
#include "client/counters.h"
#include "client/region.h"

/* A batch that waits for a connection; fd is an eventfd of its own. */
typedef struct mkv_waiter {
    struct mkv_waiter *next;
    int fd;
} mkv_waiter;

typedef struct mkv_peer_config { /* what all servers of a client share */
    mkv_identity self;           /* nonce: peer.c makes one a dial */
    mkv_regions *regions;        /* and the RDMA devices */
    uint32_t transport;          /* memkv_transport */
    uint32_t connections;
    int32_t connect_timeout_ms;
} mkv_peer_config;

typedef struct mkv_peer {
    const char *name; /* the peer's own copies */
    const char *address;
    const mkv_peer_config *config;
    mkv_client_counters counters;

    _Atomic int64_t heard_ns; /* when a byte last came from it */

    pthread_mutex_t lock; /* guards all below */
    mkv_breaker breaker;
    mkv_breaker rdma;    /* the same for the links of its connections */
    char link_text[128]; /* the last one's */
    uint32_t features;   /* the server's, as far as we have them, too */
    uint64_t luck;       /* of chance() */
    bool is_name;        /* the address is: looked up, and again after each failure */
    bool is_resolved;
    mkv_endpoint endpoint;
    char calls_itself[MEMKV_MAX_NAME + 1]; /* empty: as we call it, or by its address */
    mkv_conn *doomed; /* to be closed once the lock is free: a link's end may block */
    mkv_conn *idle;   /* also dials that outlived the batch that wanted them */
    uint32_t n_payload, n_control; /* connections there are, lent or idle */
    mkv_waiter *waiters;
} mkv_peer;

/* INVALID with the address in err. */
int mkv_peer_init(mkv_peer *peer, const memkv_address *address,
                  const mkv_peer_config *config, memkv_error *err);
void mkv_peer_fini(mkv_peer *peer); /* nothing may be lent */

/* Lends a connection, perhaps one that is still being dialled.  BUSY: none to be had
 * now; `waiter`, unless NULL, is in line (until unwait, or its fd is written to).
 * Otherwise the reason why the server is DOWN. */
int mkv_peer_borrow(mkv_peer *peer, bool is_control, mkv_waiter *waiter,
                    mkv_conn **out);
void mkv_peer_unwait(mkv_peer *peer, mkv_waiter *waiter); /* not in line is fine */
/* Takes it back: kept if it is quiet or still being dialled, else closed. */
void mkv_peer_give_back(mkv_peer *peer, mkv_conn *conn);
/* The handshake of the lent connection is over. */
void mkv_peer_opened(mkv_peer *peer, const mkv_conn *conn);
/* A request was answered, after took_ns if it had no payload, else 0. */
void mkv_peer_answered(mkv_peer *peer, int64_t took_ns);
/* A batch's time ran out while nothing moved for waited_ns; if nothing came for other
 * batches either, that counts. */
void mkv_peer_silent(mkv_peer *peer, int64_t waited_ns);
/* Payload has come or gone by its RDMA link. */
void mkv_peer_link_worked(mkv_peer *peer);
/* It has not: other connections make none before it is time to try again. */
void mkv_peer_link_failed(mkv_peer *peer, const memkv_error *why);
/* A batch's time ran out while it waited_ns for payload by it. */
void mkv_peer_link_silent(mkv_peer *peer, int64_t waited_ns);
/* It answers, but takes no more requests. */
void mkv_peer_leaving(mkv_peer *peer);
/* The lent connection is broken, and closed here.  A failed dial makes the server DOWN;
 * a broken open one takes the idle ones with it, which are hardly better. */
void mkv_peer_failed(mkv_peer *peer, mkv_conn *conn, const memkv_error *why);

/* Resolves the name if need be, and dials a server that is NEW or due.  Drives dials
 * nobody waits for; true while there is one.  May block in the resolver. */
bool mkv_peer_tend(mkv_peer *peer);
/* Dials whatever its state: *out is open, and lent.  For a probe. */
int mkv_peer_dial_now(mkv_peer *peer, int64_t deadline_ns, mkv_conn **out,
                      memkv_error *err);

bool mkv_peer_is_live(const mkv_peer *peer);
bool mkv_peer_is_back(mkv_peer *peer); /* mkv_breaker_is_back */
void mkv_peer_describe(mkv_peer *peer, char *text, size_t cap);
static inline void mkv_peer_heard(mkv_peer *peer, int64_t now_ns)
{
    atomic_store_explicit(&peer->heard_ns, now_ns, memory_order_relaxed);
}
static inline void mkv_peer_count(mkv_peer *peer, mkv_counter counter, uint64_t n)
{
    atomic_fetch_add_explicit(&peer->counters[counter], n, memory_order_relaxed);
}

#endif
