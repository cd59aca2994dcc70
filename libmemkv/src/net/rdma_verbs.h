/* rdma_verbs.h: libibverbs, loaded when it is first wanted, so that nothing here links it.
 * A test loads a library of its own.  The verbs of the data path (post, poll, notify) are
 * inline in verbs.h, reach the driver through the context, and need no place here.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef MKV_RDMA_VERBS_H
#define MKV_RDMA_VERBS_H

#include <infiniband/verbs.h>

#include "memkv/memkv.h"

/* Members return and set errno as their ibv_ namesakes do. */
typedef struct mkv_verbs {
    void *handle; /* dlopen's */
    int (*fork_init)(void);
    struct ibv_device **(*get_device_list)(int *n);
    void (*free_device_list)(struct ibv_device **list);
    struct ibv_context *(*open_device)(struct ibv_device *device);
    int (*close_device)(struct ibv_context *context);
    int (*query_device)(struct ibv_context *context, struct ibv_device_attr *attr);
    int (*query_old_port)(struct ibv_context *context, uint8_t port,
                          struct _compat_ibv_port_attr *attr);
    ssize_t (*query_gid_table)(struct ibv_context *context,
                               struct ibv_gid_entry *entries, size_t cap,
                               uint32_t flags, size_t entry_size);
    struct ibv_pd *(*alloc_pd)(struct ibv_context *context);
    int (*dealloc_pd)(struct ibv_pd *pd);
    struct ibv_mr *(*reg_mr)(struct ibv_pd *pd, void *addr, size_t len, int access);
    int (*dereg_mr)(struct ibv_mr *mr);
    struct ibv_comp_channel *(*create_channel)(struct ibv_context *context);
    int (*destroy_channel)(struct ibv_comp_channel *channel);
    struct ibv_cq *(*create_cq)(struct ibv_context *context, int cap, void *user,
                                struct ibv_comp_channel *channel, int vector);
    int (*destroy_cq)(struct ibv_cq *cq);
    int (*get_cq_event)(struct ibv_comp_channel *channel, struct ibv_cq **cq,
                        void **user);
    void (*ack_cq_events)(struct ibv_cq *cq, unsigned n);
    struct ibv_qp *(*create_qp)(struct ibv_pd *pd, struct ibv_qp_init_attr *attr);
    int (*modify_qp)(struct ibv_qp *qp, struct ibv_qp_attr *attr, int mask);
    int (*destroy_qp)(struct ibv_qp *qp);
} mkv_verbs;

#define MKV_VERBS_LIBRARY "libibverbs.so.1"
/* library NULL: that one.  UNSUPPORTED with the loader's words in err. */
int mkv_verbs_load(const char *library, mkv_verbs *out, memkv_error *err);
void mkv_verbs_unload(mkv_verbs *verbs);

/* Of an old provider only the fields up to `flags`. */
int mkv_verbs_query_port(const mkv_verbs *verbs, struct ibv_context *context,
                         uint8_t port, struct ibv_port_attr *out);

#endif
