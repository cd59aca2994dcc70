/* test_rdma_devices.c: devices that go away, wires that swallow all, and other trouble that
 * is not a link's own: values go inline, and nobody waits for what does not answer.  On
 * the fake verbs library.
 * SPDX-License-Identifier: Apache-2.0 */
#include "rdma_world.h"

#include <sys/syscall.h>
#include <unistd.h>

#define MIB ((size_t)1 << 20)
#define MEMORY (UINT64_C(256) << 20)
#define SHORT_MS 100

/* ---- a clock that can be stopped ----------------------------------------------------- */

static _Atomic int64_t stopped_s; /* what it shows; 0: it goes */

int clock_gettime(clockid_t id, struct timespec *now)
{
    int rc = (int)syscall(SYS_clock_gettime, id, now);
    if (id == CLOCK_MONOTONIC && stopped_s != 0)
        *now = (struct timespec){.tv_sec = stopped_s};
    return rc;
}

static void stop_clock(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    stopped_s = now.tv_sec;
}

/* ---- wires --------------------------------------------------------------------------- */

/* No error comes, since no time-out of the server is as short as the caller's.  How many
 * GETs it took until one had its value. */
static int gets_until_one_succeeds(const guest *g)
{
    int n = 1;
    while (run_one(g, MEMKV_OP_GET, "key", g->arena, MIB, SHORT_MS) != MEMKV_OK) {
        CHECK(n++ < WAIT_MS / SHORT_MS);
        pause_ms(1);
    }
    return n;
}

static void test_a_wire_that_swallows_all_is_left_alone(void)
{
    host h = host_open(MEMKV_TRANSPORT_RDMA, MEMORY);
    guest g = guest_open(&h, MEMKV_TRANSPORT_AUTO);
    warm_up(&g);
    fill(g.arena, MIB, 1);
    CHECK_EQ(run_one(&g, MEMKV_OP_PUT, "key", g.arena, MIB, WAIT_MS), MEMKV_OK);
    const uint64_t before = counter(&g, "bytes_remote");
    script("hold");
    CHECK(gets_until_one_succeeds(&g) > 1);
    CHECK_EQ(counter(&g, "bytes_remote"), before);
    CHECK(is_filled(g.arena, MIB, 1));
    script("go");
    warm_up(&g);
    guest_close(&g);
    host_close(&h);
    script("reset");
}

static void test_strict_rdma_puts_nothing_inline_when_a_link_breaks(void)
{
    host h = host_open(MEMKV_TRANSPORT_RDMA, MEMORY);
    guest g = guest_open(&h, MEMKV_TRANSPORT_RDMA);
    for (int i = 0; i < 10; i++) {
        char key[32];
        snprintf(key, sizeof key, "key-%d", i);
        warm_up(&g);
        const uint64_t before = server_stat(&h, "bytes_inline");
        script("break 1");
        CHECK_EQ(run_one(&g, MEMKV_OP_PUT, key, g.arena, MIB, WAIT_MS), MEMKV_OK);
        script("reset");
        CHECK_EQ(server_stat(&h, "bytes_inline"), before);
    }
    guest_close(&g);
    host_close(&h);
}

/* ---- devices --------------------------------------------------------------------------- */

/* The client's: the server, as on another host, has not noticed yet. */
static void test_a_device_that_is_gone_costs_no_value(void)
{
    server_devices = "fake1";
    host h = host_open(MEMKV_TRANSPORT_RDMA, MEMORY);
    guest g = guest_open(&h, MEMKV_TRANSPORT_AUTO);
    warm_up(&g);
    fill(g.arena, MIB, 1);
    CHECK_EQ(run_one(&g, MEMKV_OP_PUT, "key", g.arena, MIB, WAIT_MS), MEMKV_OK);
    const uint64_t before = counter(&g, "bytes_remote");
    memset(g.arena, 0, MIB);
    script("hold; unplug fake0");
    CHECK_EQ(run_one(&g, MEMKV_OP_GET, "key", g.arena, MIB, WAIT_MS), MEMKV_OK);
    CHECK(is_filled(g.arena, MIB, 1));
    CHECK_EQ(counter(&g, "bytes_remote"), before);
    script("go");
    guest_close(&g);
    host_close(&h);
    server_devices = NULL;
    script("reset");
}

/* Nothing is flushed any more: no use in waiting for it. */
static void test_links_of_a_device_that_is_gone_close_at_once(void)
{
    host h = host_open(MEMKV_TRANSPORT_RDMA, MEMORY);
    guest g = guest_open(&h, MEMKV_TRANSPORT_AUTO);
    warm_up(&g);
    stop_clock();
    script("unplug fake0");
    guest_close(&g);
    host_close(&h);
    stopped_s = 0;
    script("reset");
    CHECK_EQ(counts().qps, 0);
}

static void test_a_completion_queue_that_fails_breaks_the_link(void)
{
    host h = host_open(MEMKV_TRANSPORT_RDMA, MEMORY);
    guest g = guest_open(&h, MEMKV_TRANSPORT_AUTO);
    warm_up(&g);
    CHECK_EQ(run_one(&g, MEMKV_OP_PUT, "key", g.arena, MIB, WAIT_MS), MEMKV_OK);
    script("refuse poll_cq");
    CHECK_EQ(run_one(&g, MEMKV_OP_GET, "key", g.arena, MIB, WAIT_MS), MEMKV_OK);
    CHECK_EQ(counter(&g, "links_broken"), 1);
    script("accept");
    warm_up(&g);
    guest_close(&g);
    host_close(&h);
}

/* As many as are counted: there may be more. */
static void test_a_device_of_255_ports_is_looked_through(void)
{
    script("ports 255");
    host h = host_open(MEMKV_TRANSPORT_RDMA, MEMORY);
    guest g = guest_open(&h, MEMKV_TRANSPORT_AUTO);
    warm_up(&g);
    guest_close(&g);
    host_close(&h);
    script("reset");
}

int main(void)
{
    load_fake();
    test_a_device_of_255_ports_is_looked_through();
    test_a_wire_that_swallows_all_is_left_alone();
    test_strict_rdma_puts_nothing_inline_when_a_link_breaks();
    test_a_completion_queue_that_fails_breaks_the_link();
    test_a_device_that_is_gone_costs_no_value();
    test_links_of_a_device_that_is_gone_close_at_once();
    return 0;
}
