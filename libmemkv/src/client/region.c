/* region.c: registered memory (region.h), and memkv_region_*.
 * SPDX-License-Identifier: Apache-2.0 */
#include "client/region.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/client.h"
#include "net/clock.h"
#include "status.h"

/* What was missing may have come: a driver loaded, a limit lifted. */
#define RETRY_NS (30000 * MKV_NS_PER_MS)

#define DIALS_FIRST_NS                                                                 \
    (200 * MKV_NS_PER_MS) /* enough for the handshake of a live one */

#define STRIDE ((size_t)1 << 30)
#define OVERLAP ((size_t)64 << 20) /* LMCache's largest chunks have 60 MiB */

typedef struct slice {
    mkv_memory *memory; /* NULL: not registered */
    int64_t retry_ns;
    memkv_error trouble; /* why it is not registered, or not with every device */
} slice;

struct memkv_region {
    memkv_region *next;
    mkv_regions *all;
    uint8_t *addr;
    size_t len;
    size_t stride;   /* from the beginning of a slice to that of the next one */
    size_t overlap;  /* how far it goes on from there, but for the last one */
    size_t n_slices; /* 0: not known yet, as no device is open */
    slice *slices;
    bool is_busy;    /* one is being registered: not to be released */
    bool is_leaving; /* being released: not to be registered */
};

static char *copy(const char *text)
{
    return text != NULL ? strdup(text) : NULL;
}

int mkv_regions_init(mkv_regions *regions, const char *library, const char *devices)
{
    memset(regions, 0, sizeof *regions);
    regions->library = copy(library);
    regions->devices = copy(devices);
    pthread_mutex_init(&regions->opening, NULL);
    pthread_mutex_init(&regions->lock, NULL);
    pthread_cond_init(&regions->changed, NULL);
    bool is_whole = (library == NULL) == (regions->library == NULL) &&
                    (devices == NULL) == (regions->devices == NULL);
    return is_whole ? MEMKV_OK : MEMKV_ERR_NO_MEMORY;
}

void mkv_regions_fini(mkv_regions *regions)
{
    while (regions->first != NULL)
        memkv_region_release(regions->first);
    mkv_rdma_close(mkv_regions_rdma(regions));
    pthread_cond_destroy(&regions->changed);
    pthread_mutex_destroy(&regions->lock);
    pthread_mutex_destroy(&regions->opening);
    free(regions->library);
    free(regions->devices);
}

/* ---- tending ----------------------------------------------------------------------- */

void mkv_regions_open_devices(mkv_regions *regions)
{
    if (mkv_regions_rdma(regions) != NULL)
        return;
    pthread_mutex_lock(&regions->opening);
    int64_t now = mkv_now_ns();
    if (mkv_regions_rdma(regions) == NULL && now >= regions->retry_ns) {
        mkv_rdma *rdma = NULL;
        memkv_error why = {.status = MEMKV_OK};
        regions->retry_ns = now + RETRY_NS;
        int rc = mkv_rdma_open(regions->library, regions->devices, &rdma, &why);
        pthread_mutex_lock(&regions->lock);
        regions->trouble = why;
        pthread_mutex_unlock(&regions->lock);
        if (rc == MEMKV_OK)
            atomic_store(&regions->rdma, rdma);
        atomic_store(&regions->is_tried, true);
    }
    pthread_mutex_unlock(&regions->opening);
}

/* False: no memory. */
static bool cut(memkv_region *region, size_t max_target)
{
    if (region->n_slices > 0)
        return true;
    region->overlap = OVERLAP < max_target / 4 ? OVERLAP : max_target / 4;
    region->stride = max_target - region->overlap;
    if (region->stride > STRIDE)
        region->stride = STRIDE;
    size_t n = 1;
    if (region->len > region->stride + region->overlap)
        n = (region->len - region->overlap + region->stride - 1) / region->stride;
    region->slices = calloc(n, sizeof *region->slices);
    region->n_slices = region->slices != NULL ? n : 0;
    return region->slices != NULL;
}

