/* rdma_queue.h: the inside of a link, shared by its life (rdma_queue.c) and its transfers
 * (rdma_transfer.c).  For those two only.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef MKV_RDMA_QUEUE_H
#define MKV_RDMA_QUEUE_H

#include "net/rdma_device.h"

#define MKV_MAX_OUTSTANDING 16 /* work requests; the completion queue holds them all */
#define MKV_MAX_PIECES 16      /* a work request gathers or scatters */

/* Work requests are numbered from 1; the two kinds of receives are not. */
#define MKV_RECEIVE_ID (UINT64_C(1) << 63)
#define MKV_SENTINEL_ID (MKV_RECEIVE_ID | 1)

typedef struct transfer transfer; /* one mkv_link_transfer */

struct mkv_link {
    mkv_rdma *rdma;
    mkv_port port;
    struct ibv_comp_channel *channel;
    struct ibv_cq *cq;
    struct ibv_qp *qp;
    uint32_t receives;
    uint32_t max_pieces;      /* of a WRITE */
    uint32_t max_read_pieces; /* some devices scatter over fewer than they gather */
    mkv_rdma_params own;
    bool is_connected;
    bool is_broken; /* takes no more transfers; what is posted is being flushed */
    bool is_armed;  /* an event follows the next completion, or is there already */
    char text[128];

    transfer *first; /* not yet reported, in order */
    transfer *last;
    transfer *next;   /* has work requests to post; NULL: all are posted */
    transfer *unused; /* kept for the next ones */
    uint64_t posted;  /* the last work request's number */
    uint64_t retired; /* up to here all are over */
    uint64_t good;    /* up to here all went well */
};

int mkv_link_post_receive(mkv_link *link, uint64_t id);
/* Takes the outcome of one work request that is no receive. */
void mkv_link_retire(mkv_link *link, uint64_t id, bool is_good);
void mkv_link_free_transfers(mkv_link *link);

#endif
