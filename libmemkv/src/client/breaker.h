/* breaker.h: whether a server is worth asking, from what became of earlier questions.
 * Pure: time and chance are arguments.  Its owner locks; only is_live may be called
 * without.
 *
 * NEW until a dial has ended, then UP or DOWN.  Nobody waits for a DOWN server; one probe
 * at a time, after a jittered back-off, may bring it back.  The back-off grows until the
 * server has answered a request, not merely a dial.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef MKV_BREAKER_H
#define MKV_BREAKER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "memkv/memkv.h"

typedef enum mkv_health { MKV_NEW, MKV_UP, MKV_DOWN } mkv_health;

typedef struct mkv_breaker { /* zeroed: NEW */
    _Atomic int health;
    memkv_error trouble; /* why it is DOWN */
    uint32_t failures;   /* since it last answered a request */
    uint32_t silences;   /* requests without a byte of an answer, in a row */
    int64_t silent_ns;   /* what they waited, in all */
    uint32_t slow;       /* answers far over the normal, in a row */
    int64_t normal_ns; /* what a request without payload usually takes; 0: not known */
    int64_t retry_ns;  /* DOWN: when a probe may go out */
    int64_t back_ns;   /* when it came back, or was started; 0: long ago */
} mkv_breaker;

bool mkv_breaker_is_live(const mkv_breaker *breaker);
/* DOWN, and time for a probe; NEW and UP ones may be dialled any time. */
bool mkv_breaker_may_dial(const mkv_breaker *breaker, int64_t now_ns);
/* A handshake succeeded; uptime_ms is the server's. */
void mkv_breaker_opened(mkv_breaker *breaker, int64_t now_ns, uint64_t uptime_ms);
/* It is DOWN from now on.  `chance` spreads the retries of many clients. */
void mkv_breaker_failed(mkv_breaker *breaker, int64_t now_ns, const memkv_error *why,
                        uint16_t chance);
/* It is UP, and nothing came within `waited_ns`.  True: that was once too often, and it is
 * DOWN. */
bool mkv_breaker_silent(mkv_breaker *breaker, int64_t now_ns, int64_t waited_ns,
                        uint16_t chance);
/* A request without payload (0: with) was answered after `took_ns`.  True: too slow for
 * too long, and it is DOWN. */
bool mkv_breaker_answered(mkv_breaker *breaker, int64_t now_ns, int64_t took_ns,
                          uint16_t chance);
/* Was it away not long ago?  Then what it lacks may be with the next server in a key's
 * order, which held the fort. */
bool mkv_breaker_is_back(const mkv_breaker *breaker, int64_t now_ns);

#endif
