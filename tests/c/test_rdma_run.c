/* test_rdma_run.c: client and server over RDMA, from memkv_run to the pool: values, what
 * goes inline, and every way in which a link can fail.  Without an argument on the fake
 * verbs library and its faults; with one, what that library's devices must do, too.
 * SPDX-License-Identifier: Apache-2.0 */
#include "rdma_world.h"

#define MIB ((size_t)1 << 20)
#define MEMORY (UINT64_C(512) << 20)
#define POISON 0xdb

/* ---- values -------------------------------------------------------------------------- */

static void test_values_of_every_size_survive(void)
{
    static const size_t sizes[] = {65536, 65537, MIB - 1, MIB, MIB + 1, 17 * MIB};
    host h = host_open(MEMKV_TRANSPORT_AUTO, MEMORY);
    guest g = guest_open(&h, MEMKV_TRANSPORT_AUTO);
    warm_up(&g);
    const uint64_t inline_before = counter(&g, "bytes_inline");
    for (uint32_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        char key[32];
        uint8_t *data = g.arena + i * 100;
        uint64_t moved = counter(&g, "bytes_remote");
        snprintf(key, sizeof key, "key-%u", i);
        fill(data, sizes[i], i);
        CHECK_EQ(run_one(&g, MEMKV_OP_PUT, key, data, sizes[i], WAIT_MS), MEMKV_OK);
        memset(data, POISON, sizes[i]);
        CHECK_EQ(run_one(&g, MEMKV_OP_GET, key, data, sizes[i], WAIT_MS), MEMKV_OK);
        CHECK(is_filled(data, sizes[i], i));
        CHECK_EQ(counter(&g, "bytes_remote") - moved, 2 * sizes[i]);
        CHECK_EQ(run_one(&g, MEMKV_OP_PUT, key, data, sizes[i], WAIT_MS),
                 MEMKV_ERR_EXISTS);
    }
    CHECK_EQ(counter(&g, "bytes_inline"), inline_before);
    CHECK_EQ(counter(&g, "links_broken"), 0);
    guest_close(&g);
    host_close(&h);
}

/* 64 values in one batch: several requests, frames and immediates under way. */
static void test_a_batch_of_many_values_survives(void)
{
    enum { N = 64 };
    const size_t len = 700 * 1024;
    host h = host_open(MEMKV_TRANSPORT_AUTO, MEMORY);
    guest g = guest_open(&h, MEMKV_TRANSPORT_AUTO);
    memkv_op ops[N];
    char keys[N][16];
    warm_up(&g);
    for (uint32_t i = 0; i < N; i++) {
        snprintf(keys[i], sizeof keys[i], "key-%u", i);
        fill(g.arena + i * len, len, i);
        ops[i] = op_of(MEMKV_OP_PUT, keys[i], g.arena + i * len, len);
    }
    CHECK_EQ(memkv_run(g.client, ops, N, WAIT_MS), MEMKV_OK);
    for (uint32_t i = 0; i < N; i++)
        CHECK_EQ(ops[i].status, MEMKV_OK);
    memset(g.arena, POISON, ARENA);
    for (uint32_t i = 0; i < N; i++)
        ops[i] = op_of(MEMKV_OP_GET, i % 5 == 4 ? "absent" : keys[i], g.arena + i * len,
                       len);
    CHECK_EQ(memkv_run(g.client, ops, N, WAIT_MS), MEMKV_OK);
    for (uint32_t i = 0; i < N; i++) {
        CHECK_EQ(ops[i].status, i % 5 == 4 ? MEMKV_ERR_NOT_FOUND : MEMKV_OK);
        CHECK(i % 5 == 4 ? is_all(g.arena + i * len, len, POISON)
                         : is_filled(g.arena + i * len, len, i));
    }
    guest_close(&g);
    host_close(&h);
}

