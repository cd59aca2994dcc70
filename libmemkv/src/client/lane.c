/* lane.c: one lent connection at work for a batch: requests out, replies in, values
 * received straight into the caller's memory and summed while they are in cache.
 * SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "client/batch.h"
#include "net/clock.h"
#include "status.h"

#define PAYLOAD_WINDOW 2 /* requests in flight: one lands while the next is made */
#define CONTROL_WINDOW 4
#define TURN_BYTES (4u << 20) /* then the other lanes */

bool mkv_lane_has_room(const mkv_lane *lane)
{
    uint32_t window = lane->conn->is_control ? CONTROL_WINDOW : PAYLOAD_WINDOW;
    if (mkv_conn_is_open(lane->conn) && window > lane->conn->session.peer.max_requests)
        window = lane->conn->session.peer.max_requests;
    return lane->n_requests < window;
}

/* ---- what a reply says ------------------------------------------------------------- */

/* What a server may say of an item; another answer is no answer. */
static int item_status(int status)
{
    switch (status) {
    case MEMKV_OK:
    case MEMKV_ERR_INVALID:
    case MEMKV_ERR_NO_MEMORY:
    case MEMKV_ERR_UNSUPPORTED:
    case MEMKV_ERR_NOT_FOUND:
    case MEMKV_ERR_EXISTS:
    case MEMKV_ERR_TOO_SMALL:
    case MEMKV_ERR_TOO_LARGE:
    case MEMKV_ERR_FULL:
    case MEMKV_ERR_CHECKSUM:
    case MEMKV_ERR_DRAINING:
    case MEMKV_ERR_BUSY:
    case MEMKV_ERR_TIMEOUT:
        return status;
    default:
        return MEMKV_ERR_PROTOCOL;
    }
}

static void set_sizes(memkv_op *op, const mkv_reply *reply)
{
    op->data_size = reply->length;
    op->header_size = reply->header_len;
}

static bool header_fits(const memkv_op *op, const mkv_reply *reply)
{
    return op->header == NULL || op->header_len == 0 ||
           reply->header_len <= op->header_len;
}

static void copy_header(memkv_op *op, const mkv_reply *reply)
{
    if (op->header != NULL && op->header_len > 0 && reply->header_len > 0)
        memcpy(op->header, reply->header, reply->header_len);
}

/* The value is wrong: it must not stand in the way of a right one.  The op has its
 * answer; the DELETE goes out within the batch's deadline. */
static void repair(mkv_lane *lane, const mkv_landing *landing)
{
    mkv_batch *batch = lane->share->batch;
    mkv_slot *slot = &batch->slots[landing->op];
    mkv_peer_count(lane->share->peer, MKV_CHECKSUM_FAILURES, 1);
    mkv_batch_finish(lane->share, landing->op, MEMKV_ERR_CHECKSUM);
    slot->is_repair = true;
    slot->generation = landing->generation;
    batch->n_left++;
    mkv_batch_push(lane->share, landing->op);
}

/* Payload has moved. */
static void count_bytes(mkv_lane *lane, bool is_remote, mkv_counter counter, uint64_t n)
{
    mkv_peer_count(lane->share->peer, counter, n);
    mkv_peer_count(lane->share->peer, is_remote ? MKV_BYTES_REMOTE : MKV_BYTES_INLINE,
                   n);
    if (is_remote && lane->conn->link != NULL)
        mkv_peer_link_worked(lane->share->peer);
}

void mkv_lane_landed(mkv_lane *lane, const mkv_landing *landing, uint64_t sum)
{
    if (sum != landing->checksum) {
        repair(lane, landing);
        return;
    }
    memkv_op *op = &lane->share->batch->ops[landing->op];
    op->data_size = landing->length;
    op->header_size = landing->header_len;
    mkv_peer_count(lane->share->peer, MKV_GET_HITS, 1);
    count_bytes(lane, landing->frame > 0, MKV_GET_BYTES, landing->length);
    mkv_batch_finish(lane->share, landing->op, MEMKV_OK);
}

static void land(mkv_lane *lane)
{
    mkv_conn *conn = lane->conn;
    const mkv_landing *landing = &conn->landings[conn->landed++];
    mkv_lane_landed(lane, landing, mkv_summer_end(&conn->summer));
    if (conn->landed < conn->n_landings)
        mkv_summer_begin(&conn->summer, conn->landings[conn->landed].seed);
}

