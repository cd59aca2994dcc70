/* SPDX-License-Identifier: Apache-2.0
 * index.c: chained buckets and a table of slots, both of fixed size, so that no request
 * ever waits for a table to grow.  Knows neither time nor eviction nor pages. */
#include "server/index.h"

#include <sys/random.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/checksum.h"
#include "server/cost.h"
#include "status.h"

/* The largest power of two that is no larger: one or two values a bucket when full. */
static uint64_t buckets_of(uint32_t n_slots)
{
    return UINT64_C(1) << (31 - __builtin_clz(n_slots));
}

uint64_t mkv_index_cost(uint32_t n_slots)
{
    return mkv_malloc_cost(buckets_of(n_slots) * sizeof(mkv_value *)) +
           mkv_malloc_cost(n_slots * sizeof(mkv_value *)) +
           mkv_malloc_cost(n_slots * sizeof(uint32_t));
}

int mkv_index_open(mkv_index *index, uint32_t n_slots, memkv_error *err)
{
    mkv_index made = {.n_slots = n_slots, .n_buckets = buckets_of(n_slots)};
    if (getrandom(made.secret, sizeof(made.secret), 0) != (ssize_t)sizeof(made.secret))
        return mkv_fail(err, MEMKV_ERR_SYSTEM, errno, "getrandom: %s", strerror(errno));
    made.buckets = calloc(made.n_buckets, sizeof(mkv_value *));
    made.slots = calloc(n_slots, sizeof(mkv_value *));
    made.free = calloc(n_slots, sizeof(uint32_t));
    if (made.buckets == NULL || made.slots == NULL || made.free == NULL) {
        mkv_index_close(&made);
        return mkv_fail(err, MEMKV_ERR_NO_MEMORY, ENOMEM,
                        "memory: no memory for an index of %u values", n_slots);
    }
    *index = made;
    return MEMKV_OK;
}

void mkv_index_close(mkv_index *index)
{
    free(index->free);
    free(index->slots);
    free(index->buckets);
}

/* The secret goes into the seed: behind the key it would not keep apart two keys that
 * collide under XXH3's public constants. */
uint64_t mkv_index_hash(const mkv_index *index, const mkv_name *name)
{
    uint64_t seed = mkv_checksum_seed(name->name_space, name->name_space_len,
                                      index->secret, sizeof(index->secret), NULL, 0);
    return mkv_checksum(seed, name->key, name->key_len);
}

/* memcmp may not be asked about NULL, not even for 0 bytes. */
static bool same(const uint8_t *a, size_t a_len, const uint8_t *b, size_t b_len)
{
    return a_len == b_len && (a_len == 0 || memcmp(a, b, a_len) == 0);
}

static bool is_named(const mkv_value *value, const mkv_name *name)
{
    return same(value->bytes, value->name_space_len, name->name_space,
                name->name_space_len) &&
           same(value->bytes + value->name_space_len, value->key_len, name->key,
                name->key_len);
}

static mkv_value **bucket_of(const mkv_index *index, uint64_t hash)
{
    return &index->buckets[hash & (index->n_buckets - 1)];
}

mkv_value *mkv_index_find(const mkv_index *index, const mkv_name *name, uint64_t hash)
{
    mkv_value *value = *bucket_of(index, hash);
    while (value != NULL && (value->hash != hash || !is_named(value, name)))
        value = value->next;
    return value;
}

void mkv_index_insert(mkv_index *index, mkv_value *value)
{
    mkv_value **bucket = bucket_of(index, value->hash);
    value->next = *bucket;
    *bucket = value;
    value->indexed = true;
}

void mkv_index_remove(mkv_index *index, mkv_value *value)
{
    mkv_value **link = bucket_of(index, value->hash);
    while (*link != value)
        link = &(*link)->next;
    *link = value->next;
    value->indexed = false;
}

void mkv_index_take_slot(mkv_index *index, mkv_value *value)
{
    value->slot = index->n_free > 0 ? index->free[--index->n_free] : index->n_fresh++;
    index->slots[value->slot] = value;
}

void mkv_index_give_slot(mkv_index *index, const mkv_value *value)
{
    index->slots[value->slot] = NULL;
    index->free[index->n_free++] = value->slot;
}

mkv_value *mkv_index_scan(const mkv_index *index, const uint8_t *name_space,
                          uint32_t name_space_len, uint32_t *slot, uint32_t most)
{
    while (most-- > 0 && *slot < index->n_fresh) {
        mkv_value *value = index->slots[(*slot)++];
        if (value != NULL && value->indexed &&
            same(value->bytes, value->name_space_len, name_space, name_space_len))
            return value;
    }
    return NULL;
}
