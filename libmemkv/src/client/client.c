/* client.c: a client's life: its settings, its servers, tending and stopping.
 * SPDX-License-Identifier: Apache-2.0 */
#include "client/client.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <unistd.h>

#include "net/clock.h"
#include "protocol/placement.h"
#include "status.h"

#define DIAL_EVERY_MS 2 /* a dial nobody waits for is looked after this often */
#define TEND_EVERY_MS 50
#define MAX_REQUESTS 16 /* in flight on a connection; lane.c uses fewer */
#define MAX_CONNECTIONS 64
#define MAX_SERVERS 4096

void memkv_client_config_init(memkv_client_config *config)
{
    *config = (memkv_client_config){.connections = 2, .connect_timeout_ms = 3000};
}

static int check_config(const memkv_client_config *config, memkv_error *err)
{
    if (config->n_servers < 1 || config->servers == NULL)
        return mkv_fail(err, MEMKV_ERR_INVALID, 0, "servers: none named");
    if (config->n_servers > MAX_SERVERS)
        return mkv_fail(err, MEMKV_ERR_INVALID, 0,
                        "servers: %zu, at most %d are allowed", config->n_servers,
                        MAX_SERVERS);
    if (config->name_space_len > MEMKV_MAX_NAMESPACE)
        return mkv_fail(err, MEMKV_ERR_INVALID, 0,
                        "namespace: %u bytes, at most %d are allowed",
                        config->name_space_len, MEMKV_MAX_NAMESPACE);
    if (config->connections < 1 || config->connections > MAX_CONNECTIONS)
        return mkv_fail(err, MEMKV_ERR_INVALID, 0, "connections: %u is not 1 to %d",
                        config->connections, MAX_CONNECTIONS);
    if (config->connect_timeout_ms < 1)
        return mkv_fail(err, MEMKV_ERR_INVALID, 0,
                        "connect_timeout_ms: %d is not 1 or more",
                        config->connect_timeout_ms);
    if (config->transport > MEMKV_TRANSPORT_RDMA)
        return mkv_fail(err, MEMKV_ERR_INVALID, 0, "transport: %u is none of 0 to %d",
                        config->transport, MEMKV_TRANSPORT_RDMA);
    return MEMKV_OK;
}

static int copy_identity(memkv_client *client, const memkv_client_config *config)
{
    mkv_identity *self = &client->config.self;
    if (config->name_space_len > 0)
        memcpy(client->name_space, config->name_space, config->name_space_len);
    self->label = client->name_space;
    self->label_len = config->name_space_len;
    self->max_requests = MAX_REQUESTS;
    client->config.connections = config->connections;
    client->config.connect_timeout_ms = config->connect_timeout_ms;
    client->config.transport = config->transport;
    client->config.regions = &client->regions;
    if (config->transport != MEMKV_TRANSPORT_TCP)
        self->features = MKV_FEATURE_RDMA;
    if (getrandom(&self->id, sizeof self->id, 0) != (ssize_t)sizeof self->id)
        return MEMKV_ERR_SYSTEM;
    if (config->auth_key == NULL)
        return MEMKV_OK;
    memcpy(client->key, config->auth_key, sizeof client->key);
    self->key = client->key;
    return mkv_key_id(client->key, &self->key_id);
}

static int add_peers(memkv_client *client, const memkv_client_config *config,
                     memkv_error *err)
{
    client->peers = calloc(config->n_servers, sizeof *client->peers);
    if (config->n_servers > 1)
        client->firsts = calloc(MKV_SLOTS, sizeof *client->firsts);
    if (client->peers == NULL || (client->firsts == NULL && config->n_servers > 1))
        return mkv_fail(err, MEMKV_ERR_NO_MEMORY, 0, "no memory for the servers");
    for (size_t i = 0; i < config->n_servers; i++) {
        int rc =
            mkv_peer_init(&client->peers[i], &config->servers[i], &client->config, err);
        if (rc != MEMKV_OK)
            return rc;
        client->n_peers++;
        const char *name = client->peers[i].name;
        if (mkv_client_find(client, name) != &client->peers[i])
            return mkv_fail(err, MEMKV_ERR_INVALID, 0, "servers: %s is named twice",
                            name);
    }
    return MEMKV_OK;
}

