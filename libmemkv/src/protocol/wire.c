/* SPDX-License-Identifier: Apache-2.0
 * wire.c: prefixes and the tables of the handshake <-> bytes, as docs/wire.md lays them
 * out; items.c has the tables of items.  What encodes and what decodes is judged by the
 * same checks, so each value has one encoding.  Knows neither roles nor the order of
 * frames. */
#include "protocol/wire.h"

#include <string.h>

#include "protocol/bytes.h"

#define CLIENT_HELLO_LEN 72
#define SERVER_HELLO_LEN 72
#define PROOF_LEN 32
#define MIN_TABLE_LIMIT 65536
#define MAX_REQUESTS_LIMIT 65535
#define LIMIT_24_BITS 0xffffffu

static const uint8_t MAGIC[4] = {'M', 'E', 'K', 'V'};

/* ---- frames ---------------------------------------------------------------------- */

/* What a frame of a kind may hold, by its prefix alone. */
typedef struct frame_shape {
    uint32_t min_items, max_items;
    uint32_t min_table, max_table;
    uint64_t max_body;
} frame_shape;

static const frame_shape REQUEST_SHAPES[] = {
    [MKV_HELLO] = {0, 0, CLIENT_HELLO_LEN, CLIENT_HELLO_LEN + MEMKV_MAX_NAMESPACE, 0},
    [MKV_AUTH] = {0, 0, PROOF_LEN, PROOF_LEN, 0},
    [MKV_RDMA] = {0, 0, MKV_PARAMS_LEN, MKV_PARAMS_LEN, 0},
    [MKV_STAT] = {1, MKV_MAX_ITEMS, MKV_REQUEST_ROW, MKV_MAX_TABLE, 0},
    [MKV_GET] = {1, MKV_MAX_ITEMS, MKV_REQUEST_ROW, MKV_MAX_TABLE, 0},
    [MKV_PUT] = {1, MKV_MAX_ITEMS, MKV_REQUEST_ROW, MKV_MAX_TABLE, MEMKV_MAX_VALUE},
    [MKV_DELETE] = {1, MKV_MAX_ITEMS, MKV_REQUEST_ROW, MKV_MAX_TABLE, 0},
    [MKV_LIST] = {1, 1, MKV_REQUEST_ROW, MKV_REQUEST_ROW, 0},
    [MKV_INFO] = {0, 0, 0, 0, 0},
    [MKV_PING] = {0, 0, 0, 0, 0},
};

static const frame_shape REPLY_SHAPES[] = {
    [MKV_HELLO] = {0, 0, SERVER_HELLO_LEN + 1, SERVER_HELLO_LEN + MEMKV_MAX_NAME, 0},
    [MKV_AUTH] = {0, 0, PROOF_LEN, PROOF_LEN, 0},
    [MKV_RDMA] = {0, 0, MKV_PARAMS_LEN, MKV_PARAMS_LEN, 0},
    [MKV_STAT] = {0, MKV_MAX_ITEMS, 0, MKV_MAX_TABLE, 0},
    [MKV_GET] = {0, MKV_MAX_ITEMS, 0, MKV_MAX_TABLE, MEMKV_MAX_VALUE},
    [MKV_PUT] = {0, MKV_MAX_ITEMS, 0, MKV_MAX_TABLE, 0},
    [MKV_DELETE] = {0, MKV_MAX_ITEMS, 0, MKV_MAX_TABLE, 0},
    [MKV_LIST] = {0, MKV_MAX_ITEMS, 0, MKV_MAX_TABLE, 0},
    [MKV_INFO] = {0, 0, 0, MKV_MAX_TABLE, 0},
    [MKV_PING] = {0, 0, 0, 0, 0},
};

/* Of a kind that we do not know: it is skipped by its lengths. */
static const frame_shape ANY_SHAPE = {0, MKV_MAX_ITEMS, 0, MKV_MAX_TABLE,
                                      MEMKV_MAX_VALUE};
