/* SPDX-License-Identifier: Apache-2.0
 * test_store.c: what goes in comes out: puts, reads, deletes and lists of store.h, one
 * claim a test.  The clock is the test's. */
#include "store_kit.h"

#define MEMORY ((uint64_t)1 << 20)

static void test_value_comes_back_with_all_that_belongs_to_it(void)
{
    mkv_store *store = kit_open(MEMORY, 0);
    mkv_put_request request = kit_request("key", "header", 3 * KIT_PAGE + 1);
    CHECK_EQ(kit_put_request(store, &request, 10), MEMKV_OK);

    mkv_value *value;
    mkv_value_info info;
    CHECK_EQ(kit_find(store, "key", 25, 0, &value, &info), MEMKV_OK);
    CHECK_EQ(info.key_len, 3);
    CHECK(memcmp(info.key, "key", 3) == 0);
    CHECK_EQ(info.header_len, 6);
    CHECK(memcmp(info.header, "header", 6) == 0);
    CHECK_EQ(info.length, request.length);
    CHECK_EQ(info.checksum, request.checksum);
    CHECK_EQ(info.generation, 1);
    CHECK_EQ(info.idle_ms, 15);
    CHECK(!info.leased);
    mkv_value_release(store, value);
    CHECK_EQ(kit_find(store, "key", 26, 0, &value, &info), MEMKV_OK);
    CHECK_EQ(info.idle_ms, 1);
    mkv_value_release(store, value);
    mkv_store_close(store);
}

static void test_iov_names_exactly_the_bytes_asked_for(void)
{
    mkv_store *store = kit_open(MEMORY, 0);
    mkv_value *value;
    mkv_value_info info;
    struct iovec iov[4];
    CHECK_EQ(kit_put(store, "key", 10000, 0), MEMKV_OK);
    CHECK_EQ(kit_find(store, "key", 0, 0, &value, &info), MEMKV_OK);
    CHECK_EQ(mkv_value_iov(value, 9990, 100, iov, 4), 1);
    CHECK_EQ(iov[0].iov_len, 10);
    CHECK_EQ(*(uint8_t *)iov[0].iov_base, kit_byte(info.checksum, 9990));
    CHECK_EQ(mkv_value_iov(value, 10000, 100, iov, 4), 0);
    CHECK_EQ(mkv_value_iov(value, UINT64_MAX, 100, iov, 4), 0);
    CHECK_EQ(mkv_value_iov(value, 0, 0, iov, 4), 0);
    CHECK_EQ(mkv_value_iov(value, 0, 100, iov, 0), 0);
    mkv_value_release(store, value);
    mkv_store_close(store);
}

static void test_empty_payload_and_header_are_values(void)
{
    mkv_store *store = kit_open(MEMORY, 0);
    mkv_put_request request = kit_request("empty", "", 0);
    request.name.name_space = request.header = NULL;
    request.name.name_space_len = 0;
    CHECK_EQ(kit_put_request(store, &request, 0), MEMKV_OK);
    CHECK_EQ(kit_put_request(store, &request, 0), MEMKV_ERR_EXISTS);
    mkv_value *value;
    mkv_value_info info;
    CHECK_EQ(mkv_store_find(store, &request.name, 0, 10, true, &value, &info),
             MEMKV_OK);
    CHECK_EQ(info.length, 0);
    CHECK_EQ(info.header_len, 0);
    CHECK(info.leased);
    mkv_value_release(store, value);
    mkv_store_close(store);
}

static void test_failure_leaves_outputs_alone(void)
{
    mkv_store *store = kit_open(MEMORY, 0);
    mkv_name name = kit_name("ns", "absent");
    mkv_value *value = (mkv_value *)&name;
    mkv_put *put = (mkv_put *)&name;
    mkv_value_info info, before;
    memset(&info, 0x5a, sizeof(info));
    before = info;
    CHECK_EQ(mkv_store_find(store, &name, 0, 0, true, &value, &info),
             MEMKV_ERR_NOT_FOUND);
    uint32_t cursor = 3;
    CHECK_EQ(mkv_store_list(store, NULL, 0, 0, &cursor, &value, &info),
             MEMKV_ERR_NOT_FOUND);
    mkv_put_request request = kit_request("large", "", MEMORY);
    CHECK_EQ(mkv_store_reserve(store, &request, 0, &put), MEMKV_ERR_TOO_LARGE);
    CHECK(value == (mkv_value *)&name && put == (mkv_put *)&name && cursor == 3);
    CHECK(memcmp(&info, &before, sizeof(info)) == 0);
    mkv_store_close(store);
}

