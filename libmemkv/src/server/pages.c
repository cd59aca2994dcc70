/* SPDX-License-Identifier: Apache-2.0
 * pages.c: first-fit over a bitmap of free pages, in ascending runs; free neighbours
 * merge by themselves.  A second bitmap says which words of the first are worth looking
 * at, so that a nearly full pool of terabytes is searched in microseconds.  The links
 * of a chain stand outside the pages.  Knows no values. */
#include "server/pages.h"

#include <sys/mman.h>

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "server/cost.h"
#include "status.h"

#define HUGE_SHIFT 21
#define HUGE_SIZE (UINT64_C(1) << HUGE_SHIFT)
#define HUGE_POOL (UINT64_C(64) << 20) /* from here on rounding costs under 4 % */
#define NO_PAGE UINT32_MAX

struct mkv_run {
    uint32_t n_pages;
    uint32_t next; /* first page of the chain's next run; void in the last */
};

static uint64_t words_of(uint64_t bits)
{
    return (bits + 63) / 64;
}

static uint64_t mapping_of(uint64_t page_size, uint32_t n_pages)
{
    uint64_t size = page_size * n_pages;
    return size < HUGE_POOL ? size : mkv_round_up(size, HUGE_SIZE);
}

uint64_t mkv_pages_cost(uint64_t page_size, uint32_t n_pages)
{
    uint64_t words = words_of(n_pages);
    return mapping_of(page_size, n_pages) + mkv_malloc_cost(n_pages * sizeof(mkv_run)) +
           mkv_malloc_cost(words * sizeof(uint64_t)) +
           mkv_malloc_cost(words_of(words) * sizeof(uint64_t));
}

/* Huge pages that the administrator has set aside, or MAP_FAILED.  They are had at once
 * or not at all: a container's limit on them strikes at first use, with SIGBUS. */
static void *map_huge(uint64_t size)
{
    if (size % HUGE_SIZE != 0)
        return MAP_FAILED;
    int flags =
        MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | HUGE_SHIFT << MAP_HUGE_SHIFT;
    void *base = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (base != MAP_FAILED && madvise(base, size, MADV_POPULATE_WRITE) != 0) {
        munmap(base, size);
        return MAP_FAILED;
    }
    return base;
}

static int map_pages(mkv_pages *pages, memkv_error *err)
{
    uint64_t size = mapping_of(pages->page_size, pages->n_pages);
    void *base = map_huge(size);
    if (base == MAP_FAILED) {
        base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
                    0);
        if (base == MAP_FAILED)
            return mkv_fail(err, MEMKV_ERR_NO_MEMORY, errno,
                            "memory: mapping %" PRIu64 " bytes of pages failed: %s",
                            size, strerror(errno));
        (void)madvise(base, size, MADV_HUGEPAGE);
    }
    (void)madvise(base, size, MADV_DONTDUMP);
    pages->base = base;
    pages->mapped = size;
    return MEMKV_OK;
}

static void mark(mkv_pages *pages, uint32_t first, uint32_t n, bool is_free)
{
    for (uint64_t page = first, end = page + n; page < end;) {
        uint64_t word = page / 64, from = page % 64;
        uint64_t count = end - page < 64 - from ? end - page : 64 - from;
        uint64_t mask = UINT64_MAX >> (64 - count) << from;
        uint64_t *bits = &pages->free[word];
        *bits = is_free ? *bits | mask : *bits & ~mask;

        uint64_t bit = UINT64_C(1) << word % 64;
        uint64_t *summary = &pages->summary[word / 64];
        *summary = *bits != 0 ? *summary | bit : *summary & ~bit;
        page += count;
    }
}

int mkv_pages_open(mkv_pages *pages, uint64_t page_size, uint32_t n_pages,
                   memkv_error *err)
{
    uint64_t words = words_of(n_pages);
    mkv_pages made = {.page_size = page_size, .n_pages = n_pages, .n_free = n_pages};
    int status = map_pages(&made, err);
    if (status != MEMKV_OK)
        return status;
    made.runs = calloc(n_pages, sizeof(*made.runs));
    made.free = calloc(words, sizeof(*made.free));
    made.summary = calloc(words_of(words), sizeof(*made.summary));
    if (made.runs == NULL || made.free == NULL || made.summary == NULL) {
        mkv_pages_close(&made);
        return mkv_fail(err, MEMKV_ERR_NO_MEMORY, ENOMEM,
                        "memory: no memory for a table of %u pages", n_pages);
    }
    mark(&made, 0, n_pages, true);
    *pages = made;
    return MEMKV_OK;
}

