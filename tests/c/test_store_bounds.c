/* SPDX-License-Identifier: Apache-2.0
 * test_store_bounds.c: what stays and what goes: sizes, eviction, references, leases and
 * time to live of store.h, one claim a test.  The clock is the test's. */
#include "store_kit.h"

#define MEMORY ((uint64_t)1 << 20)

static uint64_t pool_pages(mkv_store *store)
{
    mkv_put_request request = kit_request("probe", "", 0);
    mkv_put *put;
    uint64_t quarter = 0;
    while (request.length = (quarter + 1) * KIT_PAGE,
           mkv_store_reserve(store, &request, 0, &put) == MEMKV_OK) {
        mkv_store_drop(store, put);
        quarter++;
    }
    return quarter * 4; /* give or take three */
}

/* Fills the pool with one-page values "0", "1", ...; returns how many are there. */
static uint32_t fill_pool(mkv_store *store, uint64_t now_ms)
{
    uint32_t n = 0;
    char key[16];
    while (kit_stats(store).evictions == 0) {
        snprintf(key, sizeof(key), "%u", n++);
        CHECK_EQ(kit_put(store, key, KIT_PAGE, now_ms), MEMKV_OK);
    }
    CHECK_EQ(kit_get(store, "0", now_ms), MEMKV_ERR_NOT_FOUND);
    return n;
}

