/* cost.h: what memory costs beyond its size, for a bound that counts all of it.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef MKV_COST_H
#define MKV_COST_H

#include <stdint.h>

/* Unit must be a power of two. */
static inline uint64_t mkv_round_up(uint64_t size, uint64_t unit)
{
    return (size + unit - 1) & ~(unit - 1);
}

/* Of one block of malloc: its header, and rounding to its grain.  Large blocks get a
 * mapping of their own, in pages of the system. */
static inline uint64_t mkv_malloc_cost(uint64_t size)
{
    return mkv_round_up(size + 16, size < 131072 ? 16 : 4096);
}

#endif
