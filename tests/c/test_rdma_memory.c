/* test_rdma_memory.c: memory larger than a device registers as one: a client's region in
 * slices, which tend registers one by one, and a server's pool in several parts.  On the
 * fake verbs library.
 * SPDX-License-Identifier: Apache-2.0 */
#include "rdma_world.h"

#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MIB ((size_t)1 << 20)
#define MEMORY (UINT64_C(512) << 20)
#define POISON 0xdb
#define DEVICES 2 /* the fake's, and so the MRs of a slice */

/* What a region is cut into if a device takes 16 MiB: slices that begin every 12 MiB, of
 * 16 MiB but for the last one. */
#define CUT "max_mr_size 16777216"
#define STRIDE (12 * MIB)
#define OVERLAP (4 * MIB)
#define SLICES 5

/* ---- a clock that can be put forward, and stopped ------------------------------------ */

static _Atomic int64_t ahead_s;
static _Atomic int64_t stopped_s; /* what it shows; 0: it goes */

int clock_gettime(clockid_t id, struct timespec *now)
{
    int rc = (int)syscall(SYS_clock_gettime, id, now);
    if (id == CLOCK_MONOTONIC && stopped_s != 0)
        *now = (struct timespec){.tv_sec = stopped_s};
    else if (id == CLOCK_MONOTONIC)
        now->tv_sec += ahead_s;
    return rc;
}

static void stop_clock(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    stopped_s = now.tv_sec + 1;
}

/* ---- what goes which way --------------------------------------------------------------- */

static void expect_registered(const guest *g, uint64_t bytes)
{
    for (int waited = 0; counter(g, "registered_bytes") != bytes; waited++) {
        CHECK(waited < WAIT_MS);
        pause_ms(1);
    }
}

/* Puts and gets a value there; how many of its bytes travelled by RDMA.  Its last byte
 * must not lie in any other place, nor the ones around it change. */
static uint64_t carry(const guest *g, size_t at, size_t len)
{
    static uint32_t n;
    uint8_t *data = g->arena + at;
    char key[32];
    const uint64_t remote = counter(g, "bytes_remote");
    const uint64_t inlined = counter(g, "bytes_inline");
    snprintf(key, sizeof key, "key-%u", ++n);
    memset(g->arena, POISON, ARENA);
    fill(data, len, n);
    CHECK_EQ(run_one(g, MEMKV_OP_PUT, key, data, len, WAIT_MS), MEMKV_OK);
    memset(data, POISON, len);
    CHECK_EQ(run_one(g, MEMKV_OP_GET, key, data, len, WAIT_MS), MEMKV_OK);
    CHECK(is_filled(data, len, n));
    CHECK(at == 0 || is_all(g->arena, at, POISON));
    CHECK(at + len == ARENA || is_all(data + len, ARENA - at - len, POISON));
    const uint64_t moved = counter(g, "bytes_remote") - remote;
    CHECK_EQ(moved + counter(g, "bytes_inline") - inlined, 2 * len);
    return moved;
}

static void expect_remote(const guest *g, size_t at, size_t len)
{
    CHECK_EQ(carry(g, at, len), 2 * len);
}

static void expect_inline(const guest *g, size_t at, size_t len)
{
    CHECK_EQ(carry(g, at, len), 0);
}

/* ---- slices ---------------------------------------------------------------------------- */

static void test_values_across_slices_go_by_rdma(void)
{
    script(CUT);
    host h = host_open(MEMKV_TRANSPORT_RDMA, MEMORY);
    const uint32_t before = counts().regions;
    guest g = guest_open(&h, MEMKV_TRANSPORT_AUTO);
    warm_up(&g);
    expect_registered(&g, ARENA);
    CHECK_EQ(counts().regions - before, SLICES * DEVICES);
    for (size_t i = 1; i < SLICES; i++) {
        const size_t bound = i * STRIDE;
        expect_remote(&g, bound - 1, OVERLAP + 1); /* all but a byte in the next one */
        expect_remote(&g, bound - OVERLAP, 2 * OVERLAP);
        expect_remote(&g, bound, MIB);
        expect_remote(&g, bound + OVERLAP - 1, MIB + 2);
    }
    expect_remote(&g, 0, STRIDE + OVERLAP);
    expect_remote(&g, ARENA - 65536, 65536);
    guest_close(&g);
    host_close(&h);
    script("reset");
}

static void test_what_lies_whole_in_no_slice_goes_inline(void)
{
    script(CUT);
    host h = host_open(MEMKV_TRANSPORT_RDMA, MEMORY);
    guest g = guest_open(&h, MEMKV_TRANSPORT_AUTO);
    warm_up(&g);
    expect_registered(&g, ARENA);
    expect_inline(&g, STRIDE - 1, OVERLAP + 2);
    expect_inline(&g, 2 * STRIDE - 3 * MIB, 9 * MIB);
    expect_inline(&g, 0, STRIDE + OVERLAP + 1);
    expect_inline(&g, 0, ARENA);
    guest_close(&g);
    host_close(&h);
    script("reset");
}

