/* ends.h: the two ends of a stream within this host, for the tests of RDMA.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef MKV_ENDS_H
#define MKV_ENDS_H

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "check.h"

static inline struct sockaddr_in ends_address(const char *text)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    CHECK_EQ(inet_pton(AF_INET, text, &address.sin_addr), 1);
    return address;
}

/* fds: the dialling end, the other.  A TCP connection between two IPv4 addresses of this
 * host, or for NULL a pair of Unix sockets. */
static inline void ends_connect(const char *const *addresses, int *fds)
{
    if (addresses == NULL) {
        CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
        return;
    }
    struct sockaddr_in near = ends_address(addresses[0]);
    struct sockaddr_in far = ends_address(addresses[1]);
    socklen_t len = sizeof(far);
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    CHECK_EQ(bind(listener, (struct sockaddr *)&far, sizeof(far)), 0);
    CHECK_EQ(listen(listener, 1), 0);
    CHECK_EQ(getsockname(listener, (struct sockaddr *)&far, &len), 0);
    fds[0] = socket(AF_INET, SOCK_STREAM, 0);
    CHECK_EQ(bind(fds[0], (struct sockaddr *)&near, sizeof(near)), 0);
    CHECK_EQ(connect(fds[0], (struct sockaddr *)&far, sizeof(far)), 0);
    fds[1] = accept(listener, NULL, NULL);
    CHECK(fds[1] >= 0);
    close(listener);
}

#endif
