/* test_server_threads.c: many clients at once on few workers and a pool too small for
 * what they put: whatever is got is what was put, and a stop in the middle of it all is
 * clean.
 * SPDX-License-Identifier: Apache-2.0 */
#include "check.h"

#include "memkv/memkv.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>

#define N_WORKERS 2
#define N_CLIENTS 4
#define ROUNDS 60
#define KEYS 40
#define OPS 12
#define MOST (600u << 10)

static atomic_int hits, stored, failures;

static void *work(void *server)
{
    CHECK_EQ(memkv_server_run(server), MEMKV_OK);
    return NULL;
}

/* Reproducible: xorshift. */
static uint32_t next_random(uint32_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return *state;
}

static uint32_t size_of_key(uint32_t key)
{
    return (key * 7919u * 131u) % MOST;
}

static void fill(uint8_t *data, uint32_t key)
{
    memset(data, (int)(key + 1), size_of_key(key));
}

struct batch {
    memkv_op ops[OPS];
    char keys[OPS][24];
    uint32_t numbers[OPS];
    uint8_t *data[OPS];
};

static void draw(struct batch *batch, uint32_t *random)
{
    static const uint32_t codes[] = {MEMKV_OP_GET,  MEMKV_OP_PUT, MEMKV_OP_GET,
                                     MEMKV_OP_STAT, MEMKV_OP_PUT, MEMKV_OP_DELETE};

    for (int i = 0; i < OPS; i++) {
        uint32_t key = next_random(random) % KEYS;
        memkv_op *op = &batch->ops[i];
        batch->numbers[i] = key;
        int len = snprintf(batch->keys[i], sizeof batch->keys[i], "key-%u", key);
        *op = (memkv_op){.code = codes[next_random(random) % 6],
                         .key = batch->keys[i],
                         .key_len = (uint32_t)len,
                         .data = batch->data[i],
                         .data_len = MOST};
        if (op->code == MEMKV_OP_PUT) {
            fill(batch->data[i], key);
            op->data_len = size_of_key(key);
        }
    }
}

static void check(struct batch *batch)
{
    static _Thread_local uint8_t wanted[MOST];

    for (int i = 0; i < OPS; i++) {
        const memkv_op *op = &batch->ops[i];
        CHECK(op->status != MEMKV_ERR_CHECKSUM);
        CHECK(op->status != MEMKV_ERR_PROTOCOL);
        if (op->code == MEMKV_OP_PUT)
            stored += op->status == MEMKV_OK;
        if (op->code != MEMKV_OP_GET || op->status != MEMKV_OK)
            continue;
        hits++;
        fill(wanted, batch->numbers[i]);
        CHECK_EQ(op->data_size, size_of_key(batch->numbers[i]));
        CHECK(memcmp(wanted, op->data, op->data_size) == 0);
    }
}

struct user {
    memkv_client *client;
    uint32_t seed;
};

static void *use(void *argument)
{
    struct user *user = argument;
    static _Thread_local struct batch batch;
    uint32_t random = user->seed;

    for (int i = 0; i < OPS; i++) {
        batch.data[i] = malloc(MOST);
        CHECK(batch.data[i] != NULL);
    }
    for (int round = 0; round < ROUNDS; round++) {
        draw(&batch, &random);
        failures += memkv_run(user->client, batch.ops, OPS, 20000) != MEMKV_OK;
        check(&batch);
    }
    for (int i = 0; i < OPS; i++)
        free(batch.data[i]);
    return NULL;
}

static memkv_client *open_client(const char *address, const uint8_t *key)
{
    memkv_address server = {.address = address};
    memkv_client_config config;
    memkv_client *client;

    memkv_client_config_init(&config);
    config.servers = &server;
    config.n_servers = 1;
    config.auth_key = key;
    CHECK_EQ(memkv_client_open(&config, &client, NULL), MEMKV_OK);
    return client;
}

static void run_users(bool stop_meanwhile)
{
    uint8_t key[MEMKV_AUTH_KEY_LEN] = {9};
    memkv_server_config config;
    memkv_server *server;
    char address[160];
    pthread_t workers[N_WORKERS], threads[N_CLIENTS];
    struct user users[N_CLIENTS];

    memkv_server_config_init(&config);
    config.address = "127.0.0.1:0";
    config.memory = 12u << 20;
    config.page_size = 16384;
    config.auth_key = key;
    CHECK_EQ(memkv_server_open(&config, &server, NULL), MEMKV_OK);
    CHECK_EQ(memkv_server_address(server, address, sizeof address), MEMKV_OK);
    for (int i = 0; i < N_WORKERS; i++)
        CHECK_EQ(pthread_create(&workers[i], NULL, work, server), 0);
    for (uint32_t i = 0; i < N_CLIENTS; i++) {
        users[i] = (struct user){open_client(address, key), 77 + i};
        CHECK_EQ(pthread_create(&threads[i], NULL, use, &users[i]), 0);
    }
    while (stop_meanwhile && hits < 20)
        sched_yield();
    if (stop_meanwhile)
        memkv_server_stop(server);
    for (int i = 0; i < N_CLIENTS; i++)
        pthread_join(threads[i], NULL);
    memkv_server_stop(server);
    for (int i = 0; i < N_WORKERS; i++)
        pthread_join(workers[i], NULL);
    for (int i = 0; i < N_CLIENTS; i++)
        memkv_client_close(users[i].client);
    memkv_server_close(server);
}

int main(void)
{
    run_users(false);
    CHECK(hits > 50);
    CHECK(stored > 50);
    CHECK_EQ(failures, 0);
    hits = 0;
    run_users(true);
    return 0;
}
