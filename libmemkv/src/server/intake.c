/* intake.c: the body of a PUT (intake.h).
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/intake.h"

static void commit(mkv_intake *intake, mkv_put *put, uint32_t index, uint64_t length,
                   uint64_t now_ms)
{
    int status = mkv_store_commit(intake->store, put, now_ms);

    intake->statuses[index] = status;
    if (status == MEMKV_OK) {
        mkv_count(intake->counters, MKV_COUNT_PUT_STORED, 1);
        mkv_count(intake->counters, MKV_COUNT_PUT_BYTES, length);
        mkv_count(intake->counters, MKV_COUNT_BYTES_INLINE, length);
    }
}

static void commit_ending(mkv_intake *intake, uint64_t now_ms)
{
    for (size_t i = 0; i < intake->n_ending; i++)
        commit(intake, intake->ending[i].put, intake->ending[i].index,
               intake->ending[i].length, now_ms);
    intake->n_ending = 0;
}

mkv_put_request mkv_put_request_of(mkv_name name, const mkv_request *item)
{
    return (mkv_put_request){
        .name = name,
        .header = item->header,
        .header_len = item->header_len,
        .length = item->length,
        .checksum = item->checksum,
        .ttl_ms = item->ttl_ms,
        .depth = item->depth,
        .group = item->group,
    };
}

static int reserve(mkv_intake *intake, const mkv_request *item, uint64_t now_ms)
{
    mkv_put_request request =
        mkv_put_request_of((mkv_name){.name_space = intake->name_space,
                                      .name_space_len = intake->name_space_len,
                                      .key = item->key,
                                      .key_len = item->key_len},
                           item);

    if (item->flags & MKV_ITEM_REMOTE)
        return MEMKV_ERR_UNSUPPORTED;
    if (now_ms > intake->deadline_ms)
        return MEMKV_ERR_TIMEOUT;
    return mkv_store_reserve(intake->store, &request, now_ms, &intake->put);
}

/* False: there is none. */
static bool begin_item(mkv_intake *intake, uint64_t now_ms)
{
    mkv_request item;

    if (!mkv_requests_next(&intake->cursor, &item))
        return false;
    uint32_t index = intake->next++;
    int status = reserve(intake, &item, now_ms);
    intake->statuses[index] = status;
    intake->length = item.length;
    intake->left = item.flags & MKV_ITEM_REMOTE ? 0 : item.length;
    if (status == MEMKV_OK && item.length == 0) {
        commit(intake, intake->put, index, 0, now_ms);
        intake->put = NULL;
    }
    return true;
}

static size_t sum(const struct iovec *iov, size_t n)
{
    size_t total = 0;
    for (size_t i = 0; i < n; i++)
        total += iov[i].iov_len;
    return total;
}

/* Pages for the next bytes; without one the item is refused after all. */
static size_t name_pages(mkv_intake *intake, uint64_t most, struct iovec *iov,
                         size_t cap, uint64_t now_ms)
{
    size_t n = 0;
    int status = mkv_put_grow(intake->store, intake->put, most, now_ms, iov, cap, &n);

    if (status != MEMKV_OK) {
        mkv_store_drop(intake->store, intake->put);
        intake->put = NULL;
        intake->statuses[intake->next - 1] = status;
        return 0;
    }
    intake->left -= sum(iov, n);
    if (intake->left == 0) {
        intake->ending[intake->n_ending].put = intake->put;
        intake->ending[intake->n_ending].length = intake->length;
        intake->ending[intake->n_ending++].index = intake->next - 1;
        intake->put = NULL;
    }
    return n;
}

static size_t name_bin(mkv_intake *intake, mkv_bin *bin, struct iovec *iov)
{
    size_t len =
        intake->left < sizeof bin->bytes ? (size_t)intake->left : sizeof bin->bytes;
    iov->iov_base = bin->bytes;
    iov->iov_len = len;
    intake->left -= len;
    return 1;
}

size_t mkv_intake_stretch(mkv_intake *intake, mkv_bin *bin, uint64_t now_ms)
{
    size_t n = 0, named = 0;

    commit_ending(intake, now_ms);
    while (named < MKV_INTAKE_STRETCH && n < MKV_INTAKE_IOVS &&
           intake->n_ending < MKV_INTAKE_ITEMS) {
        struct iovec *iov = intake->iov + n;
        if (intake->left == 0) {
            if (!begin_item(intake, now_ms))
                break;
            continue;
        }
        uint64_t space = MKV_INTAKE_STRETCH - named;
        uint64_t most = intake->left < space ? intake->left : space;
        size_t added = intake->put != NULL
                           ? name_pages(intake, most, iov, MKV_INTAKE_IOVS - n, now_ms)
                           : name_bin(intake, bin, iov);
        named += sum(iov, added);
        n += added;
    }
    return n;
}

void mkv_intake_end(mkv_intake *intake, uint64_t now_ms)
{
    commit_ending(intake, now_ms);
    while (begin_item(intake, now_ms)) /* empty ones at the end */
        ;
}

void mkv_intake_drop(mkv_intake *intake)
{
    for (size_t i = 0; i < intake->n_ending; i++)
        mkv_store_drop(intake->store, intake->ending[i].put);
    intake->n_ending = 0;
    mkv_store_drop(intake->store, intake->put);
    intake->put = NULL;
}
