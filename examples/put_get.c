/* put_get.c: stores a value on a MemKV server and reads it back.
 *
 *     cc put_get.c $(pkg-config --cflags --libs memkv) -o put_get
 *     ./put_get 127.0.0.1:9900
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <memkv/memkv.h>
#include <stdio.h>

/* A batch of one; it may as well hold thousands.  Returns within a second. */
static int run_one(memkv_client *client, memkv_op *op)
{
    int status = memkv_run(client, op, 1, 1000);
    return status == MEMKV_OK ? op->status : status;
}

int main(int argc, char **argv)
{
    char in[] = "computed once, by any process", out[64];
    memkv_address server = {.address = argc > 1 ? argv[1] : "127.0.0.1:9900"};
    memkv_op put = {.code = MEMKV_OP_PUT,
                    .key = "greeting",
                    .key_len = 8,
                    .data = in,
                    .data_len = sizeof in};
    memkv_op get = {.code = MEMKV_OP_GET,
                    .key = "greeting",
                    .key_len = 8,
                    .data = out,
                    .data_len = sizeof out};
    memkv_client_config config;
    memkv_client *client;
    memkv_error err;

    memkv_client_config_init(&config);
    config.servers = &server;
    config.n_servers = 1;
    int status = memkv_client_open(&config, &client, &err);
    if (status != MEMKV_OK) {
        fprintf(stderr, "%s\n", err.text);
        return 2;
    }
    status = run_one(client, &put);
    if (status == MEMKV_OK || status == MEMKV_ERR_EXISTS)
        status = run_one(client, &get);
    if (status == MEMKV_OK)
        printf("%.*s\n", (int)get.data_size, out);
    else
        fprintf(stderr, "%s: %s\n", server.address, memkv_strerror(status));
    memkv_client_close(client);
    return status == MEMKV_OK ? 0 : 1;
}
