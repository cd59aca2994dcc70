/* stream.c: non-blocking TCP and Unix sockets (stream.h).  The one place that deals with
 * EINTR, SIGPIPE, close-on-exec and socket options.  It must not know what the bytes mean.
 * SPDX-License-Identifier: Apache-2.0 */
#include "net/stream.h"

#include "status.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG 4096
#define MAX_HOST 253 /* RFC 1035, written out */
#define UNIX_SCHEME "unix:"
#define ANY_TEXT (MAX_HOST + 16)

/* Bytes in flight between two ends of one host should fit the cache; on a routed link
 * the kernel's own tuning does better, and this would cap it. */
#define LOCAL_SEND_BUFFER (512 * 1024)

/* ---- addresses --------------------------------------------------------------------- */

static int parse_unix(const char *text, mkv_endpoint *out, memkv_error *err)
{
    struct sockaddr_un unix_addr = {.sun_family = AF_UNIX};
    const char *path = text + strlen(UNIX_SCHEME);
    size_t len = strlen(path);

    if (path[0] != '/')
        return mkv_fail(err, MEMKV_ERR_INVALID, 0,
                        "address \"%.100s\": a Unix socket is unix:/absolute/path",
                        text);
    if (len >= sizeof(unix_addr.sun_path))
        return mkv_fail(err, MEMKV_ERR_INVALID, 0,
                        "address \"%.60s...\": a Unix socket's path takes at most %zu "
                        "bytes, this one has %zu",
                        text, sizeof(unix_addr.sun_path) - 1, len);
    memcpy(unix_addr.sun_path, path, len + 1);
    memset(out, 0, sizeof(*out));
    memcpy(&out->addr, &unix_addr, sizeof(unix_addr));
    out->len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len + 1);
    return MEMKV_OK;
}

/* Cuts "host:port" or "[v6]:port" into host (MAX_HOST + 1 bytes) and port. */
static bool split_host(const char *text, char *host, const char **port, bool *bracketed)
{
    const char *colon = strrchr(text, ':');
    const char *begin = text;
    const char *end = colon;

    if (!colon)
        return false;
    *bracketed = text[0] == '[';
    if (*bracketed) {
        if (colon - text < 3 || colon[-1] != ']')
            return false;
        begin = text + 1;
        end = colon - 1;
    }
    size_t len = (size_t)(end - begin);
    if (len == 0 || len > MAX_HOST || (!*bracketed && memchr(begin, ':', len)))
        return false;
    memcpy(host, begin, len);
    host[len] = '\0';
    *port = colon + 1;
    return true;
}

static bool parse_port(const char *text, uint16_t *out)
{
    unsigned value = 0;
    size_t len = strlen(text);

    if (len == 0 || len > 5)
        return false;
    for (size_t i = 0; i < len; i++) {
        if (text[i] < '0' || text[i] > '9')
            return false;
        value = value * 10 + (unsigned)(text[i] - '0');
    }
    if (value > UINT16_MAX)
        return false;
    *out = (uint16_t)value;
    return true;
}

static bool is_host_name(const char *host)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyz"
                                  "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._";
    return host[strspn(host, allowed)] == '\0';
}

static bool parse_v4(const char *host, uint16_t port, mkv_endpoint *out)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(port)};

    if (strcmp(host, "localhost") == 0)
        host = "127.0.0.1";
    if (inet_pton(AF_INET, host, &in.sin_addr) != 1)
        return false;
    memset(out, 0, sizeof(*out));
    memcpy(&out->addr, &in, sizeof(in));
    out->len = sizeof(in);
    return true;
}

/* The first address the resolver has; `flags` as for getaddrinfo. */
static int look_up(const char *host, const char *port, int family, int flags,
                   mkv_endpoint *out)
{
    struct addrinfo hints = {
        .ai_family = family, .ai_socktype = SOCK_STREAM, .ai_flags = flags};
    struct addrinfo *found = NULL;

    int code = getaddrinfo(host, port, &hints, &found);
    if (code != 0)
        return code;
    memset(out, 0, sizeof(*out));
    memcpy(&out->addr, found->ai_addr, found->ai_addrlen);
    out->len = found->ai_addrlen;
    freeaddrinfo(found);
    return 0;
}

