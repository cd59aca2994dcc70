/* remote.c: payload by RDMA (remote.h).
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/remote.h"

#include <stdlib.h>

#define MAX_BYTES (8u << 20) /* two frames: one lands while the next one is prepared */
#define MAX_FLIGHTS 32
#define PIECES 256 /* of pages in one transfer */
#define ARRIVALS 32

typedef struct arriving { /* a value of a PUT */
    mkv_put *put;
    uint64_t length;
} arriving;

struct mkv_flight {
    mkv_flight *next;
    mkv_answer *answer;
    uint64_t bytes;
    size_t n_left; /* transfers that are not over */
    bool is_broken;
    size_t n_puts;
    arriving puts[];
};

/* ---- the link ------------------------------------------------------------------------ */

bool mkv_remote_is_attached(const mkv_remote *remote)
{
    return remote->link != NULL && !remote->is_broken;
}

int mkv_remote_attach(mkv_remote *remote, int fd, const uint8_t *table,
                      uint8_t reply[MKV_PARAMS_LEN], memkv_error *err)
{
    mkv_rdma_params peer, own;
    mkv_link *link;
    size_t written;

    if (remote->rdma == NULL)
        return MEMKV_ERR_UNSUPPORTED;
    if (remote->first != NULL)
        return MEMKV_ERR_BUSY;
    if (mkv_rdma_params_decode(table, MKV_PARAMS_LEN, &peer) != MEMKV_OK)
        return MEMKV_ERR_INVALID;
    mkv_link_close(remote->link);
    remote->link = NULL;
    if (mkv_link_open(remote->rdma, fd, &peer, 0, &link, &own, err) != MEMKV_OK)
        return MEMKV_ERR_UNSUPPORTED;
    if (mkv_link_connect(link, &peer, err) != MEMKV_OK ||
        mkv_rdma_params_encode(&own, reply, MKV_PARAMS_LEN, &written) != MEMKV_OK) {
        mkv_link_close(link);
        return MEMKV_ERR_UNSUPPORTED;
    }
    remote->link = link;
    remote->n_links++;
    remote->is_broken = false;
    return MEMKV_OK;
}

static void free_flight(mkv_remote *remote, mkv_flight *flight)
{
    for (size_t i = 0; i < flight->n_puts; i++)
        mkv_store_drop(remote->answers->store, flight->puts[i].put);
    mkv_answer_free(flight->answer);
    free(flight);
}

void mkv_remote_close(mkv_remote *remote)
{
    mkv_link_close(remote->link);
    remote->link = NULL;
    while (remote->first != NULL) {
        mkv_flight *flight = remote->first;
        remote->first = flight->next;
        free_flight(remote, flight);
    }
}

/* ---- take-off ------------------------------------------------------------------------ */

bool mkv_remote_is_full(const mkv_remote *remote)
{
    return remote->bytes >= MAX_BYTES || remote->n_flights >= MAX_FLIGHTS;
}

bool mkv_remote_has(const mkv_remote *remote, uint32_t id)
{
    const mkv_flight *flight = remote->first;
    while (flight != NULL && flight->answer->frame.id != id)
        flight = flight->next;
    return flight != NULL;
}

static size_t pieces_of(const mkv_target *target, uint64_t offset, struct iovec *iov)
{
    uint64_t left = target->length - offset;
    return target->put != NULL
               ? mkv_put_iov(target->put, offset, left, iov, PIECES)
               : mkv_value_iov(target->value, offset, left, iov, PIECES);
}

/* Queues the transfers of one target.  False: the link takes no more. */
static bool queue(mkv_remote *remote, mkv_flight *flight, const mkv_target *target,
                  bool is_last)
{
    struct iovec iov[PIECES];

    for (uint64_t done = 0; done < target->length;) {
        mkv_transfer transfer = {
            .is_read = target->put != NULL,
            .immediate = flight->answer->frame.id,
            .memory = remote->pool,
            .iov = iov,
            .n_iov = pieces_of(target, done, iov),
            .address = target->address + done,
            .rkey = target->rkey,
            .done_id = (uintptr_t)flight,
        };
        for (size_t i = 0; i < transfer.n_iov; i++)
            done += iov[i].iov_len;
        transfer.has_immediate = is_last && !transfer.is_read && done == target->length;
        if (mkv_link_transfer(remote->link, &transfer) != MEMKV_OK)
            return false;
        flight->n_left++;
    }
    return true;
}

static mkv_flight *make_flight(mkv_answer *answer, const mkv_targets *targets)
{
    mkv_flight *flight = malloc(sizeof *flight + targets->n * sizeof flight->puts[0]);
    if (flight == NULL)
        return NULL;
    *flight = (mkv_flight){.answer = answer};
    for (size_t i = 0; i < targets->n; i++) {
        const mkv_target *target = &targets->all[i];
        flight->bytes += target->length;
        if (target->put != NULL)
            flight->puts[flight->n_puts++] = (arriving){target->put, target->length};
    }
    return flight;
}

