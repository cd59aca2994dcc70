/* SPDX-License-Identifier: Apache-2.0
 * checksum.c: the end-to-end checksum of a value (docs/wire.md, "The checksum"), over
 * the system's xxHash.  The build defines MKV_HAVE_XXH_DISPATCH where the library
 * chooses AVX2 or AVX-512 at run time: Debian's plain x86 calls are SSE2 and several
 * times slower.  Knows no frames. */
#include "protocol/checksum.h"

#define XXH_STATIC_LINKING_ONLY /* for the size of XXH3_state_t */
#ifdef MKV_HAVE_XXH_DISPATCH
#include <xxh_x86dispatch.h>
#else
#include <xxhash.h>
#endif

#include "protocol/bytes.h"

#define SMALL 256 /* a part of what seeds a checksum, usually */

_Static_assert(sizeof(XXH3_state_t) <= sizeof(((mkv_summer *)0)->block) &&
                   sizeof(XXH3_state_t) <= sizeof(((mkv_summer *)0)->outer),
               "mkv_summer has no place for XXH3_state_t");
_Static_assert(sizeof(mkv_summer) == MKV_SUMMER_LEN, "MKV_SUMMER_LEN is wrong");
_Static_assert(_Alignof(mkv_summer) >= _Alignof(XXH3_state_t),
               "mkv_summer is not aligned for XXH3_state_t");

static XXH3_state_t *state_in(unsigned char *memory)
{
    return (XXH3_state_t *)(void *)memory;
}

static void add_framed(XXH3_state_t *state, const void *data, size_t len)
{
    uint8_t prefix[4];
    mkv_put_u32(prefix, (uint32_t)len);
    XXH3_64bits_update(state, prefix, sizeof(prefix));
    if (len > 0)
        XXH3_64bits_update(state, data, len);
}

static size_t append_framed(uint8_t *dst, const void *data, size_t len)
{
    mkv_put_u32(dst, (uint32_t)len);
    if (len > 0)
        memcpy(dst + 4, data, len);
    return 4 + len;
}

uint64_t mkv_checksum_seed(const void *name_space, size_t name_space_len,
                           const void *key, size_t key_len, const void *header,
                           size_t header_len)
{
    /* In one piece it takes a fraction of the time: placing a key asks for a hash of
     * each server. */
    if (name_space_len <= SMALL && key_len <= SMALL && header_len <= SMALL) {
        uint8_t all[3 * (4 + SMALL)];
        size_t len = append_framed(all, name_space, name_space_len);
        len += append_framed(all + len, key, key_len);
        len += append_framed(all + len, header, header_len);
        return XXH3_64bits(all, len);
    }
    XXH3_state_t state;
    XXH3_64bits_reset(&state);
    add_framed(&state, name_space, name_space_len);
    add_framed(&state, key, key_len);
    add_framed(&state, header, header_len);
    return XXH3_64bits_digest(&state);
}

uint64_t mkv_checksum(uint64_t seed, const void *data, size_t len)
{
    mkv_summer summer;
    mkv_summer_begin(&summer, seed);
    mkv_summer_add(&summer, data, len);
    return mkv_summer_end(&summer);
}

void mkv_summer_begin(mkv_summer *summer, uint64_t seed)
{
    /* Zeroed: a seeded reset compares with the seed that the state held before. */
    *summer = (mkv_summer){.seed = seed};
    XXH3_64bits_reset_withSeed(state_in(summer->outer), seed);
}

static void end_block(mkv_summer *summer)
{
    uint8_t hash[8];
    mkv_put_u64(hash, XXH3_64bits_digest(state_in(summer->block)));
    XXH3_64bits_update(state_in(summer->outer), hash, sizeof(hash));
    summer->number++;
    summer->filled = 0;
}

void mkv_summer_add(mkv_summer *summer, const void *data, size_t len)
{
    const uint8_t *bytes = data;
    XXH3_state_t *block = state_in(summer->block);
    while (len > 0) {
        if (summer->filled == 0)
            XXH3_64bits_reset_withSeed(block, summer->seed + summer->number);
        size_t part = MKV_CHECKSUM_BLOCK - summer->filled;
        if (part > len)
            part = len;
        XXH3_64bits_update(block, bytes, part);
        summer->filled += part;
        bytes += part;
        len -= part;
        if (summer->filled == MKV_CHECKSUM_BLOCK)
            end_block(summer);
    }
}

uint64_t mkv_summer_end(mkv_summer *summer)
{
    if (summer->filled > 0)
        end_block(summer);
    return XXH3_64bits_digest(state_in(summer->outer));
}
