/* service.c: what each request does to the store (service.h).
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/service.h"

#include "protocol/checksum.h"
#include "server/info.h"

#include <stdlib.h>
#include <string.h>

#define HASH_PER_TURN (4u << 20)
#define LIST_TABLE 65536u
#define IOVS 64

struct mkv_job {
    mkv_service *service;
    const mkv_peer_info *peer;
    const mkv_remote *remote;
    mkv_frame frame; /* the request's */
    mkv_cursor cursor;
    uint64_t deadline_ms;
    uint32_t next;   /* the item that the cursor yields next */
    uint32_t n_told; /* PUT, DELETE: items whose status was sent */
    bool is_refused; /* the server is draining */
    bool is_remote;  /* all items of a PUT are */
    bool done;

    mkv_intake intake; /* PUT */
    struct iovec bin;  /* of a kind that we do not know */

    /* DELETE of a generation: the value in doubt */
    mkv_value *suspect;
    mkv_value_info suspect_info;
    uint64_t hashed;
    mkv_summer summer;

    int32_t statuses[]; /* PUT, DELETE: one for each item */
};

typedef int answer_fn(mkv_job *job, mkv_desk *desk, size_t max_table, uint64_t now_ms,
                      mkv_answer **out);

static bool is_late(const mkv_job *job, uint64_t now_ms)
{
    return now_ms > job->deadline_ms;
}

static bool is_remote(const mkv_request *item)
{
    return item->flags & MKV_ITEM_REMOTE;
}

static mkv_name name_of(const mkv_job *job, const mkv_request *item)
{
    return (mkv_name){.name_space = job->peer->label,
                      .name_space_len = job->peer->label_len,
                      .key = item->key,
                      .key_len = item->key_len};
}

static void count(mkv_job *job, mkv_server_counter which, uint64_t n)
{
    mkv_count(&job->service->counters, which, n);
}

/* ---- STAT and GET ------------------------------------------------------------------ */

/* The reply to one item; *value is the reference that its row needs. */
static mkv_reply find(mkv_job *job, const mkv_request *item, uint64_t now_ms,
                      mkv_value **value)
{
    mkv_store *store = job->service->store;
    bool get = job->frame.kind == MKV_GET;
    mkv_name name = name_of(job, item);
    mkv_reply row = {.index = job->next};
    mkv_value_info info;

    if (is_late(job, now_ms))
        row.status = MEMKV_ERR_TIMEOUT;
    else if (is_remote(item) && !mkv_remote_is_attached(job->remote))
        row.status = MEMKV_ERR_UNSUPPORTED;
    else
        row.status =
            mkv_store_find(store, &name, now_ms, item->lease_ms, get, value, &info);
    if (row.status != MEMKV_OK)
        return row;
    row.header_len = info.header_len;
    row.length = info.length;
    row.checksum = info.checksum;
    row.generation = info.generation;
    if ((item->header_len > 0 && info.header_len > item->header_len) ||
        (get && info.length > item->length)) {
        row.status = MEMKV_ERR_TOO_SMALL;
        mkv_value_release(store, *value);
        *value = NULL;
        return row;
    }
    if (item->header_len > 0) {
        row.flags |= MKV_ITEM_HEADER;
        row.header = info.header;
    }
    if (get && info.length > 0)
        row.flags |= is_remote(item) ? MKV_ITEM_REMOTE : MKV_ITEM_PAYLOAD;
    if (item->lease_ms > 0 && info.leased)
        row.flags |= MKV_ITEM_LEASED;
    return row;
}

static void count_found(mkv_job *job, const mkv_draft *draft)
{
    uint64_t hits = 0, late = 0, here = 0;

    for (size_t i = 0; i < draft->n; i++) {
        const mkv_reply *row = &draft->rows[i];
        hits += row->status == MEMKV_OK;
        late += row->status == MEMKV_ERR_TIMEOUT;
        here += row->flags & MKV_ITEM_PAYLOAD ? row->length : 0;
    }
    bool get = job->frame.kind == MKV_GET;
    count(job, get ? MKV_COUNT_GET_ITEMS : MKV_COUNT_STAT_ITEMS, draft->n);
    count(job, get ? MKV_COUNT_GET_HITS : MKV_COUNT_STAT_HITS, hits);
    count(job, MKV_COUNT_GET_BYTES, draft->payload);
    count(job, MKV_COUNT_BYTES_INLINE, here);
    count(job, MKV_COUNT_TIMEOUTS, late);
}

