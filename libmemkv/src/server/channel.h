/* channel.h: one accepted connection: its socket, its session, its RDMA link if the
 * client has attached one, and the one request it is at.  Decides what is read and sent next and when the peer has been too slow; waits for
 * nothing.  What requests mean is service.c's.
 *
 * One thread, except where said.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef MKV_CHANNEL_H
#define MKV_CHANNEL_H

#include "server/service.h"

#define MKV_CHANNEL_IOVS 1024

typedef struct mkv_channel mkv_channel;

struct mkv_channel {
    mkv_channel *next, *prev;           /* the worker's lists */
    mkv_channel *next_busy, *prev_busy; /* those with something under way */
    bool is_busy;
    bool is_flying;
    uint32_t events;  /* that epoll was asked for */
    uint64_t n_links; /* of remote's: the last that epoll was asked for */
    int fd;

    mkv_service *service;
    mkv_session session;
    mkv_remote remote;
    mkv_job *job;
    uint8_t *table; /* of the job, or of the frame that is coming */
    size_t table_len;
    bool is_receiving; /* between FRAME and END */
    bool is_partial;   /* part of a frame is in */
    bool is_starved;   /* no memory for its table just now */
    bool wants_turn;   /* has work that needs no byte of the peer's */
    bool is_closing;   /* says its last words */
    uint64_t since_ms; /* opened; or the partial frame, or the closing, began */
    uint64_t moved_ms; /* bytes last went either way */
};

/* What a worker lends to the channel whose turn it is. */
typedef struct mkv_bench {
    mkv_desk desk;
    struct iovec iov[MKV_CHANNEL_IOVS];
} mkv_bench;

/* The channel's socket is `fd` from now on.  NO_MEMORY or SYSTEM: fd is the caller's.
 * Another thread may take the channel over, as long as it is one at a time. */
int mkv_channel_open(mkv_service *service, int fd, uint64_t now_ms, mkv_channel **out);
void mkv_channel_close(mkv_channel *channel);

/* Moves what can be moved now, about 4 MiB at most.  False: it is over, close it. */
bool mkv_channel_turn(mkv_channel *channel, mkv_bench *bench, uint64_t now_ms);
/* The epoll events that give it its next turn. */
uint32_t mkv_channel_events(const mkv_channel *channel);
/* Is payload under way by RDMA?  Then, before anybody sleeps: mkv_link_arm, and take. */
bool mkv_channel_is_flying(const mkv_channel *channel);
/* Takes what its link has; true: it wants a turn. */
bool mkv_channel_listen(mkv_channel *channel, uint64_t now_ms);
/* Anything under way that time may run out for?  If not, it may stay for ever. */
bool mkv_channel_is_busy(const mkv_channel *channel);
/* Has the peer been too slow? */
bool mkv_channel_is_overdue(const mkv_channel *channel, uint64_t now_ms);

#endif
