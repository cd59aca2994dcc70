/* SPDX-License-Identifier: Apache-2.0
 * rdma_port.c: which port and GID a connection should use, from the two addresses it has.
 * Asks the devices anew for each connection, since links and addresses come and go.  It
 * must not know of queue pairs. */
#include "net/rdma_device.h"

#include "net/stream.h"
#include "status.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GID_LEN 16
#define IPV4_AT 12     /* of ::ffff:a.b.c.d */
#define MAX_PORTS 64   /* that fit, over all devices */
#define OWNERS_CAP 120 /* of the list in the error's text */

/* What is known of a connection's two ends. */
typedef struct near_end {
    uint8_t
        gid[GID_LEN]; /* as which a RoCE GID stands for the near address; or zeros */
    bool is_local;    /* loopback or Unix: any port reaches the peer */
    bool may_be_any;  /* the devices were named */
    const mkv_rdma_params *peer;
} near_end;

static bool is_ipv4(const uint8_t *gid)
{
    static const uint8_t mapped[IPV4_AT] = {[10] = 0xff, [11] = 0xff};
    return memcmp(gid, mapped, sizeof(mapped)) == 0;
}

static void format(const uint8_t *gid, char text[MKV_GID_TEXT])
{
    if (is_ipv4(gid))
        inet_ntop(AF_INET, gid + IPV4_AT, text, MKV_GID_TEXT);
    else
        inet_ntop(AF_INET6, gid, text, MKV_GID_TEXT);
}

void mkv_gid_format(const struct ibv_gid_entry *gid, char text[MKV_GID_TEXT])
{
    format(gid->gid.raw, text);
}

const char *mkv_gid_kind(const struct ibv_port_attr *port,
                         const struct ibv_gid_entry *gid)
{
    if (port->link_layer != IBV_LINK_LAYER_ETHERNET)
        return "InfiniBand";
    return gid->gid_type == IBV_GID_TYPE_ROCE_V2 ? "RoCE v2" : "RoCE v1";
}

static int find_near_end(const mkv_rdma *rdma, int fd, const mkv_rdma_params *peer,
                         near_end *out, memkv_error *err)
{
    mkv_endpoint near = {.len = sizeof(near.addr)};
    *out = (near_end){.may_be_any = rdma->are_named, .peer = peer};

    if (getsockname(fd, (struct sockaddr *)&near.addr, &near.len) != 0)
        return mkv_fail(err, MEMKV_ERR_SYSTEM, 0, "the connection has no address");
    out->is_local = mkv_endpoint_is_local(&near);
    if (near.addr.ss_family == AF_INET) {
        struct sockaddr_in v4;
        memcpy(&v4, &near.addr, sizeof(v4));
        out->gid[10] = out->gid[11] = 0xff;
        memcpy(out->gid + IPV4_AT, &v4.sin_addr, sizeof(v4.sin_addr));
    } else if (near.addr.ss_family == AF_INET6) {
        struct sockaddr_in6 v6;
        memcpy(&v6, &near.addr, sizeof(v6));
        memcpy(out->gid, &v6.sin6_addr, sizeof(v6.sin6_addr));
    }
    return MEMKV_OK;
}

/* How much of the front two addresses share, in bytes: of IPv4 down to a /24, of others
 * the subnet prefix; all of it only when they are the same. */
static unsigned nearness(const uint8_t *a, const uint8_t *b)
{
    unsigned shared = 0;
    while (shared < GID_LEN && a[shared] == b[shared])
        shared++;
    return shared == GID_LEN || is_ipv4(a) || shared < 8 ? shared : 8;
}

/* How well a port with this GID suits the connection; 0: not at all. */
static unsigned rate(const near_end *near, const struct ibv_port_attr *port,
                     const struct ibv_gid_entry *gid)
{
    const bool is_ib = port->link_layer != IBV_LINK_LAYER_ETHERNET;
    const bool is_owner = memcmp(gid->gid.raw, near->gid, GID_LEN) == 0;

    if (near->peer != NULL && (near->peer->lid != 0) != is_ib)
        return 0; /* InfiniBand and RoCE do not meet */
    if (!is_owner && !is_ib && !near->is_local && !near->may_be_any)
        return 0;
    unsigned score = 1;
    if (near->peer != NULL)
        score += nearness(gid->gid.raw, near->peer->gid) << 4;
    if (is_owner)
        score += 1 << 3;
    if (gid->gid_type == IBV_GID_TYPE_ROCE_V2)
        score += 1 << 2;
    if (is_ipv4(gid->gid.raw))
        score += 1 << 1;
    return score;
}

