/* test_rdma_hostile.c: a server and a client that lies about its memory, attaches at the
 * wrong time, or vanishes while the server moves bytes: its items fail, its connection
 * lives if it may, and nobody else notices.  Without an argument on the fake verbs
 * library; with one, what takes none of its script on that library's devices.
 * SPDX-License-Identifier: Apache-2.0 */
#include "rdma_world.h"
#include "wire_peer.h"

#include <stdatomic.h>

#include "net/rdma.h"

#define MIB ((size_t)1 << 20)
#define MEMORY (UINT64_C(256) << 20)
#define RECEIVES 32

typedef struct liar {
    wire_peer peer;
    mkv_rdma *rdma;
    mkv_memory *memory;
    mkv_link *link;
    uint8_t *bytes; /* 8 MiB */
    uint32_t rkey;
} liar;

/* The status of the server's answer to an RDMA frame. */
static int attach(liar *l)
{
    mkv_rdma_params own, other;
    size_t len;
    mkv_frame frame = {
        .kind = MKV_RDMA, .budget_ms = 60000, .table_len = MKV_PARAMS_LEN};
    mkv_link_close(l->link);
    CHECK_EQ(mkv_link_open(l->rdma, l->peer.fd, NULL, RECEIVES, &l->link, &own, NULL),
             MEMKV_OK);
    CHECK_EQ(mkv_rdma_params_encode(&own, l->peer.control + MKV_PREFIX_LEN,
                                    MKV_PARAMS_LEN, &len),
             MEMKV_OK);
    peer_send(&l->peer, &frame, NULL, 0);
    CHECK(peer_reply(&l->peer));
    if (l->peer.session.frame.status != MEMKV_OK)
        return l->peer.session.frame.status;
    CHECK_EQ(mkv_rdma_params_decode(l->peer.table, MKV_PARAMS_LEN, &other), MEMKV_OK);
    CHECK_EQ(mkv_link_connect(l->link, &other, NULL), MEMKV_OK);
    l->rkey = mkv_link_rkey(l->link, l->memory);
    return MEMKV_OK;
}

static liar liar_open(const host *h)
{
    liar l = {.link = NULL};
    CHECK_EQ(peer_open(&l.peer, h->address, "", NULL), MEMKV_OK);
    CHECK_EQ(mkv_rdma_open(verbs_library, NULL, &l.rdma, NULL), MEMKV_OK);
    l.bytes = malloc(8 * MIB);
    CHECK(l.bytes != NULL);
    memset(l.bytes, 1, 8 * MIB);
    CHECK_EQ(mkv_memory_register(l.rdma, l.bytes, 8 * MIB, true, &l.memory, NULL),
             MEMKV_OK);
    return l;
}

static void liar_close(liar *l)
{
    mkv_link_close(l->link);
    peer_close(&l->peer);
    mkv_memory_release(l->memory);
    mkv_rdma_close(l->rdma);
    free(l->bytes);
}

static mkv_request remote(const liar *l, const char *key, size_t len)
{
    return (mkv_request){.key = (const uint8_t *)key,
                         .key_len = (uint32_t)strlen(key),
                         .flags = MKV_ITEM_REMOTE,
                         .length = len,
                         .address = (uintptr_t)l->bytes,
                         .rkey = l->rkey};
}

/* The status of one remote item. */
static int ask(liar *l, uint8_t kind, const mkv_request *item)
{
    mkv_reply row;
    peer_request(&l->peer, kind, item, 1, 60000, NULL, 0);
    CHECK(peer_reply(&l->peer));
    CHECK_EQ(l->peer.session.frame.status, MEMKV_OK);
    CHECK_EQ(peer_rows(&l->peer, &row, 1), 1);
    return row.status;
}

