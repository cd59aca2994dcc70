/* describe.c: the state of a server as one sentence, for logs and for people.  Changes
 * nothing.
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>

#include "client/peer.h"

/* How payload travels, and why not by RDMA; "" where nobody knows yet, or nobody asked.
 * Assumes the lock. */
static void describe_link(const mkv_peer *peer, char *text, size_t cap)
{
    const char *stream = peer->endpoint.addr.ss_family == AF_UNIX ? "unix" : "tcp";
    mkv_regions *regions = peer->config->regions;
    char why[sizeof peer->rdma.trouble.text] = "";
    int health = atomic_load(&peer->rdma.health);
    text[0] = '\0';
    if (peer->config->transport == MEMKV_TRANSPORT_TCP ||
        !atomic_load(&regions->is_tried))
        return;
    mkv_regions_describe(regions, why, sizeof why);
    if (mkv_regions_rdma(regions) == NULL)
        snprintf(text, cap, "%s: %s", stream, why);
    else if ((peer->features & MKV_FEATURE_RDMA) == 0)
        snprintf(text, cap, "%s: the server has no RDMA", stream);
    else if (health == MKV_DOWN)
        snprintf(text, cap, "%s: %s", stream, peer->rdma.trouble.text);
    else if (health == MKV_UP)
        snprintf(text, cap, "rdma %s%s%s", peer->link_text,
                 why[0] != '\0' ? ", but " : "", why);
}

void mkv_peer_describe(mkv_peer *peer, char *text, size_t cap)
{
    char link[512];
    pthread_mutex_lock(&peer->lock);
    int health = atomic_load(&peer->breaker.health);
    bool is_strange = peer->calls_itself[0] != '\0';
    describe_link(peer, link, sizeof link);
    if (health == MKV_DOWN)
        snprintf(text, cap, "down: %s", peer->breaker.trouble.text);
    else if (health == MKV_NEW)
        snprintf(text, cap, "not tried yet");
    else
        snprintf(text, cap, "up%s%s%s%s%s", is_strange || link[0] != '\0' ? ": " : "",
                 is_strange ? "calls itself " : "", peer->calls_itself,
                 is_strange && link[0] != '\0' ? "; " : "", link);
    pthread_mutex_unlock(&peer->lock);
}
