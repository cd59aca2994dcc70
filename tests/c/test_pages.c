/* SPDX-License-Identifier: Apache-2.0
 * test_pages.c: chains hold pages that nobody else holds, in ascending runs, and their
 * iovecs name exactly the bytes asked for.  Knows no values. */
#include "server/pages.h"

#include <string.h>

#include "check.h"

#define PAGE ((uint64_t)MKV_MIN_PAGE_SIZE)
#define MOST_IOVS 512

static mkv_pages open_pages(uint32_t n)
{
    mkv_pages pages;
    CHECK_EQ(mkv_pages_open(&pages, PAGE, n, NULL), MEMKV_OK);
    return pages;
}

static size_t pieces(const mkv_pages *pages, const mkv_chain *chain)
{
    struct iovec iov[MOST_IOVS];
    size_t n = mkv_pages_iov(pages, chain, 0, UINT64_MAX, iov, MOST_IOVS);
    uint64_t sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += iov[i].iov_len;
    CHECK_EQ(sum, chain->n_pages * PAGE);
    return n;
}

static void test_neighbours_are_one_piece(void)
{
    mkv_pages pages = open_pages(300);
    mkv_chain chain = {0};
    struct iovec iov;
    CHECK(mkv_pages_take(&pages, &chain, 3));
    CHECK(mkv_pages_take(&pages, &chain, 1));
    CHECK(mkv_pages_take(&pages, &chain, 200));
    CHECK_EQ(pieces(&pages, &chain), 1);
    CHECK_EQ(mkv_pages_iov(&pages, &chain, 100, 5 * PAGE, &iov, 1), 1);
    CHECK(iov.iov_base == pages.base + 100);
    CHECK_EQ(iov.iov_len, 5 * PAGE);
    mkv_pages_close(&pages);
}

static void test_chain_grown_beside_another_is_in_runs(void)
{
    mkv_pages pages = open_pages(64);
    mkv_chain a = {0}, b = {0};
    for (int i = 0; i < 4; i++) {
        CHECK(mkv_pages_take(&pages, &a, 2));
        CHECK(mkv_pages_take(&pages, &b, 1));
    }
    CHECK_EQ(pieces(&pages, &a), 4);
    CHECK_EQ(pieces(&pages, &b), 4);

    struct iovec iov[4];
    size_t n = mkv_pages_iov(&pages, &a, 2 * PAGE - 10, 2 * PAGE + 20, iov, 4);
    CHECK_EQ(n, 3);
    CHECK(iov[0].iov_base == pages.base + 2 * PAGE - 10);
    CHECK_EQ(iov[0].iov_len, 10);
    CHECK(iov[1].iov_base == pages.base + 3 * PAGE);
    CHECK_EQ(iov[1].iov_len, 2 * PAGE);
    CHECK(iov[2].iov_base == pages.base + 6 * PAGE);
    CHECK_EQ(iov[2].iov_len, 10);
    CHECK_EQ(mkv_pages_iov(&pages, &a, 0, UINT64_MAX, iov, 2), 2);
    CHECK_EQ(mkv_pages_iov(&pages, &a, 8 * PAGE, UINT64_MAX, iov, 4), 0);
    CHECK_EQ(mkv_pages_iov(&pages, &a, 0, 0, iov, 4), 0);
    mkv_pages_close(&pages);
}

static void test_freed_neighbours_merge(void)
{
    mkv_pages pages = open_pages(8);
    mkv_chain one[8] = {0}, all = {0};
    for (size_t i = 0; i < 8; i++)
        CHECK(mkv_pages_take(&pages, &one[i], 1));
    for (size_t i = 0; i < 8; i += 2)
        mkv_pages_give(&pages, &one[i]);
    for (size_t i = 1; i < 8; i += 2)
        mkv_pages_give(&pages, &one[i]);
    CHECK(mkv_pages_take(&pages, &all, 8));
    CHECK_EQ(pieces(&pages, &all), 1);
    mkv_pages_close(&pages);
}

static void test_used_pages_are_taken_before_fresh_ones(void)
{
    mkv_pages pages = open_pages(8);
    mkv_chain a = {0}, b = {0}, c = {0};
    struct iovec iov;
    CHECK(mkv_pages_take(&pages, &a, 2));
    CHECK(mkv_pages_take(&pages, &b, 2));
    mkv_pages_give(&pages, &a);
    CHECK(mkv_pages_take(&pages, &c, 1));
    CHECK_EQ(mkv_pages_iov(&pages, &c, 0, PAGE, &iov, 1), 1);
    CHECK(iov.iov_base == pages.base);
    CHECK(mkv_pages_take(&pages, &c, 2));
    CHECK_EQ(mkv_pages_iov(&pages, &c, 2 * PAGE, PAGE, &iov, 1), 1);
    CHECK(iov.iov_base == pages.base + 4 * PAGE);
    mkv_pages_close(&pages);
}

