/* memkv.h: client and server of the MemKV context-memory store.  This is the manual.
 *
 * The library makes no threads, reads no environment, prints nothing, sets no signal
 * handler and keeps no process-wide state.  What can fail returns MEMKV_OK or a
 * negative memkv_status and then leaves outputs alone (but see memkv_op.data).  Configs
 * are copied.  NULL is allowed for a handle to close and for every `err`.
 * A forked child must not use its parent's handles.  "Any thread": several at once may
 * call it.  "One thread": the caller sees to it that nobody else uses the handle.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef MEMKV_H
#define MEMKV_H

#include <stddef.h>
#include <stdint.h>

#define MEMKV_API __attribute__((visibility("default")))
#define MEMKV_VERSION_STRING "0.1.0" /* the one place; both builds read it */
#ifdef __cplusplus
extern "C" {
#endif
/* cffi: on */
#define MEMKV_MAX_KEY 512
#define MEMKV_MAX_HEADER 4096
#define MEMKV_MAX_NAMESPACE 128
#define MEMKV_MAX_NAME 128         /* a server's */
#define MEMKV_MAX_VALUE 4294967296 /* bytes of payload; a larger put is TOO_LARGE */
#define MEMKV_AUTH_KEY_LEN 32

/* Grouped by the largest thing broken.  An op's status is also its miss reason.  The
 * numbers travel on the wire. */
typedef enum memkv_status {
    MEMKV_OK = 0,
    MEMKV_ERR_INVALID = -1, /* -1..-9: the call, an argument is wrong */
    MEMKV_ERR_NO_MEMORY = -2,
    MEMKV_ERR_UNSUPPORTED = -3,  /* not in this build, on this host or by this peer */
    MEMKV_ERR_SYSTEM = -4,       /* the operating system refused; see sys_errno */
    MEMKV_ERR_NOT_FOUND = -10,   /* -10..-19: the op; its connection is fine */
    MEMKV_ERR_EXISTS = -11,      /* PUT: it is there, with this header */
    MEMKV_ERR_TOO_SMALL = -12,   /* STAT, GET: the room; *_size say what it takes */
    MEMKV_ERR_TOO_LARGE = -13,   /* PUT: over the server's limit */
    MEMKV_ERR_FULL = -14,        /* PUT: nothing may be evicted for it just now */
    MEMKV_ERR_CHECKSUM = -15,    /* GET, PUT: what arrived is not what was sent */
    MEMKV_ERR_DRAINING = -16,    /* the server is about to leave */
    MEMKV_ERR_BUSY = -17,        /* too much on its way from that server just now */
    MEMKV_ERR_TIMEOUT = -18,     /* the deadline passed */
    MEMKV_ERR_UNREACHABLE = -21, /* -20..-29: the connection.  Known to be down */
    MEMKV_ERR_DISCONNECTED = -22,
    MEMKV_ERR_PROTOCOL = -23,
    MEMKV_ERR_VERSION = -24,
    MEMKV_ERR_AUTH = -25,  /* the ends disagree about the key: rarely tried again */
    MEMKV_ERR_CLOSED = -31 /* -30..-39: the handle.  It was stopped */
} memkv_status;

/* For a human; the caller's.  Written on failure only. */
typedef struct memkv_error {
    int32_t status;
    int32_t sys_errno; /* 0: the system had no say */
    char text[248];    /* always terminated; never holds a secret */
} memkv_error;

MEMKV_API const char *memkv_strerror(int status); /* total, never NULL, static */
MEMKV_API const char *memkv_version(void);

/* A counter; names are static strings of the library, such as "get_bytes". */
typedef struct memkv_stat {
    const char *name;
    uint64_t value;
} memkv_stat;

/* How payload may travel.  Frames always use the stream: TCP or a Unix socket. */
typedef enum memkv_transport {
    MEMKV_TRANSPORT_AUTO = 0, /* RDMA where it works, else the stream; tried again */
    MEMKV_TRANSPORT_TCP = 1,  /* the stream only */
    MEMKV_TRANSPORT_RDMA = 2  /* without RDMA: a client's server counts as unreachable,
                               * a server does not open */
} memkv_transport;

/* ---- client ---------------------------------------------------------------------- */
typedef struct memkv_client memkv_client;
typedef struct memkv_region memkv_region;

typedef struct memkv_address {
    const char *name;    /* keys are placed by it: stable, unique; NULL: the address */
    const char *address; /* "host:port", "[v6]:port" or "unix:/path" */
} memkv_address;

typedef struct memkv_client_config { /* memkv_client_config_init fills in defaults */
    const memkv_address *servers;
    size_t n_servers;
    const void *name_space;  /* keys live in it; name_space_len bytes */
    const uint8_t *auth_key; /* MEMKV_AUTH_KEY_LEN bytes; NULL for an open server */
    uint32_t name_space_len;
    uint32_t connections; /* a server, for payload; one more serves the rest */
    int32_t connect_timeout_ms;
    uint32_t transport;        /* memkv_transport */
    const char *rdma_devices;  /* "mlx5_0,mlx5_1"; NULL: by the address in use */
    const char *verbs_library; /* NULL: libibverbs.so.1 */
} memkv_client_config;

MEMKV_API void memkv_client_config_init(memkv_client_config *config);

/* Dials nobody, so a dead server fails no start.  Numeric addresses, "localhost" and
 * Unix sockets are dialled by memkv_run; host names wait for memkv_client_tend. */
MEMKV_API int memkv_client_open(const memkv_client_config *config, memkv_client **out,
                                memkv_error *err);
/* Dials the named server and asks how it is.  `json` gets a JSON object, terminated;
 * `err` says what is wrong in words.  Any thread. */
MEMKV_API int memkv_client_probe(memkv_client *client, const char *server, char *json,
                                 size_t cap, int timeout_ms, memkv_error *err);
/* Resolves names, dials, probes servers that are down, opens the RDMA devices and
 * registers memory with them, for timeout_ms or until stopped.  Call it in a loop from
 * one thread of yours; without it a lost server never comes back, and there is no RDMA. */
MEMKV_API int memkv_client_tend(memkv_client *client, int timeout_ms);
/* Batches under way and later end with MEMKV_ERR_CLOSED.  Any thread, signal-safe. */
MEMKV_API void memkv_client_stop(memkv_client *client);
/* No call of the client may be left, and no region.  One thread. */
MEMKV_API void memkv_client_close(memkv_client *client);
/* Writes up to cap counters, returns how many there are; server NULL: the sum over all.
 * Any thread. */
MEMKV_API size_t memkv_client_stats(memkv_client *client, const char *server,
                                    memkv_stat *out, size_t cap);
/* The state of a server as one sentence ("up", "up: rdma mlx5_0 port 1 GID 3, RoCE v2,
 * 192.0.2.7", "down: connection refused"), terminated, cut to cap.  INVALID: no server of
 * that name.  Any thread. */
MEMKV_API int memkv_client_state(memkv_client *client, const char *server, char *text,
                                 size_t cap);

/* Remembers memory for memkv_client_tend to register with the RDMA devices (seconds a
 * GiB), a slice of 1 GiB at a time; `registered_bytes` of memkv_client_stats (server NULL)
 * says how far it is.  It stays the caller's and must outlive the region.  Ops find theirs
 * by address; data outside of any region, under 64 KiB, or over 64 MiB and across two
 * slices, travels on the stream.  INVALID: it overlaps another region.  Any thread. */
MEMKV_API int memkv_region_register(memkv_client *client, void *addr, size_t len,
                                    memkv_region **out, memkv_error *err);
/* On return no peer can reach the memory: waits for a registration under way.  No
 * memkv_run may use it.  Any thread. */
MEMKV_API void memkv_region_release(memkv_region *region);

typedef enum memkv_opcode {
    MEMKV_OP_STAT = 1, /* is it there; its header; with ttl_ms > 0 lease it that long */
    MEMKV_OP_GET = 2,
    MEMKV_OP_PUT = 3,
    MEMKV_OP_DELETE = 4
} memkv_opcode;

#define MEMKV_OP_LEASED 1 /* memkv_op.flags: the value stays for ttl_ms */

/* One operation: 80 bytes on LP64, so that a caller can pack an array in one go.  All it
 * points to is borrowed until memkv_run returns, and not one moment longer. */
typedef struct memkv_op {
    uint32_t code;
    uint32_t depth; /* the key's place in its prefix from 1, 0 unknown: a hint */
    uint64_t group; /* equal for shards of use only together, 0 unknown: a hint */
    const void *key;
    void *header; /* PUT reads it.  STAT, GET write it, as data; NULL: not wanted */
    void *data;   /* PUT reads it.  GET: undefined unless status is MEMKV_OK */
    uint64_t data_len;   /* PUT: bytes.  GET: room */
    uint32_t key_len;    /* 1..MEMKV_MAX_KEY */
    uint32_t header_len; /* PUT: bytes.  STAT, GET: room, 0..MEMKV_MAX_HEADER */
    uint32_t ttl_ms;     /* STAT: lease.  PUT: time to live, 0: the server's default */
    /* outputs */
    int32_t status;
    uint64_t data_size;   /* bytes stored; set with MEMKV_OK and MEMKV_ERR_TOO_SMALL */
    uint32_t header_size; /* as data_size */
    uint32_t flags;       /* MEMKV_OP_LEASED */
} memkv_op;

/* The one data path.  Runs n ops of any mix in any order, all servers at once, until
 * each has a status or timeout_ms is over (then MEMKV_ERR_TIMEOUT in those left).
 * MEMKV_OK: every op has its own status.  A GET's bytes are verified against namespace,
 * key, header and checksum; a bad value is removed from its server.  When it returns, no
 * peer, NIC or kernel will touch the buffers again.  Any thread. */
MEMKV_API int memkv_run(memkv_client *client, memkv_op *ops, size_t n, int timeout_ms);

typedef struct memkv_entry { /* key and header lie in the caller's room */
    const void *key;
    const void *header;
    uint32_t key_len;
    uint32_t header_len;
    uint64_t data_size;
    uint64_t idle_ms;
} memkv_entry;

/* Lists the namespace on one server, unordered: *cursor 0 to begin, *n == 0 at the end.
 * A value put or evicted meanwhile may be missed.  room_len of 64 KiB or more always
 * makes progress.  Any thread. */
MEMKV_API int memkv_list(memkv_client *client, const char *server, uint64_t *cursor,
                         void *room, size_t room_len, memkv_entry *out, size_t cap,
                         size_t *n, int timeout_ms);

/* ---- server ---------------------------------------------------------------------- */
typedef struct memkv_server memkv_server;

typedef struct memkv_server_config { /* memkv_server_config_init fills in defaults */
    const char *name;                /* NULL: the address */
    const char *address;             /* as in memkv_address; port 0: any free one */
    const uint8_t *auth_key;         /* NULL: only on loopback and Unix sockets */
    uint64_t memory;                 /* pages, keys, headers, index: a hard bound */
    uint64_t page_size;              /* a power of two, 4 KiB to 1 MiB */
    uint64_t default_ttl_ms;         /* 0: until evicted */
    uint32_t max_connections;
    uint32_t transport;        /* memkv_transport */
    const char *rdma_devices;  /* "mlx5_0,mlx5_1"; NULL: by the address in use */
    const char *verbs_library; /* NULL: libibverbs.so.1 */
} memkv_server_config;

MEMKV_API void memkv_server_config_init(memkv_server_config *config);

/* Binds, maps the pages, and registers them where there is RDMA (seconds a GiB).  Serves once memkv_server_run is called. */
MEMKV_API int memkv_server_open(const memkv_server_config *config, memkv_server **out,
                                memkv_error *err);
/* The address bound, with its real port, terminated.  Any thread. */
MEMKV_API int memkv_server_address(const memkv_server *server, char *text, size_t cap);
/* MEMKV_OK: clients may have RDMA.  MEMKV_ERR_UNSUPPORTED: they may not; `text` says why,
 * terminated, cut to cap.  Any thread. */
MEMKV_API int memkv_server_rdma(const memkv_server *server, char *text, size_t cap);
/* Makes the calling thread one more network worker.  Returns after stop.  Any thread. */
MEMKV_API int memkv_server_run(memkv_server *server);
/* Refuses new requests with MEMKV_ERR_DRAINING and waits until those under way are
 * answered: OK, or TIMEOUT with some left.  Any thread. */
MEMKV_API int memkv_server_drain(memkv_server *server, int timeout_ms);
MEMKV_API void memkv_server_stop(memkv_server *server);  /* any thread, signal-safe */
MEMKV_API void memkv_server_close(memkv_server *server); /* runs over; one thread */
/* Writes up to cap counters, returns how many there are.  Any thread. */
MEMKV_API size_t memkv_server_stats(memkv_server *server, memkv_stat *out, size_t cap);

/* ---- rdma ------------------------------------------------------------------------ */
/* What the verbs library finds on this host: `json` gets a JSON object, terminated, of
 * its devices, ports and GIDs, with what is wrong with a device, and which of them the
 * connection of the connected socket `fd` (of any kind; -1: none) would use, or why none
 * would.  `library` and `devices` as verbs_library and rdma_devices of a client.  Opens
 * and closes every device.  UNSUPPORTED: no such library, or a build without RDMA.
 * TOO_SMALL: err says how many bytes it takes.  Any thread. */
MEMKV_API int memkv_rdma_describe(const char *library, const char *devices, int fd,
                                  char *json, size_t cap, memkv_error *err);
/* cffi: off */
#ifdef __cplusplus
}
#endif
#endif