/* n bytes more of the body are in place. */
static void take_in(mkv_lane *lane, uint64_t n)
{
    mkv_conn *conn = lane->conn;
    while (conn->landed < conn->n_landings) {
        mkv_landing *landing = &conn->landings[conn->landed];
        size_t take = (size_t)(n < landing->left ? n : landing->left);
        mkv_summer_add(&conn->summer, landing->data, take);
        landing->data += take;
        landing->left -= take;
        n -= take;
        if (landing->left > 0)
            return;
        land(lane);
    }
}

/* By the frame that is being read, or beside it. */
static void expect_landing(mkv_lane *lane, mkv_sent *sent, const mkv_landing *landing)
{
    mkv_conn *conn = lane->conn;
    if (landing->frame == 0) {
        conn->landings[conn->n_landings++] = *landing;
        if (landing->length > 0)
            conn->sink[conn->n_sink++] = (struct iovec){
                .iov_base = landing->data, .iov_len = (size_t)landing->length};
    } else if (conn->link != NULL) {
        sent->landings[sent->n_landings++] = *landing;
    } else {
        mkv_remote_again(lane, landing->op); /* its immediate can come no more */
    }
}

static int expect_value(mkv_lane *lane, mkv_sent *sent, uint32_t index,
                        const mkv_reply *reply)
{
    memkv_op *op = &lane->share->batch->ops[index];
    const mkv_identity *self = lane->share->batch->self;
    bool is_remote = (reply->flags & MKV_ITEM_REMOTE) != 0;
    bool has_payload = (reply->flags & MKV_ITEM_PAYLOAD) != 0 || is_remote;
    if (sent->is_remote ? has_payload && !is_remote : is_remote)
        return MEMKV_ERR_PROTOCOL;
    if ((reply->flags & MKV_ITEM_HEADER) == 0 && reply->header_len > 0)
        return MEMKV_ERR_PROTOCOL;
    if (has_payload != (reply->length > 0) || reply->length > op->data_len ||
        !header_fits(op, reply))
        return MEMKV_ERR_PROTOCOL;
    copy_header(op, reply);
    const mkv_landing landing = {
        .op = index,
        .data = op->data,
        .left = reply->length,
        .length = reply->length,
        .header_len = reply->header_len,
        .frame = is_remote ? sent->n_frames + 1 : 0,
        .checksum = reply->checksum,
        .generation = reply->generation,
        .seed = mkv_checksum_seed(self->label, self->label_len, op->key, op->key_len,
                                  reply->header, reply->header_len)};
    expect_landing(lane, sent, &landing);
    return MEMKV_OK;
}

static int stat_answered(mkv_lane *lane, uint32_t index, const mkv_reply *reply)
{
    memkv_op *op = &lane->share->batch->ops[index];
    bool has_header = (reply->flags & MKV_ITEM_HEADER) != 0;
    if (has_header && !header_fits(op, reply))
        return MEMKV_ERR_PROTOCOL;
    if (has_header)
        copy_header(op, reply);
    else if (op->header != NULL && op->header_len > 0 && reply->header_len > 0)
        return MEMKV_ERR_PROTOCOL;
    set_sizes(op, reply);
    op->flags = (reply->flags & MKV_ITEM_LEASED) != 0 ? MEMKV_OP_LEASED : 0;
    mkv_peer_count(lane->share->peer, MKV_STAT_HITS, 1);
    mkv_batch_finish(lane->share, index, MEMKV_OK);
    return MEMKV_OK;
}

static int item_answered(mkv_lane *lane, mkv_sent *sent, const mkv_reply *reply)
{
    uint32_t index = sent->ops[reply->index];
    memkv_op *op = &lane->share->batch->ops[index];
    int status = item_status(reply->status);
    if (status == MEMKV_OK && sent->kind == MKV_GET)
        return expect_value(lane, sent, index, reply);
    if (status == MEMKV_OK && sent->kind == MKV_STAT)
        return stat_answered(lane, index, reply);
    if (status == MEMKV_ERR_TOO_SMALL &&
        (sent->kind == MKV_GET || sent->kind == MKV_STAT))
        set_sizes(op, reply);
    if (status == MEMKV_OK && sent->kind == MKV_PUT) {
        mkv_peer_count(lane->share->peer, MKV_PUT_STORED, 1);
        count_bytes(lane, sent->is_remote, MKV_PUT_BYTES, op->data_len);
    }
    bool is_delete = status == MEMKV_OK && sent->kind == MKV_DELETE;
    if (is_delete)
        lane->share->batch->slots[index].is_deleted = true;
    if (status == MEMKV_ERR_UNSUPPORTED && sent->is_remote) {
        mkv_remote_lost(lane, "the server's end of the link broke");
        mkv_remote_again(lane, index);
    } else if ((status == MEMKV_ERR_NOT_FOUND || is_delete) && lane->share->is_back)
        mkv_batch_pass_on(lane->share, index, status);
    else
        mkv_batch_finish(lane->share, index, status);
    return MEMKV_OK;
}

