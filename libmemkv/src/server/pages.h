/* pages.h: the memory of payloads: one mapping, cut into pages of one size.  A chain of
 * pages holds one value, in runs of neighbours, so that a transfer gathers few pieces.
 * Knows no values, no lock and no clock: whoever calls holds the store's lock, but for
 * mkv_pages_iov.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef MKV_PAGES_H
#define MKV_PAGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "memkv/memkv.h"

#define MKV_MIN_PAGE_SIZE 4096    /* a smaller page costs more to keep than it saves */
#define MKV_MAX_PAGE_SIZE 1048576 /* a larger one wastes half of the smallest chunks */
#define MKV_MAX_PAGES UINT32_MAX

typedef struct mkv_run mkv_run;

typedef struct mkv_pages {
    uint8_t *base;
    uint64_t mapped; /* bytes */
    uint64_t page_size;
    mkv_run *runs;     /* by first page, of those taken */
    uint64_t *free;    /* a bit a page */
    uint64_t *summary; /* a bit a word of `free` that is not zero */
    uint32_t n_pages;
    uint32_t n_free;
    uint32_t next; /* none before it is free */
} mkv_pages;

typedef struct mkv_chain { /* all zero: empty */
    uint32_t first;        /* of the first run */
    uint32_t last;         /* of the last run: its first page */
    uint32_t n_pages;
} mkv_chain;

/* All the memory that open takes, or will take once every page is used. */
uint64_t mkv_pages_cost(uint64_t page_size, uint32_t n_pages);
/* page_size is a power of two within the limits.  Touches no page, but for huge pages
 * that were set aside for this.  NO_MEMORY. */
int mkv_pages_open(mkv_pages *pages, uint64_t page_size, uint32_t n_pages,
                   memkv_error *err);
void mkv_pages_close(mkv_pages *pages);

/* Appends n pages to the chain; false: fewer are free, and nothing is changed. */
bool mkv_pages_take(mkv_pages *pages, mkv_chain *chain, uint32_t n);
/* Frees the chain's pages and empties it. */
void mkv_pages_give(mkv_pages *pages, mkv_chain *chain);

/* The chain's memory from `offset`, at most `most` bytes, a run a piece; returns the
 * iovecs filled.  Any thread that holds the chain, without the lock. */
size_t mkv_pages_iov(const mkv_pages *pages, const mkv_chain *chain, uint64_t offset,
                     uint64_t most, struct iovec *iov, size_t cap);

#endif
