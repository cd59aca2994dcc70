/* stream.h: non-blocking TCP and Unix sockets.  Moves bytes as far as they go now; never
 * waits; knows nothing of frames.  EINTR, SIGPIPE and close-on-exec are dealt with here
 * and nowhere else.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef MKV_STREAM_H
#define MKV_STREAM_H

#include <stdbool.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "memkv/memkv.h"

typedef struct mkv_endpoint { /* a resolved address */
    struct sockaddr_storage addr;
    socklen_t len;
} mkv_endpoint;

/* "host:port", "[v6]:port", "unix:/path".  No lookups: host must be numeric or
 * "localhost"; *is_name true (and MEMKV_ERR_UNSUPPORTED) for another well-formed one. */
int mkv_endpoint_parse(const char *text, mkv_endpoint *out, bool *is_name,
                       memkv_error *err);
/* Asks the resolver: may block for seconds. */
int mkv_endpoint_resolve(const char *text, mkv_endpoint *out, memkv_error *err);
/* Terminated, in the form that parse takes. */
void mkv_endpoint_format(const mkv_endpoint *endpoint, char *text, size_t cap);
/* 127.0.0.0/8, ::1 or a Unix socket. */
bool mkv_endpoint_is_local(const mkv_endpoint *endpoint);

/* Begins a connect; *fd is writable when it is over, stream_dialled tells how it went:
 * MEMKV_OK or MEMKV_ERR_UNREACHABLE with the reason in err. */
int mkv_stream_dial(const mkv_endpoint *endpoint, int *fd, memkv_error *err);
int mkv_stream_dialled(int fd, memkv_error *err);
/* Binds and listens; *endpoint then has the real port.  A stale Unix socket that nobody
 * answers on is replaced. */
int mkv_stream_listen(mkv_endpoint *endpoint, int *fd, memkv_error *err);
/* *fd is -1 when nobody waits.  MEMKV_ERR_SYSTEM: out of descriptors or memory. */
int mkv_stream_accept(int listener, int *fd);

/* MEMKV_OK and *n bytes moved (0: it would block), or MEMKV_ERR_DISCONNECTED. */
int mkv_stream_read(int fd, struct iovec *iov, size_t n_iov, size_t *n);
int mkv_stream_write(int fd, const struct iovec *iov, size_t n_iov, size_t *n);
void mkv_stream_close(int fd); /* -1 is fine */

#endif