/* ---- frames ------------------------------------------------------------------------ */

static mkv_sent *find_request(const mkv_lane *lane, uint32_t id)
{
    for (mkv_sent *sent = lane->requests; sent != NULL; sent = sent->next)
        if (sent->id == id && !sent->is_answered)
            return sent;
    return NULL;
}

static void refuse_all(mkv_lane *lane, mkv_sent *sent, int status)
{
    bool is_leaving = status == MEMKV_ERR_DRAINING;
    if (is_leaving)
        mkv_peer_leaving(lane->share->peer);
    for (uint32_t i = 0; i < sent->n; i++) {
        if (sent->has_reply[i])
            continue;
        sent->has_reply[i] = true;
        if (is_leaving)
            mkv_batch_pass_on(lane->share, sent->ops[i], status);
        else
            mkv_batch_finish(lane->share, sent->ops[i], item_status(status));
    }
}

static int begin_reply(mkv_lane *lane)
{
    mkv_conn *conn = lane->conn;
    const mkv_frame *frame = &conn->session.frame;
    mkv_sent *sent = find_request(lane, frame->id);
    if (sent == NULL || frame->kind != sent->kind)
        return MEMKV_ERR_PROTOCOL;
    lane->replying = sent;
    conn->n_landings = conn->landed = conn->n_sink = 0;
    if (frame->status != MEMKV_OK)
        refuse_all(lane, sent, frame->status);
    mkv_cursor cursor;
    mkv_reply reply;
    bool has_remote = false;
    int rc = mkv_replies_begin(frame, conn->session.table, &cursor);
    while (rc == MEMKV_OK && mkv_replies_next(&cursor, &reply)) {
        if (reply.index >= sent->n || sent->has_reply[reply.index])
            return MEMKV_ERR_PROTOCOL;
        rc = item_answered(lane, sent, &reply);
        if (rc == MEMKV_OK)
            sent->has_reply[reply.index] = true;
        has_remote |= sent->kind == MKV_GET && (reply.flags & MKV_ITEM_REMOTE) != 0;
    }
    sent->n_frames += has_remote;
    if (rc == MEMKV_OK && conn->n_landings > 0) {
        mkv_summer_begin(&conn->summer, conn->landings[0].seed);
        take_in(lane, 0); /* empty values have landed */
    }
    return rc;
}

static void forget(mkv_lane *lane, mkv_sent *sent)
{
    mkv_sent **at = &lane->requests;
    while (*at != sent)
        at = &(*at)->next;
    *at = sent->next;
    lane->n_requests--;
    mkv_sent_free(sent);
}

static bool is_over(const mkv_sent *sent)
{
    return sent->is_sent && sent->is_answered && sent->n_landed == sent->n_landings;
}

static int end_reply(mkv_lane *lane)
{
    mkv_sent *sent = lane->replying;
    lane->replying = NULL;
    if ((lane->conn->session.frame.flags & MKV_FRAME_LAST) == 0)
        return MEMKV_OK;
    for (uint32_t i = 0; i < sent->n; i++)
        if (!sent->has_reply[i])
            return MEMKV_ERR_PROTOCOL;
    /* what waited behind others tells nothing of the server */
    bool is_telling = lane->conn->is_control && sent->was_alone;
    mkv_peer_answered(lane->share->peer,
                      is_telling ? mkv_now_ns() - sent->asked_ns : 0);
    sent->is_answered = true;
    if (is_over(sent))
        forget(lane, sent);
    return MEMKV_OK;
}

/* All that the bytes read so far say. */
static int digest(mkv_lane *lane)
{
    mkv_conn *conn = lane->conn;
    int rc = MEMKV_OK;
    while (rc == MEMKV_OK) {
        switch (mkv_session_next(&conn->session)) {
        case MKV_EVENT_NONE:
            return MEMKV_OK;
        case MKV_EVENT_OPEN: /* mkv_conn_advance has seen it */
            break;
        case MKV_EVENT_TABLE:
            mkv_session_give_table(&conn->session, conn->table);
            break;
        case MKV_EVENT_FRAME:
            rc = begin_reply(lane);
            break;
        case MKV_EVENT_BODY:
            mkv_session_give_sink(&conn->session, conn->sink, conn->n_sink);
            break;
        case MKV_EVENT_END:
            rc = end_reply(lane);
            break;
        case MKV_EVENT_CLOSED:
            return conn->session.reason;
        }
    }
    return rc;
}