static void test_small_values_and_other_memory_go_inline(void)
{
    static uint8_t elsewhere[1 << 20];
    host h = host_open(MEMKV_TRANSPORT_AUTO, MEMORY);
    guest g = guest_open(&h, MEMKV_TRANSPORT_AUTO);
    warm_up(&g);
    const uint64_t before = counter(&g, "bytes_remote");
    fill(elsewhere, MIB, 1);
    CHECK_EQ(run_one(&g, MEMKV_OP_PUT, "elsewhere", elsewhere, MIB, WAIT_MS), MEMKV_OK);
    CHECK_EQ(run_one(&g, MEMKV_OP_PUT, "small", g.arena, 65535, WAIT_MS), MEMKV_OK);
    CHECK_EQ(counter(&g, "bytes_remote"), before);
    /* over the end of the region */
    memkv_op ops[] = {op_of(MEMKV_OP_GET, "small", g.arena + ARENA - 65535, 65535),
                      op_of(MEMKV_OP_GET, "elsewhere", g.arena, MIB),
                      op_of(MEMKV_OP_GET, "small", elsewhere, 65535)};
    CHECK_EQ(memkv_run(g.client, ops, 3, WAIT_MS), MEMKV_OK);
    for (int i = 0; i < 3; i++)
        CHECK_EQ(ops[i].status, MEMKV_OK);
    CHECK(is_filled(g.arena, MIB, 1));
    CHECK_EQ(counter(&g, "bytes_remote"), before + MIB);
    /* a small value into a large room, and one that does not fit */
    memkv_op room = op_of(MEMKV_OP_GET, "small", g.arena, MIB);
    CHECK_EQ(memkv_run(g.client, &room, 1, WAIT_MS), MEMKV_OK);
    CHECK_EQ(room.status, MEMKV_OK);
    CHECK_EQ(room.data_size, 65535);
    memset(g.arena, POISON, MIB);
    CHECK_EQ(run_one(&g, MEMKV_OP_GET, "elsewhere", g.arena, MIB - 1, WAIT_MS),
             MEMKV_ERR_TOO_SMALL);
    CHECK(is_all(g.arena, MIB, POISON));
    guest_close(&g);
    host_close(&h);
}

static void test_connects_leave_nothing_behind(void)
{
    host h = host_open(MEMKV_TRANSPORT_AUTO, MEMORY);
    size_t files = 0;
    fake_verbs_counts before = {0};
    for (int i = 0; i < 50; i++) {
        guest g = guest_open(&h, MEMKV_TRANSPORT_AUTO);
        expect_state(&g, "up: rdma ");
        guest_close(&g);
        if (i == 0) {
            pause_ms(200);
            files = open_files();
            before = counts();
        }
    }
    for (int waited = 0; open_files() > files; waited++) {
        CHECK(waited < WAIT_MS);
        pause_ms(1);
    }
    const fake_verbs_counts after = counts();
    CHECK_EQ(after.qps, before.qps);
    CHECK_EQ(after.cqs, before.cqs);
    CHECK_EQ(after.channels, before.channels);
    CHECK_EQ(after.regions, before.regions);
    CHECK_EQ(after.contexts, before.contexts);
    host_close(&h);
}

/* ---- a burst ------------------------------------------------------------------------- */

enum { BURST_THREADS = 16, BURST_GETS = 625 };

typedef struct burst {
    const guest *g;
    uint8_t *data;
} burst;

static void *get_many(void *arg)
{
    const burst *b = arg;
    for (int i = 0; i < BURST_GETS; i++) {
        CHECK_EQ(run_one(b->g, MEMKV_OP_GET, "key", b->data, 65536, WAIT_MS), MEMKV_OK);
        CHECK_EQ(b->data[65535], b->data[0]);
    }
    return NULL;
}

static void test_a_burst_from_many_threads_has_no_error(void)
{
    host h = host_open(MEMKV_TRANSPORT_AUTO, MEMORY);
    guest g = guest_open(&h, MEMKV_TRANSPORT_AUTO);
    pthread_t threads[BURST_THREADS];
    burst bursts[BURST_THREADS];
    warm_up(&g);
    memset(g.arena, 7, 65536);
    CHECK_EQ(run_one(&g, MEMKV_OP_PUT, "key", g.arena, 65536, WAIT_MS), MEMKV_OK);
    for (size_t i = 0; i < BURST_THREADS; i++) {
        bursts[i] = (burst){&g, g.arena + MIB * i};
        CHECK_EQ(pthread_create(&threads[i], NULL, get_many, &bursts[i]), 0);
    }
    for (size_t i = 0; i < BURST_THREADS; i++)
        pthread_join(threads[i], NULL);
    CHECK_EQ(counter(&g, "get_hits"), BURST_THREADS * BURST_GETS);
    CHECK_EQ(counter(&g, "links_broken"), 0);
    guest_close(&g);
    host_close(&h);
}

/* ---- faults, by the fake's script ------------------------------------------------------ */

