/* SPDX-License-Identifier: Apache-2.0
 * fake_verbs.c: the script, the devices and the data path's calls of the fake libibverbs
 * (fake_verbs.h).  Calls are refused where a device would refuse them; what a device would wait for for
 * ever, or what would corrupt it, aborts.  It must not touch registered memory. */
#include "fake_objects.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#undef ibv_get_device_list
#undef ibv_query_port
#undef ibv_reg_mr

#define MAX_DEVICES 8
#define GIDS_OF_A_PORT 16
#define DEFAULT_DEVICES "device fake0 roce 192.0.2.1; device fake1 roce 192.0.2.2"

static fake_device devices[MAX_DEVICES];
static int n_devices;
static pthread_once_t first_script = PTHREAD_ONCE_INIT;

/* ---- the script ---------------------------------------------------------------------- */

static int add_device(char *rest)
{
    char *at = NULL;
    const char *name = strtok_r(rest, " ", &at);
    const char *kind = strtok_r(NULL, " ", &at);
    if (name == NULL || kind == NULL || n_devices == MAX_DEVICES)
        return -1;
    fake_device *device = &devices[n_devices];
    *device = (fake_device){.is_up = strcmp(kind, "down") != 0,
                            .is_ib = strcmp(kind, "ib") == 0};
    snprintf(device->base.name, sizeof(device->base.name), "%s", name);
    device->base.transport_type =
        strcmp(kind, "iwarp") == 0 ? IBV_TRANSPORT_IWARP : IBV_TRANSPORT_IB;
    device->lid = device->is_ib ? (uint16_t)(n_devices + 1) : 0;
    for (char *gid; (gid = strtok_r(NULL, " ", &at)) != NULL; device->n_gids++) {
        uint8_t *raw = device->gids[device->n_gids].raw;
        if (device->n_gids == FAKE_MAX_GIDS)
            return -1;
        if (inet_pton(AF_INET, gid, raw + 12) == 1)
            raw[10] = raw[11] = 0xff;
        else if (inet_pton(AF_INET6, gid, raw) != 1)
            return -1;
    }
    n_devices++;
    return 0;
}

/* The lock is held. */
static int unplug(const char *name)
{
    int ends[2];
    fake_device *device = devices;
    while (device < devices + n_devices && strcmp(device->base.name, name) != 0)
        device++;
    if (device == devices + n_devices)
        return -1;
    device->is_gone = true;
    if (pipe(ends) != 0)
        abort();
    close(ends[0]); /* now the other one is in error */
    for (const fake_cq *cq = nic.cqs; cq != NULL; cq = cq->next)
        if (cq->base.context->device == &device->base &&
            dup2(ends[1], cq->base.channel->fd) < 0)
            abort();
    close(ends[1]);
    return 0;
}

static void reset(void)
{
    nic.is_held = false;
    nic.pace_us = nic.lag_us = 0;
    nic.break_at = nic.lose_at = nic.refuse_at = 0;
    nic.slow_us = 0;
    nic.max_mr_size = UINT64_MAX;
    nic.n_ports = 1;
    nic.refused[0] = '\0';
    for (int i = 0; i < n_devices; i++)
        devices[i].is_gone = false;
}

static int obey(char *command, bool *has_devices)
{
    char *at = NULL;
    const char *word = strtok_r(command, " ", &at);
    const char *rest = at != NULL ? at : "";
    if (word == NULL)
        return 0;
    if (strcmp(word, "device") == 0) {
        if (!*has_devices)
            n_devices = 0;
        *has_devices = true;
        return add_device(at);
    }
    if (strcmp(word, "hold") == 0)
        nic.is_held = true;
    else if (strcmp(word, "go") == 0)
        nic.is_held = false;
    else if (strcmp(word, "pace") == 0)
        nic.pace_us = atol(rest);
    else if (strcmp(word, "lag") == 0)
        nic.lag_us = atol(rest);
    else if (strcmp(word, "break") == 0)
        nic.break_at = nic.counts.requests + (uint64_t)atol(rest);
    else if (strcmp(word, "lose") == 0)
        nic.lose_at = nic.counts.requests + (uint64_t)atol(rest);
    else if (strcmp(word, "refuse") == 0)
        snprintf(nic.refused, sizeof(nic.refused), "%s", rest);
    else if (strcmp(word, "refuse_reg_mr") == 0)
        nic.refuse_at = nic.counts.registrations + (uint64_t)atol(rest);
    else if (strcmp(word, "slow_reg_mr") == 0)
        nic.slow_us = atol(rest);
    else if (strcmp(word, "max_mr_size") == 0)
        nic.max_mr_size = (uint64_t)atol(rest);
    else if (strcmp(word, "ports") == 0)
        nic.n_ports = (uint8_t)atol(rest);
    else if (strcmp(word, "unplug") == 0)
        return unplug(rest);
    else if (strcmp(word, "accept") == 0)
        nic.refused[0] = '\0';
    else if (strcmp(word, "reset") == 0)
        reset();
    else
        return -1;
    return 0;
}