/* ---- moving ------------------------------------------------------------------------ */

static void mark_sent(mkv_outgoing *node)
{
    ((mkv_sent *)node)->is_sent = true;
}

static void forget_finished(mkv_lane *lane)
{
    for (mkv_sent *sent = lane->requests, *next; sent != NULL; sent = next) {
        next = sent->next;
        if (is_over(sent))
            forget(lane, sent);
    }
}

static int send_requests(mkv_lane *lane)
{
    const mkv_queue *queue = &lane->share->queues[lane->conn->is_control];
    int rc = MEMKV_OK;
    for (;;) {
        uint64_t unsent = lane->conn->session.out_bytes;
        rc = mkv_conn_flush(lane->conn, mark_sent);
        if (lane->conn->session.out_bytes < unsent)
            lane->moved_ns = mkv_now_ns();
        forget_finished(lane);
        if (rc != MEMKV_OK || mkv_queue_is_empty(queue) || !mkv_lane_has_room(lane))
            return rc;
        rc = mkv_request_send(lane);
        if (rc == MEMKV_ERR_TIMEOUT) /* the batch ends anyhow */
            return MEMKV_OK;
        if (rc != MEMKV_OK)
            return rc;
    }
}

static int receive_replies(mkv_lane *lane)
{
    mkv_conn *conn = lane->conn;
    for (size_t turn = 0; turn < TURN_BYTES;) {
        size_t n;
        uint64_t body = conn->session.body_left;
        bool in_body = lane->replying != NULL;
        int rc = mkv_conn_receive(conn, &n);
        if (rc != MEMKV_OK)
            return rc;
        if (n == 0)
            return MEMKV_OK;
        turn += n;
        lane->moved_ns = mkv_now_ns();
        mkv_peer_heard(lane->share->peer, lane->moved_ns);
        if (in_body)
            take_in(lane, body - conn->session.body_left);
        rc = digest(lane);
        if (rc != MEMKV_OK)
            return rc;
    }
    return MEMKV_OK;
}

/* Strictly RDMA, and its link is lost. */
static bool is_useless(const mkv_lane *lane)
{
    return lane->conn->is_strict && !lane->conn->is_control && lane->conn->link == NULL;
}

int mkv_lane_move(mkv_lane *lane, memkv_error *why)
{
    if (!mkv_conn_is_open(lane->conn)) {
        int rc = mkv_conn_advance(lane->conn, why);
        if (rc != MEMKV_OK || !mkv_conn_is_open(lane->conn))
            return rc;
        mkv_peer_opened(lane->share->peer, lane->conn);
    }
    int rc = is_useless(lane) ? MEMKV_OK : send_requests(lane);
    if (rc == MEMKV_OK)
        rc = receive_replies(lane);
    mkv_remote_listen(lane);
    mkv_remote_land(lane);
    lane->has_news = false;
    if (rc == MEMKV_OK)
        rc = is_useless(lane) ? MEMKV_ERR_DISCONNECTED : send_requests(lane);
    if (rc != MEMKV_OK)
        mkv_fail(why, rc, 0, "%s", memkv_strerror(rc));
    return rc;
}

int64_t mkv_lane_silence_ns(const mkv_lane *lane)
{
    int64_t now = mkv_now_ns();
    if (!mkv_conn_is_open(lane->conn))
        return now - lane->moved_ns; /* for the handshake */
    if (lane->requests == NULL)
        return 0;
    int64_t waited = now - lane->requests->asked_ns;
    return (now - lane->moved_ns) * 2 >= waited ? waited : 0;
}

void mkv_lane_abandon(mkv_lane *lane, int status,
                      void (*give_up)(mkv_share *, uint32_t, int))
{
    mkv_conn *conn = lane->conn;
    for (; conn->landed < conn->n_landings; conn->landed++)
        give_up(lane->share, conn->landings[conn->landed].op, status);
    while (lane->requests != NULL) {
        mkv_sent *sent = lane->requests;
        for (uint32_t i = 0; i < sent->n; i++)
            if (!sent->has_reply[i])
                give_up(lane->share, sent->ops[i], status);
        for (uint32_t i = sent->n_landed; i < sent->n_landings; i++)
            give_up(lane->share, sent->landings[i].op, status);
        lane->requests = sent->next;
        mkv_sent_free(sent);
    }
    lane->n_requests = 0;
}
