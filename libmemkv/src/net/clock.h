/* clock.h: the monotonic clock.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef MKV_CLOCK_H
#define MKV_CLOCK_H

#include <stdint.h>
#include <time.h>

#define MKV_NS_PER_MS INT64_C(1000000)

static inline int64_t mkv_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

#endif