static size_t len_of(const memkv_region *region, size_t i)
{
    return i < region->n_slices - 1 ? region->stride + region->overlap
                                    : region->len - i * region->stride;
}

static bool is_due(const slice *it, int64_t now)
{
    return (it->memory == NULL || it->trouble.status != MEMKV_OK) &&
           now >= it->retry_ns;
}

static bool find_due(memkv_region *region, size_t max_target, int64_t now, size_t *out)
{
    if (region->is_busy || region->is_leaving || !cut(region, max_target))
        return false;
    for (size_t i = 0; i < region->n_slices; i++)
        if (is_due(&region->slices[i], now)) {
            *out = i;
            return true;
        }
    return false;
}

/* Is it the dials' time?  One that has just ended has the next turn, too: a link may follow
 * a connection. */
static bool must_wait(mkv_regions *regions, bool is_dialling)
{
    int64_t now = mkv_now_ns();
    pthread_mutex_lock(&regions->lock);
    bool were_dialling = regions->dial_until_ns != 0;
    if (is_dialling && !were_dialling)
        regions->dial_until_ns = now + DIALS_FIRST_NS;
    bool is_theirs = is_dialling ? now < regions->dial_until_ns : were_dialling;
    if (!is_dialling || !is_theirs)
        regions->dial_until_ns = 0;
    pthread_mutex_unlock(&regions->lock);
    return is_theirs;
}

/* The first region with a slice that is due, marked busy. */
static memkv_region *take_due(mkv_regions *regions, size_t max_target, size_t *which)
{
    int64_t now = mkv_now_ns();
    pthread_mutex_lock(&regions->lock);
    memkv_region *region = regions->first;
    while (region != NULL && !find_due(region, max_target, now, which))
        region = region->next;
    if (region != NULL)
        region->is_busy = true;
    pthread_mutex_unlock(&regions->lock);
    return region;
}

bool mkv_regions_tend(mkv_regions *regions, bool is_dialling)
{
    size_t i;
    bool were_open = mkv_regions_rdma(regions) != NULL;
    mkv_regions_open_devices(regions);
    mkv_rdma *rdma = mkv_regions_rdma(regions);
    if (rdma == NULL || !were_open) /* who waits for the devices dials first */
        return rdma != NULL;
    if (must_wait(regions, is_dialling))
        return !is_dialling;
    memkv_region *region = take_due(regions, mkv_rdma_max_target(rdma), &i);
    if (region == NULL)
        return false;
    mkv_memory *memory = region->slices[i].memory;
    memkv_error why = {.status = MEMKV_OK};
    if (memory != NULL)
        (void)mkv_memory_complete(memory, &why);
    else
        (void)mkv_memory_register(rdma, region->addr + i * region->stride,
                                  len_of(region, i), true, &memory, &why);
    pthread_mutex_lock(&regions->lock);
    region->slices[i].memory = memory;
    region->slices[i].trouble = why;
    region->slices[i].retry_ns = mkv_now_ns() + RETRY_NS;
    region->is_busy = false;
    pthread_cond_broadcast(&regions->changed);
    pthread_mutex_unlock(&regions->lock);
    return true;
}

/* ---- finding ----------------------------------------------------------------------- */

/* Bytes that begin in one slice lie whole in it or in none. */
static const mkv_memory *find_in(const memkv_region *region, size_t offset, size_t len)
{
    if (region->n_slices == 0)
        return NULL;
    size_t i = offset / region->stride;
    if (i >= region->n_slices)
        i = region->n_slices - 1;
    bool is_whole = offset - i * region->stride + len <= len_of(region, i);
    return is_whole ? region->slices[i].memory : NULL;
}

const mkv_memory *mkv_regions_find(mkv_regions *regions, const void *addr, size_t len)
{
    const mkv_memory *found = NULL;
    uintptr_t begin = (uintptr_t)addr;
    pthread_mutex_lock(&regions->lock);
    for (const memkv_region *region = regions->first; region != NULL && found == NULL;
         region = region->next) {
        uintptr_t base = (uintptr_t)region->addr;
        if (begin >= base && begin - base <= region->len &&
            len <= region->len - (begin - base))
            found = find_in(region, begin - base, len);
    }
    pthread_mutex_unlock(&regions->lock);
    return found;
}

