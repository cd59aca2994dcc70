/* counters.h: what a server has counted since it was opened.  Any thread; relaxed, since
 * nobody decides anything by them.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef MKV_COUNTERS_H
#define MKV_COUNTERS_H

#include <stdatomic.h>
#include <stdint.h>

typedef enum mkv_server_counter {
    MKV_COUNT_STAT_REQUESTS,
    MKV_COUNT_STAT_ITEMS,
    MKV_COUNT_STAT_HITS,
    MKV_COUNT_GET_REQUESTS,
    MKV_COUNT_GET_ITEMS,
    MKV_COUNT_GET_HITS, /* answered with the value; too small a buffer is none */
    MKV_COUNT_GET_BYTES,
    MKV_COUNT_PUT_REQUESTS,
    MKV_COUNT_PUT_ITEMS,
    MKV_COUNT_PUT_STORED, /* items that are readable for it; those there are not in it */
    MKV_COUNT_PUT_BYTES,  /* of the items stored */
    MKV_COUNT_DELETE_REQUESTS,
    MKV_COUNT_DELETE_ITEMS,
    MKV_COUNT_BAD_VALUES,   /* found damaged when a reader complained, and dropped */
    MKV_COUNT_BYTES_REMOTE, /* payload moved by RDMA, both ways */
    MKV_COUNT_BYTES_INLINE, /* payload moved on the stream, both ways */
    MKV_COUNT_LINKS_BROKEN,
    MKV_COUNT_LIST_REQUESTS,
    MKV_COUNT_OTHER_REQUESTS,
    MKV_COUNT_TIMEOUTS, /* items answered so */
    MKV_COUNT_AUTH_FAILURES,
    MKV_COUNT_PROTOCOL_ERRORS,
    MKV_COUNT_CONNECTIONS_TOTAL,
    MKV_COUNT_CONNECTIONS_REFUSED,   /* over max_connections */
    MKV_COUNT_CONNECTIONS_TIMED_OUT, /* closed for being slow or stuck */
    MKV_N_SERVER_COUNTERS
} mkv_server_counter;

typedef struct mkv_counters {
    atomic_uint_fast64_t values[MKV_N_SERVER_COUNTERS];
} mkv_counters;

void mkv_count(mkv_counters *counters, mkv_server_counter which, uint64_t n);
uint64_t mkv_counter_read(mkv_counters *counters, mkv_server_counter which);
/* Static, such as "get_bytes". */
const char *mkv_counter_name(mkv_server_counter which);

#endif
