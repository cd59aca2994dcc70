/* test_server.c: what a server answers, frame by frame, and how it treats slow and broken
 * peers.
 * SPDX-License-Identifier: Apache-2.0 */
#include "wire_peer.h"

#include "protocol/checksum.h"

#include <pthread.h>
#include <time.h>
#include <unistd.h>

#define N_WORKERS 2
#define MAX_CONNECTIONS 4
#define KEYED 7 /* a test's key is this byte, all over */

static const char NAME_SPACE[] = "tests";

static struct {
    memkv_server *server;
    char address[160];
    pthread_t threads[N_WORKERS];
} fixture;

static void *work(void *server)
{
    CHECK_EQ(memkv_server_run(server), MEMKV_OK);
    return NULL;
}

static void start(const uint8_t *key)
{
    memkv_server_config config;
    memkv_error err = {0};

    memkv_server_config_init(&config);
    config.address = "127.0.0.1:0";
    config.name = "tested";
    config.memory = 64u << 20;
    config.page_size = 4096;
    config.max_connections = MAX_CONNECTIONS;
    config.auth_key = key;
    CHECK_EQ(memkv_server_open(&config, &fixture.server, &err), MEMKV_OK);
    CHECK_EQ(
        memkv_server_address(fixture.server, fixture.address, sizeof fixture.address),
        MEMKV_OK);
    for (int i = 0; i < N_WORKERS; i++)
        CHECK_EQ(pthread_create(&fixture.threads[i], NULL, work, fixture.server), 0);
}

static uint64_t stat_of(const char *name)
{
    memkv_stat stats[64];
    size_t n = memkv_server_stats(fixture.server, stats, 64);

    for (size_t i = 0; i < n; i++) {
        if (strcmp(stats[i].name, name) == 0)
            return stats[i].value;
    }
    fprintf(stderr, "no counter %s\n", name);
    exit(1);
}