static int answer_found(mkv_job *job, mkv_desk *desk, size_t max_table, uint64_t now_ms,
                        mkv_answer **out)
{
    mkv_draft *draft = &desk->draft;
    mkv_targets *targets = &desk->targets;
    mkv_cursor before = job->cursor;
    bool first_is_remote = false;
    mkv_request item;

    while (mkv_requests_next(&job->cursor, &item)) {
        mkv_value *value = NULL;
        if (draft->n == 0)
            first_is_remote = is_remote(&item);
        mkv_reply row = find(job, &item, now_ms, &value);
        if (!mkv_draft_fits(draft, &row, max_table) ||
            is_remote(&item) != first_is_remote) {
            mkv_value_release(job->service->store, value);
            job->cursor = before; /* it opens the next frame */
            break;
        }
        if (row.flags & MKV_ITEM_REMOTE)
            targets->all[targets->n++] = (mkv_target){.address = item.address,
                                                      .length = row.length,
                                                      .rkey = item.rkey,
                                                      .value = value};
        mkv_draft_add(draft, &row, value);
        job->next++;
        before = job->cursor;
    }
    job->done = job->cursor.left == 0;
    count_found(job, draft);
    return mkv_answer_make(&job->service->answers, &job->frame, draft, job->done, out);
}

/* ---- PUT and DELETE ---------------------------------------------------------------- */

/* The statuses that were collected, as many as a frame takes. */
static int answer_statuses(mkv_job *job, mkv_desk *desk, size_t max_table,
                           uint64_t now_ms, mkv_answer **out)
{
    mkv_draft *draft = &desk->draft;
    uint64_t late = 0;

    (void)now_ms;
    for (; job->n_told < job->frame.items; job->n_told++) {
        mkv_reply row = {.index = job->n_told, .status = job->statuses[job->n_told]};
        if (!mkv_draft_fits(draft, &row, max_table))
            break;
        mkv_draft_add(draft, &row, NULL);
        late += row.status == MEMKV_ERR_TIMEOUT;
    }
    count(job,
          job->frame.kind == MKV_PUT ? MKV_COUNT_PUT_ITEMS : MKV_COUNT_DELETE_ITEMS,
          draft->n);
    count(job, MKV_COUNT_TIMEOUTS, late);
    job->done = job->n_told == job->frame.items;
    return mkv_answer_make(&job->service->answers, &job->frame, draft, job->done, out);
}

/* All pages or none: READs into them cannot be called back. */
static int reserve(mkv_job *job, const mkv_request *item, uint64_t now_ms,
                   mkv_put **out)
{
    mkv_store *store = job->service->store;
    struct iovec iov[IOVS];
    mkv_put *put;
    size_t n;

    if (is_late(job, now_ms))
        return MEMKV_ERR_TIMEOUT;
    if (!mkv_remote_is_attached(job->remote))
        return MEMKV_ERR_UNSUPPORTED;
    mkv_put_request request = mkv_put_request_of(name_of(job, item), item);
    int status = mkv_store_reserve(store, &request, now_ms, &put);
    if (status != MEMKV_OK)
        return status;
    for (uint64_t left = item->length; left > 0 && status == MEMKV_OK;) {
        status = mkv_put_grow(store, put, left, now_ms, iov, IOVS, &n);
        for (size_t i = 0; status == MEMKV_OK && i < n; i++)
            left -= iov[i].iov_len;
    }
    if (status != MEMKV_OK)
        mkv_store_drop(store, put);
    else if (item->length == 0)
        status = mkv_store_commit(store, put, now_ms);
    else
        *out = put;
    return status;
}