int memkv_client_open(const memkv_client_config *config, memkv_client **out,
                      memkv_error *err)
{
    int rc = check_config(config, err);
    if (rc != MEMKV_OK)
        return rc;
    memkv_client *client = calloc(1, sizeof *client);
    if (client == NULL)
        return mkv_fail(err, MEMKV_ERR_NO_MEMORY, 0, "no memory for a client");
    client->stop_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (mkv_regions_init(&client->regions, config->verbs_library,
                         config->rdma_devices) != MEMKV_OK)
        rc = mkv_fail(err, MEMKV_ERR_NO_MEMORY, 0, "no memory for a client");
    else if (client->stop_fd < 0)
        rc = mkv_fail(err, MEMKV_ERR_NO_MEMORY, 0, "no file descriptor for a client");
    if (rc == MEMKV_OK) {
        rc = copy_identity(client, config);
        if (rc != MEMKV_OK)
            mkv_fail(err, rc, 0, "cannot make the client's identity");
    }
    if (rc == MEMKV_OK)
        rc = add_peers(client, config, err);
    if (rc != MEMKV_OK) {
        memkv_client_close(client);
        return rc;
    }
    *out = client;
    return MEMKV_OK;
}

mkv_peer *mkv_client_find(memkv_client *client, const char *server)
{
    for (size_t i = 0; server != NULL && i < client->n_peers; i++)
        if (strcmp(client->peers[i].name, server) == 0)
            return &client->peers[i];
    return NULL;
}

int memkv_client_tend(memkv_client *client, int timeout_ms)
{
    if (client == NULL)
        return MEMKV_ERR_INVALID;
    int64_t deadline_ns = mkv_now_ns() + timeout_ms * MKV_NS_PER_MS;
    for (;;) {
        bool is_dialling = false;
        for (size_t i = 0; i < client->n_peers; i++) {
            if (atomic_load(&client->is_stopped))
                return MEMKV_ERR_CLOSED;
            is_dialling |= mkv_peer_tend(&client->peers[i]);
        }
        bool did_step = client->config.transport != MEMKV_TRANSPORT_TCP &&
                        mkv_regions_tend(&client->regions, is_dialling);
        int64_t left_ms = (deadline_ns - mkv_now_ns()) / MKV_NS_PER_MS;
        if (left_ms <= 0)
            return MEMKV_OK;
        if (did_step) /* perhaps not the last one */
            continue;
        struct pollfd stop = {.fd = client->stop_fd, .events = POLLIN};
        int64_t pause_ms = is_dialling ? DIAL_EVERY_MS : TEND_EVERY_MS;
        poll(&stop, 1, (int)(left_ms < pause_ms ? left_ms : pause_ms));
    }
}

void memkv_client_stop(memkv_client *client)
{
    uint64_t one = 1;
    atomic_store(&client->is_stopped, true);
    ssize_t n = write(client->stop_fd, &one, sizeof one);
    (void)n;
}

void memkv_client_close(memkv_client *client)
{
    if (client == NULL)
        return;
    for (size_t i = 0; i < client->n_peers; i++)
        mkv_peer_fini(&client->peers[i]);
    free(client->peers);
    free(client->firsts);
    mkv_regions_fini(&client->regions);
    if (client->stop_fd >= 0)
        close(client->stop_fd);
    explicit_bzero(client->key, sizeof client->key);
    free(client);
}

size_t memkv_client_stats(memkv_client *client, const char *server, memkv_stat *out,
                          size_t cap)
{
    for (size_t i = 0; i < MKV_N_COUNTERS && i < cap; i++) {
        out[i] = (memkv_stat){.name = mkv_client_counter_name((mkv_counter)i)};
        for (size_t p = 0; p < client->n_peers; p++)
            if (server == NULL || strcmp(client->peers[p].name, server) == 0)
                out[i].value += atomic_load_explicit(&client->peers[p].counters[i],
                                                     memory_order_relaxed);
    }
    if (server != NULL)
        return MKV_N_COUNTERS;
    if (cap > MKV_N_COUNTERS)
        out[MKV_N_COUNTERS] =
            (memkv_stat){"registered_bytes", mkv_regions_registered(&client->regions)};
    return MKV_N_COUNTERS + 1;
}

int memkv_client_state(memkv_client *client, const char *server, char *text, size_t cap)
{
    mkv_peer *peer = mkv_client_find(client, server);
    if (peer == NULL || cap == 0)
        return MEMKV_ERR_INVALID;
    mkv_peer_describe(peer, text, cap);
    return MEMKV_OK;
}
