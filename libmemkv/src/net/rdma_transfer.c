/* SPDX-License-Identifier: Apache-2.0
 * rdma_transfer.c: what a link moves: transfers cut into work requests, their completions,
 * and the immediates that arrive.
 *
 * The send queue of a reliable connection completes in order: one completion retires all
 * work requests up to its number, those that asked for none included.  The last one posted
 * always asks, so that nothing is left open when a queue pair breaks: what had completed
 * in silence before is not flushed. */
#include "net/rdma_queue.h"

#include <endian.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#define REQUEST_LEN (256 * 1024)
#define SIGNAL_EVERY 4
#define POLL_AT_ONCE 16

struct transfer {
    transfer *follows;
    mkv_transfer of; /* iov: our copy, behind this */
    size_t cap;      /* of iov */
    size_t piece;    /* the next to post begins here, at `offset` of it */
    size_t offset;
    bool is_posted; /* all of it */
    uint64_t last;  /* the number of its last work request so far */
    struct iovec iov[];
};

/* ---- queueing ------------------------------------------------------------------------ */

static transfer *take_unused(mkv_link *link, size_t n_iov)
{
    transfer *found = link->unused;
    if (found != NULL)
        link->unused = found->follows;
    if (found != NULL && found->cap >= n_iov)
        return found;
    size_t cap = n_iov < MKV_MAX_PIECES ? MKV_MAX_PIECES : n_iov;
    transfer *larger = NULL;
    if (cap < (SIZE_MAX - sizeof(*larger)) / sizeof(larger->iov[0]))
        larger = realloc(found, sizeof(*larger) + cap * sizeof(larger->iov[0]));
    if (larger == NULL) {
        free(found);
        return NULL;
    }
    larger->cap = cap;
    return larger;
}

void mkv_link_free_transfers(mkv_link *link)
{
    transfer *lists[] = {link->first, link->unused};
    for (size_t i = 0; i < 2; i++)
        while (lists[i] != NULL) {
            transfer *gone = lists[i];
            lists[i] = gone->follows;
            free(gone);
        }
}

/* ---- posting ------------------------------------------------------------------------- */

typedef struct chain { /* work requests to post in one go */
    size_t n;
    struct ibv_send_wr requests[MKV_MAX_OUTSTANDING];
    struct ibv_sge pieces[MKV_MAX_OUTSTANDING][MKV_MAX_PIECES];
} chain;

/* The key of the MR that `at` lies in; *len is cut to what lies there with it. */
static uint32_t key_at(const mkv_link *link, const mkv_memory *memory, uintptr_t at,
                       size_t *len)
{
    const size_t offset = at - memory->base;
    const size_t room = memory->stride - offset % memory->stride;
    if (*len > room)
        *len = room;
    return mkv_memory_mr(memory, link->port.device, offset / memory->stride)->lkey;
}

/* Cuts the next work request from a transfer. */
static void cut(const mkv_link *link, transfer *from, struct ibv_send_wr *request,
                struct ibv_sge *pieces)
{
    const mkv_transfer *of = &from->of;
    const uint32_t most = of->is_read ? link->max_read_pieces : link->max_pieces;
    size_t left = REQUEST_LEN;
    uint32_t n = 0;

    *request = (struct ibv_send_wr){
        .sg_list = pieces,
        .opcode = of->is_read ? IBV_WR_RDMA_READ : IBV_WR_RDMA_WRITE,
        .wr.rdma = {.remote_addr = of->address, .rkey = of->rkey},
    };
    while (from->piece < of->n_iov && left > 0 && n < most) {
        const struct iovec *piece = &of->iov[from->piece];
        size_t len = piece->iov_len - from->offset;
        if (len > left)
            len = left;
        if (len > 0) {
            const uintptr_t at = (uintptr_t)piece->iov_base + from->offset;
            const uint32_t key = key_at(link, of->memory, at, &len);
            pieces[n++] = (struct ibv_sge){at, (uint32_t)len, key};
        }
        left -= len;
        from->of.address += len;
        from->offset += len;
        if (from->offset == piece->iov_len) {
            from->piece++;
            from->offset = 0;
        }
    }
    request->num_sge = (int)n;
    from->is_posted = from->piece == of->n_iov;
    if (from->is_posted && of->has_immediate && !of->is_read) {
        request->opcode = IBV_WR_RDMA_WRITE_WITH_IMM;
        request->imm_data = htobe32(of->immediate);
    }
}

static void fill(mkv_link *link, chain *out)
{
    uint64_t number = link->posted;
    while (link->next != NULL && number - link->retired < MKV_MAX_OUTSTANDING) {
        transfer *from = link->next;
        struct ibv_send_wr *request = &out->requests[out->n];
        cut(link, from, request, out->pieces[out->n]);
        request->wr_id = from->last = ++number;
        if (from->is_posted || number % SIGNAL_EVERY == 0)
            request->send_flags = IBV_SEND_SIGNALED;
        if (out->n > 0)
            out->requests[out->n - 1].next = request;
        out->n++;
        if (from->is_posted)
            link->next = from->follows;
    }
    if (out->n > 0)
        out->requests[out->n - 1].send_flags = IBV_SEND_SIGNALED;
}