/* The counters are the server's own; it needs a moment to see what happened. */
static void wait_until_stat(const char *name, uint64_t wanted)
{
    for (int ms = 0; ms < 10000; ms++) {
        if (stat_of(name) == wanted)
            return;
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    CHECK_EQ(stat_of(name), wanted);
}

static wire_peer *open_peer(void)
{
    wire_peer *made = malloc(sizeof *made);
    CHECK(made != NULL);
    CHECK_EQ(peer_open(made, fixture.address, NAME_SPACE, NULL), MEMKV_OK);
    return made;
}

static void close_peer(wire_peer *peer)
{
    peer_close(peer);
    free(peer);
}

static mkv_request item_of(const char *key, uint64_t length)
{
    return (mkv_request){.key = (const uint8_t *)key,
                         .key_len = (uint32_t)strlen(key),
                         .length = length};
}

static uint64_t sum_of(const char *key, const void *data, size_t len)
{
    uint64_t seed =
        mkv_checksum_seed(NAME_SPACE, strlen(NAME_SPACE), key, strlen(key), NULL, 0);
    return mkv_checksum(seed, data, len);
}

static int put(wire_peer *peer, const char *key, const void *data, size_t len)
{
    mkv_request item = item_of(key, len);
    item.checksum = sum_of(key, data, len);
    return peer_ask(peer, MKV_PUT, &item, data).status;
}

static mkv_reply get(wire_peer *peer, const char *key, uint64_t most)
{
    mkv_request item = item_of(key, most);
    return peer_ask(peer, MKV_GET, &item, NULL);
}

/* ---- every kind -------------------------------------------------------------------- */

static void test_what_is_put_is_got(void)
{
    wire_peer *peer = open_peer();
    mkv_reply row;

    CHECK_EQ(put(peer, "a", "payload", 7), MEMKV_OK);
    CHECK_EQ(put(peer, "a", "payload", 7), MEMKV_ERR_EXISTS);
    row = get(peer, "a", 100);
    CHECK_EQ(row.status, MEMKV_OK);
    CHECK_EQ(row.length, 7);
    CHECK_EQ(row.checksum, sum_of("a", "payload", 7));
    CHECK_EQ(peer->body_len, 7);
    CHECK(memcmp(peer->body, "payload", 7) == 0);
    CHECK_EQ(get(peer, "b", 100).status, MEMKV_ERR_NOT_FOUND);
    row = get(peer, "a", 6);
    CHECK_EQ(row.status, MEMKV_ERR_TOO_SMALL);
    CHECK_EQ(row.length, 7);
    CHECK_EQ(peer->body_len, 0);
    close_peer(peer);
}

static void test_an_empty_payload_and_the_longest_key(void)
{
    char key[MEMKV_MAX_KEY + 1];
    wire_peer *peer = open_peer();
    mkv_reply row;

    memset(key, 'k', MEMKV_MAX_KEY);
    key[MEMKV_MAX_KEY] = '\0';
    CHECK_EQ(put(peer, key, "", 0), MEMKV_OK);
    row = get(peer, key, 0);
    CHECK_EQ(row.status, MEMKV_OK);
    CHECK_EQ(row.length, 0);
    CHECK_EQ(peer->body_len, 0);
    close_peer(peer);
}

static void test_headers_come_when_asked_for(void)
{
    wire_peer *peer = open_peer();
    mkv_request item = item_of("headed", 1);
    mkv_reply row;

    item.header = (const uint8_t *)"shape";
    item.header_len = 5;
    CHECK_EQ(peer_ask(peer, MKV_PUT, &item, "x").status, MEMKV_OK);
    item = item_of("headed", 0);
    row = peer_ask(peer, MKV_STAT, &item, NULL);
    CHECK_EQ(row.status, MEMKV_OK);
    CHECK_EQ(row.flags, 0);
    CHECK_EQ(row.header_len, 5);
    item.header_len = 4;
    row = peer_ask(peer, MKV_STAT, &item, NULL);
    CHECK_EQ(row.status, MEMKV_ERR_TOO_SMALL);
    CHECK_EQ(row.header_len, 5);
    item.header_len = 5;
    item.lease_ms = 1000;
    row = peer_ask(peer, MKV_STAT, &item, NULL);
    CHECK_EQ(row.flags, MKV_ITEM_HEADER | MKV_ITEM_LEASED);
    CHECK(memcmp(row.header, "shape", 5) == 0);
    close_peer(peer);
}

static void test_a_refused_item_leaves_the_connection_in_step(void)
{
    enum { LEN = 300000 };
    static uint8_t data[4 * LEN];
    const char *keys[] = {"step-0", "step-1", "step-2", "step-3"};
    mkv_request items[4];
    mkv_reply rows[4];
    wire_peer *peer = open_peer();

    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)(i * 31 + (i >> 9));
    CHECK_EQ(put(peer, keys[1], data + LEN, LEN), MEMKV_OK);
    for (int i = 0; i < 4; i++)
        items[i] = item_of(keys[i], LEN);
    peer_request(peer, MKV_PUT, items, 4, 60000, data, sizeof data);
    CHECK(peer_reply(peer));
    CHECK_EQ(peer_rows(peer, rows, 4), 4);
    for (uint32_t i = 0; i < 4; i++) {
        CHECK_EQ(rows[i].index, i);
        CHECK_EQ(rows[i].status, i == 1 ? MEMKV_ERR_EXISTS : MEMKV_OK);
    }
    for (int i = 0; i < 4; i++) {
        CHECK_EQ(get(peer, keys[i], LEN).status, MEMKV_OK);
        CHECK(memcmp(peer->body, data + i * LEN, LEN) == 0);
    }
    close_peer(peer);
}

static void test_a_value_over_a_quarter_of_the_pool_is_too_large(void)
{
    static uint8_t data[20u << 20];
    wire_peer *peer = open_peer();

    CHECK_EQ(put(peer, "huge", data, sizeof data), MEMKV_ERR_TOO_LARGE);
    CHECK_EQ(get(peer, "huge", sizeof data).status, MEMKV_ERR_NOT_FOUND);
    close_peer(peer);
}

