/* test_rdma.c: what every verbs library must do for two links: bytes, their order behind
 * immediates, broken links and closed ones.
 *
 *     test_rdma [LIBRARY [NEAR FAR]]
 *
 * Without a library the fake one; else that one, on the devices there are, and between
 * the two that own the addresses NEAR and FAR of this host.
 * SPDX-License-Identifier: Apache-2.0 */
#include "rdma_pair.h"

#include <dirent.h>

#define LARGEST ((size_t)8 << 20)
#define MAX_PIECES 200
#define POISON 0xdb

static const char *library = MKV_FAKE_VERBS;

/* Cuts `len` bytes of random places of the memory into pieces that do not overlap, in the
 * order of their addresses. */
static size_t cut(uint8_t *bytes, size_t room, size_t len, struct iovec *iov)
{
    size_t n = 0, at = 0, gap = room - len;
    while (len > 0) {
        size_t skip = random_below(gap / 4 + 1);
        size_t piece = n == MAX_PIECES - 1 ? len : 1 + random_below(len);
        if (random_below(2) == 0 && piece > 70000 && n < MAX_PIECES - 1)
            piece = 1 + random_below(70000);
        at += skip;
        gap -= skip;
        iov[n++] = (struct iovec){bytes + at, piece};
        at += piece;
        len -= piece;
    }
    return n;
}

static bool is_same(const uint8_t *whole, const struct iovec *iov, size_t n)
{
    for (size_t i = 0; i < n; whole += iov[i++].iov_len)
        if (memcmp(whole, iov[i].iov_base, iov[i].iov_len) != 0)
            return false;
    return true;
}

static size_t random_len(void)
{
    static const size_t bounds[] = {1, 2, 5000, 300000, LARGEST + 1};
    return random_below(bounds[random_below(5)]);
}

static void test_random_values_arrive_whole_both_ways(void)
{
    pair p = pair_open(library);
    struct iovec iov[MAX_PIECES];
    random_bytes(p.bytes[0], ARENA);
    for (uint32_t i = 0; i < 60; i++) {
        const bool is_read = i % 2 == 1;
        const size_t len = random_len(), at = random_below(ARENA - len + 1);
        const size_t n = cut(p.bytes[1], ARENA, len, iov);
        if (!is_read)
            random_bytes(p.bytes[1], ARENA);
        CHECK_EQ(pair_move(&p, is_read, iov, n, at, i, i), MEMKV_OK);
        if (!is_read)
            expect_immediate(&p, i);
        else
            expect_transferred(&p, i, MEMKV_OK);
        CHECK(is_same(p.bytes[0] + at, iov, n));
        if (!is_read)
            expect_transferred(&p, i, MEMKV_OK);
    }
    pair_close(&p);
}

/* In flight at once: RECEIVES values, each in its own part of the memory. */
static void test_an_immediate_means_that_its_bytes_are_there(void)
{
    const size_t part = ARENA / RECEIVES;
    pair p = pair_open(library);
    uint32_t asked = 0, arrived = 0, done = 0;
    uint8_t mark[RECEIVES];
    size_t len[RECEIVES];

    while (arrived < 200 || done < 200) {
        for (; asked < 200 && asked - arrived < RECEIVES && asked - done < RECEIVES;
             asked++) {
            const size_t slot = asked % RECEIVES;
            len[slot] = random_below(random_below(2) == 0 ? 5000 : part);
            mark[slot] = (uint8_t)random_u64();
            memset(p.bytes[1] + slot * part, mark[slot], len[slot]);
            CHECK_EQ(pair_write(&p, slot * part, len[slot], slot * part, asked),
                     MEMKV_OK);
        }
        if (arrived < asked) {
            expect_immediate(&p, arrived);
            const size_t slot = arrived++ % RECEIVES;
            CHECK(is_all(p.bytes[0] + slot * part, len[slot], mark[slot]));
        }
        if (done < arrived)
            expect_transferred(&p, done++, MEMKV_OK);
    }
    pair_close(&p);
}

