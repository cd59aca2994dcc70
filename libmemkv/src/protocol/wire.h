/* wire.h: frames and item tables <-> bytes (docs/wire.md).  Pure: no I/O, no clock, no
 * allocation, no state; every limit of the protocol, and the only code that knows byte
 * order.  It knows neither roles nor order of frames: session.c does.
 *
 * Decoding is total: any bytes give MEMKV_OK or MEMKV_ERR_PROTOCOL and nothing else, and
 * on failure outputs are untouched.  It is canonical: what decodes, encodes to the same
 * bytes.  Decoded pointers point into the source.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef MKV_WIRE_H
#define MKV_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "memkv/memkv.h"

/* cffi: on */
#define MKV_VERSION 1
#define MKV_PREFIX_LEN 56
#define MKV_TAG_OFFSET 40
#define MKV_REQUEST_ROW 64
#define MKV_REPLY_ROW 48
#define MKV_MAX_ITEMS 1024
#define MKV_MAX_TABLE 262144
#define MKV_MAX_BATCH 16777216 /* payload of a request of more than one item */
#define MKV_MAX_GREETING 512   /* a whole frame before the handshake is over */
#define MKV_MAX_LEASE_MS 600000
#define MKV_MAX_BUDGET_MS 86400000
#define MKV_NONCE_LEN 32
#define MKV_GID_LEN 16
#define MKV_PARAMS_LEN 32 /* of an encoded mkv_rdma_params */

typedef enum mkv_kind {
    MKV_HELLO = 1, /* table: mkv_client_hello, answered by mkv_server_hello */
    MKV_AUTH = 2,  /* table: a proof of 32 bytes, both ways */
    MKV_RDMA = 3,  /* table: mkv_rdma_params, both ways */
    MKV_STAT = 4,
    MKV_GET = 5,
    MKV_PUT = 6,
    MKV_DELETE = 7,
    MKV_LIST =
        8, /* one item without a key: generation is the cursor, length the most wanted */
    MKV_INFO = 9, /* no items; the reply's table is a JSON text */
    MKV_PING = 10 /* nothing, both ways */
} mkv_kind;

#define MKV_FRAME_REPLY 1
#define MKV_FRAME_LAST 2 /* of a request's reply frames; always set on a request */

/* The fixed prefix of every frame. */
typedef struct mkv_frame {
    uint8_t kind; /* mkv_kind, or one that we do not know */
    uint8_t flags;
    int32_t status; /* replies: of the request as a whole; requests: 0 */
    uint32_t items;
    uint32_t id;        /* a reply carries its request's */
    uint32_t budget_ms; /* requests: what is left of the deadline; replies: 0 */
    uint32_t table_len;
    uint64_t body_len; /* inline payload behind the table */
    uint8_t tag[16];
} mkv_frame;

int mkv_frame_encode(const mkv_frame *frame, uint8_t *dst);
/* Checks magic, version, reserved bits, and all lengths against the limits. */
int mkv_frame_decode(const uint8_t *src, mkv_frame *out);

#define MKV_ITEM_REMOTE 1 /* both ways: payload by RDMA, to or from address */

/* A row of a request's table with its key and header.  Fields that a kind does not use
 * are zero on the wire, and checked to be. */
typedef struct mkv_request {
    const uint8_t *key;
    const uint8_t *header; /* PUT */
    uint32_t key_len;      /* 1..MEMKV_MAX_KEY; LIST: 0 */
    uint32_t header_len; /* PUT: bytes in the table.  STAT, GET, LIST: room, no bytes */
    uint32_t flags;
    uint32_t depth;
    uint64_t group;
    uint64_t length;     /* PUT: of the value.  GET: room.  LIST: most entries wanted */
    uint64_t checksum;   /* PUT */
    uint64_t generation; /* DELETE: only this one, if it is bad; 0: whatever is there.
                          * LIST: index of the last row seen; 0: begin */
    uint64_t address;    /* REMOTE */
    uint32_t rkey;       /* REMOTE */
    uint32_t lease_ms;   /* STAT */
    uint32_t ttl_ms;     /* PUT */
} mkv_request;

#define MKV_ITEM_LEASED 2  /* STAT: it stays for lease_ms */
#define MKV_ITEM_HEADER 4  /* the header's bytes are in the table */
#define MKV_ITEM_PAYLOAD 8 /* GET: `length` bytes of it are in this frame's body */

