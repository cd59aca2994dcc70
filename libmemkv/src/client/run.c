/* run.c: one batch: checked, split by server, polled to its end.  Everything happens in
 * the caller's thread, and when it returns nobody else touches the batch's memory: only
 * this thread ever read into it, and connections with unanswered requests are closed.
 * SPDX-License-Identifier: Apache-2.0 */
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "client/batch.h"
#include "client/client.h"
#include "net/clock.h"
#include "protocol/placement.h"
#include "status.h"

#define MAX_TRIES 2          /* more connections after the first that may break */
#define MAX_MOVES 3          /* servers after the first that may be asked */
#define SPIN_NS 30000        /* a small reply is often there sooner than a sleep ends */
#define MAX_BATCH (1u << 24) /* ops; their bookkeeping must stay small */

/* ---- answers ----------------------------------------------------------------------- */

void mkv_batch_push(mkv_share *share, uint32_t op)
{
    mkv_batch *batch = share->batch;
    const memkv_op *it = &batch->ops[op];
    bool is_control = batch->slots[op].is_repair || it->code == MEMKV_OP_STAT ||
                      it->code == MEMKV_OP_DELETE;
    mkv_queue *queue = &share->queues[is_control];
    batch->slots[op].next = MKV_NO_OP;
    if (mkv_queue_is_empty(queue))
        queue->head = op;
    else
        batch->slots[queue->tail].next = op;
    queue->tail = op;
}

void mkv_batch_finish(mkv_share *share, uint32_t op, int status)
{
    mkv_batch *batch = share->batch;
    memkv_op *it = &batch->ops[op];
    bool is_read = it->code == MEMKV_OP_STAT || it->code == MEMKV_OP_GET;
    batch->n_left--;
    if (batch->slots[op].is_repair)
        return;
    if (batch->slots[op].is_deleted && status == MEMKV_ERR_NOT_FOUND)
        status = MEMKV_OK;
    it->status = status;
    if (is_read && status != MEMKV_OK)
        mkv_peer_count(share->peer, mkv_client_miss(status), 1);
}

void mkv_batch_retry(mkv_share *share, uint32_t op, int status)
{
    mkv_slot *slot = &share->batch->slots[op];
    if (status != MEMKV_ERR_DISCONNECTED || slot->tries >= MAX_TRIES) {
        mkv_batch_finish(share, op, status);
        return;
    }
    slot->tries++;
    mkv_peer_count(share->peer, MKV_RETRIES, 1);
    mkv_batch_push(share, op);
}

/* Does `a` come before `b` in the key's order? */
static bool is_before(const mkv_share *a, uint64_t score_a, const mkv_share *b,
                      uint64_t score_b)
{
    if (score_a != score_b)
        return score_a > score_b;
    return strcmp(a->peer->name, b->peer->name) < 0;
}

static uint32_t slot_of(const memkv_op *op)
{
    return mkv_placement_slot(op->key, op->key_len);
}

/* The first server of the slot's order that comes behind `behind` (NULL: of all) and is
 * live, or `any`; NULL: there is none. */
static mkv_share *next_in_order(mkv_batch *batch, uint32_t slot,
                                const mkv_share *behind, bool any)
{
    uint64_t behind_score =
        behind != NULL ? mkv_placement_score(behind->peer->name, slot) : 0;
    mkv_share *best = NULL;
    uint64_t best_score = 0;
    for (size_t i = 0; i < batch->n_shares; i++) {
        mkv_share *share = &batch->shares[i];
        if (!any && !mkv_peer_is_live(share->peer))
            continue;
        uint64_t score = mkv_placement_score(share->peer->name, slot);
        if (behind != NULL &&
            (share == behind || is_before(share, score, behind, behind_score)))
            continue;
        if (best == NULL || is_before(share, score, best, best_score)) {
            best = share;
            best_score = score;
        }
    }
    return best;
}

static mkv_share *first_live(mkv_batch *batch, uint32_t slot)
{
    _Atomic uint16_t *known = &batch->firsts[slot];
    uint16_t first = atomic_load_explicit(known, memory_order_relaxed);
    if (first == 0) {
        mkv_share *share = next_in_order(batch, slot, NULL, true);
        first = (uint16_t)(share - batch->shares + 1);
        atomic_store_explicit(known, first, memory_order_relaxed);
    }
    mkv_share *share = &batch->shares[first - 1];
    return mkv_peer_is_live(share->peer) ? share
                                         : next_in_order(batch, slot, NULL, false);
}