int mkv_endpoint_parse(const char *text, mkv_endpoint *out, bool *is_name,
                       memkv_error *err)
{
    char host[MAX_HOST + 1];
    const char *port_text;
    uint16_t port;
    bool bracketed;

    *is_name = false;
    if (strncmp(text, UNIX_SCHEME, strlen(UNIX_SCHEME)) == 0)
        return parse_unix(text, out, err);
    if (!split_host(text, host, &port_text, &bracketed))
        return mkv_fail(err, MEMKV_ERR_INVALID, 0,
                        "address \"%.100s\": write host:port, [v6]:port or unix:/path",
                        text);
    if (!parse_port(port_text, &port))
        return mkv_fail(err, MEMKV_ERR_INVALID, 0,
                        "address \"%.100s\": the port is a number from 0 to 65535",
                        text);
    if (bracketed) {
        if (look_up(host, port_text, AF_INET6, AI_NUMERICHOST | AI_NUMERICSERV, out) !=
            0)
            return mkv_fail(err, MEMKV_ERR_INVALID, 0,
                            "address \"%.100s\": no IPv6 address in the brackets",
                            text);
        return MEMKV_OK;
    }
    if (parse_v4(host, port, out))
        return MEMKV_OK;
    if (!is_host_name(host))
        return mkv_fail(err, MEMKV_ERR_INVALID, 0,
                        "address \"%.100s\": \"%.60s\" is no host name", text, host);
    *is_name = true;
    return mkv_fail(err, MEMKV_ERR_UNSUPPORTED, 0,
                    "address \"%.100s\": a name, to be resolved first", text);
}

int mkv_endpoint_resolve(const char *text, mkv_endpoint *out, memkv_error *err)
{
    char host[MAX_HOST + 1];
    const char *port;
    bool bracketed, is_name;

    int status = mkv_endpoint_parse(text, out, &is_name, err);
    if (!is_name || !split_host(text, host, &port, &bracketed))
        return status;
    int code = look_up(host, port, AF_UNSPEC, AI_NUMERICSERV | AI_ADDRCONFIG, out);
    if (code != 0)
        return mkv_fail(err, MEMKV_ERR_UNREACHABLE, code == EAI_SYSTEM ? errno : 0,
                        "address \"%.100s\": %s", text, gai_strerror(code));
    return MEMKV_OK;
}