static void test_namespaces_are_apart(void)
{
    mkv_store *store = kit_open(MEMORY, 0);
    mkv_put_request request = kit_request("b", "", 10);
    request.name = kit_name("a", "bc");
    CHECK_EQ(kit_put_request(store, &request, 0), MEMKV_OK);
    mkv_name other = kit_name("ab", "c");
    mkv_value *value;
    mkv_value_info info;
    CHECK_EQ(mkv_store_find(store, &other, 0, 0, false, &value, &info),
             MEMKV_ERR_NOT_FOUND);
    CHECK_EQ(mkv_store_delete(store, &other, 0, 0), MEMKV_ERR_NOT_FOUND);
    mkv_store_close(store);
}

static void test_put_is_invisible_until_committed(void)
{
    mkv_store *store = kit_open(MEMORY, 0);
    mkv_put_request request = kit_request("key", "header", 5000);
    mkv_put *put;
    CHECK_EQ(mkv_store_reserve(store, &request, 0, &put), MEMKV_OK);
    CHECK_EQ(kit_fill(store, put, &request, UINT64_MAX, 0), MEMKV_OK);
    CHECK_EQ(kit_get(store, "key", 0), MEMKV_ERR_NOT_FOUND);
    uint32_t cursor = 0;
    mkv_value *value;
    mkv_value_info info;
    CHECK_EQ(mkv_store_list(store, (const uint8_t *)"ns", 2, 0, &cursor, &value, &info),
             MEMKV_ERR_NOT_FOUND);
    CHECK_EQ(kit_stats(store).put_bytes, 2 * KIT_PAGE);
    CHECK_EQ(kit_stats(store).values, 0);
    uint64_t empty = kit_stats(store).used_bytes;
    mkv_store_drop(store, put);
    CHECK(kit_stats(store).used_bytes < empty);
    CHECK_EQ(kit_stats(store).put_bytes, 0);
    CHECK_EQ(kit_get(store, "key", 0), MEMKV_ERR_NOT_FOUND);
    mkv_store_close(store);
}

static void test_grow_names_whole_pages_and_never_passes_the_length(void)
{
    mkv_store *store = kit_open(MEMORY, 0);
    mkv_put_request request = kit_request("key", "", 3 * KIT_PAGE + 5);
    mkv_put *put;
    struct iovec iov[2];
    size_t n;
    CHECK_EQ(mkv_store_reserve(store, &request, 0, &put), MEMKV_OK);
    CHECK_EQ(kit_stats(store).put_bytes, 0);
    CHECK_EQ(mkv_put_grow(store, put, 0, 0, iov, 2, &n), MEMKV_OK);
    CHECK_EQ(n, 1);
    CHECK_EQ(iov[0].iov_len, KIT_PAGE);
    CHECK_EQ(mkv_put_grow(store, put, KIT_PAGE + 1, 0, iov, 2, &n), MEMKV_OK);
    CHECK_EQ(n, 1);
    CHECK_EQ(iov[0].iov_len, 2 * KIT_PAGE);
    CHECK_EQ(mkv_put_grow(store, put, UINT64_MAX, 0, iov, 2, &n), MEMKV_OK);
    CHECK_EQ(iov[0].iov_len, 5);
    CHECK_EQ(mkv_put_grow(store, put, UINT64_MAX, 0, iov, 2, &n), MEMKV_OK);
    CHECK_EQ(n, 0);
    CHECK_EQ(mkv_store_commit(store, put, 0), MEMKV_OK);
    mkv_store_close(store);
}