/* A PUT whose payload is to be fetched: what is accepted becomes a target. */
static int answer_remote_put(mkv_job *job, mkv_desk *desk, size_t max_table,
                             uint64_t now_ms, mkv_answer **out)
{
    mkv_targets *targets = &desk->targets;
    mkv_request item;
    uint64_t late = 0;

    (void)max_table; /* any client takes MKV_MAX_ITEMS rows without headers */
    for (; mkv_requests_next(&job->cursor, &item); job->next++) {
        mkv_put *put = NULL;
        mkv_reply row = {.index = job->next};
        row.status = reserve(job, &item, now_ms, &put);
        late += row.status == MEMKV_ERR_TIMEOUT;
        if (put != NULL) {
            row.flags = MKV_ITEM_REMOTE;
            targets->all[targets->n++] = (mkv_target){.address = item.address,
                                                      .length = item.length,
                                                      .rkey = item.rkey,
                                                      .put = put};
        }
        mkv_draft_add(&desk->draft, &row, NULL);
    }
    count(job, MKV_COUNT_PUT_ITEMS, desk->draft.n);
    count(job, MKV_COUNT_TIMEOUTS, late);
    job->done = true;
    int status =
        mkv_answer_make(&job->service->answers, &job->frame, &desk->draft, true, out);
    for (size_t i = 0; status != MEMKV_OK && i < targets->n; i++)
        mkv_store_drop(job->service->store, targets->all[i].put);
    return status;
}

static int answer_put(mkv_job *job, mkv_desk *desk, size_t max_table, uint64_t now_ms,
                      mkv_answer **out)
{
    return job->is_remote ? answer_remote_put(job, desk, max_table, now_ms, out)
                          : answer_statuses(job, desk, max_table, now_ms, out);
}

static void begin_check(mkv_job *job, const mkv_value_info *info)
{
    const mkv_peer_info *peer = job->peer;
    uint64_t seed = mkv_checksum_seed(peer->label, peer->label_len, info->key,
                                      info->key_len, info->header, info->header_len);
    job->suspect_info = *info;
    job->hashed = 0;
    mkv_summer_begin(&job->summer, seed);
}

/* Hashes on, at most *quota bytes; true when the end is reached. */
static bool check_on(mkv_job *job, uint64_t *quota)
{
    struct iovec iov[IOVS];

    while (*quota > 0 && job->hashed < job->suspect_info.length) {
        size_t n = mkv_value_iov(job->suspect, job->hashed, *quota, iov, IOVS);
        for (size_t i = 0; i < n; i++) {
            mkv_summer_add(&job->summer, iov[i].iov_base, iov[i].iov_len);
            job->hashed += iov[i].iov_len;
            *quota -= iov[i].iov_len;
        }
    }
    return job->hashed == job->suspect_info.length;
}

/* A reader found it damaged.  It is dropped if it is, and kept if the reader is wrong. */
static int judge(mkv_job *job, uint64_t now_ms)
{
    const mkv_value_info *info = &job->suspect_info;
    mkv_name name = {.name_space = job->peer->label,
                     .name_space_len = job->peer->label_len,
                     .key = info->key,
                     .key_len = info->key_len};

    if (mkv_summer_end(&job->summer) == info->checksum)
        return MEMKV_ERR_EXISTS;
    int status = mkv_store_delete(job->service->store, &name, info->generation, now_ms);
    count(job, MKV_COUNT_BAD_VALUES, status == MEMKV_OK);
    return status;
}

static void end_check(mkv_job *job, int status)
{
    job->statuses[job->next++] = status;
    mkv_value_release(job->service->store, job->suspect);
    job->suspect = NULL;
}

/* One item; leaves a suspect to be hashed, or sets the status and moves on. */
static void erase(mkv_job *job, const mkv_request *item, uint64_t now_ms)
{
    mkv_store *store = job->service->store;
    mkv_name name = name_of(job, item);
    mkv_value_info info;
    int status;

    if (is_late(job, now_ms)) {
        status = MEMKV_ERR_TIMEOUT;
    } else if (item->generation == 0) {
        status = mkv_store_delete(store, &name, 0, now_ms);
    } else {
        status = mkv_store_find(store, &name, now_ms, 0, false, &job->suspect, &info);
        if (status == MEMKV_OK && info.generation == item->generation) {
            begin_check(job, &info);
            return;
        }
        mkv_value_release(store, job->suspect);
        job->suspect = NULL;
        status = MEMKV_ERR_NOT_FOUND; /* that generation is gone */
    }
    job->statuses[job->next++] = status;
}