static void test_many_small_transfers_at_once_never_overrun_the_queue(void)
{
    pair p = pair_open(library);
    struct iovec iov = {p.bytes[1], 100};
    const mkv_transfer each = {.is_read = true,
                               .memory = p.memory[1],
                               .iov = &iov,
                               .n_iov = 1,
                               .address = (uintptr_t)p.bytes[0],
                               .rkey = mkv_link_rkey(p.client, p.memory[0])};
    for (uint64_t i = 0; i < 10000; i++) {
        mkv_transfer transfer = each;
        transfer.done_id = i;
        CHECK_EQ(mkv_link_transfer(p.server, &transfer), MEMKV_OK);
    }
    for (uint64_t i = 0; i < 10000; i++)
        expect_transferred(&p, i, MEMKV_OK);
    pair_close(&p);
}

static void break_by(bool wrong_key, bool wrong_address)
{
    pair p = pair_open(library);
    const struct iovec iov = {p.bytes[1], 1 << 20};
    mkv_transfer bad = {
        .memory = p.memory[1],
        .iov = &iov,
        .n_iov = 1,
        .address = (uintptr_t)p.bytes[0] + (wrong_address ? ARENA - 4096 : 0),
        .rkey = mkv_link_rkey(p.client, p.memory[0]) ^ (wrong_key ? 0x5500 : 0),
        .done_id = 2,
    };
    memset(p.bytes[1], 1, ARENA);
    CHECK_EQ(pair_write(&p, 0, 5000, 0, 0), MEMKV_OK);
    CHECK_EQ(pair_write(&p, 0, 5000, 8192, 1), MEMKV_OK);
    CHECK_EQ(mkv_link_transfer(p.server, &bad), MEMKV_OK);
    for (uint32_t i = 3; i < 6; i++)
        (void)pair_write(&p, 0, LARGEST, 1 << 20, i);
    expect_flushed(&p, 2, 6);
    CHECK_EQ(mkv_link_transfer(p.server, &bad), MEMKV_ERR_DISCONNECTED);
    CHECK(is_all(p.bytes[0] + 16384, ARENA - 4096 - 16384, 0));

    pair_disconnect(&p);
    pair_connect(&p);
    CHECK_EQ(pair_write(&p, 0, 5000, 0, 7), MEMKV_OK);
    expect_immediate(&p, 7);
    expect_transferred(&p, 7, MEMKV_OK);
    pair_close(&p);
}

static void test_a_wrong_key_breaks_the_link_and_nothing_else(void)
{
    break_by(true, false);
}

static void test_an_address_outside_breaks_the_link_and_nothing_else(void)
{
    break_by(false, true);
}

static void test_memory_that_is_no_target_is_out_of_reach(void)
{
    pair p = pair_open(library);
    mkv_memory *closed;
    CHECK_OK(mkv_memory_register(p.rdma[0], p.bytes[0], ARENA, false, &closed, &why));
    const struct iovec iov = {p.bytes[1], 4096};
    mkv_transfer transfer = {.memory = p.memory[1],
                             .iov = &iov,
                             .n_iov = 1,
                             .address = (uintptr_t)p.bytes[0],
                             .rkey = mkv_link_rkey(p.client, closed)};
    CHECK_EQ(mkv_link_transfer(p.server, &transfer), MEMKV_OK);
    expect_flushed(&p, 0, 1);
    pair_disconnect(&p);
    mkv_memory_release(closed);
    pair_close(&p);
}

static void test_a_broken_link_reports_all_that_was_outstanding(void)
{
    for (uint32_t n = 1; n < 30; n += 7) {
        pair p = pair_open(library);
        for (uint32_t i = 0; i < n; i++)
            CHECK_EQ(pair_write(&p, 0, LARGEST / n, 0, i), MEMKV_OK);
        mkv_link_break(p.server);
        expect_flushed(&p, n, n);
        pair_close(&p);
    }
}

