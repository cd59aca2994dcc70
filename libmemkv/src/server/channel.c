/* channel.c: one accepted connection (channel.h).
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/channel.h"

#include "net/stream.h"
#include "server/info.h"

#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/random.h>

#define TURN (4u << 20)       /* bytes before it is another connection's turn */
#define MAX_UNSENT (1u << 20) /* of replies, before the next request is read */
#define GREETING_MS 10000     /* for the handshake, and for the rest of a frame begun */
#define GRACE_MS 2000         /* a connection outlives a request's deadline by this */
#define STALL_MS 30000        /* without a byte, whatever the request's budget is */

/* Control bytes of all connections.  Beyond it a small table and a small reply are still
 * served, so that nobody can starve the others; large ones wait, or are cut. */
#define CONTROL_MEMORY (64u << 20)
#define SMALL_TABLE 16384u

int mkv_channel_open(mkv_service *service, int fd, uint64_t now_ms, mkv_channel **out)
{
    mkv_identity self = service->self;

    if (getrandom(self.nonce, sizeof self.nonce, 0) != (ssize_t)sizeof self.nonce)
        return MEMKV_ERR_SYSTEM;
    self.uptime_ms = now_ms - service->started_ms;
    mkv_channel *channel = calloc(1, sizeof *channel);
    if (channel == NULL)
        return MEMKV_ERR_NO_MEMORY;
    int status = mkv_session_init(&channel->session, MKV_SERVER, &self);
    if (status != MEMKV_OK) {
        free(channel);
        return status;
    }
    channel->fd = fd;
    channel->service = service;
    channel->remote = (mkv_remote){.rdma = service->rdma,
                                   .pool = service->pool,
                                   .answers = &service->answers,
                                   .counters = &service->counters};
    channel->since_ms = now_ms;
    channel->moved_ms = now_ms;
    *out = channel;
    return MEMKV_OK;
}

/* ---- memory ------------------------------------------------------------------------ */

static bool lend_table(mkv_channel *channel)
{
    mkv_service *service = channel->service;
    size_t len = channel->session.frame.table_len;

    uint64_t total =
        atomic_fetch_add_explicit(&service->table_bytes, len, memory_order_relaxed) +
        len;
    uint8_t *table = total <= CONTROL_MEMORY || len <= SMALL_TABLE ? malloc(len) : NULL;
    if (table == NULL) {
        atomic_fetch_sub_explicit(&service->table_bytes, len, memory_order_relaxed);
        return false;
    }
    channel->table = table;
    channel->table_len = len;
    mkv_session_give_table(&channel->session, table);
    return true;
}

/* The request under way is answered, or given up. */
static void end_job(mkv_channel *channel)
{
    mkv_job_close(channel->job);
    channel->job = NULL;
    free(channel->table);
    channel->table = NULL;
    atomic_fetch_sub_explicit(&channel->service->table_bytes, channel->table_len,
                              memory_order_relaxed);
    channel->table_len = 0;
}

/* NULL: the node is of the handshake, and the session's. */
static mkv_answer *answer_of(const mkv_channel *channel, mkv_outgoing *node)
{
    const mkv_session *session = &channel->session;
    if (node == NULL || node == &session->hello_node || node == &session->auth_node)
        return NULL;
    return (mkv_answer *)node;
}

static void free_answers(mkv_channel *channel, mkv_outgoing *node)
{
    while (node != NULL) {
        mkv_outgoing *next = node->next;
        mkv_answer_free(answer_of(channel, node));
        node = next;
    }
}

void mkv_channel_close(mkv_channel *channel)
{
    mkv_remote_close(&channel->remote);
    end_job(channel);
    free_answers(channel, channel->session.out_head);
    mkv_session_fini(&channel->session);
    mkv_stream_close(channel->fd);
    free(channel);
}

/* ---- requests and replies ---------------------------------------------------------- */

static bool is_crowded(const mkv_channel *channel)
{
    return atomic_load_explicit(&channel->service->answers.bytes,
                                memory_order_relaxed) > CONTROL_MEMORY;
}

/* A new request waits while too much of the answers to earlier ones is unsent, or too
 * much payload under way. */
static bool may_go_on(const mkv_channel *channel)
{
    uint64_t most = is_crowded(channel) ? 0 : MAX_UNSENT;
    return channel->is_receiving || (channel->session.out_bytes <= most &&
                                     !mkv_remote_is_full(&channel->remote));
}

static int send_answer(mkv_channel *channel, mkv_answer *made)
{
    int status = mkv_session_send(&channel->session, &made->frame, &made->node);
    if (status != MEMKV_OK)
        mkv_answer_free(made);
    return status;
}

