/* test_rdma_describe.c: what memkv_rdma_describe says of devices, of what is wrong with
 * them, and of the one that a connection would use.  On the fake libibverbs.
 * SPDX-License-Identifier: Apache-2.0 */
#include "rdma_world.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#define ROOM 16384
#define POISON 0xdb
#define NO_SOCKET (-1)

/* What the fake says of a device that opens and has one port. */
#define OPENED(name, state, link, gids)                                                \
    "{\"name\":\"" name "\",\"kind\":\"ib\",\"error\":\"\","                           \
    "\"firmware\":\"1.0 \\\"fake\\\"\",\"max_mr_size\":18446744073709551615,"          \
    "\"max_mr\":100,\"max_qp\":200,\"ports\":[{\"number\":1,\"state\":\"" state        \
    "\",\"link\":\"" link "\",\"mtu\":4096,\"speed_gbps\":100,\"gids\":[" gids "]}]}"
#define GID(index, type, address)                                                      \
    "{\"index\":" #index ",\"type\":\"" type "\",\"address\":\"" address "\"}"
/* Each address of an Ethernet port is there twice. */
#define GIDS(first, second, address)                                                   \
    GID(first, "RoCE v1", address) "," GID(second, "RoCE v2", address)
/* What is known of a device that does not open. */
#define NOTHING                                                                        \
    "\"firmware\":\"\",\"max_mr_size\":0,\"max_mr\":0,\"max_qp\":0,\"ports\":[]}"

static char json[ROOM];

/* Of the devices that the last script made. */
static void describe(const char *names, int fd)
{
    memkv_error err = {.status = MEMKV_OK};
    int status = memkv_rdma_describe(MKV_FAKE_VERBS, names, fd, json, ROOM, &err);
    if (status != MEMKV_OK)
        fprintf(stderr, "%s\n", err.text);
    CHECK_EQ(status, MEMKV_OK);
    CHECK_EQ(err.status, MEMKV_OK);
    const fake_verbs_counts left = counts();
    CHECK_EQ(left.contexts, 0);
    CHECK_EQ(left.pds, 0);
}

static void check_has(const char *wanted)
{
    if (strstr(json, wanted) == NULL) {
        fprintf(stderr, "%s\nhas no %s\n", json, wanted);
        exit(1);
    }
}

static void check_lists(const char *first, const char *second)
{
    char wanted[ROOM];
    snprintf(wanted, sizeof wanted,
             "{\"library\":\"%s\",\"devices\":[%s,%s],\"chosen\":null,\"reason\":\"\"}",
             MKV_FAKE_VERBS, first, second);
    describe(NULL, NO_SOCKET);
    if (strcmp(json, wanted) != 0) {
        fprintf(stderr, "%s\nis not\n%s\n", json, wanted);
        exit(1);
    }
}

static void test_devices_of_all_kinds_are_listed(void)
{
    script("device mlx roce 192.0.2.1; device hca ib fe80::2");
    check_lists(OPENED("mlx", "active", "ethernet", GIDS(0, 1, "192.0.2.1")),
                OPENED("hca", "active", "infiniband", GID(0, "InfiniBand", "fe80::2")));
    script("device off down fe80::3; device i iwarp 192.0.2.3");
    check_lists(
        OPENED("off", "down", "ethernet", GIDS(0, 1, "fe80::3")),
        "{\"name\":\"i\",\"kind\":\"iwarp\",\"error\":\"RDMA device i is neither "
        "InfiniBand nor RoCE\"," NOTHING);
    script("device bare roce; device two roce 192.0.2.1 192.0.2.2");
    describe(NULL, NO_SOCKET);
    check_has(OPENED("bare", "active", "ethernet", ""));
    check_has(GIDS(2, 3, "192.0.2.2"));
}

static void test_a_host_without_devices_is_no_failure(void)
{
    script("refuse get_device_list");
    describe(NULL, NO_SOCKET);
    script("reset");
    check_has("\"devices\":[],\"chosen\":null,\"reason\":\"\"}");
}

static void test_a_name_cannot_break_out_of_its_quotes(void)
{
    script("device a\"\\\x01\xc3z roce 192.0.2.1");
    describe(NULL, NO_SOCKET);
    check_has("[{\"name\":\"a\\\"\\\\??z\",\"kind\"");
}

static void test_a_port_that_cannot_be_asked_is_in_the_list(void)
{
    script("device a roce 192.0.2.1; refuse query_port");
    describe(NULL, NO_SOCKET);
    script("reset");
    check_has("\"ports\":[{\"number\":1,\"state\":\"other\",");
    check_has("\"mtu\":0,\"speed_gbps\":0,\"gids\":[]}]");
}

static void test_a_device_that_does_not_open_says_why_in_the_list(void)
{
    script("device a roce 192.0.2.1; device b roce 192.0.2.2; refuse open_device");
    describe(NULL, NO_SOCKET);
    script("reset");
    for (const char *name = "ab"; *name != '\0'; name++) {
        char wanted[256];
        snprintf(
            wanted, sizeof wanted,
            "{\"name\":\"%c\",\"kind\":\"ib\",\"error\":\"RDMA device %c cannot be "
            "opened: %s; in a container, pass /dev/infiniband in\"," NOTHING,
            *name, *name, strerror(ENOMEM));
        check_has(wanted);
    }
}

