/* SPDX-License-Identifier: Apache-2.0
 * rdma_queue.c: the life of a link: a reliable connected queue pair with its completion
 * queue and channel, from INIT over RTS to the drain that ends it.  It must not know what
 * is moved (rdma_transfer.c) nor why. */
#include "net/rdma_queue.h"

#include "net/clock.h"
#include "status.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define LOW_24_BITS 0xffffff
#define MAX_READS 16 /* at once; more than a link ever has outstanding is no use */

/* A peer that is gone is given up after about 2 s: 4.096 us * 2^TIMEOUT, RETRIES times
 * and a bit.  Seven retries would be for ever on some devices. */
#define TIMEOUT 16
#define RETRIES 6
#define RECEIVER_NOT_READY_RETRIES                                                     \
    7 /* for ever: the receiver takes its time, not more */
#define RECEIVER_NOT_READY_TIMER 12 /* 0.64 ms; 0 would mean 655 ms */
#define HOP_LIMIT 64

#define ERROR_AGAIN_NS (20 * MKV_NS_PER_MS)
#define DRAIN_NS (1000 * MKV_NS_PER_MS)
#define DRAIN_PAUSE_NS 20000

/* ---- open ---------------------------------------------------------------------------- */

int mkv_link_post_receive(mkv_link *link, uint64_t id)
{
    struct ibv_recv_wr *bad;
    struct ibv_recv_wr receive = {.wr_id = id};
    return ibv_post_recv(link->qp, &receive, &bad);
}

static int create_queues(mkv_link *link, memkv_error *err)
{
    const mkv_verbs *verbs = &link->rdma->verbs;
    const mkv_device *device = &link->rdma->devices[link->port.device];
    const char *what = "completion channel";
    const unsigned vectors = (unsigned)device->context->num_comp_vectors;

    link->channel = verbs->create_channel(device->context);
    if (link->channel == NULL || fcntl(link->channel->fd, F_SETFL, O_NONBLOCK) != 0 ||
        fcntl(link->channel->fd, F_SETFD, FD_CLOEXEC) != 0)
        goto failed;
    what = "completion queue";
    link->cq = verbs->create_cq(
        device->context, (int)(MKV_MAX_OUTSTANDING + link->receives + 1), NULL,
        link->channel,
        (int)(atomic_fetch_add(&link->rdma->links, 1) % (vectors > 0 ? vectors : 1)));
    if (link->cq == NULL)
        goto failed;
    what = "queue pair";
    struct ibv_qp_init_attr attr = {
        .send_cq = link->cq,
        .recv_cq = link->cq,
        .qp_type = IBV_QPT_RC,
        .cap = {.max_send_wr = MKV_MAX_OUTSTANDING,
                .max_recv_wr = link->receives + 1, /* and the sentinel */
                .max_send_sge = link->max_pieces,
                .max_recv_sge = 1},
    };
    link->qp = verbs->create_qp(device->pd, &attr);
    if (link->qp == NULL)
        goto failed;
    return MEMKV_OK;

failed:
    return mkv_fail(err, errno == ENOMEM ? MEMKV_ERR_NO_MEMORY : MEMKV_ERR_SYSTEM,
                    errno, "RDMA device %s gives no %s: %s", device->name, what,
                    strerror(errno));
}

static int init(mkv_link *link, memkv_error *err)
{
    struct ibv_qp_attr attr = {
        .qp_state = IBV_QPS_INIT,
        .port_num = link->port.number,
        /* Who drives lets nobody in. */
        .qp_access_flags =
            link->receives > 0 ? IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ : 0,
    };
    int why = link->rdma->verbs.modify_qp(link->qp, &attr,
                                          IBV_QP_STATE | IBV_QP_PKEY_INDEX |
                                              IBV_QP_PORT | IBV_QP_ACCESS_FLAGS);
    for (uint32_t i = 0; i < link->receives && why == 0; i++)
        why = mkv_link_post_receive(link, MKV_RECEIVE_ID);
    if (why != 0)
        return mkv_fail(err, MEMKV_ERR_SYSTEM, why, "%s: queue pair not set up: %s",
                        link->text, strerror(why));
    return MEMKV_OK;
}