static void test_many_items_come_in_several_frames_each_once(void)
{
    enum { N = 40, LEN = 300000 };
    static uint8_t data[LEN];
    static char keys[N][24];
    mkv_request items[N];
    mkv_reply rows[N];
    bool seen[N] = {false};
    int frames = 0, found = 0;
    wire_peer *peer = open_peer();

    for (int i = 0; i < N; i++) {
        snprintf(keys[i], sizeof keys[i], "many-%d", i);
        memset(data, i, sizeof data);
        CHECK_EQ(put(peer, keys[i], data, LEN), MEMKV_OK);
        items[i] = item_of(keys[i], LEN);
    }
    peer_request(peer, MKV_GET, items, N, 60000, NULL, 0);
    do {
        CHECK(peer_reply(peer));
        size_t at = 0, n = peer_rows(peer, rows, N);
        for (size_t i = 0; i < n; i++) {
            CHECK(!seen[rows[i].index]);
            seen[rows[i].index] = true;
            CHECK_EQ(rows[i].status, MEMKV_OK);
            CHECK_EQ(peer->body[at], rows[i].index);
            CHECK_EQ(peer->body[at + LEN - 1], rows[i].index);
            at += LEN;
            found++;
        }
        CHECK_EQ(at, peer->body_len);
        frames++;
    } while (!(peer->session.frame.flags & MKV_FRAME_LAST));
    CHECK_EQ(found, N);
    CHECK(frames >= 3);
    close_peer(peer);
}

static void test_a_conditional_delete_drops_only_what_is_damaged(void)
{
    static uint8_t data[6u << 20];
    wire_peer *peer = open_peer();
    mkv_request item = item_of("bad", sizeof data);

    item.checksum = sum_of("bad", data, sizeof data) ^ 1;
    CHECK_EQ(peer_ask(peer, MKV_PUT, &item, data).status, MEMKV_OK);
    CHECK_EQ(put(peer, "good", data, sizeof data), MEMKV_OK);
    uint64_t bad = get(peer, "bad", sizeof data).generation;
    uint64_t good = get(peer, "good", sizeof data).generation;

    item = item_of("good", 0);
    item.generation = good;
    CHECK_EQ(peer_ask(peer, MKV_DELETE, &item, NULL).status, MEMKV_ERR_EXISTS);
    item = item_of("bad", 0);
    item.generation = good;
    CHECK_EQ(peer_ask(peer, MKV_DELETE, &item, NULL).status, MEMKV_ERR_NOT_FOUND);
    item.generation = bad;
    CHECK_EQ(peer_ask(peer, MKV_DELETE, &item, NULL).status, MEMKV_OK);
    CHECK_EQ(get(peer, "bad", sizeof data).status, MEMKV_ERR_NOT_FOUND);
    CHECK_EQ(stat_of("bad_values"), 1);
    item = item_of("good", 0);
    CHECK_EQ(peer_ask(peer, MKV_DELETE, &item, NULL).status, MEMKV_OK);
    CHECK_EQ(peer_ask(peer, MKV_DELETE, &item, NULL).status, MEMKV_ERR_NOT_FOUND);
    close_peer(peer);
}

static void test_a_listing_ends_and_keeps_to_its_namespace(void)
{
    enum { N = 50 };
    static wire_peer peer;
    mkv_reply rows[N];
    mkv_request item = {.length = 7, .header_len = MEMKV_MAX_HEADER};
    size_t n, total = 0;
    char key[24];

    CHECK_EQ(peer_open(&peer, fixture.address, "listed", NULL), MEMKV_OK);
    for (int i = 0; i < N; i++) {
        snprintf(key, sizeof key, "list-%d", i);
        CHECK_EQ(put(&peer, key, "", 0), MEMKV_OK);
    }
    do {
        peer_request(&peer, MKV_LIST, &item, 1, 60000, NULL, 0);
        CHECK(peer_reply(&peer));
        n = peer_rows(&peer, rows, N);
        CHECK(n <= 7);
        for (size_t i = 0; i < n; i++) {
            CHECK(memcmp(rows[i].key, "list-", 5) == 0);
            item.generation = rows[i].index;
        }
        total += n;
    } while (n > 0);
    CHECK_EQ(total, N);
    peer_close(&peer);
}

