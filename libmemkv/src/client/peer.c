/* peer.c: lending, dialling and giving up on one server.
 * SPDX-License-Identifier: Apache-2.0 */
#include "client/peer.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <unistd.h>

#include "net/clock.h"
#include "status.h"

static int fill_random(void *dst, size_t len)
{
    return getrandom(dst, len, 0) == (ssize_t)len ? MEMKV_OK : MEMKV_ERR_SYSTEM;
}

int mkv_peer_init(mkv_peer *peer, const memkv_address *address,
                  const mkv_peer_config *config, memkv_error *err)
{
    memset(peer, 0, sizeof *peer);
    bool is_name = false;
    if (address->address == NULL)
        return mkv_fail(err, MEMKV_ERR_INVALID, 0, "servers: an address is missing");
    int rc = mkv_endpoint_parse(address->address, &peer->endpoint, &is_name, err);
    if (rc != MEMKV_OK && !is_name)
        return rc;
    peer->is_name = is_name;
    peer->is_resolved = rc == MEMKV_OK;
    peer->config = config;
    peer->luck = config->self.id;
    peer->address = strdup(address->address);
    peer->name = strdup(address->name != NULL ? address->name : address->address);
    if (peer->address == NULL || peer->name == NULL) {
        free((char *)peer->address);
        free((char *)peer->name);
        return mkv_fail(err, MEMKV_ERR_NO_MEMORY, 0, "no memory for a server");
    }
    pthread_mutex_init(&peer->lock, NULL);
    return MEMKV_OK;
}

/* Assumes the lock. */
static void drop(mkv_peer *peer, mkv_conn *conn)
{
    (*(conn->is_control ? &peer->n_control : &peer->n_payload))--;
    conn->next = peer->doomed;
    peer->doomed = conn;
}

/* What was dropped under the lock is closed when this returns. */
static void unlock(mkv_peer *peer)
{
    mkv_conn *conn = peer->doomed;
    peer->doomed = NULL;
    pthread_mutex_unlock(&peer->lock);
    while (conn != NULL) {
        mkv_conn *next = conn->next;
        mkv_conn_close(conn);
        conn = next;
    }
}

static void drop_idle(mkv_peer *peer)
{
    while (peer->idle != NULL) {
        mkv_conn *conn = peer->idle;
        peer->idle = conn->next;
        drop(peer, conn);
    }
}

void mkv_peer_fini(mkv_peer *peer)
{
    pthread_mutex_lock(&peer->lock);
    drop_idle(peer);
    unlock(peer);
    pthread_mutex_destroy(&peer->lock);
    free((char *)peer->address);
    free((char *)peer->name);
}

/* ---- state ------------------------------------------------------------------------- */

static void wake(mkv_waiter *waiter)
{
    uint64_t one = 1;
    ssize_t n = write(waiter->fd, &one, sizeof one);
    (void)n; /* only full after 2^64 - 2 wakes */
}

static void wake_all(mkv_peer *peer)
{
    while (peer->waiters != NULL) {
        mkv_waiter *waiter = peer->waiters;
        peer->waiters = waiter->next;
        wake(waiter);
    }
}

/* Good enough to keep clients out of step, and without a system call.  Assumes the
 * lock. */
static uint16_t chance(mkv_peer *peer)
{
    peer->luck = peer->luck * UINT64_C(6364136223846793005) + 1;
    return (uint16_t)(peer->luck >> 48);
}

/* Nobody has to wait for it any longer, and its connections are no use.  Assumes the
 * lock. */
static void clear_out(mkv_peer *peer)
{
    drop_idle(peer);
    wake_all(peer);
}

/* Assumes the lock. */
static void went_down(mkv_peer *peer)
{
    clear_out(peer);
    if (peer->is_name) /* it may have moved */
        peer->is_resolved = false;
}

/* Assumes the lock. */
static void become_down(mkv_peer *peer, const memkv_error *why)
{
    if (why->status == MEMKV_ERR_SYSTEM || why->status == MEMKV_ERR_NO_MEMORY)
        return; /* our own trouble */
    mkv_breaker_failed(&peer->breaker, mkv_now_ns(), why, chance(peer));
    went_down(peer);
}