static void test_too_little_room_is_refused_at_every_length(void)
{
    script("device a roce 192.0.2.1");
    describe(NULL, NO_SOCKET);
    const size_t len = strlen(json);
    char wanted[64];
    snprintf(wanted, sizeof wanted, "take %zu bytes of JSON", len + 1);
    for (size_t cap = 0; cap <= len; cap++) {
        memkv_error err = {.status = MEMKV_OK};
        memset(json, POISON, ROOM);
        CHECK_EQ(memkv_rdma_describe(MKV_FAKE_VERBS, NULL, NO_SOCKET, json, cap, &err),
                 MEMKV_ERR_TOO_SMALL);
        CHECK_EQ(err.status, MEMKV_ERR_TOO_SMALL);
        CHECK(strstr(err.text, wanted) != NULL);
        CHECK(is_all((uint8_t *)json, ROOM, POISON));
    }
    CHECK_EQ(memkv_rdma_describe(MKV_FAKE_VERBS, NULL, NO_SOCKET, json, len + 1, NULL),
             MEMKV_OK);
    CHECK_EQ(strlen(json), len);
    CHECK(is_all((uint8_t *)json + len + 1, ROOM - len - 1, POISON));
    CHECK_EQ(memkv_rdma_describe(MKV_FAKE_VERBS, NULL, NO_SOCKET, NULL, 1, NULL),
             MEMKV_ERR_INVALID);
}

/* ---- the choice ---------------------------------------------------------------------- */

/* A UDP socket of this address, of this host or not; connected where it is loopback. */
static int socket_of(const char *near)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    const int on = 1;
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    CHECK_EQ(inet_pton(AF_INET, near, &address.sin_addr), 1);
    if (strncmp(near, "127.", 4) == 0) {
        address.sin_port = htons(9);
        CHECK_EQ(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
        return fd;
    }
    CHECK_EQ(setsockopt(fd, IPPROTO_IP, IP_FREEBIND, &on, sizeof on), 0);
    CHECK_EQ(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    return fd;
}

static void check_choice(const char *names, int fd, const char *wanted)
{
    describe(names, fd);
    close(fd);
    check_has(wanted);
}

static void test_the_port_a_connection_would_use_is_named(void)
{
    int ends[2];
    script("device a roce 10.1.0.1; device b roce fe80::1 10.2.0.1");
    check_choice(NULL, socket_of("127.0.0.1"),
                 "],\"chosen\":{\"device\":\"a\",\"port\":1,\"gid_index\":1},"
                 "\"reason\":\"\"}");
    check_choice(NULL, socket_of("10.2.0.1"),
                 "],\"chosen\":{\"device\":\"b\",\"port\":1,\"gid_index\":3},"
                 "\"reason\":\"\"}");
    check_choice("b,a", socket_of("10.3.0.1"), "\"chosen\":{\"device\":");
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    check_choice("b", ends[0], "\"chosen\":{\"device\":\"b\",\"port\":1,");
    close(ends[1]);
}

static void test_where_no_port_fits_the_reason_and_the_list_are_there(void)
{
    script("device a roce 10.1.0.1; device off down 10.2.0.1");
    check_choice(NULL, socket_of("10.2.0.1"),
                 "\"chosen\":null,\"reason\":\"no RDMA port that is up owns 10.2.0.1,");
    check_has("\"name\":\"a\"");
    check_has("\"name\":\"off\"");
    check_choice("off", socket_of("127.0.0.1"),
                 "\"chosen\":null,\"reason\":\"no RDMA port is up; looked at: off;");
    check_choice("mlx5_9", socket_of("127.0.0.1"),
                 "\"chosen\":null,\"reason\":\"there is no RDMA device \\\"mlx5_9\\\"; "
                 "there is: a, off\"}");
    check_has("\"name\":\"a\"");
    describe("mlx5_9", NO_SOCKET);
    check_has("\"chosen\":null,\"reason\":\"\"}");
}

/* ---- no library ---------------------------------------------------------------------- */

static void check_unsupported(const char *library, const char *reason)
{
    memkv_error err = {.status = MEMKV_OK};
    memset(json, POISON, ROOM);
    CHECK_EQ(memkv_rdma_describe(library, NULL, NO_SOCKET, json, ROOM, &err),
             MEMKV_ERR_UNSUPPORTED);
    CHECK_EQ(err.status, MEMKV_ERR_UNSUPPORTED);
    CHECK(strstr(err.text, reason) != NULL);
    CHECK(is_all((uint8_t *)json, ROOM, POISON));
}

static void test_a_library_that_is_none_is_unsupported(void)
{
    check_unsupported("libnothing.so.1", "no verbs library: libnothing.so.1");
    check_unsupported("libm.so.6", "verbs library libm.so.6 has no ibv_fork_init");
}

int main(void)
{
    load_fake();
    test_devices_of_all_kinds_are_listed();
    test_a_host_without_devices_is_no_failure();
    test_a_name_cannot_break_out_of_its_quotes();
    test_a_port_that_cannot_be_asked_is_in_the_list();
    test_a_device_that_does_not_open_says_why_in_the_list();
    test_too_little_room_is_refused_at_every_length();
    test_the_port_a_connection_would_use_is_named();
    test_where_no_port_fits_the_reason_and_the_list_are_there();
    test_a_library_that_is_none_is_unsupported();
    return 0;
}
