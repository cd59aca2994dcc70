/* policy.h: who is evicted next.  Pure: knows ranks, neither values nor memory nor
 * time.  Least recently used goes first.  Under the store's lock.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef MKV_POLICY_H
#define MKV_POLICY_H

#include "server/ring.h"

typedef struct mkv_policy {
    mkv_ring order;
} mkv_policy;

typedef struct mkv_rank { /* a value's place; a member of it */
    mkv_ring ring;
} mkv_rank;

void mkv_policy_init(mkv_policy *policy);
void mkv_policy_insert(mkv_policy *policy, mkv_rank *rank);
void mkv_policy_remove(mkv_rank *rank);
void mkv_policy_touch(mkv_policy *policy, mkv_rank *rank); /* it was used */
/* NULL: there is none.  Stays first until it is removed, touched or spared. */
mkv_rank *mkv_policy_victim(mkv_policy *policy);
/* The victim cannot go just now: names it again only after all the others. */
void mkv_policy_spare(mkv_policy *policy, mkv_rank *rank);

#endif
