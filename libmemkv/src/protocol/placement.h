/* placement.h: which server holds a key (docs/wire.md, "Placement").  Frozen: another
 * answer is another cluster.  Pure.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef MKV_PLACEMENT_H
#define MKV_PLACEMENT_H

#include <stddef.h>
#include <stdint.h>

/* cffi: on */
#define MKV_SLOTS 262144

uint32_t mkv_placement_slot(const void *key, size_t key_len);
/* How much a server, known by its name, wants a slot: the highest score holds it; among
 * equals the one whose name sorts first. */
uint64_t mkv_placement_score(const char *name, uint32_t slot);
/* cffi: off */

#endif
