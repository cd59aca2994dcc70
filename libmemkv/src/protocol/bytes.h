/* bytes.h: little-endian integers at any address.  Included by the codec, the
 * transcript of auth.c and the checksum; nobody else has a byte order to think of.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef MKV_BYTES_H
#define MKV_BYTES_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline uint16_t mkv_get_u16(const uint8_t *src)
{
    return (uint16_t)(src[0] | src[1] << 8);
}

static inline uint32_t mkv_get_u32(const uint8_t *src)
{
    return (uint32_t)src[0] | (uint32_t)src[1] << 8 | (uint32_t)src[2] << 16 |
           (uint32_t)src[3] << 24;
}

static inline uint64_t mkv_get_u64(const uint8_t *src)
{
    return (uint64_t)mkv_get_u32(src) | (uint64_t)mkv_get_u32(src + 4) << 32;
}

static inline void mkv_put_u16(uint8_t *dst, uint16_t value)
{
    dst[0] = (uint8_t)value;
    dst[1] = (uint8_t)(value >> 8);
}

static inline void mkv_put_u32(uint8_t *dst, uint32_t value)
{
    mkv_put_u16(dst, (uint16_t)value);
    mkv_put_u16(dst + 2, (uint16_t)(value >> 16));
}

static inline void mkv_put_u64(uint8_t *dst, uint64_t value)
{
    mkv_put_u32(dst, (uint32_t)value);
    mkv_put_u32(dst + 4, (uint32_t)(value >> 32));
}

/* Copies; returns the place behind the copy. */
static inline uint8_t *mkv_put_bytes(uint8_t *dst, const uint8_t *src, size_t len)
{
    if (len > 0) /* src may be NULL then */
        memcpy(dst, src, len);
    return dst + len;
}

/* Names bytes where they lie, NULL for none, and moves *src behind them. */
static inline const uint8_t *mkv_take_bytes(const uint8_t **src, size_t len)
{
    const uint8_t *taken = len > 0 ? *src : NULL;
    *src += len;
    return taken;
}

#endif