/* Where servers have names, a wrong address shows here.  Assumes the lock. */
static void note_name(mkv_peer *peer, const mkv_conn *conn)
{
    const uint8_t *label = conn->session.peer.label;
    uint32_t len = conn->session.peer.label_len;
    /* a server without a name calls itself by some address */
    bool is_expected =
        strcmp(peer->name, peer->address) == 0 || memchr(label, ':', len) != NULL ||
        (len == strlen(peer->name) && memcmp(label, peer->name, len) == 0);
    uint32_t n = 0;
    for (; !is_expected && n < len; n++)
        peer->calls_itself[n] =
            label[n] >= ' ' && label[n] <= '~' ? (char)label[n] : '?';
    peer->calls_itself[n] = '\0';
}

/* What came of the attempt to have a link, if there was one.  Assumes the lock. */
static void note_link(mkv_peer *peer, const mkv_conn *conn)
{
    peer->features = conn->session.peer.features;
    if (conn->link != NULL) {
        /* a link that stands has moved nothing yet: it does not end a silence */
        if (atomic_load(&peer->rdma.health) != MKV_UP)
            mkv_breaker_opened(&peer->rdma, mkv_now_ns(), UINT64_MAX);
        snprintf(peer->link_text, sizeof peer->link_text, "%s",
                 mkv_link_describe(conn->link));
    } else if (conn->no_link.status != MEMKV_OK) {
        mkv_breaker_failed(&peer->rdma, mkv_now_ns(), &conn->no_link, chance(peer));
    }
}

void mkv_peer_opened(mkv_peer *peer, const mkv_conn *conn)
{
    pthread_mutex_lock(&peer->lock);
    mkv_breaker_opened(&peer->breaker, mkv_now_ns(), conn->session.peer.uptime_ms);
    peer->is_resolved = true; /* the address was right, whatever others made of it */
    note_name(peer, conn);
    note_link(peer, conn);
    unlock(peer);
}

void mkv_peer_answered(mkv_peer *peer, int64_t took_ns)
{
    pthread_mutex_lock(&peer->lock);
    if (mkv_breaker_answered(&peer->breaker, mkv_now_ns(), took_ns, chance(peer)))
        went_down(peer);
    unlock(peer);
}

void mkv_peer_silent(mkv_peer *peer, int64_t waited_ns)
{
    int64_t heard_ns = atomic_load_explicit(&peer->heard_ns, memory_order_relaxed);
    if (mkv_now_ns() - heard_ns < waited_ns / 2)
        return;
    pthread_mutex_lock(&peer->lock);
    if (mkv_breaker_silent(&peer->breaker, mkv_now_ns(), waited_ns, chance(peer)))
        went_down(peer);
    unlock(peer);
}

void mkv_peer_link_worked(mkv_peer *peer)
{
    pthread_mutex_lock(&peer->lock);
    mkv_breaker_answered(&peer->rdma, mkv_now_ns(), 0, 0);
    unlock(peer);
}

void mkv_peer_link_failed(mkv_peer *peer, const memkv_error *why)
{
    mkv_peer_count(peer, MKV_LINKS_BROKEN, 1);
    pthread_mutex_lock(&peer->lock);
    mkv_breaker_failed(&peer->rdma, mkv_now_ns(), why, chance(peer));
    unlock(peer);
}

void mkv_peer_link_silent(mkv_peer *peer, int64_t waited_ns)
{
    pthread_mutex_lock(&peer->lock);
    if (mkv_breaker_silent(&peer->rdma, mkv_now_ns(), waited_ns, chance(peer))) {
        mkv_peer_count(peer, MKV_LINKS_BROKEN, 1);
        mkv_fail(&peer->rdma.trouble, MEMKV_ERR_UNREACHABLE, 0,
                 "%s: nothing came or went by it for %d ms", peer->link_text,
                 (int)(waited_ns / MKV_NS_PER_MS));
    }
    unlock(peer);
}

void mkv_peer_leaving(mkv_peer *peer)
{
    memkv_error why;
    mkv_fail(&why, MEMKV_ERR_DRAINING, 0, "the server is about to leave");
    pthread_mutex_lock(&peer->lock);
    if (mkv_breaker_is_live(&peer->breaker))
        become_down(peer, &why);
    unlock(peer);
}

bool mkv_peer_is_live(const mkv_peer *peer)
{
    return mkv_breaker_is_live(&peer->breaker);
}

