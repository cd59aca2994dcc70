/* rdma_pair.h: two links of one process joined to each other, with memory at both ends,
 * and the loop that waits for what arrives.  The server end drives.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef MKV_RDMA_PAIR_H
#define MKV_RDMA_PAIR_H

#include <poll.h>
#include <string.h>
#include <sys/mman.h>

#include "check.h"
#include "ends.h"
#include "net/clock.h"
#include "net/rdma.h"

#define ARENA ((size_t)32 << 20)
#define RECEIVES 8
#define WAIT_MS 20000

/* A call that gets &why for its error. */
static memkv_error why;
#define CHECK_OK(call)                                                                 \
    do {                                                                               \
        if ((call) != MEMKV_OK) {                                                      \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, why.text);   \
            exit(1);                                                                   \
        }                                                                              \
    } while (0)

static const char *const *pair_addresses; /* see ends.h */

typedef struct arrivals { /* of one end, not yet asked for */
    size_t first;
    size_t n;
    int status; /* of the last poll */
    mkv_arrival all[32];
} arrivals;

typedef struct pair {
    mkv_rdma *rdma[2]; /* client, server: each its own, as in two processes */
    mkv_memory *memory[2];
    uint8_t *bytes[2];
    int sockets[2];
    mkv_link *client;
    mkv_link *server;
    arrivals at_client;
    arrivals at_server;
} pair;

static inline void pair_connect(pair *p)
{
    mkv_rdma_params client, server;
    CHECK_OK(mkv_link_open(p->rdma[0], p->sockets[0], NULL, RECEIVES, &p->client,
                           &client, &why));
    CHECK_OK(mkv_link_open(p->rdma[1], p->sockets[1], &client, 0, &p->server, &server,
                           &why));
    CHECK_OK(mkv_link_connect(p->server, &client, &why));
    CHECK_OK(mkv_link_connect(p->client, &server, &why));
}

static inline void pair_disconnect(pair *p)
{
    mkv_link_close(p->client);
    mkv_link_close(p->server);
    p->client = p->server = NULL;
    p->at_client = p->at_server = (arrivals){.n = 0};
}