static uint8_t least(int a, int b)
{
    int less = a < b ? a : b;
    return (uint8_t)(less > 0 ? less : 0);
}

static int describe(mkv_link *link, memkv_error *err)
{
    const struct ibv_device_attr *device = &link->rdma->devices[link->port.device].attr;
    uint32_t psn;

    if (getrandom(&psn, sizeof(psn), 0) != sizeof(psn))
        return mkv_fail(err, MEMKV_ERR_SYSTEM, errno, "no random numbers");
    link->own = (mkv_rdma_params){
        .qpn = link->qp->qp_num,
        .psn = psn & LOW_24_BITS,
        .lid = link->port.attr.lid,
        .mtu = (uint8_t)link->port.attr.active_mtu,
        .reads_in = least(device->max_qp_rd_atom, MAX_READS),
        .reads_out = least(device->max_qp_init_rd_atom, MAX_READS),
    };
    if (link->port.attr.link_layer == IBV_LINK_LAYER_ETHERNET)
        link->own.lid = 0; /* some devices have one all the same */
    memcpy(link->own.gid, link->port.gid.gid.raw, sizeof(link->own.gid));
    return MEMKV_OK;
}

int mkv_link_open(mkv_rdma *rdma, int fd, const mkv_rdma_params *peer,
                  uint32_t receives, mkv_link **out, mkv_rdma_params *own,
                  memkv_error *err)
{
    mkv_link *link = calloc(1, sizeof(*link));
    if (link == NULL)
        return mkv_fail(err, MEMKV_ERR_NO_MEMORY, 0, "out of memory");
    link->rdma = rdma;
    link->receives = receives;
    int status = mkv_port_choose(rdma, fd, peer, &link->port, err);
    if (status != MEMKV_OK)
        goto failed;
    mkv_port_describe(rdma, &link->port, link->text, sizeof(link->text));
    const struct ibv_device_attr *device = &rdma->devices[link->port.device].attr;
    link->max_pieces = least(device->max_sge, MKV_MAX_PIECES);
    link->max_read_pieces = link->max_pieces;
    if (device->max_sge_rd > 0)
        link->max_read_pieces = least(device->max_sge_rd, (int)link->max_pieces);
    status = create_queues(link, err);
    if (status == MEMKV_OK)
        status = init(link, err);
    if (status == MEMKV_OK)
        status = describe(link, err);
    if (status != MEMKV_OK)
        goto failed;
    *own = link->own;
    *out = link;
    return MEMKV_OK;

failed:
    mkv_link_close(link);
    return status;
}

/* ---- connect --------------------------------------------------------------------------- */

static struct ibv_ah_attr route_to(const mkv_link *link, const mkv_rdma_params *peer)
{
    struct ibv_ah_attr route = {
        .dlid = peer->lid,
        .port_num = link->port.number,
        .grh = {.sgid_index = (uint8_t)link->port.gid.gid_index,
                .hop_limit = HOP_LIMIT},
    };
    memcpy(route.grh.dgid.raw, peer->gid, sizeof(peer->gid));
    /* Inside an InfiniBand subnet the LID says it all. */
    route.is_global = peer->lid == 0 || memcmp(peer->gid, link->own.gid, 8) != 0;
    return route;
}

int mkv_link_connect(mkv_link *link, const mkv_rdma_params *peer, memkv_error *err)
{
    struct ibv_qp_attr attr = {
        .qp_state = IBV_QPS_RTR,
        .path_mtu = peer->mtu < link->own.mtu ? peer->mtu : link->own.mtu,
        .dest_qp_num = peer->qpn,
        .rq_psn = peer->psn,
        .max_dest_rd_atomic = least(peer->reads_out, link->own.reads_in),
        .min_rnr_timer = RECEIVER_NOT_READY_TIMER,
        .ah_attr = route_to(link, peer),
    };
    const int to_receive = IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU |
                           IBV_QP_DEST_QPN | IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC |
                           IBV_QP_MIN_RNR_TIMER;
    const int to_send = IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT |
                        IBV_QP_RNR_RETRY | IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC;

    if (link->receives == 0 && least(peer->reads_in, link->own.reads_out) == 0)
        return mkv_fail(err, MEMKV_ERR_UNSUPPORTED, 0,
                        "%s: the two ends allow no RDMA READ", link->text);
    int why = link->rdma->verbs.modify_qp(link->qp, &attr, to_receive);
    if (why == 0) {
        link->is_connected = true;
        attr.qp_state = IBV_QPS_RTS;
        attr.timeout = TIMEOUT;
        attr.retry_cnt = RETRIES;
        attr.rnr_retry = RECEIVER_NOT_READY_RETRIES;
        attr.sq_psn = link->own.psn;
        attr.max_rd_atomic = least(peer->reads_in, link->own.reads_out);
        why = link->rdma->verbs.modify_qp(link->qp, &attr, to_send);
    }
    if (why != 0)
        return mkv_fail(err, MEMKV_ERR_SYSTEM, why,
                        "%s: queue pair does not reach the peer's: %s", link->text,
                        strerror(why));
    return MEMKV_OK;
}

