/* worker.c: the network loop (worker.h).
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/worker.h"

#include "net/clock.h"
#include "net/stream.h"
#include "server/channel.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define EVENTS 64
#define TICK_MS 100
#define ACCEPTS_PER_TURN 64
#define SPIN_NS 50000 /* while payload is under way, before it sleeps */

struct mkv_worker {
    mkv_worker *next; /* in the crew */
    mkv_crew *crew;
    int epoll;
    int bell;           /* an eventfd: the inbox has something */
    mkv_channel *inbox; /* guarded by the crew's lock, as is load */
    uint32_t load;      /* channels here and in the inbox */
    mkv_channel *first; /* all of them */
    mkv_channel *busy;  /* those that time may run out for */
    size_t n_flying;    /* of these, those with payload under way by RDMA */
    int n_events;       /* of the batch that is being handled */
    struct epoll_event events[EVENTS];
    uint64_t ticked_ms;
    bool is_deaf; /* out of descriptors: accepts nothing until the next tick */
    mkv_bench bench;
};

static uint64_t now_ms(void)
{
    return (uint64_t)(mkv_now_ns() / MKV_NS_PER_MS);
}

static int watch(const mkv_worker *worker, int fd, uint32_t events, void *what)
{
    struct epoll_event event = {.events = events, .data.ptr = what};
    return epoll_ctl(worker->epoll, EPOLL_CTL_ADD, fd, &event) == 0 ? MEMKV_OK
                                                                    : MEMKV_ERR_SYSTEM;
}

/* ---- its channels ------------------------------------------------------------------ */

static void set_busy(mkv_worker *worker, mkv_channel *channel, bool busy)
{
    if (channel->is_busy == busy)
        return;
    channel->is_busy = busy;
    if (busy) {
        channel->prev_busy = NULL;
        channel->next_busy = worker->busy;
        if (worker->busy != NULL)
            worker->busy->prev_busy = channel;
        worker->busy = channel;
        return;
    }
    if (channel->prev_busy != NULL)
        channel->prev_busy->next_busy = channel->next_busy;
    else
        worker->busy = channel->next_busy;
    if (channel->next_busy != NULL)
        channel->next_busy->prev_busy = channel->prev_busy;
}

static void set_flying(mkv_worker *worker, mkv_channel *channel, bool flying)
{
    worker->n_flying += (size_t)flying - (size_t)channel->is_flying;
    channel->is_flying = flying;
}

/* It may have had events on its socket and on its link, both in this batch. */
static void forget_events(mkv_worker *worker, const mkv_channel *channel)
{
    for (int i = 0; i < worker->n_events; i++)
        if (worker->events[i].data.ptr == channel)
            worker->events[i].data.ptr = NULL;
}

static void drop_channel(mkv_crew *crew, mkv_channel *channel)
{
    atomic_fetch_sub_explicit(&crew->service->connections, 1, memory_order_relaxed);
    mkv_channel_close(channel);
}

static void remove_channel(mkv_worker *worker, mkv_channel *channel)
{
    forget_events(worker, channel);
    set_flying(worker, channel, false);
    set_busy(worker, channel, false);
    /* a close does not do it while a child just forked still has the descriptor */
    epoll_ctl(worker->epoll, EPOLL_CTL_DEL, channel->fd, NULL);
    if (channel->prev != NULL)
        channel->prev->next = channel->next;
    else
        worker->first = channel->next;
    if (channel->next != NULL)
        channel->next->prev = channel->prev;
    pthread_mutex_lock(&worker->crew->lock);
    worker->load--;
    pthread_mutex_unlock(&worker->crew->lock);
    drop_channel(worker->crew, channel);
}

/* The link that the client has attached just now.  Edge-triggered: events of a link that
 * has nothing under way are not taken. */
static int watch_link(mkv_worker *worker, mkv_channel *channel)
{
    const mkv_remote *remote = &channel->remote;

    if (remote->n_links == channel->n_links)
        return MEMKV_OK;
    channel->n_links = remote->n_links;
    return watch(worker, mkv_link_fd(remote->link), EPOLLIN | EPOLLET, channel);
}

static void give_turn(mkv_worker *worker, mkv_channel *channel, uint64_t now)
{
    if (!mkv_channel_turn(channel, &worker->bench, now) ||
        watch_link(worker, channel) != MEMKV_OK) {
        remove_channel(worker, channel);
        return;
    }
    set_flying(worker, channel, mkv_channel_is_flying(channel));
    set_busy(worker, channel, mkv_channel_is_busy(channel));
    struct epoll_event event = {.events = mkv_channel_events(channel),
                                .data.ptr = channel};
    if (event.events == channel->events)
        return;
    channel->events = event.events;
    if (epoll_ctl(worker->epoll, EPOLL_CTL_MOD, channel->fd, &event) != 0)
        remove_channel(worker, channel);
}

