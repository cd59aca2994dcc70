/* test_stream.c: addresses in and out, and sockets that never wait.
 * SPDX-License-Identifier: Apache-2.0 */
#include "check.h"

#include "net/stream.h"

#include <poll.h>
#include <string.h>
#include <unistd.h>

static char directory[] = "/tmp/memkv-stream-XXXXXX";

static mkv_endpoint parse(const char *text)
{
    mkv_endpoint endpoint;
    bool is_name;
    memkv_error err = {0};

    if (mkv_endpoint_parse(text, &endpoint, &is_name, &err) != MEMKV_OK) {
        fprintf(stderr, "%s: %s\n", text, err.text);
        exit(1);
    }
    CHECK(!is_name);
    return endpoint;
}

static void test_what_parses_is_printed_the_same(void)
{
    static const char *const texts[] = {"127.0.0.1:9900", "0.0.0.0:0",
                                        "10.1.2.3:65535", "[::1]:9900",
                                        "[fe80::2]:1",    "unix:/run/memkv.sock"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        char text[160];
        mkv_endpoint endpoint = parse(texts[i]);
        mkv_endpoint_format(&endpoint, text, sizeof text);
        CHECK(strcmp(text, texts[i]) == 0);
    }
}

static void test_malformed_addresses_are_refused_and_named(void)
{
    static const char *const texts[] = {
        "",       ":9900",        "127.0.0.1",     "127.0.0.1:", "127.0.0.1:65536",
        "::1:80", "127.0.0.1:9a", "[::1]",         "[]:9900",    "[::g]:9900",
        "a b:1",  "unix:",        "unix:relative", "host:-1",    "host:999999999999",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        mkv_endpoint endpoint;
        mkv_endpoint untouched;
        bool is_name = true;
        memkv_error err = {0};
        memset(&endpoint, 0xa5, sizeof endpoint);
        memset(&untouched, 0xa5, sizeof untouched);
        CHECK_EQ(mkv_endpoint_parse(texts[i], &endpoint, &is_name, &err),
                 MEMKV_ERR_INVALID);
        CHECK(!is_name);
        CHECK(strstr(err.text, texts[i]) != NULL);
        CHECK(memcmp(&endpoint, &untouched, sizeof endpoint) == 0);
    }
}

static void test_a_long_unix_path_is_refused(void)
{
    char text[300] = "unix:/";
    mkv_endpoint endpoint;
    bool is_name;
    memkv_error err = {0};

    memset(text + 6, 'x', sizeof text - 7);
    CHECK_EQ(mkv_endpoint_parse(text, &endpoint, &is_name, &err), MEMKV_ERR_INVALID);
    CHECK(strstr(err.text, "107 bytes") != NULL);
}

static void test_names_wait_for_the_resolver(void)
{
    mkv_endpoint endpoint;
    bool is_name = false;
    memkv_error err = {0};

    CHECK_EQ(mkv_endpoint_parse("memkv-0.memkv:9900", &endpoint, &is_name, &err),
             MEMKV_ERR_UNSUPPORTED);
    CHECK(is_name);
    CHECK_EQ(mkv_endpoint_resolve("host.invalid:9900", &endpoint, &err),
             MEMKV_ERR_UNREACHABLE);
    CHECK(strstr(err.text, "host.invalid") != NULL);
    CHECK_EQ(mkv_endpoint_resolve("127.0.0.1:9900", &endpoint, &err), MEMKV_OK);
}

static void test_local_is_loopback_or_unix(void)
{
    static const char *const near[] = {"127.0.0.1:1", "127.9.9.9:1",
                                       "[::1]:1",     "[::ffff:127.0.0.1]:1",
                                       "localhost:1", "unix:/x"};
    static const char *const far[] = {"0.0.0.0:1", "10.0.0.1:1", "128.0.0.1:1",
                                      "[::]:1", "[::ffff:10.0.0.1]:1"};
    for (size_t i = 0; i < sizeof near / sizeof near[0]; i++) {
        mkv_endpoint endpoint = parse(near[i]);
        CHECK(mkv_endpoint_is_local(&endpoint));
    }
    for (size_t i = 0; i < sizeof far / sizeof far[0]; i++) {
        mkv_endpoint endpoint = parse(far[i]);
        CHECK(!mkv_endpoint_is_local(&endpoint));
    }
}

static void wait_for(int fd, short events)
{
    struct pollfd poll_fd = {.fd = fd, .events = events};
    CHECK_EQ(poll(&poll_fd, 1, 5000), 1);
}

static int dial(const mkv_endpoint *endpoint, memkv_error *err)
{
    int fd = -1;
    int status = mkv_stream_dial(endpoint, &fd, err);
    if (status != MEMKV_OK)
        return status;
    wait_for(fd, POLLOUT);
    status = mkv_stream_dialled(fd, err);
    if (status == MEMKV_OK)
        return fd;
    mkv_stream_close(fd);
    return status;
}

