/* service.h: what each request does to the store.  A job is one request from its table to
 * its last reply frame; it is told when bytes of the body are wanted and asked for one
 * reply frame after the other.  Knows no sockets; time is an argument.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef MKV_SERVICE_H
#define MKV_SERVICE_H

#include <pthread.h>

#include "protocol/session.h"
#include "server/answer.h"
#include "server/counters.h"
#include "server/intake.h"
#include "server/remote.h"
#include "server/store.h"

#define MKV_RDMA_TEXT                                                                  \
    sizeof((memkv_error){0}.text) /* the devices, or why there is none, as one line */

/* What all connections of a server share.  Any thread. */
typedef struct mkv_service {
    mkv_store *store;
    mkv_identity self; /* nonce and uptime are for each session to fill in */
    uint8_t key[MEMKV_AUTH_KEY_LEN];
    char name[MEMKV_MAX_NAME + 1];
    uint64_t started_ms;
    mkv_answers answers;
    mkv_rdma *rdma;   /* NULL: payload goes inline; rdma_text says why */
    mkv_memory *pool; /* the store's pages, registered */
    char rdma_text[MKV_RDMA_TEXT];
    pthread_mutex_t refused_lock; /* guards refused */
    char refused[MKV_RDMA_TEXT];  /* why a client got no link, the last time; or "" */
    mkv_counters counters;
    _Atomic uint64_t connections, workers;
    _Atomic uint64_t table_bytes; /* of requests being read or answered */
    _Atomic uint64_t jobs;        /* requests under way */
    _Atomic bool is_draining;     /* requests with items are refused */
} mkv_service;

/* What a worker lends to one job at a time. */
typedef struct mkv_desk {
    mkv_draft draft;
    mkv_bin bin;
    mkv_targets targets; /* of the remote rows of the draft */
} mkv_desk;

/* One thread.  `peer`, `remote` and `table` are borrowed until close. */
typedef struct mkv_job mkv_job;

/* Assumes that the session has checked the table.  NO_MEMORY. */
int mkv_job_open(mkv_service *service, const mkv_peer_info *peer,
                 const mkv_remote *remote, const mkv_frame *frame, const uint8_t *table,
                 uint64_t now_ms, mkv_job **out);
uint8_t mkv_job_kind(const mkv_job *job);
uint64_t mkv_job_deadline(const mkv_job *job);
/* Where the next bytes of the body go, of `body_left`; valid until asked again. */
size_t mkv_job_sink(mkv_job *job, mkv_desk *desk, uint64_t body_left, uint64_t now_ms,
                    struct iovec **iov);
/* The body is in. */
void mkv_job_received(mkv_job *job, uint64_t now_ms);
/* The next reply frame, its table at most max_table bytes.  *out NULL: ask again in
 * another turn, this one has done enough.  With desk->targets the frame may go out only
 * when their transfers are over.  Nothing but NO_MEMORY can go wrong. */
int mkv_job_answer(mkv_job *job, mkv_desk *desk, size_t max_table, uint64_t now_ms,
                   mkv_answer **out);
bool mkv_job_is_done(const mkv_job *job); /* its last frame was made */
/* Answers an RDMA request instead: a status, or the near end's parameters. */
int mkv_job_answer_rdma(mkv_job *job, int status, const uint8_t params[MKV_PARAMS_LEN],
                        mkv_answer **out);
/* Drops what was half put.  NULL is fine. */
void mkv_job_close(mkv_job *job);

#endif
