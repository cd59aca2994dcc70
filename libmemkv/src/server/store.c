/* SPDX-License-Identifier: Apache-2.0
 * store.c: the rules of what is kept: bounds, references, leases, time to live, first
 * commit wins.  One lock over index, policy and pages; payload is never touched here,
 * and nothing waits for memory.  Knows no connection and no clock.
 *
 * A value is one block of malloc and a chain of pages.  It is in flight (a mkv_put),
 * then indexed, then perhaps held by readers only; then its memory goes. */
#include "server/store.h"

#include <pthread.h>

#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "server/budget.h"
#include "server/cost.h"
#include "server/index.h"
#include "server/pages.h"
#include "server/policy.h"
#include "status.h"

#define MAX_SPARED 1024  /* values that may not go, met in one search for a victim */
#define MAX_LEASES_MET 8 /* leases still running, met in one search for ended ones */
#define NEVER UINT64_MAX

struct mkv_put {
    mkv_value value; /* first: a committed put is its value, in place */
    uint64_t offset; /* bytes that have a named place */
    uint64_t ttl_ms;
};

struct mkv_store {
    uint64_t memory; /* open sets these three for good */
    uint64_t default_ttl_ms;
    mkv_budget budget;
    pthread_mutex_t lock; /* over all below */
    mkv_pages pages;
    mkv_index index;
    mkv_policy policy;
    mkv_ring leases; /* the longest without renewal is the oldest */
    mkv_amount used; /* by all values: in flight, indexed, held by readers */
    mkv_amount in_flight;
    mkv_amount leased;
    uint64_t referenced_pages;
    uint64_t last_generation;
    uint64_t values; /* indexed; so are the next */
    uint64_t payload_bytes;
    uint64_t evictions;
    uint64_t evicted_bytes;
    uint64_t expirations;
};

static mkv_value *value_ranked(mkv_rank *rank)
{
    return (mkv_value *)(void *)((char *)rank - offsetof(mkv_value, rank));
}

static mkv_value *value_leased(mkv_ring *lease)
{
    return (mkv_value *)(void *)((char *)lease - offsetof(mkv_value, lease));
}

/* ---- open and close -------------------------------------------------------------- */

int mkv_store_open(const mkv_store_config *config, mkv_store **out, memkv_error *err)
{
    uint64_t largest_block = mkv_malloc_cost(sizeof(mkv_put) + MEMKV_MAX_NAMESPACE +
                                             MEMKV_MAX_KEY + MEMKV_MAX_HEADER);
    mkv_budget budget;
    int status = mkv_budget_make(config->memory, config->page_size,
                                 mkv_malloc_cost(sizeof(mkv_store)), largest_block,
                                 &budget, err);
    if (status != MEMKV_OK)
        return status;
    mkv_store *store = calloc(1, sizeof(*store));
    if (store == NULL)
        return mkv_fail(err, MEMKV_ERR_NO_MEMORY, ENOMEM, "no memory for a store");
    store->memory = config->memory;
    store->default_ttl_ms = config->default_ttl_ms;
    store->budget = budget;
    mkv_policy_init(&store->policy);
    mkv_ring_init(&store->leases);

    status = mkv_pages_open(&store->pages, config->page_size,
                            (uint32_t)budget.capacity.pages, err);
    if (status != MEMKV_OK)
        goto err_free_store;
    status = mkv_index_open(&store->index, (uint32_t)budget.capacity.slots, err);
    if (status != MEMKV_OK)
        goto err_close_pages;
    int failed = pthread_mutex_init(&store->lock, NULL);
    if (failed != 0) {
        status = mkv_fail(err, MEMKV_ERR_SYSTEM, failed, "mutex: %s", strerror(failed));
        goto err_close_index;
    }
    *out = store;
    return MEMKV_OK;

err_close_index:
    mkv_index_close(&store->index);
err_close_pages:
    mkv_pages_close(&store->pages);
err_free_store:
    free(store);
    return status;
}