/* Of a reply that refuses the whole request. */
static const frame_shape EMPTY_SHAPE = {0, 0, 0, 0, 0};

static bool check_shape(const mkv_frame *frame, const frame_shape *shape)
{
    return frame->items >= shape->min_items && frame->items <= shape->max_items &&
           frame->table_len >= shape->min_table &&
           frame->table_len <= shape->max_table && frame->body_len <= shape->max_body &&
           (frame->items <= 1 || frame->body_len <= MKV_MAX_BATCH);
}

static bool check_request_frame(const mkv_frame *frame)
{
    return frame->flags == MKV_FRAME_LAST && frame->status == MEMKV_OK &&
           frame->budget_ms <= MKV_MAX_BUDGET_MS &&
           check_shape(frame, frame->kind <= MKV_PING ? &REQUEST_SHAPES[frame->kind]
                                                      : &ANY_SHAPE);
}

static bool check_reply_frame(const mkv_frame *frame)
{
    bool last = frame->flags & MKV_FRAME_LAST;
    if (frame->status > 0 || frame->status < MKV_MIN_STATUS || frame->budget_ms != 0)
        return false;
    if (frame->status != MEMKV_OK)
        return last && check_shape(frame, &EMPTY_SHAPE);
    if (frame->kind > MKV_PING)
        return check_shape(frame, &ANY_SHAPE);
    /* More frames follow only where there are items to spread over them, and each
     * brings some: a peer cannot answer for ever. */
    return (last || frame->items > 0) && check_shape(frame, &REPLY_SHAPES[frame->kind]);
}

static bool check_frame(const mkv_frame *frame)
{
    if (frame->kind == 0 || (frame->flags & ~(MKV_FRAME_REPLY | MKV_FRAME_LAST)) != 0)
        return false;
    return frame->flags & MKV_FRAME_REPLY ? check_reply_frame(frame)
                                          : check_request_frame(frame);
}

int mkv_frame_encode(const mkv_frame *frame, uint8_t *dst)
{
    if (!check_frame(frame))
        return MEMKV_ERR_INVALID;
    memcpy(dst, MAGIC, sizeof(MAGIC));
    dst[4] = MKV_VERSION;
    dst[5] = frame->kind;
    dst[6] = frame->flags;
    dst[7] = 0;
    mkv_put_u32(dst + 8, (uint32_t)frame->status);
    mkv_put_u32(dst + 12, frame->items);
    mkv_put_u32(dst + 16, frame->id);
    mkv_put_u32(dst + 20, frame->budget_ms);
    mkv_put_u32(dst + 24, frame->table_len);
    mkv_put_u32(dst + 28, 0);
    mkv_put_u64(dst + 32, frame->body_len);
    memcpy(dst + MKV_TAG_OFFSET, frame->tag, sizeof(frame->tag));
    return MEMKV_OK;
}

int mkv_frame_decode(const uint8_t *src, mkv_frame *out)
{
    if (memcmp(src, MAGIC, sizeof(MAGIC)) != 0 || src[4] != MKV_VERSION ||
        src[7] != 0 || mkv_get_u32(src + 28) != 0)
        return MEMKV_ERR_PROTOCOL;
    mkv_frame frame = {
        .kind = src[5],
        .flags = src[6],
        .status = (int32_t)mkv_get_u32(src + 8),
        .items = mkv_get_u32(src + 12),
        .id = mkv_get_u32(src + 16),
        .budget_ms = mkv_get_u32(src + 20),
        .table_len = mkv_get_u32(src + 24),
        .body_len = mkv_get_u64(src + 32),
    };
    memcpy(frame.tag, src + MKV_TAG_OFFSET, sizeof(frame.tag));
    if (!check_frame(&frame))
        return MEMKV_ERR_PROTOCOL;
    *out = frame;
    return MEMKV_OK;
}

