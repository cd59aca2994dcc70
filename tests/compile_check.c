/* compile_check.c: the public header alone, in a program of a user's: it compiles as C and
 * as C++, each of its macros expands to something of use, and what it declares links.
 * SPDX-License-Identifier: Apache-2.0 */
#include "memkv/memkv.h"

#include <stdio.h>
#include <string.h>

MEMKV_API int exported_like_ours(void);

int exported_like_ours(void)
{
    return MEMKV_OP_LEASED;
}

int main(void)
{
    static const uint64_t limits[] = {MEMKV_MAX_KEY, MEMKV_MAX_HEADER, MEMKV_MAX_VALUE};
    static char name[MEMKV_MAX_NAME], name_space[MEMKV_MAX_NAMESPACE];
    static uint8_t auth_key[MEMKV_AUTH_KEY_LEN];
    memkv_address server = {NULL, "unix:/nobody/listens/here"};
    memkv_client_config config;
    memkv_client *client = NULL;
    memkv_error err;
    memkv_op op;

    memkv_client_config_init(&config);
    config.servers = &server;
    config.n_servers = 1;
    config.auth_key = auth_key;
    if (memkv_client_open(&config, &client, &err) != MEMKV_OK) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    memset(&op, 0, sizeof op);
    op.code = MEMKV_OP_STAT;
    op.key = "key";
    op.key_len = 3;
    memkv_run(client, &op, 1, 1000);
    memkv_client_close(client);

    printf("%s: %s\n", MEMKV_VERSION_STRING, memkv_strerror(op.status));
    if (strcmp(memkv_version(), MEMKV_VERSION_STRING) != 0 || op.status == MEMKV_OK)
        return 1;
    return exported_like_ours() == 1 && limits[0] < limits[1] &&
                   limits[1] < limits[2] && sizeof name >= sizeof name_space
               ? 0
               : 1;
}