static int run_script(const char *commands)
{
    bool has_devices = false;
    int status = 0;
    char *at = NULL;
    char *copy = strdup(commands);
    if (copy == NULL)
        abort();
    pthread_mutex_lock(&nic.lock);
    for (char *command = strtok_r(copy, ";", &at); command != NULL && status == 0;
         command = strtok_r(NULL, ";", &at))
        status = obey(command, &has_devices);
    pthread_cond_broadcast(&nic.changed);
    pthread_mutex_unlock(&nic.lock);
    free(copy);
    return status;
}

static void run_first_script(void)
{
    const char *wanted = getenv("FAKE_VERBS");
    if (run_script(DEFAULT_DEVICES) != 0 ||
        (wanted != NULL && run_script(wanted) != 0)) {
        fprintf(stderr, "fake verbs: FAKE_VERBS is no script\n");
        abort();
    }
}

EXPORTED int fake_verbs_script(const char *commands)
{
    pthread_once(&first_script, run_first_script);
    return run_script(commands);
}

EXPORTED void fake_verbs_count(fake_verbs_counts *out)
{
    pthread_mutex_lock(&nic.lock);
    *out = nic.counts;
    pthread_mutex_unlock(&nic.lock);
}

bool fake_is_refused(const char *call)
{
    pthread_mutex_lock(&nic.lock);
    bool is = strcmp(nic.refused, call) == 0;
    pthread_mutex_unlock(&nic.lock);
    if (is)
        errno = ENOMEM;
    return is;
}

void *fake_new(size_t size, uint32_t *count)
{
    void *object = calloc(1, size);
    if (object == NULL)
        abort();
    pthread_mutex_lock(&nic.lock);
    ++*count;
    pthread_mutex_unlock(&nic.lock);
    return object;
}

/* ---- devices ------------------------------------------------------------------------- */

EXPORTED int ibv_fork_init(void)
{
    return 0;
}

EXPORTED struct ibv_device **ibv_get_device_list(int *n)
{
    if (fake_is_refused("get_device_list"))
        return NULL;
    pthread_once(&first_script, run_first_script);
    struct ibv_device **list = calloc(MAX_DEVICES + 1, sizeof(struct ibv_device *));
    if (list == NULL)
        abort();
    for (int i = 0; i < n_devices; i++)
        list[i] = &devices[i].base;
    *n = n_devices;
    return list;
}

EXPORTED void ibv_free_device_list(struct ibv_device **list)
{
    free(list);
}

static int poll_cq(struct ibv_cq *base, int cap, struct ibv_wc *out)
{
    fake_cq *cq = (fake_cq *)base;
    int n = 0;
    if (fake_is_refused("poll_cq"))
        return -1;
    pthread_mutex_lock(&nic.lock);
    for (; n < cap && cq->n > 0; n++, cq->n--) {
        const fake_completion *entry = &cq->entries[cq->first];
        cq->first = (cq->first + 1) % base->cqe;
        out[n] = entry->wc;
        if (entry->is_receive)
            entry->qp->receive_freed = entry->number;
        else
            entry->qp->send_freed = entry->number;
    }
    pthread_mutex_unlock(&nic.lock);
    return n;
}

static int notify_cq(struct ibv_cq *base, int solicited_only)
{
    (void)solicited_only;
    pthread_mutex_lock(&nic.lock);
    ((fake_cq *)base)->is_armed = true;
    pthread_mutex_unlock(&nic.lock);
    return 0;
}