/* A look at memory that is being written: what nobody but this test may do. */
__attribute__((no_sanitize("thread"))) static bool has_begun(const uint8_t *bytes)
{
    return *(const volatile uint8_t *)bytes != 0;
}

/* The promise that memkv_run is built on. */
static void test_nothing_is_written_once_close_has_returned(void)
{
    for (int i = 0; i < 20; i++) {
        pair p = pair_open(library);
        memset(p.bytes[1], 1, ARENA);
        for (uint32_t k = 0; k < 3; k++)
            CHECK_EQ(pair_write(&p, 0, LARGEST, k * LARGEST, k), MEMKV_OK);
        while (i % 2 == 0 && !has_begun(p.bytes[0] + random_below(LARGEST)))
            continue;
        mkv_link_close(p.client);
        p.client = NULL;
        memset(p.bytes[0], POISON, ARENA);
        mkv_link_break(p.server);
        expect_flushed(&p, 3, 3);
        CHECK(is_all(p.bytes[0], ARENA, POISON));
        pair_close(&p);
    }
}

static size_t count_descriptors(void)
{
    size_t n = 0;
    DIR *directory = opendir("/proc/self/fd");
    CHECK(directory != NULL);
    while (readdir(directory) != NULL)
        n++;
    closedir(directory);
    return n;
}

static void test_links_come_and_go_without_a_trace(void)
{
    pair p = pair_open(library);
    const size_t before = count_descriptors();
    for (uint32_t i = 0; i < 50; i++) {
        CHECK_EQ(pair_write(&p, 0, 100000, 0, i), MEMKV_OK);
        expect_immediate(&p, i);
        pair_disconnect(&p);
        pair_connect(&p);
    }
    CHECK_EQ(count_descriptors(), before);
    pair_close(&p);
}

static void test_a_link_that_never_connected_closes(void)
{
    pair p = pair_open(library);
    mkv_link *link;
    mkv_rdma_params own;
    CHECK_OK(mkv_link_open(p.rdma[0], p.sockets[0], NULL, RECEIVES, &link, &own, &why));
    CHECK(strlen(mkv_link_describe(link)) > 0);
    mkv_link_close(link);
    mkv_link_close(NULL);
    pair_close(&p);
}

static void check_unsupported(const char *from, const char *devices, const char *reason)
{
    memkv_error err = {0};
    mkv_rdma *rdma = (mkv_rdma *)1;
    CHECK_EQ(mkv_rdma_open(from, devices, &rdma, &err), MEMKV_ERR_UNSUPPORTED);
    if (strstr(err.text, reason) == NULL) {
        fprintf(stderr, "\"%s\" does not say \"%s\"\n", err.text, reason);
        exit(1);
    }
    CHECK(rdma == (mkv_rdma *)1);
}

static void test_a_missing_library_is_named(void)
{
    check_unsupported("libnothing.so.1", NULL, "libnothing.so.1");
    check_unsupported("libm.so.6", NULL, "ibv_fork_init");
}

static void test_an_unknown_device_is_named_with_those_there_are(void)
{
    check_unsupported(library, "mlx5_99", "no RDMA device \"mlx5_99\"; there is: ");
}

int main(int argc, char **argv)
{
    if (argc > 1)
        library = argv[1];
    if (argc > 3)
        pair_addresses = (const char *const *)argv + 2;
    test_random_values_arrive_whole_both_ways();
    test_an_immediate_means_that_its_bytes_are_there();
    test_many_small_transfers_at_once_never_overrun_the_queue();
    test_a_wrong_key_breaks_the_link_and_nothing_else();
    test_an_address_outside_breaks_the_link_and_nothing_else();
    test_memory_that_is_no_target_is_out_of_reach();
    test_a_broken_link_reports_all_that_was_outstanding();
    test_nothing_is_written_once_close_has_returned();
    test_links_come_and_go_without_a_trace();
    test_a_link_that_never_connected_closes();
    test_a_missing_library_is_named();
    test_an_unknown_device_is_named_with_those_there_are();
    return 0;
}