void mkv_endpoint_format(const mkv_endpoint *endpoint, char *text, size_t cap)
{
    char host[MAX_HOST + 1];
    char port[8];

    if (endpoint->addr.ss_family == AF_UNIX) {
        struct sockaddr_un unix_addr = {0};
        memcpy(&unix_addr, &endpoint->addr, sizeof(unix_addr));
        snprintf(text, cap, UNIX_SCHEME "%.*s", (int)sizeof(unix_addr.sun_path),
                 unix_addr.sun_path);
        return;
    }
    if (getnameinfo((const struct sockaddr *)&endpoint->addr, endpoint->len, host,
                    sizeof(host), port, sizeof(port),
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
        snprintf(text, cap, "?");
        return;
    }
    bool v6 = endpoint->addr.ss_family == AF_INET6;
    snprintf(text, cap, v6 ? "[%s]:%s" : "%s:%s", host, port);
}

bool mkv_endpoint_is_local(const mkv_endpoint *endpoint)
{
    if (endpoint->addr.ss_family == AF_INET) {
        struct sockaddr_in in;
        memcpy(&in, &endpoint->addr, sizeof(in));
        return ntohl(in.sin_addr.s_addr) >> 24 == 127;
    }
    if (endpoint->addr.ss_family == AF_INET6) {
        struct sockaddr_in6 in6;
        memcpy(&in6, &endpoint->addr, sizeof(in6));
        return IN6_IS_ADDR_LOOPBACK(&in6.sin6_addr) ||
               (IN6_IS_ADDR_V4MAPPED(&in6.sin6_addr) &&
                in6.sin6_addr.s6_addr[12] == 127);
    }
    return endpoint->addr.ss_family == AF_UNIX;
}

/* ---- sockets ----------------------------------------------------------------------- */

static bool interrupted(ssize_t result)
{
    return result < 0 && errno == EINTR;
}

/* Hints: a kernel that refuses one still moves the bytes. */
static void set_options(int fd, const mkv_endpoint *peer)
{
    const int on = 1;
    const int send_buffer = LOCAL_SEND_BUFFER;

    if (peer->addr.ss_family != AF_UNIX)
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    if (mkv_endpoint_is_local(peer))
        (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &send_buffer, sizeof(send_buffer));
}

static int open_socket(int family, memkv_error *err)
{
    int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        mkv_fail(err, MEMKV_ERR_SYSTEM, errno, "socket: %s", strerror(errno));
    return fd;
}

static int refuse_dial(const mkv_endpoint *endpoint, int sys_errno, memkv_error *err)
{
    char text[ANY_TEXT];

    mkv_endpoint_format(endpoint, text, sizeof(text));
    return mkv_fail(err, MEMKV_ERR_UNREACHABLE, sys_errno, "%.160s: %s", text,
                    strerror(sys_errno));
}

int mkv_stream_dial(const mkv_endpoint *endpoint, int *fd, memkv_error *err)
{
    int sock = open_socket(endpoint->addr.ss_family, err);
    if (sock < 0)
        return MEMKV_ERR_SYSTEM;
    set_options(sock, endpoint);
    if (connect(sock, (const struct sockaddr *)&endpoint->addr, endpoint->len) != 0 &&
        errno != EINPROGRESS && errno != EINTR) {
        int status = refuse_dial(endpoint, errno, err);
        close(sock);
        return status;
    }
    *fd = sock;
    return MEMKV_OK;
}

int mkv_stream_dialled(int fd, memkv_error *err)
{
    int sys_errno = 0;
    socklen_t len = sizeof(sys_errno);

    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &sys_errno, &len) != 0)
        sys_errno = errno;
    if (sys_errno == 0)
        return MEMKV_OK;
    return mkv_fail(err, MEMKV_ERR_UNREACHABLE, sys_errno, "%s", strerror(sys_errno));
}

/* True if a socket of that name lies about and no process listens on it. */
static bool is_stale(const mkv_endpoint *endpoint)
{
    struct sockaddr_un unix_addr;
    struct stat info;

    memcpy(&unix_addr, &endpoint->addr, sizeof(unix_addr));
    /* connect() refuses a plain file just as it does a dead socket */
    if (lstat(unix_addr.sun_path, &info) != 0 || !S_ISSOCK(info.st_mode))
        return false;
    int probe = open_socket(AF_UNIX, NULL);
    if (probe < 0)
        return false;
    bool stale =
        connect(probe, (const struct sockaddr *)&endpoint->addr, endpoint->len) != 0 &&
        errno == ECONNREFUSED;
    close(probe);
    return stale;
}

static int bind_socket(int sock, const mkv_endpoint *endpoint)
{
    const struct sockaddr *addr = (const struct sockaddr *)&endpoint->addr;

    if (bind(sock, addr, endpoint->len) == 0)
        return 0;
    if (errno != EADDRINUSE || endpoint->addr.ss_family != AF_UNIX)
        return errno;
    if (!is_stale(endpoint))
        return EADDRINUSE;
    struct sockaddr_un unix_addr;
    memcpy(&unix_addr, &endpoint->addr, sizeof(unix_addr));
    (void)unlink(unix_addr.sun_path);
    return bind(sock, addr, endpoint->len) == 0 ? 0 : errno;
}

