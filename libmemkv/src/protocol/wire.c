/* SPDX-License-Identifier: Apache-2.0
 * wire.c: frames and item tables <-> bytes, as docs/wire.md lays them out.  What
 * encodes and what decodes is judged by the same checks, so each value has one
 * encoding.  Knows neither roles nor the order of frames, and never sees a payload. */
#include "protocol/wire.h"

#include <string.h>

#include "protocol/bytes.h"

#define CLIENT_HELLO_LEN 72
#define SERVER_HELLO_LEN 72
#define PROOF_LEN 32
#define RDMA_PARAMS_LEN 32
#define MIN_STATUS (-99)
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
    [MKV_RDMA] = {0, 0, RDMA_PARAMS_LEN, RDMA_PARAMS_LEN, 0},
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
    [MKV_RDMA] = {0, 0, RDMA_PARAMS_LEN, RDMA_PARAMS_LEN, 0},
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

static bool has_items(uint8_t kind) { return kind >= MKV_STAT && kind <= MKV_LIST; }

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
    if (frame->status > 0 || frame->status < MIN_STATUS || frame->budget_ms != 0)
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

/* ---- request tables -------------------------------------------------------------- */

/* Which fields of a row a kind uses; the others are zero. */
enum {
    USES_KEY = 1,
    USES_HEADER = 2,
    USES_HINTS = 4,
    USES_LENGTH = 8,
    USES_CHECKSUM = 16,
    USES_GENERATION = 32,
    USES_REMOTE = 64,
    USES_LEASE = 128,
    USES_TTL = 256,
    USES_IDLE = 512
};

static const unsigned REQUEST_USES[] = {
    [MKV_STAT] = USES_KEY | USES_HEADER | USES_HINTS | USES_LEASE,
    [MKV_GET] = USES_KEY | USES_HEADER | USES_HINTS | USES_LENGTH | USES_REMOTE,
    [MKV_PUT] = USES_KEY | USES_HEADER | USES_HINTS | USES_LENGTH | USES_CHECKSUM |
                USES_REMOTE | USES_TTL,
    [MKV_DELETE] = USES_KEY | USES_HINTS | USES_GENERATION,
    [MKV_LIST] = USES_HEADER | USES_LENGTH | USES_GENERATION,
};

static bool zero_unless(bool used, uint64_t value) { return used || value == 0; }

static bool check_key_len(bool used, uint32_t key_len)
{
    return used ? key_len >= 1 && key_len <= MEMKV_MAX_KEY : key_len == 0;
}

static bool check_request(uint8_t kind, const mkv_request *item)
{
    unsigned uses = REQUEST_USES[kind];
    bool remote = item->flags & MKV_ITEM_REMOTE;
    return (item->flags & ~(uint32_t)MKV_ITEM_REMOTE) == 0 &&
           check_key_len(uses & USES_KEY, item->key_len) &&
           item->header_len <= MEMKV_MAX_HEADER && item->length <= MEMKV_MAX_VALUE &&
           item->length <= UINT64_MAX - item->address &&
           item->lease_ms <= MKV_MAX_LEASE_MS &&
           zero_unless(uses & USES_HEADER, item->header_len) &&
           zero_unless(uses & USES_HINTS, item->depth | item->group) &&
           zero_unless(uses & USES_LENGTH, item->length) &&
           zero_unless(uses & USES_CHECKSUM, item->checksum) &&
           zero_unless(uses & USES_GENERATION, item->generation) &&
           zero_unless(uses & USES_REMOTE, item->flags) &&
           zero_unless(remote, item->address | item->rkey) &&
           zero_unless(uses & USES_LEASE, item->lease_ms) &&
           zero_unless(uses & USES_TTL, item->ttl_ms);
}

/* Sums over the rows of a table. */
typedef struct table_sums {
    uint64_t keys;    /* bytes in the table */
    uint64_t headers; /* bytes in the table */
    uint64_t moved;   /* payload, inline and remote */
    uint64_t body;    /* payload, inline */
} table_sums;

/* In the table. */
static uint32_t request_header_bytes(uint8_t kind, const mkv_request *item)
{
    return kind == MKV_PUT ? item->header_len : 0;
}

static void sum_request(uint8_t kind, const mkv_request *item, table_sums *sums)
{
    sums->keys += item->key_len;
    sums->headers += request_header_bytes(kind, item);
    if (kind != MKV_LIST)
        sums->moved += item->length;
    if (kind == MKV_PUT && !(item->flags & MKV_ITEM_REMOTE))
        sums->body += item->length;
}

