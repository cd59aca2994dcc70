/* index.h: (namespace, key) -> value: a hash table of fixed size, and a slot for each
 * value, so that a listing can go on where it stopped while values come and go.  Knows
 * neither time nor eviction.  Under the store's lock, but for mkv_index_hash.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef MKV_INDEX_H
#define MKV_INDEX_H

#include "server/pages.h"
#include "server/policy.h"
#include "server/store.h"

struct mkv_value {
    mkv_value *next; /* in its bucket */
    mkv_rank rank;
    mkv_ring lease; /* alone: not leased */
    const mkv_pages *pages;
    mkv_chain chain;
    uint32_t slot;
    uint64_t hash; /* of namespace and key */
    uint64_t length;
    uint64_t checksum;
    uint64_t generation; /* 0: not committed */
    uint64_t used_ms;
    uint64_t expires_ms; /* UINT64_MAX: never */
    uint64_t leased_until_ms;
    uint8_t *bytes; /* namespace, key, header */
    uint32_t block; /* bytes of malloc, those included */
    uint32_t references;
    uint16_t name_space_len;
    uint16_t key_len;
    uint16_t header_len;
    bool indexed;
};

typedef struct mkv_index {
    mkv_value **buckets;
    uint64_t n_buckets; /* a power of two */
    mkv_value **slots;
    uint32_t *free; /* slots used before: a stack */
    uint32_t n_free;
    uint32_t n_fresh; /* slots from here on were never used */
    uint32_t n_slots;
    uint8_t secret[16]; /* nobody outside can make keys collide */
} mkv_index;

uint64_t mkv_index_cost(uint32_t n_slots); /* all the memory that open takes */
int mkv_index_open(mkv_index *index, uint32_t n_slots, memkv_error *err);
void mkv_index_close(mkv_index *index); /* the values are the caller's */

uint64_t mkv_index_hash(const mkv_index *index, const mkv_name *name);
mkv_value *mkv_index_find(const mkv_index *index, const mkv_name *name, uint64_t hash);
/* Assumes: the value has a slot, and no other of its name is indexed. */
void mkv_index_insert(mkv_index *index, mkv_value *value);
void mkv_index_remove(mkv_index *index, mkv_value *value);

/* Assumes: fewer than n_slots are in use. */
void mkv_index_take_slot(mkv_index *index, mkv_value *value);
void mkv_index_give_slot(mkv_index *index, const mkv_value *value);
/* The first indexed value of the namespace in slots from *slot on, at most `most` of
 * them; moves *slot behind the last one seen.  NULL: none among those. */
mkv_value *mkv_index_scan(const mkv_index *index, const uint8_t *name_space,
                          uint32_t name_space_len, uint32_t *slot, uint32_t most);

#endif
