/* status.h: texts of statuses, and filling a memkv_error.  Knows no other part.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef MKV_STATUS_H
#define MKV_STATUS_H

#include "memkv/memkv.h"

/* Fills *err (NULL allowed) and returns `status`, so that a caller can
 * `return mkv_fail(err, MEMKV_ERR_INVALID, 0, "page_size %u is ...", ...)`. */
__attribute__((format(printf, 4, 5))) int
mkv_fail(memkv_error *err, int status, int sys_errno, const char *format, ...);

#endif