/* Do the rows and their sums make a frame within the limits? */
static bool check_sums(size_t n, size_t row_len, const table_sums *sums)
{
    return n * row_len + sums->keys + sums->headers <= MKV_MAX_TABLE &&
           (n <= 1 || sums->moved <= MKV_MAX_BATCH);
}

/* Do they agree with the frame?  Then the items can be walked. */
static int start_cursor(const mkv_frame *frame, const uint8_t *table, size_t row_len,
                        const table_sums *sums, mkv_cursor *out)
{
    size_t rows_len = frame->items * row_len;
    if (!check_sums(frame->items, row_len, sums) || sums->body != frame->body_len ||
        rows_len + sums->keys + sums->headers != frame->table_len)
        return MEMKV_ERR_PROTOCOL;
    *out = (mkv_cursor){.left = frame->items, .kind = frame->kind};
    if (frame->items > 0) {
        out->row = table;
        out->key = table + rows_len;
        out->header = out->key + sums->keys;
    }
    return MEMKV_OK;
}

static void put_request_row(uint8_t *row, const mkv_request *item)
{
    mkv_put_u16(row, (uint16_t)item->key_len);
    mkv_put_u16(row + 2, (uint16_t)item->header_len);
    mkv_put_u32(row + 4, item->flags);
    mkv_put_u32(row + 8, item->depth);
    mkv_put_u32(row + 12, item->rkey);
    mkv_put_u64(row + 16, item->group);
    mkv_put_u64(row + 24, item->length);
    mkv_put_u64(row + 32, item->checksum);
    mkv_put_u64(row + 40, item->generation);
    mkv_put_u64(row + 48, item->address);
    mkv_put_u32(row + 56, item->lease_ms);
    mkv_put_u32(row + 60, item->ttl_ms);
}

/* All but the pointers. */
static mkv_request get_request_row(const uint8_t *row)
{
    return (mkv_request){
        .key_len = mkv_get_u16(row),
        .header_len = mkv_get_u16(row + 2),
        .flags = mkv_get_u32(row + 4),
        .depth = mkv_get_u32(row + 8),
        .rkey = mkv_get_u32(row + 12),
        .group = mkv_get_u64(row + 16),
        .length = mkv_get_u64(row + 24),
        .checksum = mkv_get_u64(row + 32),
        .generation = mkv_get_u64(row + 40),
        .address = mkv_get_u64(row + 48),
        .lease_ms = mkv_get_u32(row + 56),
        .ttl_ms = mkv_get_u32(row + 60),
    };
}

static uint8_t *put_bytes(uint8_t *dst, const uint8_t *src, size_t len)
{
    if (len > 0)
        memcpy(dst, src, len);
    return dst + len;
}

/* NULL where the table holds none. */
static const uint8_t *take_bytes(const uint8_t **src, size_t len)
{
    const uint8_t *taken = len > 0 ? *src : NULL;
    *src += len;
    return taken;
}

size_t mkv_requests_size(uint8_t kind, const mkv_request *items, size_t n)
{
    size_t size = n * MKV_REQUEST_ROW;
    for (size_t i = 0; i < n; i++)
        size += (size_t)items[i].key_len + request_header_bytes(kind, &items[i]);
    return size;
}

int mkv_requests_encode(mkv_frame *frame, const mkv_request *items, size_t n,
                        uint8_t *table, size_t cap)
{
    uint8_t kind = frame->kind;
    table_sums sums = {0};
    if (!has_items(kind) || n < REQUEST_SHAPES[kind].min_items ||
        n > REQUEST_SHAPES[kind].max_items)
        return MEMKV_ERR_INVALID;
    for (size_t i = 0; i < n; i++) {
        if (!check_request(kind, &items[i]))
            return MEMKV_ERR_INVALID;
        sum_request(kind, &items[i], &sums);
    }
    if (!check_sums(n, MKV_REQUEST_ROW, &sums))
        return MEMKV_ERR_INVALID;
    size_t size = n * MKV_REQUEST_ROW + sums.keys + sums.headers;
    if (size > cap)
        return MEMKV_ERR_TOO_SMALL;
    uint8_t *key = table + n * MKV_REQUEST_ROW;
    uint8_t *header = key + sums.keys;
    for (size_t i = 0; i < n; i++) {
        put_request_row(table + i * MKV_REQUEST_ROW, &items[i]);
        key = put_bytes(key, items[i].key, items[i].key_len);
        header =
            put_bytes(header, items[i].header, request_header_bytes(kind, &items[i]));
    }
    frame->items = (uint32_t)n;
    frame->table_len = (uint32_t)size;
    frame->body_len = sums.body;
    return MEMKV_OK;
}