void mkv_store_close(mkv_store *store)
{
    if (store == NULL)
        return;
    mkv_rank *rank;
    while ((rank = mkv_policy_victim(&store->policy)) != NULL) {
        mkv_policy_remove(rank);
        free(value_ranked(rank));
    }
    pthread_mutex_destroy(&store->lock);
    mkv_index_close(&store->index);
    mkv_pages_close(&store->pages);
    free(store);
}

struct iovec mkv_store_pool(const mkv_store *store)
{
    return (struct iovec){store->pages.base, store->pages.mapped};
}

/* ---- under the lock -------------------------------------------------------------- */

static mkv_amount amount_of(const mkv_value *value)
{
    return (mkv_amount){
        .pages = value->chain.n_pages, .slots = 1, .bytes = value->block};
}

static bool is_leased(const mkv_value *value, uint64_t now_ms)
{
    return value->leased_until_ms > now_ms;
}

/* A lease outlasts the time to live. */
static bool is_expired(const mkv_value *value, uint64_t now_ms)
{
    return value->expires_ms <= now_ms && !is_leased(value, now_ms);
}

static void end_lease(mkv_store *store, mkv_value *value)
{
    if (mkv_ring_alone(&value->lease))
        return;
    mkv_ring_remove(&value->lease);
    mkv_amount_subtract(&store->leased, amount_of(value));
}

/* Forgets leases that have run out, the oldest first; looks behind those still running
 * only for `more` to fit, and only at a few. */
static void sweep_leases(mkv_store *store, mkv_amount more, uint64_t now_ms)
{
    for (int met = 0; !mkv_ring_alone(&store->leases);) {
        mkv_value *value = value_leased(mkv_ring_oldest(&store->leases));
        if (!is_leased(value, now_ms))
            end_lease(store, value);
        else if (mkv_amount_fits(store->leased, more, store->budget.leases) ||
                 met++ == MAX_LEASES_MET)
            return;
        else
            mkv_ring_renew(&store->leases, &value->lease);
    }
}

static void lease(mkv_store *store, mkv_value *value, uint64_t now_ms,
                  uint32_t lease_ms)
{
    if (mkv_ring_alone(&value->lease)) {
        sweep_leases(store, amount_of(value), now_ms);
        if (!mkv_amount_fits(store->leased, amount_of(value), store->budget.leases))
            return;
        mkv_amount_add(&store->leased, amount_of(value));
    }
    mkv_ring_renew(&store->leases, &value->lease);
    if (value->leased_until_ms < now_ms + lease_ms)
        value->leased_until_ms = now_ms + lease_ms;
}

/* Assumes: neither in flight, nor indexed, nor referenced. */
static void destroy(mkv_store *store, mkv_value *value)
{
    mkv_amount_subtract(&store->used, amount_of(value));
    mkv_pages_give(&store->pages, &value->chain);
    mkv_index_give_slot(&store->index, value);
    free(value);
}

/* Takes it out of the index; who reads it still has it. */
static void withdraw(mkv_store *store, mkv_value *value)
{
    mkv_index_remove(&store->index, value);
    mkv_policy_remove(&value->rank);
    end_lease(store, value);
    store->values--;
    store->payload_bytes -= value->length;
    if (value->references == 0)
        destroy(store, value);
}

static void expire(mkv_store *store, mkv_value *value)
{
    store->expirations++;
    withdraw(store, value);
}

static void evict(mkv_store *store, mkv_value *value)
{
    store->evictions++;
    store->evicted_bytes += value->length;
    withdraw(store, value);
}

/* Evicts until there is room for `more`; false: nothing else may go. */
static bool make_room(mkv_store *store, mkv_amount more, uint64_t now_ms)
{
    for (int spared = 0; !mkv_amount_fits(store->used, more, store->budget.capacity);) {
        mkv_rank *rank = mkv_policy_victim(&store->policy);
        if (rank == NULL || spared == MAX_SPARED)
            return false;
        mkv_value *value = value_ranked(rank);
        if (value->references > 0 || is_leased(value, now_ms)) {
            mkv_policy_spare(&store->policy, rank);
            spared++;
        } else if (is_expired(value, now_ms)) {
            expire(store, value);
        } else {
            evict(store, value);
        }
    }
    return true;
}

