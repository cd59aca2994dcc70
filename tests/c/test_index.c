/* SPDX-License-Identifier: Apache-2.0
 * test_index.c: a name finds its own value only, and slots outlive what is in them.
 * Hashes are forged here: real ones do not collide while anybody waits. */
#include "server/index.h"

#include <string.h>

#include "check.h"

static mkv_value make_value(const char *name_space, const char *key, uint64_t hash)
{
    static uint8_t bytes[8][32];
    static size_t n;
    uint8_t *text = bytes[n++ % 8];
    snprintf((char *)text, 32, "%s%s", name_space, key);
    return (mkv_value){.bytes = text,
                       .name_space_len = (uint16_t)strlen(name_space),
                       .key_len = (uint16_t)strlen(key),
                       .hash = hash};
}

static mkv_name name_of(const mkv_value *value)
{
    return (mkv_name){.name_space = value->bytes,
                      .name_space_len = value->name_space_len,
                      .key = value->bytes + value->name_space_len,
                      .key_len = value->key_len};
}

static void test_names_of_one_hash_are_told_apart(void)
{
    mkv_index index;
    CHECK_EQ(mkv_index_open(&index, 64, NULL), MEMKV_OK);
    mkv_value values[] = {make_value("a", "bc", 7), make_value("ab", "c", 7),
                          make_value("a", "bd", 7), make_value("a", "bc", 7 + 64)};
    for (size_t i = 0; i < 3; i++)
        mkv_index_insert(&index, &values[i]);
    for (size_t i = 0; i < 3; i++) {
        mkv_name name = name_of(&values[i]);
        CHECK(mkv_index_find(&index, &name, 7) == &values[i]);
        CHECK(mkv_index_find(&index, &name, 7 + 64) == NULL);
    }
    mkv_index_remove(&index, &values[1]);
    for (size_t i = 0; i < 3; i++) {
        mkv_name name = name_of(&values[i]);
        CHECK(mkv_index_find(&index, &name, 7) == (i == 1 ? NULL : &values[i]));
    }
    mkv_index_close(&index);
}

static void test_hash_follows_from_namespace_and_key(void)
{
    mkv_index index, other;
    CHECK_EQ(mkv_index_open(&index, 64, NULL), MEMKV_OK);
    CHECK_EQ(mkv_index_open(&other, 64, NULL), MEMKV_OK);
    mkv_value value = make_value("a", "bc", 0), moved = make_value("ab", "c", 0);
    mkv_name name = name_of(&value), moved_name = name_of(&moved);
    uint64_t hash = mkv_index_hash(&index, &name);
    CHECK(mkv_index_hash(&index, &name) == hash);
    CHECK(mkv_index_hash(&index, &moved_name) != hash);
    CHECK(mkv_index_hash(&other, &name) != hash); /* each index has its secret */
    mkv_index_close(&other);
    mkv_index_close(&index);
}

static void test_all_slots_can_be_had_again(void)
{
    mkv_index index;
    mkv_value values[64];
    CHECK_EQ(mkv_index_open(&index, 64, NULL), MEMKV_OK);
    for (int round = 0; round < 3; round++) {
        uint64_t seen = 0;
        for (size_t i = 0; i < 64; i++) {
            values[i] = make_value("", "key", i);
            mkv_index_take_slot(&index, &values[i]);
            CHECK(values[i].slot < 64);
            seen |= UINT64_C(1) << values[i].slot;
        }
        CHECK(seen == UINT64_MAX);
        for (size_t i = 0; i < 64; i++)
            mkv_index_give_slot(&index, &values[i]);
    }
    mkv_index_close(&index);
}

static void test_scan_stops_after_so_many_slots(void)
{
    mkv_index index;
    CHECK_EQ(mkv_index_open(&index, 64, NULL), MEMKV_OK);
    mkv_value first = make_value("x", "1", 1), last = make_value("y", "2", 2);
    mkv_index_take_slot(&index, &first);
    mkv_index_take_slot(&index, &last);
    mkv_index_insert(&index, &first);
    mkv_index_insert(&index, &last);
    uint32_t slot = 0;
    const uint8_t *y = (const uint8_t *)"y";
    CHECK(mkv_index_scan(&index, y, 1, &slot, 1) == NULL);
    CHECK_EQ(slot, 1);
    CHECK(mkv_index_scan(&index, y, 1, &slot, 1) == &last);
    CHECK_EQ(slot, 2);
    CHECK(mkv_index_scan(&index, y, 1, &slot, 1) == NULL);
    CHECK_EQ(slot, 2);
    mkv_index_close(&index);
}

int main(void)
{
    test_names_of_one_hash_are_told_apart();
    test_hash_follows_from_namespace_and_key();
    test_all_slots_can_be_had_again();
    test_scan_stops_after_so_many_slots();
    return 0;
}