static int post_send(struct ibv_qp *base, struct ibv_send_wr *wr,
                     struct ibv_send_wr **bad)
{
    fake_qp *qp = (fake_qp *)base;
    int why = fake_is_refused("post_send") ? ENOMEM : 0;
    pthread_mutex_lock(&nic.lock);
    for (; why == 0 && wr != NULL; wr = wr->next) {
        if (base->state != IBV_QPS_RTS && base->state != IBV_QPS_ERR)
            why = EINVAL;
        else if (qp->send_posted - qp->send_freed == qp->cap.max_send_wr ||
                 wr->num_sge > (int)qp->cap.max_send_sge ||
                 (wr->opcode == IBV_WR_RDMA_READ && wr->num_sge > FAKE_MAX_SGE_RD))
            why = ENOMEM;
        if (why != 0)
            break;
        fake_send *send = &qp->sends[qp->send_posted % qp->cap.max_send_wr];
        send->number = ++qp->send_posted;
        send->wr = *wr;
        if (wr->num_sge > 0)
            memcpy(send->sge, wr->sg_list, (size_t)wr->num_sge * sizeof(send->sge[0]));
    }
    *bad = wr;
    pthread_cond_broadcast(&nic.changed);
    pthread_mutex_unlock(&nic.lock);
    return why;
}

static int post_recv(struct ibv_qp *base, struct ibv_recv_wr *wr,
                     struct ibv_recv_wr **bad)
{
    fake_qp *qp = (fake_qp *)base;
    int why = 0;
    pthread_mutex_lock(&nic.lock);
    for (; wr != NULL; wr = wr->next) {
        if (base->state == IBV_QPS_RESET)
            why = EINVAL;
        else if (qp->receive_posted - qp->receive_freed == qp->cap.max_recv_wr)
            why = ENOMEM;
        if (why != 0)
            break;
        qp->receives[qp->receive_posted++ % qp->cap.max_recv_wr] = wr->wr_id;
    }
    *bad = wr;
    pthread_cond_broadcast(&nic.changed);
    pthread_mutex_unlock(&nic.lock);
    return why;
}

EXPORTED struct ibv_context *ibv_open_device(struct ibv_device *device)
{
    if (fake_is_refused("open_device"))
        return NULL;
    struct ibv_context *context = fake_new(sizeof(*context), &nic.counts.contexts);
    *context = (struct ibv_context){
        .device = device,
        .ops = {.poll_cq = poll_cq,
                .req_notify_cq = notify_cq,
                .post_send = post_send,
                .post_recv = post_recv},
        .cmd_fd = -1,
        .async_fd = -1,
        .num_comp_vectors = 2,
        .abi_compat = NULL, /* has no struct verbs_context around it */
    };
    pthread_mutex_lock(&nic.lock);
    if (nic.counts.contexts == 1)
        fake_start();
    pthread_mutex_unlock(&nic.lock);
    return context;
}

EXPORTED int ibv_close_device(struct ibv_context *context)
{
    pthread_mutex_lock(&nic.lock);
    if (--nic.counts.contexts == 0)
        fake_stop();
    pthread_mutex_unlock(&nic.lock);
    free(context);
    return 0;
}

EXPORTED int ibv_query_device(struct ibv_context *context, struct ibv_device_attr *attr)
{
    (void)context;
    pthread_mutex_lock(&nic.lock);
    const uint64_t max_mr_size = nic.max_mr_size;
    const uint8_t n_ports = nic.n_ports;
    pthread_mutex_unlock(&nic.lock);
    *attr = (struct ibv_device_attr){
        .fw_ver = "1.0 \"fake\"",
        .max_mr_size = max_mr_size,
        .max_mr = 100,
        .max_qp = 200,
        .max_qp_wr = 1024,
        .max_sge = FAKE_MAX_SGE,
        .max_sge_rd = FAKE_MAX_SGE_RD,
        .max_cqe = 1024,
        .max_qp_rd_atom = 16,
        .max_qp_init_rd_atom = 16,
        .phys_port_cnt = n_ports,
    };
    return 0;
}