void mkv_pages_close(mkv_pages *pages)
{
    free(pages->summary);
    free(pages->free);
    free(pages->runs);
    munmap(pages->base, pages->mapped);
}

/* The first free page at or behind `from`, or NO_PAGE. */
static uint32_t find_free(const mkv_pages *pages, uint32_t from)
{
    if (from >= pages->n_pages)
        return NO_PAGE;
    uint64_t word = from / 64;
    uint64_t bits = pages->free[word] & UINT64_MAX << from % 64;
    if (bits != 0)
        return (uint32_t)(word * 64) + (uint32_t)__builtin_ctzll(bits);

    uint64_t n = words_of(words_of(pages->n_pages));
    uint64_t at = ++word / 64;
    if (at >= n)
        return NO_PAGE;
    bits = pages->summary[at] & UINT64_MAX << word % 64;
    while (bits == 0) {
        if (++at == n)
            return NO_PAGE;
        bits = pages->summary[at];
    }
    word = at * 64 + (uint64_t)__builtin_ctzll(bits);
    return (uint32_t)(word * 64) + (uint32_t)__builtin_ctzll(pages->free[word]);
}

/* Free pages from `first`, which is one, on; `most` are enough. */
static uint32_t count_free(const mkv_pages *pages, uint32_t first, uint32_t most)
{
    uint64_t n = 0;
    while (n < most && first + n < pages->n_pages) {
        uint64_t bit = first + n, from = bit % 64;
        uint64_t taken = ~(pages->free[bit / 64] >> from);
        uint64_t count = taken == 0 ? 64 : (uint64_t)__builtin_ctzll(taken);
        n += count;
        if (from + count < 64)
            break;
    }
    return n < most ? (uint32_t)n : most;
}

static void append_run(mkv_pages *pages, mkv_chain *chain, uint32_t first, uint32_t n)
{
    mkv_run *last = &pages->runs[chain->last];
    if (chain->n_pages > 0 && chain->last + last->n_pages == first) {
        last->n_pages += n;
    } else {
        pages->runs[first] = (mkv_run){.n_pages = n};
        if (chain->n_pages > 0)
            last->next = first;
        else
            chain->first = first;
        chain->last = first;
    }
    chain->n_pages += n;
}

bool mkv_pages_take(mkv_pages *pages, mkv_chain *chain, uint32_t n)
{
    if (n > pages->n_free)
        return false;
    pages->n_free -= n;
    while (n > 0) {
        uint32_t first = find_free(pages, pages->next);
        uint32_t count = count_free(pages, first, n);
        mark(pages, first, count, false);
        append_run(pages, chain, first, count);
        pages->next = first + count;
        n -= count;
    }
    return true;
}

void mkv_pages_give(mkv_pages *pages, mkv_chain *chain)
{
    pages->n_free += chain->n_pages;
    for (uint32_t first = chain->first; chain->n_pages > 0;) {
        mkv_run run = pages->runs[first];
        mark(pages, first, run.n_pages, true);
        /* Used ones before fresh ones: the kernel clears a page at its first touch. */
        if (first < pages->next)
            pages->next = first;
        chain->n_pages -= run.n_pages;
        first = run.next;
    }
    *chain = (mkv_chain){0};
}

size_t mkv_pages_iov(const mkv_pages *pages, const mkv_chain *chain, uint64_t offset,
                     uint64_t most, struct iovec *iov, size_t cap)
{
    size_t n = 0;
    uint64_t left = chain->n_pages * pages->page_size;
    for (uint32_t first = chain->first; left > 0 && most > 0 && n < cap;) {
        const mkv_run *run = &pages->runs[first];
        uint64_t size = run->n_pages * pages->page_size;
        if (offset < size) {
            uint64_t len = size - offset < most ? size - offset : most;
            iov[n].iov_base = pages->base + first * pages->page_size + offset;
            iov[n++].iov_len = len;
            most -= len;
            offset = 0;
        } else {
            offset -= size;
        }
        left -= size;
        first = run->next;
    }
    return n;
}
