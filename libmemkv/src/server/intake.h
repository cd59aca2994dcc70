/* intake.h: the body of one PUT on its way into the store.  Names where the next bytes
 * go, a stretch at a time: straight into pages for an item that was accepted, into a bin
 * for one that was refused, so that the connection stays in step.  Takes pages only as
 * bytes arrive, and commits an item once all of its bytes are in.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef MKV_INTAKE_H
#define MKV_INTAKE_H

#include <stdbool.h>

#include "protocol/wire.h"
#include "server/counters.h"
#include "server/store.h"

#define MKV_INTAKE_STRETCH (1u << 20)
#define MKV_INTAKE_IOVS 64
#define MKV_INTAKE_ITEMS 64 /* that can end within one stretch */

/* Bytes that nobody wants; a thread's. */
typedef struct mkv_bin {
    uint8_t bytes[65536];
} mkv_bin;

typedef struct mkv_intake {
    mkv_store *store;
    mkv_counters *counters;
    const uint8_t *name_space;
    uint32_t name_space_len;
    uint64_t deadline_ms;
    mkv_cursor cursor;
    int32_t *statuses; /* one for each item of the request */
    uint32_t next;     /* the item that the cursor yields next */

    /* the item whose bytes are coming */
    mkv_put *put;    /* NULL: refused */
    uint64_t length; /* of its payload */
    uint64_t left;   /* of its bytes that were not named yet */

    /* items whose last bytes are within the stretch under way */
    struct {
        mkv_put *put;
        uint64_t length;
        uint32_t index;
    } ending[MKV_INTAKE_ITEMS];
    size_t n_ending;
    struct iovec iov[MKV_INTAKE_IOVS];
} mkv_intake;

/* What an item of a PUT asks the store for. */
mkv_put_request mkv_put_request_of(mkv_name name, const mkv_request *item);
/* The stretch named before is full.  Fills intake->iov, returns how many; 0: all of the
 * request's bytes were named. */
size_t mkv_intake_stretch(mkv_intake *intake, mkv_bin *bin, uint64_t now_ms);
/* All of the body is in: every item has its status. */
void mkv_intake_end(mkv_intake *intake, uint64_t now_ms);
/* Drops what is not committed.  Safe after end. */
void mkv_intake_drop(mkv_intake *intake);

#endif