/* A row of a reply's table. */
typedef struct mkv_reply {
    const uint8_t *key;    /* LIST */
    const uint8_t *header; /* with MKV_ITEM_HEADER */
    uint32_t index;        /* of the item in the request.  LIST: the cursor behind it */
    int32_t status;
    uint32_t flags;
    uint32_t key_len;
    uint32_t header_len; /* as stored, also where its bytes are not sent */
    uint64_t length;     /* as stored, also where no payload is sent */
    uint64_t checksum;
    uint64_t generation;
    uint64_t idle_ms; /* LIST */
} mkv_reply;

/* Bytes a table of these takes; more than MKV_MAX_TABLE: too many. */
size_t mkv_requests_size(uint8_t kind, const mkv_request *items, size_t n);
size_t mkv_replies_size(const mkv_reply *items, size_t n);

/* Writes the table, and items, table_len and body_len of *frame, whose kind and flags are
 * set.  MEMKV_ERR_INVALID: a value out of its limits; MEMKV_ERR_TOO_SMALL: cap. */
int mkv_requests_encode(mkv_frame *frame, const mkv_request *items, size_t n,
                        uint8_t *table, size_t cap);
int mkv_replies_encode(mkv_frame *frame, const mkv_reply *items, size_t n,
                       uint8_t *table, size_t cap);

typedef struct mkv_cursor { /* begin fills it, next moves it */
    const uint8_t *row;
    const uint8_t *key;
    const uint8_t *header;
    uint32_t left;
    uint8_t kind;
} mkv_cursor;

/* Checks the whole table of a decoded frame of kind STAT, GET, PUT, DELETE or LIST: rows,
 * lengths that add up to table_len and body_len exactly, limits.  After MEMKV_OK, next
 * yields frame->items items (false: no more) and cannot fail. */
int mkv_requests_begin(const mkv_frame *frame, const uint8_t *table, mkv_cursor *out);
bool mkv_requests_next(mkv_cursor *cursor, mkv_request *out);
int mkv_replies_begin(const mkv_frame *frame, const uint8_t *table, mkv_cursor *out);
bool mkv_replies_next(mkv_cursor *cursor, mkv_reply *out);

typedef struct mkv_client_hello {
    uint16_t version_low, version_high;
    uint32_t features;     /* MKV_FEATURE_*; unknown bits are ignored */
    uint8_t suite;         /* MKV_SUITE_* */
    uint32_t max_requests; /* in flight on this connection */
    uint32_t max_table;
    uint64_t key_id;
    uint64_t client_id;
    uint8_t nonce[32];
    const uint8_t *name_space;
    uint32_t name_space_len;
} mkv_client_hello;

#define MKV_FEATURE_RDMA 1 /* payload may be REMOTE, once RDMA frames were exchanged */

#define MKV_SUITE_NONE 0
#define MKV_SUITE_HMAC_SHA256 1

typedef struct mkv_server_hello {
    uint16_t version;
    uint32_t features;
    uint8_t suite;
    uint32_t max_requests;
    uint32_t max_table;
    uint64_t boot_id;
    uint64_t uptime_ms;
    uint8_t nonce[32];
    const uint8_t *name;
    uint32_t name_len; /* 1..MEMKV_MAX_NAME */
} mkv_server_hello;

typedef struct mkv_rdma_params {
    uint32_t qpn; /* 24 bits */
    uint32_t psn; /* 24 bits */
    uint8_t gid[16];
    uint16_t lid;      /* InfiniBand; 0 on RoCE */
    uint8_t mtu;       /* ibv_mtu: 1 (256 bytes) to 5 (4096) */
    uint8_t reads_in;  /* READs it answers at once */
    uint8_t reads_out; /* READs it has outstanding */
} mkv_rdma_params;

/* Each decodes exactly `len` bytes of a table; encode returns INVALID or TOO_SMALL. */
int mkv_client_hello_encode(const mkv_client_hello *hello, uint8_t *dst, size_t cap,
                            size_t *written);
int mkv_client_hello_decode(const uint8_t *src, size_t len, mkv_client_hello *out);
int mkv_server_hello_encode(const mkv_server_hello *hello, uint8_t *dst, size_t cap,
                            size_t *written);
int mkv_server_hello_decode(const uint8_t *src, size_t len, mkv_server_hello *out);
int mkv_rdma_params_encode(const mkv_rdma_params *params, uint8_t *dst, size_t cap,
                           size_t *written);
int mkv_rdma_params_decode(const uint8_t *src, size_t len, mkv_rdma_params *out);
/* cffi: off */

#define MKV_MIN_STATUS (-99) /* on the wire */

#endif
