/* rdma_device.h: what a queue pair needs of the devices: who is open, which port and GID a
 * connection should use, and the keys of registered memory.  For rdma_*.c only.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef MKV_RDMA_DEVICE_H
#define MKV_RDMA_DEVICE_H

#include <stdatomic.h>

#include "net/rdma.h"
#include "net/rdma_verbs.h"

typedef struct mkv_device {
    char name[IBV_SYSFS_NAME_MAX];
    struct ibv_context *context;
    struct ibv_pd *pd;
    struct ibv_device_attr attr;
} mkv_device;

struct mkv_rdma {
    mkv_verbs verbs;
    mkv_device *devices;
    size_t n_devices;
    bool are_named;    /* by the setting: then they serve any address */
    atomic_uint turn;  /* among ports that fit equally well */
    atomic_uint links; /* so far: they share out the completion vectors */
};

struct mkv_memory {
    mkv_rdma *rdma;
    struct ibv_mr *regions[]; /* one a device, in their order */
};

/* A port that is up, and the one of its GIDs that fits a connection best. */
typedef struct mkv_port {
    size_t device;
    uint8_t number;
    struct ibv_port_attr attr;
    struct ibv_gid_entry gid;
} mkv_port;

/* Follows mkv_link_open's rule.  UNSUPPORTED: nothing fits, err says why. */
int mkv_port_choose(mkv_rdma *rdma, int fd, const mkv_rdma_params *peer, mkv_port *out,
                    memkv_error *err);
/* "mlx5_0 port 1, RoCE v2, 192.0.2.7" */
void mkv_port_describe(const mkv_rdma *rdma, const mkv_port *port, char *text,
                       size_t cap);

#endif
