/* info.c: what a server tells of itself (info.h).
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/info.h"

#include <inttypes.h>
#include <stdarg.h>
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

/* Appends; what does not fit is left out, as is all that follows. */
__attribute__((format(printf, 3, 4))) static void add(char *text, size_t *len,
                                                      const char *format, ...)
{
    va_list args;

    va_start(args, format);
    int n = vsnprintf(text + *len, MKV_INFO_TEXT - *len, format, args);
    va_end(args);
    if (n > 0 && (size_t)n < MKV_INFO_TEXT - *len)
        *len += (size_t)n;
}

/* What is no printable ASCII is a question mark. */
static void add_quoted(char *text, size_t *len, const char *from)
{
    for (; *from != '\0'; from++)
        add(text, len, *from == '"' || *from == '\\' ? "\\%c" : "%c",
            *from >= ' ' && *from <= '~' ? *from : '?');
}

size_t mkv_info_text(mkv_service *service, uint64_t now_ms, char text[MKV_INFO_TEXT])
{
    memkv_stat stats[MAX_STATS];
    size_t len = 0;

    size_t n = mkv_info_stats(service, stats, MAX_STATS);
    add(text, &len, "{\"name\":\"");
    add_quoted(text, &len, service->name);
    add(text, &len,
        "\",\"version\":\"%s\",\"boot_id\":\"%016" PRIx64 "\",\"uptime_ms\":%" PRIu64
        ",\"auth\":%s",
        memkv_version(), service->self.id, now_ms - service->started_ms,
        service->self.key != NULL ? "true" : "false");
    for (size_t i = 0; i < n && i < MAX_STATS; i++)
        add(text, &len, ",\"%s\":%" PRIu64, stats[i].name, stats[i].value);
    add(text, &len, ",\"rdma\":\"");
    add_quoted(text, &len, service->rdma_text);
    add(text, &len, "\"}");
    return len;
}
