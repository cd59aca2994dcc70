/* SPDX-License-Identifier: Apache-2.0
 * status.c: the text of each status, and filling a memkv_error.  Knows no other part;
 * the function that first knows what went wrong words the error, not this one. */
#include "status.h"

#include <stdarg.h>
#include <stdio.h>

const char *memkv_strerror(int status)
{
    switch (status) {
    case MEMKV_OK:
        return "ok";
    case MEMKV_ERR_INVALID:
        return "invalid argument";
    case MEMKV_ERR_NO_MEMORY:
        return "out of memory";
    case MEMKV_ERR_UNSUPPORTED:
        return "not supported by this build, host or peer";
    case MEMKV_ERR_SYSTEM:
        return "the operating system refused";
    case MEMKV_ERR_NOT_FOUND:
        return "not found";
    case MEMKV_ERR_EXISTS:
        return "already stored";
    case MEMKV_ERR_TOO_SMALL:
        return "the buffer is too small for the value";
    case MEMKV_ERR_TOO_LARGE:
        return "the value is over the server's limit";
    case MEMKV_ERR_FULL:
        return "the server is full and may evict nothing";
    case MEMKV_ERR_CHECKSUM:
        return "the value does not match its checksum";
    case MEMKV_ERR_DRAINING:
        return "the server is about to leave";
    case MEMKV_ERR_BUSY:
        return "the server is busy";
    case MEMKV_ERR_TIMEOUT:
        return "the deadline passed";
    case MEMKV_ERR_UNREACHABLE:
        return "the server is known to be down";
    case MEMKV_ERR_DISCONNECTED:
        return "the connection was lost";
    case MEMKV_ERR_PROTOCOL:
        return "the peer broke the protocol";
    case MEMKV_ERR_VERSION:
        return "no protocol version in common with the peer";
    case MEMKV_ERR_AUTH:
        return "the two ends disagree about the auth key";
    case MEMKV_ERR_CLOSED:
        return "the handle was stopped";
    default:
        return "unknown status";
    }
}

const char *memkv_version(void)
{
    return MEMKV_VERSION_STRING;
}

int mkv_fail(memkv_error *err, int status, int sys_errno, const char *format, ...)
{
    if (err == NULL)
        return status;
    err->status = status;
    err->sys_errno = sys_errno;
    va_list args;
    va_start(args, format);
    if (vsnprintf(err->text, sizeof(err->text), format, args) < 0)
        err->text[0] = '\0';
    va_end(args);
    return status;
}
