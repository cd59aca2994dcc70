/* SPDX-License-Identifier: Apache-2.0
 * policy.c: the order of eviction, least recently used first.  Knows ranks only: what
 * may be evicted, and what eviction does, is the store's business. */
#include "server/policy.h"

#include <stddef.h>

void mkv_policy_init(mkv_policy *policy)
{
    mkv_ring_init(&policy->order);
}

void mkv_policy_insert(mkv_policy *policy, mkv_rank *rank)
{
    mkv_ring_init(&rank->ring);
    mkv_ring_renew(&policy->order, &rank->ring);
}

void mkv_policy_remove(mkv_rank *rank)
{
    mkv_ring_remove(&rank->ring);
}

void mkv_policy_touch(mkv_policy *policy, mkv_rank *rank)
{
    mkv_ring_renew(&policy->order, &rank->ring);
}

mkv_rank *mkv_policy_victim(mkv_policy *policy)
{
    if (mkv_ring_alone(&policy->order))
        return NULL;
    return (mkv_rank *)mkv_ring_oldest(&policy->order);
}

void mkv_policy_spare(mkv_policy *policy, mkv_rank *rank)
{
    mkv_ring_renew(&policy->order, &rank->ring);
}
