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

struct memkv_region {
    memkv_region *next;
    mkv_regions *all;
    uint8_t *addr;
    size_t len;
    mkv_memory *memory; /* NULL: not registered */
    bool is_busy;       /* being registered: not to be released */
    int64_t retry_ns;
    memkv_error trouble; /* why it is not registered */
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

/* The first that is due, marked busy. */
static memkv_region *take_due(mkv_regions *regions)
{
    int64_t now = mkv_now_ns();
    pthread_mutex_lock(&regions->lock);
    memkv_region *region = regions->first;
    while (region != NULL &&
           (region->memory != NULL || region->is_busy || now < region->retry_ns))
        region = region->next;
    if (region != NULL)
        region->is_busy = true;
    pthread_mutex_unlock(&regions->lock);
    return region;
}

void mkv_regions_tend(mkv_regions *regions, const atomic_bool *is_stopped)
{
    memkv_region *region;
    mkv_regions_open_devices(regions);
    mkv_rdma *rdma = mkv_regions_rdma(regions);
    while (rdma != NULL && !atomic_load(is_stopped) &&
           (region = take_due(regions)) != NULL) {
        mkv_memory *memory = NULL;
        memkv_error why = {.status = MEMKV_OK};
        (void)mkv_memory_register(rdma, region->addr, region->len, true, &memory, &why);
        pthread_mutex_lock(&regions->lock);
        region->memory = memory;
        region->trouble = why;
        region->retry_ns = mkv_now_ns() + RETRY_NS;
        region->is_busy = false;
        pthread_cond_broadcast(&regions->changed);
        pthread_mutex_unlock(&regions->lock);
    }
}

/* ---- finding ----------------------------------------------------------------------- */

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
            found = region->memory;
    }
    pthread_mutex_unlock(&regions->lock);
    return found;
}

void mkv_regions_describe(mkv_regions *regions, char *text, size_t cap)
{
    pthread_mutex_lock(&regions->lock);
    const memkv_error *trouble = &regions->trouble;
    for (const memkv_region *region = regions->first;
         region != NULL && trouble->status == MEMKV_OK; region = region->next)
        trouble = &region->trouble;
    snprintf(text, cap, "%s", trouble->status != MEMKV_OK ? trouble->text : "");
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
    while (region->is_busy)
        pthread_cond_wait(&all->changed, &all->lock);
    memkv_region **at = &all->first;
    while (*at != region)
        at = &(*at)->next;
    *at = region->next;
    pthread_mutex_unlock(&all->lock);
    mkv_memory_release(region->memory);
    free(region);
}
