/* batch.h: what one memkv_run call is made of.  The batch has a share for each server;
 * a share has two queues of ops (with payload and without) and lanes: connections lent to
 * it, each with a few requests in flight.  All of it belongs to the calling thread.
 *
 * run.c splits, polls and ends; request.c makes frames of ops; lane.c moves them and
 * takes the replies in; remote.c sees to the payload that goes by RDMA.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef MKV_BATCH_H
#define MKV_BATCH_H

#include "client/peer.h"

#define MKV_NO_OP UINT32_MAX

typedef struct mkv_queue { /* of ops, linked by their slots */
    uint32_t head, tail;
} mkv_queue;

typedef struct mkv_slot { /* beside each op */
    uint32_t next;        /* in its queue */
    uint8_t tries;        /* connections that broke under it */
    uint8_t moves;        /* from a server to the next in its key's order */
    bool is_deleted;      /* on one server; others may hold it, too */
    bool is_inline;       /* RDMA has failed it once */
    bool is_repair;       /* answered CHECKSUM; now a DELETE of `generation` */
    uint64_t generation;
} mkv_slot;

/* A request on its way. */
typedef struct mkv_sent {
    mkv_outgoing out; /* first: done() gets it back */
    struct mkv_sent *next;
    uint32_t id;
    int64_t asked_ns;
    uint8_t kind;
    bool was_alone;            /* nothing else was on its way on the connection */
    bool is_sent, is_answered; /* freed when both */
    uint32_t n;
    uint32_t *ops;   /* of the items */
    bool *has_reply; /* of the items */

    bool is_remote;        /* its payload goes by RDMA.  A GET's then: */
    uint32_t n_frames;     /* with remote rows that are in */
    uint32_t n_immediates; /* that are in */
    uint32_t n_landings, n_landed;
    mkv_landing *landings; /* values told of in frames, the first n_landed verified */
} mkv_sent;

struct mkv_batch;

typedef struct mkv_share {
    struct mkv_batch *batch;
    mkv_peer *peer;
    bool is_back;        /* ask the next in order, too, for what it lacks */
    mkv_queue queues[2]; /* [is_control] */
    mkv_waiter waiters[2];
    bool is_waiting[2];
} mkv_share;

typedef struct mkv_lane {
    struct mkv_lane *next;
    mkv_share *share;
    mkv_conn *conn;
    mkv_sent *requests; /* oldest first */
    uint32_t n_requests;
    uint32_t next_id;
    bool has_news;      /* its link had something */
    int64_t moved_ns;   /* bytes last went either way */
    mkv_sent *replying; /* whose reply frame is being read */
} mkv_lane;

typedef struct mkv_batch {
    memkv_op *ops;
    mkv_slot *slots;
    const mkv_identity *self; /* its namespace seeds the checksums */
    int64_t begun_ns, deadline_ns;
    size_t n_left; /* ops without an answer, and repairs under way */
    mkv_share *shares;
    size_t n_shares;
    _Atomic uint16_t *firsts; /* the client's */
    mkv_lane *lanes;
    size_t n_lanes;
    int wake_fd; /* -1 until something waits */
} mkv_batch;

static inline bool mkv_queue_is_empty(const mkv_queue *queue)
{
    return queue->head == MKV_NO_OP;
}
void mkv_batch_push(mkv_share *share, uint32_t op);
/* To the next live server in its key's order; none left, or moved too often already: the
 * answer is `status`. */
void mkv_batch_pass_on(mkv_share *share, uint32_t op, int status);
/* The op's answer; or the end of its repair, whatever became of it. */
void mkv_batch_finish(mkv_share *share, uint32_t op, int status);
/* Its connection broke: once more on another, or the answer is `status`. */
void mkv_batch_retry(mkv_share *share, uint32_t op, int status);

/* request.c: cuts the next request from the lane's queue and hands it to the session. */
int mkv_request_send(mkv_lane *lane);
void mkv_sent_free(mkv_sent *sent);

/* remote.c: true, and the item is made REMOTE, if the op's payload may go that way. */
bool mkv_remote_address(const mkv_lane *lane, uint32_t op, mkv_request *item);
/* Takes what the lane's link has; true: it wants to move. */
bool mkv_remote_listen(mkv_lane *lane);
/* Verifies the values that are there. */
void mkv_remote_land(mkv_lane *lane);
/* RDMA failed it: once more, on the stream. */
void mkv_remote_again(mkv_lane *lane, uint32_t op);
/* Ends the link: on return nothing touches memory on behalf of it, and what it left
 * half done is asked for again. */
void mkv_remote_lost(mkv_lane *lane, const char *what);

/* lane.c */
bool mkv_lane_has_room(const mkv_lane *lane);
/* Reads and writes as far as it goes now, within a turn's bound.  A failure: the
 * connection is broken, *why says how. */
int mkv_lane_move(mkv_lane *lane, memkv_error *why);
/* A value is in its place; `sum` is what came. */
void mkv_lane_landed(mkv_lane *lane, const mkv_landing *landing, uint64_t sum);
/* How long its oldest request, or the batch for its handshake, has waited while nothing
 * moved; 0: something did. */
int64_t mkv_lane_silence_ns(const mkv_lane *lane);
/* Every op of it that has no answer goes to `give_up` (retry or finish). */
void mkv_lane_abandon(mkv_lane *lane, int status,
                      void (*give_up)(mkv_share *, uint32_t, int));

#endif
