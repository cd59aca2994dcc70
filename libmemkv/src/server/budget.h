/* budget.h: how the memory of a store is divided, and sums of what it can run out of.
 * Pure: allocates nothing, knows no values.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef MKV_BUDGET_H
#define MKV_BUDGET_H

#include <stdbool.h>
#include <stdint.h>

#include "memkv/memkv.h"

typedef struct mkv_amount {
    uint64_t pages;
    uint64_t slots; /* of the index */
    uint64_t bytes; /* of the blocks that hold keys and headers */
} mkv_amount;

typedef struct mkv_budget {
    mkv_amount capacity; /* for all values */
    mkv_amount puts;   /* for those in flight: a quarter of the pages, half the rest */
    mkv_amount leases; /* for those leased: half */
    uint64_t tables;   /* bytes of memory that are neither pages nor blocks */
} mkv_budget;

/* fixed: bytes that a store takes beside pages, index and blocks.  largest_block: bytes
 * of the block with the longest key and header.  INVALID: err names the setting
 * (`memory`, `page_size`), its value and what would be right. */
int mkv_budget_make(uint64_t memory, uint64_t page_size, uint64_t fixed,
                    uint64_t largest_block, mkv_budget *out, memkv_error *err);

static inline void mkv_amount_add(mkv_amount *sum, mkv_amount more)
{
    sum->pages += more.pages;
    sum->slots += more.slots;
    sum->bytes += more.bytes;
}

static inline void mkv_amount_subtract(mkv_amount *sum, mkv_amount less)
{
    sum->pages -= less.pages;
    sum->slots -= less.slots;
    sum->bytes -= less.bytes;
}

static inline bool mkv_amount_fits(mkv_amount held, mkv_amount more, mkv_amount bound)
{
    return held.pages + more.pages <= bound.pages &&
           held.slots + more.slots <= bound.slots &&
           held.bytes + more.bytes <= bound.bytes;
}

#endif
