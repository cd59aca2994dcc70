/* SPDX-License-Identifier: Apache-2.0
 * rdma_stub.c: rdma.h for a build that had no infiniband/verbs.h.  mkv_rdma_open says so;
 * since it is the only way to an mkv_rdma, the rest is never called.  memkv_rdma_describe
 * says so, too. */
#include "net/rdma.h"

#include "status.h"

static int fail_to_open(memkv_error *err)
{
    return mkv_fail(err, MEMKV_ERR_UNSUPPORTED, 0,
                    "this build has no RDMA: it was made without infiniband/verbs.h "
                    "(libibverbs-dev, rdma-core-devel)");
}

int memkv_rdma_describe(const char *library, const char *devices, int fd, char *json,
                        size_t cap, memkv_error *err)
{
    (void)library, (void)devices, (void)fd, (void)json, (void)cap;
    return fail_to_open(err);
}

int mkv_rdma_open(const char *library, const char *devices, mkv_rdma **out,
                  memkv_error *err)
{
    (void)library, (void)devices, (void)out;
    return fail_to_open(err);
}

void mkv_rdma_close(mkv_rdma *rdma)
{
    (void)rdma;
}

size_t mkv_rdma_max_target(const mkv_rdma *rdma)
{
    (void)rdma;
    return 0;
}

int mkv_memory_register(mkv_rdma *rdma, void *addr, size_t len, bool is_target,
                        mkv_memory **out, memkv_error *err)
{
    (void)rdma, (void)addr, (void)len, (void)is_target, (void)out, (void)err;
    return MEMKV_ERR_UNSUPPORTED;
}

int mkv_memory_complete(mkv_memory *memory, memkv_error *err)
{
    (void)memory, (void)err;
    return MEMKV_ERR_UNSUPPORTED;
}

void mkv_rdma_limit(mkv_rdma *rdma, const mkv_memory *memory)
{
    (void)rdma, (void)memory;
}

void mkv_memory_release(mkv_memory *memory)
{
    (void)memory;
}

int mkv_link_open(mkv_rdma *rdma, int fd, const mkv_rdma_params *peer,
                  uint32_t receives, mkv_link **out, mkv_rdma_params *own,
                  memkv_error *err)
{
    (void)rdma, (void)fd, (void)peer, (void)receives, (void)out, (void)own, (void)err;
    return MEMKV_ERR_UNSUPPORTED;
}

int mkv_link_connect(mkv_link *link, const mkv_rdma_params *peer, memkv_error *err)
{
    (void)link, (void)peer, (void)err;
    return MEMKV_ERR_UNSUPPORTED;
}

void mkv_link_close(mkv_link *link)
{
    (void)link;
}

const char *mkv_link_describe(const mkv_link *link)
{
    (void)link;
    return "none";
}

bool mkv_link_has(const mkv_link *link, const mkv_memory *memory)
{
    (void)link, (void)memory;
    return false;
}

uint32_t mkv_link_rkey(const mkv_link *link, const mkv_memory *memory)
{
    (void)link, (void)memory;
    return 0;
}

int mkv_link_transfer(mkv_link *link, const mkv_transfer *transfer)
{
    (void)link, (void)transfer;
    return MEMKV_ERR_UNSUPPORTED;
}

int mkv_link_poll(mkv_link *link, mkv_arrival *out, size_t cap, size_t *n)
{
    (void)link, (void)out, (void)cap, (void)n;
    return MEMKV_ERR_UNSUPPORTED;
}

int mkv_link_fd(const mkv_link *link)
{
    (void)link;
    return -1;
}

int mkv_link_arm(mkv_link *link)
{
    (void)link;
    return MEMKV_ERR_UNSUPPORTED;
}

void mkv_link_break(mkv_link *link)
{
    (void)link;
}
