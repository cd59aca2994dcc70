/* info.h: what a server tells of itself: its counters and gauges, and the text that
 * answers INFO.  Any thread.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef MKV_INFO_H
#define MKV_INFO_H

#include "server/service.h"

#define MKV_INFO_TEXT 4096

/* As memkv_server_stats. */
size_t mkv_info_stats(mkv_service *service, memkv_stat *out, size_t cap);
/* A client got no RDMA link. */
void mkv_info_refused(mkv_service *service, const memkv_error *why);
/* A JSON object, not terminated; returns its length. */
size_t mkv_info_text(mkv_service *service, uint64_t now_ms, char text[MKV_INFO_TEXT]);

#endif
