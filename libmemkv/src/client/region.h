/* region.h: the RDMA devices of a client, and memory registered with them, found by
 * address.  Devices are opened only by tend (and a probe) and memory is registered only by
 * tend, which may take its time; all else never waits for them.  Any thread.
 *
 * A region is registered in slices of 1 GiB (less where a device takes less), so that
 * nobody waits for the whole of it and no device has to take it as one.  A slice reaches
 * 64 MiB into the next one: values of up to that lie whole in a slice wherever they begin.
 * The overlap counts twice as locked memory (RLIMIT_MEMLOCK), 6 % in all.
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
    int64_t dial_until_ns; /* of dials under way: no slice before; 0: not known */
    memkv_error trouble;   /* why the devices are not open */
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
/* One step: opens the devices, or registers one slice, which may take seconds.  With
 * `is_dialling`, dials being under way that would run out of time meanwhile, a slice waits
 * for 0.2 s.  False: nothing is due. */
bool mkv_regions_tend(mkv_regions *regions, bool is_dialling);

/* The registered memory that holds all of these bytes; NULL: none does. */
const mkv_memory *mkv_regions_find(mkv_regions *regions, const void *addr, size_t len);
/* Bytes of all regions that are registered now. */
uint64_t mkv_regions_registered(mkv_regions *regions);
/* Why the devices are not open, or memory is not registered; "" if nothing is wrong. */
void mkv_regions_describe(mkv_regions *regions, char *text, size_t cap);

#endif
