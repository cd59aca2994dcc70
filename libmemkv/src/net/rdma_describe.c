/* SPDX-License-Identifier: Apache-2.0
 * rdma_describe.c: what the verbs library finds on this host, as JSON (memkv_rdma_describe).
 * Opens each device for itself, so that what is wrong with one hides no other; leaves none
 * open.  It must not know of queue pairs. */
#include "net/rdma_device.h"

#include "status.h"
#include "text.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const char *kind_of(const struct ibv_device *device)
{
    switch (device->transport_type) {
    case IBV_TRANSPORT_IB:
        return "ib";
    case IBV_TRANSPORT_IWARP:
        return "iwarp";
    default:
        return "other";
    }
}

static const char *state_of(const struct ibv_port_attr *port)
{
    switch (port->state) {
    case IBV_PORT_ACTIVE:
        return "active";
    case IBV_PORT_DOWN:
        return "down";
    case IBV_PORT_INIT:
        return "init";
    case IBV_PORT_ARMED:
        return "armed";
    default:
        return "other";
    }
}

/* In bytes; 0: unknown. */
static unsigned mtu_of(const struct ibv_port_attr *port)
{
    const bool is_known =
        port->active_mtu >= IBV_MTU_256 && port->active_mtu <= IBV_MTU_4096;
    return is_known ? 128u << port->active_mtu : 0;
}

/* In tenths of Gb/s, over all lanes; 0: unknown.  Both fields are one bit of a mask. */
static unsigned speed_of(const struct ibv_port_attr *port)
{
    static const unsigned short lanes[] = {1, 4, 8, 12, 2};
    static const unsigned short lane_speeds[] = {25, 50, 100, 100, 140, 250, 500, 1000};
    unsigned n = 0, each = 0;

    for (size_t bit = 0; bit < sizeof lanes / sizeof lanes[0]; bit++)
        if (port->active_width == 1u << bit)
            n = lanes[bit];
    for (size_t bit = 0; bit < sizeof lane_speeds / sizeof lane_speeds[0]; bit++)
        if (port->active_speed == 1u << bit)
            each = lane_speeds[bit];
    return n * each;
}

static void add_gids(mkv_text *out, unsigned number, const struct ibv_port_attr *port,
                     const struct ibv_gid_entry *gids, size_t n_gids)
{
    const char *comma = "";
    for (size_t i = 0; i < n_gids; i++) {
        char address[MKV_GID_TEXT];
        if (gids[i].port_num != number)
            continue;
        mkv_gid_format(&gids[i], address);
        mkv_text_add(out, "%s{\"index\":%u,\"type\":\"%s\",\"address\":\"%s\"}", comma,
                     gids[i].gid_index, mkv_gid_kind(port, &gids[i]), address);
        comma = ",";
    }
}

/* A port that cannot be asked is in the state "other". */
static void add_ports(mkv_text *out, const mkv_verbs *verbs, const mkv_device *device)
{
    size_t n_gids = 0;
    struct ibv_gid_entry *gids = mkv_device_gids(verbs, device, &n_gids);

    for (unsigned number = 1; number <= device->attr.phys_port_cnt; number++) {
        struct ibv_port_attr port;
        if (mkv_verbs_query_port(verbs, device->context, (uint8_t)number, &port) != 0)
            memset(&port, 0, sizeof port);
        const unsigned speed = speed_of(&port);
        const bool is_ethernet = port.link_layer == IBV_LINK_LAYER_ETHERNET;
        mkv_text_add(out, "%s{\"number\":%u,\"state\":\"%s\",\"link\":\"%s\"",
                     number > 1 ? "," : "", number, state_of(&port),
                     is_ethernet ? "ethernet" : "infiniband");
        /* no %g: a program's locale may write it with a comma */
        mkv_text_add(out, ",\"mtu\":%u,\"speed_gbps\":%u%s,\"gids\":[", mtu_of(&port),
                     speed / 10, speed % 10 == 5 ? ".5" : "");
        add_gids(out, number, &port, gids, gids != NULL ? n_gids : 0);
        mkv_text_add(out, "]}");
    }
    free(gids);
}

