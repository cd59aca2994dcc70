/* SPDX-License-Identifier: Apache-2.0
 * fake_nic.c: the thread that is the NIC of the fake libibverbs: carries out work requests,
 * one at a time, and flushes broken queue pairs.  Nothing else touches registered memory. */
#include "fake_objects.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

fake_nic nic = {.lock = PTHREAD_MUTEX_INITIALIZER,
                .changed = PTHREAD_COND_INITIALIZER,
                .max_mr_size = UINT64_MAX,
                .n_ports = 1};

/* ---- completions --------------------------------------------------------------------- */

void fake_complete(fake_qp *qp, const struct ibv_wc *wc, uint64_t number,
                   bool is_receive)
{
    fake_cq *cq = (fake_cq *)(is_receive ? qp->base.recv_cq : qp->base.send_cq);
    if (cq->n == cq->base.cqe) {
        fprintf(stderr, "fake verbs: completion queue of %d is overrun\n",
                cq->base.cqe);
        abort();
    }
    fake_completion *entry = &cq->entries[(cq->first + cq->n++) % cq->base.cqe];
    *entry = (fake_completion){
        .wc = *wc, .qp = qp, .number = number, .is_receive = is_receive};
    entry->wc.qp_num = qp->base.qp_num;
    if (cq->is_armed && !fake_is_gone(cq->base.context)) {
        const uint64_t one = 1;
        cq->is_armed = false;
        cq->raised++;
        if (write(cq->base.channel->fd, &one, sizeof(one)) != sizeof(one))
            abort();
    }
}

void fake_set_error(fake_qp *qp)
{
    qp->base.state = IBV_QPS_ERR;
    qp->to_flush = qp->receive_posted; /* later ones wait until ERROR is set again */
    pthread_cond_broadcast(&nic.changed);
}

static fake_send *next_send(fake_qp *qp)
{
    return qp->send_done < qp->send_posted
               ? &qp->sends[qp->send_done % qp->cap.max_send_wr]
               : NULL;
}

static void end_send(fake_qp *qp, enum ibv_wc_status status)
{
    const fake_send *send = next_send(qp);
    struct ibv_wc wc = {.wr_id = send->wr.wr_id, .status = status};
    if (status != IBV_WC_SUCCESS || (send->wr.send_flags & IBV_SEND_SIGNALED) != 0)
        fake_complete(qp, &wc, send->number, false);
    qp->send_done++;
}

static void end_receive(fake_qp *qp, const struct ibv_wc *outcome)
{
    struct ibv_wc wc = *outcome;
    wc.wr_id = qp->receives[qp->receive_done % qp->cap.max_recv_wr];
    fake_complete(qp, &wc, ++qp->receive_done, true);
}

static bool flush(fake_qp *qp)
{
    const struct ibv_wc flushed = {.status = IBV_WC_WR_FLUSH_ERR};
    bool did_any = false;
    for (; next_send(qp) != NULL; did_any = true)
        end_send(qp, IBV_WC_WR_FLUSH_ERR);
    for (; qp->receive_done < qp->to_flush; did_any = true)
        end_receive(qp, &flushed);
    return did_any;
}

/* ---- work requests ------------------------------------------------------------------- */

/* NULL unless the other end is there, willing, and means this one. */
static fake_qp *find_peer(const fake_qp *qp)
{
    fake_qp *peer = nic.qps;
    while (peer != NULL && peer->base.qp_num != qp->attr.dest_qp_num)
        peer = peer->next;
    if (peer == NULL || peer->is_dying || peer->gid == NULL ||
        fake_is_gone(peer->base.context) ||
        (peer->base.state != IBV_QPS_RTR && peer->base.state != IBV_QPS_RTS))
        return NULL;
    const bool fits =
        peer->attr.dest_qp_num == qp->base.qp_num &&
        peer->attr.rq_psn == qp->attr.sq_psn &&
        peer->attr.path_mtu == qp->attr.path_mtu &&
        peer->attr.max_dest_rd_atomic >= qp->attr.max_rd_atomic &&
        memcmp(peer->gid, &qp->attr.ah_attr.grh.dgid, sizeof(*peer->gid)) == 0;
    return fits ? peer : NULL;
}

static bool may_touch(const struct ibv_pd *pd, uint32_t key, uint64_t addr, size_t len,
                      int access)
{
    const fake_region *region = nic.regions;
    while (region != NULL && (region->base.lkey != key || region->base.pd != pd))
        region = region->next;
    if (region == NULL || (region->access & access) != access)
        return false;
    const uint64_t begin = (uintptr_t)region->base.addr;
    return addr >= begin && addr - begin <= region->base.length &&
           len <= region->base.length - (addr - begin);
}

void fake_pause(long us)
{
    const struct timespec span = {.tv_sec = us / 1000000,
                                  .tv_nsec = us % 1000000 * 1000};
    pthread_mutex_unlock(&nic.lock);
    nanosleep(&span, NULL);
    pthread_mutex_lock(&nic.lock);
}

