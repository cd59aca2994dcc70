/* checksum.h: the end-to-end checksum of a value (docs/wire.md, "The checksum").  The
 * only includer of xxhash.h is checksum.c.  Pure.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef MKV_CHECKSUM_H
#define MKV_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>

/* cffi: on */
#define MKV_CHECKSUM_BLOCK 1048576

/* Seed of a value's checksum: XXH3-64 of namespace, key and header, each framed by its
 * length as u32 little-endian. */
uint64_t mkv_checksum_seed(const void *name_space, size_t name_space_len,
                           const void *key, size_t key_len, const void *header,
                           size_t header_len);

/* The whole at once. */
uint64_t mkv_checksum(uint64_t seed, const void *data, size_t len);

#define MKV_SUMMER_LEN 1344 /* of a mkv_summer, which is aligned to 64 */

/* As the bytes come.  begin, add any number of times, end.  Any thread; no allocation. */
typedef struct mkv_summer mkv_summer;

void mkv_summer_begin(mkv_summer *summer, uint64_t seed);
void mkv_summer_add(mkv_summer *summer, const void *data, size_t len);
uint64_t mkv_summer_end(mkv_summer *summer);
/* cffi: off */

struct mkv_summer {
    _Alignas(64) unsigned char block[640]; /* XXH3 state of the block under way */
    _Alignas(64) unsigned char outer[640]; /* XXH3 state of the blocks' hashes */
    uint64_t seed;
    uint64_t number; /* of the block under way */
    size_t filled;   /* bytes of it seen */
};

#endif
