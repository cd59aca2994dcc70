/* counters.c: the names of a client's counters, and which miss a status is (counters.h).
 * The names are part of the public surface: memkv_client_stats shows them.
 * SPDX-License-Identifier: Apache-2.0 */
#include "client/counters.h"

#include "memkv/memkv.h"

static const char *const names[MKV_N_COUNTERS] = {
    [MKV_STAT_OPS] = "stat_ops",
    [MKV_STAT_HITS] = "stat_hits",
    [MKV_GET_OPS] = "get_ops",
    [MKV_GET_HITS] = "get_hits",
    [MKV_GET_BYTES] = "get_bytes",
    [MKV_PUT_OPS] = "put_ops",
    [MKV_PUT_STORED] = "put_stored",
    [MKV_PUT_BYTES] = "put_bytes",
    [MKV_DELETE_OPS] = "delete_ops",
    [MKV_BYTES_REMOTE] = "bytes_remote",
    [MKV_BYTES_INLINE] = "bytes_inline",
    [MKV_LINKS_BROKEN] = "links_broken",
    [MKV_TIMEOUTS] = "timeouts",
    [MKV_CHECKSUM_FAILURES] = "checksum_failures",
    [MKV_RETRIES] = "retries",
    [MKV_DIALS] = "dials",
    [MKV_DISCONNECTS] = "disconnects",
    [MKV_MISS_ABSENT] = "miss_absent",
    [MKV_MISS_TOO_SMALL] = "miss_header_mismatch",
    [MKV_MISS_CHECKSUM] = "miss_checksum",
    [MKV_MISS_DRAINING] = "miss_server_draining",
    [MKV_MISS_BUSY] = "miss_server_busy",
    [MKV_MISS_TIMEOUT] = "miss_timeout",
    [MKV_MISS_DOWN] = "miss_server_down",
    [MKV_MISS_PROTOCOL] = "miss_protocol",
    [MKV_MISS_VERSION] = "miss_version",
    [MKV_MISS_AUTH] = "miss_auth",
    [MKV_MISS_CLOSED] = "miss_closed",
    [MKV_MISS_OTHER] = "miss_other",
};

const char *mkv_client_counter_name(mkv_counter counter)
{
    return names[counter];
}

mkv_counter mkv_client_miss(int status)
{
    switch (status) {
    case MEMKV_ERR_NOT_FOUND:
        return MKV_MISS_ABSENT;
    case MEMKV_ERR_TOO_SMALL:
        return MKV_MISS_TOO_SMALL;
    case MEMKV_ERR_CHECKSUM:
        return MKV_MISS_CHECKSUM;
    case MEMKV_ERR_DRAINING:
        return MKV_MISS_DRAINING;
    case MEMKV_ERR_BUSY:
        return MKV_MISS_BUSY;
    case MEMKV_ERR_TIMEOUT:
        return MKV_MISS_TIMEOUT;
    case MEMKV_ERR_UNREACHABLE:
    case MEMKV_ERR_DISCONNECTED:
        return MKV_MISS_DOWN;
    case MEMKV_ERR_PROTOCOL:
        return MKV_MISS_PROTOCOL;
    case MEMKV_ERR_VERSION:
        return MKV_MISS_VERSION;
    case MEMKV_ERR_AUTH:
        return MKV_MISS_AUTH;
    case MEMKV_ERR_CLOSED:
        return MKV_MISS_CLOSED;
    default:
        return MKV_MISS_OTHER;
    }
}