static int refuse_listen(const mkv_endpoint *endpoint, int sys_errno, memkv_error *err)
{
    char text[ANY_TEXT];
    bool is_unix = endpoint->addr.ss_family == AF_UNIX;
    const char *reason = strerror(sys_errno);
    const char *advice = "";

    mkv_endpoint_format(endpoint, text, sizeof(text));
    if (sys_errno == EADDRINUSE) {
        reason = is_unix ? "path in use" : "port in use";
        advice = is_unix
                     ? ": another server listens there, or it is no socket"
                     : ": stop what listens there, or choose another (0: any free one)";
    } else if (sys_errno == EADDRNOTAVAIL) {
        reason = "no such address on this host";
    } else if (sys_errno == EACCES && !is_unix) {
        advice = ": ports below 1024 are the system's";
    }
    return mkv_fail(err, MEMKV_ERR_SYSTEM, sys_errno, "address %.130s: %s%s", text,
                    reason, advice);
}

int mkv_stream_listen(mkv_endpoint *endpoint, int *fd, memkv_error *err)
{
    const int on = 1;
    mkv_endpoint bound = *endpoint;
    bool is_unix = endpoint->addr.ss_family == AF_UNIX;

    int sock = open_socket(endpoint->addr.ss_family, err);
    if (sock < 0)
        return MEMKV_ERR_SYSTEM;
    if (!is_unix)
        (void)setsockopt(sock, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    int sys_errno = bind_socket(sock, endpoint);
    if (sys_errno == 0 && listen(sock, BACKLOG) != 0)
        sys_errno = errno;
    bound.len = sizeof(bound.addr);
    if (sys_errno == 0 && !is_unix &&
        getsockname(sock, (struct sockaddr *)&bound.addr, &bound.len) != 0)
        sys_errno = errno;
    if (sys_errno != 0) {
        close(sock);
        return refuse_listen(endpoint, sys_errno, err);
    }
    if (!is_unix)
        *endpoint = bound;
    *fd = sock;
    return MEMKV_OK;
}

int mkv_stream_accept(int listener, int *fd)
{
    mkv_endpoint peer = {0};
    int sock;

    do {
        peer.len = sizeof(peer.addr);
        sock = accept4(listener, (struct sockaddr *)&peer.addr, &peer.len,
                       SOCK_NONBLOCK | SOCK_CLOEXEC);
    } while (interrupted(sock));
    if (sock >= 0) {
        set_options(sock, &peer);
    } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS ||
               errno == ENOMEM) {
        return MEMKV_ERR_SYSTEM;
    }
    *fd = sock; /* the rest are errors of a peer that is gone already: accept(2) */
    return MEMKV_OK;
}

static size_t clamp_iov(size_t n_iov)
{
    return n_iov < IOV_MAX ? n_iov : IOV_MAX;
}

static int moved(ssize_t result, size_t *n)
{
    if (result < 0 && errno != EAGAIN && errno != EWOULDBLOCK)
        return MEMKV_ERR_DISCONNECTED;
    *n = result < 0 ? 0 : (size_t)result;
    return MEMKV_OK;
}

int mkv_stream_read(int fd, struct iovec *iov, size_t n_iov, size_t *n)
{
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = clamp_iov(n_iov)};
    ssize_t result;

    do
        result = recvmsg(fd, &msg, 0);
    while (interrupted(result));
    if (result == 0)
        return MEMKV_ERR_DISCONNECTED;
    return moved(result, n);
}

int mkv_stream_write(int fd, const struct iovec *iov, size_t n_iov, size_t *n)
{
    struct msghdr msg = {.msg_iov = (struct iovec *)iov,
                         .msg_iovlen = clamp_iov(n_iov)};
    ssize_t result;

    do
        result = sendmsg(fd, &msg, MSG_NOSIGNAL);
    while (interrupted(result));
    return moved(result, n);
}

void mkv_stream_close(int fd)
{
    if (fd >= 0)
        close(fd); /* EINTR included: Linux has closed it all the same */
}
