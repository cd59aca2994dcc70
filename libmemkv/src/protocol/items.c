/* SPDX-License-Identifier: Apache-2.0
 * items.c: the tables of requests and replies <-> bytes, as docs/wire.md lays them out.
 * What encodes and what decodes is judged by the same checks, so each value has one
 * encoding.  Never sees a payload, only its lengths. */
#include "protocol/wire.h"

#include "protocol/bytes.h"

static bool has_items(uint8_t kind)
{
    return kind >= MKV_STAT && kind <= MKV_LIST;
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

static bool zero_unless(bool used, uint64_t value)
{
    return used || value == 0;
}

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
    if (!has_items(kind) || n < 1 || n > (kind == MKV_LIST ? 1 : MKV_MAX_ITEMS))
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
        key = mkv_put_bytes(key, items[i].key, items[i].key_len);
        header = mkv_put_bytes(header, items[i].header,
                               request_header_bytes(kind, &items[i]));
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
    item.key = mkv_take_bytes(&cursor->key, item.key_len);
    item.header =
        mkv_take_bytes(&cursor->header, request_header_bytes(cursor->kind, &item));
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
    return item->status <= 0 && item->status >= MKV_MIN_STATUS &&
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
        key = mkv_put_bytes(key, items[i].key, items[i].key_len);
        header = mkv_put_bytes(header, items[i].header, reply_header_bytes(&items[i]));
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
    item.key = mkv_take_bytes(&cursor->key, item.key_len);
    item.header = mkv_take_bytes(&cursor->header, reply_header_bytes(&item));
    cursor->row += MKV_REPLY_ROW;
    cursor->left--;
    *out = item;
    return true;
}