static int answer_erased(mkv_job *job, mkv_desk *desk, size_t max_table,
                         uint64_t now_ms, mkv_answer **out)
{
    uint64_t quota = HASH_PER_TURN;
    mkv_request item;

    for (;;) {
        if (job->suspect == NULL) {
            if (!mkv_requests_next(&job->cursor, &item))
                break;
            erase(job, &item, now_ms);
        } else if (is_late(job, now_ms)) {
            end_check(job, MEMKV_ERR_TIMEOUT);
        } else if (check_on(job, &quota)) {
            end_check(job, judge(job, now_ms));
        } else {
            *out = NULL;
            return MEMKV_OK;
        }
    }
    return answer_statuses(job, desk, max_table, now_ms, out);
}

/* ---- LIST, INFO, PING and the rest ------------------------------------------------- */

static int answer_list(mkv_job *job, mkv_desk *desk, size_t max_table, uint64_t now_ms,
                       mkv_answer **out)
{
    mkv_service *service = job->service;
    mkv_draft *draft = &desk->draft;
    size_t limit = max_table < LIST_TABLE ? max_table : LIST_TABLE;
    mkv_request item;

    job->done = true;
    if (!mkv_requests_next(&job->cursor, &item) || item.generation > UINT32_MAX)
        return mkv_answer_plain(&service->answers, &job->frame, MEMKV_ERR_INVALID, NULL,
                                0, out);
    uint32_t place = (uint32_t)item.generation;
    while (draft->n < item.length) {
        mkv_value *value;
        mkv_value_info info;
        if (mkv_store_list(service->store, job->peer->label, job->peer->label_len,
                           now_ms, &place, &value, &info) != MEMKV_OK)
            break;
        mkv_reply row = {.index = place,
                         .key = info.key,
                         .key_len = info.key_len,
                         .header = info.header,
                         .header_len = info.header_len,
                         .length = info.length,
                         .checksum = info.checksum,
                         .generation = info.generation,
                         .idle_ms = info.idle_ms};
        if (item.header_len > 0 && info.header_len <= item.header_len)
            row.flags = MKV_ITEM_HEADER;
        if (!mkv_draft_fits(draft, &row, limit)) {
            mkv_value_release(service->store, value);
            break;
        }
        mkv_draft_add(draft, &row, value);
    }
    return mkv_answer_make(&service->answers, &job->frame, draft, true, out);
}

static int answer_plainly(mkv_job *job, mkv_desk *desk, size_t max_table,
                          uint64_t now_ms, mkv_answer **out)
{
    mkv_answers *answers = &job->service->answers;
    char text[MKV_INFO_TEXT];

    (void)desk;
    (void)max_table;
    job->done = true;
    if (job->is_refused)
        return mkv_answer_plain(answers, &job->frame, MEMKV_ERR_DRAINING, NULL, 0, out);
    if (job->frame.kind == MKV_INFO)
        return mkv_answer_plain(answers, &job->frame, MEMKV_OK, text,
                                mkv_info_text(job->service, now_ms, text), out);
    return mkv_answer_plain(
        answers, &job->frame,
        job->frame.kind == MKV_PING ? MEMKV_OK : MEMKV_ERR_UNSUPPORTED, NULL, 0, out);
}

/* ---- a job's life ------------------------------------------------------------------ */

static const struct {
    answer_fn *answer;
    mkv_server_counter requests;
} kinds[] = {
    [MKV_STAT] = {answer_found, MKV_COUNT_STAT_REQUESTS},
    [MKV_GET] = {answer_found, MKV_COUNT_GET_REQUESTS},
    [MKV_PUT] = {answer_put, MKV_COUNT_PUT_REQUESTS},
    [MKV_DELETE] = {answer_erased, MKV_COUNT_DELETE_REQUESTS},
    [MKV_LIST] = {answer_list, MKV_COUNT_LIST_REQUESTS},
};

static bool has_items(uint8_t kind)
{
    return kind >= MKV_STAT && kind <= MKV_LIST;
}

/* Else the body, if any, goes into the bin. */
static bool takes_values(const mkv_job *job)
{
    return job->frame.kind == MKV_PUT && !job->is_refused && !job->is_remote;
}