/* The client would have a link for this connection. */
static int answer_rdma(mkv_channel *channel)
{
    uint8_t params[MKV_PARAMS_LEN];
    mkv_answer *made;
    memkv_error why = {.text = ""};

    int status =
        mkv_remote_attach(&channel->remote, channel->fd, channel->table, params, &why);
    if (why.text[0] != '\0')
        mkv_info_refused(channel->service, &why);
    status = mkv_job_answer_rdma(channel->job, status, params, &made);
    if (status == MEMKV_OK) {
        made->due_ms = mkv_job_deadline(channel->job) + GRACE_MS;
        end_job(channel);
        status = send_answer(channel, made);
    }
    return status;
}

/* Sends the answers whose payload has come to where it was going. */
static int send_finished(mkv_channel *channel, mkv_bench *bench, uint64_t now_ms)
{
    mkv_answer *made;
    int status;

    mkv_channel_listen(channel, now_ms);
    do {
        status = mkv_remote_finish(&channel->remote, &bench->desk.draft, now_ms, &made);
        if (status == MEMKV_OK && made != NULL)
            status = send_answer(channel, made);
    } while (status == MEMKV_OK && made != NULL);
    return status;
}

static int answer(mkv_channel *channel, mkv_bench *bench, uint64_t now_ms)
{
    const mkv_targets *targets = &bench->desk.targets;
    mkv_answer *made = NULL;
    size_t max_table =
        is_crowded(channel) ? SMALL_TABLE : channel->session.peer.max_table;

    if (mkv_job_kind(channel->job) == MKV_RDMA)
        return answer_rdma(channel);
    int status = mkv_job_answer(channel->job, &bench->desk, max_table, now_ms, &made);
    if (status != MEMKV_OK)
        return status;
    if (made == NULL) {
        channel->wants_turn = true;
        channel->moved_ms = now_ms;
        return MEMKV_OK;
    }
    made->due_ms = mkv_job_deadline(channel->job) + GRACE_MS;
    if (mkv_job_is_done(channel->job))
        end_job(channel);
    /* a frame without payload must not overtake those of its request that have some */
    return targets->n > 0 || mkv_remote_has(&channel->remote, made->frame.id)
               ? mkv_remote_start(&channel->remote, made, targets)
               : send_answer(channel, made);
}

static void begin_closing(mkv_channel *channel, uint64_t now_ms)
{
    mkv_counters *counters = &channel->service->counters;

    if (channel->is_closing)
        return;
    channel->is_closing = true;
    channel->is_receiving = false;
    channel->since_ms = now_ms;
    end_job(channel);
    if (channel->session.reason == MEMKV_ERR_AUTH)
        mkv_count(counters, MKV_COUNT_AUTH_FAILURES, 1);
    else
        mkv_count(counters, MKV_COUNT_PROTOCOL_ERRORS, 1);
}

static void give_sink(mkv_channel *channel, mkv_bench *bench, uint64_t now_ms)
{
    struct iovec *iov;
    size_t n = mkv_job_sink(channel->job, &bench->desk, channel->session.body_left,
                            now_ms, &iov);
    mkv_session_give_sink(&channel->session, iov, n);
}

/* One event; false: nothing goes on before bytes move. */
static bool take_event(mkv_channel *channel, mkv_bench *bench, uint64_t now_ms)
{
    mkv_session *session = &channel->session;
    int status;

    switch (mkv_session_next(session)) {
    case MKV_EVENT_OPEN:
        return true;
    case MKV_EVENT_TABLE:
        channel->is_starved = !lend_table(channel);
        return !channel->is_starved;
    case MKV_EVENT_FRAME:
        status = mkv_job_open(channel->service, &session->peer, &channel->remote,
                              &session->frame, channel->table, now_ms, &channel->job);
        if (status != MEMKV_OK)
            mkv_session_hang_up(session, status);
        channel->is_receiving = true;
        return true;
    case MKV_EVENT_BODY:
        give_sink(channel, bench, now_ms);
        return true;
    case MKV_EVENT_END:
        channel->is_receiving = false;
        mkv_job_received(channel->job, now_ms);
        return true;
    case MKV_EVENT_CLOSED:
        begin_closing(channel, now_ms);
        return false;
    case MKV_EVENT_NONE:
        break;
    }
    return false;
}