static void test_grow_goes_on_where_the_iovecs_ran_out(void)
{
    mkv_store *store = kit_open(MEMORY, 0);
    mkv_put_request left = kit_request("left", "", 4 * KIT_PAGE);
    mkv_put_request right = kit_request("right", "", 4 * KIT_PAGE);
    mkv_put *a, *b;
    struct iovec iov[1];
    size_t n;
    CHECK_EQ(mkv_store_reserve(store, &left, 0, &a), MEMKV_OK);
    CHECK_EQ(mkv_store_reserve(store, &right, 0, &b), MEMKV_OK);
    CHECK_EQ(mkv_put_grow(store, a, 1, 0, iov, 1, &n), MEMKV_OK);
    CHECK_EQ(kit_fill(store, b, &right, 1, 0), MEMKV_OK);
    CHECK_EQ(mkv_put_grow(store, a, UINT64_MAX, 0, iov, 0, &n), MEMKV_OK);
    CHECK_EQ(n, 0);
    CHECK_EQ(kit_stats(store).put_bytes, 8 * KIT_PAGE);
    CHECK_EQ(mkv_put_grow(store, a, 1, 0, iov, 1, &n), MEMKV_OK);
    CHECK_EQ(iov[0].iov_len, 3 * KIT_PAGE);
    CHECK_EQ(kit_stats(store).put_bytes, 8 * KIT_PAGE);
    mkv_store_drop(store, a);
    CHECK_EQ(mkv_store_commit(store, b, 0), MEMKV_OK);
    CHECK_EQ(kit_get(store, "right", 0), MEMKV_OK);
    mkv_store_close(store);
}

static void test_first_commit_wins(void)
{
    mkv_store *store = kit_open(MEMORY, 0);
    mkv_put_request first = kit_request("key", "same", 100);
    mkv_put_request second = kit_request("key", "same", 200);
    mkv_put *a, *b;
    CHECK_EQ(mkv_store_reserve(store, &first, 0, &a), MEMKV_OK);
    CHECK_EQ(mkv_store_reserve(store, &second, 0, &b), MEMKV_OK);
    CHECK_EQ(kit_fill(store, a, &first, UINT64_MAX, 0), MEMKV_OK);
    CHECK_EQ(kit_fill(store, b, &second, UINT64_MAX, 0), MEMKV_OK);
    CHECK_EQ(mkv_store_commit(store, b, 0), MEMKV_OK);
    CHECK_EQ(mkv_store_commit(store, a, 0), MEMKV_ERR_EXISTS);
    CHECK_EQ(kit_put_request(store, &first, 0), MEMKV_ERR_EXISTS);

    mkv_value *value;
    mkv_value_info info;
    CHECK_EQ(kit_find(store, "key", 0, 0, &value, &info), MEMKV_OK);
    CHECK_EQ(info.length, 200);
    mkv_value_release(store, value);
    CHECK_EQ(kit_stats(store).payload_bytes, 200);
    mkv_store_close(store);
}

static void test_other_header_replaces_and_readers_keep_what_they_hold(void)
{
    mkv_store *store = kit_open(MEMORY, 0);
    mkv_put_request old = kit_request("key", "old", 3 * KIT_PAGE);
    mkv_put_request new = kit_request("key", "new", KIT_PAGE);
    CHECK_EQ(kit_put_request(store, &old, 0), MEMKV_OK);
    mkv_value *held, *value;
    mkv_value_info held_info, info;
    CHECK_EQ(kit_find(store, "key", 0, 1000, &held, &held_info), MEMKV_OK);
    CHECK_EQ(kit_put_request(store, &new, 0), MEMKV_OK);

    CHECK_EQ(kit_find(store, "key", 0, 0, &value, &info), MEMKV_OK);
    CHECK(memcmp(info.header, "new", 3) == 0);
    CHECK(info.generation > held_info.generation);
    CHECK(!info.leased);
    mkv_value_release(store, value);

    kit_verify(held, &held_info);
    CHECK(memcmp(held_info.header, "old", 3) == 0);
    CHECK_EQ(kit_stats(store).values, 1);
    CHECK_EQ(kit_stats(store).referenced_bytes, 3 * KIT_PAGE);
    CHECK_EQ(kit_stats(store).leased_bytes, 0);
    uint64_t both = kit_stats(store).used_bytes;
    mkv_value_release(store, held);
    CHECK(both - kit_stats(store).used_bytes > 3 * KIT_PAGE);
    CHECK_EQ(kit_stats(store).evictions, 0);
    mkv_store_close(store);
}

