/* rdma_pair.h: two links of one process joined to each other, with memory at both ends,
 * and the loop that waits for what arrives.  The server end drives.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef MKV_RDMA_PAIR_H
#define MKV_RDMA_PAIR_H

#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "check.h"
#include "net/clock.h"
#include "net/rdma.h"

#define ARENA ((size_t)32 << 20)
#define RECEIVES 8
#define WAIT_MS 20000

#define CHECK_OK(call)                                                                 \
    do {                                                                               \
        memkv_error err_ = {0}, *err = &err_;                                          \
        if ((call) != MEMKV_OK) {                                                      \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, err->text);  \
            exit(1);                                                                   \
        }                                                                              \
    } while (0)

typedef struct pair {
    mkv_rdma *rdma[2]; /* client, server: each its own, as in two processes */
    mkv_memory *memory[2];
    uint8_t *bytes[2];
    int sockets[2];
    mkv_link *client;
    mkv_link *server;
} pair;

static inline void pair_connect(pair *p)
{
    mkv_rdma_params client, server;
    CHECK_OK(mkv_link_open(p->rdma[0], p->sockets[0], NULL, RECEIVES, &p->client, &client,
                           err));
    CHECK_OK(mkv_link_open(p->rdma[1], p->sockets[1], &client, 0, &p->server, &server,
                           err));
    CHECK_OK(mkv_link_connect(p->server, &client, err));
    CHECK_OK(mkv_link_connect(p->client, &server, err));
}

static inline void pair_disconnect(pair *p)
{
    mkv_link_close(p->client);
    mkv_link_close(p->server);
    p->client = p->server = NULL;
}

static inline pair pair_open(const char *library)
{
    pair p = {.client = NULL};
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, p.sockets), 0);
    for (int i = 0; i < 2; i++) {
        CHECK_OK(mkv_rdma_open(library, NULL, &p.rdma[i], err));
        p.bytes[i] = mmap(NULL, ARENA, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(p.bytes[i] != MAP_FAILED);
        CHECK_OK(mkv_memory_register(p.rdma[i], p.bytes[i], ARENA, i == 0, &p.memory[i],
                                     err));
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
static inline int pair_move(pair *p, bool is_read, const struct iovec *iov, size_t n_iov,
                            size_t at, uint32_t immediate, uint64_t done_id)
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

/* The next arrival of a link, waited for as libmemkv does: poll, arm, poll, sleep. */
static inline int next_arrival(mkv_link *link, mkv_arrival *out)
{
    const int64_t deadline = mkv_now_ns() + WAIT_MS * MKV_NS_PER_MS;
    for (;;) {
        size_t n;
        int status = mkv_link_poll(link, out, 1, &n);
        if (status != MEMKV_OK || n == 1)
            return status;
        CHECK_EQ(mkv_link_arm(link), MEMKV_OK);
        status = mkv_link_poll(link, out, 1, &n);
        if (status != MEMKV_OK || n == 1)
            return status;
        struct pollfd fd = {.fd = mkv_link_fd(link), .events = POLLIN};
        CHECK(mkv_now_ns() < deadline);
        if (poll(&fd, 1, WAIT_MS) != 1) abort();
    }
}

static inline void expect_transferred(mkv_link *link, uint64_t done_id, int status)
{
    mkv_arrival arrival;
    CHECK_EQ(next_arrival(link, &arrival), MEMKV_OK);
    CHECK_EQ(arrival.what, MKV_TRANSFERRED);
    CHECK_EQ(arrival.done_id, done_id);
    CHECK_EQ(arrival.status, status);
}

static inline void expect_immediate(mkv_link *link, uint32_t immediate)
{
    mkv_arrival arrival;
    CHECK_EQ(next_arrival(link, &arrival), MEMKV_OK);
    CHECK_EQ(arrival.what, MKV_IMMEDIATE);
    CHECK_EQ(arrival.immediate, immediate);
}

static inline void expect_broken(mkv_link *link)
{
    mkv_arrival arrival;
    CHECK_EQ(next_arrival(link, &arrival), MEMKV_ERR_DISCONNECTED);
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

#endif
