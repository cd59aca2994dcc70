/* SPDX-License-Identifier: Apache-2.0
 * rdma_device.c: the RDMA devices of a process: opening them by name, registering memory
 * with them.  It must not know of connections or queue pairs. */
#include "net/rdma_device.h"

#include "status.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#define NAMES_CAP 120              /* of a list in an error's text */
#define MAX_MR ((uint64_t)1 << 30) /* of a near end; some drivers take little more */
/* A device that allows less than this does not know; a near end's MRs are multiples of
 * it, so that no page of a pool lies in two. */
#define MIN_MR ((uint64_t)1 << 20)

/* ---- opening ------------------------------------------------------------------------- */

static const char *add_name(char *names, size_t cap, const char *name)
{
    size_t used = strlen(names);
    snprintf(names + used, cap - used, "%s%.40s", used > 0 ? ", " : "", name);
    return names;
}

int mkv_device_open(const mkv_verbs *verbs, struct ibv_device *device, mkv_device *out,
                    memkv_error *err)
{
    mkv_device opened = {.context = NULL};

    snprintf(opened.name, sizeof(opened.name), "%s", device->name);
    /* Others need their own ways to connect: iWARP the connection manager, EFA its SRD. */
    if (device->transport_type != IBV_TRANSPORT_IB)
        return mkv_fail(err, MEMKV_ERR_UNSUPPORTED, 0,
                        "RDMA device %s is neither InfiniBand nor RoCE", opened.name);
    opened.context = verbs->open_device(device);
    if (opened.context == NULL)
        return mkv_fail(err, MEMKV_ERR_UNSUPPORTED, errno,
                        "RDMA device %s cannot be opened: %s; in a container, pass "
                        "/dev/infiniband in",
                        opened.name, strerror(errno));
    int why = verbs->query_device(opened.context, &opened.attr);
    if (why == 0) {
        opened.pd = verbs->alloc_pd(opened.context);
        why = opened.pd == NULL ? errno : 0;
    }
    if (why != 0) {
        verbs->close_device(opened.context);
        return mkv_fail(err, MEMKV_ERR_UNSUPPORTED, why,
                        "RDMA device %s cannot be used: %s", opened.name,
                        strerror(why));
    }
    *out = opened;
    return MEMKV_OK;
}

void mkv_device_close(const mkv_verbs *verbs, mkv_device *device)
{
    verbs->dealloc_pd(device->pd);
    verbs->close_device(device->context);
}

static void close_devices(mkv_rdma *rdma)
{
    for (size_t i = 0; i < rdma->n_devices; i++)
        mkv_device_close(&rdma->verbs, &rdma->devices[i]);
    rdma->n_devices = 0;
}

/* The next of "a, b"; false at the end. */
static bool take_name(const char **at, const char **name, size_t *len)
{
    *at += strspn(*at, ", ");
    *name = *at;
    *len = strcspn(*at, ", ");
    *at += *len;
    return *len > 0;
}

static bool is_open(const mkv_rdma *rdma, const char *name, size_t len)
{
    for (size_t i = 0; i < rdma->n_devices; i++)
        if (strlen(rdma->devices[i].name) == len &&
            memcmp(rdma->devices[i].name, name, len) == 0)
            return true;
    return false;
}

/* Opens those that `names` lists, in its order; one that fails fails all. */
static int open_named(mkv_rdma *rdma, struct ibv_device **list, const char *names,
                      memkv_error *err)
{
    const char *name;
    size_t len;

    while (take_name(&names, &name, &len)) {
        char known[NAMES_CAP] = "";
        struct ibv_device **at = list;
        while (*at != NULL &&
               (strlen((*at)->name) != len || memcmp((*at)->name, name, len) != 0))
            add_name(known, sizeof(known), (*at++)->name);
        if (*at == NULL)
            return mkv_fail(err, MEMKV_ERR_UNSUPPORTED, 0,
                            "there is no RDMA device \"%.*s\"; there is: %s",
                            (int)(len < 60 ? len : 60), name, known);
        if (is_open(rdma, name, len))
            continue;
        int status =
            mkv_device_open(&rdma->verbs, *at, &rdma->devices[rdma->n_devices], err);
        if (status != MEMKV_OK)
            return status;
        rdma->n_devices++;
    }
    rdma->are_named = true;
    return MEMKV_OK;
}

