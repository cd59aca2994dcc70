/* remote.c: payload that the server moves to and from registered memory: which ops may go
 * that way, when their bytes are known to be there, and what becomes of them when the
 * link breaks.
 *
 * A GET's reply frame says what was written, and the immediate that follows its bytes says
 * that they are visible: the k-th frame with remote rows of a request goes with the k-th
 * immediate that carries its id.  Only with both is the memory read.
 * SPDX-License-Identifier: Apache-2.0 */
#include "client/batch.h"
#include "net/clock.h"
#include "status.h"

#define MIN_REMOTE 65536 /* bytes; what is smaller is sooner there on the stream */
#define ARRIVALS 32

bool mkv_remote_address(const mkv_lane *lane, uint32_t op, mkv_request *item)
{
    const mkv_batch *batch = lane->share->batch;
    const memkv_op *it = &batch->ops[op];
    const mkv_link *link = lane->conn->link;
    if (link == NULL || batch->slots[op].is_inline || it->data_len < MIN_REMOTE)
        return false;
    const mkv_memory *memory =
        mkv_regions_find(lane->share->peer->config->regions, it->data, it->data_len);
    if (memory == NULL || !mkv_link_has(link, memory))
        return false;
    item->flags |= MKV_ITEM_REMOTE;
    item->address = (uintptr_t)it->data;
    item->rkey = mkv_link_rkey(link, memory);
    return true;
}

void mkv_remote_again(mkv_lane *lane, uint32_t op)
{
    if (lane->conn->is_strict) { /* on another connection */
        mkv_batch_retry(lane->share, op, MEMKV_ERR_DISCONNECTED);
        return;
    }
    lane->share->batch->slots[op].is_inline = true;
    mkv_peer_count(lane->share->peer, MKV_RETRIES, 1);
    mkv_batch_push(lane->share, op);
}

void mkv_remote_lost(mkv_lane *lane, const char *what)
{
    mkv_conn *conn = lane->conn;
    memkv_error why;
    if (conn->link == NULL)
        return;
    mkv_fail(&why, MEMKV_ERR_DISCONNECTED, 0, "%s: %s", mkv_link_describe(conn->link),
             what);
    mkv_peer_link_failed(lane->share->peer, &why);
    mkv_link_close(conn->link);
    conn->link = NULL;
    for (mkv_sent *sent = lane->requests; sent != NULL; sent = sent->next)
        while (sent->n_landings > sent->n_landed)
            mkv_remote_again(lane, sent->landings[--sent->n_landings].op);
}

static bool take_immediate(mkv_lane *lane, uint32_t id)
{
    mkv_sent *sent = lane->requests;
    while (sent != NULL && (sent->id != id || !sent->is_remote))
        sent = sent->next;
    if (sent == NULL)
        return false;
    sent->n_immediates++;
    return true;
}

bool mkv_remote_listen(mkv_lane *lane)
{
    mkv_arrival arrivals[ARRIVALS];
    bool is_good = true, any = false;
    size_t n = 1;
    while (n > 0 && is_good && lane->conn->link != NULL &&
           mkv_conn_is_open(lane->conn)) {
        is_good = mkv_link_poll(lane->conn->link, arrivals, ARRIVALS, &n) == MEMKV_OK;
        for (size_t i = 0; is_good && i < n; i++)
            is_good = take_immediate(lane, arrivals[i].immediate);
        any |= n > 0;
        if (!is_good)
            mkv_remote_lost(lane, "the link broke");
    }
    if (any) {
        lane->moved_ns = mkv_now_ns();
        mkv_peer_heard(lane->share->peer, lane->moved_ns);
    }
    lane->has_news |= any || !is_good;
    return lane->has_news;
}

void mkv_remote_land(mkv_lane *lane)
{
    mkv_sent *sent = lane->requests;
    for (; sent != NULL; sent = sent->next)
        while (sent->n_landed < sent->n_landings &&
               sent->landings[sent->n_landed].frame <= sent->n_immediates) {
            const mkv_landing *landing = &sent->landings[sent->n_landed++];
            mkv_lane_landed(
                lane, landing,
                mkv_checksum(landing->seed, landing->data, (size_t)landing->length));
        }
}