const char *mkv_link_describe(const mkv_link *link)
{
    return link->text;
}

/* ---- the end ----------------------------------------------------------------------------- */

/* False: the device does not do it; it may be gone. */
static bool set_error(mkv_link *link)
{
    struct ibv_qp_attr attr = {.qp_state = IBV_QPS_ERR};
    return link->rdma->verbs.modify_qp(link->qp, &attr, IBV_QP_STATE) == 0;
}

void mkv_link_break(mkv_link *link)
{
    if (link->is_broken)
        return;
    link->is_broken = true;
    (void)set_error(link);
}

/* Once the sentinel is flushed, so is everything that was before it.  It has to be posted
 * before the state is ERROR: afterwards some devices never flush it, until ERROR is set
 * again.  A device that answers no more is given up, at once if it is gone: destroying the
 * queue pair stops it, too. */
static void drain(mkv_link *link)
{
    const int64_t begin = mkv_now_ns();
    int64_t error_set = begin;
    bool has_sentinel = mkv_link_post_receive(link, MKV_SENTINEL_ID) == 0;

    link->is_broken = true;
    bool is_there = set_error(link);
    while (is_there && (has_sentinel || link->retired < link->posted)) {
        struct ibv_wc completion;
        int n = ibv_poll_cq(link->cq, 1, &completion);
        if (n > 0) {
            if (completion.wr_id == MKV_SENTINEL_ID)
                has_sentinel = false;
            else if (completion.wr_id < MKV_RECEIVE_ID)
                mkv_link_retire(link, completion.wr_id, false);
            continue;
        }
        int64_t now = mkv_now_ns();
        if (n < 0 || now - begin > DRAIN_NS)
            break;
        if (now - error_set > ERROR_AGAIN_NS) {
            is_there = set_error(link);
            error_set = now;
        }
        nanosleep(&(struct timespec){.tv_nsec = DRAIN_PAUSE_NS}, NULL);
    }
}

static unsigned take_events(mkv_link *link)
{
    unsigned n = 0;
    struct ibv_cq *cq;
    void *user;
    while (link->rdma->verbs.get_cq_event(link->channel, &cq, &user) == 0)
        n++;
    if (n > 0)
        link->rdma->verbs.ack_cq_events(link->cq, n);
    return n;
}

void mkv_link_close(mkv_link *link)
{
    if (link == NULL)
        return;
    const mkv_verbs *verbs = &link->rdma->verbs;
    if (link->is_connected)
        drain(link);
    if (link->qp != NULL)
        verbs->destroy_qp(link->qp);
    if (link->cq != NULL) {
        take_events(link); /* destroy_cq waits for those that nobody took */
        verbs->destroy_cq(link->cq);
    }
    if (link->channel != NULL)
        verbs->destroy_channel(link->channel);
    mkv_link_free_transfers(link);
    free(link);
}

/* ---- waiting ------------------------------------------------------------------------------- */

int mkv_link_fd(const mkv_link *link)
{
    return link->channel->fd;
}

int mkv_link_arm(mkv_link *link)
{
    /* An event may come late, when its completion has long been polled: it wakes once
     * for nothing, and is not the one that was asked for last. */
    if (take_events(link) == 0 && link->is_armed)
        return MEMKV_OK;
    if (ibv_req_notify_cq(link->cq, 0) != 0)
        return MEMKV_ERR_SYSTEM;
    link->is_armed = true;
    return MEMKV_OK;
}
