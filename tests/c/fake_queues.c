/* SPDX-License-Identifier: Apache-2.0
 * fake_queues.c: channels, completion queues and queue pairs of the fake libibverbs: their
 * making, states and end. */
#include "fake_objects.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* ---- channels and completion queues -------------------------------------------------- */

EXPORTED struct ibv_comp_channel *ibv_create_comp_channel(struct ibv_context *context)
{
    if (fake_is_refused("create_channel"))
        return NULL;
    struct ibv_comp_channel *channel = fake_new(sizeof(*channel), &nic.counts.channels);
    channel->context = context;
    channel->fd = eventfd(0, EFD_SEMAPHORE | EFD_CLOEXEC);
    if (channel->fd < 0)
        abort();
    return channel;
}

EXPORTED int ibv_destroy_comp_channel(struct ibv_comp_channel *channel)
{
    close(channel->fd);
    pthread_mutex_lock(&nic.lock);
    nic.counts.channels--;
    pthread_mutex_unlock(&nic.lock);
    free(channel);
    return 0;
}

EXPORTED struct ibv_cq *ibv_create_cq(struct ibv_context *context, int cap, void *user,
                                      struct ibv_comp_channel *channel, int vector)
{
    if (vector >= context->num_comp_vectors)
        errno = EINVAL;
    if (vector >= context->num_comp_vectors || fake_is_refused("create_cq"))
        return NULL;
    fake_cq *cq = fake_new(sizeof(*cq), &nic.counts.cqs);
    cq->base = (struct ibv_cq){
        .context = context, .channel = channel, .cq_context = user, .cqe = cap};
    cq->entries = calloc((size_t)cap, sizeof(cq->entries[0]));
    if (cq->entries == NULL)
        abort();
    pthread_mutex_lock(&nic.lock);
    cq->next = nic.cqs;
    nic.cqs = cq;
    pthread_mutex_unlock(&nic.lock);
    return &cq->base;
}

EXPORTED int ibv_destroy_cq(struct ibv_cq *base)
{
    fake_cq *cq = (fake_cq *)base;
    pthread_mutex_lock(&nic.lock);
    if (cq->taken > 0) {
        fprintf(stderr, "fake verbs: %u events not acknowledged\n", cq->taken);
        abort();
    }
    fake_cq **at = &nic.cqs;
    while (*at != cq)
        at = &(*at)->next;
    *at = cq->next;
    nic.counts.cqs--;
    pthread_mutex_unlock(&nic.lock);
    free(cq->entries);
    free(cq);
    return 0;
}

EXPORTED int ibv_get_cq_event(struct ibv_comp_channel *channel, struct ibv_cq **out,
                              void **user)
{
    uint64_t one;
    if (read(channel->fd, &one, sizeof(one)) != sizeof(one))
        return -1;
    pthread_mutex_lock(&nic.lock);
    fake_cq *cq = nic.cqs;
    while (cq->base.channel != channel || cq->raised == 0)
        cq = cq->next;
    cq->raised--;
    cq->taken++;
    pthread_mutex_unlock(&nic.lock);
    *out = &cq->base;
    *user = cq->base.cq_context;
    return 0;
}

EXPORTED void ibv_ack_cq_events(struct ibv_cq *base, unsigned n)
{
    pthread_mutex_lock(&nic.lock);
    ((fake_cq *)base)->taken -= n;
    pthread_mutex_unlock(&nic.lock);
}

/* ---- queue pairs --------------------------------------------------------------------- */

EXPORTED struct ibv_qp *ibv_create_qp(struct ibv_pd *pd, struct ibv_qp_init_attr *attr)
{
    static uint32_t last_number = 0x100;
    if (fake_is_refused("create_qp"))
        return NULL;
    fake_qp *qp = fake_new(sizeof(*qp), &nic.counts.qps);
    qp->base = (struct ibv_qp){.context = pd->context,
                               .pd = pd,
                               .send_cq = attr->send_cq,
                               .recv_cq = attr->recv_cq,
                               .state = IBV_QPS_RESET,
                               .qp_type = attr->qp_type};
    qp->cap = attr->cap;
    qp->sends = calloc(attr->cap.max_send_wr, sizeof(qp->sends[0]));
    qp->receives = calloc(attr->cap.max_recv_wr, sizeof(qp->receives[0]));
    if (qp->sends == NULL || qp->receives == NULL)
        abort();
    pthread_mutex_lock(&nic.lock);
    qp->base.qp_num = ++last_number;
    qp->next = nic.qps;
    nic.qps = qp;
    pthread_mutex_unlock(&nic.lock);
    return &qp->base;
}

