/* test_rdma_faults.c: devices that refuse, lag, lose and break, and which of them a
 * connection gets: all that takes the fake libibverbs and its script.
 * SPDX-License-Identifier: Apache-2.0 */
#include "rdma_pair.h"

#include <dlfcn.h>

#include "fake_verbs.h"

static int (*script)(const char *);
static void (*count)(fake_verbs_counts *);

static void fake(const char *commands)
{
    CHECK_EQ(script(commands), 0);
}

static void check_nothing_is_left(void)
{
    fake_verbs_counts left;
    count(&left);
    CHECK_EQ(left.contexts, 0);
    CHECK_EQ(left.pds, 0);
    CHECK_EQ(left.regions, 0);
    CHECK_EQ(left.channels, 0);
    CHECK_EQ(left.cqs, 0);
    CHECK_EQ(left.qps, 0);
}

/* ---- transfers ----------------------------------------------------------------------- */

static void test_the_requesters_completion_says_nothing_about_the_receiver(void)
{
    pair p = pair_open(MKV_FAKE_VERBS);
    fake("lag 20000");
    CHECK_EQ(pair_write(&p, 0, 70000, 0, 1), MEMKV_OK);
    expect_transferred(&p, 1, MEMKV_OK);
    CHECK_EQ(p.at_client.n, 0);
    expect_immediate(&p, 1);
    fake("reset");
    pair_close(&p);
}

/* Wherever it breaks: every transfer is reported once, in order, those before it whole. */
static void test_a_link_that_breaks_at_any_request_reports_every_transfer(void)
{
    for (int at = 1; at <= 20; at++) {
        char command[32];
        pair p = pair_open(MKV_FAKE_VERBS);
        snprintf(command, sizeof(command), "hold; break %d", at);
        fake(command);
        memset(p.bytes[1], 1, ARENA);
        for (uint32_t i = 0; i < 4; i++) /* five work requests each */
            CHECK_EQ(pair_write(&p, 0, 5 << 18, (size_t)i << 21, i), MEMKV_OK);
        fake("go");
        expect_flushed(&p, (uint32_t)(at - 1) / 5, 4);
        for (int i = 0; i < (at - 1) / 5; i++) {
            CHECK_EQ(p.at_client.all[i].immediate, i);
            CHECK(is_all(p.bytes[0] + ((size_t)i << 21), 5 << 18, 1));
        }
        CHECK_EQ(p.at_client.n, (at - 1) / 5);
        fake("reset");
        pair_close(&p);
    }
}

static void test_what_is_lost_is_reported_once_the_link_is_broken(void)
{
    pair p = pair_open(MKV_FAKE_VERBS);
    size_t n = 1;
    mkv_arrival arrival;
    fake("lose 3");
    for (uint32_t i = 0; i < 4; i++)
        CHECK_EQ(pair_write(&p, 0, 4096, 0, i), MEMKV_OK);
    expect_transferred(&p, 0, MEMKV_OK);
    expect_transferred(&p, 1, MEMKV_OK);
    CHECK_EQ(mkv_link_poll(p.server, &arrival, 1, &n), MEMKV_OK);
    CHECK_EQ(n, 0);
    mkv_link_break(p.server);
    expect_transferred(&p, 2, MEMKV_ERR_DISCONNECTED);
    expect_transferred(&p, 3, MEMKV_ERR_DISCONNECTED);
    fake("reset");
    pair_close(&p);
}

static void wait_for_requests(uint64_t n)
{
    fake_verbs_counts now;
    do
        count(&now);
    while (now.requests < n);
}

/* A flush says nothing of a work request that had completed in silence. */
static void test_what_completed_in_silence_is_reported_when_the_link_breaks(void)
{
    pair p = pair_open(MKV_FAKE_VERBS);
    fake_verbs_counts before;
    mkv_arrival arrival;
    size_t n;
    count(&before);
    CHECK_EQ(pair_write(&p, 0, 1, 0, 0), MEMKV_OK);
    CHECK_EQ(pair_write(&p, 0, 20 << 18, 0, 1), MEMKV_OK);
    wait_for_requests(before.requests + 16);
    CHECK_EQ(mkv_link_poll(p.server, &arrival, 1, &n), MEMKV_OK);
    CHECK_EQ(n, 1); /* which made place for the 17th alone */
    wait_for_requests(before.requests + 17);
    mkv_link_break(p.server);
    expect_transferred(&p, 1, MEMKV_ERR_DISCONNECTED);
    pair_close(&p);
}

/* On a slow wire a whole work request is still under way when the client gives up. */
static void test_close_waits_for_what_is_still_landing(void)
{
    for (int end = 0; end < 2; end++) {
        pair p = pair_open(MKV_FAKE_VERBS);
        fake("pace 500");
        memset(p.bytes[1], 1, ARENA);
        for (uint32_t i = 0; i < 3; i++)
            CHECK_EQ(pair_write(&p, 0, 1 << 20, (size_t)i << 20, i), MEMKV_OK);
        fake_verbs_counts before, now;
        count(&before);
        do
            count(&now);
        while (now.bytes == before.bytes);
        mkv_link **closed = end == 0 ? &p.client : &p.server;
        mkv_link_close(*closed);
        *closed = NULL;
        memset(p.bytes[0], 0xdb, ARENA);
        memset(p.bytes[1], 2, ARENA);
        if (end == 0)
            expect_flushed(&p, 0, 3);
        CHECK(is_all(p.bytes[0], ARENA, 0xdb));
        fake("reset");
        pair_close(&p);
    }
}

