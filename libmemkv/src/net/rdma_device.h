/* rdma_device.h: what a queue pair needs of the devices: who is open, which port and GID a
 * connection should use, and the keys of registered memory.  For rdma_*.c only.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef MKV_RDMA_DEVICE_H
#define MKV_RDMA_DEVICE_H

#include <netinet/in.h>
#include <stdatomic.h>

#include "net/rdma.h"
#include "net/rdma_verbs.h"

typedef struct mkv_device {
    char name[IBV_SYSFS_NAME_MAX];
    struct ibv_context *context;
    struct ibv_pd *pd;
    struct ibv_device_attr attr;
    bool is_left_out; /* lacks the memory that all links are for */
} mkv_device;

/* `device` is of a list that is not freed yet.  UNSUPPORTED: it cannot be opened or used,
 * or is of a kind that we cannot; err says which. */
int mkv_device_open(const mkv_verbs *verbs, struct ibv_device *device, mkv_device *out,
                    memkv_error *err);
void mkv_device_close(const mkv_verbs *verbs, mkv_device *device);

struct mkv_rdma {
    mkv_verbs verbs;
    mkv_device *devices;
    size_t n_devices;
    bool are_named;           /* by the setting: then they serve any address */
    atomic_uint turn;         /* among ports that fit equally well */
    atomic_uint links;        /* so far: they share out the completion vectors */
    atomic_size_t registered; /* bytes, each as often as it counts as locked */
};

/* With each device either one MR, as a target is known to its peers by one number, or as
 * many as it takes, one behind the other. */
struct mkv_memory {
    mkv_rdma *rdma;
    uintptr_t base;
    size_t len;
    int access;
    size_t stride; /* bytes of an MR; the last one may have less */
    size_t n_each; /* MRs with a device */
    /* All of the first device, then those of the next; NULL: it has refused. */
    struct ibv_mr *_Atomic regions[];
};

/* The i-th MR with a device. */
static inline struct ibv_mr *mkv_memory_mr(const mkv_memory *memory, size_t device,
                                           size_t i)
{
    return atomic_load_explicit(&memory->regions[device * memory->n_each + i],
                                memory_order_acquire);
}

/* Does the device have all of it? */
static inline bool mkv_memory_is_with(const mkv_memory *memory, size_t device)
{
    return mkv_memory_mr(memory, device, memory->n_each - 1) != NULL;
}

/* A port that is up, and the one of its GIDs that fits a connection best. */
typedef struct mkv_port {
    size_t device;
    uint8_t number;
    struct ibv_port_attr attr;
    struct ibv_gid_entry gid;
} mkv_port;

/* The GIDs in use of all ports of a device, *n of them, for the caller to free; NULL: out
 * of memory. */
struct ibv_gid_entry *mkv_device_gids(const mkv_verbs *verbs, const mkv_device *device,
                                      size_t *n);
/* "RoCE v2", "RoCE v1" or "InfiniBand". */
const char *mkv_gid_kind(const struct ibv_port_attr *port,
                         const struct ibv_gid_entry *gid);
/* An IP address, terminated. */
#define MKV_GID_TEXT INET6_ADDRSTRLEN
void mkv_gid_format(const struct ibv_gid_entry *gid, char text[MKV_GID_TEXT]);

/* Follows mkv_link_open's rule.  UNSUPPORTED: nothing fits, err says why. */
int mkv_port_choose(mkv_rdma *rdma, int fd, const mkv_rdma_params *peer, mkv_port *out,
                    memkv_error *err);
/* "mlx5_0 port 1 GID 3, RoCE v2, 192.0.2.7" */
void mkv_port_describe(const mkv_rdma *rdma, const mkv_port *port, char *text,
                       size_t cap);

#endif