EXPORTED int ibv_query_port(struct ibv_context *context, uint8_t number,
                            struct _compat_ibv_port_attr *compat)
{
    const fake_device *device = (const fake_device *)context->device;
    struct ibv_port_attr *attr = (struct ibv_port_attr *)compat;
    if (number != 1 || fake_is_refused("query_port"))
        return EINVAL;
    pthread_mutex_lock(&nic.lock);
    const bool is_gone = fake_is_gone(context);
    pthread_mutex_unlock(&nic.lock);
    if (is_gone)
        return EIO;
    attr->state = device->is_up ? IBV_PORT_ACTIVE : IBV_PORT_DOWN;
    attr->max_mtu = IBV_MTU_4096;
    attr->active_mtu = IBV_MTU_4096;
    attr->active_width = 2;  /* four lanes */
    attr->active_speed = 32; /* of 25 Gb/s */
    attr->gid_tbl_len = GIDS_OF_A_PORT;
    attr->lid = device->lid;
    attr->link_layer =
        device->is_ib ? IBV_LINK_LAYER_INFINIBAND : IBV_LINK_LAYER_ETHERNET;
    return 0;
}

/* Each GID of an Ethernet port is there twice, first for RoCE v1. */
EXPORTED ssize_t _ibv_query_gid_table(struct ibv_context *context,
                                      struct ibv_gid_entry *entries, size_t cap,
                                      uint32_t flags, size_t entry_size)
{
    const fake_device *device = (const fake_device *)context->device;
    const int each = device->is_ib ? 1 : 2;
    if (flags != 0 || entry_size != sizeof(*entries) ||
        cap < (size_t)(device->n_gids * each))
        return -EINVAL;
    for (int i = 0; i < device->n_gids * each; i++)
        entries[i] = (struct ibv_gid_entry){
            .gid = device->gids[i / each],
            .gid_index = (uint32_t)i,
            .port_num = 1,
            .gid_type = device->is_ib ? IBV_GID_TYPE_IB
                        : i % 2 == 0  ? IBV_GID_TYPE_ROCE_V1
                                      : IBV_GID_TYPE_ROCE_V2,
        };
    return device->n_gids * each;
}

/* ---- memory -------------------------------------------------------------------------- */

EXPORTED struct ibv_pd *ibv_alloc_pd(struct ibv_context *context)
{
    struct ibv_pd *pd = fake_new(sizeof(*pd), &nic.counts.pds);
    pd->context = context;
    return pd;
}

EXPORTED int ibv_dealloc_pd(struct ibv_pd *pd)
{
    pthread_mutex_lock(&nic.lock);
    nic.counts.pds--;
    pthread_mutex_unlock(&nic.lock);
    free(pd);
    return 0;
}

/* Takes its time; sets errno if not. */
static bool may_register(size_t len)
{
    pthread_mutex_lock(&nic.lock);
    if (nic.slow_us > 0)
        fake_pause(nic.slow_us);
    const bool is_large = len > nic.max_mr_size;
    const bool is_refused = ++nic.counts.registrations == nic.refuse_at;
    pthread_mutex_unlock(&nic.lock);
    if (is_large || is_refused)
        errno = is_large ? EINVAL : ENOMEM;
    return !is_large && !is_refused;
}

EXPORTED struct ibv_mr *ibv_reg_mr(struct ibv_pd *pd, void *addr, size_t len,
                                   int access)
{
    static uint32_t last_key = 0x1000;
    if (fake_is_refused("reg_mr") || !may_register(len))
        return NULL;
    fake_region *region = fake_new(sizeof(*region), &nic.counts.regions);
    pthread_mutex_lock(&nic.lock);
    last_key += 0x101;
    region->base = (struct ibv_mr){.context = pd->context,
                                   .pd = pd,
                                   .addr = addr,
                                   .length = len,
                                   .lkey = last_key,
                                   .rkey = last_key};
    region->access = access;
    region->next = nic.regions;
    nic.regions = region;
    pthread_mutex_unlock(&nic.lock);
    return &region->base;
}

EXPORTED int ibv_dereg_mr(struct ibv_mr *mr)
{
    pthread_mutex_lock(&nic.lock);
    fake_region **at = &nic.regions;
    while (&(*at)->base != mr)
        at = &(*at)->next;
    fake_region *region = *at;
    *at = region->next;
    nic.counts.regions--;
    pthread_mutex_unlock(&nic.lock);
    free(region);
    return 0;
}