/* The attributes that a step must come with, and may: the standard's, as far as a reliable
 * connection of ours has them. */
static int mask_of(enum ibv_qp_state from, enum ibv_qp_state to)
{
    if (from == IBV_QPS_RESET && to == IBV_QPS_INIT)
        return IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS;
    if (from == IBV_QPS_INIT && to == IBV_QPS_RTR)
        return IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN |
               IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER;
    if (from == IBV_QPS_RTR && to == IBV_QPS_RTS)
        return IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
               IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC;
    return to == IBV_QPS_ERR ? IBV_QP_STATE : 0;
}

static int set_path(fake_qp *qp, const struct ibv_qp_attr *attr)
{
    const fake_device *device = (const fake_device *)qp->base.context->device;
    const int each = device->is_ib ? 1 : 2; /* as _ibv_query_gid_table counts them */
    const int gid = attr->ah_attr.grh.sgid_index / each;
    if (gid >= device->n_gids || attr->ah_attr.port_num != 1 ||
        (!device->is_ib && !attr->ah_attr.is_global) ||
        (device->is_ib && attr->ah_attr.dlid == 0))
        return EINVAL;
    qp->gid = &device->gids[gid];
    qp->attr = *attr;
    return 0;
}

EXPORTED int ibv_modify_qp(struct ibv_qp *base, struct ibv_qp_attr *attr, int mask)
{
    fake_qp *qp = (fake_qp *)base;
    if (fake_is_refused("modify_qp"))
        return ENOMEM;
    pthread_mutex_lock(&nic.lock);
    if (fake_is_gone(base->context)) {
        pthread_mutex_unlock(&nic.lock);
        return EIO;
    }
    int why = mask == mask_of(base->state, attr->qp_state) ? 0 : EINVAL;
    if (why == 0 && attr->qp_state == IBV_QPS_INIT)
        qp->access = (int)attr->qp_access_flags;
    else if (why == 0 && attr->qp_state == IBV_QPS_RTR)
        why = set_path(qp, attr);
    else if (why == 0 && attr->qp_state == IBV_QPS_RTS) {
        qp->attr.sq_psn = attr->sq_psn;
        qp->attr.max_rd_atomic = attr->max_rd_atomic;
    }
    if (why == 0 && attr->qp_state == IBV_QPS_ERR)
        fake_set_error(qp);
    else if (why == 0)
        base->state = attr->qp_state;
    pthread_cond_broadcast(&nic.changed);
    pthread_mutex_unlock(&nic.lock);
    return why;
}

static void forget_completions(fake_cq *cq, const fake_qp *qp)
{
    int kept = 0;
    for (int i = 0; i < cq->n; i++) {
        fake_completion *from = &cq->entries[(cq->first + i) % cq->base.cqe];
        if (from->qp != qp)
            cq->entries[(cq->first + kept++) % cq->base.cqe] = *from;
    }
    cq->n = kept;
}

EXPORTED int ibv_destroy_qp(struct ibv_qp *base)
{
    fake_qp *qp = (fake_qp *)base;
    pthread_mutex_lock(&nic.lock);
    qp->is_dying = true;
    while (nic.busy[0] == qp || nic.busy[1] == qp)
        pthread_cond_wait(&nic.changed, &nic.lock);
    fake_qp **at = &nic.qps;
    while (*at != qp)
        at = &(*at)->next;
    *at = qp->next;
    forget_completions((fake_cq *)base->send_cq, qp);
    if (base->recv_cq != base->send_cq)
        forget_completions((fake_cq *)base->recv_cq, qp);
    nic.counts.qps--;
    pthread_mutex_unlock(&nic.lock);
    free(qp->sends);
    free(qp->receives);
    free(qp);
    return 0;
}
