/* counters.h: what a client has counted for one server since it was opened.  Relaxed:
 * nobody decides anything by them.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef MKV_CLIENT_COUNTERS_H
#define MKV_CLIENT_COUNTERS_H

#include <stdatomic.h>
#include <stdint.h>

typedef enum mkv_counter {
    MKV_STAT_OPS,
    MKV_STAT_HITS,
    MKV_GET_OPS,
    MKV_GET_HITS,
    MKV_GET_BYTES,
    MKV_PUT_OPS,
    MKV_PUT_STORED,
    MKV_PUT_BYTES,
    MKV_DELETE_OPS,
    MKV_BYTES_REMOTE, /* payload moved by RDMA, both ways */
    MKV_BYTES_INLINE, /* payload moved on the stream, both ways */
    MKV_LINKS_BROKEN,
    MKV_TIMEOUTS,
    MKV_CHECKSUM_FAILURES,
    MKV_RETRIES,
    MKV_DIALS,
    MKV_DISCONNECTS,
    MKV_MISS_ABSENT, /* this and those below: a STAT or a GET ended with that status */
    MKV_MISS_TOO_SMALL,
    MKV_MISS_CHECKSUM,
    MKV_MISS_DRAINING,
    MKV_MISS_BUSY,
    MKV_MISS_TIMEOUT,
    MKV_MISS_DOWN,
    MKV_MISS_PROTOCOL,
    MKV_MISS_VERSION,
    MKV_MISS_AUTH,
    MKV_MISS_CLOSED,
    MKV_MISS_OTHER,
    MKV_N_COUNTERS
} mkv_counter;

typedef _Atomic uint64_t mkv_client_counters[MKV_N_COUNTERS];

/* Static, such as "get_bytes" and "miss_timeout". */
const char *mkv_client_counter_name(mkv_counter counter);
/* Which miss a status other than OK is. */
mkv_counter mkv_client_miss(int status);

#endif