struct ibv_gid_entry *mkv_device_gids(const mkv_verbs *verbs, const mkv_device *device,
                                      size_t *n)
{
    size_t cap = 0;
    struct ibv_port_attr port;
    for (unsigned number = 1; number <= device->attr.phys_port_cnt; number++)
        if (mkv_verbs_query_port(verbs, device->context, (uint8_t)number, &port) == 0)
            cap += (size_t)port.gid_tbl_len;
    struct ibv_gid_entry *gids = calloc(cap > 0 ? cap : 1, sizeof(*gids));
    if (gids == NULL)
        return NULL;
    ssize_t found =
        verbs->query_gid_table(device->context, gids, cap, 0, sizeof(*gids));
    *n = found > 0 ? (size_t)found : 0;
    return gids;
}

/* The best of a port's GIDs; 0: none fits. */
static unsigned rate_port(const near_end *near, const struct ibv_gid_entry *gids,
                          size_t n_gids, mkv_port *port)
{
    unsigned best = 0;
    for (size_t i = 0; i < n_gids; i++) {
        if (gids[i].port_num != port->number)
            continue;
        unsigned score = rate(near, &port->attr, &gids[i]);
        if (score > best) {
            best = score;
            port->gid = gids[i];
        }
    }
    return best;
}

typedef struct choice {
    unsigned score;
    size_t n; /* ports of that score */
    mkv_port ports[MAX_PORTS];
} choice;

static int consider_device(const mkv_rdma *rdma, size_t device, const near_end *near,
                           choice *best)
{
    const mkv_device *of = &rdma->devices[device];
    size_t n_gids = 0;
    if (of->is_left_out)
        return MEMKV_OK;
    struct ibv_gid_entry *gids = mkv_device_gids(&rdma->verbs, of, &n_gids);
    if (gids == NULL)
        return MEMKV_ERR_NO_MEMORY;
    for (unsigned number = 1; number <= of->attr.phys_port_cnt; number++) {
        mkv_port port = {.device = device, .number = (uint8_t)number};
        if (mkv_verbs_query_port(&rdma->verbs, of->context, port.number, &port.attr) !=
                0 ||
            port.attr.state != IBV_PORT_ACTIVE)
            continue;
        unsigned score = rate_port(near, gids, n_gids, &port);
        if (score == 0 || score < best->score)
            continue;
        if (score > best->score)
            best->n = 0;
        best->score = score;
        if (best->n < MAX_PORTS)
            best->ports[best->n++] = port;
    }
    free(gids);
    return MEMKV_OK;
}

static int fail_to_choose(const mkv_rdma *rdma, const near_end *near, memkv_error *err)
{
    char names[OWNERS_CAP] = "";
    char address[MKV_GID_TEXT] = "";
    for (size_t i = 0, used = 0; i < rdma->n_devices && used < sizeof(names); i++)
        used += (size_t)snprintf(names + used, sizeof(names) - used, "%s%.40s",
                                 i > 0 ? ", " : "", rdma->devices[i].name);
    if (near->is_local || near->may_be_any)
        return mkv_fail(err, MEMKV_ERR_UNSUPPORTED, 0,
                        "no RDMA port is up that reaches the peer; looked at: %s",
                        names);
    format(near->gid, address);
    return mkv_fail(err, MEMKV_ERR_UNSUPPORTED, 0,
                    "no RDMA port that is up owns %s, the near address of the "
                    "connection; looked at: %s; name devices to use them all the same",
                    address, names);
}

int mkv_port_choose(mkv_rdma *rdma, int fd, const mkv_rdma_params *peer, mkv_port *out,
                    memkv_error *err)
{
    near_end near;
    int status = find_near_end(rdma, fd, peer, &near, err);
    if (status != MEMKV_OK)
        return status;
    choice best = {.score = 0};
    for (size_t i = 0; i < rdma->n_devices; i++)
        if (consider_device(rdma, i, &near, &best) != MEMKV_OK)
            return mkv_fail(err, MEMKV_ERR_NO_MEMORY, 0, "out of memory");
    if (best.n == 0)
        return fail_to_choose(rdma, &near, err);
    /* The other end of a local connection sees the same ports: the first suits it. */
    size_t at = 0;
    if (!near.is_local || peer != NULL)
        at = atomic_fetch_add(&rdma->turn, 1) % best.n;
    *out = best.ports[at];
    return MEMKV_OK;
}

void mkv_port_describe(const mkv_rdma *rdma, const mkv_port *port, char *text,
                       size_t cap)
{
    char address[MKV_GID_TEXT] = "";
    mkv_gid_format(&port->gid, address);
    snprintf(text, cap, "%s port %u GID %u, %s, %s", rdma->devices[port->device].name,
             port->number, port->gid.gid_index, mkv_gid_kind(&port->attr, &port->gid),
             address);
}