static void test_more_than_is_free_changes_nothing(void)
{
    mkv_pages pages = open_pages(100);
    mkv_chain a = {0}, b = {0};
    CHECK(mkv_pages_take(&pages, &a, 60));
    CHECK(!mkv_pages_take(&pages, &b, 41));
    CHECK_EQ(b.n_pages, 0);
    CHECK(mkv_pages_take(&pages, &b, 40));
    CHECK(!mkv_pages_take(&pages, &b, 1));
    CHECK_EQ(b.n_pages, 40);
    mkv_pages_give(&pages, &a);
    CHECK_EQ(a.n_pages, 0);
    CHECK(mkv_pages_take(&pages, &b, 60));
    CHECK_EQ(pieces(&pages, &b), 2); /* behind the end it begins in front again */
    mkv_pages_close(&pages);
}

static void test_empty_chain_has_no_memory(void)
{
    mkv_pages pages = open_pages(4);
    mkv_chain chain = {0};
    CHECK_EQ(pieces(&pages, &chain), 0);
    CHECK(mkv_pages_take(&pages, &chain, 0));
    mkv_pages_give(&pages, &chain);
    CHECK_EQ(pages.n_free, 4);
    mkv_pages_close(&pages);
}

static void test_unmappable_pool_is_no_memory(void)
{
    mkv_pages pages;
    memkv_error err;
    memset(&pages, 0x5a, sizeof(pages));
    mkv_pages before = pages;
    CHECK_EQ(mkv_pages_open(&pages, MKV_MAX_PAGE_SIZE, UINT32_C(1) << 31, &err),
             MEMKV_ERR_NO_MEMORY);
    CHECK(strstr(err.text, "memory") != NULL);
    CHECK(memcmp(&pages, &before, sizeof(pages)) == 0);
}

/* Marks each page of the chain with its owner, or checks the marks. */
static void each_page(const mkv_pages *pages, const mkv_chain *chain, uint64_t *owner,
                      uint64_t was, uint64_t is)
{
    struct iovec iov[MOST_IOVS];
    size_t n = mkv_pages_iov(pages, chain, 0, UINT64_MAX, iov, MOST_IOVS);
    uint64_t seen = 0;
    for (size_t i = 0; i < n; i++) {
        uint64_t offset = (uint64_t)((uint8_t *)iov[i].iov_base - pages->base);
        CHECK_EQ(offset % PAGE, 0);
        for (uint64_t j = 0; j < iov[i].iov_len / PAGE; j++, seen++) {
            CHECK_EQ(owner[offset / PAGE + j], was);
            owner[offset / PAGE + j] = is;
        }
    }
    CHECK_EQ(seen, chain->n_pages);
}

/* So many that the second bitmap has several words. */
static void test_no_page_has_two_owners_or_is_lost(void)
{
    enum { PAGES = 10000, CHAINS = 200, ROUNDS = 20000 };
    static uint64_t owner[PAGES];
    mkv_pages pages = open_pages(PAGES);
    mkv_chain chains[CHAINS] = {0};
    uint32_t seed = 1, held = 0;
    for (int round = 0; round < ROUNDS; round++) {
        seed = seed * 1664525 + 1013904223;
        uint32_t i = (seed >> 8) % CHAINS, n = (seed >> 16) % 100 + 1;
        if (chains[i].n_pages > MOST_IOVS - 100 || seed >> 30 == 0) {
            each_page(&pages, &chains[i], owner, i + 1, 0);
            held -= chains[i].n_pages;
            mkv_pages_give(&pages, &chains[i]);
        } else {
            each_page(&pages, &chains[i], owner, i + 1, 0);
            bool taken = mkv_pages_take(&pages, &chains[i], n);
            CHECK_EQ(taken, held + n <= PAGES);
            held += taken ? n : 0;
            each_page(&pages, &chains[i], owner, 0, i + 1);
        }
        CHECK_EQ(pages.n_free, PAGES - held);
    }
    for (uint32_t i = 0; i < CHAINS; i++)
        mkv_pages_give(&pages, &chains[i]);
    mkv_chain all = {0};
    CHECK(mkv_pages_take(&pages, &all, PAGES));
    CHECK(pieces(&pages, &all) <= 2);
    mkv_pages_close(&pages);
}

int main(void)
{
    test_neighbours_are_one_piece();
    test_chain_grown_beside_another_is_in_runs();
    test_freed_neighbours_merge();
    test_used_pages_are_taken_before_fresh_ones();
    test_more_than_is_free_changes_nothing();
    test_empty_chain_has_no_memory();
    test_unmappable_pool_is_no_memory();
    test_no_page_has_two_owners_or_is_lost();
    return 0;
}