static void test_delete_takes_only_the_generation_named(void)
{
    mkv_store *store = kit_open(MEMORY, 0);
    mkv_put_request other = kit_request("key", "other", 10);
    CHECK_EQ(kit_put(store, "key", 10, 0), MEMKV_OK);
    CHECK_EQ(kit_delete(store, "key", 2, 0), MEMKV_ERR_NOT_FOUND);
    CHECK_EQ(kit_put_request(store, &other, 0), MEMKV_OK);
    CHECK_EQ(kit_delete(store, "key", 1, 0), MEMKV_ERR_NOT_FOUND);
    CHECK_EQ(kit_get(store, "key", 0), MEMKV_OK);
    CHECK_EQ(kit_delete(store, "key", 2, 0), MEMKV_OK);
    CHECK_EQ(kit_get(store, "key", 0), MEMKV_ERR_NOT_FOUND);
    CHECK_EQ(kit_delete(store, "key", 0, 0), MEMKV_ERR_NOT_FOUND);
    CHECK_EQ(kit_put(store, "key", 10, 0), MEMKV_OK);
    CHECK_EQ(kit_delete(store, "key", 0, 0), MEMKV_OK);
    CHECK_EQ(kit_get(store, "key", 0), MEMKV_ERR_NOT_FOUND);
    mkv_store_close(store);
}

static void test_list_gives_each_value_of_the_namespace_once(void)
{
    mkv_store *store = kit_open(MEMORY, 0);
    bool seen[100] = {false};
    for (uint32_t i = 0; i < 100; i++) {
        char key[16];
        snprintf(key, sizeof(key), "%u", i);
        CHECK_EQ(kit_put(store, key, i, 0), MEMKV_OK);
        mkv_put_request other = kit_request("other", "", i);
        other.name = kit_name("elsewhere", key);
        CHECK_EQ(kit_put_request(store, &other, 0), MEMKV_OK);
    }
    uint32_t cursor = 0, n = 0;
    mkv_value *value;
    mkv_value_info info;
    while (mkv_store_list(store, (const uint8_t *)"ns", 2, 0, &cursor, &value, &info) ==
           MEMKV_OK) {
        kit_verify(value, &info);
        CHECK(!seen[info.length]);
        seen[info.length] = true;
        n++;
        /* What has been seen may go meanwhile. */
        char key[16];
        snprintf(key, sizeof(key), "%.*s", (int)info.key_len, (const char *)info.key);
        CHECK_EQ(kit_delete(store, key, 0, 0), MEMKV_OK);
        mkv_value_release(store, value);
    }
    CHECK_EQ(n, 100);
    cursor = UINT32_MAX;
    CHECK_EQ(mkv_store_list(store, (const uint8_t *)"ns", 2, 0, &cursor, &value, &info),
             MEMKV_ERR_NOT_FOUND);
    mkv_store_close(store);
}

static void test_nothing_is_fine_to_close_release_and_drop(void)
{
    mkv_store *store = kit_open(MEMORY, 0);
    mkv_value_release(store, NULL);
    mkv_store_drop(store, NULL);
    mkv_store_close(store);
    mkv_store_close(NULL);
}

int main(void)
{
    test_value_comes_back_with_all_that_belongs_to_it();
    test_iov_names_exactly_the_bytes_asked_for();
    test_empty_payload_and_header_are_values();
    test_failure_leaves_outputs_alone();
    test_namespaces_are_apart();
    test_put_is_invisible_until_committed();
    test_grow_names_whole_pages_and_never_passes_the_length();
    test_grow_goes_on_where_the_iovecs_ran_out();
    test_first_commit_wins();
    test_other_header_replaces_and_readers_keep_what_they_hold();
    test_delete_takes_only_the_generation_named();
    test_list_gives_each_value_of_the_namespace_once();
    test_nothing_is_fine_to_close_release_and_drop();
    return 0;
}
