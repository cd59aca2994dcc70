/* server.c: memkv_server_*: checks the configuration, binds, and holds what all workers
 * share.  The loop is worker.c's.
 * SPDX-License-Identifier: Apache-2.0 */
#include "memkv/memkv.h"

#include "net/clock.h"
#include "net/stream.h"
#include "protocol/auth.h"
#include "server/info.h"
#include "server/worker.h"
#include "status.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/un.h>
#include <unistd.h>

#define DEFAULT_ADDRESS "127.0.0.1:9900"
#define DEFAULT_MEMORY (UINT64_C(1) << 30)
#define DEFAULT_PAGE_SIZE 65536
#define DEFAULT_MAX_CONNECTIONS 16384
#define DRAIN_POLL_MS 5
#define REQUESTS_IN_FLIGHT 64 /* on a connection; they wait in the socket */

struct memkv_server {
    mkv_service service;
    mkv_crew crew;
    mkv_endpoint endpoint;
    char address[MEMKV_MAX_NAME + 1];
};

void memkv_server_config_init(memkv_server_config *config)
{
    *config = (memkv_server_config){
        .address = DEFAULT_ADDRESS,
        .memory = DEFAULT_MEMORY,
        .page_size = DEFAULT_PAGE_SIZE,
        .max_connections = DEFAULT_MAX_CONNECTIONS,
    };
}

/* ---- opening ----------------------------------------------------------------------- */

static int check_name(const char *name, memkv_error *err)
{
    size_t len = strlen(name);
    bool printable = true;

    for (size_t i = 0; i < len; i++)
        printable = printable && name[i] >= ' ' && name[i] <= '~';
    if (len < 1 || len > MEMKV_MAX_NAME || !printable)
        return mkv_fail(err, MEMKV_ERR_INVALID, 0,
                        "name \"%.60s\": a server's name is 1 to %d printable ASCII "
                        "characters",
                        printable ? name : "...", MEMKV_MAX_NAME);
    return MEMKV_OK;
}

static int find_endpoint(const memkv_server_config *config, mkv_endpoint *out,
                         memkv_error *err)
{
    bool is_name;

    if (config->address == NULL)
        return mkv_fail(err, MEMKV_ERR_INVALID, 0,
                        "address is missing: for instance %s", DEFAULT_ADDRESS);
    int status = mkv_endpoint_parse(config->address, out, &is_name, err);
    if (is_name)
        status = mkv_endpoint_resolve(config->address, out, err);
    if (status != MEMKV_OK)
        return status;
    if (config->auth_key == NULL && !mkv_endpoint_is_local(out))
        return mkv_fail(
            err, MEMKV_ERR_INVALID, 0,
            "address %.60s: other hosts reach it, so it needs a key: set "
            "network.auth_key (auth_key, MEMKV_AUTH_KEY) to 64 hex digits, or "
            "listen on 127.0.0.1 or unix:/path",
            config->address);
    return MEMKV_OK;
}

/* What it says of itself in every handshake. */
static int set_identity(mkv_service *service, const memkv_server_config *config,
                        memkv_error *err)
{
    mkv_identity *self = &service->self;

    self->label = (const uint8_t *)service->name;
    self->label_len = (uint32_t)strlen(service->name);
    self->max_requests = REQUESTS_IN_FLIGHT;
    if (getrandom(&self->id, sizeof self->id, 0) != (ssize_t)sizeof self->id)
        return mkv_fail(err, MEMKV_ERR_SYSTEM, errno, "getrandom: %s", strerror(errno));
    if (config->auth_key == NULL)
        return MEMKV_OK;
    memcpy(service->key, config->auth_key, sizeof service->key);
    self->key = service->key;
    int status = mkv_key_id(service->key, &self->key_id);
    if (status != MEMKV_OK)
        return mkv_fail(err, status, 0, "auth_key: libcrypto refuses HMAC-SHA256");
    return MEMKV_OK;
}

static int listen_on(memkv_server *server, const memkv_server_config *config,
                     memkv_error *err)
{
    mkv_crew *crew = &server->crew;

    int status = find_endpoint(config, &server->endpoint, err);
    if (status != MEMKV_OK)
        return status;
    status = mkv_stream_listen(&server->endpoint, &crew->listener, err);
    if (status != MEMKV_OK)
        return status;
    mkv_endpoint_format(&server->endpoint, server->address, sizeof server->address);
    const char *name = config->name != NULL ? config->name : server->address;
    status = check_name(name, err);
    if (status == MEMKV_OK)
        memcpy(server->service.name, name, strlen(name) + 1);
    return status;
}

static int open_rdma(mkv_service *service, const memkv_server_config *config,
                     memkv_error *err)
{
    struct iovec pool = mkv_store_pool(service->store);
    mkv_rdma *rdma;

    int status = mkv_rdma_open(config->verbs_library, config->rdma_devices, &rdma, err);
    if (status != MEMKV_OK)
        return status;
    status = mkv_memory_register(rdma, pool.iov_base, pool.iov_len, false,
                                 &service->pool, err);
    if (status != MEMKV_OK) {
        mkv_rdma_close(rdma);
        return status;
    }
    mkv_rdma_limit(rdma, service->pool);
    service->rdma = rdma;
    return MEMKV_OK;
}

