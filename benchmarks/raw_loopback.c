/* raw_loopback.c: what this host's loopback gives to a bare engine, for `memkv bench`.
 *
 * Two processes, one connection: the same non-blocking loop and socket options as
 * libmemkv's, from and to one contiguous buffer, with no hash, no tag and no store.
 *
 *     raw_loopback serve                                 prints its port
 *     raw_loopback run PORT REQUEST REPLY PARTS SECONDS  prints: batches ns p50_ns p99_ns
 *
 * A batch is PARTS requests of REQUEST bytes, each answered by REPLY bytes; up to two are
 * in flight.  It must not know libmemkv.
 * SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define WINDOW 2           /* requests in flight, as on a client's connection */
#define SEND_BUFFER 524288 /* SO_SNDBUF of libmemkv for peers on the same host */
#define SPIN_NS 30000      /* a client looks that long before it sleeps */
#define BUFFER (UINT64_C(128) << 20)
#define MAX_BATCHES 1000000

/* Before each request; a reply has none: its length is known. */
typedef struct head {
    uint64_t request_len;
    uint64_t reply_len;
    uint64_t offset; /* of both in the server's buffer */
} head;

_Noreturn static void die(const char *what)
{
    perror(what);
    exit(1);
}

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

/* Every page is there before the clock runs. */
static uint8_t *make_buffer(void)
{
    uint8_t *buffer =
        mmap(NULL, BUFFER, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (buffer == MAP_FAILED)
        die("mmap");
    (void)madvise(buffer, BUFFER, MADV_HUGEPAGE);
    memset(buffer, 1, BUFFER);
    return buffer;
}

static void set_options(int fd)
{
    const int on = 1, size = SEND_BUFFER;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
}

/* Moves what the socket takes or has; 0: nothing just now; -1: the peer has gone. */
static ssize_t move(int fd, struct iovec *iov, size_t n_iov, bool is_write)
{
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = n_iov};
    ssize_t n;
    do
        n = is_write ? sendmsg(fd, &msg, MSG_NOSIGNAL) : recvmsg(fd, &msg, 0);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return errno == EAGAIN ? 0 : -1;
    return n == 0 && !is_write ? -1 : n;
}

/* ---- server ------------------------------------------------------------------------ */

typedef struct channel {
    int fd;
    head request;
    uint64_t got;  /* of head and request */
    uint64_t sent; /* of the reply */
    uint8_t *buffer;
} channel;

static bool has_request(const channel *c)
{
    return c->got >= sizeof c->request &&
           c->got == sizeof c->request + c->request.request_len;
}

/* One step; false: nothing moves just now.  The peer's end ends the channel. */
static bool step(channel *c, bool *over)
{
    struct iovec iov;
    ssize_t n;

    if (has_request(c)) {
        iov.iov_base = c->buffer + c->request.offset + c->sent;
        iov.iov_len = c->request.reply_len - c->sent;
        n = iov.iov_len > 0 ? move(c->fd, &iov, 1, true) : 0;
        c->sent += n > 0 ? (uint64_t)n : 0;
        if (n >= 0 && c->sent == c->request.reply_len) {
            c->got = c->sent = 0;
            return true;
        }
    } else if (c->got < sizeof c->request) {
        iov.iov_base = (uint8_t *)&c->request + c->got;
        iov.iov_len = sizeof c->request - c->got;
        n = move(c->fd, &iov, 1, false);
        c->got += n > 0 ? (uint64_t)n : 0;
    } else {
        iov.iov_base = c->buffer + c->request.offset + (c->got - sizeof c->request);
        iov.iov_len = c->request.request_len - (c->got - sizeof c->request);
        n = move(c->fd, &iov, 1, false);
        c->got += n > 0 ? (uint64_t)n : 0;
    }
    *over = n < 0;
    return n > 0;
}

static void serve_one(int fd, uint8_t *buffer)
{
    channel c = {.fd = fd, .buffer = buffer};
    struct epoll_event event = {.events = EPOLLIN};
    uint32_t watched = EPOLLIN;
    bool over = false;

    int epoll = epoll_create1(0);
    if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) != 0)
        die("epoll");
    while (!over) {
        if (step(&c, &over))
            continue;
        uint32_t wanted = has_request(&c) ? EPOLLOUT : EPOLLIN;
        if (wanted != watched) {
            event.events = watched = wanted;
            epoll_ctl(epoll, EPOLL_CTL_MOD, fd, &event);
        }
        epoll_wait(epoll, &event, 1, -1);
    }
    close(epoll);
    close(fd);
}