static void test_a_wrong_key_or_address_fails_its_item_alone(void)
{
    host h = host_open(MEMKV_TRANSPORT_RDMA, MEMORY);
    liar l = liar_open(&h);
    CHECK_EQ(attach(&l), MEMKV_OK);
    mkv_request good = remote(&l, "key", 4 * MIB);
    CHECK_EQ(ask(&l, MKV_PUT, &good), MEMKV_OK);
    for (int i = 0; i < 4; i++) {
        uint8_t kind = i % 2 == 0 ? MKV_GET : MKV_PUT;
        mkv_request bad = remote(&l, i % 2 == 0 ? "key" : "other", 4 * MIB);
        if (i < 2)
            bad.rkey ^= 0x5500;
        else
            bad.address += 6 * MIB;
        CHECK_EQ(ask(&l, kind, &bad), MEMKV_ERR_UNSUPPORTED);
        CHECK_EQ(ask(&l, MKV_GET, &good), MEMKV_ERR_UNSUPPORTED); /* no link any more */
        CHECK_EQ(attach(&l), MEMKV_OK);
        good.rkey = l.rkey;
        CHECK_EQ(ask(&l, MKV_GET, &good), MEMKV_OK);
        mkv_request other = remote(&l, "other", 4 * MIB);
        CHECK_EQ(ask(&l, MKV_GET, &other), MEMKV_ERR_NOT_FOUND);
    }
    liar_close(&l);
    host_close(&h);
}

static void test_remote_items_without_a_link_are_refused(void)
{
    host h = host_open(MEMKV_TRANSPORT_RDMA, MEMORY);
    liar l = liar_open(&h);
    mkv_request item = remote(&l, "key", MIB);
    CHECK_EQ(ask(&l, MKV_PUT, &item), MEMKV_ERR_UNSUPPORTED);
    CHECK_EQ(attach(&l), MEMKV_OK);
    item.rkey = l.rkey;
    CHECK_EQ(ask(&l, MKV_PUT, &item), MEMKV_OK);
    liar_close(&l);
    host_close(&h);
    h = host_open(MEMKV_TRANSPORT_TCP, MEMORY);
    l = liar_open(&h);
    CHECK_EQ(attach(&l), MEMKV_ERR_UNSUPPORTED);
    CHECK_EQ(ask(&l, MKV_PUT, &item), MEMKV_ERR_UNSUPPORTED);
    liar_close(&l);
    host_close(&h);
}

static void test_a_put_that_is_remote_in_part_stores_the_rest(void)
{
    static const uint8_t body[1000] = {1, 2, 3};
    host h = host_open(MEMKV_TRANSPORT_RDMA, MEMORY);
    liar l = liar_open(&h);
    mkv_reply rows[2];
    CHECK_EQ(attach(&l), MEMKV_OK);
    mkv_request items[] = {remote(&l, "remote", MIB),
                           remote(&l, "inline", sizeof body)};
    items[1].flags = 0;
    items[1].address = 0;
    items[1].rkey = 0;
    peer_request(&l.peer, MKV_PUT, items, 2, 60000, body, sizeof body);
    CHECK(peer_reply(&l.peer));
    CHECK_EQ(peer_rows(&l.peer, rows, 2), 2);
    CHECK_EQ(rows[0].status, MEMKV_ERR_UNSUPPORTED);
    CHECK_EQ(rows[1].status, MEMKV_OK);
    /* a GET of both kinds at once is answered in two frames */
    items[0] = remote(&l, "inline", MIB);
    items[1].length = MIB;
    peer_request(&l.peer, MKV_GET, items, 2, 60000, NULL, 0);
    uint32_t seen = 0;
    for (int i = 0; i < 2; i++) {
        CHECK(peer_reply(&l.peer));
        CHECK_EQ(peer_rows(&l.peer, rows, 2), 1);
        CHECK_EQ(rows[0].status, MEMKV_OK);
        CHECK_EQ(rows[0].flags,
                 rows[0].index == 0 ? MKV_ITEM_REMOTE : MKV_ITEM_PAYLOAD);
        seen |= 1u << rows[0].index;
    }
    CHECK_EQ(seen, 3);
    CHECK_EQ(memcmp(l.bytes, body, sizeof body), 0);
    CHECK_EQ(memcmp(l.peer.body, body, sizeof body), 0);
    liar_close(&l);
    host_close(&h);
}