/* ---- tables of the handshake ----------------------------------------------------- */

static bool check_limits(uint32_t max_requests, uint32_t max_table)
{
    return max_requests >= 1 && max_requests <= MAX_REQUESTS_LIMIT &&
           max_table >= MIN_TABLE_LIMIT && max_table <= MKV_MAX_TABLE;
}

static bool check_client_hello(const mkv_client_hello *hello)
{
    return hello->version_low >= 1 && hello->version_low <= hello->version_high &&
           check_limits(hello->max_requests, hello->max_table) &&
           (hello->suite != MKV_SUITE_NONE || hello->key_id == 0) &&
           hello->name_space_len <= MEMKV_MAX_NAMESPACE;
}

int mkv_client_hello_encode(const mkv_client_hello *hello, uint8_t *dst, size_t cap,
                            size_t *written)
{
    if (!check_client_hello(hello))
        return MEMKV_ERR_INVALID;
    if (cap < CLIENT_HELLO_LEN + (size_t)hello->name_space_len)
        return MEMKV_ERR_TOO_SMALL;
    memset(dst, 0, CLIENT_HELLO_LEN);
    mkv_put_u16(dst, hello->version_low);
    mkv_put_u16(dst + 2, hello->version_high);
    mkv_put_u32(dst + 4, hello->features);
    dst[8] = hello->suite;
    mkv_put_u32(dst + 12, hello->max_requests);
    mkv_put_u32(dst + 16, hello->max_table);
    mkv_put_u16(dst + 20, (uint16_t)hello->name_space_len);
    mkv_put_u64(dst + 24, hello->key_id);
    mkv_put_u64(dst + 32, hello->client_id);
    memcpy(dst + 40, hello->nonce, MKV_NONCE_LEN);
    mkv_put_bytes(dst + CLIENT_HELLO_LEN, hello->name_space, hello->name_space_len);
    *written = CLIENT_HELLO_LEN + (size_t)hello->name_space_len;
    return MEMKV_OK;
}

/* The reserved bytes that both HELLOs have at the same places. */
static bool check_hello_reserved(const uint8_t *src)
{
    return (src[9] | src[10] | src[11] | src[22] | src[23]) == 0;
}

int mkv_client_hello_decode(const uint8_t *src, size_t len, mkv_client_hello *out)
{
    if (len < CLIENT_HELLO_LEN || !check_hello_reserved(src))
        return MEMKV_ERR_PROTOCOL;
    mkv_client_hello hello = {
        .version_low = mkv_get_u16(src),
        .version_high = mkv_get_u16(src + 2),
        .features = mkv_get_u32(src + 4),
        .suite = src[8],
        .max_requests = mkv_get_u32(src + 12),
        .max_table = mkv_get_u32(src + 16),
        .key_id = mkv_get_u64(src + 24),
        .client_id = mkv_get_u64(src + 32),
        .name_space_len = mkv_get_u16(src + 20),
    };
    if (!check_client_hello(&hello) || len != CLIENT_HELLO_LEN + hello.name_space_len)
        return MEMKV_ERR_PROTOCOL;
    memcpy(hello.nonce, src + 40, MKV_NONCE_LEN);
    src += CLIENT_HELLO_LEN;
    hello.name_space = mkv_take_bytes(&src, hello.name_space_len);
    *out = hello;
    return MEMKV_OK;
}

static bool check_server_hello(const mkv_server_hello *hello)
{
    return hello->version >= 1 && check_limits(hello->max_requests, hello->max_table) &&
           hello->name_len >= 1 && hello->name_len <= MEMKV_MAX_NAME;
}

