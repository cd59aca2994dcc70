/* rdma.h: payload by RC queue pairs, beside a stream whose two ends exchange the
 * parameters.  Moves bytes between the registered memories of two processes; knows no
 * frames and no operations.
 *
 * One end drives: the server WRITEs into and READs from the client's memory, and says
 * with the immediate data of its last WRITE that a request's bytes are all there.  The
 * client's queue pair sends nothing.
 *
 * Nothing here waits but mkv_memory_register (seconds a GiB), mkv_memory_release, and
 * what makes and ends links: a driver may block, mkv_link_connect for a second where the
 * kernel has to ask for the peer's hardware address.  Where the build had no verbs
 * headers, or the host has no library or device, mkv_rdma_open says so with UNSUPPORTED.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef MKV_RDMA_H
#define MKV_RDMA_H

#include <stdbool.h>
#include <sys/uio.h>

#include "memkv/memkv.h"
#include "protocol/wire.h"

/* The verbs library and the devices in use.  Any thread. */
typedef struct mkv_rdma mkv_rdma;

/* library NULL: libibverbs.so.1.  devices "mlx5_0,mlx5_1", or NULL: all that have a port
 * that is up.  UNSUPPORTED with the reason in err. */
int mkv_rdma_open(const char *library, const char *devices, mkv_rdma **out,
                  memkv_error *err);
void mkv_rdma_close(mkv_rdma *rdma); /* links and memories are gone; NULL is fine */

/* The largest target, in bytes, that every device in use takes; 1 MiB or more. */
size_t mkv_rdma_max_target(const mkv_rdma *rdma);

/* Memory registered with the devices in use, len of 1 or more.  `is_target`: peers may
 * READ and WRITE it with its rkeys; else it is only the near end of our own READs and
 * WRITEs, and of any size.  A device that refuses it costs the others nothing: with OK,
 * err then has the reason of the first.  NO_MEMORY, SYSTEM: all of them refused.  Any thread. */
typedef struct mkv_memory mkv_memory;
int mkv_memory_register(mkv_rdma *rdma, void *addr, size_t len, bool is_target,
                        mkv_memory **out, memkv_error *err);
/* Asks those again that refused it; OK: none does.  One thread. */
int mkv_memory_complete(mkv_memory *memory, memkv_error *err);
void mkv_memory_release(mkv_memory *memory); /* no link uses it; NULL is fine */
/* Links are made only with devices that have `memory`.  Before the first link. */
void mkv_rdma_limit(mkv_rdma *rdma, const mkv_memory *memory);

/* One queue pair with its completion queue and channel.  One thread at a time. */
typedef struct mkv_link mkv_link;

/* On the device and GID that own the near address of the connected socket `fd`, RoCE v2
 * before others; where none does, on the devices the setting names and on InfiniBand
 * ports; for a loopback or Unix peer on the first port that is up.  `peer` is what the
 * other end said, NULL at the end that speaks first: of several that fit, those nearest
 * to it are used in turn.  `own` gets what the peer must know.  `receives`: immediates
 * that may be under way (client), 0: none (server). */
int mkv_link_open(mkv_rdma *rdma, int fd, const mkv_rdma_params *peer,
                  uint32_t receives, mkv_link **out, mkv_rdma_params *own,
                  memkv_error *err);
/* To RTR and RTS with the lower of both MTUs and READ depths. */
int mkv_link_connect(mkv_link *link, const mkv_rdma_params *peer, memkv_error *err);
/* On return no NIC touches memory on behalf of this link: a sentinel receive, ERROR,
 * until the sentinel is flushed, then the queue pair is destroyed.  Transfers not yet
 * reported are over, and forgotten.  NULL is fine. */
void mkv_link_close(mkv_link *link);

/* "mlx5_0 port 1 GID 3, RoCE v2, 192.0.2.7": valid as long as the link. */
const char *mkv_link_describe(const mkv_link *link);
/* Whether the link's device has `memory`. */
bool mkv_link_has(const mkv_link *link, const mkv_memory *memory);
/* The key of `memory` (a target, which it has) on the link's device. */
uint32_t mkv_link_rkey(const mkv_link *link, const mkv_memory *memory);

/* Queues a transfer of the sum of `iov` (pieces of `memory`; copied) to or from
 * `address`; it is cut into work requests, of which a bounded number is outstanding.
 * `done_id` comes back from poll when it is over; for a WRITE with `has_immediate` the
 * peer then has the immediate, in order behind the data.  An empty WRITE with an
 * immediate is fine.  NO_MEMORY; DISCONNECTED: the link is broken. */
typedef struct mkv_transfer {
    bool is_read; /* from the peer's memory into ours */
    bool has_immediate;
    uint32_t immediate;
    const mkv_memory *memory;
    const struct iovec *iov;
    size_t n_iov;
    uint64_t address;
    uint32_t rkey;
    uint64_t done_id;
} mkv_transfer;
int mkv_link_transfer(mkv_link *link, const mkv_transfer *transfer);

typedef struct mkv_arrival {
    enum { MKV_TRANSFERRED, MKV_IMMEDIATE } what;
    uint64_t done_id;   /* MKV_TRANSFERRED */
    uint32_t immediate; /* MKV_IMMEDIATE; its receive is posted again */
    int status;         /* MEMKV_OK, or DISCONNECTED: flushed, nothing touches it */
} mkv_arrival;
/* What has completed, at most cap (1 or more); posts the next work requests: a transfer
 * goes on only while its link is polled.  *n 0: nothing.  DISCONNECTED, with *n 0: the
 * link is broken and all transfers were reported. */
int mkv_link_poll(mkv_link *link, mkv_arrival *out, size_t cap, size_t *n);
/* Readable when poll may have something, if arm was called and a poll after it found
 * nothing; until arm is called again. */
int mkv_link_fd(const mkv_link *link);
int mkv_link_arm(mkv_link *link);
/* The queue pair goes to ERROR; poll reports what is outstanding as it is flushed.  A
 * device that does not even do that leaves it to mkv_link_close. */
void mkv_link_break(mkv_link *link);

#endif