static void test_attaching_again_waits_for_what_is_under_way(void)
{
    host h = host_open(MEMKV_TRANSPORT_RDMA, MEMORY);
    liar l = liar_open(&h);
    mkv_rdma_params own;
    mkv_reply row;
    size_t len;
    CHECK_EQ(attach(&l), MEMKV_OK);
    mkv_request item = remote(&l, "key", MIB);
    CHECK_EQ(ask(&l, MKV_PUT, &item), MEMKV_OK);
    script("hold");
    peer_request(&l.peer, MKV_GET, &item, 1, 60000, NULL, 0);
    const uint32_t get = l.peer.last_id;
    mkv_link *second;
    mkv_frame frame = {
        .kind = MKV_RDMA, .budget_ms = 60000, .table_len = MKV_PARAMS_LEN};
    CHECK_EQ(mkv_link_open(l.rdma, l.peer.fd, NULL, RECEIVES, &second, &own, NULL),
             MEMKV_OK);
    mkv_rdma_params_encode(&own, l.peer.control + MKV_PREFIX_LEN, MKV_PARAMS_LEN, &len);
    peer_send(&l.peer, &frame, NULL, 0);
    CHECK(peer_reply(&l.peer));
    CHECK_EQ(l.peer.session.frame.status, MEMKV_ERR_BUSY);
    script("go");
    l.peer.last_id = get;
    CHECK(peer_reply(&l.peer));
    CHECK_EQ(peer_rows(&l.peer, &row, 1), 1);
    CHECK_EQ(row.status, MEMKV_OK);
    mkv_link_close(second);
    liar_close(&l);
    host_close(&h);
}

/* Parameters of a queue pair that is not there. */
static void test_made_up_parameters_reach_nobody(void)
{
    host h = host_open(MEMKV_TRANSPORT_RDMA, MEMORY);
    liar l = liar_open(&h);
    CHECK_EQ(attach(&l), MEMKV_OK);
    mkv_link_close(l.link);
    l.link = NULL;
    mkv_request item = remote(&l, "key", MIB);
    CHECK_EQ(ask(&l, MKV_PUT, &item), MEMKV_ERR_UNSUPPORTED);
    liar_close(&l);
    host_close(&h);
}

/* What is gone before its turn comes needs no transfer, but the frame that says so waits
 * for those that do: nothing may follow a LAST one. */
static void test_the_last_frame_of_a_reply_comes_last(void)
{
    static const char *keys[] = {"a", "b", "c"};
    host h = host_open(MEMKV_TRANSPORT_RDMA, MEMORY);
    liar l = liar_open(&h);
    wire_peer other;
    mkv_request items[3];
    mkv_reply row;
    const mkv_request gone = {.key = (const uint8_t *)"c", .key_len = 1};
    CHECK_EQ(peer_open(&other, h.address, "", NULL), MEMKV_OK);
    CHECK_EQ(attach(&l), MEMKV_OK);
    for (int i = 0; i < 3; i++) {
        items[i] = remote(&l, keys[i], 4 * MIB);
        CHECK_EQ(ask(&l, MKV_PUT, &items[i]), MEMKV_OK);
    }
    script("pace 500");
    peer_request(&l.peer, MKV_GET, items, 3, 60000, NULL, 0);
    for (int waited = 0; server_stat(&h, "referenced_bytes") < 8 * MIB; waited++) {
        CHECK(waited < WAIT_MS); /* two are on their way, and the third waits */
        pause_ms(1);
    }
    CHECK_EQ(peer_ask(&other, MKV_DELETE, &gone, NULL).status, MEMKV_OK);
    for (uint32_t i = 0; i < 3; i++) {
        CHECK(peer_reply(&l.peer));
        CHECK_EQ(peer_rows(&l.peer, &row, 1), 1);
        CHECK_EQ(row.index, i);
        CHECK_EQ(row.status, i < 2 ? MEMKV_OK : MEMKV_ERR_NOT_FOUND);
        CHECK_EQ((l.peer.session.frame.flags & MKV_FRAME_LAST) != 0, i == 2);
    }
    script("reset");
    peer_close(&other);
    liar_close(&l);
    host_close(&h);
}