static void add_device(mkv_text *out, const mkv_verbs *verbs, struct ibv_device *device)
{
    mkv_device opened = {.context = NULL};
    memkv_error why = {.status = MEMKV_OK};
    const bool is_open = mkv_device_open(verbs, device, &opened, &why) == MEMKV_OK;

    mkv_text_add(out, "{\"name\":");
    mkv_text_add_quoted(out, device->name);
    mkv_text_add(out, ",\"kind\":\"%s\",\"error\":", kind_of(device));
    mkv_text_add_quoted(out, why.text);
    mkv_text_add(out, ",\"firmware\":");
    opened.attr.fw_ver[sizeof opened.attr.fw_ver - 1] = '\0';
    mkv_text_add_quoted(out, opened.attr.fw_ver);
    mkv_text_add(out,
                 ",\"max_mr_size\":%" PRIu64 ",\"max_mr\":%d,\"max_qp\":%d,\"ports\":[",
                 opened.attr.max_mr_size, opened.attr.max_mr, opened.attr.max_qp);
    if (is_open) {
        add_ports(out, verbs, &opened);
        mkv_device_close(verbs, &opened);
    }
    mkv_text_add(out, "]}");
}

static void add_devices(mkv_text *out, const mkv_verbs *verbs)
{
    int n = 0;
    verbs->fork_init(); /* before any other call, as mkv_rdma_open */
    struct ibv_device **list = verbs->get_device_list(&n);
    for (int i = 0; list != NULL && i < n; i++) {
        mkv_text_add(out, i > 0 ? "," : "");
        add_device(out, verbs, list[i]);
    }
    if (list != NULL)
        verbs->free_device_list(list);
}

static void add_choice(mkv_text *out, const char *library, const char *devices, int fd)
{
    mkv_rdma *rdma = NULL;
    mkv_port port;
    memkv_error why = {.status = MEMKV_OK};

    mkv_text_add(out, ",\"chosen\":");
    if (fd != -1 && mkv_rdma_open(library, devices, &rdma, &why) == MEMKV_OK &&
        mkv_port_choose(rdma, fd, NULL, &port, &why) == MEMKV_OK) {
        mkv_text_add(out, "{\"device\":");
        mkv_text_add_quoted(out, rdma->devices[port.device].name);
        mkv_text_add(out, ",\"port\":%u,\"gid_index\":%u}", port.number,
                     port.gid.gid_index);
    } else {
        mkv_text_add(out, "null");
    }
    mkv_text_add(out, ",\"reason\":");
    mkv_text_add_quoted(out, why.text);
    mkv_rdma_close(rdma);
}

int memkv_rdma_describe(const char *library, const char *devices, int fd, char *json,
                        size_t cap, memkv_error *err)
{
    mkv_verbs verbs;
    /* memory of our own, so that a call that fails leaves the caller's alone */
    mkv_text out = {.cap = cap > 0 ? cap : 1};

    if (json == NULL && cap > 0)
        return mkv_fail(err, MEMKV_ERR_INVALID, 0, "json is NULL, with %zu bytes", cap);
    int status = mkv_verbs_load(library, &verbs, err);
    if (status != MEMKV_OK)
        return status;
    out.at = malloc(out.cap);
    if (out.at == NULL) {
        status = mkv_fail(err, MEMKV_ERR_NO_MEMORY, 0, "out of memory");
        goto err_unload;
    }
    mkv_text_add(&out, "{\"library\":");
    mkv_text_add_quoted(&out, library != NULL ? library : MKV_VERBS_LIBRARY);
    mkv_text_add(&out, ",\"devices\":[");
    add_devices(&out, &verbs);
    mkv_text_add(&out, "]");
    add_choice(&out, library, devices, fd);
    mkv_text_add(&out, "}");
    if (out.len >= cap)
        status = mkv_fail(err, MEMKV_ERR_TOO_SMALL, 0,
                          "the RDMA devices take %zu bytes of JSON, there is room for "
                          "%zu",
                          out.len + 1, cap);
    else
        memcpy(json, out.at, out.len + 1);
    free(out.at);
err_unload:
    mkv_verbs_unload(&verbs);
    return status;
}
