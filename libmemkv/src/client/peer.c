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

#define RETRY_MIN_MS 100
#define RETRY_MAX_MS 5000
#define RETRY_REFUSED_MS 30000 /* a wrong key does not mend itself */

static int fill_random(void *dst, size_t len)
{
    return getrandom(dst, len, 0) == (ssize_t)len ? MEMKV_OK : MEMKV_ERR_SYSTEM;
}

int mkv_peer_init(mkv_peer *peer, const memkv_address *address,
                  const mkv_peer_config *config, memkv_error *err)
{
    memset(peer, 0, sizeof *peer);
    bool is_name = false;
    int rc = mkv_endpoint_parse(address->address, &peer->endpoint, &is_name, err);
    if (rc != MEMKV_OK && !is_name)
        return rc;
    peer->is_resolved = rc == MEMKV_OK;
    peer->config = config;
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

static void close_idle(mkv_peer *peer)
{
    while (peer->idle != NULL) {
        mkv_conn *conn = peer->idle;
        peer->idle = conn->next;
        (*(conn->is_control ? &peer->n_control : &peer->n_payload))--;
        mkv_conn_close(conn);
    }
}

void mkv_peer_fini(mkv_peer *peer)
{
    close_idle(peer);
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

static void become_up(mkv_peer *peer)
{
    peer->state = MKV_PEER_UP;
    peer->failures = 0;
}

static void become_down(mkv_peer *peer, const memkv_error *why)
{
    uint32_t shift = peer->failures < 6 ? peer->failures : 6;
    int64_t wait_ms = RETRY_MIN_MS << shift;
    if (wait_ms > RETRY_MAX_MS)
        wait_ms = RETRY_MAX_MS;
    if (why->status == MEMKV_ERR_AUTH || why->status == MEMKV_ERR_VERSION)
        wait_ms = RETRY_REFUSED_MS;
    uint16_t jitter = 0; /* up to a half more, so that clients do not come in step */
    fill_random(&jitter, sizeof jitter);
    wait_ms += wait_ms * jitter / (2 * UINT16_MAX);
    peer->state = MKV_PEER_DOWN;
    peer->trouble = *why;
    peer->failures++;
    peer->retry_ns = mkv_now_ns() + wait_ms * MKV_NS_PER_MS;
    close_idle(peer);
    wake_all(peer);
}

void mkv_peer_describe(mkv_peer *peer, char *text, size_t cap)
{
    pthread_mutex_lock(&peer->lock);
    if (peer->state == MKV_PEER_DOWN)
        snprintf(text, cap, "down: %s", peer->trouble.text);
    else
        snprintf(text, cap, "%s", peer->state == MKV_PEER_UP ? "up" : "not tried yet");
    pthread_mutex_unlock(&peer->lock);
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

/* Assumes the lock, and that the endpoint is resolved. */
static int dial(mkv_peer *peer, bool is_control, mkv_conn **out, memkv_error *err)
{
    mkv_identity self = peer->config->self;
    int rc = fill_random(self.nonce, sizeof self.nonce);
    if (rc != MEMKV_OK)
        return mkv_fail(err, rc, 0, "no random bytes for the handshake");
    int64_t deadline_ns =
        mkv_now_ns() + peer->config->connect_timeout_ms * MKV_NS_PER_MS;
    mkv_peer_count(peer, MKV_DIALS, 1);
    rc = mkv_conn_dial(&peer->endpoint, &self, deadline_ns, out, err);
    if (rc != MEMKV_OK)
        return rc;
    (*out)->is_control = is_control;
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
    mkv_conn *conn = take_idle(peer, is_control);
    if (conn == NULL && peer->state == MKV_PEER_DOWN) {
        rc = peer->trouble.status;
    } else if (conn == NULL) {
        uint32_t n = is_control ? peer->n_control : peer->n_payload;
        uint32_t most = is_control ? 1 : peer->config->connections;
        memkv_error err;
        rc = MEMKV_ERR_BUSY;
        if (n < most && peer->is_resolved) {
            rc = dial(peer, is_control, &conn, &err);
            if (rc != MEMKV_OK) {
                become_down(peer, &err);
            }
        }
        if (rc == MEMKV_ERR_BUSY && waiter != NULL)
            stand_in_line(peer, waiter);
    }
    pthread_mutex_unlock(&peer->lock);
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
    pthread_mutex_unlock(&peer->lock);
}

/* Assumes the lock. */
static void drop(mkv_peer *peer, mkv_conn *conn)
{
    (*(conn->is_control ? &peer->n_control : &peer->n_payload))--;
    mkv_conn_close(conn);
}

void mkv_peer_give_back(mkv_peer *peer, mkv_conn *conn)
{
    pthread_mutex_lock(&peer->lock);
    bool is_dial = !conn->was_open && conn->session.reason == MEMKV_OK;
    bool is_spare = conn->is_control ? peer->n_control > 1
                                     : peer->n_payload > peer->config->connections;
    if ((is_dial || mkv_conn_is_quiet(conn)) && !is_spare) {
        conn->next = peer->idle;
        peer->idle = conn;
    } else {
        drop(peer, conn);
    }
    wake_all(peer);
    pthread_mutex_unlock(&peer->lock);
}

void mkv_peer_opened(mkv_peer *peer)
{
    pthread_mutex_lock(&peer->lock);
    become_up(peer);
    pthread_mutex_unlock(&peer->lock);
}

void mkv_peer_failed(mkv_peer *peer, mkv_conn *conn, const memkv_error *why)
{
    bool was_open = conn->was_open;
    pthread_mutex_lock(&peer->lock);
    drop(peer, conn);
    if (was_open) {
        mkv_peer_count(peer, MKV_DISCONNECTS, 1);
        close_idle(peer);
        wake_all(peer);
    } else {
        become_down(peer, why);
    }
    pthread_mutex_unlock(&peer->lock);
}

/* ---- tending ----------------------------------------------------------------------- */

static bool wants_dial(const mkv_peer *peer)
{
    if (peer->n_control > 0)
        return false;
    return peer->state != MKV_PEER_DOWN || mkv_now_ns() >= peer->retry_ns;
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
    pthread_mutex_unlock(&peer->lock);
}

/* Takes a dial that nobody waits for one step further. */
static void advance(mkv_peer *peer, mkv_conn *conn)
{
    memkv_error err;
    int rc = mkv_conn_advance(conn, &err);
    if (rc == MEMKV_OK && !mkv_conn_is_open(conn) &&
        mkv_now_ns() > conn->dial_deadline_ns)
        rc = mkv_fail(&err, MEMKV_ERR_UNREACHABLE, 0, "%s did not answer within %d ms",
                      peer->address, peer->config->connect_timeout_ms);
    if (rc != MEMKV_OK) {
        mkv_peer_failed(peer, conn, &err);
        return;
    }
    if (mkv_conn_is_open(conn))
        mkv_peer_opened(peer);
    mkv_peer_give_back(peer, conn);
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

void mkv_peer_tend(mkv_peer *peer)
{
    pthread_mutex_lock(&peer->lock);
    bool wants = wants_dial(peer), is_resolved = peer->is_resolved;
    pthread_mutex_unlock(&peer->lock);
    if (wants && !is_resolved)
        resolve(peer);
    pthread_mutex_lock(&peer->lock);
    mkv_conn *conn = take_dial(peer);
    memkv_error err;
    if (conn == NULL && peer->is_resolved && wants_dial(peer) &&
        dial(peer, true, &conn, &err) != MEMKV_OK)
        become_down(peer, &err);
    pthread_mutex_unlock(&peer->lock);
    if (conn != NULL)
        advance(peer, conn);
}

static int finish_dial(mkv_conn *conn, int64_t deadline_ns, memkv_error *err)
{
    for (;;) {
        int rc = mkv_conn_advance(conn, err);
        if (rc != MEMKV_OK || mkv_conn_is_open(conn))
            return rc;
        int64_t left_ns = deadline_ns - mkv_now_ns();
        if (left_ns <= 0)
            return mkv_fail(err, MEMKV_ERR_TIMEOUT, 0, "no answer within the time given");
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
    pthread_mutex_lock(&peer->lock);
    mkv_conn *conn = NULL;
    if (rc == MEMKV_OK) {
        peer->endpoint = endpoint;
        peer->is_resolved = true;
        rc = dial(peer, true, &conn, &why);
    }
    if (rc != MEMKV_OK)
        become_down(peer, &why);
    pthread_mutex_unlock(&peer->lock);
    if (rc == MEMKV_OK) {
        rc = finish_dial(conn, deadline_ns, &why);
        if (rc != MEMKV_OK)
            mkv_peer_failed(peer, conn, &why);
    }
    if (rc != MEMKV_OK) {
        if (err != NULL)
            *err = why;
        return rc;
    }
    mkv_peer_opened(peer);
    *out = conn;
    return MEMKV_OK;
}
