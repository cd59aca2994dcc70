/* placement.c: rendezvous hashing of a key's slot and a server's stable name, so that one
 * server of N added or lost moves 1/N of the keys.
 * SPDX-License-Identifier: Apache-2.0 */
#include "protocol/placement.h"

#include <string.h>

#include "protocol/checksum.h"

uint32_t mkv_placement_slot(const void *key, size_t key_len)
{
    return (uint32_t)(mkv_checksum_seed("", 0, key, key_len, "", 0) % MKV_SLOTS);
}

uint64_t mkv_placement_score(const char *name, uint32_t slot)
{
    uint8_t bytes[4] = {(uint8_t)slot, (uint8_t)(slot >> 8), (uint8_t)(slot >> 16),
                        (uint8_t)(slot >> 24)};
    return mkv_checksum_seed(name, strlen(name), bytes, sizeof bytes, "", 0);
}