static void test_a_device_that_takes_no_work_breaks_the_link(void)
{
    pair p = pair_open(MKV_FAKE_VERBS);
    fake("refuse post_send");
    CHECK_EQ(pair_write(&p, 0, 4096, 0, 0), MEMKV_OK);
    expect_flushed(&p, 0, 1);
    fake("reset");
    pair_close(&p);
}

/* ---- refusals ------------------------------------------------------------------------ */

static void test_what_a_device_refuses_is_named_and_leaves_nothing(void)
{
    static const struct {
        const char *call;
        const char *reason;
    } refusals[] = {
        {"open_device", "RDMA device fake1 cannot be opened"},
        {"reg_mr", "cannot register 33554432 bytes"},
        {"create_channel", "RDMA device fake0 gives no completion channel"},
        {"create_cq", "RDMA device fake0 gives no completion queue"},
        {"create_qp", "RDMA device fake0 gives no queue pair"},
        {"modify_qp", "fake0 port 1 GID 1, RoCE v2, 192.0.2.1: queue pair not set up"},
    };
    static uint8_t bytes[1];
    int sockets[2];
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets), 0);
    for (size_t i = 0; i < sizeof(refusals) / sizeof(refusals[0]); i++) {
        char command[64];
        memkv_error err = {0};
        mkv_rdma *rdma = NULL;
        mkv_memory *memory = NULL;
        mkv_link *link = NULL;
        mkv_rdma_params own;
        snprintf(command, sizeof(command), "refuse %s", refusals[i].call);
        fake(command);
        int status = mkv_rdma_open(MKV_FAKE_VERBS, NULL, &rdma, &err);
        if (status == MEMKV_OK)
            status = mkv_memory_register(rdma, bytes, ARENA, true, &memory, &err);
        if (status == MEMKV_OK)
            status = mkv_link_open(rdma, sockets[0], NULL, 1, &link, &own, &err);
        CHECK(status != MEMKV_OK);
        CHECK_EQ(err.status, status);
        if (strstr(err.text, refusals[i].reason) == NULL) {
            fprintf(stderr, "%s: \"%s\"\n", refusals[i].call, err.text);
            exit(1);
        }
        mkv_memory_release(memory);
        mkv_rdma_close(rdma);
        fake("accept");
        check_nothing_is_left();
    }
    close(sockets[0]);
    close(sockets[1]);
}

static void test_ends_that_do_not_mean_each_other_do_not_connect(void)
{
    pair p = pair_open(MKV_FAKE_VERBS);
    mkv_link *link;
    mkv_rdma_params own;
    mkv_rdma_params peer = {.qpn = 1, .mtu = 3, .reads_in = 0, .reads_out = 4};
    memkv_error err = {0};
    CHECK_OK(mkv_link_open(p.rdma[1], p.sockets[1], &peer, 0, &link, &own, &why));
    CHECK_EQ(mkv_link_connect(link, &peer, &err), MEMKV_ERR_UNSUPPORTED);
    CHECK(strstr(err.text, "RDMA READ") != NULL);
    peer.reads_in = 4;
    CHECK_OK(mkv_link_connect(link, &peer, &why));
    mkv_link_close(link);
    pair_close(&p);
}

/* ---- the choice of a port ------------------------------------------------------------ */

/* The port that a connection from `near` (an IPv4 address of this host; NULL: a Unix
 * socket) gets, or why it gets none. */