static void append(mkv_remote *remote, mkv_flight *flight)
{
    if (remote->first == NULL)
        remote->first = flight;
    else
        remote->last->next = flight;
    remote->last = flight;
    remote->n_flights++;
    remote->bytes += flight->bytes;
}

int mkv_remote_start(mkv_remote *remote, mkv_answer *answer, const mkv_targets *targets)
{
    mkv_flight *flight = make_flight(answer, targets);

    if (flight == NULL) {
        for (size_t i = 0; i < targets->n; i++)
            mkv_store_drop(remote->answers->store, targets->all[i].put);
        mkv_answer_free(answer);
        return MEMKV_ERR_NO_MEMORY;
    }
    append(remote, flight);
    for (size_t i = 0; i < targets->n && !flight->is_broken; i++)
        flight->is_broken =
            !queue(remote, flight, &targets->all[i], i == targets->n - 1);
    if (flight->is_broken)
        mkv_link_break(remote->link); /* its immediate would never come */
    return MEMKV_OK;
}

/* ---- landing ------------------------------------------------------------------------- */

bool mkv_remote_poll(mkv_remote *remote)
{
    mkv_arrival arrivals[ARRIVALS];
    bool any = false;
    size_t n;

    if (!mkv_remote_is_attached(remote))
        return false;
    do {
        int status = mkv_link_poll(remote->link, arrivals, ARRIVALS, &n);
        for (size_t i = 0; i < n; i++) {
            mkv_flight *flight = (mkv_flight *)(uintptr_t)arrivals[i].done_id;
            flight->n_left--;
            flight->is_broken |= arrivals[i].status != MEMKV_OK;
        }
        remote->is_broken = status != MEMKV_OK;
        any |= n > 0 || remote->is_broken;
    } while (n > 0);
    if (remote->is_broken)
        mkv_count(remote->counters, MKV_COUNT_LINKS_BROKEN, 1);
    return any;
}

static int settle(mkv_remote *remote, arriving *item, bool is_here, uint64_t now_ms)
{
    mkv_store *store = remote->answers->store;
    mkv_put *put = item->put;

    item->put = NULL;
    if (!is_here) {
        mkv_store_drop(store, put);
        return MEMKV_ERR_UNSUPPORTED;
    }
    int status = mkv_store_commit(store, put, now_ms);
    if (status == MEMKV_OK) {
        mkv_count(remote->counters, MKV_COUNT_PUT_STORED, 1);
        mkv_count(remote->counters, MKV_COUNT_PUT_BYTES, item->length);
    }
    return status;
}

/* The answer was made when nobody knew how the flight would end. */
static int revise(mkv_remote *remote, mkv_flight *flight, mkv_draft *draft,
                  uint64_t now_ms, mkv_answer **out)
{
    const mkv_answer *old = flight->answer;
    mkv_cursor cursor;
    mkv_reply row;
    size_t put = 0;

    int status =
        mkv_replies_begin(&old->frame, old->node.control + MKV_PREFIX_LEN, &cursor);
    if (status != MEMKV_OK)
        return status;
    while (mkv_replies_next(&cursor, &row)) {
        if (row.flags & MKV_ITEM_REMOTE) {
            row = (mkv_reply){.index = row.index, .status = MEMKV_ERR_UNSUPPORTED};
            if (flight->n_puts > 0)
                row.status =
                    settle(remote, &flight->puts[put++], !flight->is_broken, now_ms);
        }
        mkv_draft_add(draft, &row, NULL);
    }
    bool is_last = old->frame.flags & MKV_FRAME_LAST;
    status = mkv_answer_make(remote->answers, &old->frame, draft, is_last, out);
    if (status == MEMKV_OK)
        (*out)->due_ms = old->due_ms;
    return status;
}

int mkv_remote_finish(mkv_remote *remote, mkv_draft *draft, uint64_t now_ms,
                      mkv_answer **out)
{
    mkv_flight *flight = remote->first;
    int status = MEMKV_OK;

    *out = NULL;
    if (flight == NULL || flight->n_left > 0)
        return MEMKV_OK;
    remote->first = flight->next;
    remote->n_flights--;
    remote->bytes -= flight->bytes;
    if (!flight->is_broken)
        mkv_count(remote->counters, MKV_COUNT_BYTES_REMOTE, flight->bytes);
    if (flight->is_broken || flight->n_puts > 0) {
        status = revise(remote, flight, draft, now_ms, out);
    } else {
        *out = flight->answer;
        flight->answer = NULL;
    }
    free_flight(remote, flight);
    return status;
}

uint64_t mkv_remote_due_ms(const mkv_remote *remote)
{
    return remote->first != NULL ? remote->first->answer->due_ms : UINT64_MAX;
}
