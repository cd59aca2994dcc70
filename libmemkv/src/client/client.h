/* client.h: what a memkv_client is made of, for the files of client/.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef MKV_CLIENT_H
#define MKV_CLIENT_H

#include "client/peer.h"

struct memkv_client {
    mkv_peer_config config;
    mkv_regions regions;
    uint8_t key[MEMKV_AUTH_KEY_LEN];
    uint8_t name_space[MEMKV_MAX_NAMESPACE];
    mkv_peer *peers;
    size_t n_peers;
    _Atomic uint16_t
        *firsts; /* of each slot: the first peer of its order, from 1; 0: not
                               * asked for yet.  NULL with one peer */
    int stop_fd; /* readable for ever once stopped */
    atomic_bool is_stopped;
};

/* NULL: no server of that name. */
mkv_peer *mkv_client_find(memkv_client *client, const char *server);

#endif