static int choose_transport(mkv_service *service, const memkv_server_config *config,
                            memkv_error *err)
{
    memkv_error why = {.text = "transport is tcp"};

    if (config->transport > MEMKV_TRANSPORT_RDMA)
        return mkv_fail(err, MEMKV_ERR_INVALID, 0, "transport %u is none of 0 to %d",
                        config->transport, MEMKV_TRANSPORT_RDMA);
    int status = config->transport != MEMKV_TRANSPORT_TCP
                     ? open_rdma(service, config, &why)
                     : MEMKV_ERR_UNSUPPORTED;
    if (status == MEMKV_OK) {
        service->self.features |= MKV_FEATURE_RDMA;
        snprintf(service->rdma_text, sizeof service->rdma_text, "ready");
        return MEMKV_OK;
    }
    if (config->transport == MEMKV_TRANSPORT_RDMA)
        return mkv_fail(err, status, why.sys_errno, "transport rdma: %s", why.text);
    snprintf(service->rdma_text, sizeof service->rdma_text, "%s", why.text);
    return MEMKV_OK;
}

static int open_parts(memkv_server *server, const memkv_server_config *config,
                      memkv_error *err)
{
    mkv_service *service = &server->service;
    mkv_crew *crew = &server->crew;
    mkv_store_config store = {.memory = config->memory,
                              .page_size = config->page_size,
                              .default_ttl_ms = config->default_ttl_ms};

    if (config->max_connections == 0)
        return mkv_fail(err, MEMKV_ERR_INVALID, 0, "max_connections 0: at least 1");
    int status = listen_on(server, config, err);
    if (status == MEMKV_OK)
        status = set_identity(service, config, err);
    if (status == MEMKV_OK)
        status = mkv_store_open(&store, &service->store, err);
    if (status == MEMKV_OK)
        status = choose_transport(service, config, err);
    if (status != MEMKV_OK)
        return status;
    crew->stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (crew->stop < 0)
        return mkv_fail(err, MEMKV_ERR_SYSTEM, errno, "eventfd: %s", strerror(errno));
    crew->service = service;
    crew->max_connections = config->max_connections;
    service->answers.store = service->store;
    service->answers.page_size = config->page_size;
    service->started_ms = (uint64_t)(mkv_now_ns() / MKV_NS_PER_MS);
    return MEMKV_OK;
}

int memkv_server_open(const memkv_server_config *config, memkv_server **out,
                      memkv_error *err)
{
    memkv_server *server = calloc(1, sizeof *server);
    if (server == NULL)
        return mkv_fail(err, MEMKV_ERR_NO_MEMORY, 0, "no memory for a server");
    server->crew.listener = -1;
    server->crew.stop = -1;
    pthread_mutex_init(&server->crew.lock, NULL);
    pthread_mutex_init(&server->service.refused_lock, NULL);
    int status = open_parts(server, config, err);
    if (status != MEMKV_OK) {
        memkv_server_close(server);
        return status;
    }
    *out = server;
    return MEMKV_OK;
}

/* ---- serving ----------------------------------------------------------------------- */

int memkv_server_address(const memkv_server *server, char *text, size_t cap)
{
    size_t len = strlen(server->address);

    if (len >= cap)
        return MEMKV_ERR_TOO_SMALL;
    memcpy(text, server->address, len + 1);
    return MEMKV_OK;
}

int memkv_server_rdma(const memkv_server *server, char *text, size_t cap)
{
    if (server->service.rdma != NULL)
        return MEMKV_OK;
    snprintf(text, cap, "%s", server->service.rdma_text);
    return MEMKV_ERR_UNSUPPORTED;
}

int memkv_server_run(memkv_server *server)
{
    return mkv_worker_run(&server->crew);
}

int memkv_server_drain(memkv_server *server, int timeout_ms)
{
    mkv_service *service = &server->service;
    int64_t deadline_ns = mkv_now_ns() + timeout_ms * MKV_NS_PER_MS;

    atomic_store(&service->is_draining, true);
    while (atomic_load(&service->jobs) > 0 ||
           atomic_load(&service->answers.bytes) > 0) {
        struct pollfd stop = {.fd = server->crew.stop, .events = POLLIN};
        if (mkv_now_ns() >= deadline_ns || poll(&stop, 1, DRAIN_POLL_MS) > 0)
            return MEMKV_ERR_TIMEOUT;
    }
    return MEMKV_OK;
}

void memkv_server_stop(memkv_server *server)
{
    const uint64_t one = 1;
    int saved = errno;

    /* full: it was stopped before */
    ssize_t written = write(server->crew.stop, &one, sizeof one);
    (void)written;
    errno = saved;
}

static void unlink_socket(const mkv_endpoint *endpoint)
{
    struct sockaddr_un unix_addr;

    if (endpoint->addr.ss_family != AF_UNIX)
        return;
    memcpy(&unix_addr, &endpoint->addr, sizeof unix_addr);
    (void)unlink(unix_addr.sun_path);
}

void memkv_server_close(memkv_server *server)
{
    if (server == NULL)
        return;
    if (server->crew.listener >= 0)
        unlink_socket(&server->endpoint);
    mkv_stream_close(server->crew.listener);
    mkv_stream_close(server->crew.stop);
    mkv_memory_release(server->service.pool);
    mkv_rdma_close(server->service.rdma);
    if (server->service.store != NULL)
        mkv_store_close(server->service.store);
    pthread_mutex_destroy(&server->crew.lock);
    pthread_mutex_destroy(&server->service.refused_lock);
    explicit_bzero(server->service.key, sizeof server->service.key);
    free(server);
}

size_t memkv_server_stats(memkv_server *server, memkv_stat *out, size_t cap)
{
    return mkv_info_stats(&server->service, out, cap);
}
