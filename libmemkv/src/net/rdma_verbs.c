/* SPDX-License-Identifier: Apache-2.0
 * rdma_verbs.c: libibverbs by dlopen (rdma_verbs.h).  Knows names of symbols and no more;
 * it must not keep anything outside the caller's mkv_verbs. */
#include "net/rdma_verbs.h"

#include "status.h"

#include <dlfcn.h>
#include <string.h>

int mkv_verbs_load(const char *library, mkv_verbs *out, memkv_error *err)
{
    const char *path = library != NULL ? library : MKV_VERBS_LIBRARY;
    /* it stays: libibverbs keeps its drivers for good, and would lose them */
    const int flags = RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE;
    mkv_verbs verbs = {.handle = dlopen(path, flags)};
    if (verbs.handle == NULL) {
        const char *why = dlerror(); /* begins with the path */
        return mkv_fail(err, MEMKV_ERR_UNSUPPORTED, 0,
                        "no verbs library: %.140s; install libibverbs1 or rdma-core, "
                        "or set verbs_library",
                        why != NULL ? why : path);
    }
    const struct {
        const char *name;
        void *member; /* a pointer to a function has the size of one to an object */
    } symbols[] = {
        {"ibv_fork_init", &verbs.fork_init},
        {"ibv_get_device_list", &verbs.get_device_list},
        {"ibv_free_device_list", &verbs.free_device_list},
        {"ibv_open_device", &verbs.open_device},
        {"ibv_close_device", &verbs.close_device},
        {"ibv_query_device", &verbs.query_device},
        {"ibv_query_port", &verbs.query_old_port},
        {"_ibv_query_gid_table", &verbs.query_gid_table}, /* since rdma-core 32 */
        {"ibv_alloc_pd", &verbs.alloc_pd},
        {"ibv_dealloc_pd", &verbs.dealloc_pd},
        {"ibv_reg_mr", &verbs.reg_mr},
        {"ibv_dereg_mr", &verbs.dereg_mr},
        {"ibv_create_comp_channel", &verbs.create_channel},
        {"ibv_destroy_comp_channel", &verbs.destroy_channel},
        {"ibv_create_cq", &verbs.create_cq},
        {"ibv_destroy_cq", &verbs.destroy_cq},
        {"ibv_get_cq_event", &verbs.get_cq_event},
        {"ibv_ack_cq_events", &verbs.ack_cq_events},
        {"ibv_create_qp", &verbs.create_qp},
        {"ibv_modify_qp", &verbs.modify_qp},
        {"ibv_destroy_qp", &verbs.destroy_qp},
    };
    for (size_t i = 0; i < sizeof(symbols) / sizeof(symbols[0]); i++) {
        void *found = dlsym(verbs.handle, symbols[i].name);
        if (found == NULL) {
            dlclose(verbs.handle);
            return mkv_fail(err, MEMKV_ERR_UNSUPPORTED, 0,
                            "verbs library %.140s has no %s: rdma-core 32 or newer is "
                            "needed",
                            path, symbols[i].name);
        }
        memcpy(symbols[i].member, &found, sizeof(found));
    }
    *out = verbs;
    return MEMKV_OK;
}

void mkv_verbs_unload(mkv_verbs *verbs)
{
    dlclose(verbs->handle);
}

/* verbs.h has this inline, but so that it would link the library. */
int mkv_verbs_query_port(const mkv_verbs *verbs, struct ibv_context *context,
                         uint8_t port, struct ibv_port_attr *out)
{
    const struct verbs_context *extended = verbs_get_ctx_op(context, query_port);
    if (extended != NULL)
        return extended->query_port(context, port, out, sizeof(*out));
    memset(out, 0, sizeof(*out));
    return verbs->query_old_port(context, port, (struct _compat_ibv_port_attr *)out);
}