void mkv_batch_pass_on(mkv_share *share, uint32_t op, int status)
{
    mkv_batch *batch = share->batch;
    mkv_slot *slot = &batch->slots[op];
    mkv_share *next = NULL;
    if (batch->n_shares > 1 && !slot->is_repair && slot->moves < MAX_MOVES)
        next = next_in_order(batch, slot_of(&batch->ops[op]), share, false);
    if (next == NULL) {
        mkv_batch_finish(share, op, status);
        return;
    }
    slot->moves++;
    mkv_batch_push(next, op);
}

/* Nobody is going to serve it on this server. */
static void empty_queue(mkv_share *share, bool is_control, int status)
{
    mkv_queue *queue = &share->queues[is_control];
    while (!mkv_queue_is_empty(queue)) {
        uint32_t op = queue->head;
        queue->head = share->batch->slots[op].next;
        if (status == MEMKV_ERR_TIMEOUT || status == MEMKV_ERR_CLOSED)
            mkv_batch_finish(share, op, status);
        else
            mkv_batch_pass_on(share, op, status);
    }
}

/* ---- splitting --------------------------------------------------------------------- */

static int check_op(const memkv_op *op)
{
    bool takes_header = op->code != MEMKV_OP_DELETE;
    bool takes_data = op->code == MEMKV_OP_GET || op->code == MEMKV_OP_PUT;
    if (op->code < MEMKV_OP_STAT || op->code > MEMKV_OP_DELETE)
        return MEMKV_ERR_INVALID;
    if (op->key == NULL || op->key_len < 1 || op->key_len > MEMKV_MAX_KEY)
        return MEMKV_ERR_INVALID;
    if (takes_header && op->header_len > MEMKV_MAX_HEADER)
        return MEMKV_ERR_INVALID;
    if (op->code == MEMKV_OP_PUT && op->header == NULL && op->header_len > 0)
        return MEMKV_ERR_INVALID;
    if (takes_data && op->data == NULL && op->data_len > 0)
        return MEMKV_ERR_INVALID;
    if (op->code == MEMKV_OP_PUT && op->data_len > MEMKV_MAX_VALUE)
        return MEMKV_ERR_TOO_LARGE;
    return MEMKV_OK;
}

/* With nobody live, the first one: it knows what is wrong. */
static mkv_share *share_of(mkv_batch *batch, const memkv_op *op)
{
    mkv_share *share = batch->n_shares > 1 ? first_live(batch, slot_of(op)) : NULL;
    return share != NULL ? share : &batch->shares[0];
}

/* Whatever happens later, an op without an answer says TIMEOUT. */
static void split(mkv_batch *batch, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        memkv_op *op = &batch->ops[i];
        op->flags = 0;
        op->status = check_op(op);
        if (op->status != MEMKV_OK)
            continue;
        op->status = MEMKV_ERR_TIMEOUT;
        batch->n_left++;
        mkv_batch_push(share_of(batch, op), (uint32_t)i);
    }
}

static int make_batch(memkv_client *client, memkv_op *ops, size_t n, int timeout_ms,
                      mkv_batch *batch)
{
    *batch = (mkv_batch){.ops = ops,
                         .self = &client->config.self,
                         .n_shares = client->n_peers,
                         .firsts = client->firsts,
                         .wake_fd = -1};
    batch->begun_ns = mkv_now_ns();
    batch->deadline_ns =
        batch->begun_ns + (timeout_ms > 0 ? timeout_ms : 0) * MKV_NS_PER_MS;
    batch->slots = calloc(n, sizeof *batch->slots);
    batch->shares = calloc(client->n_peers, sizeof *batch->shares);
    if (batch->slots == NULL || batch->shares == NULL) {
        free(batch->slots);
        free(batch->shares);
        return MEMKV_ERR_NO_MEMORY;
    }
    for (size_t i = 0; i < client->n_peers; i++) {
        mkv_share *share = &batch->shares[i];
        share->batch = batch;
        share->peer = &client->peers[i];
        share->is_back = client->n_peers > 1 && mkv_peer_is_back(share->peer);
        share->queues[0].head = share->queues[1].head = MKV_NO_OP;
    }
    split(batch, n);
    return MEMKV_OK;
}