static mkv_value *look_up(mkv_store *store, const mkv_name *name, uint64_t hash,
                          uint64_t now_ms)
{
    sweep_leases(store, (mkv_amount){0}, now_ms);
    mkv_value *value = mkv_index_find(&store->index, name, hash);
    if (value == NULL || !is_expired(value, now_ms))
        return value;
    expire(store, value);
    return NULL;
}

static void count_use(mkv_store *store, mkv_value *value, uint64_t now_ms)
{
    mkv_policy_touch(&store->policy, &value->rank);
    if (value->used_ms < now_ms)
        value->used_ms = now_ms;
}

static void take_reference(mkv_store *store, mkv_value *value)
{
    if (value->references++ == 0)
        store->referenced_pages += value->chain.n_pages;
}

/* ---- values ---------------------------------------------------------------------- */

static mkv_name name_of(const mkv_value *value)
{
    return (mkv_name){.name_space = value->bytes,
                      .name_space_len = value->name_space_len,
                      .key = value->bytes + value->name_space_len,
                      .key_len = value->key_len};
}

static const uint8_t *header_of(const mkv_value *value)
{
    return value->bytes + value->name_space_len + value->key_len;
}

static mkv_value_info describe(const mkv_value *value, uint64_t now_ms)
{
    return (mkv_value_info){
        .key = value->bytes + value->name_space_len,
        .header = header_of(value),
        .key_len = value->key_len,
        .header_len = value->header_len,
        .length = value->length,
        .checksum = value->checksum,
        .generation = value->generation,
        .idle_ms = now_ms > value->used_ms ? now_ms - value->used_ms : 0,
        .leased = is_leased(value, now_ms),
    };
}

int mkv_store_find(mkv_store *store, const mkv_name *name, uint64_t now_ms,
                   uint32_t lease_ms, bool to_send, mkv_value **out,
                   mkv_value_info *info)
{
    uint64_t hash = mkv_index_hash(&store->index, name);
    int status = MEMKV_OK;
    pthread_mutex_lock(&store->lock);
    mkv_value *value = look_up(store, name, hash, now_ms);
    if (value == NULL) {
        status = MEMKV_ERR_NOT_FOUND;
    } else if (to_send && value->references == 0 &&
               store->referenced_pages + value->chain.n_pages >
                   store->budget.capacity.pages / 2) {
        status = MEMKV_ERR_BUSY;
    } else {
        take_reference(store, value);
        if (lease_ms > 0)
            lease(store, value, now_ms, lease_ms);
        *info = describe(value, now_ms);
        *out = value;
        count_use(store, value, now_ms);
    }
    pthread_mutex_unlock(&store->lock);
    return status;
}

size_t mkv_value_iov(const mkv_value *value, uint64_t offset, uint64_t most,
                     struct iovec *iov, size_t cap)
{
    uint64_t left = offset < value->length ? value->length - offset : 0;
    return mkv_pages_iov(value->pages, &value->chain, offset, most < left ? most : left,
                         iov, cap);
}

void mkv_value_release(mkv_store *store, mkv_value *value)
{
    if (value == NULL)
        return;
    pthread_mutex_lock(&store->lock);
    if (--value->references == 0) {
        store->referenced_pages -= value->chain.n_pages;
        if (!value->indexed)
            destroy(store, value);
    }
    pthread_mutex_unlock(&store->lock);
}

/* ---- puts ------------------------------------------------------------------------ */

static bool has_header(const mkv_value *value, const uint8_t *header, uint32_t len)
{
    return value->header_len == len &&
           (len == 0 || memcmp(header_of(value), header, len) == 0);
}

static uint8_t *append(uint8_t *dst, const uint8_t *src, uint32_t len)
{
    if (len > 0)
        memcpy(dst, src, len);
    return dst + len;
}

static size_t block_size(const mkv_put_request *request)
{
    return sizeof(mkv_put) + request->name.name_space_len + request->name.key_len +
           request->header_len;
}