bool mkv_peer_is_back(mkv_peer *peer)
{
    pthread_mutex_lock(&peer->lock);
    bool is_back = mkv_breaker_is_back(&peer->breaker, mkv_now_ns());
    unlock(peer);
    return is_back;
}

/* ---- lending ----------------------------------------------------------------------- */

/* The first idle one of the kind, an open one before one that is being dialled. */
static mkv_conn *take_idle(mkv_peer *peer, bool is_control)
{
    mkv_conn **found = NULL;
    for (mkv_conn **at = &peer->idle; *at != NULL; at = &(*at)->next)
        if ((*at)->is_control == is_control &&
            (found == NULL || (!mkv_conn_is_open(*found) && mkv_conn_is_open(*at))))
            found = at;
    if (found == NULL)
        return NULL;
    mkv_conn *conn = *found;
    *found = conn->next;
    conn->next = NULL;
    return conn;
}

/* Has a payload connection make a link, if it lacks one and it is time to try.  Assumes the
 * lock. */
static void link_up(mkv_peer *peer, mkv_conn *conn)
{
    mkv_rdma *rdma = mkv_regions_rdma(peer->config->regions);
    int64_t now = mkv_now_ns(), patience = peer->config->connect_timeout_ms;
    bool has_rdma =
        !conn->was_open || (conn->session.peer.features & MKV_FEATURE_RDMA) != 0;
    if (rdma == NULL || !has_rdma || conn->is_control || conn->link != NULL ||
        conn->is_attaching)
        return;
    if (!conn->is_strict && !mkv_breaker_may_dial(&peer->rdma, now))
        return;
    if (!mkv_breaker_is_live(&peer->rdma)) /* one tries, the others wait */
        peer->rdma.retry_ns = now + patience * MKV_NS_PER_MS;
    mkv_conn_attach(conn, rdma, now + patience * MKV_NS_PER_MS);
}

/* Is all known that a dial needs?  Assumes the lock. */
static bool can_dial(const mkv_peer *peer)
{
    return peer->is_resolved && (peer->config->transport != MEMKV_TRANSPORT_RDMA ||
                                 atomic_load(&peer->config->regions->is_tried));
}

static int check_strict(const mkv_peer *peer, memkv_error *err)
{
    char why[sizeof err->text];
    if (peer->config->transport != MEMKV_TRANSPORT_RDMA ||
        mkv_regions_rdma(peer->config->regions) != NULL)
        return MEMKV_OK;
    mkv_regions_describe(peer->config->regions, why, sizeof why);
    return mkv_fail(err, MEMKV_ERR_UNREACHABLE, 0, "transport rdma: %.200s", why);
}

/* Assumes the lock, and can_dial. */
static int dial(mkv_peer *peer, bool is_control, mkv_conn **out, memkv_error *err)
{
    mkv_identity self = peer->config->self;
    int rc = check_strict(peer, err);
    if (rc != MEMKV_OK)
        return rc;
    rc = fill_random(self.nonce, sizeof self.nonce);
    if (rc != MEMKV_OK)
        return mkv_fail(err, rc, 0, "no random bytes for the handshake");
    int64_t deadline_ns =
        mkv_now_ns() + peer->config->connect_timeout_ms * MKV_NS_PER_MS;
    mkv_peer_count(peer, MKV_DIALS, 1);
    rc = mkv_conn_dial(&peer->endpoint, &self, deadline_ns, out, err);
    if (rc != MEMKV_OK)
        return rc;
    (*out)->is_control = is_control;
    (*out)->is_strict = peer->config->transport == MEMKV_TRANSPORT_RDMA;
    link_up(peer, *out);
    (*(is_control ? &peer->n_control : &peer->n_payload))++;
    return MEMKV_OK;
}

static void stand_in_line(mkv_peer *peer, mkv_waiter *waiter)
{
    mkv_waiter **at = &peer->waiters;
    for (; *at != NULL; at = &(*at)->next)
        if (*at == waiter)
            return;
    waiter->next = NULL;
    *at = waiter;
}