static void test_a_region_that_a_device_takes_whole_is_one_slice(void)
{
    host h = host_open(MEMKV_TRANSPORT_RDMA, MEMORY);
    const uint32_t before = counts().regions;
    guest g = guest_open(&h, MEMKV_TRANSPORT_AUTO);
    expect_registered(&g, ARENA);
    CHECK_EQ(counts().regions - before, DEVICES);
    memkv_region_release(g.region);
    g.region = NULL;
    CHECK_EQ(counter(&g, "registered_bytes"), 0);
    guest_close(&g);
    host_close(&h);
}

static void expect_no_trouble(const guest *g)
{
    char state[512];
    int waited = 0;
    do {
        CHECK(waited++ < WAIT_MS);
        pause_ms(1);
        CHECK_EQ(memkv_client_state(g->client, "server", state, sizeof state),
                 MEMKV_OK);
    } while (strstr(state, "cannot register") != NULL);
}

static void test_a_slice_that_is_refused_costs_its_values_only_and_comes_back(void)
{
    script(CUT);
    host h = host_open(MEMKV_TRANSPORT_RDMA, MEMORY);
    script("refuse_reg_mr 5"); /* with the first device, in slice 2 */
    guest g = guest_open(&h, MEMKV_TRANSPORT_AUTO);
    warm_up(&g);
    expect_registered(&g, ARENA); /* with the second device */
    expect_in_state(&g, ", but cannot register 16777216 bytes ");
    expect_in_state(&g, "; the whole region has 67108864");
    expect_remote(&g, STRIDE + MIB, STRIDE); /* slice 1, to the end of what overlaps */
    expect_inline(&g, 2 * STRIDE, MIB);
    expect_inline(&g, 3 * STRIDE - 1, MIB);
    expect_remote(&g, 3 * STRIDE, MIB);

    ahead_s += 31;
    expect_no_trouble(&g);
    warm_up(&g);
    expect_remote(&g, 2 * STRIDE, MIB);
    expect_remote(&g, 3 * STRIDE - 1, MIB);
    guest_close(&g);
    host_close(&h);
    script("reset");
}

static void test_a_device_that_refuses_memory_costs_the_others_nothing(void)
{
    script("refuse_reg_mr 1"); /* the pool, with the first device */
    host h = host_open(MEMKV_TRANSPORT_RDMA, MEMORY);
    script("refuse_reg_mr 2"); /* the arena, with the second one */
    guest g = guest_open(&h, MEMKV_TRANSPORT_AUTO);
    warm_up(&g);
    expect_in_state(&g, "up: rdma fake0 ");
    expect_in_state(&g, "with fake1: ");
    expect_registered(&g, ARENA);
    for (size_t i = 0; i < 8; i++)
        expect_remote(&g, i * MIB, MIB);
    CHECK_EQ(counter(&g, "links_broken"), 0);
    guest_close(&g);
    host_close(&h);
    script("reset");
}

/* Without a thread that tends: each call is one turn. */
static void test_tend_registers_one_slice_a_turn(void)
{
    host h = host_open(MEMKV_TRANSPORT_RDMA, MEMORY);
    script("max_mr_size 4194304; slow_reg_mr 20000"); /* 21 slices */
    uint32_t before = counts().regions;
    guest g = guest_make(&h, MEMKV_TRANSPORT_AUTO);
    while (!state_begins(&g, "up: rdma ")) {
        CHECK_EQ(memkv_client_tend(g.client, 0), MEMKV_OK);
        const uint32_t now = counts().regions;
        CHECK(now == before || now == before + DEVICES);
        CHECK(counter(&g, "registered_bytes") < ARENA);
        before = now;
    }
    CHECK(counter(&g, "dials") <= 2); /* none was in vain */
    script("slow_reg_mr 0");
    while (counter(&g, "registered_bytes") < ARENA) {
        CHECK_EQ(memkv_client_tend(g.client, 0), MEMKV_OK);
        const uint32_t now = counts().regions;
        CHECK(now == before || now == before + DEVICES);
        before = now;
    }
    CHECK_EQ(memkv_client_tend(g.client, 0), MEMKV_OK);
    CHECK_EQ(counts().regions, before);
    guest_free(&g);
    host_close(&h);
    script("reset");
}

/* So that it does not run out of time; but what takes the connection and says nothing
 * does not keep memory from being registered for ever. */
static void test_a_dial_has_its_time_before_each_slice(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    host h = {.server = NULL};
    CHECK_EQ(bind(listener, (struct sockaddr *)&address, len), 0);
    CHECK_EQ(listen(listener, 8), 0);
    CHECK_EQ(getsockname(listener, (struct sockaddr *)&address, &len), 0);
    snprintf(h.address, sizeof h.address, "127.0.0.1:%u", ntohs(address.sin_port));
    connect_timeout_ms = 10 * WAIT_MS;
    script(CUT);
    const uint32_t before = counts().regions;
    guest g = guest_make(&h, MEMKV_TRANSPORT_AUTO);
    stop_clock();
    for (uint32_t slices = 0; slices <= SLICES; slices++) {
        for (int turns = 0; turns < 10; turns++) {
            CHECK_EQ(counts().regions - before, slices * DEVICES);
            CHECK_EQ(memkv_client_tend(g.client, 0), MEMKV_OK);
        }
        stopped_s++;
        CHECK_EQ(memkv_client_tend(g.client, 0), MEMKV_OK);
    }
    CHECK_EQ(counter(&g, "registered_bytes"), ARENA);
    CHECK_EQ(counter(&g, "dials"), 1);
    ahead_s += SLICES + 2;
    stopped_s = 0;
    guest_free(&g);
    close(listener);
    connect_timeout_ms = 0;
    script("reset");
}

