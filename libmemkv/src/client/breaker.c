/* breaker.c: counts failures, silences and slowness of one server (breaker.h).
 * SPDX-License-Identifier: Apache-2.0 */
#include "client/breaker.h"

#include "net/clock.h"
#include "status.h"

#define RETRY_MIN_MS 100
#define RETRY_MAX_MS 5000
#define RETRY_REFUSED_MS 30000 /* a wrong key does not mend itself */
#define BACK_MS 600000         /* how long the next in order is asked, too */

#define MAX_SILENCES 3 /* short budgets run out under load, too: not after the first */
#define MIN_SILENCE_MS 60 /* in all; very short budgets need more of them */
#define SILENCE_MS 1000   /* but this is long for anybody */

#define MAX_SLOW 16 /* in a row; a burst is over sooner */
#define SLOW_FACTOR 50
#define SLOW_MS 20 /* less is never called slow */

bool mkv_breaker_is_live(const mkv_breaker *breaker)
{
    return atomic_load_explicit(&breaker->health, memory_order_relaxed) != MKV_DOWN;
}

bool mkv_breaker_may_dial(const mkv_breaker *breaker, int64_t now_ns)
{
    return mkv_breaker_is_live(breaker) || now_ns >= breaker->retry_ns;
}

void mkv_breaker_opened(mkv_breaker *breaker, int64_t now_ns, uint64_t uptime_ms)
{
    int64_t started_ns = now_ns;
    if (uptime_ms < BACK_MS)
        started_ns -= (int64_t)uptime_ms * MKV_NS_PER_MS;
    if (atomic_load(&breaker->health) == MKV_DOWN)
        breaker->back_ns = now_ns;
    else if (uptime_ms < BACK_MS && started_ns > breaker->back_ns)
        breaker->back_ns = started_ns;
    breaker->silences = breaker->slow = 0;
    breaker->silent_ns = 0;
    atomic_store(&breaker->health, MKV_UP);
}

void mkv_breaker_failed(mkv_breaker *breaker, int64_t now_ns, const memkv_error *why,
                        uint16_t chance)
{
    uint32_t doublings = breaker->failures < 6 ? breaker->failures : 6;
    int64_t wait_ms = RETRY_MIN_MS << doublings;
    if (wait_ms > RETRY_MAX_MS)
        wait_ms = RETRY_MAX_MS;
    if (why->status == MEMKV_ERR_AUTH || why->status == MEMKV_ERR_VERSION)
        wait_ms = RETRY_REFUSED_MS;
    wait_ms += wait_ms * chance / (2 * UINT16_MAX); /* up to a half more */
    breaker->retry_ns = now_ns + wait_ms * MKV_NS_PER_MS;
    breaker->trouble = *why;
    breaker->failures++;
    atomic_store(&breaker->health, MKV_DOWN);
}

bool mkv_breaker_silent(mkv_breaker *breaker, int64_t now_ns, int64_t waited_ns,
                        uint16_t chance)
{
    /* what was never up is waited for until its dial is given up */
    if (atomic_load(&breaker->health) != MKV_UP)
        return false;
    breaker->silences++;
    breaker->silent_ns += waited_ns;
    bool is_often = breaker->silences >= MAX_SILENCES &&
                    breaker->silent_ns >= MIN_SILENCE_MS * MKV_NS_PER_MS;
    if (!is_often && waited_ns < SILENCE_MS * MKV_NS_PER_MS)
        return false;
    memkv_error why;
    mkv_fail(&why, MEMKV_ERR_UNREACHABLE, 0,
             "no answer to %u requests, the last for %d ms", breaker->silences,
             (int)(waited_ns / MKV_NS_PER_MS));
    mkv_breaker_failed(breaker, now_ns, &why, chance);
    return true;
}

bool mkv_breaker_answered(mkv_breaker *breaker, int64_t now_ns, int64_t took_ns,
                          uint16_t chance)
{
    if (atomic_load(&breaker->health) != MKV_UP)
        return false; /* an answer from before */
    breaker->silences = 0;
    breaker->silent_ns = 0;
    if (took_ns == 0) {
        breaker->failures = 0;
        return false;
    }
    if (breaker->normal_ns == 0)
        breaker->normal_ns = took_ns;
    if (took_ns < SLOW_MS * MKV_NS_PER_MS ||
        took_ns < SLOW_FACTOR * breaker->normal_ns) {
        breaker->slow = breaker->failures = 0;
        breaker->normal_ns += (took_ns - breaker->normal_ns) / 16;
        return false;
    }
    if (++breaker->slow < MAX_SLOW)
        return false;
    memkv_error why;
    mkv_fail(&why, MEMKV_ERR_UNREACHABLE, 0, "slow: %d ms a request, normally %.3f ms",
             (int)(took_ns / MKV_NS_PER_MS), (double)breaker->normal_ns / 1e6);
    mkv_breaker_failed(breaker, now_ns, &why, chance);
    return true;
}

bool mkv_breaker_is_back(const mkv_breaker *breaker, int64_t now_ns)
{
    return breaker->back_ns != 0 && now_ns - breaker->back_ns < BACK_MS * MKV_NS_PER_MS;
}