/* A connected pair over `address`. */
static void connect_pair(const char *address, int ends[2])
{
    mkv_endpoint endpoint = parse(address);
    memkv_error err = {0};
    int listener;

    CHECK_EQ(mkv_stream_listen(&endpoint, &listener, &err), MEMKV_OK);
    CHECK_EQ(mkv_stream_accept(listener, &ends[1]), MEMKV_OK);
    CHECK_EQ(ends[1], -1);
    ends[0] = dial(&endpoint, &err);
    CHECK(ends[0] >= 0);
    wait_for(listener, POLLIN);
    CHECK_EQ(mkv_stream_accept(listener, &ends[1]), MEMKV_OK);
    CHECK(ends[1] >= 0);
    mkv_stream_close(listener);
}

static void test_bytes_move_and_nothing_waits(const char *address)
{
    int ends[2];
    size_t n = 1;
    char out[8] = "abcdefg", in[8] = "";
    struct iovec from[2] = {{out, 3}, {out + 3, 5}};
    struct iovec to[2] = {{in, 1}, {in + 1, 7}};

    connect_pair(address, ends);
    CHECK_EQ(mkv_stream_read(ends[1], to, 2, &n), MEMKV_OK);
    CHECK_EQ(n, 0);
    CHECK_EQ(mkv_stream_write(ends[0], from, 2, &n), MEMKV_OK);
    CHECK_EQ(n, 8);
    wait_for(ends[1], POLLIN);
    CHECK_EQ(mkv_stream_read(ends[1], to, 2, &n), MEMKV_OK);
    CHECK_EQ(n, 8);
    CHECK(strcmp(in, "abcdefg") == 0);

    static char block[1 << 20];
    struct iovec big = {block, sizeof block};
    size_t total = 0;
    do {
        CHECK_EQ(mkv_stream_write(ends[0], &big, 1, &n), MEMKV_OK);
        total += n;
        CHECK(total < (1u << 30));
    } while (n > 0);

    mkv_stream_close(ends[1]);
    int status;
    while ((status = mkv_stream_write(ends[0], &big, 1, &n)) == MEMKV_OK)
        ; /* no SIGPIPE ends this program */
    CHECK_EQ(status, MEMKV_ERR_DISCONNECTED);
    CHECK_EQ(mkv_stream_read(ends[0], to, 2, &n), MEMKV_ERR_DISCONNECTED);
    mkv_stream_close(ends[0]);
    mkv_stream_close(-1);
}

static void test_a_refused_dial_says_so(void)
{
    mkv_endpoint endpoint = parse("127.0.0.1:0");
    memkv_error err = {0};
    int listener;

    CHECK_EQ(mkv_stream_listen(&endpoint, &listener, &err), MEMKV_OK);
    mkv_stream_close(listener); /* its port is free now, and nobody answers there */
    CHECK_EQ(dial(&endpoint, &err), MEMKV_ERR_UNREACHABLE);
    CHECK(strstr(err.text, "refused") != NULL);
}

static void test_a_port_in_use_says_so(void)
{
    mkv_endpoint endpoint = parse("127.0.0.1:0");
    memkv_error err = {0};
    char text[64];
    int listener, second = -7;

    CHECK_EQ(mkv_stream_listen(&endpoint, &listener, &err), MEMKV_OK);
    mkv_endpoint_format(&endpoint, text, sizeof text);
    CHECK(strcmp(text, "127.0.0.1:0") != 0);
    CHECK_EQ(mkv_stream_listen(&endpoint, &second, &err), MEMKV_ERR_SYSTEM);
    CHECK(strstr(err.text, "port in use") != NULL);
    CHECK(strstr(err.text, text) != NULL);
    CHECK_EQ(second, -7);
    mkv_stream_close(listener);
}

static void test_only_a_dead_unix_socket_is_replaced(void)
{
    char text[120], path[100];
    memkv_error err = {0};
    int listener, second;

    snprintf(path, sizeof path, "%s/server", directory);
    snprintf(text, sizeof text, "unix:%s", path);
    mkv_endpoint endpoint = parse(text);
    CHECK_EQ(mkv_stream_listen(&endpoint, &listener, &err), MEMKV_OK);
    CHECK_EQ(mkv_stream_listen(&endpoint, &second, &err), MEMKV_ERR_SYSTEM);
    CHECK(strstr(err.text, "path in use") != NULL);
    mkv_stream_close(listener); /* as a server killed leaves it */
    CHECK_EQ(mkv_stream_listen(&endpoint, &listener, &err), MEMKV_OK);
    mkv_stream_close(listener);
    unlink(path);

    FILE *file = fopen(path, "w");
    CHECK(file != NULL);
    fclose(file);
    CHECK_EQ(mkv_stream_listen(&endpoint, &listener, &err), MEMKV_ERR_SYSTEM);
    CHECK_EQ(access(path, F_OK), 0);
    unlink(path);
}

int main(void)
{
    char unix_address[100];

    CHECK(mkdtemp(directory) != NULL);
    snprintf(unix_address, sizeof unix_address, "unix:%s/pair", directory);
    test_what_parses_is_printed_the_same();
    test_malformed_addresses_are_refused_and_named();
    test_a_long_unix_path_is_refused();
    test_names_wait_for_the_resolver();
    test_local_is_loopback_or_unix();
    test_bytes_move_and_nothing_waits("127.0.0.1:0");
    test_bytes_move_and_nothing_waits(unix_address);
    test_a_refused_dial_says_so();
    test_a_port_in_use_says_so();
    test_only_a_dead_unix_socket_is_replaced();
    unlink(unix_address + strlen("unix:"));
    rmdir(directory);
    return 0;
}