/* NULL: malloc failed. */
static mkv_put *make_put(mkv_store *store, const mkv_put_request *request,
                         uint64_t hash)
{
    const mkv_name *name = &request->name;
    size_t size = block_size(request);
    mkv_put *put = malloc(size);
    if (put == NULL)
        return NULL;
    *put = (mkv_put){
        .value = {.pages = &store->pages,
                  .hash = hash,
                  .length = request->length,
                  .checksum = request->checksum,
                  .bytes = (uint8_t *)(put + 1),
                  .block = (uint32_t)mkv_malloc_cost(size),
                  .name_space_len = (uint16_t)name->name_space_len,
                  .key_len = (uint16_t)name->key_len,
                  .header_len = (uint16_t)request->header_len},
        .ttl_ms = request->ttl_ms > 0 ? request->ttl_ms : store->default_ttl_ms,
    };
    uint8_t *end = append(put->value.bytes, name->name_space, name->name_space_len);
    end = append(end, name->key, name->key_len);
    append(end, request->header, request->header_len);
    mkv_ring_init(&put->value.lease);
    mkv_index_take_slot(&store->index, &put->value);
    mkv_amount_add(&store->used, amount_of(&put->value));
    mkv_amount_add(&store->in_flight, amount_of(&put->value));
    return put;
}

int mkv_store_reserve(mkv_store *store, const mkv_put_request *request, uint64_t now_ms,
                      mkv_put **out)
{
    if (request->length > store->budget.puts.pages * store->pages.page_size ||
        request->length > MEMKV_MAX_VALUE)
        return MEMKV_ERR_TOO_LARGE;
    uint64_t hash = mkv_index_hash(&store->index, &request->name);
    mkv_amount more = {.slots = 1, .bytes = mkv_malloc_cost(block_size(request))};
    mkv_amount least = more; /* what it will take at the least once its bytes come */
    least.pages = request->length > 0;

    int status = MEMKV_ERR_FULL;
    pthread_mutex_lock(&store->lock);
    mkv_value *old = look_up(store, &request->name, hash, now_ms);
    if (old != NULL && has_header(old, request->header, request->header_len)) {
        count_use(store, old, now_ms);
        status = MEMKV_ERR_EXISTS;
    } else if (mkv_amount_fits(store->in_flight, least, store->budget.puts) &&
               make_room(store, more, now_ms)) {
        mkv_put *put = make_put(store, request, hash);
        if (put != NULL) {
            *out = put;
            status = MEMKV_OK;
        }
    }
    pthread_mutex_unlock(&store->lock);
    return status;
}

static bool take_pages(mkv_store *store, mkv_put *put, uint64_t n, uint64_t now_ms)
{
    mkv_amount more = {.pages = n};
    pthread_mutex_lock(&store->lock);
    bool can = mkv_amount_fits(store->in_flight, more, store->budget.puts) &&
               make_room(store, more, now_ms) &&
               mkv_pages_take(&store->pages, &put->value.chain, (uint32_t)n);
    if (can) {
        mkv_amount_add(&store->used, more);
        mkv_amount_add(&store->in_flight, more);
    }
    pthread_mutex_unlock(&store->lock);
    return can;
}

int mkv_put_grow(mkv_store *store, mkv_put *put, uint64_t most, uint64_t now_ms,
                 struct iovec *iov, size_t cap, size_t *n)
{
    const mkv_value *value = &put->value;
    uint64_t page_size = store->pages.page_size;
    uint64_t left = value->length - put->offset;
    uint64_t end = put->offset + (most < left ? most : left);
    if (end == put->offset && left > 0)
        end++;
    uint64_t needed = mkv_round_up(end, page_size) / page_size;
    if (needed > value->chain.n_pages &&
        !take_pages(store, put, needed - value->chain.n_pages, now_ms))
        return MEMKV_ERR_FULL;

    uint64_t room = value->chain.n_pages * page_size - put->offset;
    *n = mkv_pages_iov(&store->pages, &value->chain, put->offset,
                       room < left ? room : left, iov, cap);
    for (size_t i = 0; i < *n; i++)
        put->offset += iov[i].iov_len;
    return MEMKV_OK;
}

size_t mkv_put_iov(const mkv_put *put, uint64_t offset, uint64_t most,
                   struct iovec *iov, size_t cap)
{
    return mkv_value_iov(&put->value, offset, most, iov, cap);
}

