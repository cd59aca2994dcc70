/* store.h: what the server keeps: index, policy and pages under one lock.  No I/O; the
 * clock is an argument (now_ms, monotonic).  Any thread may call any function; a
 * mkv_value reference and a mkv_put belong to one thread at a time.
 *
 * The bound is hard and counts everything: pages, keys, headers, index, puts in flight.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef MKV_STORE_H
#define MKV_STORE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "memkv/memkv.h"

typedef struct mkv_store mkv_store;
typedef struct mkv_value mkv_value; /* a referenced, committed value: immutable */
typedef struct mkv_put mkv_put;     /* a reservation: invisible until committed */

typedef struct mkv_store_config {
    uint64_t memory;
    uint64_t page_size;
    uint64_t default_ttl_ms;
} mkv_store_config;

/* INVALID (err names the setting, its value and what would be right), NO_MEMORY. */
int mkv_store_open(const mkv_store_config *config, mkv_store **out, memkv_error *err);
void mkv_store_close(mkv_store *store); /* no value or put may be left */
/* The one mapping that all payload lies in. */
struct iovec mkv_store_pool(const mkv_store *store);

typedef struct mkv_name { /* a key in its namespace */
    const uint8_t *name_space;
    uint32_t name_space_len;
    const uint8_t *key;
    uint32_t key_len;
} mkv_name;

typedef struct mkv_value_info {
    const uint8_t *key; /* these two are valid while the reference is held */
    const uint8_t *header;
    uint32_t key_len;
    uint32_t header_len;
    uint64_t length;
    uint64_t checksum;
    uint64_t generation;
    uint64_t idle_ms; /* since it was last read or put */
    bool leased;
} mkv_value_info;

/* Takes a reference and counts as a use.  lease_ms > 0: in the same step, leased_until =
 * max(old, now + lease), if at most half the pool is leased then; info.leased says so.
 * NOT_FOUND.  BUSY: `to_send` asked for and too many bytes are referenced already. */
int mkv_store_find(mkv_store *store, const mkv_name *name, uint64_t now_ms,
                   uint32_t lease_ms, bool to_send, mkv_value **out,
                   mkv_value_info *info);
/* The payload from `offset`, at most `most` bytes, neighbouring pages merged; returns the
 * iovecs filled. */
size_t mkv_value_iov(const mkv_value *value, uint64_t offset, uint64_t most,
                     struct iovec *iov, size_t cap);
void mkv_value_release(mkv_store *store, mkv_value *value); /* NULL is fine */

typedef struct mkv_put_request {
    mkv_name name;
    const uint8_t *header;
    uint32_t header_len;
    uint64_t length;
    uint64_t checksum;
    uint32_t ttl_ms;
    uint32_t depth;
    uint64_t group;
} mkv_put_request;

/* Copies all that is pointed to.  EXISTS: there with the same header.  TOO_LARGE: over a
 * quarter of the pool, or MEMKV_MAX_VALUE.  FULL: nothing may be evicted, or puts in
 * flight hold their quarter already. */
int mkv_store_reserve(mkv_store *store, const mkv_put_request *request, uint64_t now_ms,
                      mkv_put **out);
/* Takes pages for the next bytes of the payload (as many as `most` needs, at least one
 * page) and names their memory; the put's offset moves on by their sum, which never
 * passes its length.  FULL: no page to be had; drop the put. */
int mkv_put_grow(mkv_store *store, mkv_put *put, uint64_t most, uint64_t now_ms,
                 struct iovec *iov, size_t cap, size_t *n);
/* What has grown so far, as mkv_value_iov. */
size_t mkv_put_iov(const mkv_put *put, uint64_t offset, uint64_t most,
                   struct iovec *iov, size_t cap);
/* Visible from now on, replacing a value of another header.  The put must have grown to
 * its length.  EXISTS: another one with this header was first.  The put is gone either
 * way. */
int mkv_store_commit(mkv_store *store, mkv_put *put, uint64_t now_ms);
void mkv_store_drop(mkv_store *store, mkv_put *put); /* NULL is fine */

/* generation 0: whatever is there.  Readers keep what they hold.  NOT_FOUND. */
int mkv_store_delete(mkv_store *store, const mkv_name *name, uint64_t generation,
                     uint64_t now_ms);

/* The next value of the namespace behind *cursor (0 to begin); moves *cursor.  Takes a
 * reference, counts as no use.  NOT_FOUND: the end. */
int mkv_store_list(mkv_store *store, const uint8_t *name_space, uint32_t name_space_len,
                   uint64_t now_ms, uint32_t *cursor, mkv_value **out,
                   mkv_value_info *info);

typedef struct mkv_store_stats {
    uint64_t values, capacity_bytes, used_bytes, payload_bytes, leased_bytes;
    uint64_t referenced_bytes, put_bytes; /* being sent; in flight */
    uint64_t evictions, evicted_bytes, expirations;
} mkv_store_stats;
void mkv_store_stats_read(mkv_store *store, mkv_store_stats *out);

#endif