int mkv_peer_borrow(mkv_peer *peer, bool is_control, mkv_waiter *waiter, mkv_conn **out)
{
    pthread_mutex_lock(&peer->lock);
    int rc = MEMKV_OK;
    mkv_conn *conn = NULL;
    if (mkv_peer_is_live(peer))
        conn = take_idle(peer, is_control);
    else
        rc = peer->breaker.trouble.status;
    if (rc == MEMKV_OK && conn == NULL) {
        uint32_t n = is_control ? peer->n_control : peer->n_payload;
        uint32_t most = is_control ? 1 : peer->config->connections;
        memkv_error err;
        rc = MEMKV_ERR_BUSY;
        if (n < most && can_dial(peer)) {
            rc = dial(peer, is_control, &conn, &err);
            if (rc != MEMKV_OK)
                become_down(peer, &err);
        }
        if (rc == MEMKV_ERR_BUSY && waiter != NULL)
            stand_in_line(peer, waiter);
    }
    if (rc == MEMKV_OK && mkv_conn_is_open(conn))
        link_up(peer, conn);
    unlock(peer);
    if (rc == MEMKV_OK)
        *out = conn;
    return rc;
}

void mkv_peer_unwait(mkv_peer *peer, mkv_waiter *waiter)
{
    pthread_mutex_lock(&peer->lock);
    for (mkv_waiter **at = &peer->waiters; *at != NULL; at = &(*at)->next)
        if (*at == waiter) {
            *at = waiter->next;
            break;
        }
    unlock(peer);
}

void mkv_peer_give_back(mkv_peer *peer, mkv_conn *conn)
{
    pthread_mutex_lock(&peer->lock);
    bool is_dial = mkv_conn_is_dialling(conn);
    bool is_spare = conn->is_control ? peer->n_control > 1
                                     : peer->n_payload > peer->config->connections;
    /* of a server that is down only a probe is kept: it counts as one */
    bool is_fit = mkv_conn_is_quiet(conn) && mkv_peer_is_live(peer);
    if ((is_dial || is_fit) && !is_spare) {
        mkv_conn **last = &peer->idle; /* the oldest first: every dial gets its turn */
        while (*last != NULL)
            last = &(*last)->next;
        conn->next = NULL;
        *last = conn;
    } else {
        drop(peer, conn);
    }
    wake_all(peer);
    unlock(peer);
}

void mkv_peer_failed(mkv_peer *peer, mkv_conn *conn, const memkv_error *why)
{
    bool was_open = conn->was_open;
    pthread_mutex_lock(&peer->lock);
    if (conn->is_attaching) /* the next one does without */
        mkv_breaker_failed(&peer->rdma, mkv_now_ns(), why, chance(peer));
    drop(peer, conn);
    if (was_open) {
        mkv_peer_count(peer, MKV_DISCONNECTS, 1);
        clear_out(peer);
    } else {
        become_down(peer, why);
    }
    unlock(peer);
}

/* ---- tending ----------------------------------------------------------------------- */

static bool wants_dial(const mkv_peer *peer)
{
    return peer->n_control == 0 && mkv_breaker_may_dial(&peer->breaker, mkv_now_ns());
}

static void resolve(mkv_peer *peer)
{
    mkv_endpoint endpoint;
    memkv_error err;
    int rc = mkv_endpoint_resolve(peer->address, &endpoint, &err);
    pthread_mutex_lock(&peer->lock);
    if (rc == MEMKV_OK) {
        peer->endpoint = endpoint;
        peer->is_resolved = true;
        wake_all(peer);
    } else {
        become_down(peer, &err);
    }
    unlock(peer);
}

/* A connection that its server has closed while nobody used it.  Assumes the lock. */
static void drop_dead(mkv_peer *peer)
{
    mkv_conn **at = &peer->idle;
    while (*at != NULL) {
        mkv_conn *conn = *at;
        struct pollfd fd = {.fd = conn->fd, .events = POLLIN};
        if (mkv_conn_is_open(conn) && poll(&fd, 1, 0) > 0) {
            *at = conn->next;
            drop(peer, conn);
        } else {
            at = &conn->next;
        }
    }
}

/* A first payload connection, so that its link is there before a batch wants it. */
static bool wants_link(const mkv_peer *peer)
{
    return peer->n_payload == 0 && atomic_load(&peer->breaker.health) == MKV_UP &&
           mkv_regions_rdma(peer->config->regions) != NULL &&
           (peer->features & MKV_FEATURE_RDMA) != 0 &&
           mkv_breaker_may_dial(&peer->rdma, mkv_now_ns());
}

