/* request.c: from queued ops to one request frame.  Sums each PUT just before it goes,
 * while earlier requests are on their way.
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "client/batch.h"
#include "net/clock.h"

/* Small enough that a value summed is still in cache when it is sent. */
#define PUT_PAYLOAD (4u << 20)
#define SUM_STEP (16u << 20)

static uint8_t kind_of(const mkv_batch *batch, uint32_t op)
{
    static const uint8_t kinds[] = {[MEMKV_OP_STAT] = MKV_STAT,
                                    [MEMKV_OP_GET] = MKV_GET,
                                    [MEMKV_OP_PUT] = MKV_PUT,
                                    [MEMKV_OP_DELETE] = MKV_DELETE};
    return batch->slots[op].is_repair ? MKV_DELETE : kinds[batch->ops[op].code];
}

static uint32_t header_room(const memkv_op *op, bool is_get)
{
    if (op->header != NULL && op->header_len > 0)
        return op->header_len < MEMKV_MAX_HEADER ? op->header_len : MEMKV_MAX_HEADER;
    return is_get ? MEMKV_MAX_HEADER : 0; /* a GET cannot be verified without it */
}

static mkv_request item_of(const mkv_batch *batch, uint32_t index, uint8_t kind)
{
    const memkv_op *op = &batch->ops[index];
    mkv_request item = {.key = op->key, .key_len = op->key_len};
    switch (kind) {
    case MKV_STAT:
        item.header_len = header_room(op, false);
        item.lease_ms = op->ttl_ms < MKV_MAX_LEASE_MS ? op->ttl_ms : MKV_MAX_LEASE_MS;
        break;
    case MKV_GET:
        item.header_len = header_room(op, true);
        item.length = op->data_len < MEMKV_MAX_VALUE ? op->data_len : MEMKV_MAX_VALUE;
        break;
    case MKV_PUT:
        item.header = op->header;
        item.header_len = op->header_len;
        item.length = op->data_len;
        item.ttl_ms = op->ttl_ms;
        break;
    default:
        item.generation = batch->slots[index].generation;
        return item;
    }
    item.depth = op->depth;
    item.group = op->group;
    return item;
}

/* How many ops from the head of the queue make the next request; their payloads go all
 * the same way. */
static uint32_t cut(const mkv_lane *lane, uint8_t *kind, bool *is_remote)
{
    const mkv_batch *batch = lane->share->batch;
    mkv_request *items = lane->conn->items;
    uint32_t max_table = lane->conn->session.peer.max_table;
    uint32_t op = lane->share->queues[lane->conn->is_control].head, n = 0;
    uint64_t table = 0, payload = 0;
    bool is_payload = !lane->conn->is_control;
    *kind = kind_of(batch, op);
    *is_remote = false;
    uint64_t most = *kind == MKV_PUT ? PUT_PAYLOAD : MKV_MAX_BATCH;
    for (; op != MKV_NO_OP && n < MKV_MAX_ITEMS; op = batch->slots[op].next, n++) {
        if (kind_of(batch, op) != *kind)
            break;
        mkv_request item = item_of(batch, op, *kind);
        bool goes_remote = is_payload && mkv_remote_address(lane, op, &item);
        if (n == 0)
            *is_remote = goes_remote;
        else if (goes_remote != *is_remote)
            break;
        table += MKV_REQUEST_ROW + item.key_len;
        table += *kind == MKV_PUT ? item.header_len : 0;
        payload += item.length;
        if (n > 0 && (table > max_table || payload > most))
            break;
        items[n] = item;
    }
    return n;
}

/* In steps, so that a large value does not take its batch far past its deadline. */
static int sum_value(const mkv_batch *batch, const memkv_op *op, uint64_t *out)
{
    const mkv_identity *self = batch->self;
    mkv_summer summer;
    mkv_summer_begin(&summer,
                     mkv_checksum_seed(self->label, self->label_len, op->key,
                                       op->key_len, op->header, op->header_len));
    for (uint64_t done = 0; done < op->data_len;) {
        uint64_t left = op->data_len - done;
        size_t step = (size_t)(left < SUM_STEP ? left : SUM_STEP);
        if (done > 0 && mkv_now_ns() >= batch->deadline_ns)
            return MEMKV_ERR_TIMEOUT;
        mkv_summer_add(&summer, (const uint8_t *)op->data + done, step);
        done += step;
    }
    *out = mkv_summer_end(&summer);
    return MEMKV_OK;
}

