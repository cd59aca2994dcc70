/* rdma_world.h: a server with two workers and clients of it in one process, on a verbs
 * library of the test's choice, and the fake one's script.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef MKV_RDMA_WORLD_H
#define MKV_RDMA_WORLD_H

#include <dirent.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "check.h"
#include "fake_verbs.h"
#include "memkv/memkv.h"

#define ARENA ((size_t)64 << 20)
#define WORKERS 2
#define WAIT_MS 20000

static const char *verbs_library = MKV_FAKE_VERBS;
static int32_t connect_timeout_ms; /* of clients; 0: the default */
static const char *server_devices; /* NULL: all */
static int (*fake_script)(const char *);
static void (*fake_count)(fake_verbs_counts *);

static inline void load_fake(void)
{
    void *library = dlopen(MKV_FAKE_VERBS, RTLD_NOW);
    CHECK(library != NULL);
    *(void **)&fake_script = dlsym(library, "fake_verbs_script");
    *(void **)&fake_count = dlsym(library, "fake_verbs_count");
    CHECK(fake_script != NULL && fake_count != NULL);
}

static inline void script(const char *commands)
{
    CHECK_EQ(fake_script(commands), 0);
}

static inline fake_verbs_counts counts(void)
{
    fake_verbs_counts now;
    fake_count(&now);
    return now;
}

static inline void pause_ms(long ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000},
              NULL);
}

static inline size_t open_files(void)
{
    size_t n = 0;
    DIR *dir = opendir("/proc/self/fd");
    CHECK(dir != NULL);
    while (readdir(dir) != NULL)
        n++;
    closedir(dir);
    return n;
}

/* ---- the server ---------------------------------------------------------------------- */

typedef struct host {
    memkv_server *server;
    char address[128];
    pthread_t workers[WORKERS];
} host;

static inline void *host_work(void *server)
{
    CHECK_EQ(memkv_server_run(server), MEMKV_OK);
    return NULL;
}

static inline host host_open(memkv_transport transport, uint64_t memory)
{
    host h = {.server = NULL};
    memkv_error err = {.status = MEMKV_OK};
    memkv_server_config config;
    memkv_server_config_init(&config);
    config.name = "server";
    config.address = "127.0.0.1:0";
    config.memory = memory;
    config.transport = transport;
    config.verbs_library = verbs_library;
    config.rdma_devices = server_devices;
    if (memkv_server_open(&config, &h.server, &err) != MEMKV_OK)
        fprintf(stderr, "%s\n", err.text);
    CHECK(h.server != NULL);
    CHECK_EQ(memkv_server_address(h.server, h.address, sizeof h.address), MEMKV_OK);
    for (int i = 0; i < WORKERS; i++)
        CHECK_EQ(pthread_create(&h.workers[i], NULL, host_work, h.server), 0);
    return h;
}

static inline void host_close(host *h)
{
    memkv_server_stop(h->server);
    for (int i = 0; i < WORKERS; i++)
        pthread_join(h->workers[i], NULL);
    memkv_server_close(h->server);
}

static inline uint64_t server_stat(const host *h, const char *name)
{
    memkv_stat stats[128];
    size_t n = memkv_server_stats(h->server, stats, 128);
    size_t i = 0;
    while (i < n && strcmp(stats[i].name, name) != 0)
        i++;
    CHECK(i < n); /* there is a counter of that name */
    return stats[i].value;
}

/* ---- a client ------------------------------------------------------------------------ */

typedef struct guest {
    memkv_client *client;
    memkv_region *region;
    uint8_t *arena; /* ARENA bytes */
    pthread_t tender;
} guest;

static inline void *guest_tend(void *client)
{
    while (memkv_client_tend(client, 1000) == MEMKV_OK)
        ;
    return NULL;
}

static inline bool state_begins(const guest *g, const char *text)
{
    char state[512];
    CHECK_EQ(memkv_client_state(g->client, "server", state, sizeof state), MEMKV_OK);
    return strncmp(state, text, strlen(text)) == 0;
}

static inline void expect_state(const guest *g, const char *text)
{
    for (int waited = 0; !state_begins(g, text); waited += 2) {
        if (waited > WAIT_MS) {
            char state[512];
            memkv_client_state(g->client, "server", state, sizeof state);
            fprintf(stderr, "state is %s, not %s\n", state, text);
            exit(1);
        }
        pause_ms(2);
    }
}