static inline pair pair_open(const char *library)
{
    pair p = {.client = NULL};
    ends_connect(pair_addresses, p.sockets);
    for (int i = 0; i < 2; i++) {
        CHECK_OK(mkv_rdma_open(library, NULL, &p.rdma[i], &why));
        p.bytes[i] = mmap(NULL, ARENA, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(p.bytes[i] != MAP_FAILED);
        CHECK_OK(mkv_memory_register(p.rdma[i], p.bytes[i], ARENA, i == 0, &p.memory[i],
                                     &why));
    }
    pair_connect(&p);
    return p;
}

static inline void pair_close(pair *p)
{
    pair_disconnect(p);
    for (int i = 0; i < 2; i++) {
        mkv_memory_release(p->memory[i]);
        munmap(p->bytes[i], ARENA);
        mkv_rdma_close(p->rdma[i]);
        close(p->sockets[i]);
    }
}

/* A WRITE of `iov` of the server's memory to `at` of the client's, or a READ from there. */
static inline int pair_move(pair *p, bool is_read, const struct iovec *iov,
                            size_t n_iov, size_t at, uint32_t immediate,
                            uint64_t done_id)
{
    const mkv_transfer transfer = {
        .is_read = is_read,
        .has_immediate = !is_read,
        .immediate = immediate,
        .memory = p->memory[1],
        .iov = iov,
        .n_iov = n_iov,
        .address = (uintptr_t)(p->bytes[0] + at),
        .rkey = mkv_link_rkey(p->client, p->memory[0]),
        .done_id = done_id,
    };
    return mkv_link_transfer(p->server, &transfer);
}

static inline int pair_write(pair *p, size_t from, size_t len, size_t to, uint32_t id)
{
    const struct iovec iov = {p->bytes[1] + from, len};
    return pair_move(p, false, &iov, 1, to, id, id);
}

/* False if nothing came. */
static inline bool take_arrivals(mkv_link *link, arrivals *out)
{
    size_t n = 0;
    if (link == NULL || out->status != MEMKV_OK)
        return false;
    if (out->first == out->n)
        out->first = out->n = 0;
    out->status = mkv_link_poll(link, out->all + out->n,
                                sizeof(out->all) / sizeof(out->all[0]) - out->n, &n);
    out->n += n;
    return n > 0 || out->status != MEMKV_OK;
}

/* Serves both ends until one of `wanted` is there: poll, arm, poll, sleep. */
static inline int next_arrival(pair *p, arrivals *wanted, mkv_arrival *out)
{
    const int64_t deadline = mkv_now_ns() + WAIT_MS * MKV_NS_PER_MS;
    bool is_armed = false;
    while (wanted->first == wanted->n && wanted->status == MEMKV_OK) {
        bool came = take_arrivals(p->client, &p->at_client);
        came |= take_arrivals(p->server, &p->at_server);
        if (came || !is_armed) {
            is_armed = !came;
            if (is_armed && p->client != NULL)
                CHECK_EQ(mkv_link_arm(p->client), MEMKV_OK);
            if (is_armed && p->server != NULL)
                CHECK_EQ(mkv_link_arm(p->server), MEMKV_OK);
            continue;
        }
        struct pollfd fds[] = {
            {.fd = p->client != NULL ? mkv_link_fd(p->client) : -1, .events = POLLIN},
            {.fd = p->server != NULL ? mkv_link_fd(p->server) : -1, .events = POLLIN}};
        CHECK(mkv_now_ns() < deadline);
        CHECK(poll(fds, 2, WAIT_MS) > 0);
        is_armed = false;
    }
    if (wanted->first == wanted->n)
        return wanted->status;
    *out = wanted->all[wanted->first++];
    return MEMKV_OK;
}

static inline void expect_transferred(pair *p, uint64_t done_id, int status)
{
    mkv_arrival arrival;
    CHECK_EQ(next_arrival(p, &p->at_server, &arrival), MEMKV_OK);
    CHECK_EQ(arrival.what, MKV_TRANSFERRED);
    CHECK_EQ(arrival.done_id, done_id);
    CHECK_EQ(arrival.status, status);
}

static inline void expect_immediate(pair *p, uint32_t immediate)
{
    mkv_arrival arrival;
    CHECK_EQ(next_arrival(p, &p->at_client, &arrival), MEMKV_OK);
    CHECK_EQ(arrival.what, MKV_IMMEDIATE);
    CHECK_EQ(arrival.immediate, immediate);
}

/* Transfers 0 to n: those before the bad one may have gone well. */
static inline void expect_flushed(pair *p, uint32_t first_bad, uint32_t n)
{
    mkv_arrival arrival;
    for (uint32_t i = 0; i < n; i++) {
        CHECK_EQ(next_arrival(p, &p->at_server, &arrival), MEMKV_OK);
        CHECK_EQ(arrival.what, MKV_TRANSFERRED);
        CHECK_EQ(arrival.done_id, i);
        CHECK(arrival.status == MEMKV_ERR_DISCONNECTED || i < first_bad);
    }
    CHECK_EQ(next_arrival(p, &p->at_server, &arrival), MEMKV_ERR_DISCONNECTED);
}

/* Fast, of fixed seed (xorshift64). */
static inline uint64_t random_u64(void)
{
    static uint64_t state = UINT64_C(0x9e3779b97f4a7c15);
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static inline size_t random_below(size_t bound)
{
    return (size_t)(random_u64() % bound);
}

static inline void random_bytes(uint8_t *bytes, size_t len)
{
    for (size_t at = 0; at < len; at += sizeof(uint64_t)) {
        uint64_t word = random_u64();
        memcpy(bytes + at, &word, len - at < sizeof(word) ? len - at : sizeof(word));
    }
}

static inline bool is_all(const uint8_t *bytes, size_t len, uint8_t value)
{
    return len == 0 || (bytes[0] == value && memcmp(bytes, bytes + 1, len - 1) == 0);
}

#endif