static void publish(mkv_store *store, mkv_put *put, uint64_t now_ms)
{
    mkv_value *value = &put->value;
    value->generation = ++store->last_generation;
    value->used_ms = now_ms;
    value->expires_ms =
        put->ttl_ms > 0 && put->ttl_ms < NEVER - now_ms ? now_ms + put->ttl_ms : NEVER;
    mkv_index_insert(&store->index, value);
    mkv_policy_insert(&store->policy, &value->rank);
    store->values++;
    store->payload_bytes += value->length;
}

int mkv_store_commit(mkv_store *store, mkv_put *put, uint64_t now_ms)
{
    mkv_value *value = &put->value;
    assert(put->offset == value->length);
    mkv_name name = name_of(value);
    int status = MEMKV_OK;
    pthread_mutex_lock(&store->lock);
    mkv_amount_subtract(&store->in_flight, amount_of(value));
    mkv_value *old = look_up(store, &name, value->hash, now_ms);
    if (old != NULL && has_header(old, header_of(value), value->header_len)) {
        count_use(store, old, now_ms);
        destroy(store, value);
        status = MEMKV_ERR_EXISTS;
    } else {
        if (old != NULL)
            withdraw(store, old);
        publish(store, put, now_ms);
    }
    pthread_mutex_unlock(&store->lock);
    return status;
}

void mkv_store_drop(mkv_store *store, mkv_put *put)
{
    if (put == NULL)
        return;
    pthread_mutex_lock(&store->lock);
    mkv_amount_subtract(&store->in_flight, amount_of(&put->value));
    destroy(store, &put->value);
    pthread_mutex_unlock(&store->lock);
}

/* ---- the rest -------------------------------------------------------------------- */

int mkv_store_delete(mkv_store *store, const mkv_name *name, uint64_t generation,
                     uint64_t now_ms)
{
    uint64_t hash = mkv_index_hash(&store->index, name);
    pthread_mutex_lock(&store->lock);
    mkv_value *value = look_up(store, name, hash, now_ms);
    bool there = value != NULL && (generation == 0 || value->generation == generation);
    if (there)
        withdraw(store, value);
    pthread_mutex_unlock(&store->lock);
    return there ? MEMKV_OK : MEMKV_ERR_NOT_FOUND;
}

int mkv_store_list(mkv_store *store, const uint8_t *name_space, uint32_t name_space_len,
                   uint64_t now_ms, uint32_t *cursor, mkv_value **out,
                   mkv_value_info *info)
{
    uint32_t slot = *cursor;
    mkv_value *value = NULL;
    /* In strides, so that few values in a large index hold up nobody. */
    while (value == NULL && slot < store->index.n_slots) {
        uint32_t begin = slot;
        pthread_mutex_lock(&store->lock);
        value = mkv_index_scan(&store->index, name_space, name_space_len, &slot, 4096);
        bool at_end = slot == begin;
        if (value != NULL && is_expired(value, now_ms)) {
            expire(store, value);
            value = NULL;
        } else if (value != NULL) {
            take_reference(store, value);
            *info = describe(value, now_ms);
        }
        pthread_mutex_unlock(&store->lock);
        if (at_end)
            break;
    }
    if (value == NULL)
        return MEMKV_ERR_NOT_FOUND;
    *out = value;
    *cursor = slot;
    return MEMKV_OK;
}

void mkv_store_stats_read(mkv_store *store, mkv_store_stats *out)
{
    uint64_t page_size = store->pages.page_size;
    pthread_mutex_lock(&store->lock);
    *out = (mkv_store_stats){
        .values = store->values,
        .capacity_bytes = store->memory,
        .used_bytes =
            store->budget.tables + store->used.pages * page_size + store->used.bytes,
        .payload_bytes = store->payload_bytes,
        .leased_bytes = store->leased.pages * page_size,
        .referenced_bytes = store->referenced_pages * page_size,
        .put_bytes = store->in_flight.pages * page_size,
        .evictions = store->evictions,
        .evicted_bytes = store->evicted_bytes,
        .expirations = store->expirations,
    };
    pthread_mutex_unlock(&store->lock);
}
