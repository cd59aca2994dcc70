/* info.c: what a server tells of itself (info.h).
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/info.h"

#include "text.h"

#include <inttypes.h>
#include <stdio.h>

#define MAX_STATS 64

size_t mkv_info_stats(mkv_service *service, memkv_stat *out, size_t cap)
{
    mkv_store_stats store;
    mkv_store_stats_read(service->store, &store);
    const memkv_stat gauges[] = {
        {"connections", service->connections},
        {"workers", service->workers},
        {"table_bytes", service->table_bytes},
        {"answer_bytes", service->answers.bytes},
        {"values", store.values},
        {"capacity_bytes", store.capacity_bytes},
        {"used_bytes", store.used_bytes},
        {"payload_bytes", store.payload_bytes},
        {"leased_bytes", store.leased_bytes},
        {"referenced_bytes", store.referenced_bytes},
        {"arriving_bytes", store.put_bytes},
        {"evictions", store.evictions},
        {"evicted_bytes", store.evicted_bytes},
        {"expirations", store.expirations},
    };
    const size_t n_gauges = sizeof gauges / sizeof gauges[0];
    size_t n = 0;

    for (int which = 0; which < MKV_N_SERVER_COUNTERS; which++, n++) {
        if (n < cap)
            out[n] = (memkv_stat){
                mkv_counter_name((mkv_server_counter)which),
                mkv_counter_read(&service->counters, (mkv_server_counter)which)};
    }
    for (size_t i = 0; i < n_gauges; i++, n++) {
        if (n < cap)
            out[n] = gauges[i];
    }
    return n;
}

void mkv_info_refused(mkv_service *service, const memkv_error *why)
{
    pthread_mutex_lock(&service->refused_lock);
    snprintf(service->refused, sizeof service->refused, "%s", why->text);
    pthread_mutex_unlock(&service->refused_lock);
}

size_t mkv_info_text(mkv_service *service, uint64_t now_ms, char text[MKV_INFO_TEXT])
{
    memkv_stat stats[MAX_STATS];
    mkv_text out = {.at = text, .cap = MKV_INFO_TEXT};

    size_t n = mkv_info_stats(service, stats, MAX_STATS);
    mkv_text_add(&out, "{\"name\":");
    mkv_text_add_quoted(&out, service->name);
    mkv_text_add(&out,
                 ",\"version\":\"%s\",\"boot_id\":\"%016" PRIx64
                 "\",\"uptime_ms\":%" PRIu64 ",\"auth\":%s",
                 memkv_version(), service->self.id, now_ms - service->started_ms,
                 service->self.key != NULL ? "true" : "false");
    for (size_t i = 0; i < n && i < MAX_STATS; i++)
        mkv_text_add(&out, ",\"%s\":%" PRIu64, stats[i].name, stats[i].value);
    mkv_text_add(&out, ",\"rdma\":");
    mkv_text_add_quoted(&out, service->rdma_text);
    mkv_text_add(&out, ",\"rdma_refused\":");
    pthread_mutex_lock(&service->refused_lock);
    mkv_text_add_quoted(&out, service->refused);
    pthread_mutex_unlock(&service->refused_lock);
    mkv_text_add(&out, "}");
    return out.len < MKV_INFO_TEXT ? out.len : MKV_INFO_TEXT - 1;
}