/* One piece of memory, checked when it is touched. */
static enum ibv_wc_status copy(const fake_qp *qp, const fake_qp *peer,
                               const fake_send *send, uint64_t near, uint32_t lkey,
                               uint64_t far, size_t len)
{
    const bool is_read = send->wr.opcode == IBV_WR_RDMA_READ;
    const int access = is_read ? IBV_ACCESS_REMOTE_READ : IBV_ACCESS_REMOTE_WRITE;

    if (!may_touch(qp->base.pd, lkey, near, len, is_read ? IBV_ACCESS_LOCAL_WRITE : 0))
        return IBV_WC_LOC_PROT_ERR;
    if ((peer->access & access) == 0 ||
        !may_touch(peer->base.pd, send->wr.wr.rdma.rkey, far, len, access))
        return IBV_WC_REM_ACCESS_ERR;
    void *here = (void *)(uintptr_t)near;
    void *there = (void *)(uintptr_t)far;
    memcpy(is_read ? here : there, is_read ? there : here, len);
    nic.counts.bytes += len;
    return IBV_WC_SUCCESS;
}

/* What is on its way still lands when the far end goes to ERROR; not when it dies. */
static enum ibv_wc_status move(const fake_qp *qp, const fake_qp *peer,
                               const fake_send *send)
{
    uint64_t far = send->wr.wr.rdma.remote_addr;
    for (int i = 0; i < send->wr.num_sge; i++) {
        const struct ibv_sge *sge = &send->sge[i];
        for (uint32_t at = 0, len; at < sge->length; at += len, far += len) {
            len = sge->length - at < FAKE_PIECE ? sge->length - at : FAKE_PIECE;
            if (nic.pace_us > 0)
                fake_pause(nic.pace_us);
            if (qp->base.state != IBV_QPS_RTS || qp->is_dying)
                return IBV_WC_WR_FLUSH_ERR;
            if (peer->is_dying)
                return IBV_WC_RETRY_EXC_ERR;
            enum ibv_wc_status status =
                copy(qp, peer, send, sge->addr + at, sge->lkey, far, len);
            if (status != IBV_WC_SUCCESS)
                return status;
        }
    }
    return peer->base.state == IBV_QPS_ERR ? IBV_WC_RETRY_EXC_ERR : IBV_WC_SUCCESS;
}

static void succeed(fake_qp *qp, fake_qp *peer, const fake_send *send)
{
    if (send->wr.opcode != IBV_WR_RDMA_WRITE_WITH_IMM) {
        end_send(qp, IBV_WC_SUCCESS);
        return;
    }
    const struct ibv_wc arrived = {
        .status = IBV_WC_SUCCESS,
        .opcode = IBV_WC_RECV_RDMA_WITH_IMM,
        .wc_flags = IBV_WC_WITH_IMM,
        .imm_data = send->wr.imm_data,
    };
    if (nic.lag_us > 0) {
        end_send(qp, IBV_WC_SUCCESS);
        fake_pause(nic.lag_us);
        if (peer->base.state != IBV_QPS_ERR && !peer->is_dying)
            end_receive(peer, &arrived);
    } else {
        end_receive(peer, &arrived);
        end_send(qp, IBV_WC_SUCCESS);
    }
}

/* False if the request has to wait. */
static bool carry_out(fake_qp *qp)
{
    const fake_send *send = next_send(qp);
    fake_qp *peer = find_peer(qp);
    enum ibv_wc_status status = IBV_WC_RETRY_EXC_ERR;

    if (nic.lose_at != 0 && nic.lose_at <= nic.counts.requests + 1)
        return false;
    if (peer != NULL && send->wr.opcode == IBV_WR_RDMA_WRITE_WITH_IMM &&
        peer->receive_done == peer->receive_posted)
        return false; /* the receiver is not ready */
    nic.busy[0] = qp;
    nic.busy[1] = peer;
    nic.counts.requests++;
    if (peer != NULL && nic.break_at != nic.counts.requests)
        status = move(qp, peer, send);
    if (status == IBV_WC_SUCCESS) {
        succeed(qp, peer, send);
    } else {
        if (status == IBV_WC_REM_ACCESS_ERR)
            fake_set_error(peer);
        end_send(qp, status);
        fake_set_error(qp);
    }
    nic.busy[0] = nic.busy[1] = NULL;
    pthread_cond_broadcast(&nic.changed);
    return true;
}

/* ---- the thread ------------------------------------------------------------------------ */

static void *work(void *unused)
{
    (void)unused;
    pthread_mutex_lock(&nic.lock);
    while (!nic.is_stopping) {
        bool did_any = false;
        for (fake_qp *qp = nic.qps, *next; qp != NULL; qp = next) {
            if (fake_is_gone(qp->base.context))
                ; /* and does nothing any more */
            else if (qp->base.state == IBV_QPS_ERR)
                did_any |= flush(qp);
            else if (qp->base.state == IBV_QPS_RTS && !nic.is_held &&
                     next_send(qp) != NULL)
                did_any |= carry_out(qp);
            next = qp->next; /* who is destroyed waits until it is not busy */
        }
        if (!did_any)
            pthread_cond_wait(&nic.changed, &nic.lock);
    }
    pthread_mutex_unlock(&nic.lock);
    return NULL;
}

void fake_start(void)
{
    nic.is_stopping = false;
    if (pthread_create(&nic.thread, NULL, work, NULL) != 0)
        abort();
}

void fake_stop(void)
{
    nic.is_stopping = true;
    pthread_cond_broadcast(&nic.changed);
    pthread_mutex_unlock(&nic.lock);
    pthread_join(nic.thread, NULL);
    pthread_mutex_lock(&nic.lock);
}