static void test_a_client_that_vanishes_leaves_nothing(void)
{
    host h = host_open(MEMKV_TRANSPORT_RDMA, MEMORY);
    const fake_verbs_counts before = counts();
    liar first = liar_open(&h);
    CHECK_EQ(attach(&first), MEMKV_OK);
    mkv_request stored = remote(&first, "key", 8 * MIB);
    CHECK_EQ(ask(&first, MKV_PUT, &stored), MEMKV_OK);
    liar_close(&first);
    const uint64_t used = server_stat(&h, "used_bytes");
    for (int i = 0; i < 10; i++) {
        liar l = liar_open(&h);
        CHECK_EQ(attach(&l), MEMKV_OK);
        script("pace 500");
        const bool puts = i % 2 == 0;
        mkv_request item = remote(&l, puts ? "other" : "key", 8 * MIB);
        for (int k = 0; k < 3; k++)
            peer_request(&l.peer, puts ? MKV_PUT : MKV_GET, &item, 1, 60000, NULL, 0);
        pause_ms(i);
        liar_close(&l);
        script("reset");
    }
    for (int waited = 0; counts().cqs > before.cqs; waited++) {
        CHECK(waited < WAIT_MS);
        pause_ms(1);
    }
    for (int waited = 0; server_stat(&h, "used_bytes") > used; waited++) {
        CHECK(waited < WAIT_MS);
        pause_ms(1);
    }
    CHECK_EQ(memkv_server_drain(h.server, WAIT_MS), MEMKV_OK);
    CHECK_EQ(server_stat(&h, "referenced_bytes"), 0);
    CHECK_EQ(server_stat(&h, "arriving_bytes"), 0);
    CHECK_EQ(counts().qps, before.qps);
    host_close(&h);
}

/* ---- beside a good client -------------------------------------------------------------- */

typedef struct bystander {
    guest g;
    atomic_bool is_over;
    atomic_uint n; /* values that it stored and had back */
} bystander;

static void *store_and_load(void *arg)
{
    bystander *b = arg;
    const guest *g = &b->g;
    for (uint32_t i = 0; !atomic_load(&b->is_over); i++) {
        fill(g->arena, MIB, i);
        CHECK_EQ(run_one(g, MEMKV_OP_PUT, "good", g->arena, MIB, WAIT_MS), MEMKV_OK);
        memset(g->arena, 0xdb, MIB);
        CHECK_EQ(run_one(g, MEMKV_OP_GET, "good", g->arena, MIB, WAIT_MS), MEMKV_OK);
        CHECK(is_filled(g->arena, MIB, i));
        CHECK_EQ(run_one(g, MEMKV_OP_DELETE, "good", NULL, 0, WAIT_MS), MEMKV_OK);
        atomic_fetch_add(&b->n, 1);
    }
    return NULL;
}

static void tell_lies(liar *l, bystander *b)
{
    for (int i = 0; i < 40 || atomic_load(&b->n) < 10; i++) {
        CHECK_EQ(attach(l), MEMKV_OK);
        mkv_request bad = remote(l, i % 2 == 0 ? "key" : "other", 4 * MIB);
        if (i % 4 < 2)
            bad.rkey ^= 0x5500;
        else
            bad.address += 6 * MIB;
        CHECK_EQ(ask(l, i % 2 == 0 ? MKV_GET : MKV_PUT, &bad), MEMKV_ERR_UNSUPPORTED);
    }
}

static void test_a_client_that_lies_disturbs_no_other(void)
{
    host h = host_open(MEMKV_TRANSPORT_RDMA, MEMORY);
    bystander b = {.g = guest_open(&h, MEMKV_TRANSPORT_RDMA)};
    pthread_t thread;
    warm_up(&b.g);
    const uint64_t inline_before = counter(&b.g, "bytes_inline");
    liar l = liar_open(&h);
    CHECK_EQ(attach(&l), MEMKV_OK);
    mkv_request good = remote(&l, "key", 4 * MIB);
    CHECK_EQ(ask(&l, MKV_PUT, &good), MEMKV_OK);
    CHECK_EQ(pthread_create(&thread, NULL, store_and_load, &b), 0);
    tell_lies(&l, &b);
    atomic_store(&b.is_over, true);
    pthread_join(thread, NULL);
    CHECK_EQ(counter(&b.g, "links_broken"), 0);
    CHECK_EQ(counter(&b.g, "disconnects"), 0);
    CHECK_EQ(counter(&b.g, "bytes_inline"), inline_before);
    liar_close(&l);
    guest_close(&b.g);
    host_close(&h);
}

int main(int argc, char **argv)
{
    load_fake();
    const bool is_fake = argc < 2;
    if (!is_fake)
        verbs_library = argv[1];
    test_a_wrong_key_or_address_fails_its_item_alone();
    test_remote_items_without_a_link_are_refused();
    test_a_put_that_is_remote_in_part_stores_the_rest();
    test_made_up_parameters_reach_nobody();
    test_a_client_that_vanishes_leaves_nothing();
    test_a_client_that_lies_disturbs_no_other();
    if (!is_fake)
        return 0;
    test_attaching_again_waits_for_what_is_under_way();
    test_the_last_frame_of_a_reply_comes_last();
    return 0;
}
