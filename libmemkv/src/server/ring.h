/* ring.h: a doubly linked ring through members of the linked structs.  The head is a
 * node of its own; a node in no ring is linked to itself.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef MKV_RING_H
#define MKV_RING_H

#include <stdbool.h>

typedef struct mkv_ring {
    struct mkv_ring *newer;
    struct mkv_ring *older;
} mkv_ring;

static inline void mkv_ring_init(mkv_ring *ring)
{
    ring->newer = ring->older = ring;
}

/* Of a head: nothing is in it.  Of a node: it is in no ring. */
static inline bool mkv_ring_alone(const mkv_ring *ring)
{
    return ring->newer == ring;
}

static inline mkv_ring *mkv_ring_oldest(const mkv_ring *head)
{
    return head->newer;
}

static inline void mkv_ring_remove(mkv_ring *node)
{
    node->newer->older = node->older;
    node->older->newer = node->newer;
    mkv_ring_init(node);
}

/* Makes the node the newest, wherever it was. */
static inline void mkv_ring_renew(mkv_ring *head, mkv_ring *node)
{
    mkv_ring_remove(node);
    node->newer = head;
    node->older = head->older;
    head->older->newer = node;
    head->older = node;
}

#endif