/* Opens what can be opened; fails with the last reason if that is nothing. */
static int open_all(mkv_rdma *rdma, struct ibv_device **list, memkv_error *err)
{
    int status = MEMKV_OK;
    for (; *list != NULL; list++) {
        int each =
            mkv_device_open(&rdma->verbs, *list, &rdma->devices[rdma->n_devices], err);
        if (each == MEMKV_OK)
            rdma->n_devices++;
        else
            status = each;
    }
    return rdma->n_devices > 0 ? MEMKV_OK : status;
}

static int check_a_port_is_up(const mkv_rdma *rdma, memkv_error *err)
{
    char names[NAMES_CAP] = "";
    for (size_t i = 0; i < rdma->n_devices; i++) {
        const mkv_device *device = &rdma->devices[i];
        struct ibv_port_attr port;
        for (unsigned number = 1; number <= device->attr.phys_port_cnt; number++)
            if (mkv_verbs_query_port(&rdma->verbs, device->context, (uint8_t)number,
                                     &port) == 0 &&
                port.state == IBV_PORT_ACTIVE)
                return MEMKV_OK;
        add_name(names, sizeof(names), device->name);
    }
    return mkv_fail(err, MEMKV_ERR_UNSUPPORTED, 0,
                    "no RDMA port is up; looked at: %s; ip link set ... up, or mend "
                    "the cable",
                    names);
}

int mkv_rdma_open(const char *library, const char *devices, mkv_rdma **out,
                  memkv_error *err)
{
    int n = 0;
    struct ibv_device **list = NULL;
    mkv_rdma *rdma = calloc(1, sizeof(*rdma));
    if (rdma == NULL)
        return mkv_fail(err, MEMKV_ERR_NO_MEMORY, 0, "out of memory");

    int status = mkv_verbs_load(library, &rdma->verbs, err);
    if (status != MEMKV_OK)
        goto err_free;
    /* Has to precede the first registration.  Kernels since 5.12 copy pinned pages at a
     * fork by themselves, and then this does nothing. */
    rdma->verbs.fork_init();
    list = rdma->verbs.get_device_list(&n);
    if (list == NULL || n == 0) {
        status = mkv_fail(err, MEMKV_ERR_UNSUPPORTED, list == NULL ? errno : 0,
                          "this host has no RDMA device, or its driver is not loaded "
                          "(see /sys/class/infiniband)");
        goto err_close;
    }
    rdma->devices = calloc((size_t)n, sizeof(*rdma->devices));
    if (rdma->devices == NULL) {
        status = mkv_fail(err, MEMKV_ERR_NO_MEMORY, 0, "out of memory");
        goto err_close;
    }
    if (devices != NULL && devices[strspn(devices, ", ")] != '\0')
        status = open_named(rdma, list, devices, err);
    else
        status = open_all(rdma, list, err);
    if (status == MEMKV_OK)
        status = check_a_port_is_up(rdma, err);
    if (status != MEMKV_OK)
        goto err_close;
    rdma->verbs.free_device_list(list);
    *out = rdma;
    return MEMKV_OK;

err_close:
    close_devices(rdma);
    free(rdma->devices);
    if (list != NULL)
        rdma->verbs.free_device_list(list);
    mkv_verbs_unload(&rdma->verbs);
err_free:
    free(rdma);
    return status;
}

void mkv_rdma_close(mkv_rdma *rdma)
{
    if (rdma == NULL)
        return;
    close_devices(rdma);
    free(rdma->devices);
    mkv_verbs_unload(&rdma->verbs);
    free(rdma);
}

/* ---- memory ---------------------------------------------------------------------------- */

size_t mkv_rdma_max_target(const mkv_rdma *rdma)
{
    uint64_t least = SIZE_MAX;
    for (size_t i = 0; i < rdma->n_devices; i++) {
        const uint64_t each = rdma->devices[i].attr.max_mr_size;
        if (each >= MIN_MR && each < least)
            least = each;
    }
    return (size_t)least;
}

