/* counters.c: the server's counters and their names (counters.h).  The names are part of
 * the public surface: memkv_server_stats, INFO and the metrics show them.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/counters.h"

static const char *const names[MKV_N_SERVER_COUNTERS] = {
    [MKV_COUNT_STAT_REQUESTS] = "stat_requests",
    [MKV_COUNT_STAT_ITEMS] = "stat_items",
    [MKV_COUNT_STAT_HITS] = "stat_hits",
    [MKV_COUNT_GET_REQUESTS] = "get_requests",
    [MKV_COUNT_GET_ITEMS] = "get_items",
    [MKV_COUNT_GET_HITS] = "get_hits",
    [MKV_COUNT_GET_BYTES] = "get_bytes",
    [MKV_COUNT_PUT_REQUESTS] = "put_requests",
    [MKV_COUNT_PUT_ITEMS] = "put_items",
    [MKV_COUNT_PUT_STORED] = "put_stored",
    [MKV_COUNT_PUT_BYTES] = "put_bytes",
    [MKV_COUNT_DELETE_REQUESTS] = "delete_requests",
    [MKV_COUNT_DELETE_ITEMS] = "delete_items",
    [MKV_COUNT_BAD_VALUES] = "bad_values",
    [MKV_COUNT_BYTES_REMOTE] = "bytes_remote",
    [MKV_COUNT_BYTES_INLINE] = "bytes_inline",
    [MKV_COUNT_LINKS_BROKEN] = "links_broken",
    [MKV_COUNT_LIST_REQUESTS] = "list_requests",
    [MKV_COUNT_OTHER_REQUESTS] = "other_requests",
    [MKV_COUNT_TIMEOUTS] = "timeouts",
    [MKV_COUNT_AUTH_FAILURES] = "auth_failures",
    [MKV_COUNT_PROTOCOL_ERRORS] = "protocol_errors",
    [MKV_COUNT_CONNECTIONS_TOTAL] = "connections_total",
    [MKV_COUNT_CONNECTIONS_REFUSED] = "connections_refused",
    [MKV_COUNT_CONNECTIONS_TIMED_OUT] = "connections_timed_out",
};

void mkv_count(mkv_counters *counters, mkv_server_counter which, uint64_t n)
{
    if (n > 0)
        atomic_fetch_add_explicit(&counters->values[which], n, memory_order_relaxed);
}

uint64_t mkv_counter_read(mkv_counters *counters, mkv_server_counter which)
{
    return atomic_load_explicit(&counters->values[which], memory_order_relaxed);
}

const char *mkv_counter_name(mkv_server_counter which)
{
    return names[which];
}
