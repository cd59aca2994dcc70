/* region.h: the RDMA devices of a client, and memory registered with them, found by
 * address.  Devices are opened and memory is registered only by tend (and a probe), which
 * may take its time; all else never waits for them.  Any thread.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef MKV_REGION_H
#define MKV_REGION_H

#include <pthread.h>
#include <stdatomic.h>

#include "net/rdma.h"

typedef struct mkv_regions {
    char *library; /* its own copies; NULL: the default */
    char *devices;
    _Atomic(mkv_rdma *) rdma; /* once it is open, for good */
    atomic_bool is_tried;     /* whether it could be opened is known */
    pthread_mutex_t opening;  /* one thread at a time tries; guards retry_ns */
    int64_t retry_ns;

    pthread_mutex_t lock; /* guards all below */
    pthread_cond_t changed;
    memkv_region *first;
    memkv_error trouble; /* why the devices are not open */
} mkv_regions;

/* NO_MEMORY. */
int mkv_regions_init(mkv_regions *regions, const char *library, const char *devices);
void mkv_regions_fini(mkv_regions *regions); /* also those that are not released */

/* NULL: not open, perhaps not yet. */
static inline mkv_rdma *mkv_regions_rdma(mkv_regions *regions)
{
    return atomic_load(&regions->rdma);
}

/* Opens the devices unless they are, or it is too soon to try again. */
void mkv_regions_open_devices(mkv_regions *regions);
/* Opens the devices, registers what is not registered.  May take seconds a GiB. */
void mkv_regions_tend(mkv_regions *regions, const atomic_bool *is_stopped);

/* The registered memory that holds all of these bytes; NULL: none does. */
const mkv_memory *mkv_regions_find(mkv_regions *regions, const void *addr, size_t len);
/* Why the devices are not open, or memory is not registered; "" if nothing is wrong. */
void mkv_regions_describe(mkv_regions *regions, char *text, size_t cap);

#endif