static uint64_t registered_in(const memkv_region *region)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < region->n_slices; i++) {
        bool is_next = i + 1 < region->n_slices && region->slices[i + 1].memory != NULL;
        if (region->slices[i].memory != NULL)
            sum += is_next ? region->stride : len_of(region, i);
    }
    return sum;
}

uint64_t mkv_regions_registered(mkv_regions *regions)
{
    uint64_t sum = 0;
    pthread_mutex_lock(&regions->lock);
    for (const memkv_region *region = regions->first; region != NULL;
         region = region->next)
        sum += registered_in(region);
    pthread_mutex_unlock(&regions->lock);
    return sum;
}

/* False: nothing of it was refused. */
static bool describe(const memkv_region *region, char *text, size_t cap)
{
    size_t i = 0;
    while (i < region->n_slices && region->slices[i].trouble.status == MEMKV_OK)
        i++;
    if (i == region->n_slices)
        return false;
    int n = snprintf(text, cap, "%s", region->slices[i].trouble.text);
    if (region->n_slices > 1 && n >= 0 && (size_t)n < cap)
        snprintf(text + n, cap - (size_t)n, "; the whole region has %zu", region->len);
    return true;
}

void mkv_regions_describe(mkv_regions *regions, char *text, size_t cap)
{
    text[0] = '\0';
    pthread_mutex_lock(&regions->lock);
    const memkv_region *region = regions->first;
    if (regions->trouble.status != MEMKV_OK)
        snprintf(text, cap, "%s", regions->trouble.text);
    else
        while (region != NULL && !describe(region, text, cap))
            region = region->next;
    pthread_mutex_unlock(&regions->lock);
}

/* ---- the caller's ------------------------------------------------------------------ */

static bool overlaps(const memkv_region *region, const void *addr, size_t len)
{
    uintptr_t a = (uintptr_t)addr, b = (uintptr_t)region->addr;
    return a < b ? b - a < len : a - b < region->len;
}

int memkv_region_register(memkv_client *client, void *addr, size_t len,
                          memkv_region **out, memkv_error *err)
{
    if (client == NULL || addr == NULL || len == 0 ||
        len > UINTPTR_MAX - (uintptr_t)addr)
        return mkv_fail(err, MEMKV_ERR_INVALID, 0, "region: no client, or no memory");
    memkv_region *region = calloc(1, sizeof *region);
    if (region == NULL)
        return mkv_fail(err, MEMKV_ERR_NO_MEMORY, 0, "no memory for a region");
    mkv_regions *all = &client->regions;
    region->all = all;
    region->addr = addr;
    region->len = len;
    pthread_mutex_lock(&all->lock);
    const memkv_region *other = all->first;
    while (other != NULL && !overlaps(other, addr, len))
        other = other->next;
    if (other == NULL) {
        region->next = all->first;
        all->first = region;
    }
    pthread_mutex_unlock(&all->lock);
    if (other != NULL) {
        free(region);
        return mkv_fail(err, MEMKV_ERR_INVALID, 0,
                        "region: %zu bytes at %p overlap one that is registered", len,
                        addr);
    }
    *out = region;
    return MEMKV_OK;
}

void memkv_region_release(memkv_region *region)
{
    if (region == NULL)
        return;
    mkv_regions *all = region->all;
    pthread_mutex_lock(&all->lock);
    region->is_leaving = true;
    while (region->is_busy)
        pthread_cond_wait(&all->changed, &all->lock);
    memkv_region **at = &all->first;
    while (*at != region)
        at = &(*at)->next;
    *at = region->next;
    pthread_mutex_unlock(&all->lock);
    for (size_t i = 0; i < region->n_slices; i++)
        mkv_memory_release(region->slices[i].memory);
    free(region->slices);
    free(region);
}