/* An idle connection that could have a link and has none.  Assumes the lock. */
static mkv_conn *take_unlinked(mkv_peer *peer)
{
    for (mkv_conn **at = &peer->idle; *at != NULL; at = &(*at)->next) {
        mkv_conn *conn = *at;
        if (mkv_conn_is_open(conn))
            link_up(peer, conn);
        if (conn->is_attaching) {
            *at = conn->next;
            return conn;
        }
    }
    return NULL;
}

/* Takes a dial that nobody waits for one step further; false: it is over. */
static bool advance(mkv_peer *peer, mkv_conn *conn)
{
    memkv_error err;
    int rc = mkv_conn_advance(conn, &err);
    if (rc == MEMKV_OK && mkv_conn_is_dialling(conn) &&
        mkv_now_ns() > conn->dial_deadline_ns)
        rc = mkv_fail(&err, MEMKV_ERR_UNREACHABLE, 0, "%s did not answer within %d ms",
                      peer->address, peer->config->connect_timeout_ms);
    if (rc != MEMKV_OK) {
        mkv_peer_failed(peer, conn, &err);
        return false;
    }
    bool is_open = mkv_conn_is_open(conn);
    if (is_open)
        mkv_peer_opened(peer, conn);
    mkv_peer_give_back(peer, conn);
    return !is_open;
}

static mkv_conn *take_dial(mkv_peer *peer)
{
    for (mkv_conn **at = &peer->idle; *at != NULL; at = &(*at)->next)
        if (!mkv_conn_is_open(*at)) {
            mkv_conn *conn = *at;
            *at = conn->next;
            return conn;
        }
    return NULL;
}

bool mkv_peer_tend(mkv_peer *peer)
{
    pthread_mutex_lock(&peer->lock);
    drop_dead(peer);
    bool wants = wants_dial(peer), is_resolved = peer->is_resolved;
    unlock(peer);
    if (wants && !is_resolved)
        resolve(peer);
    pthread_mutex_lock(&peer->lock);
    mkv_conn *conn = take_dial(peer);
    if (conn == NULL)
        conn = take_unlinked(peer);
    bool is_control = wants_dial(peer);
    memkv_error err;
    if (conn == NULL && can_dial(peer) && (is_control || wants_link(peer)) &&
        dial(peer, is_control, &conn, &err) != MEMKV_OK)
        become_down(peer, &err);
    unlock(peer);
    return conn != NULL && advance(peer, conn);
}

static int finish_dial(mkv_conn *conn, int64_t deadline_ns, memkv_error *err)
{
    for (;;) {
        int rc = mkv_conn_advance(conn, err);
        if (rc != MEMKV_OK || mkv_conn_is_open(conn))
            return rc;
        int64_t left_ns = deadline_ns - mkv_now_ns();
        if (left_ns <= 0)
            return mkv_fail(err, MEMKV_ERR_TIMEOUT, 0,
                            "no answer within the time given");
        struct pollfd poll_fd = {.fd = conn->fd, .events = mkv_conn_events(conn)};
        poll(&poll_fd, 1, (int)(left_ns / MKV_NS_PER_MS) + 1);
    }
}

int mkv_peer_dial_now(mkv_peer *peer, int64_t deadline_ns, mkv_conn **out,
                      memkv_error *err)
{
    mkv_endpoint endpoint;
    memkv_error why;
    int rc = mkv_endpoint_resolve(peer->address, &endpoint, &why);
    if (peer->config->transport == MEMKV_TRANSPORT_RDMA)
        mkv_regions_open_devices(peer->config->regions);
    pthread_mutex_lock(&peer->lock);
    mkv_conn *conn = NULL;
    if (rc == MEMKV_OK) {
        peer->endpoint = endpoint;
        peer->is_resolved = true;
        rc = dial(peer, true, &conn, &why);
    }
    if (rc != MEMKV_OK)
        become_down(peer, &why);
    unlock(peer);
    if (rc == MEMKV_OK) {
        rc = finish_dial(conn, deadline_ns, &why);
        if (rc == MEMKV_ERR_TIMEOUT)
            mkv_peer_give_back(peer, conn); /* the dial outlives its caller */
        else if (rc != MEMKV_OK)
            mkv_peer_failed(peer, conn, &why);
    }
    if (rc != MEMKV_OK) {
        if (err != NULL)
            *err = why;
        return rc;
    }
    mkv_peer_opened(peer, conn);
    *out = conn;
    return MEMKV_OK;
}