/* ---- lanes ------------------------------------------------------------------------- */

static int add_lane(mkv_share *share, mkv_conn *conn)
{
    mkv_lane *lane = calloc(1, sizeof *lane);
    if (lane == NULL)
        return MEMKV_ERR_NO_MEMORY;
    lane->share = share;
    lane->conn = conn;
    lane->next = share->batch->lanes;
    share->batch->lanes = lane;
    share->batch->n_lanes++;
    lane->moved_ns = mkv_now_ns();
    return MEMKV_OK;
}

/* Unlinks and frees it; its connection is somebody else's by now. */
static void remove_lane(mkv_lane *lane)
{
    mkv_batch *batch = lane->share->batch;
    mkv_lane **at = &batch->lanes;
    while (*at != lane)
        at = &(*at)->next;
    *at = lane->next;
    batch->n_lanes--;
    free(lane);
}

static void return_lane(mkv_lane *lane)
{
    mkv_peer_give_back(lane->share->peer, lane->conn);
    remove_lane(lane);
}

static void lane_broke(mkv_lane *lane, const memkv_error *why)
{
    mkv_lane_abandon(lane, why->status, mkv_batch_retry);
    mkv_peer_failed(lane->share->peer, lane->conn, why);
    remove_lane(lane);
}

/* What the server was asked for by its link comes no more, and it would take seconds to
 * notice: another connection is sooner there. */
static void device_gone(mkv_lane *lane)
{
    memkv_error why;
    mkv_fail(&why, MEMKV_ERR_DISCONNECTED, 0, "%s: the RDMA device is gone",
             mkv_link_describe(lane->conn->link));
    mkv_peer_link_failed(lane->share->peer, &why);
    lane_broke(lane, &why);
}

static bool has_room(const mkv_share *share, bool is_control)
{
    for (mkv_lane *lane = share->batch->lanes; lane != NULL; lane = lane->next)
        if (lane->share == share && lane->conn->is_control == is_control &&
            (mkv_lane_has_room(lane) || !mkv_conn_is_open(lane->conn)))
            return true;
    return false;
}

/* BUSY: the batch is in line. */
static int borrow(mkv_share *share, bool is_control, mkv_conn **out)
{
    mkv_batch *batch = share->batch;
    mkv_waiter *waiter = &share->waiters[is_control];
    int rc = mkv_peer_borrow(share->peer, is_control, NULL, out);
    if (rc != MEMKV_ERR_BUSY)
        return rc;
    if (batch->wake_fd < 0)
        batch->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (batch->wake_fd < 0)
        return MEMKV_ERR_NO_MEMORY;
    waiter->fd = batch->wake_fd;
    rc = mkv_peer_borrow(share->peer, is_control, waiter, out);
    share->is_waiting[is_control] = rc == MEMKV_ERR_BUSY;
    return rc;
}

static void move_lane(mkv_lane *lane)
{
    memkv_error why;
    int rc = mkv_lane_move(lane, &why);
    if (rc == MEMKV_OK && mkv_conn_is_dialling(lane->conn) &&
        mkv_now_ns() > lane->conn->dial_deadline_ns)
        rc = mkv_fail(&why, MEMKV_ERR_UNREACHABLE, 0, "%s did not answer in time",
                      lane->share->peer->address);
    if (rc != MEMKV_OK)
        lane_broke(lane, &why);
    else if (lane->requests == NULL && mkv_conn_is_open(lane->conn) &&
             mkv_queue_is_empty(&lane->share->queues[lane->conn->is_control]))
        return_lane(lane);
}

/* Borrows connections until the queue is taken care of, or there are none to be had. */
static void staff(mkv_share *share, bool is_control)
{
    while (!mkv_queue_is_empty(&share->queues[is_control]) &&
           !share->is_waiting[is_control] && !has_room(share, is_control)) {
        mkv_conn *conn;
        int rc = borrow(share, is_control, &conn);
        if (rc == MEMKV_ERR_BUSY)
            return; /* or what lanes there are will do */
        if (rc == MEMKV_OK) {
            rc = add_lane(share, conn);
            if (rc != MEMKV_OK)
                mkv_peer_give_back(share->peer, conn);
        }
        if (rc != MEMKV_OK) {
            empty_queue(share, is_control, rc);
            return;
        }
        move_lane(share->batch->lanes);
    }
}