int mkv_requests_begin(const mkv_frame *frame, const uint8_t *table, mkv_cursor *out)
{
    table_sums sums = {0};
    if (!has_items(frame->kind) || frame->items > frame->table_len / MKV_REQUEST_ROW)
        return MEMKV_ERR_PROTOCOL;
    for (uint32_t i = 0; i < frame->items; i++) {
        mkv_request item = get_request_row(table + (size_t)i * MKV_REQUEST_ROW);
        if (!check_request(frame->kind, &item))
            return MEMKV_ERR_PROTOCOL;
        sum_request(frame->kind, &item, &sums);
    }
    return start_cursor(frame, table, MKV_REQUEST_ROW, &sums, out);
}

bool mkv_requests_next(mkv_cursor *cursor, mkv_request *out)
{
    if (cursor->left == 0)
        return false;
    mkv_request item = get_request_row(cursor->row);
    item.key = take_bytes(&cursor->key, item.key_len);
    item.header =
        take_bytes(&cursor->header, request_header_bytes(cursor->kind, &item));
    cursor->row += MKV_REQUEST_ROW;
    cursor->left--;
    *out = item;
    return true;
}

/* ---- reply tables ---------------------------------------------------------------- */

static const unsigned REPLY_USES[] = {
    [MKV_STAT] = USES_HEADER | USES_LENGTH | USES_CHECKSUM | USES_GENERATION,
    [MKV_GET] = USES_HEADER | USES_LENGTH | USES_CHECKSUM | USES_GENERATION,
    [MKV_PUT] = 0,
    [MKV_DELETE] = 0,
    [MKV_LIST] = USES_KEY | USES_HEADER | USES_LENGTH | USES_CHECKSUM |
                 USES_GENERATION | USES_IDLE,
};

static const uint32_t REPLY_FLAGS[] = {
    [MKV_STAT] = MKV_ITEM_LEASED | MKV_ITEM_HEADER,
    [MKV_GET] = MKV_ITEM_HEADER | MKV_ITEM_PAYLOAD | MKV_ITEM_REMOTE,
    [MKV_PUT] = MKV_ITEM_REMOTE,
    [MKV_DELETE] = 0,
    [MKV_LIST] = MKV_ITEM_HEADER,
};

/* A value's fields go with a status that says the value was found. */
static unsigned reply_uses(uint8_t kind, int32_t status)
{
    bool found = status == MEMKV_OK || status == MEMKV_ERR_TOO_SMALL;
    return found ? REPLY_USES[kind] : 0;
}

/* Flags agree with the status and with each other. */
static bool check_reply_flags(uint8_t kind, const mkv_reply *item)
{
    bool payload = item->flags & MKV_ITEM_PAYLOAD;
    bool remote = item->flags & MKV_ITEM_REMOTE;
    if ((item->flags & ~REPLY_FLAGS[kind]) != 0)
        return false;
    if (item->status != MEMKV_OK)
        return (item->flags & ~(uint32_t)MKV_ITEM_REMOTE) == 0;
    if (kind == MKV_GET && item->length > 0)
        return payload != remote;
    return !payload;
}

static uint32_t reply_header_bytes(const mkv_reply *item)
{
    return item->flags & MKV_ITEM_HEADER ? item->header_len : 0;
}

static bool check_reply(uint8_t kind, const mkv_reply *item)
{
    unsigned uses = reply_uses(kind, item->status);
    bool list = kind == MKV_LIST;
    return item->status <= 0 && item->status >= MIN_STATUS &&
           (list ? item->status == MEMKV_OK : item->index < MKV_MAX_ITEMS) &&
           check_reply_flags(kind, item) && check_key_len(list, item->key_len) &&
           item->header_len <= MEMKV_MAX_HEADER && item->length <= MEMKV_MAX_VALUE &&
           zero_unless(uses & USES_HEADER, item->header_len) &&
           zero_unless(uses & USES_LENGTH, item->length) &&
           zero_unless(uses & USES_CHECKSUM, item->checksum) &&
           zero_unless(uses & USES_GENERATION, item->generation) &&
           zero_unless(uses & USES_IDLE, item->idle_ms);
}

static void sum_reply(const mkv_reply *item, table_sums *sums)
{
    sums->keys += item->key_len;
    sums->headers += reply_header_bytes(item);
    if (item->flags & MKV_ITEM_PAYLOAD) {
        sums->moved += item->length;
        sums->body += item->length;
    }
}

static void put_reply_row(uint8_t *row, const mkv_reply *item)
{
    mkv_put_u32(row, item->index);
    mkv_put_u32(row + 4, (uint32_t)item->status);
    mkv_put_u32(row + 8, item->flags);
    mkv_put_u16(row + 12, (uint16_t)item->key_len);
    mkv_put_u16(row + 14, (uint16_t)item->header_len);
    mkv_put_u64(row + 16, item->length);
    mkv_put_u64(row + 24, item->checksum);
    mkv_put_u64(row + 32, item->generation);
    mkv_put_u64(row + 40, item->idle_ms);
}