/* Posts as much as may be outstanding. */
static void post(mkv_link *link)
{
    chain out;
    struct ibv_send_wr *bad = NULL;

    if (link->next == NULL || link->is_broken ||
        link->posted - link->retired == MKV_MAX_OUTSTANDING)
        return;
    out.n = 0;
    fill(link, &out);
    if (ibv_post_send(link->qp, out.requests, &bad) == 0) {
        link->posted += out.n;
        return;
    }
    /* Those before the bad one were taken. */
    link->posted += bad != NULL ? (uint64_t)(bad - out.requests) : 0;
    mkv_link_break(link);
}

int mkv_link_transfer(mkv_link *link, const mkv_transfer *wanted)
{
    if (link->is_broken)
        return MEMKV_ERR_DISCONNECTED;
    transfer *added = take_unused(link, wanted->n_iov);
    if (added == NULL)
        return MEMKV_ERR_NO_MEMORY;
    added->follows = NULL;
    added->of = *wanted;
    added->piece = added->offset = 0;
    added->is_posted = false;
    added->last = 0;
    if (wanted->n_iov > 0)
        memcpy(added->iov, wanted->iov, wanted->n_iov * sizeof(added->iov[0]));
    added->of.iov = added->iov;
    if (link->first == NULL)
        link->first = added;
    else
        link->last->follows = added;
    link->last = added;
    if (link->next == NULL)
        link->next = added;
    post(link);
    return MEMKV_OK;
}

/* ---- completions --------------------------------------------------------------------- */

void mkv_link_retire(mkv_link *link, uint64_t id, bool is_good)
{
    const bool were_good = link->good == link->retired;
    link->retired = id;
    if (were_good)
        link->good = is_good ? id : id - 1;
}

/* The first transfer, if it is over. */
static bool report(mkv_link *link, mkv_arrival *out)
{
    transfer *over = link->first;
    if (over == NULL)
        return false;
    const bool is_good = over->is_posted && over->last <= link->good;
    /* What a device refused to take has a number beyond `posted`. */
    const uint64_t last = over->last < link->posted ? over->last : link->posted;
    if (!is_good && (!link->is_broken || last > link->retired))
        return false;
    *out = (mkv_arrival){
        .what = MKV_TRANSFERRED,
        .done_id = over->of.done_id,
        .status = is_good ? MEMKV_OK : MEMKV_ERR_DISCONNECTED,
    };
    if (link->next == over)
        link->next = over->follows;
    link->first = over->follows;
    over->follows = link->unused;
    link->unused = over;
    return true;
}

/* True if it is an immediate.  Whatever else ends up in a receive is a flush, or a peer
 * that does not do as agreed. */
static bool receive(mkv_link *link, const struct ibv_wc *completion, mkv_arrival *out)
{
    if (completion->status != IBV_WC_SUCCESS ||
        completion->opcode != IBV_WC_RECV_RDMA_WITH_IMM ||
        mkv_link_post_receive(link, MKV_RECEIVE_ID) != 0) {
        mkv_link_break(link);
        return false;
    }
    *out = (mkv_arrival){
        .what = MKV_IMMEDIATE,
        .immediate = be32toh(completion->imm_data),
        .status = MEMKV_OK,
    };
    return true;
}

int mkv_link_poll(mkv_link *link, mkv_arrival *out, size_t cap, size_t *n)
{
    struct ibv_wc completions[POLL_AT_ONCE];
    size_t used = 0;

    for (;;) {
        while (used < cap && report(link, &out[used]))
            used++;
        if (used == cap)
            break;
        /* Each completion is worth one arrival at most. */
        size_t room = cap - used < POLL_AT_ONCE ? cap - used : POLL_AT_ONCE;
        int found = ibv_poll_cq(link->cq, (int)room, completions);
        if (found < 0) /* no completion can be had any more */
            mkv_link_break(link);
        if (found <= 0)
            break;
        link->is_armed = false;
        for (int i = 0; i < found; i++) {
            const struct ibv_wc *each = &completions[i];
            if (each->wr_id >= MKV_RECEIVE_ID) {
                used += receive(link, each, &out[used]);
                continue;
            }
            mkv_link_retire(link, each->wr_id, each->status == IBV_WC_SUCCESS);
            if (each->status != IBV_WC_SUCCESS)
                mkv_link_break(link);
        }
        post(link);
    }
    *n = used;
    return used == 0 && link->is_broken && link->first == NULL ? MEMKV_ERR_DISCONNECTED
                                                               : MEMKV_OK;
}

bool mkv_link_has(const mkv_link *link, const mkv_memory *memory)
{
    return mkv_memory_is_with(memory, link->port.device);
}

uint32_t mkv_link_rkey(const mkv_link *link, const mkv_memory *memory)
{
    return mkv_memory_mr(memory, link->port.device, 0)->rkey;
}