/* Ops that moved on may need a server that was staffed before: until all is in hand. */
static void staff_all(mkv_batch *batch)
{
    size_t n_moving;
    do {
        n_moving = 0;
        for (size_t i = 0; i < batch->n_shares; i++)
            for (int kind = 1; kind >= 0; kind--) {
                mkv_share *share = &batch->shares[i];
                if (mkv_queue_is_empty(&share->queues[kind]) ||
                    share->is_waiting[kind] || has_room(share, kind))
                    continue;
                staff(share, kind);
                n_moving++;
            }
    } while (n_moving > 0);
}

static void unwait(mkv_batch *batch)
{
    for (size_t i = 0; i < batch->n_shares; i++)
        for (int kind = 0; kind < 2; kind++)
            if (batch->shares[i].is_waiting[kind]) {
                mkv_peer_unwait(batch->shares[i].peer, &batch->shares[i].waiters[kind]);
                batch->shares[i].is_waiting[kind] = false;
            }
}

/* ---- waiting ----------------------------------------------------------------------- */

/* Has any link something?  `is_tired`: from here on what comes raises an event. */
static bool hear_links(mkv_batch *batch, bool is_tired)
{
    bool any = false;
    for (mkv_lane *lane = batch->lanes; lane != NULL; lane = lane->next) {
        if (is_tired && lane->conn->link != NULL)
            mkv_link_arm(lane->conn->link);
        any |= mkv_remote_listen(lane);
    }
    return any;
}

/* A short spin, then sleep, until something can move, the deadline or the stop. */
static void wait_for(mkv_batch *batch, struct pollfd *fds, nfds_t n,
                     int64_t deadline_ns)
{
    int64_t start = mkv_now_ns(), now = start;
    while (now < deadline_ns && now - start < SPIN_NS) {
        if (poll(fds, n, 0) != 0 || hear_links(batch, false))
            return;
        now = mkv_now_ns();
    }
    if (now >= deadline_ns || hear_links(batch, true))
        return;
    int64_t left_ns = deadline_ns - now;
    struct timespec left = {.tv_sec = left_ns / 1000000000,
                            .tv_nsec = left_ns % 1000000000};
    if (ppoll(fds, n, &left, NULL) < 0)
        for (nfds_t i = 0; i < n; i++)
            fds[i].revents = 0;
}

static int64_t next_deadline(const mkv_batch *batch)
{
    int64_t deadline_ns = batch->deadline_ns;
    for (const mkv_lane *lane = batch->lanes; lane != NULL; lane = lane->next)
        if (mkv_conn_is_dialling(lane->conn) &&
            lane->conn->dial_deadline_ns < deadline_ns)
            deadline_ns = lane->conn->dial_deadline_ns;
    return deadline_ns;
}

/* One turn of the loop: waits, then moves what can. */
static int turn(mkv_batch *batch, const memkv_client *client)
{
    struct pollfd *fds = calloc(2 * batch->n_lanes + 2, sizeof *fds);
    if (fds == NULL)
        return MEMKV_ERR_NO_MEMORY;
    nfds_t n = 0;
    fds[n++] = (struct pollfd){.fd = client->stop_fd, .events = POLLIN};
    fds[n++] = (struct pollfd){.fd = batch->wake_fd, .events = POLLIN};
    for (mkv_lane *lane = batch->lanes; lane != NULL; lane = lane->next) {
        const mkv_conn *conn = lane->conn;
        fds[n++] = (struct pollfd){.fd = conn->fd, .events = mkv_conn_events(conn)};
        fds[n++] = (struct pollfd){
            .fd = conn->link != NULL ? mkv_link_fd(conn->link) : -1, .events = POLLIN};
    }
    wait_for(batch, fds, n, next_deadline(batch));
    if (fds[1].revents != 0) {
        uint64_t count;
        ssize_t got = read(batch->wake_fd, &count, sizeof count);
        (void)got;
        unwait(batch);
    }
    n = 2;
    int64_t now = mkv_now_ns();
    for (mkv_lane *lane = batch->lanes, *next; lane != NULL; lane = next) {
        next = lane->next;
        bool is_late =
            mkv_conn_is_dialling(lane->conn) && now > lane->conn->dial_deadline_ns;
        bool has_event = fds[n].revents != 0 || fds[n + 1].revents != 0;
        bool is_gone = (fds[n + 1].revents & POLLERR) != 0;
        if (fds[n + 1].revents != 0 && lane->conn->link != NULL)
            mkv_link_arm(lane->conn->link); /* takes the event */
        n += 2;
        if (is_gone && lane->conn->link != NULL)
            device_gone(lane);
        else if (has_event || is_late || lane->has_news)
            move_lane(lane);
    }
    free(fds);
    return MEMKV_OK;
}