static void test_what_is_not_supported_says_so_and_the_connection_lives(void)
{
    static uint8_t data[100000];
    wire_peer *peer = open_peer();
    mkv_frame frame = {.kind = 200, .body_len = sizeof data};
    mkv_rdma_params params = {.qpn = 1, .mtu = 3, .reads_in = 1, .reads_out = 1};
    mkv_request item = item_of("far", 10);
    size_t len;

    /* past the session, which would not have a reply of that kind either */
    uint8_t prefix[MKV_PREFIX_LEN];
    struct iovec iov = {prefix, sizeof prefix};
    peer_send(peer, &frame, data, sizeof data);
    peer_wait(peer, POLLIN);
    CHECK_EQ(mkv_stream_read(peer->fd, &iov, 1, &len), MEMKV_OK);
    CHECK_EQ(len, sizeof prefix);
    CHECK_EQ(mkv_frame_decode(prefix, &frame), MEMKV_OK);
    CHECK_EQ(frame.kind, 200);
    CHECK_EQ(frame.status, MEMKV_ERR_UNSUPPORTED);

    CHECK_EQ(mkv_rdma_params_encode(&params, peer->control + MKV_PREFIX_LEN,
                                    MKV_MAX_TABLE, &len),
             MEMKV_OK);
    frame = (mkv_frame){.kind = MKV_RDMA, .table_len = (uint32_t)len};
    peer_send(peer, &frame, NULL, 0);
    CHECK(peer_reply(peer));
    CHECK_EQ(peer->session.frame.status, MEMKV_ERR_UNSUPPORTED);

    item.flags = MKV_ITEM_REMOTE;
    item.address = 4096;
    peer_request(peer, MKV_PUT, &item, 1, 60000, NULL, 0);
    mkv_reply row;
    CHECK(peer_reply(peer));
    CHECK_EQ(peer_rows(peer, &row, 1), 1);
    CHECK_EQ(row.status, MEMKV_ERR_UNSUPPORTED);
    peer_request(peer, MKV_PING, NULL, 0, 60000, NULL, 0);
    CHECK(peer_reply(peer));
    CHECK_EQ(peer->session.frame.status, MEMKV_OK);
    close_peer(peer);
}

static void test_info_is_one_json_object(void)
{
    wire_peer *peer = open_peer();

    peer_request(peer, MKV_INFO, NULL, 0, 60000, NULL, 0);
    CHECK(peer_reply(peer));
    uint32_t len = peer->session.frame.table_len;
    CHECK(memcmp(peer->table, "{\"name\":\"tested\"", 16) == 0);
    CHECK_EQ(peer->table[len - 1], '}');
    CHECK(memmem(peer->table, len, "\"capacity_bytes\":67108864", 25) != NULL);
    close_peer(peer);
}

/* ---- slow and broken peers --------------------------------------------------------- */

static void test_nothing_half_put_is_readable(void)
{
    static uint8_t data[5u << 20];
    wire_peer *vanishing = open_peer(), *peer = open_peer();
    mkv_request item = item_of("half", 10u << 20);

    peer_request(vanishing, MKV_PUT, &item, 1, 60000, data, sizeof data);
    for (int ms = 0; ms < 10000 && stat_of("arriving_bytes") < sizeof data; ms++)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    CHECK(stat_of("arriving_bytes") >= sizeof data);
    CHECK(stat_of("arriving_bytes") < (7u << 20)); /* not what was announced */
    CHECK_EQ(get(peer, "half", 10u << 20).status, MEMKV_ERR_NOT_FOUND);
    close_peer(vanishing);
    wait_until_stat("arriving_bytes", 0);
    CHECK_EQ(get(peer, "half", 10u << 20).status, MEMKV_ERR_NOT_FOUND);
    CHECK_EQ(put(peer, "half", data, sizeof data), MEMKV_OK);
    close_peer(peer);
}

