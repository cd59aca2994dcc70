/* rdma_loop.c: how fast a link moves values between two processes, beside which
 * tests/vm/throughput.py sets what perftest's tools get from the same device.
 *
 *     rdma_loop LIBRARY write|read SIZE COUNT [NEAR FAR]
 *
 * The links belong to a Unix socket pair or, given two addresses of this host, to a TCP
 * connection from NEAR to FAR.  Two values are in flight, as in a batch; a byte on the
 * stream stands for each reply, and only then does the client look for the immediate.
 * Prints MiB/s.
 * SPDX-License-Identifier: Apache-2.0 */
#include "check.h"

#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "ends.h"
#include "net/clock.h"
#include "net/rdma.h"

#define IN_FLIGHT 2
#define RECEIVES 8
#define SPIN_NS 50000
#define MIB 1048576.0

typedef struct offer { /* of the client, who owns the target; both are this program */
    mkv_rdma_params params;
    uint64_t address;
    uint32_t rkey;
} offer;

typedef struct plan {
    const char *library;
    bool is_read;
    size_t size;
    size_t count;
} plan;

static memkv_error why;
#define CHECK_OK(call)                                                                 \
    do {                                                                               \
        if ((call) != MEMKV_OK) {                                                      \
            fprintf(stderr, "%s: %s\n", #call, why.text);                              \
            exit(1);                                                                   \
        }                                                                              \
    } while (0)

static uint8_t *map(size_t len)
{
    uint8_t *bytes = mmap(NULL, len, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    CHECK(bytes != MAP_FAILED);
    return bytes;
}

/* The next arrival: spin a little, then arm, poll again, sleep. */
static mkv_arrival wait_for(mkv_link *link)
{
    mkv_arrival arrival;
    size_t n = 0;
    int64_t spin_until = mkv_now_ns() + SPIN_NS;
    for (;;) {
        CHECK_OK(mkv_link_poll(link, &arrival, 1, &n));
        if (n == 1)
            return arrival;
        if (mkv_now_ns() < spin_until)
            continue;
        CHECK_OK(mkv_link_arm(link));
        CHECK_OK(mkv_link_poll(link, &arrival, 1, &n));
        if (n == 1)
            return arrival;
        struct pollfd fd = {.fd = mkv_link_fd(link), .events = POLLIN};
        CHECK(poll(&fd, 1, 30000) == 1);
    }
}

static void run_client(const plan *of, int fd)
{
    mkv_rdma *rdma;
    mkv_memory *memory;
    mkv_link *link;
    offer ours;
    mkv_rdma_params theirs;
    char reply;
    uint8_t *bytes = map(of->size * IN_FLIGHT);

    CHECK_OK(mkv_rdma_open(of->library, NULL, &rdma, &why));
    CHECK_OK(
        mkv_memory_register(rdma, bytes, of->size * IN_FLIGHT, true, &memory, &why));
    CHECK_OK(mkv_link_open(rdma, fd, NULL, RECEIVES, &link, &ours.params, &why));
    ours.address = (uintptr_t)bytes;
    ours.rkey = mkv_link_rkey(link, memory);
    CHECK_EQ(write(fd, &ours, sizeof(ours)), sizeof(ours));
    CHECK_EQ(recv(fd, &theirs, sizeof(theirs), MSG_WAITALL), sizeof(theirs));
    CHECK_OK(mkv_link_connect(link, &theirs, &why));
    CHECK_EQ(write(fd, "", 1), 1);
    for (size_t i = 0; i < of->count; i++) {
        CHECK_EQ(read(fd, &reply, 1), 1);
        if (!of->is_read)
            CHECK_EQ(wait_for(link).immediate, i);
    }
    mkv_link_close(link);
    mkv_memory_release(memory);
    mkv_rdma_close(rdma);
}

/* A value lies in pages in a row here, since neighbours are merged anyhow. */
static void start(mkv_link *link, const mkv_memory *memory, const plan *of,
                  uint8_t *bytes, const offer *target, size_t i)
{
    const size_t at = i % IN_FLIGHT * of->size;
    const struct iovec iov = {bytes + at, of->size};
    const mkv_transfer transfer = {
        .is_read = of->is_read,
        .has_immediate = !of->is_read,
        .immediate = (uint32_t)i,
        .memory = memory,
        .iov = &iov,
        .n_iov = 1,
        .address = target->address + at,
        .rkey = target->rkey,
        .done_id = i,
    };
    CHECK_OK(mkv_link_transfer(link, &transfer));
}

static double run_server(const plan *of, int fd)
{
    mkv_rdma *rdma;
    mkv_memory *memory;
    mkv_link *link;
    offer target;
    mkv_rdma_params ours;
    char go;
    uint8_t *bytes = map(of->size * IN_FLIGHT);

    CHECK_OK(mkv_rdma_open(of->library, NULL, &rdma, &why));
    CHECK_OK(
        mkv_memory_register(rdma, bytes, of->size * IN_FLIGHT, false, &memory, &why));
    CHECK_EQ(recv(fd, &target, sizeof(target), MSG_WAITALL), sizeof(target));
    CHECK_OK(mkv_link_open(rdma, fd, &target.params, 0, &link, &ours, &why));
    CHECK_OK(mkv_link_connect(link, &target.params, &why));
    CHECK_EQ(write(fd, &ours, sizeof(ours)), sizeof(ours));
    CHECK_EQ(read(fd, &go, 1), 1);

    const int64_t begin = mkv_now_ns();
    for (size_t asked = 0, done = 0; done < of->count; done++) {
        for (; asked < of->count && asked - done < IN_FLIGHT; asked++)
            start(link, memory, of, bytes, &target, asked);
        mkv_arrival arrival = wait_for(link);
        CHECK_EQ(arrival.done_id, done);
        CHECK_EQ(arrival.status, MEMKV_OK);
        CHECK_EQ(write(fd, "", 1), 1);
    }
    const double seconds = (double)(mkv_now_ns() - begin) / 1e9;

    mkv_link_close(link);
    mkv_memory_release(memory);
    mkv_rdma_close(rdma);
    return (double)of->size * (double)of->count / MIB / seconds;
}

int main(int argc, char **argv)
{
    int fds[2], status;
    if (argc != 5 && argc != 7) {
        fprintf(stderr, "usage: rdma_loop LIBRARY write|read SIZE COUNT [NEAR FAR]\n");
        return 2;
    }
    const plan of = {.library = argv[1],
                     .is_read = strcmp(argv[2], "read") == 0,
                     .size = strtoul(argv[3], NULL, 10),
                     .count = strtoul(argv[4], NULL, 10)};
    ends_connect(argc == 7 ? (const char *const *)argv + 5 : NULL, fds);
    pid_t client = fork();
    CHECK(client >= 0);
    if (client == 0) {
        close(fds[1]);
        run_client(&of, fds[0]);
        return 0;
    }
    close(fds[0]);
    double rate = run_server(&of, fds[1]);
    CHECK_EQ(waitpid(client, &status, 0), client);
    CHECK_EQ(status, 0);
    printf("%.1f\n", rate);
    return 0;
}