/* ---- the end ----------------------------------------------------------------------- */

/* It has answered, and our own thread was late. */
static bool has_unread(const mkv_lane *lane)
{
    struct pollfd fd = {.fd = lane->conn->fd, .events = POLLIN};
    return poll(&fd, 1, 0) > 0;
}

static void time_ran_out(const mkv_lane *lane)
{
    int64_t silence_ns = mkv_lane_silence_ns(lane);
    if (silence_ns > 0 && !has_unread(lane)) {
        bool is_for_link = lane->requests != NULL && lane->requests->is_remote;
        if (is_for_link && lane->conn->link != NULL)
            mkv_peer_link_silent(lane->share->peer, silence_ns);
        mkv_peer_silent(lane->share->peer, silence_ns);
    }
    if (lane->requests != NULL)
        mkv_peer_count(lane->share->peer, MKV_TIMEOUTS, 1);
}

/* A share that waited in line in vain: whoever had the connection heard nothing either. */
static void waited_in_vain(const mkv_share *share, int64_t waited_ns)
{
    for (int kind = 0; kind < 2; kind++)
        if (share->is_waiting[kind] && !mkv_queue_is_empty(&share->queues[kind]))
            mkv_peer_silent(share->peer, waited_ns);
}

static void close_lane(mkv_lane *lane, int status)
{
    if (lane->requests != NULL) {
        mkv_session_hang_up(&lane->conn->session, MEMKV_ERR_DISCONNECTED);
        mkv_lane_abandon(lane, status, mkv_batch_finish);
    }
    return_lane(lane);
}

static void end_batch(mkv_batch *batch, int status)
{
    if (batch->n_left > 0 && status == MEMKV_ERR_TIMEOUT) {
        int64_t waited_ns = mkv_now_ns() - batch->begun_ns;
        for (size_t i = 0; i < batch->n_shares; i++)
            waited_in_vain(&batch->shares[i], waited_ns);
        for (const mkv_lane *lane = batch->lanes; lane != NULL; lane = lane->next)
            time_ran_out(lane);
    }
    unwait(batch);
    while (batch->lanes != NULL)
        close_lane(batch->lanes, status);
    for (size_t i = 0; i < batch->n_shares; i++) {
        empty_queue(&batch->shares[i], false, status);
        empty_queue(&batch->shares[i], true, status);
    }
    if (batch->wake_fd >= 0)
        close(batch->wake_fd);
    free(batch->slots);
    free(batch->shares);
}

int memkv_run(memkv_client *client, memkv_op *ops, size_t n, int timeout_ms)
{
    if (client == NULL || (ops == NULL && n > 0) || n > MAX_BATCH)
        return MEMKV_ERR_INVALID;
    if (atomic_load(&client->is_stopped))
        return MEMKV_ERR_CLOSED;
    mkv_batch batch;
    int rc = n > 0 ? make_batch(client, ops, n, timeout_ms, &batch) : MEMKV_OK;
    if (rc != MEMKV_OK || n == 0)
        return rc;
    int status = MEMKV_ERR_TIMEOUT;
    while (batch.n_left > 0) {
        staff_all(&batch);
        if (atomic_load(&client->is_stopped))
            status = MEMKV_ERR_CLOSED;
        if (batch.n_left == 0 || status != MEMKV_ERR_TIMEOUT ||
            mkv_now_ns() >= batch.deadline_ns)
            break;
        rc = turn(&batch, client);
        if (rc != MEMKV_OK)
            status = rc;
    }
    end_batch(&batch, status);
    return MEMKV_OK;
}