static void add_channel(mkv_worker *worker, mkv_channel *channel, uint64_t now)
{
    channel->prev = NULL;
    channel->next = worker->first;
    if (worker->first != NULL)
        worker->first->prev = channel;
    worker->first = channel;
    channel->events = EPOLLIN;
    if (watch(worker, channel->fd, channel->events, channel) == MEMKV_OK)
        give_turn(worker, channel, now);
    else
        remove_channel(worker, channel);
}

static void empty_inbox(mkv_worker *worker, uint64_t now)
{
    uint64_t rings;

    if (read(worker->bell, &rings, sizeof rings) < 0 && errno != EAGAIN)
        return;
    pthread_mutex_lock(&worker->crew->lock);
    mkv_channel *channel = worker->inbox;
    worker->inbox = NULL;
    pthread_mutex_unlock(&worker->crew->lock);
    while (channel != NULL) {
        mkv_channel *next = channel->next;
        add_channel(worker, channel, now);
        channel = next;
    }
}

/* ---- accepting --------------------------------------------------------------------- */

/* Two connections never share a worker while another one has none. */
static void assign(mkv_crew *crew, mkv_channel *channel)
{
    const uint64_t ring = 1;

    pthread_mutex_lock(&crew->lock);
    mkv_worker *idlest = crew->first;
    for (mkv_worker *worker = crew->first; worker != NULL; worker = worker->next) {
        if (worker->load < idlest->load)
            idlest = worker;
    }
    channel->next = idlest->inbox;
    idlest->inbox = channel;
    idlest->load++;
    /* under the lock: a worker that leaves takes its bell along */
    ssize_t rung = write(idlest->bell, &ring, sizeof ring);
    pthread_mutex_unlock(&crew->lock);
    (void)rung; /* full: it is ringing already */
}

static void welcome(mkv_crew *crew, int fd, uint64_t now)
{
    mkv_service *service = crew->service;
    mkv_channel *channel;

    if (atomic_fetch_add_explicit(&service->connections, 1, memory_order_relaxed) <
        crew->max_connections) {
        if (mkv_channel_open(service, fd, now, &channel) == MEMKV_OK) {
            mkv_count(&service->counters, MKV_COUNT_CONNECTIONS_TOTAL, 1);
            assign(crew, channel);
            return;
        }
    }
    atomic_fetch_sub_explicit(&service->connections, 1, memory_order_relaxed);
    mkv_count(&service->counters, MKV_COUNT_CONNECTIONS_REFUSED, 1);
    mkv_stream_close(fd);
}

static int listen_up(mkv_worker *worker)
{
    worker->is_deaf = false;
    return watch(worker, worker->crew->listener, EPOLLIN | EPOLLEXCLUSIVE,
                 &worker->crew->listener);
}

static void accept_some(mkv_worker *worker, uint64_t now)
{
    mkv_crew *crew = worker->crew;

    for (int i = 0; i < ACCEPTS_PER_TURN; i++) {
        int fd;
        if (mkv_stream_accept(crew->listener, &fd) != MEMKV_OK) {
            worker->is_deaf = true;
            epoll_ctl(worker->epoll, EPOLL_CTL_DEL, crew->listener, NULL);
            return;
        }
        if (fd < 0)
            return;
        welcome(crew, fd, now);
    }
}

/* ---- the loop ---------------------------------------------------------------------- */

static void tick(mkv_worker *worker, uint64_t now)
{
    mkv_channel *next;

    worker->ticked_ms = now;
    if (worker->is_deaf && listen_up(worker) != MEMKV_OK)
        worker->is_deaf = true;
    for (mkv_channel *channel = worker->busy; channel != NULL; channel = next) {
        next = channel->next_busy;
        if (mkv_channel_is_overdue(channel, now)) {
            mkv_count(&worker->crew->service->counters, MKV_COUNT_CONNECTIONS_TIMED_OUT,
                      1);
            remove_channel(worker, channel);
        } else if (channel->is_starved) {
            give_turn(worker, channel, now);
        }
    }
}

static void handle(mkv_worker *worker, const struct epoll_event *event, uint64_t now)
{
    mkv_channel *channel = event->data.ptr;

    if (channel == NULL)
        return;
    if (event->data.ptr == &worker->crew->listener)
        accept_some(worker, now);
    else if (event->data.ptr == &worker->bell)
        empty_inbox(worker, now);
    else if ((event->events & (EPOLLERR | EPOLLHUP)) && !(event->events & EPOLLIN))
        remove_channel(worker, channel); /* nobody reads an answer any more */
    else
        give_turn(worker, channel, now);
}

