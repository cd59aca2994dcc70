/* fake_objects.h: what fake_verbs.c makes and fake_nic.c works on.  One lock guards it all.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef MKV_FAKE_OBJECTS_H
#define MKV_FAKE_OBJECTS_H

#include <infiniband/verbs.h>
#include <pthread.h>
#include <stdbool.h>

#include "fake_verbs.h"

#define EXPORTED __attribute__((visibility("default")))
#define FAKE_MAX_GIDS 8
#define FAKE_MAX_SGE 16
#define FAKE_MAX_SGE_RD 3 /* some devices scatter a READ over fewer pieces */
#define FAKE_PIECE 16384

typedef struct fake_device {
    struct ibv_device base;
    bool is_up;
    bool is_ib;
    bool is_gone;
    uint16_t lid;
    int n_gids;
    union ibv_gid gids[FAKE_MAX_GIDS];
} fake_device;

typedef struct fake_region {
    struct ibv_mr base;
    int access;
    struct fake_region *next;
} fake_region;

typedef struct fake_qp fake_qp;

typedef struct fake_completion {
    struct ibv_wc wc;
    fake_qp *qp;
    uint64_t number; /* of the work request, to free its slot and those before it */
    bool is_receive;
} fake_completion;

typedef struct fake_cq {
    struct ibv_cq base;
    fake_completion *entries; /* a ring of base.cqe */
    int first;
    int n;
    bool is_armed;
    unsigned raised; /* events on the channel */
    unsigned taken;  /* events not acknowledged */
    struct fake_cq *next;
} fake_cq;

typedef struct fake_send {
    uint64_t number;
    struct ibv_send_wr wr;
    struct ibv_sge sge[FAKE_MAX_SGE];
} fake_send;

struct fake_qp {
    struct ibv_qp base;
    struct ibv_qp_cap cap;
    int access;
    struct ibv_qp_attr attr; /* of RTR and RTS */
    const union ibv_gid *gid;
    fake_send *sends; /* a ring of cap.max_send_wr; slots are free once polled */
    uint64_t *receives;
    uint64_t send_posted, send_done, send_freed;
    uint64_t receive_posted, receive_done, receive_freed;
    uint64_t to_flush; /* receives up to this number */
    bool is_dying;
    fake_qp *next;
};

typedef struct fake_nic {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    pthread_t thread;
    bool is_stopping;
    fake_qp *busy[2]; /* the two ends of the work request under way */
    fake_qp *qps;
    fake_cq *cqs;
    fake_region *regions;
    fake_verbs_counts counts;
    /* the script */
    bool is_held;
    long pace_us;
    long lag_us;
    uint64_t break_at; /* counts.requests; 0: never */
    uint64_t lose_at;
    uint64_t refuse_at; /* counts.registrations; 0: never */
    long slow_us;
    uint64_t max_mr_size;
    uint8_t n_ports;
    char refused[32];
} fake_nic;
extern fake_nic nic;

/* Sets errno if so. */
bool fake_is_refused(const char *call);
static inline bool fake_is_gone(const struct ibv_context *context)
{
    return ((const fake_device *)context->device)->is_gone;
}
/* Zeroed, and counted in `count`. */
void *fake_new(size_t size, uint32_t *count);

/* These with the lock held. */
void fake_start(void);
void fake_stop(void); /* lets go of the lock meanwhile */
void fake_complete(fake_qp *qp, const struct ibv_wc *wc, uint64_t number,
                   bool is_receive);
void fake_set_error(fake_qp *qp);
void fake_pause(long us); /* lets go of the lock meanwhile */

#endif