static void test_release_waits_for_one_slice_and_no_more(void)
{
    static uint8_t other[MIB];
    memkv_region *region;
    host h = host_open(MEMKV_TRANSPORT_RDMA, MEMORY);
    script("max_mr_size 4194304; slow_reg_mr 20000");
    const fake_verbs_counts before = counts();
    guest g = guest_open(&h, MEMKV_TRANSPORT_AUTO);
    while (counter(&g, "registered_bytes") == 0)
        pause_ms(1);
    const uint64_t begun = counts().registrations;
    memkv_region_release(g.region);
    g.region = NULL;
    const uint64_t done = counts().registrations;
    CHECK(done - begun <= 2 * DEVICES); /* one that was begun meanwhile */
    CHECK_EQ(counts().regions, before.regions);
    CHECK_EQ(counter(&g, "registered_bytes"), 0);
    /* what tend does next is of another region */
    CHECK_EQ(memkv_region_register(g.client, other, sizeof other, &region, NULL),
             MEMKV_OK);
    expect_registered(&g, sizeof other);
    CHECK_EQ(counts().registrations, done + DEVICES);
    memkv_region_release(region);
    guest_close(&g);
    host_close(&h);
    script("reset");
}

static void test_the_limit_of_locked_memory_is_named_with_what_it_takes(void)
{
    struct rlimit was, low;
    memkv_server *server;
    memkv_error err = {.status = MEMKV_OK};
    memkv_server_config config;
    memkv_server_config_init(&config);
    CHECK_EQ(getrlimit(RLIMIT_MEMLOCK, &was), 0);
    low = (struct rlimit){.rlim_cur = 65536, .rlim_max = was.rlim_max};
    script(CUT);
    host h = host_open(MEMKV_TRANSPORT_RDMA, MEMORY);
    CHECK_EQ(setrlimit(RLIMIT_MEMLOCK, &low), 0);
    script("refuse reg_mr");
    guest g = guest_open(&h, MEMKV_TRANSPORT_AUTO);
    expect_in_state(&g, "cannot register 16777216 bytes with fake0: only 65536 may be "
                        "locked; ulimit -l unlimited");
    expect_in_state(&g, "; the whole region has 67108864");
    config.address = "127.0.0.1:0";
    config.memory = MEMORY;
    config.transport = MEMKV_TRANSPORT_RDMA;
    config.verbs_library = verbs_library;
    CHECK_EQ(memkv_server_open(&config, &server, &err), MEMKV_ERR_NO_MEMORY);
    CHECK(strstr(err.text, "may be locked") != NULL);
    CHECK_EQ(setrlimit(RLIMIT_MEMLOCK, &was), 0);
    guest_close(&g);
    host_close(&h);
    script("reset");
}

/* ---- the server's pool --------------------------------------------------------------- */

static void test_values_across_the_parts_of_a_pool_arrive(void)
{
    static const size_t sizes[] = {MIB, 65536, 5 * MIB + 1, 17 * MIB, 3 * MIB - 1};
    const uint32_t before = counts().regions;
    script("max_mr_size 2500000"); /* parts of 2 MiB */
    host h = host_open(MEMKV_TRANSPORT_RDMA, MEMORY);
    const uint32_t parts = (counts().regions - before) / DEVICES;
    CHECK(parts > MEMORY / (2 * MIB) / 2 && parts <= MEMORY / (2 * MIB));
    script("reset");
    guest g = guest_open(&h, MEMKV_TRANSPORT_AUTO);
    warm_up(&g);
    for (size_t i = 0; i < 30; i++)
        expect_remote(&g, i * 1001, sizes[i % 5]);
    CHECK_EQ(counter(&g, "links_broken"), 0);
    guest_close(&g);
    host_close(&h);
    CHECK_EQ(counts().regions, before);
}

int main(void)
{
    load_fake();
    test_values_across_slices_go_by_rdma();
    test_what_lies_whole_in_no_slice_goes_inline();
    test_a_region_that_a_device_takes_whole_is_one_slice();
    test_a_slice_that_is_refused_costs_its_values_only_and_comes_back();
    test_a_device_that_refuses_memory_costs_the_others_nothing();
    test_tend_registers_one_slice_a_turn();
    test_a_dial_has_its_time_before_each_slice();
    test_release_waits_for_one_slice_and_no_more();
    test_the_limit_of_locked_memory_is_named_with_what_it_takes();
    test_values_across_the_parts_of_a_pool_arrive();
    return 0;
}