static mkv_reply get_reply_row(const uint8_t *row)
{
    return (mkv_reply){
        .index = mkv_get_u32(row),
        .status = (int32_t)mkv_get_u32(row + 4),
        .flags = mkv_get_u32(row + 8),
        .key_len = mkv_get_u16(row + 12),
        .header_len = mkv_get_u16(row + 14),
        .length = mkv_get_u64(row + 16),
        .checksum = mkv_get_u64(row + 24),
        .generation = mkv_get_u64(row + 32),
        .idle_ms = mkv_get_u64(row + 40),
    };
}

size_t mkv_replies_size(const mkv_reply *items, size_t n)
{
    size_t size = n * MKV_REPLY_ROW;
    for (size_t i = 0; i < n; i++)
        size += (size_t)items[i].key_len + reply_header_bytes(&items[i]);
    return size;
}

int mkv_replies_encode(mkv_frame *frame, const mkv_reply *items, size_t n,
                       uint8_t *table, size_t cap)
{
    uint8_t kind = frame->kind;
    table_sums sums = {0};
    if (!has_items(kind) || n > MKV_MAX_ITEMS)
        return MEMKV_ERR_INVALID;
    for (size_t i = 0; i < n; i++) {
        if (!check_reply(kind, &items[i]))
            return MEMKV_ERR_INVALID;
        sum_reply(&items[i], &sums);
    }
    if (!check_sums(n, MKV_REPLY_ROW, &sums))
        return MEMKV_ERR_INVALID;
    size_t size = n * MKV_REPLY_ROW + sums.keys + sums.headers;
    if (size > cap)
        return MEMKV_ERR_TOO_SMALL;
    uint8_t *key = table + n * MKV_REPLY_ROW;
    uint8_t *header = key + sums.keys;
    for (size_t i = 0; i < n; i++) {
        put_reply_row(table + i * MKV_REPLY_ROW, &items[i]);
        key = put_bytes(key, items[i].key, items[i].key_len);
        header = put_bytes(header, items[i].header, reply_header_bytes(&items[i]));
    }
    frame->items = (uint32_t)n;
    frame->table_len = (uint32_t)size;
    frame->body_len = sums.body;
    return MEMKV_OK;
}

int mkv_replies_begin(const mkv_frame *frame, const uint8_t *table, mkv_cursor *out)
{
    table_sums sums = {0};
    if (!has_items(frame->kind) || frame->items > frame->table_len / MKV_REPLY_ROW)
        return MEMKV_ERR_PROTOCOL;
    for (uint32_t i = 0; i < frame->items; i++) {
        mkv_reply item = get_reply_row(table + (size_t)i * MKV_REPLY_ROW);
        if (!check_reply(frame->kind, &item))
            return MEMKV_ERR_PROTOCOL;
        sum_reply(&item, &sums);
    }
    return start_cursor(frame, table, MKV_REPLY_ROW, &sums, out);
}

bool mkv_replies_next(mkv_cursor *cursor, mkv_reply *out)
{
    if (cursor->left == 0)
        return false;
    mkv_reply item = get_reply_row(cursor->row);
    item.key = take_bytes(&cursor->key, item.key_len);
    item.header = take_bytes(&cursor->header, reply_header_bytes(&item));
    cursor->row += MKV_REPLY_ROW;
    cursor->left--;
    *out = item;
    return true;
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
    put_bytes(dst + CLIENT_HELLO_LEN, hello->name_space, hello->name_space_len);
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
    hello.name_space = take_bytes(&src, hello.name_space_len);
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
    put_bytes(dst + SERVER_HELLO_LEN, hello->name, hello->name_len);
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
    hello.name = take_bytes(&src, hello.name_len);
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
    if (cap < RDMA_PARAMS_LEN)
        return MEMKV_ERR_TOO_SMALL;
    memset(dst, 0, RDMA_PARAMS_LEN);
    mkv_put_u32(dst, params->qpn);
    mkv_put_u32(dst + 4, params->psn);
    memcpy(dst + 8, params->gid, MKV_GID_LEN);
    mkv_put_u16(dst + 24, params->lid);
    dst[26] = params->mtu;
    dst[27] = params->reads_in;
    dst[28] = params->reads_out;
    *written = RDMA_PARAMS_LEN;
    return MEMKV_OK;
}

int mkv_rdma_params_decode(const uint8_t *src, size_t len, mkv_rdma_params *out)
{
    if (len != RDMA_PARAMS_LEN || (src[29] | src[30] | src[31]) != 0)
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