static int serve(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    uint8_t *buffer = make_buffer();

    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, len) != 0 ||
        listen(listener, 8) != 0 ||
        getsockname(listener, (struct sockaddr *)&address, &len) != 0)
        die("listen");
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
        if (fd < 0)
            die("accept");
        set_options(fd);
        serve_one(fd, buffer);
    }
}

/* ---- client ------------------------------------------------------------------------ */

typedef struct load {
    int fd;
    uint64_t request_len;
    uint64_t reply_len;
    uint64_t parts;
    uint8_t *buffer;
} load;

static uint64_t place(const load *l, uint64_t part)
{
    uint64_t len = l->request_len > l->reply_len ? l->request_len : l->reply_len;
    return part * len % (BUFFER - len + 1);
}

/* Sends what may be sent of requests `*part` on; `*at` is how far into that one. */
static bool send_some(const load *l, uint64_t *part, uint64_t *at, uint64_t answered)
{
    bool moved = false;
    while (*part < l->parts && *part < answered + WINDOW) {
        head h = {l->request_len, l->reply_len, place(l, *part)};
        struct iovec iov[2];
        size_t n_iov = 0;
        if (*at < sizeof h)
            iov[n_iov++] = (struct iovec){(uint8_t *)&h + *at, sizeof h - *at};
        uint64_t body = *at < sizeof h ? 0 : *at - sizeof h;
        if (body < l->request_len)
            iov[n_iov++] =
                (struct iovec){l->buffer + h.offset + body, l->request_len - body};
        ssize_t n = move(l->fd, iov, n_iov, true);
        if (n < 0)
            die("send");
        if (n == 0)
            return moved;
        moved = true;
        *at += (uint64_t)n;
        if (*at == sizeof h + l->request_len) {
            *at = 0;
            (*part)++;
        }
    }
    return moved;
}

static void wait_for(int fd, bool wants_write)
{
    struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
    if (wants_write)
        poll_fd.events |= POLLOUT;
    for (int64_t until = now_ns() + SPIN_NS; now_ns() < until;)
        if (poll(&poll_fd, 1, 0) > 0)
            return;
    poll(&poll_fd, 1, -1);
}

static void run_batch(const load *l)
{
    uint64_t part = 0, at = 0, answered = 0, got = 0;
    while (answered < l->parts) {
        bool moved = send_some(l, &part, &at, answered);
        while (answered < part) {
            struct iovec iov = {l->buffer + place(l, answered) + got,
                                l->reply_len - got};
            ssize_t n = move(l->fd, &iov, 1, false);
            if (n < 0)
                die("receive");
            if (n == 0)
                break;
            moved = true;
            got += (uint64_t)n;
            if (got == l->reply_len) {
                got = 0;
                answered++;
            }
        }
        if (!moved)
            wait_for(l->fd, part < l->parts && part < answered + WINDOW);
    }
}

static int compare(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static int run(char **args)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)atoi(args[0])),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    load l = {.request_len = strtoull(args[1], NULL, 10),
              .reply_len = strtoull(args[2], NULL, 10),
              .parts = strtoull(args[3], NULL, 10)};
    double seconds = atof(args[4]);
    int64_t *took = malloc(MAX_BATCHES * sizeof *took);

    if (l.reply_len == 0 || l.request_len > BUFFER || l.reply_len > BUFFER ||
        took == NULL)
        return 2;
    l.buffer = make_buffer();
    l.fd = socket(AF_INET, SOCK_STREAM, 0);
    if (l.fd < 0 || connect(l.fd, (struct sockaddr *)&address, sizeof address) != 0)
        die("connect");
    if (fcntl(l.fd, F_SETFL, O_NONBLOCK) != 0)
        die("fcntl");
    set_options(l.fd);
    run_batch(&l); /* warm */
    size_t n = 0;
    int64_t begin = now_ns(), last = begin;
    while (n < MAX_BATCHES && (double)(last - begin) < seconds * 1e9) {
        run_batch(&l);
        int64_t now = now_ns();
        took[n++] = now - last;
        last = now;
    }
    qsort(took, n, sizeof *took, compare);
    printf("%zu %" PRId64 " %" PRId64 " %" PRId64 "\n", n, last - begin, took[n / 2],
           took[n * 99 / 100]);
    free(took);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "serve") == 0)
        return serve();
    if (argc == 7 && strcmp(argv[1], "run") == 0)
        return run(argv + 2);
    fprintf(stderr,
            "usage: raw_loopback serve | run PORT REQUEST REPLY PARTS SECONDS\n");
    return 2;
}
