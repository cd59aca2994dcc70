/* fake_verbs.h: the strings of the fake libibverbs.  libfake_verbs.so has the ibv_ symbols
 * that libmemkv loads, for queue pairs of one process: a thread of its own, the NIC,
 * copies bytes once memory, keys, access and the states of both ends are in order, so
 * that a sanitizer sees every touch that comes too early or too late.
 *
 * Reached by dlsym, or from Python by ctypes; the environment variable FAKE_VERBS is the
 * first script.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef MKV_FAKE_VERBS_H
#define MKV_FAKE_VERBS_H

#include <stdint.h>

/* Words and numbers, commands end with ";".  0, or -1 where a command is unknown (those
 * before it have been done).  Any thread.
 *
 *     device NAME KIND GID...  kind roce, ib, iwarp or down; the first such command of a
 *                              script clears those there are.  Default: fake0 and fake1,
 *                              roce, 192.0.2.1 and 192.0.2.2.  For devices opened later
 *     hold / go                the NIC does nothing / goes on
 *     pace US                  it takes that long for each 16 KiB
 *     lag US                   a receive completes that much later than its WRITE
 *     break N                  the N-th work request from now on fails, as if the peer
 *                              were gone, and with it its queue pair
 *     lose N                   the N-th work request from now on never completes
 *     refuse CALL              it fails with ENOMEM from now on: get_device_list,
 *                              open_device, query_port, reg_mr, create_channel,
 *                              create_cq, create_qp, modify_qp, post_send, poll_cq
 *     accept                   nothing is refused any more
 *     refuse_reg_mr N          the N-th registration from now on fails with ENOMEM
 *     slow_reg_mr US           each takes that long
 *     max_mr_size BYTES        of devices; a larger registration fails with EINVAL
 *     ports N                  so many has each device; only the first can be asked
 *     unplug NAME              this device is gone from now on, as the kernel shows it:
 *                              calls fail with EIO, nothing completes, and the channels
 *                              that it has now are in error (POLLERR)
 *     reset                    as at the start, but for devices that are open */
int fake_verbs_script(const char *commands);

typedef struct fake_verbs_counts { /* objects that exist, and what was done so far */
    uint32_t contexts;
    uint32_t pds;
    uint32_t regions;
    uint32_t channels;
    uint32_t cqs;
    uint32_t qps;
    uint64_t requests; /* carried out */
    uint64_t bytes;    /* copied */
    uint64_t registrations;
} fake_verbs_counts;
void fake_verbs_count(fake_verbs_counts *out);

#endif