/* Waits until the state has the text anywhere in it. */
static inline void expect_in_state(const guest *g, const char *text)
{
    char state[512] = "";
    for (int waited = 0; strstr(state, text) == NULL; waited += 2) {
        if (waited > WAIT_MS) {
            fprintf(stderr, "%s is not in state %s\n", text, state);
            exit(1);
        }
        pause_ms(2);
        CHECK_EQ(memkv_client_state(g->client, "server", state, sizeof state),
                 MEMKV_OK);
    }
}

/* Nobody tends it. */
static inline guest guest_make(const host *h, memkv_transport transport)
{
    guest g = {.client = NULL};
    memkv_error err = {.status = MEMKV_OK};
    const memkv_address server = {"server", h->address};
    memkv_client_config config;
    memkv_client_config_init(&config);
    config.servers = &server;
    config.n_servers = 1;
    config.transport = transport;
    config.verbs_library = verbs_library;
    if (connect_timeout_ms > 0)
        config.connect_timeout_ms = connect_timeout_ms;
    CHECK_EQ(memkv_client_open(&config, &g.client, &err), MEMKV_OK);
    g.arena =
        mmap(NULL, ARENA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(g.arena != MAP_FAILED);
    CHECK_EQ(memkv_region_register(g.client, g.arena, ARENA, &g.region, &err),
             MEMKV_OK);
    return g;
}

/* Its region is registered, and its link made, when a first PUT has gone by RDMA. */
static inline guest guest_open(const host *h, memkv_transport transport)
{
    guest g = guest_make(h, transport);
    CHECK_EQ(pthread_create(&g.tender, NULL, guest_tend, g.client), 0);
    return g;
}

static inline void guest_free(guest *g)
{
    memkv_region_release(g->region);
    memkv_client_close(g->client);
    munmap(g->arena, ARENA);
}

static inline void guest_close(guest *g)
{
    memkv_client_stop(g->client);
    pthread_join(g->tender, NULL);
    guest_free(g);
}

static inline uint64_t counter(const guest *g, const char *name)
{
    memkv_stat stats[128];
    size_t n = memkv_client_stats(g->client, NULL, stats, 128);
    size_t i = 0;
    while (i < n && strcmp(stats[i].name, name) != 0)
        i++;
    CHECK(i < n); /* there is a counter of that name */
    return stats[i].value;
}

/* ---- operations ---------------------------------------------------------------------- */

static inline memkv_op op_of(memkv_opcode code, const char *key, void *data, size_t len)
{
    return (memkv_op){.code = (uint32_t)code,
                      .key = key,
                      .key_len = (uint32_t)strlen(key),
                      .data = data,
                      .data_len = len};
}

/* The status of one operation. */
static inline int run_one(const guest *g, memkv_opcode code, const char *key,
                          void *data, size_t len, int timeout_ms)
{
    memkv_op op = op_of(code, key, data, len);
    CHECK_EQ(memkv_run(g->client, &op, 1, timeout_ms), MEMKV_OK);
    if (op.status == MEMKV_OK && code == MEMKV_OP_GET)
        CHECK_EQ(op.data_size, len);
    return op.status;
}

/* Puts values until one has gone by RDMA: from here on all that can does. */
static inline void warm_up(const guest *g)
{
    static int n;
    const uint64_t before = counter(g, "bytes_remote");
    expect_state(g, "up: rdma ");
    for (int waited = 0; counter(g, "bytes_remote") == before; waited++) {
        char key[32];
        snprintf(key, sizeof key, "warm-%d", n++);
        CHECK_EQ(run_one(g, MEMKV_OP_PUT, key, g->arena, 65536, WAIT_MS), MEMKV_OK);
        CHECK(waited < WAIT_MS);
        pause_ms(1);
    }
}

static inline void fill(uint8_t *data, size_t len, uint32_t seed)
{
    uint32_t state = seed * 2654435761u + 1;
    for (size_t i = 0; i < len; i++) {
        state = state * 1664525u + 1013904223u;
        data[i] = (uint8_t)(state >> 24);
    }
}

static inline bool is_filled(const uint8_t *data, size_t len, uint32_t seed)
{
    uint32_t state = seed * 2654435761u + 1;
    for (size_t i = 0; i < len; i++) {
        state = state * 1664525u + 1013904223u;
        if (data[i] != (uint8_t)(state >> 24))
            return false;
    }
    return true;
}

static inline bool is_all(const uint8_t *data, size_t len, uint8_t byte)
{
    return data[0] == byte && memcmp(data, data + 1, len - 1) == 0;
}

#endif