int mkv_server_hello_encode(const mkv_server_hello *hello, uint8_t *dst, size_t cap,
                            size_t *written)
{
    if (!check_server_hello(hello))
        return MEMKV_ERR_INVALID;
    if (cap < SERVER_HELLO_LEN + (size_t)hello->name_len)
        return MEMKV_ERR_TOO_SMALL;
    memset(dst, 0, SERVER_HELLO_LEN);
    mkv_put_u16(dst, hello->version);
    mkv_put_u32(dst + 4, hello->features);
    dst[8] = hello->suite;
    mkv_put_u32(dst + 12, hello->max_requests);
    mkv_put_u32(dst + 16, hello->max_table);
    mkv_put_u16(dst + 20, (uint16_t)hello->name_len);
    mkv_put_u64(dst + 24, hello->boot_id);
    mkv_put_u64(dst + 32, hello->uptime_ms);
    memcpy(dst + 40, hello->nonce, MKV_NONCE_LEN);
    mkv_put_bytes(dst + SERVER_HELLO_LEN, hello->name, hello->name_len);
    *written = SERVER_HELLO_LEN + (size_t)hello->name_len;
    return MEMKV_OK;
}

int mkv_server_hello_decode(const uint8_t *src, size_t len, mkv_server_hello *out)
{
    if (len < SERVER_HELLO_LEN || !check_hello_reserved(src) ||
        mkv_get_u16(src + 2) != 0)
        return MEMKV_ERR_PROTOCOL;
    mkv_server_hello hello = {
        .version = mkv_get_u16(src),
        .features = mkv_get_u32(src + 4),
        .suite = src[8],
        .max_requests = mkv_get_u32(src + 12),
        .max_table = mkv_get_u32(src + 16),
        .boot_id = mkv_get_u64(src + 24),
        .uptime_ms = mkv_get_u64(src + 32),
        .name_len = mkv_get_u16(src + 20),
    };
    if (!check_server_hello(&hello) || len != SERVER_HELLO_LEN + hello.name_len)
        return MEMKV_ERR_PROTOCOL;
    memcpy(hello.nonce, src + 40, MKV_NONCE_LEN);
    src += SERVER_HELLO_LEN;
    hello.name = mkv_take_bytes(&src, hello.name_len);
    *out = hello;
    return MEMKV_OK;
}

static bool check_rdma_params(const mkv_rdma_params *params)
{
    return params->qpn <= LIMIT_24_BITS && params->psn <= LIMIT_24_BITS &&
           params->mtu >= 1 && params->mtu <= 5;
}

int mkv_rdma_params_encode(const mkv_rdma_params *params, uint8_t *dst, size_t cap,
                           size_t *written)
{
    if (!check_rdma_params(params))
        return MEMKV_ERR_INVALID;
    if (cap < MKV_PARAMS_LEN)
        return MEMKV_ERR_TOO_SMALL;
    memset(dst, 0, MKV_PARAMS_LEN);
    mkv_put_u32(dst, params->qpn);
    mkv_put_u32(dst + 4, params->psn);
    memcpy(dst + 8, params->gid, MKV_GID_LEN);
    mkv_put_u16(dst + 24, params->lid);
    dst[26] = params->mtu;
    dst[27] = params->reads_in;
    dst[28] = params->reads_out;
    *written = MKV_PARAMS_LEN;
    return MEMKV_OK;
}

int mkv_rdma_params_decode(const uint8_t *src, size_t len, mkv_rdma_params *out)
{
    if (len != MKV_PARAMS_LEN || (src[29] | src[30] | src[31]) != 0)
        return MEMKV_ERR_PROTOCOL;
    mkv_rdma_params params = {
        .qpn = mkv_get_u32(src),
        .psn = mkv_get_u32(src + 4),
        .lid = mkv_get_u16(src + 24),
        .mtu = src[26],
        .reads_in = src[27],
        .reads_out = src[28],
    };
    if (!check_rdma_params(&params))
        return MEMKV_ERR_PROTOCOL;
    memcpy(params.gid, src + 8, MKV_GID_LEN);
    *out = params;
    return MEMKV_OK;
}
