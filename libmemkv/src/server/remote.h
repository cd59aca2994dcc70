/* remote.h: payload on its way by RDMA between the store's pages and the memory of one
 * client.  A flight is the payload of one reply frame: a GET's, whose frame is held until
 * the client has the bytes, or a PUT's, whose items are stored once their bytes are here.
 * Several are under way at once and end in their order.  Waits for nothing.
 *
 * One thread: the channel's.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef MKV_REMOTE_H
#define MKV_REMOTE_H

#include "net/rdma.h"
#include "server/answer.h"
#include "server/counters.h"

/* The client's memory for one row, and the near end: either of these. */
typedef struct mkv_target {
    uint64_t address;
    uint64_t length; /* over 0 */
    uint32_t rkey;
    const mkv_value *value; /* GET: referenced by the answer */
    mkv_put *put;           /* PUT: all of its pages are taken */
} mkv_target;

/* The remote rows of an answer, in their order. */
typedef struct mkv_targets {
    size_t n;
    mkv_target all[MKV_MAX_ITEMS];
} mkv_targets;

typedef struct mkv_flight mkv_flight;

typedef struct mkv_remote {
    mkv_rdma *rdma;         /* NULL: the server has none */
    const mkv_memory *pool; /* the store's pages */
    mkv_answers *answers;
    mkv_counters *counters;
    mkv_link *link;   /* NULL: the client has attached none */
    uint64_t n_links; /* so far */
    bool is_broken;   /* the link is */
    mkv_flight *first, *last;
    size_t n_flights;
    uint64_t bytes; /* of all flights */
} mkv_remote;

/* The link first, so that nothing touches the pages any more; then what was under way. */
void mkv_remote_close(mkv_remote *remote);

/* Answers an RDMA frame that came over the socket `fd`: UNSUPPORTED with the reason, BUSY,
 * or OK with the near end's parameters as a table in `reply`. */
int mkv_remote_attach(mkv_remote *remote, int fd, const uint8_t *table,
                      uint8_t reply[MKV_PARAMS_LEN], memkv_error *err);
bool mkv_remote_is_attached(const mkv_remote *remote);
/* Enough is under way: nothing new before some of it has ended. */
bool mkv_remote_is_full(const mkv_remote *remote);

/* Has the request of this id frames whose payload is under way? */
bool mkv_remote_has(const mkv_remote *remote, uint32_t id);

/* Sends the payload of `answer` on its way, if there is any; takes over the answer and
 * the puts, also on failure: NO_MEMORY. */
int mkv_remote_start(mkv_remote *remote, mkv_answer *answer,
                     const mkv_targets *targets);
/* Takes what the link has; true: there was something. */
bool mkv_remote_poll(mkv_remote *remote);
/* The answer of the oldest flight, if that has ended; else *out is NULL.  `draft` is
 * empty before and after.  NO_MEMORY. */
int mkv_remote_finish(mkv_remote *remote, mkv_draft *draft, uint64_t now_ms,
                      mkv_answer **out);
/* When the oldest flight must have ended; UINT64_MAX: there is none. */
uint64_t mkv_remote_due_ms(const mkv_remote *remote);

#endif