/* `next`: bytes of the MR that was refused. */
static int fail_to_register(mkv_rdma *rdma, const mkv_device *device,
                            const mkv_memory *memory, size_t next, int why,
                            memkv_error *err)
{
    const rlim_t wanted = atomic_load(&rdma->registered) + next;
    struct rlimit limit = {0};
    if (why == ENOMEM && getrlimit(RLIMIT_MEMLOCK, &limit) == 0 &&
        limit.rlim_cur < wanted)
        return mkv_fail(err, MEMKV_ERR_NO_MEMORY, why,
                        "cannot register %zu bytes with %s: only %llu may be locked; "
                        "ulimit -l unlimited, LimitMEMLOCK=infinity, or the IPC_LOCK "
                        "capability",
                        memory->len, device->name, (unsigned long long)limit.rlim_cur);
    return mkv_fail(err, why == ENOMEM ? MEMKV_ERR_NO_MEMORY : MEMKV_ERR_SYSTEM, why,
                    "cannot register %zu bytes at %p with %s: %s%s", memory->len,
                    (void *)memory->base, device->name, strerror(why),
                    rdma->n_devices > 1 ? "; rdma_devices can leave it out" : "");
}

static size_t stride_of(const mkv_rdma *rdma, size_t len, bool is_target)
{
    uint64_t most = mkv_rdma_max_target(rdma);
    most = most < MAX_MR ? most / MIN_MR * MIN_MR : MAX_MR;
    return is_target || len < most ? len : (size_t)most;
}

static void forget(mkv_memory *memory, size_t device)
{
    mkv_rdma *rdma = memory->rdma;
    for (size_t i = memory->n_each; i-- > 0;) {
        struct ibv_mr *mr = mkv_memory_mr(memory, device, i);
        if (mr == NULL)
            continue;
        atomic_fetch_sub(&rdma->registered, mr->length);
        rdma->verbs.dereg_mr(mr);
        atomic_store(&memory->regions[device * memory->n_each + i], NULL);
    }
}

/* With one device: all or nothing. */
static int register_with(mkv_memory *memory, size_t device, memkv_error *err)
{
    mkv_rdma *rdma = memory->rdma;
    for (size_t i = 0; i < memory->n_each; i++) {
        const size_t at = i * memory->stride;
        const size_t left = memory->len - at;
        const size_t next = left < memory->stride ? left : memory->stride;
        void *addr = (void *)(memory->base + at);
        struct ibv_mr *mr =
            rdma->verbs.reg_mr(rdma->devices[device].pd, addr, next, memory->access);
        if (mr == NULL) {
            int status = fail_to_register(rdma, &rdma->devices[device], memory, next,
                                          errno, err);
            forget(memory, device);
            return status;
        }
        atomic_fetch_add(&rdma->registered, next);
        atomic_store_explicit(&memory->regions[device * memory->n_each + i], mr,
                              memory_order_release);
    }
    return MEMKV_OK;
}

int mkv_memory_complete(mkv_memory *memory, memkv_error *err)
{
    int status = MEMKV_OK;
    for (size_t device = 0; device < memory->rdma->n_devices; device++)
        if (!mkv_memory_is_with(memory, device)) {
            int each = register_with(memory, device, status == MEMKV_OK ? err : NULL);
            status = status == MEMKV_OK ? each : status;
        }
    return status;
}

int mkv_memory_register(mkv_rdma *rdma, void *addr, size_t len, bool is_target,
                        mkv_memory **out, memkv_error *err)
{
    const size_t stride = stride_of(rdma, len, is_target);
    const size_t n_each = (len + stride - 1) / stride;
    mkv_memory *memory = calloc(1, sizeof(*memory) + rdma->n_devices * n_each *
                                                         sizeof(memory->regions[0]));
    if (memory == NULL)
        return mkv_fail(err, MEMKV_ERR_NO_MEMORY, 0, "out of memory");
    memory->rdma = rdma;
    memory->base = (uintptr_t)addr;
    memory->len = len;
    memory->access = IBV_ACCESS_LOCAL_WRITE;
    if (is_target)
        memory->access |= IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ;
    memory->stride = stride;
    memory->n_each = n_each;
    const int status = mkv_memory_complete(memory, err);
    for (size_t device = 0; device < rdma->n_devices; device++)
        if (mkv_memory_is_with(memory, device)) {
            *out = memory;
            return MEMKV_OK;
        }
    mkv_memory_release(memory);
    return status;
}

void mkv_memory_release(mkv_memory *memory)
{
    if (memory == NULL)
        return;
    for (size_t device = 0; device < memory->rdma->n_devices; device++)
        forget(memory, device);
    free(memory);
}

void mkv_rdma_limit(mkv_rdma *rdma, const mkv_memory *memory)
{
    for (size_t device = 0; device < rdma->n_devices; device++)
        rdma->devices[device].is_left_out = !mkv_memory_is_with(memory, device);
}