/* With some items inline and some not, the latter are refused by the intake. */
static bool are_all_remote(mkv_cursor cursor)
{
    mkv_request item;
    bool all = cursor.kind == MKV_PUT;

    while (all && mkv_requests_next(&cursor, &item))
        all = is_remote(&item);
    return all;
}

static mkv_intake intake_of(mkv_job *job)
{
    return (mkv_intake){
        .store = job->service->store,
        .counters = &job->service->counters,
        .name_space = job->peer->label,
        .name_space_len = job->peer->label_len,
        .deadline_ms = job->deadline_ms,
        .cursor = job->cursor,
        .statuses = job->statuses,
    };
}

int mkv_job_open(mkv_service *service, const mkv_peer_info *peer,
                 const mkv_remote *remote, const mkv_frame *frame, const uint8_t *table,
                 uint64_t now_ms, mkv_job **out)
{
    const size_t align = _Alignof(mkv_job);
    size_t size = sizeof(mkv_job) + frame->items * sizeof(int32_t);
    mkv_job *job = aligned_alloc(align, (size + align - 1) / align * align);

    if (job == NULL)
        return MEMKV_ERR_NO_MEMORY;
    memset(job, 0, size);
    job->service = service;
    job->peer = peer;
    job->remote = remote;
    job->frame = *frame;
    job->deadline_ms = now_ms + frame->budget_ms;
    if (has_items(frame->kind)) {
        int status = mkv_requests_begin(frame, table, &job->cursor);
        if (status != MEMKV_OK) {
            free(job);
            return status;
        }
        job->is_remote = are_all_remote(job->cursor);
    }
    /* in this order: who drains must see every job that was not refused */
    atomic_fetch_add(&service->jobs, 1);
    job->is_refused = has_items(frame->kind) && atomic_load(&service->is_draining);
    if (takes_values(job))
        job->intake = intake_of(job);
    count(job,
          has_items(frame->kind) ? kinds[frame->kind].requests
                                 : MKV_COUNT_OTHER_REQUESTS,
          1);
    *out = job;
    return MEMKV_OK;
}

uint8_t mkv_job_kind(const mkv_job *job)
{
    return job->frame.kind;
}

uint64_t mkv_job_deadline(const mkv_job *job)
{
    return job->deadline_ms;
}

size_t mkv_job_sink(mkv_job *job, mkv_desk *desk, uint64_t body_left, uint64_t now_ms,
                    struct iovec **iov)
{
    if (takes_values(job)) {
        *iov = job->intake.iov;
        return mkv_intake_stretch(&job->intake, &desk->bin, now_ms);
    }
    job->bin.iov_base = desk->bin.bytes;
    job->bin.iov_len =
        body_left < sizeof desk->bin.bytes ? (size_t)body_left : sizeof desk->bin.bytes;
    *iov = &job->bin;
    return 1;
}

void mkv_job_received(mkv_job *job, uint64_t now_ms)
{
    if (takes_values(job))
        mkv_intake_end(&job->intake, now_ms);
}

int mkv_job_answer(mkv_job *job, mkv_desk *desk, size_t max_table, uint64_t now_ms,
                   mkv_answer **out)
{
    desk->targets.n = 0;
    answer_fn *answer = has_items(job->frame.kind) && !job->is_refused
                            ? kinds[job->frame.kind].answer
                            : answer_plainly;
    return answer(job, desk, max_table, now_ms, out);
}

int mkv_job_answer_rdma(mkv_job *job, int status, const uint8_t params[MKV_PARAMS_LEN],
                        mkv_answer **out)
{
    job->done = true;
    return mkv_answer_plain(&job->service->answers, &job->frame, status, params,
                            status == MEMKV_OK ? MKV_PARAMS_LEN : 0, out);
}

bool mkv_job_is_done(const mkv_job *job)
{
    return job->done;
}

void mkv_job_close(mkv_job *job)
{
    if (job == NULL)
        return;
    if (takes_values(job))
        mkv_intake_drop(&job->intake);
    mkv_value_release(job->service->store, job->suspect);
    atomic_fetch_sub(&job->service->jobs, 1);
    free(job);
}