static void test_a_link_that_breaks_loses_no_value(void)
{
    const size_t len = 3 * MIB;
    host h = host_open(MEMKV_TRANSPORT_AUTO, MEMORY);
    guest g = guest_open(&h, MEMKV_TRANSPORT_AUTO);
    for (uint32_t i = 0; i < 12; i++) {
        char key[32], at[32];
        snprintf(key, sizeof key, "key-%u", i);
        snprintf(at, sizeof at, "break %u", 1 + i);
        warm_up(&g); /* it comes back by itself */
        fill(g.arena, len, i);
        if (i % 2 == 0)
            script(at);
        CHECK_EQ(run_one(&g, MEMKV_OP_PUT, key, g.arena, len, WAIT_MS), MEMKV_OK);
        memset(g.arena, POISON, len);
        if (i % 2 == 1)
            script(at);
        CHECK_EQ(run_one(&g, MEMKV_OP_GET, key, g.arena, len, WAIT_MS), MEMKV_OK);
        CHECK(is_filled(g.arena, len, i));
        script("reset");
    }
    CHECK(counter(&g, "links_broken") > 0);
    CHECK_EQ(counter(&g, "checksum_failures"), 0);
    CHECK_EQ(counter(&g, "disconnects"), 0);
    guest_close(&g);
    host_close(&h);
}

/* The promise, where it is hardest to keep: the bytes are on their way. */
static void test_nothing_lands_after_a_time_out(void)
{
    const size_t len = 8 * MIB;
    host h = host_open(MEMKV_TRANSPORT_AUTO, MEMORY);
    guest g = guest_open(&h, MEMKV_TRANSPORT_AUTO);
    warm_up(&g);
    fill(g.arena, len, 1);
    CHECK_EQ(run_one(&g, MEMKV_OP_PUT, "key", g.arena, len, WAIT_MS), MEMKV_OK);
    for (int i = 0; i < 8; i++) {
        warm_up(&g);
        memset(g.arena, POISON, len);
        script("pace 200");
        int status = run_one(&g, MEMKV_OP_GET, "key", g.arena, len, 10 + 7 * i);
        CHECK(status == MEMKV_ERR_TIMEOUT || status == MEMKV_OK);
        memset(g.arena, POISON, len);
        script("reset");
        pause_ms(20);
        CHECK(is_all(g.arena, len, POISON));
    }
    guest_close(&g);
    host_close(&h);
}

/* Nor is anything seen of a put whose bytes came only in part. */
static void test_a_half_read_put_is_never_visible(void)
{
    const size_t len = 8 * MIB;
    host h = host_open(MEMKV_TRANSPORT_AUTO, MEMORY);
    guest g = guest_open(&h, MEMKV_TRANSPORT_AUTO);
    for (uint32_t i = 0; i < 6; i++) {
        char key[32];
        snprintf(key, sizeof key, "key-%u", i);
        warm_up(&g);
        fill(g.arena, len, i);
        script("pace 200");
        int put = run_one(&g, MEMKV_OP_PUT, key, g.arena, len, 10 + 8 * (int)i);
        memset(g.arena, POISON, len); /* it is ours again */
        script("reset");
        int got = run_one(&g, MEMKV_OP_GET, key, g.arena, len, WAIT_MS);
        CHECK(put == MEMKV_OK || put == MEMKV_ERR_TIMEOUT);
        CHECK(got == MEMKV_OK || (got == MEMKV_ERR_NOT_FOUND && put != MEMKV_OK));
        CHECK(got != MEMKV_OK || is_filled(g.arena, len, i));
    }
    guest_close(&g);
    host_close(&h);
}

static void test_a_server_that_is_closed_in_mid_transfer(void)
{
    const size_t len = 8 * MIB;
    host h = host_open(MEMKV_TRANSPORT_AUTO, MEMORY);
    guest g = guest_open(&h, MEMKV_TRANSPORT_AUTO);
    warm_up(&g);
    fill(g.arena, len, 1);
    CHECK_EQ(run_one(&g, MEMKV_OP_PUT, "key", g.arena, len, WAIT_MS), MEMKV_OK);
    script("hold");
    CHECK_EQ(run_one(&g, MEMKV_OP_GET, "key", g.arena, len, 50), MEMKV_ERR_TIMEOUT);
    script("go; pace 100");
    (void)run_one(&g, MEMKV_OP_GET, "key", g.arena, len, 20);
    host_close(&h);
    script("reset");
    int status = run_one(&g, MEMKV_OP_GET, "key", g.arena, len, 1000);
    CHECK(status == MEMKV_ERR_UNREACHABLE || status == MEMKV_ERR_DISCONNECTED ||
          status == MEMKV_ERR_TIMEOUT);
    guest_close(&g);
}