static void test_bad_settings_are_refused_by_name(void)
{
    struct {
        uint64_t memory, page_size;
        const char *setting;
    } cases[] = {
        {MEMORY, 0, "page_size 0:"},
        {MEMORY, 2048, "page_size 2048:"},
        {MEMORY, 12288, "page_size 12288:"},
        {MEMORY * 1024, 2097152, "page_size 2097152:"},
        {0, KIT_PAGE, "memory 0:"},
        {100, 65536, "memory 100:"},
        {UINT64_MAX, KIT_PAGE, "memory 18446744073709551615:"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        mkv_store_config config = {.memory = cases[i].memory,
                                   .page_size = cases[i].page_size};
        mkv_store *store = NULL;
        memkv_error err;
        CHECK_EQ(mkv_store_open(&config, &store, &err), MEMKV_ERR_INVALID);
        CHECK(store == NULL);
        CHECK_EQ(err.status, MEMKV_ERR_INVALID);
        CHECK(strncmp(err.text, cases[i].setting, strlen(cases[i].setting)) == 0);
    }
}

static void test_more_memory_than_an_address_space_has_is_no_memory(void)
{
    mkv_store_config config = {.memory = UINT64_C(1) << 50, .page_size = 1048576};
    mkv_store *store = NULL;
    memkv_error err;
    CHECK_EQ(mkv_store_open(&config, &store, &err), MEMKV_ERR_NO_MEMORY);
    CHECK(store == NULL && strstr(err.text, "memory") != NULL);
}

/* The refusal says what would do; that does, and one byte less does not. */
static void test_least_memory_keeps_a_value_of_the_longest_key_and_header(void)
{
    for (uint64_t page_size = 4096; page_size <= 1048576; page_size *= 2) {
        mkv_store_config config = {.memory = 1, .page_size = page_size};
        mkv_store *store;
        memkv_error err;
        CHECK_EQ(mkv_store_open(&config, &store, &err), MEMKV_ERR_INVALID);
        config.memory = strtoull(strstr(err.text, "at least ") + 9, NULL, 10);
        CHECK(config.memory < 5 * page_size + 65536);
        config.memory--;
        CHECK_EQ(mkv_store_open(&config, &store, &err), MEMKV_ERR_INVALID);
        config.memory++;
        CHECK_EQ(mkv_store_open(&config, &store, &err), MEMKV_OK);

        static char key[MEMKV_MAX_KEY + 1], header[MEMKV_MAX_HEADER + 1];
        memset(key, 'k', MEMKV_MAX_KEY);
        memset(header, 'h', MEMKV_MAX_HEADER);
        mkv_put_request request = kit_request(key, header, page_size);
        CHECK_EQ(kit_put_request(store, &request, 0), MEMKV_OK);
        CHECK_EQ(kit_get(store, key, 0), MEMKV_OK);
        mkv_store_close(store);
    }
}

static void test_least_memory_keeps_dozens_of_empty_values(void)
{
    mkv_store *store = kit_open(49152, 0);
    for (uint32_t i = 0; i < 48; i++) {
        char key[16];
        snprintf(key, sizeof(key), "%u", i);
        CHECK_EQ(kit_put(store, key, 0, 0), MEMKV_OK);
    }
    CHECK_EQ(kit_stats(store).evictions, 0);
    mkv_store_close(store);
}

static void test_deleted_value_is_counted_until_its_reader_is_done(void)
{
    mkv_store *store = kit_open(MEMORY, 0);
    uint64_t empty = kit_stats(store).used_bytes;
    CHECK_EQ(kit_put(store, "key", 5 * KIT_PAGE, 0), MEMKV_OK);
    mkv_value *value;
    mkv_value_info info;
    CHECK_EQ(kit_find(store, "key", 0, 0, &value, &info), MEMKV_OK);
    CHECK_EQ(kit_delete(store, "key", 0, 0), MEMKV_OK);
    CHECK_EQ(kit_stats(store).values, 0);
    CHECK_EQ(kit_stats(store).referenced_bytes, 5 * KIT_PAGE);
    CHECK(kit_stats(store).used_bytes > empty + 5 * KIT_PAGE);
    fill_pool(store, 0);
    kit_verify(value, &info);
    mkv_value_release(store, value);
    CHECK_EQ(kit_stats(store).referenced_bytes, 0);
    mkv_store_close(store);
}

static void test_least_recently_used_goes_first(void)
{
    mkv_store *store = kit_open(MEMORY, 0);
    uint32_t n = fill_pool(store, 0); /* "0" is gone */
    CHECK(n > 100);
    CHECK_EQ(kit_get(store, "1", 1), MEMKV_OK);
    CHECK_EQ(kit_put(store, "3", KIT_PAGE, 1), MEMKV_ERR_EXISTS); /* a use, too */
    CHECK_EQ(kit_put(store, "new", 2 * KIT_PAGE, 2), MEMKV_OK);
    CHECK_EQ(kit_get(store, "1", 3), MEMKV_OK);
    CHECK_EQ(kit_get(store, "2", 3), MEMKV_ERR_NOT_FOUND);
    CHECK_EQ(kit_get(store, "3", 3), MEMKV_OK);
    CHECK_EQ(kit_get(store, "4", 3), MEMKV_ERR_NOT_FOUND);
    CHECK_EQ(kit_get(store, "5", 3), MEMKV_OK);
    CHECK_EQ(kit_stats(store).evictions, 3);
    CHECK_EQ(kit_stats(store).evicted_bytes, 3 * KIT_PAGE);
    mkv_store_close(store);
}

static void test_listing_is_no_use(void)
{
    mkv_store *store = kit_open(MEMORY, 0);
    fill_pool(store, 0);
    uint32_t cursor = 0;
    mkv_value *value;
    mkv_value_info info;
    while (mkv_store_list(store, (const uint8_t *)"ns", 2, 5, &cursor, &value, &info) ==
           MEMKV_OK) {
        CHECK_EQ(info.idle_ms, 5);
        mkv_value_release(store, value);
    }
    CHECK_EQ(kit_put(store, "new", KIT_PAGE, 6), MEMKV_OK);
    CHECK_EQ(kit_get(store, "1", 6), MEMKV_ERR_NOT_FOUND);
    mkv_store_close(store);
}

static void test_referenced_value_is_never_evicted(void)
{
    mkv_store *store = kit_open(MEMORY, 0);
    CHECK_EQ(kit_put(store, "held", 2 * KIT_PAGE, 0), MEMKV_OK);
    mkv_value *value;
    mkv_value_info info;
    CHECK_EQ(kit_find(store, "held", 0, 0, &value, &info), MEMKV_OK);
    for (uint32_t i = 0; i < 2000; i++) {
        char key[16];
        snprintf(key, sizeof(key), "%u", i);
        CHECK_EQ(kit_put(store, key, KIT_PAGE, i), MEMKV_OK);
    }
    kit_verify(value, &info);
    CHECK_EQ(kit_get(store, "held", 2000), MEMKV_OK);
    mkv_value_release(store, value);
    mkv_store_close(store);
}

static void test_leased_value_is_evicted_only_when_the_lease_is_over(void)
{
    mkv_store *store = kit_open(MEMORY, 0);
    CHECK_EQ(kit_put(store, "leased", KIT_PAGE, 0), MEMKV_OK);
    CHECK(kit_lease(store, "leased", 0, 1000));
    CHECK_EQ(kit_stats(store).leased_bytes, KIT_PAGE);
    fill_pool(store, 999);
    for (uint32_t i = 0; i < 500; i++) {
        char key[16];
        snprintf(key, sizeof(key), "more %u", i);
        CHECK_EQ(kit_put(store, key, KIT_PAGE, i < 250 ? 999 : 1000), MEMKV_OK);
        if (i == 249)
            CHECK_EQ(kit_get(store, "leased", 999), MEMKV_OK);
    }
    CHECK_EQ(kit_get(store, "leased", 1000), MEMKV_ERR_NOT_FOUND);
    CHECK_EQ(kit_stats(store).leased_bytes, 0);
    mkv_store_close(store);
}

static void test_lease_is_never_shortened(void)
{
    mkv_store *store = kit_open(MEMORY, 0);
    CHECK_EQ(kit_put(store, "key", 10, 0), MEMKV_OK);
    CHECK(kit_lease(store, "key", 0, 1000));
    CHECK(kit_lease(store, "key", 100, 10));
    CHECK(kit_lease(store, "key", 999, 0));
    CHECK(!kit_lease(store, "key", 1000, 0));
    CHECK(kit_lease(store, "key", 1000, 5));
    mkv_store_close(store);
}

static void test_at_most_half_the_pool_is_leased(void)
{
    mkv_store *store = kit_open(MEMORY, 0);
    uint32_t n = fill_pool(store, 0) - 1, leased = 0;
    char key[16];
    for (uint32_t i = 1; i <= n; i++) {
        snprintf(key, sizeof(key), "%u", i);
        leased += kit_lease(store, key, 0, i <= 10 ? 1000 : 500);
    }
    CHECK_EQ(leased, n / 2);
    CHECK_EQ(kit_stats(store).leased_bytes, n / 2 * KIT_PAGE);
    snprintf(key, sizeof(key), "%u", n);
    CHECK(kit_lease(store, "20", 499, 500)); /* the one it has can be renewed */
    CHECK(!kit_lease(store, key, 499, 500));
    /* Those that have run out make place, also behind longer ones. */
    CHECK(!kit_lease(store, "12", 500, 0));
    CHECK(kit_lease(store, key, 500, 500));
    CHECK(kit_lease(store, "1", 500, 0));
    mkv_store_close(store);
}

static void test_leases_and_references_leave_nothing_to_evict(void)
{
    mkv_store *store = kit_open(MEMORY, 0);
    uint32_t n = fill_pool(store, 0) - 1;
    mkv_value *held[1000];
    mkv_value_info info;
    char key[16];
    for (uint32_t i = 1; i <= n; i++) {
        snprintf(key, sizeof(key), "%u", i);
        CHECK_EQ(kit_find(store, key, 0, 1000, &held[i], &info), MEMKV_OK);
    }
    CHECK_EQ(kit_put(store, "new", KIT_PAGE, 0), MEMKV_ERR_FULL);
    for (uint32_t i = 1; i <= n; i++)
        mkv_value_release(store, held[i]);
    CHECK_EQ(kit_put(store, "new", KIT_PAGE, 0), MEMKV_OK);
    mkv_store_close(store);
}

static void test_sending_is_bounded_by_half_the_pool(void)
{
    mkv_store *store = kit_open(MEMORY, 0);
    uint32_t n = fill_pool(store, 0) - 1, sending = 0;
    mkv_value *held[1000], *value;
    mkv_value_info info;
    char key[16];
    int status = MEMKV_OK;
    for (uint32_t i = 1; status == MEMKV_OK; i++) {
        snprintf(key, sizeof(key), "%u", i);
        mkv_name name = kit_name("ns", key);
        status = mkv_store_find(store, &name, 0, 0, true, &held[sending], &info);
        sending += status == MEMKV_OK;
    }
    CHECK_EQ(status, MEMKV_ERR_BUSY);
    CHECK_EQ(sending, n / 2);
    CHECK_EQ(kit_get(store, key, 0), MEMKV_OK); /* not to be sent: never refused */
    mkv_name first = kit_name("ns", "1");       /* on its way already: costs no more */
    CHECK_EQ(mkv_store_find(store, &first, 0, 0, true, &value, &info), MEMKV_OK);
    mkv_value_release(store, value);
    CHECK_EQ(kit_stats(store).referenced_bytes, sending * KIT_PAGE);
    while (sending-- > 0)
        mkv_value_release(store, held[sending]);
    CHECK_EQ(kit_stats(store).referenced_bytes, 0);
    mkv_store_close(store);
}

static void test_value_ends_with_its_time_to_live(void)
{
    mkv_store *store = kit_open(MEMORY, 100);
    mkv_put_request request = kit_request("own", "", 10);
    request.ttl_ms = 50;
    CHECK_EQ(kit_put_request(store, &request, 1000), MEMKV_OK);
    CHECK_EQ(kit_put(store, "default", 10, 1000), MEMKV_OK);
    CHECK_EQ(kit_get(store, "own", 1049), MEMKV_OK);
    CHECK_EQ(kit_get(store, "own", 1050), MEMKV_ERR_NOT_FOUND);
    CHECK_EQ(kit_get(store, "default", 1099), MEMKV_OK);
    CHECK_EQ(kit_delete(store, "default", 0, 1100), MEMKV_ERR_NOT_FOUND);
    CHECK_EQ(kit_stats(store).expirations, 2);
    CHECK_EQ(kit_stats(store).evictions, 0);
    CHECK_EQ(kit_stats(store).values, 0);
    CHECK_EQ(kit_put_request(store, &request, 2000), MEMKV_OK);
    uint32_t cursor = 0;
    mkv_value *value;
    mkv_value_info info;
    CHECK_EQ(
        mkv_store_list(store, (const uint8_t *)"ns", 2, 2050, &cursor, &value, &info),
        MEMKV_ERR_NOT_FOUND);
    CHECK_EQ(kit_put_request(store, &request, 2050), MEMKV_OK);
    mkv_store_close(store);
}

static void test_lease_outlasts_the_time_to_live(void)
{
    mkv_store *store = kit_open(MEMORY, 100);
    CHECK_EQ(kit_put(store, "key", 10, 0), MEMKV_OK);
    CHECK(kit_lease(store, "key", 99, 50));
    CHECK_EQ(kit_get(store, "key", 148), MEMKV_OK);
    CHECK_EQ(kit_get(store, "key", 149), MEMKV_ERR_NOT_FOUND);
    mkv_store_close(store);
}

static void test_value_over_a_quarter_of_the_pool_is_too_large(void)
{
    mkv_store *store = kit_open(MEMORY, 0);
    uint64_t quarter = pool_pages(store) / 4 * KIT_PAGE;
    CHECK(quarter > MEMORY / 5 && quarter <= MEMORY / 4);
    CHECK_EQ(kit_put(store, "most", quarter, 0), MEMKV_OK);
    CHECK_EQ(kit_put(store, "more", quarter + 1, 0), MEMKV_ERR_TOO_LARGE);
    CHECK_EQ(kit_put(store, "most of all", UINT64_MAX, 0), MEMKV_ERR_TOO_LARGE);
    CHECK_EQ(kit_get(store, "most", 0), MEMKV_OK);
    mkv_store_close(store);
}

static void test_puts_in_flight_hold_at_most_a_quarter_of_the_pool(void)
{
    mkv_store *store = kit_open(MEMORY, 0);
    uint64_t quarter = pool_pages(store) / 4 * KIT_PAGE;
    mkv_put_request large = kit_request("large", "", quarter);
    mkv_put_request small = kit_request("small", "", 1);
    mkv_put *a, *b, *c;
    CHECK_EQ(mkv_store_reserve(store, &large, 0, &a), MEMKV_OK);
    CHECK_EQ(mkv_store_reserve(store, &small, 0, &b), MEMKV_OK);
    CHECK_EQ(kit_fill(store, a, &large, 10000, 0), MEMKV_OK);
    CHECK_EQ(kit_stats(store).put_bytes, quarter);
    CHECK_EQ(kit_fill(store, b, &small, 1, 0), MEMKV_ERR_FULL);
    CHECK_EQ(mkv_store_reserve(store, &small, 0, &c), MEMKV_ERR_FULL);
    CHECK_EQ(mkv_store_commit(store, a, 0), MEMKV_OK);
    CHECK_EQ(kit_stats(store).put_bytes, 0);
    CHECK_EQ(kit_fill(store, b, &small, 1, 0), MEMKV_OK);
    mkv_store_drop(store, b);
    mkv_store_close(store);
}

/* Reservations take no pages, and still nobody can drive all values out with them. */
static void test_puts_without_bytes_leave_half_the_index(void)
{
    mkv_store *store = kit_open(MEMORY, 0);
    uint32_t n = fill_pool(store, 0) - 1, n_puts = 0;
    mkv_put *puts[1000];
    mkv_put_request request = kit_request("new", "", 1);
    while (mkv_store_reserve(store, &request, 0, &puts[n_puts]) == MEMKV_OK)
        n_puts++;
    CHECK(n_puts > n / 4);
    CHECK(kit_stats(store).values >= n / 2);
    while (n_puts-- > 0)
        mkv_store_drop(store, puts[n_puts]);
    mkv_store_close(store);
}

static void test_keys_and_headers_are_counted(void)
{
    mkv_store *store = kit_open(MEMORY, 0);
    static char header[MEMKV_MAX_HEADER + 1];
    memset(header, 'h', MEMKV_MAX_HEADER);
    uint64_t before = kit_stats(store).used_bytes;
    mkv_put_request request = kit_request("key", header, 0);
    CHECK_EQ(kit_put_request(store, &request, 0), MEMKV_OK);
    CHECK(kit_stats(store).used_bytes - before > MEMKV_MAX_HEADER);
    for (uint32_t i = 0; i < 1000; i++) {
        char key[16];
        snprintf(key, sizeof(key), "%u", i);
        request = kit_request(key, header, 0);
        CHECK_EQ(kit_put_request(store, &request, 0), MEMKV_OK);
        kit_stats(store);
    }
    CHECK(kit_stats(store).evictions > 500);
    CHECK_EQ(kit_get(store, "999", 0), MEMKV_OK);
    mkv_store_close(store);
}

int main(void)
{
    test_bad_settings_are_refused_by_name();
    test_more_memory_than_an_address_space_has_is_no_memory();
    test_least_memory_keeps_a_value_of_the_longest_key_and_header();
    test_least_memory_keeps_dozens_of_empty_values();
    test_deleted_value_is_counted_until_its_reader_is_done();
    test_least_recently_used_goes_first();
    test_listing_is_no_use();
    test_referenced_value_is_never_evicted();
    test_leased_value_is_evicted_only_when_the_lease_is_over();
    test_lease_is_never_shortened();
    test_at_most_half_the_pool_is_leased();
    test_leases_and_references_leave_nothing_to_evict();
    test_sending_is_bounded_by_half_the_pool();
    test_value_ends_with_its_time_to_live();
    test_lease_outlasts_the_time_to_live();
    test_value_over_a_quarter_of_the_pool_is_too_large();
    test_puts_in_flight_hold_at_most_a_quarter_of_the_pool();
    test_puts_without_bytes_leave_half_the_index();
    test_keys_and_headers_are_counted();
    return 0;
}
