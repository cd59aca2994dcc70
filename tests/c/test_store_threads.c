/* SPDX-License-Identifier: Apache-2.0
 * test_store_threads.c: several threads at one small store.  No reader ever sees bytes
 * that are not its value's, the bound holds, and nothing is lost.  Made for TSan. */
#include "store_kit.h"

#include <pthread.h>

enum { THREADS = 4, KEYS = 40, STEPS = 5000 };

typedef struct worker {
    pthread_t thread;
    mkv_store *store;
    uint32_t state;
} worker;

static uint64_t clock_ms;

static uint32_t below(worker *self, uint32_t n)
{
    self->state = self->state * 1664525 + 1013904223;
    return (self->state >> 8) % n;
}

static void list_some(mkv_store *store, uint64_t now_ms)
{
    uint32_t cursor = 0;
    mkv_value *value;
    mkv_value_info info;
    for (int i = 0; i < 10; i++) {
        if (mkv_store_list(store, (const uint8_t *)"ns", 2, now_ms, &cursor, &value,
                           &info) != MEMKV_OK)
            return;
        kit_verify(value, &info);
        mkv_value_release(store, value);
    }
}

static void *work(void *arg)
{
    worker *self = arg;
    mkv_store *store = self->store;
    for (int i = 0; i < STEPS; i++) {
        char key[16];
        snprintf(key, sizeof(key), "%u", below(self, KEYS));
        uint64_t now_ms = __atomic_add_fetch(&clock_ms, 1, __ATOMIC_RELAXED);
        mkv_value *value;
        mkv_value_info info;
        switch (below(self, 8)) {
        case 0:
            kit_delete(store, key, 0, now_ms);
            break;
        case 1:
            list_some(store, now_ms);
            kit_stats(store);
            break;
        case 2:
        case 3:
        case 4:
            if (kit_find(store, key, now_ms, below(self, 30), &value, &info) ==
                MEMKV_OK) {
                kit_verify(value, &info);
                mkv_value_release(store, value);
            }
            break;
        default: {
            mkv_put_request request = kit_request(
                key, below(self, 2) == 0 ? "layout" : "another", below(self, 20000));
            request.ttl_ms = below(self, 1000);
            int status = kit_put_request(store, &request, now_ms);
            CHECK(status == MEMKV_OK || status == MEMKV_ERR_EXISTS ||
                  status == MEMKV_ERR_FULL);
        }
        }
    }
    return NULL;
}

int main(void)
{
    worker workers[THREADS] = {0};
    mkv_store *store = kit_open(256 << 10, 0);
    uint64_t empty = kit_stats(store).used_bytes;
    for (uint32_t i = 0; i < THREADS; i++) {
        workers[i].store = store;
        workers[i].state = i + 1;
        CHECK_EQ(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
    }
    for (uint32_t i = 0; i < THREADS; i++)
        CHECK_EQ(pthread_join(workers[i].thread, NULL), 0);
    CHECK(kit_stats(store).evictions > 0);
    for (uint32_t i = 0; i < KEYS; i++) {
        char key[16];
        snprintf(key, sizeof(key), "%u", i);
        kit_delete(store, key, 0, clock_ms);
    }
    mkv_store_stats stats = kit_stats(store);
    CHECK_EQ(stats.used_bytes, empty);
    CHECK_EQ(stats.values, 0);
    CHECK_EQ(stats.referenced_bytes, 0);
    mkv_store_close(store);
    return 0;
}
