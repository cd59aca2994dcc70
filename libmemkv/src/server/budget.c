/* SPDX-License-Identifier: Apache-2.0
 * budget.c: divides the memory of a store into pages, which are mapped once, tables,
 * and a share for the blocks of values.  Knows no values. */
#include "server/budget.h"

#include <inttypes.h>

#include "server/index.h"
#include "server/pages.h"
#include "status.h"

#define MIN_PAGES 4          /* the largest value is a quarter of them */
#define MIN_SLOTS 64         /* small and empty values in a small pool */
#define BLOCKS_DIVISOR 64    /* the share of blocks: this part of the pages, ... */
#define MIN_BLOCKS_SHARE 512 /* ... or as many bytes a page, where that is more */

typedef struct layout {
    uint64_t page_size;
    uint64_t fixed;
    uint64_t largest_block;
} layout;

static uint32_t slots_for(uint32_t n_pages)
{
    return n_pages < MIN_SLOTS ? MIN_SLOTS : n_pages;
}

static uint64_t tables_for(const layout *sizes, uint32_t n_pages)
{
    return sizes->fixed + mkv_index_cost(slots_for(n_pages)) +
           mkv_pages_cost(sizes->page_size, n_pages) - sizes->page_size * n_pages;
}

/* For n pages and all that they need beside them. */
static uint64_t memory_for(const layout *sizes, uint32_t n_pages)
{
    uint64_t share = sizes->page_size / BLOCKS_DIVISOR;
    if (share < MIN_BLOCKS_SHARE)
        share = MIN_BLOCKS_SHARE;
    if (share > sizes->largest_block)
        share = sizes->largest_block;
    uint64_t blocks = share * n_pages, least = sizes->largest_block * MIN_PAGES;
    return tables_for(sizes, n_pages) + sizes->page_size * n_pages +
           (blocks < least ? least : blocks);
}

static uint32_t pages_in(uint64_t memory, const layout *sizes)
{
    uint64_t low = 0, high = memory / sizes->page_size;
    if (high > MKV_MAX_PAGES)
        high = MKV_MAX_PAGES;
    while (low < high) {
        uint64_t middle = low + (high - low + 1) / 2;
        if (memory_for(sizes, (uint32_t)middle) <= memory)
            low = middle;
        else
            high = middle - 1;
    }
    return (uint32_t)low;
}

static int check(uint64_t memory, const layout *sizes, memkv_error *err)
{
    uint64_t page_size = sizes->page_size;
    if (page_size < MKV_MIN_PAGE_SIZE || page_size > MKV_MAX_PAGE_SIZE ||
        (page_size & (page_size - 1)) != 0)
        return mkv_fail(err, MEMKV_ERR_INVALID, 0,
                        "page_size %" PRIu64 ": must be a power of two from %d to %d",
                        page_size, MKV_MIN_PAGE_SIZE, MKV_MAX_PAGE_SIZE);
    uint64_t least = memory_for(sizes, MIN_PAGES);
    uint64_t most = memory_for(sizes, MKV_MAX_PAGES);
    if (memory < least || memory > most)
        return mkv_fail(err, MEMKV_ERR_INVALID, 0,
                        "memory %" PRIu64 ": must be %s %" PRIu64
                        " bytes with page_size %" PRIu64,
                        memory, memory < least ? "at least" : "at most",
                        memory < least ? least : most, page_size);
    return MEMKV_OK;
}

int mkv_budget_make(uint64_t memory, uint64_t page_size, uint64_t fixed,
                    uint64_t largest_block, mkv_budget *out, memkv_error *err)
{
    layout sizes = {
        .page_size = page_size, .fixed = fixed, .largest_block = largest_block};
    int status = check(memory, &sizes, err);
    if (status != MEMKV_OK)
        return status;
    uint32_t n_pages = pages_in(memory, &sizes), n_slots = slots_for(n_pages);
    uint64_t tables = tables_for(&sizes, n_pages);
    uint64_t bytes = memory - tables - page_size * n_pages;
    *out = (mkv_budget){
        .capacity = {.pages = n_pages, .slots = n_slots, .bytes = bytes},
        .puts = {.pages = n_pages / 4, .slots = n_slots / 2, .bytes = bytes / 2},
        .leases = {.pages = n_pages / 2, .slots = n_slots / 2, .bytes = bytes / 2},
        .tables = tables,
    };
    return MEMKV_OK;
}