static void test_a_put_that_stalls_is_closed_after_its_budget(void)
{
    wire_peer *stalling = open_peer();
    mkv_request item = item_of("stalled", 10u << 20);
    uint64_t before = stat_of("connections_timed_out");

    peer_request(stalling, MKV_PUT, &item, 1, 1, "x", 1);
    CHECK(!peer_reply(stalling));
    CHECK_EQ(stat_of("connections_timed_out"), before + 1);
    wait_until_stat("arriving_bytes", 0);
    close_peer(stalling);
}

static void test_a_reader_that_stops_is_closed_and_its_values_let_go(void)
{
    enum { LEN = 8u << 20 };
    static uint8_t data[LEN];
    wire_peer *stopping = open_peer(), *peer = open_peer();
    mkv_request item = item_of("read", LEN);

    CHECK_EQ(put(peer, "read", data, LEN), MEMKV_OK);
    for (int i = 0; i < 4; i++)
        peer_request(stopping, MKV_GET, &item, 1, 200, NULL, 0);
    for (int ms = 0; ms < 10000 && stat_of("referenced_bytes") < LEN; ms++)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    CHECK_EQ(stat_of("referenced_bytes"), LEN);
    wait_until_stat("referenced_bytes", 0);
    CHECK_EQ(get(peer, "read", LEN).status, MEMKV_OK);
    close_peer(stopping);
    close_peer(peer);
}

static void test_a_broken_frame_closes_the_connection(void)
{
    wire_peer *broken = open_peer();
    struct iovec iov = {(void *)(uintptr_t) "no frame begins like this, and none is as "
                                            "short as fifty-six bytes.",
                        60};
    size_t n;
    uint64_t before = stat_of("protocol_errors");

    CHECK_EQ(mkv_stream_write(broken->fd, &iov, 1, &n), MEMKV_OK);
    CHECK(!peer_reply(broken));
    wait_until_stat("protocol_errors", before + 1);
    close_peer(broken);
}

static void test_connections_over_the_limit_are_refused(void)
{
    wire_peer *peers[MAX_CONNECTIONS];
    static wire_peer peer;

    wait_until_stat("connections", 0);
    for (int i = 0; i < MAX_CONNECTIONS; i++)
        peers[i] = open_peer();
    CHECK_EQ(peer_open(&peer, fixture.address, NAME_SPACE, NULL),
             MEMKV_ERR_DISCONNECTED);
    peer_close(&peer);
    CHECK_EQ(stat_of("connections_refused"), 1);
    for (int i = 0; i < MAX_CONNECTIONS; i++)
        close_peer(peers[i]);
    wait_until_stat("connections", 0);
    close_peer(open_peer());
}

static void test_a_draining_server_refuses_by_name_and_keeps_in_step(void)
{
    static wire_peer peer;
    uint8_t key[MEMKV_AUTH_KEY_LEN];
    mkv_request item = item_of("late", 3);

    memset(key, KEYED, sizeof key);
    CHECK_EQ(peer_open(&peer, fixture.address, NAME_SPACE, key), MEMKV_OK);
    CHECK_EQ(memkv_server_drain(fixture.server, 10000), MEMKV_OK);
    for (int i = 0; i < 2; i++) {
        peer_request(&peer, MKV_PUT, &item, 1, 60000, "abc", 3);
        CHECK(peer_reply(&peer));
        CHECK_EQ(peer.session.frame.status, MEMKV_ERR_DRAINING);
    }
    peer_request(&peer, MKV_PING, NULL, 0, 60000, NULL, 0);
    CHECK(peer_reply(&peer));
    CHECK_EQ(peer.session.frame.status, MEMKV_OK);
    peer_close(&peer);
}

static void test_a_stop_refuses_dials_before_the_close(void)
{
    mkv_endpoint endpoint;
    bool is_name;
    int fd = -1;

    memkv_server_stop(fixture.server);
    for (int i = 0; i < N_WORKERS; i++)
        pthread_join(fixture.threads[i], NULL);
    CHECK_EQ(mkv_endpoint_parse(fixture.address, &endpoint, &is_name, NULL), MEMKV_OK);
    if (mkv_stream_dial(&endpoint, &fd, NULL) == MEMKV_OK) {
        struct pollfd poll_fd = {.fd = fd, .events = POLLOUT};
        CHECK_EQ(poll(&poll_fd, 1, 10000), 1);
        CHECK_EQ(mkv_stream_dialled(fd, NULL), MEMKV_ERR_UNREACHABLE);
        mkv_stream_close(fd);
    }
    CHECK_EQ(memkv_server_run(fixture.server), MEMKV_OK); /* returns at once */
    memkv_server_close(fixture.server);
}

