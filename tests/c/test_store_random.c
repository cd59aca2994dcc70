/* SPDX-License-Identifier: Apache-2.0
 * test_store_random.c: long random histories against a model of a few lines.  What is
 * found is what was committed last, leased values stay, the bound holds after each step,
 * and nothing is lost in the end. */
#include "store_kit.h"

enum { KEYS = 60, HELD = 8, STEPS = 30000 };

typedef struct expected { /* of one key */
    uint64_t checksum;    /* of the value committed last; 0: none, or deleted */
    uint64_t length;
    uint32_t header;
    uint64_t leased_until_ms;
} expected;

typedef struct history {
    mkv_store *store;
    uint64_t now_ms;
    uint64_t state; /* of the random numbers */
    expected keys[KEYS];
    struct {
        mkv_value *value;
        mkv_value_info info;
    } held[HELD];
    struct {
        mkv_put *put;
        mkv_put_request request;
        uint32_t key, header;
    } puts[HELD];
} history;

static uint32_t below(history *h, uint32_t n)
{
    h->state = h->state * UINT64_C(6364136223846793005) + 1442695040888963407;
    return (uint32_t)(h->state >> 33) % n;
}

static char *key_text(uint32_t key)
{
    static char text[KEYS][16];
    snprintf(text[key], sizeof(text[key]), "key %u", key);
    return text[key];
}

static void begin_put(history *h, uint32_t i)
{
    static const char *const headers[] = {"", "layout", "another layout"};
    uint32_t key = below(h, KEYS), header = below(h, 3);
    uint64_t length = below(h, 4) == 0 ? below(h, 300000) : below(h, 30000);
    mkv_put_request request = kit_request(key_text(key), headers[header], length);
    request.ttl_ms = below(h, 4) == 0 ? below(h, 500) : 0;
    const expected *known = &h->keys[key];
    int status = mkv_store_reserve(h->store, &request, h->now_ms, &h->puts[i].put);
    if (status == MEMKV_OK) {
        h->puts[i].request = request;
        h->puts[i].key = key;
        h->puts[i].header = header;
    } else if (status == MEMKV_ERR_EXISTS) {
        CHECK(known->checksum != 0 && known->header == header);
    } else {
        CHECK(status == MEMKV_ERR_FULL || status == MEMKV_ERR_TOO_LARGE);
    }
}

static void end_put(history *h, uint32_t i)
{
    mkv_put *put = h->puts[i].put;
    const mkv_put_request *request = &h->puts[i].request;
    expected *known = &h->keys[h->puts[i].key];
    h->puts[i].put = NULL;
    int status = below(h, 4) == 0
                     ? MEMKV_ERR_FULL
                     : kit_fill(h->store, put, request, below(h, 20000), h->now_ms);
    if (status != MEMKV_OK) {
        CHECK_EQ(status, MEMKV_ERR_FULL);
        mkv_store_drop(h->store, put);
        return;
    }
    status = mkv_store_commit(h->store, put, h->now_ms);
    if (status == MEMKV_ERR_EXISTS) {
        CHECK(known->checksum != 0 && known->header == h->puts[i].header);
        return;
    }
    CHECK_EQ(status, MEMKV_OK);
    *known = (expected){.checksum = request->checksum,
                        .length = request->length,
                        .header = h->puts[i].header};
}

static void find(history *h, uint32_t i)
{
    uint32_t key = below(h, KEYS);
    uint32_t lease_ms = below(h, 2) == 0 ? below(h, 200) : 0;
    expected *known = &h->keys[key];
    mkv_value_info info;
    int status = kit_find(h->store, key_text(key), h->now_ms, lease_ms,
                          &h->held[i].value, &info);
    if (status != MEMKV_OK) {
        CHECK_EQ(status, MEMKV_ERR_NOT_FOUND);
        CHECK(known->leased_until_ms <= h->now_ms);
        return;
    }
    CHECK_EQ(info.checksum, known->checksum);
    CHECK_EQ(info.length, known->length);
    CHECK(known->leased_until_ms <= h->now_ms || info.leased);
    if (lease_ms > 0 && info.leased && known->leased_until_ms < h->now_ms + lease_ms)
        known->leased_until_ms = h->now_ms + lease_ms;
    h->held[i].info = info;
}

static void release(history *h, uint32_t i)
{
    kit_verify(h->held[i].value, &h->held[i].info);
    mkv_value_release(h->store, h->held[i].value);
    h->held[i].value = NULL;
}

static void step(history *h)
{
    uint32_t i = below(h, HELD);
    switch (below(h, 9)) {
    case 0:
        h->now_ms += below(h, 50);
        break;
    case 1: {
        uint32_t key = below(h, KEYS);
        kit_delete(h->store, key_text(key), 0, h->now_ms);
        h->keys[key] = (expected){0};
        break;
    }
    case 2:
    case 3:
    case 4:
        if (h->held[i].value == NULL)
            find(h, i);
        else
            release(h, i);
        break;
    default:
        if (h->puts[i].put == NULL)
            begin_put(h, i);
        else
            end_put(h, i);
    }
}

static void finish(history *h)
{
    for (uint32_t i = 0; i < HELD; i++) {
        if (h->held[i].value != NULL)
            release(h, i);
        mkv_store_drop(h->store, h->puts[i].put);
    }
    for (uint32_t key = 0; key < KEYS; key++)
        kit_delete(h->store, key_text(key), 0, h->now_ms);
}

static void run_history(uint64_t seed)
{
    history h = {.store = kit_open(1 << 20, 0), .state = seed};
    uint64_t empty = kit_stats(h.store).used_bytes;
    for (int i = 0; i < STEPS; i++) {
        step(&h);
        kit_stats(h.store); /* checks the bound */
    }
    mkv_store_stats stats = kit_stats(h.store);
    CHECK(stats.evictions > 100 && stats.expirations > 10);
    finish(&h);
    stats = kit_stats(h.store);
    CHECK_EQ(stats.used_bytes, empty);
    CHECK_EQ(stats.values, 0);
    CHECK_EQ(stats.payload_bytes, 0);
    CHECK_EQ(stats.leased_bytes, 0);
    CHECK_EQ(stats.referenced_bytes, 0);
    CHECK_EQ(stats.put_bytes, 0);
    mkv_store_close(h.store);
}

int main(void)
{
    for (uint64_t seed = 1; seed <= 4; seed++)
        run_history(seed);
    return 0;
}
