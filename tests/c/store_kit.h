/* store_kit.h: puts and reads of a store in one line each, for its tests.  The bytes of a
 * value follow from its checksum, so that whoever finds it can tell whether they are its.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef MKV_STORE_KIT_H
#define MKV_STORE_KIT_H

#include <string.h>

#include "check.h"
#include "server/store.h"

#define KIT_PAGE ((uint64_t)4096)
#define KIT_IOVS 64

static inline mkv_store *kit_open(uint64_t memory, uint64_t default_ttl_ms)
{
    mkv_store_config config = {
        .memory = memory, .page_size = KIT_PAGE, .default_ttl_ms = default_ttl_ms};
    mkv_store *store;
    CHECK_EQ(mkv_store_open(&config, &store, NULL), MEMKV_OK);
    return store;
}

static inline mkv_store_stats kit_stats(mkv_store *store)
{
    mkv_store_stats stats;
    mkv_store_stats_read(store, &stats);
    CHECK(stats.used_bytes <= stats.capacity_bytes);
    return stats;
}

static inline mkv_name kit_name(const char *name_space, const char *key)
{
    return (mkv_name){.name_space = (const uint8_t *)name_space,
                      .name_space_len = (uint32_t)strlen(name_space),
                      .key = (const uint8_t *)key,
                      .key_len = (uint32_t)strlen(key)};
}

static inline mkv_put_request kit_request(const char *key, const char *header,
                                          uint64_t length)
{
    static uint64_t n_requests;
    return (mkv_put_request){.name = kit_name("ns", key),
                             .header = (const uint8_t *)header,
                             .header_len = (uint32_t)strlen(header),
                             .length = length,
                             .checksum =
                                 __atomic_add_fetch(&n_requests, 1, __ATOMIC_RELAXED)};
}

static inline uint8_t kit_byte(uint64_t checksum, uint64_t offset)
{
    return (uint8_t)(checksum * 31 + offset + (offset >> 12) * 7);
}

/* Brings all bytes of a put, `step` at a time. */
static inline int kit_fill(mkv_store *store, mkv_put *put,
                           const mkv_put_request *request, uint64_t step,
                           uint64_t now_ms)
{
    for (uint64_t offset = 0; offset < request->length;) {
        struct iovec iov[KIT_IOVS];
        size_t n;
        int status = mkv_put_grow(store, put, step, now_ms, iov, KIT_IOVS, &n);
        if (status != MEMKV_OK)
            return status;
        CHECK(n > 0);
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j < iov[i].iov_len; j++)
                ((uint8_t *)iov[i].iov_base)[j] = kit_byte(request->checksum, offset++);
        CHECK(offset <= request->length);
    }
    return MEMKV_OK;
}

static inline int kit_put_request(mkv_store *store, const mkv_put_request *request,
                                  uint64_t now_ms)
{
    mkv_put *put;
    int status = mkv_store_reserve(store, request, now_ms, &put);
    if (status != MEMKV_OK)
        return status;
    status = kit_fill(store, put, request, UINT64_MAX, now_ms);
    if (status == MEMKV_OK)
        return mkv_store_commit(store, put, now_ms);
    mkv_store_drop(store, put);
    return status;
}

static inline int kit_put(mkv_store *store, const char *key, uint64_t length,
                          uint64_t now_ms)
{
    mkv_put_request request = kit_request(key, "header", length);
    return kit_put_request(store, &request, now_ms);
}

static inline void kit_verify(const mkv_value *value, const mkv_value_info *info)
{
    for (uint64_t offset = 0; offset < info->length;) {
        struct iovec iov[KIT_IOVS];
        size_t n = mkv_value_iov(value, offset, UINT64_MAX, iov, KIT_IOVS);
        CHECK(n > 0);
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j < iov[i].iov_len; j++)
                CHECK_EQ(((uint8_t *)iov[i].iov_base)[j],
                         kit_byte(info->checksum, offset++));
        CHECK(offset <= info->length);
    }
}

static inline int kit_find(mkv_store *store, const char *key, uint64_t now_ms,
                           uint32_t lease_ms, mkv_value **value, mkv_value_info *info)
{
    mkv_name name = kit_name("ns", key);
    int status = mkv_store_find(store, &name, now_ms, lease_ms, false, value, info);
    if (status == MEMKV_OK)
        kit_verify(*value, info);
    return status;
}

/* Finds, checks the bytes and lets go. */
static inline int kit_get(mkv_store *store, const char *key, uint64_t now_ms)
{
    mkv_value *value;
    mkv_value_info info;
    int status = kit_find(store, key, now_ms, 0, &value, &info);
    if (status == MEMKV_OK)
        mkv_value_release(store, value);
    return status;
}

/* As kit_get; says whether the value is leased then. */
static inline bool kit_lease(mkv_store *store, const char *key, uint64_t now_ms,
                             uint32_t lease_ms)
{
    mkv_value *value;
    mkv_value_info info;
    CHECK_EQ(kit_find(store, key, now_ms, lease_ms, &value, &info), MEMKV_OK);
    mkv_value_release(store, value);
    return info.leased;
}

static inline int kit_delete(mkv_store *store, const char *key, uint64_t generation,
                             uint64_t now_ms)
{
    mkv_name name = kit_name("ns", key);
    return mkv_store_delete(store, &name, generation, now_ms);
}

#endif