static void test_a_wrong_key_is_told(void)
{
    static wire_peer peer;
    uint8_t right[MEMKV_AUTH_KEY_LEN], wrong[MEMKV_AUTH_KEY_LEN] = {0};

    memset(right, KEYED, sizeof right);
    CHECK_EQ(peer_open(&peer, fixture.address, NAME_SPACE, right), MEMKV_OK);
    CHECK_EQ(put(&peer, "locked", "x", 1), MEMKV_OK);
    peer_close(&peer);
    CHECK_EQ(peer_open(&peer, fixture.address, NAME_SPACE, wrong), MEMKV_ERR_AUTH);
    peer_close(&peer);
    CHECK_EQ(peer_open(&peer, fixture.address, NAME_SPACE, NULL), MEMKV_ERR_AUTH);
    peer_close(&peer);
    wait_until_stat("auth_failures", 2);
}

/* ---- opening ----------------------------------------------------------------------- */

static void check_refused(const memkv_server_config *config, const char *words)
{
    memkv_server *server = NULL;
    memkv_error err = {0};

    CHECK(memkv_server_open(config, &server, &err) < 0);
    CHECK(server == NULL);
    if (strstr(err.text, words) == NULL) {
        fprintf(stderr, "\"%s\" does not say \"%s\"\n", err.text, words);
        exit(1);
    }
}

static void test_a_wrong_configuration_names_the_setting(void)
{
    memkv_server_config config;
    char name[MEMKV_MAX_NAME + 2];

    memkv_server_config_init(&config);
    config.address = "0.0.0.0:0";
    check_refused(&config, "network.auth_key");
    config.address = fixture.address;
    check_refused(&config, "port in use");
    config.address = "127.0.0.1";
    check_refused(&config, "host:port");
    config.address = NULL;
    check_refused(&config, "address");
    config.address = "127.0.0.1:0";
    config.memory = 4096;
    check_refused(&config, "memory");
    config.memory = 64u << 20;
    config.page_size = 5000;
    check_refused(&config, "page_size");
    config.page_size = 4096;
    config.max_connections = 0;
    check_refused(&config, "max_connections");
    config.max_connections = 1;
    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    config.name = name;
    check_refused(&config, "128");
}

int main(void)
{
    uint8_t key[MEMKV_AUTH_KEY_LEN];

    start(NULL);
    test_what_is_put_is_got();
    test_an_empty_payload_and_the_longest_key();
    test_headers_come_when_asked_for();
    test_a_refused_item_leaves_the_connection_in_step();
    test_a_value_over_a_quarter_of_the_pool_is_too_large();
    test_many_items_come_in_several_frames_each_once();
    test_a_conditional_delete_drops_only_what_is_damaged();
    test_a_listing_ends_and_keeps_to_its_namespace();
    test_what_is_not_supported_says_so_and_the_connection_lives();
    test_info_is_one_json_object();
    test_nothing_half_put_is_readable();
    test_a_put_that_stalls_is_closed_after_its_budget();
    test_a_reader_that_stops_is_closed_and_its_values_let_go();
    test_a_broken_frame_closes_the_connection();
    test_connections_over_the_limit_are_refused();
    test_a_wrong_configuration_names_the_setting();
    wait_until_stat("connections", 0);
    CHECK_EQ(stat_of("table_bytes"), 0);
    CHECK_EQ(stat_of("answer_bytes"), 0);
    test_a_stop_refuses_dials_before_the_close();

    memset(key, KEYED, sizeof key);
    start(key);
    test_a_wrong_key_is_told();
    test_a_draining_server_refuses_by_name_and_keeps_in_step();
    test_a_stop_refuses_dials_before_the_close();
    return 0;
}