/* Takes what has come and answers it, until bytes must move first. */
static void work(mkv_channel *channel, mkv_bench *bench, uint64_t now_ms)
{
    channel->is_starved = false;
    if (!channel->is_closing && send_finished(channel, bench, now_ms) != MEMKV_OK)
        mkv_session_hang_up(&channel->session, MEMKV_ERR_NO_MEMORY);
    while (may_go_on(channel) && !channel->wants_turn) {
        if (channel->job != NULL && !channel->is_receiving) {
            int status = answer(channel, bench, now_ms);
            if (status != MEMKV_OK)
                mkv_session_hang_up(&channel->session, status);
            if (status == MEMKV_OK)
                continue;
            end_job(channel);
        }
        if (!take_event(channel, bench, now_ms))
            break;
    }
}

/* ---- bytes ------------------------------------------------------------------------- */

static bool send_some(mkv_channel *channel, mkv_bench *bench, uint64_t *moved)
{
    size_t n;

    while (*moved < TURN) {
        size_t n_iov =
            mkv_session_want_write(&channel->session, bench->iov, MKV_CHANNEL_IOVS);
        if (n_iov == 0)
            return true;
        if (mkv_stream_write(channel->fd, bench->iov, n_iov, &n) != MEMKV_OK)
            return false;
        if (n == 0)
            return true;
        free_answers(channel, mkv_session_did_write(&channel->session, n));
        *moved += n;
    }
    return true;
}

static bool wants_read(const mkv_channel *channel)
{
    return !channel->is_closing && !channel->is_starved &&
           (channel->is_receiving || (channel->job == NULL && may_go_on(channel)));
}

static bool receive_some(mkv_channel *channel, mkv_bench *bench, uint64_t *moved)
{
    size_t n;

    if (!wants_read(channel))
        return true;
    size_t n_iov =
        mkv_session_want_read(&channel->session, bench->iov, MKV_CHANNEL_IOVS);
    if (n_iov == 0)
        return true;
    if (mkv_stream_read(channel->fd, bench->iov, n_iov, &n) != MEMKV_OK)
        return false;
    mkv_session_did_read(&channel->session, n);
    *moved += n;
    return true;
}

/* The clock of a frame begun and not yet whole. */
static void watch_partial(mkv_channel *channel, uint64_t now_ms)
{
    bool partial = mkv_session_is_open(&channel->session) && channel->job == NULL &&
                   channel->session.prefix_have > 0;

    if (partial && (!channel->is_partial || channel->is_starved))
        channel->since_ms = now_ms;
    channel->is_partial = partial;
}

bool mkv_channel_turn(mkv_channel *channel, mkv_bench *bench, uint64_t now_ms)
{
    uint64_t moved = 0, before;

    channel->wants_turn = false;
    do {
        before = moved;
        work(channel, bench, now_ms);
        if (!send_some(channel, bench, &moved) || !receive_some(channel, bench, &moved))
            return false;
    } while (moved > before && moved < TURN && !channel->wants_turn);
    if (moved > before)
        channel->wants_turn = true;
    if (moved > 0)
        channel->moved_ms = now_ms;
    watch_partial(channel, now_ms);
    return !channel->is_closing || channel->session.out_head != NULL;
}

/* ---- between turns ----------------------------------------------------------------- */

uint32_t mkv_channel_events(const mkv_channel *channel)
{
    uint32_t events = 0;

    if (wants_read(channel))
        events |= EPOLLIN;
    if (channel->session.out_head != NULL || channel->wants_turn)
        events |= EPOLLOUT;
    return events;
}

bool mkv_channel_is_busy(const mkv_channel *channel)
{
    return mkv_channel_is_flying(channel) || !mkv_session_is_open(&channel->session) ||
           channel->is_partial || channel->job != NULL ||
           channel->session.out_head != NULL;
}

bool mkv_channel_is_flying(const mkv_channel *channel)
{
    return channel->remote.first != NULL;
}

bool mkv_channel_listen(mkv_channel *channel, uint64_t now_ms)
{
    bool came = mkv_remote_poll(&channel->remote);
    if (came)
        channel->moved_ms = now_ms;
    return came;
}

bool mkv_channel_is_overdue(const mkv_channel *channel, uint64_t now_ms)
{
    const mkv_session *session = &channel->session;
    const mkv_answer *oldest = answer_of(channel, session->out_head);

    if (channel->is_closing)
        return now_ms > channel->since_ms + GRACE_MS;
    if (!mkv_session_is_open(session) || channel->is_partial)
        return now_ms > channel->since_ms + GREETING_MS;
    if (now_ms > channel->moved_ms + STALL_MS)
        return true;
    if (oldest != NULL && now_ms > oldest->due_ms)
        return true;
    if (now_ms > mkv_remote_due_ms(&channel->remote))
        return true;
    return channel->job != NULL && now_ms > mkv_job_deadline(channel->job) + GRACE_MS;
}
