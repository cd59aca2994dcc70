/* worker.h: the network loop.  Each thread that runs it is one worker with an epoll of
 * its own; all of them accept from one listener, and a connection goes to the worker that
 * has the fewest.  It knows sockets and time, and nothing of requests.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef MKV_WORKER_H
#define MKV_WORKER_H

#include <pthread.h>

#include "server/service.h"

typedef struct mkv_worker mkv_worker;

/* All workers of a server. */
typedef struct mkv_crew {
    mkv_service *service;
    int listener;
    int stop; /* an eventfd: readable from the stop on, for ever */
    uint32_t max_connections;
    pthread_mutex_t lock; /* guards the rest, and each worker's inbox and load */
    mkv_worker *first;
} mkv_crew;

/* Works until the stop.  Any thread, several at once.  SYSTEM, NO_MEMORY: could not
 * begin. */
int mkv_worker_run(mkv_crew *crew);

#endif