static void check_choice(const char *devices, const char *names, const char *near,
                         const char *wanted)
{
    char text[256] = "";
    memkv_error err = {0};
    mkv_rdma *rdma;
    mkv_link *link;
    mkv_rdma_params own;
    int fd = socket(near != NULL ? AF_INET : AF_UNIX, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET};

    if (near != NULL) {
        const int on = 1;
        CHECK_EQ(setsockopt(fd, IPPROTO_IP, IP_FREEBIND, &on, sizeof(on)), 0);
        CHECK_EQ(inet_pton(AF_INET, near, &address.sin_addr), 1);
        CHECK_EQ(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    }
    fake(devices);
    if (mkv_rdma_open(MKV_FAKE_VERBS, names, &rdma, &err) == MEMKV_OK) {
        if (mkv_link_open(rdma, fd, NULL, 1, &link, &own, &err) == MEMKV_OK) {
            snprintf(text, sizeof(text), "%s", mkv_link_describe(link));
            mkv_link_close(link);
        }
        mkv_rdma_close(rdma);
    }
    if (strstr(text[0] != '\0' ? text : err.text, wanted) == NULL) {
        fprintf(stderr, "\"%s\" (%s), not \"%s\"\n", text, err.text, wanted);
        exit(1);
    }
    close(fd);
}

static void test_the_port_that_owns_the_near_address_is_used(void)
{
    const char *two = "device a roce 10.1.0.1 ; device b roce fe80::1 10.2.0.1";
    check_choice(two, NULL, "10.1.0.1", "a port 1 GID 1, RoCE v2, 10.1.0.1");
    check_choice(two, NULL, "10.2.0.1", "b port 1 GID 3, RoCE v2, 10.2.0.1");
    check_choice(two, "a,b", "10.2.0.1", "b port 1");
    check_choice(two, NULL, NULL, "a port 1 GID 1, RoCE v2, 10.1.0.1");
    check_choice(two, "b, a", NULL, "b port 1 GID 3, RoCE v2, 10.2.0.1");
    check_choice(two, NULL, "127.0.0.1", "a port 1");
}

static void test_where_no_port_owns_the_address_only_named_ones_are_used(void)
{
    const char *two = "device a roce 10.1.0.1; device b roce 10.2.0.1";
    check_choice(two, NULL, "10.3.0.1",
                 "no RDMA port that is up owns 10.3.0.1, the near address of the "
                 "connection; looked at: a, b");
    check_choice(two, "b", "10.3.0.1", "b port 1 GID 1, RoCE v2, 10.2.0.1");
    check_choice("device a ib fe80::a", NULL, "10.3.0.1",
                 "a port 1 GID 0, InfiniBand, fe80::a");
}

static void test_ports_that_are_down_and_other_kinds_are_left_out(void)
{
    check_choice("device a down 10.1.0.1; device b roce 10.1.0.1", NULL, "10.1.0.1",
                 "b port 1");
    check_choice("device a down 10.1.0.1", NULL, NULL,
                 "no RDMA port is up; looked at: a");
    check_choice("device a iwarp 10.1.0.1; device b roce 10.1.0.1", NULL, NULL,
                 "b port 1");
    check_choice("device a iwarp 10.1.0.1", NULL, NULL, "neither InfiniBand nor RoCE");
    check_choice("device a iwarp 10.1.0.1; device b roce 10.1.0.1", "b,a", NULL,
                 "RDMA device a is neither");
}

/* Two rails: who answers takes the port on the asker's, whatever the near address. */
static void test_who_answers_takes_the_port_nearest_to_the_asker(void)
{
    int sockets[2];
    mkv_rdma *rdma;
    mkv_link *link;
    mkv_rdma_params own;
    mkv_rdma_params peer = {.qpn = 1, .mtu = 5, .reads_in = 1, .reads_out = 1};
    char used[3] = "";

    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets), 0);
    fake("device a roce 10.1.0.1; device b roce 10.2.0.1; device c roce 10.2.0.2");
    CHECK_OK(mkv_rdma_open(MKV_FAKE_VERBS, "a,b,c", &rdma, &why));
    peer.gid[10] = peer.gid[11] = 0xff;
    CHECK_EQ(inet_pton(AF_INET, "10.2.0.200", peer.gid + 12), 1);
    for (int i = 0; i < 2; i++) { /* b and c are as near: in turn */
        CHECK_OK(mkv_link_open(rdma, sockets[0], &peer, 0, &link, &own, &why));
        used[i] = mkv_link_describe(link)[0];
        mkv_link_close(link);
    }
    CHECK(strcmp(used, "bc") == 0 || strcmp(used, "cb") == 0);
    CHECK_EQ(inet_pton(AF_INET, "10.2.0.2", peer.gid + 12), 1);
    CHECK_OK(mkv_link_open(rdma, sockets[0], &peer, 0, &link, &own, &why));
    CHECK_EQ(mkv_link_describe(link)[0], 'c');
    mkv_link_close(link);
    mkv_rdma_close(rdma);
    close(sockets[0]);
    close(sockets[1]);
}

int main(void)
{
    void *library = dlopen(MKV_FAKE_VERBS, RTLD_NOW);
    CHECK(library != NULL);
    *(void **)&script = dlsym(library, "fake_verbs_script");
    *(void **)&count = dlsym(library, "fake_verbs_count");
    CHECK(script != NULL && count != NULL);

    test_the_requesters_completion_says_nothing_about_the_receiver();
    test_a_link_that_breaks_at_any_request_reports_every_transfer();
    test_what_is_lost_is_reported_once_the_link_is_broken();
    test_what_completed_in_silence_is_reported_when_the_link_breaks();
    test_close_waits_for_what_is_still_landing();
    test_a_device_that_takes_no_work_breaks_the_link();
    test_what_a_device_refuses_is_named_and_leaves_nothing();
    test_ends_that_do_not_mean_each_other_do_not_connect();
    test_the_port_that_owns_the_near_address_is_used();
    test_where_no_port_owns_the_address_only_named_ones_are_used();
    test_ports_that_are_down_and_other_kinds_are_left_out();
    test_who_answers_takes_the_port_nearest_to_the_asker();
    check_nothing_is_left();
    dlclose(library);
    return 0;
}