static int sum_values(const mkv_lane *lane, const mkv_sent *sent)
{
    mkv_request *items = lane->conn->items;
    for (uint32_t i = 0; i < sent->n; i++) {
        const memkv_op *op = &lane->share->batch->ops[sent->ops[i]];
        int rc = sum_value(lane->share->batch, op, &items[i].checksum);
        if (rc != MEMKV_OK)
            return rc;
        if (sent->is_remote)
            continue;
        sent->out.body[i].iov_base = op->data;
        sent->out.body[i].iov_len = op->data_len;
    }
    return MEMKV_OK;
}

/* One block: the node, its control bytes, its landings or iovecs, and what its items
 * are. */
static mkv_sent *make_sent(uint8_t kind, bool is_remote, uint32_t n, size_t table_len)
{
    size_t n_body = kind == MKV_PUT && !is_remote ? n : 0;
    size_t n_landings = kind == MKV_GET && is_remote ? n : 0;
    size_t control = (MKV_PREFIX_LEN + table_len + 15) & ~(size_t)15;
    mkv_sent *sent = malloc(sizeof *sent + control + n_body * sizeof(struct iovec) +
                            n_landings * sizeof(mkv_landing) +
                            n * (sizeof *sent->ops + sizeof *sent->has_reply));
    if (sent == NULL)
        return NULL;
    memset(sent, 0, sizeof *sent);
    sent->kind = kind;
    sent->is_remote = is_remote;
    sent->n = n;
    sent->out.control = (uint8_t *)(sent + 1);
    sent->out.body = (struct iovec *)(void *)(sent->out.control + control);
    sent->out.n_body = n_body;
    sent->landings = (mkv_landing *)(void *)(sent->out.body + n_body);
    sent->ops = (uint32_t *)(void *)(sent->landings + n_landings);
    sent->has_reply = (bool *)(sent->ops + n);
    memset(sent->has_reply, 0, n * sizeof *sent->has_reply);
    return sent;
}

void mkv_sent_free(mkv_sent *sent)
{
    free(sent);
}

static uint32_t budget_ms(const mkv_batch *batch)
{
    int64_t left_ms = (batch->deadline_ns - mkv_now_ns()) / MKV_NS_PER_MS + 1;
    if (left_ms < 1)
        return 1;
    return left_ms < MKV_MAX_BUDGET_MS ? (uint32_t)left_ms : MKV_MAX_BUDGET_MS;
}

static void count_request(mkv_lane *lane, const mkv_sent *sent)
{
    static const mkv_counter counters[] = {[MKV_STAT] = MKV_STAT_OPS,
                                           [MKV_GET] = MKV_GET_OPS,
                                           [MKV_PUT] = MKV_PUT_OPS,
                                           [MKV_DELETE] = MKV_DELETE_OPS};
    mkv_peer_count(lane->share->peer, counters[sent->kind], sent->n);
}

static void append(mkv_lane *lane, mkv_sent *sent)
{
    mkv_sent **at = &lane->requests;
    while (*at != NULL)
        at = &(*at)->next;
    *at = sent;
    lane->n_requests++;
}

int mkv_request_send(mkv_lane *lane)
{
    mkv_batch *batch = lane->share->batch;
    mkv_queue *queue = &lane->share->queues[lane->conn->is_control];
    uint8_t kind;
    bool is_remote;
    uint32_t n = cut(lane, &kind, &is_remote);
    size_t table_len = mkv_requests_size(kind, lane->conn->items, n);
    mkv_sent *sent = make_sent(kind, is_remote, n, table_len);
    if (sent == NULL)
        return MEMKV_ERR_NO_MEMORY;
    uint32_t op = queue->head;
    for (uint32_t i = 0; i < n; i++, op = batch->slots[op].next)
        sent->ops[i] = op;
    int rc = kind == MKV_PUT ? sum_values(lane, sent) : MEMKV_OK;
    if (rc != MEMKV_OK)
        goto err_free_sent;
    sent->id = lane->next_id++;
    sent->asked_ns = mkv_now_ns();
    sent->was_alone = lane->requests == NULL;
    mkv_frame frame = {.kind = kind,
                       .flags = MKV_FRAME_LAST,
                       .id = sent->id,
                       .budget_ms = budget_ms(batch)};
    rc = mkv_requests_encode(&frame, lane->conn->items, n,
                             sent->out.control + MKV_PREFIX_LEN, table_len);
    if (rc == MEMKV_OK)
        rc = mkv_session_send(&lane->conn->session, &frame, &sent->out);
    if (rc != MEMKV_OK)
        goto err_free_sent;
    queue->head = op;
    count_request(lane, sent);
    append(lane, sent);
    return MEMKV_OK;

err_free_sent:
    mkv_sent_free(sent);
    return rc;
}