/* A turn for each channel whose link has something; false: there was none. */
static bool hear_links(mkv_worker *worker)
{
    bool any = false;
    mkv_channel *next;
    uint64_t now = now_ms();

    for (mkv_channel *channel = worker->busy; channel != NULL; channel = next) {
        next = channel->next_busy;
        if (channel->is_flying && mkv_channel_listen(channel, now)) {
            give_turn(worker, channel, now);
            any = true;
        }
    }
    return any;
}

/* From here on what completes raises an event. */
static void arm_links(mkv_worker *worker)
{
    mkv_channel *next;

    for (mkv_channel *channel = worker->busy; channel != NULL; channel = next) {
        next = channel->next_busy;
        if (channel->is_flying && mkv_link_arm(channel->remote.link) != MEMKV_OK)
            remove_channel(worker, channel);
    }
}

/* As epoll_wait; 0 also when a link was heard. */
static int wait_for_events(mkv_worker *worker, int timeout_ms)
{
    int64_t until_ns = worker->n_flying > 0 ? mkv_now_ns() + SPIN_NS : 0;

    worker->n_events = 0;
    while (worker->n_flying > 0) {
        int n = epoll_wait(worker->epoll, worker->events, EVENTS, 0);
        if (n != 0)
            return n;
        bool is_over = mkv_now_ns() > until_ns;
        if (is_over)
            arm_links(worker);
        if (hear_links(worker))
            return 0;
        if (is_over)
            break;
    }
    return epoll_wait(worker->epoll, worker->events, EVENTS, timeout_ms);
}

static int work(mkv_worker *worker)
{
    struct epoll_event *events = worker->events;
    const void *stop = &worker->crew->stop;

    for (;;) {
        bool needs_ticks = worker->busy != NULL || worker->is_deaf;
        int n = wait_for_events(worker, needs_ticks ? TICK_MS : -1);
        if (n < 0 && errno != EINTR)
            return MEMKV_ERR_SYSTEM;
        for (int i = 0; i < n; i++) {
            if (events[i].data.ptr == stop) {
                /* who dials now is refused, not left waiting until close */
                shutdown(worker->crew->listener, SHUT_RDWR);
                return MEMKV_OK;
            }
        }
        uint64_t now = now_ms();
        worker->n_events = n > 0 ? n : 0;
        for (int i = 0; i < n; i++)
            handle(worker, &events[i], now);
        if (needs_ticks && now >= worker->ticked_ms + TICK_MS)
            tick(worker, now);
    }
}

static void join_crew(mkv_worker *worker)
{
    mkv_crew *crew = worker->crew;

    pthread_mutex_lock(&crew->lock);
    worker->next = crew->first;
    crew->first = worker;
    pthread_mutex_unlock(&crew->lock);
    atomic_fetch_add_explicit(&crew->service->workers, 1, memory_order_relaxed);
}

/* Nothing more comes into the inbox from here on. */
static void leave_crew(mkv_worker *worker)
{
    mkv_crew *crew = worker->crew;
    mkv_worker **at = &crew->first;

    atomic_fetch_sub_explicit(&crew->service->workers, 1, memory_order_relaxed);
    pthread_mutex_lock(&crew->lock);
    while (*at != worker)
        at = &(*at)->next;
    *at = worker->next;
    pthread_mutex_unlock(&crew->lock);
    while (worker->first != NULL)
        remove_channel(worker, worker->first);
    while (worker->inbox != NULL) {
        mkv_channel *channel = worker->inbox;
        worker->inbox = channel->next;
        drop_channel(crew, channel);
    }
}

int mkv_worker_run(mkv_crew *crew)
{
    int status = MEMKV_ERR_SYSTEM;

    mkv_worker *worker = calloc(1, sizeof *worker);
    if (worker == NULL)
        return MEMKV_ERR_NO_MEMORY;
    worker->crew = crew;
    worker->epoll = epoll_create1(EPOLL_CLOEXEC);
    worker->bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (worker->epoll >= 0 && worker->bell >= 0 &&
        watch(worker, crew->stop, EPOLLIN, &crew->stop) == MEMKV_OK &&
        watch(worker, worker->bell, EPOLLIN, &worker->bell) == MEMKV_OK &&
        listen_up(worker) == MEMKV_OK) {
        join_crew(worker);
        status = work(worker);
        leave_crew(worker);
    }
    mkv_stream_close(worker->bell);
    mkv_stream_close(worker->epoll);
    free(worker);
    return status;
}
