/* answer.h: a reply frame with all it needs until it is sent: one block of memory, and
 * references to the values whose pages are its body.  First a draft, row by row; then an
 * answer of exactly the right size.  Knows nothing of requests.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef MKV_ANSWER_H
#define MKV_ANSWER_H

#include <stdatomic.h>
#include <stdbool.h>

#include "protocol/session.h"
#include "server/store.h"

/* Payload of one frame, unless a single value is larger. */
#define MKV_ANSWER_PAYLOAD (4u << 20)

/* The rows of the next reply frame.  Keys and headers point into what `values`
 * references.  One for each thread: it is large, and empty between two calls. */
typedef struct mkv_draft {
    size_t n;
    size_t table_len;
    uint64_t payload; /* inline and remote */
    mkv_reply rows[MKV_MAX_ITEMS];
    mkv_value *values[MKV_MAX_ITEMS]; /* NULL: none is held for that row */
} mkv_draft;

/* Would the row still go in?  The first one always does. */
bool mkv_draft_fits(const mkv_draft *draft, const mkv_reply *row, size_t max_table);
/* Takes over the reference (NULL: none).  Assumes that it fits. */
void mkv_draft_add(mkv_draft *draft, const mkv_reply *row, mkv_value *value);

/* Where answers come from.  Memory for control bytes is counted over all connections. */
typedef struct mkv_answers {
    mkv_store *store;
    uint64_t page_size;
    _Atomic uint64_t bytes;
} mkv_answers;

typedef struct mkv_answer {
    mkv_outgoing node; /* first, so that a node that comes back is its answer */
    mkv_frame frame;
    uint64_t due_ms; /* the connection's: not sent by then, it is closed */
    uint64_t counted;
    mkv_answers *origin;
    size_t n_values;
    mkv_value **values;
} mkv_answer;

/* An answer to the request (kind, id) with the draft's rows; empties the draft, also on
 * failure (NO_MEMORY).  node.control has its table in place; the session adds the rest. */
int mkv_answer_make(mkv_answers *answers, const mkv_frame *request, mkv_draft *draft,
                    bool last, mkv_answer **out);
/* An answer without rows: a status, or a text as the table. */
int mkv_answer_plain(mkv_answers *answers, const mkv_frame *request, int status,
                     const void *table, size_t table_len, mkv_answer **out);
/* NULL is fine. */
void mkv_answer_free(mkv_answer *answer);

#endif