static void test_a_lost_work_request_ends_with_the_deadline(void)
{
    host h = host_open(MEMKV_TRANSPORT_AUTO, MEMORY);
    guest g = guest_open(&h, MEMKV_TRANSPORT_AUTO);
    warm_up(&g);
    CHECK_EQ(run_one(&g, MEMKV_OP_PUT, "key", g.arena, MIB, WAIT_MS), MEMKV_OK);
    script("lose 1");
    CHECK_EQ(run_one(&g, MEMKV_OP_GET, "key", g.arena, MIB, 100), MEMKV_ERR_TIMEOUT);
    script("reset");
    CHECK_EQ(run_one(&g, MEMKV_OP_GET, "key", g.arena, MIB, WAIT_MS), MEMKV_OK);
    guest_close(&g);
    host_close(&h);
}

/* The receive completes long after the reply frame: the frame alone proves nothing. */
static void test_the_immediate_is_waited_for(void)
{
    host h = host_open(MEMKV_TRANSPORT_AUTO, MEMORY);
    guest g = guest_open(&h, MEMKV_TRANSPORT_AUTO);
    warm_up(&g);
    fill(g.arena, MIB, 1);
    CHECK_EQ(run_one(&g, MEMKV_OP_PUT, "key", g.arena, MIB, WAIT_MS), MEMKV_OK);
    script("lag 30000");
    for (int i = 0; i < 3; i++) {
        memset(g.arena, POISON, MIB);
        CHECK_EQ(run_one(&g, MEMKV_OP_GET, "key", g.arena, MIB, WAIT_MS), MEMKV_OK);
        CHECK(is_filled(g.arena, MIB, 1));
    }
    CHECK_EQ(counter(&g, "checksum_failures"), 0);
    script("reset");
    guest_close(&g);
    host_close(&h);
}

static void test_a_refused_put_moves_nothing(void)
{
    host h = host_open(MEMKV_TRANSPORT_AUTO, UINT64_C(24) << 20);
    guest g = guest_open(&h, MEMKV_TRANSPORT_AUTO);
    warm_up(&g);
    CHECK_EQ(run_one(&g, MEMKV_OP_PUT, "key", g.arena, MIB, WAIT_MS), MEMKV_OK);
    const uint64_t before = counts().bytes;
    CHECK_EQ(run_one(&g, MEMKV_OP_PUT, "key", g.arena, MIB, WAIT_MS), MEMKV_ERR_EXISTS);
    CHECK_EQ(run_one(&g, MEMKV_OP_PUT, "large", g.arena, 10 * MIB, WAIT_MS),
             MEMKV_ERR_TOO_LARGE);
    CHECK_EQ(counts().bytes, before);
    guest_close(&g);
    host_close(&h);
}

static void test_a_client_without_queue_pairs_goes_inline_and_comes_back(void)
{
    host h = host_open(MEMKV_TRANSPORT_AUTO, MEMORY);
    script("refuse create_qp");
    guest g = guest_open(&h, MEMKV_TRANSPORT_AUTO);
    expect_state(&g, "up: tcp: ");
    CHECK_EQ(run_one(&g, MEMKV_OP_PUT, "key", g.arena, MIB, WAIT_MS), MEMKV_OK);
    CHECK_EQ(counter(&g, "bytes_remote"), 0);
    CHECK_EQ(counter(&g, "bytes_inline"), MIB);
    script("accept");
    warm_up(&g);
    guest_close(&g);
    host_close(&h);
}

static void test_memory_that_cannot_be_registered_goes_inline(void)
{
    host h = host_open(MEMKV_TRANSPORT_AUTO, MEMORY);
    script("refuse reg_mr");
    guest g = guest_open(&h, MEMKV_TRANSPORT_AUTO);
    expect_state(&g, "up: rdma ");
    CHECK_EQ(run_one(&g, MEMKV_OP_PUT, "key", g.arena, MIB, WAIT_MS), MEMKV_OK);
    CHECK_EQ(counter(&g, "bytes_remote"), 0);
    expect_in_state(&g, "cannot register");
    script("accept");
    guest_close(&g);
    host_close(&h);
}

/* ---- transports ------------------------------------------------------------------------ */

