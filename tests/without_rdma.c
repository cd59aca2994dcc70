/* without_rdma.c: a user of a library that was built without rdma-core's headers: what
 * needs RDMA says so, and the rest works.
 * SPDX-License-Identifier: Apache-2.0 */
#include "memkv/memkv.h"

#include <stdio.h>
#include <string.h>

#define REASON "this build has no RDMA: it was made without infiniband/verbs.h"

static const char *claim; /* that did not hold, else NULL */

static void check(int holds, const char *text)
{
    if (!holds && claim == NULL)
        claim = text;
}

static int says_why(int status, const memkv_error *err)
{
    return status == MEMKV_ERR_UNSUPPORTED && err->status == status &&
           strstr(err->text, REASON) != NULL;
}

int main(void)
{
    memkv_error err = {0};
    char text[256] = "untouched";
    memkv_server *server = NULL;
    memkv_server_config config;

    memkv_server_config_init(&config);
    config.address = "127.0.0.1:0";
    config.memory = 1 << 20;

    config.transport = MEMKV_TRANSPORT_RDMA;
    int status = memkv_server_open(&config, &server, &err);
    check(says_why(status, &err) && server == NULL, "a server of RDMA alone says why");

    config.transport = MEMKV_TRANSPORT_AUTO;
    status = memkv_server_open(&config, &server, &err);
    check(status == MEMKV_OK, "a server of any transport opens");

    memset(&err, 0, sizeof err);
    status = memkv_rdma_describe(NULL, NULL, -1, text, sizeof text, &err);
    check(says_why(status, &err), "a description of the devices says why");
    check(strcmp(text, "untouched") == 0, "a call that fails leaves its output alone");

    if (server != NULL)
        check(memkv_server_rdma(server, text, sizeof text) == MEMKV_ERR_UNSUPPORTED &&
                  strstr(text, REASON) != NULL,
              "a server of any transport says why its clients have no RDMA");
    memkv_server_close(server);
    if (claim != NULL)
        fprintf(stderr, "not so: %s (%s)\n", claim, err.text);
    return claim != NULL;
}