static void test_auto_meets_an_end_without_rdma(void)
{
    host h = host_open(MEMKV_TRANSPORT_TCP, MEMORY);
    guest g = guest_open(&h, MEMKV_TRANSPORT_AUTO);
    expect_state(&g, "up: tcp: the server has no RDMA");
    CHECK_EQ(run_one(&g, MEMKV_OP_PUT, "key", g.arena, MIB, WAIT_MS), MEMKV_OK);
    guest_close(&g);
    host_close(&h);
    h = host_open(MEMKV_TRANSPORT_AUTO, MEMORY);
    g = guest_open(&h, MEMKV_TRANSPORT_TCP);
    CHECK_EQ(run_one(&g, MEMKV_OP_PUT, "key", g.arena, MIB, WAIT_MS), MEMKV_OK);
    CHECK_EQ(counter(&g, "bytes_remote"), 0);
    CHECK(state_begins(&g, "up") && !state_begins(&g, "up:"));
    guest_close(&g);
    host_close(&h);
}

static void test_strict_rdma_takes_nothing_else(void)
{
    host h = host_open(MEMKV_TRANSPORT_TCP, MEMORY);
    guest g = guest_open(&h, MEMKV_TRANSPORT_RDMA);
    expect_state(&g, "down: transport rdma: the server has no RDMA");
    CHECK_EQ(run_one(&g, MEMKV_OP_PUT, "key", g.arena, MIB, 1000),
             MEMKV_ERR_UNREACHABLE);
    guest_close(&g);
    host_close(&h);
    h = host_open(MEMKV_TRANSPORT_RDMA, MEMORY);
    g = guest_open(&h, MEMKV_TRANSPORT_RDMA);
    warm_up(&g);
    CHECK_EQ(run_one(&g, MEMKV_OP_PUT, "key", g.arena, MIB, WAIT_MS), MEMKV_OK);
    CHECK_EQ(run_one(&g, MEMKV_OP_GET, "key", g.arena, MIB, WAIT_MS), MEMKV_OK);
    CHECK_EQ(run_one(&g, MEMKV_OP_PUT, "small", g.arena, 100, WAIT_MS), MEMKV_OK);
    guest_close(&g);
    host_close(&h);
}

static void test_a_library_that_is_not_there(void)
{
    memkv_server *server;
    memkv_error err = {.status = MEMKV_OK};
    memkv_server_config config;
    memkv_server_config_init(&config);
    config.address = "127.0.0.1:0";
    config.memory = MEMORY;
    config.verbs_library = "/nonexistent/libibverbs.so";
    config.transport = MEMKV_TRANSPORT_RDMA;
    CHECK_EQ(memkv_server_open(&config, &server, &err), MEMKV_ERR_UNSUPPORTED);
    CHECK(strstr(err.text, "/nonexistent/libibverbs.so") != NULL);
    const char *library = verbs_library;
    verbs_library = config.verbs_library;
    host h = host_open(MEMKV_TRANSPORT_AUTO, MEMORY);
    guest g = guest_open(&h, MEMKV_TRANSPORT_AUTO);
    expect_state(&g, "up: tcp: no verbs library");
    CHECK_EQ(run_one(&g, MEMKV_OP_PUT, "key", g.arena, MIB, WAIT_MS), MEMKV_OK);
    guest_close(&g);
    g = guest_open(&h, MEMKV_TRANSPORT_RDMA);
    expect_state(&g, "down: transport rdma: no verbs library");
    guest_close(&g);
    host_close(&h);
    verbs_library = library;
}

int main(int argc, char **argv)
{
    load_fake();
    const bool is_fake = argc < 2;
    if (!is_fake)
        verbs_library = argv[1];
    test_values_of_every_size_survive();
    test_a_batch_of_many_values_survives();
    test_small_values_and_other_memory_go_inline();
    test_connects_leave_nothing_behind();
    test_a_burst_from_many_threads_has_no_error();
    test_auto_meets_an_end_without_rdma();
    test_strict_rdma_takes_nothing_else();
    test_a_library_that_is_not_there();
    if (!is_fake)
        return 0;
    test_a_link_that_breaks_loses_no_value();
    test_nothing_lands_after_a_time_out();
    test_a_half_read_put_is_never_visible();
    test_a_server_that_is_closed_in_mid_transfer();
    test_a_lost_work_request_ends_with_the_deadline();
    test_the_immediate_is_waited_for();
    test_a_refused_put_moves_nothing();
    test_a_client_without_queue_pairs_goes_inline_and_comes_back();
    test_memory_that_cannot_be_registered_goes_inline();
    return 0;
}
