/* answer.c: drafts and reply frames (answer.h).
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/answer.h"

#include <stdlib.h>
#include <string.h>

static size_t row_size(const mkv_reply *row)
{
    return mkv_replies_size(row, 1);
}

static bool is_inline(const mkv_reply *row)
{
    return row->flags & MKV_ITEM_PAYLOAD;
}

static uint64_t row_payload(const mkv_reply *row)
{
    return row->flags & (MKV_ITEM_PAYLOAD | MKV_ITEM_REMOTE) ? row->length : 0;
}

bool mkv_draft_fits(const mkv_draft *draft, const mkv_reply *row, size_t max_table)
{
    if (draft->n == 0)
        return true;
    return draft->n < MKV_MAX_ITEMS && draft->table_len + row_size(row) <= max_table &&
           draft->payload + row_payload(row) <= MKV_ANSWER_PAYLOAD;
}

void mkv_draft_add(mkv_draft *draft, const mkv_reply *row, mkv_value *value)
{
    draft->rows[draft->n] = *row;
    draft->values[draft->n++] = value;
    draft->table_len += row_size(row);
    draft->payload += row_payload(row);
}

static void empty_draft(mkv_draft *draft, mkv_store *store)
{
    for (size_t i = 0; i < draft->n; i++)
        mkv_value_release(store, draft->values[i]);
    draft->n = 0;
    draft->table_len = 0;
    draft->payload = 0;
}

static size_t most_pages(const mkv_answers *answers, uint64_t length)
{
    return (size_t)(length / answers->page_size) + 1;
}

/* One block: the answer, its iovecs, its values, its control bytes. */
static mkv_answer *allocate(mkv_answers *answers, size_t n_iov, size_t n_values,
                            size_t table_len)
{
    size_t size = sizeof(mkv_answer) + n_iov * sizeof(struct iovec) +
                  n_values * sizeof(mkv_value *) + MKV_PREFIX_LEN + table_len;
    mkv_answer *answer = malloc(size);
    if (answer == NULL)
        return NULL;
    memset(answer, 0, sizeof *answer);
    answer->node.body = (struct iovec *)(answer + 1);
    answer->values = (mkv_value **)(answer->node.body + n_iov);
    answer->node.control = (uint8_t *)(answer->values + n_values);
    answer->counted = size;
    answer->origin = answers;
    atomic_fetch_add_explicit(&answers->bytes, size, memory_order_relaxed);
    return answer;
}

static mkv_frame frame_for(const mkv_frame *request, int status, bool last)
{
    mkv_frame frame = {.kind = request->kind, .id = request->id, .status = status};
    frame.flags = last ? MKV_FRAME_REPLY | MKV_FRAME_LAST : MKV_FRAME_REPLY;
    return frame;
}

/* Moves the references of what is sent, either way, from the draft into the answer. */
static void take_payload(mkv_answer *answer, mkv_draft *draft)
{
    mkv_answers *answers = answer->origin;
    mkv_outgoing *node = &answer->node;

    for (size_t i = 0; i < draft->n; i++) {
        uint64_t length = row_payload(&draft->rows[i]);
        if (length == 0)
            continue;
        if (is_inline(&draft->rows[i]))
            node->n_body +=
                mkv_value_iov(draft->values[i], 0, length, node->body + node->n_body,
                              most_pages(answers, length));
        answer->values[answer->n_values++] = draft->values[i];
        draft->values[i] = NULL;
    }
}

int mkv_answer_make(mkv_answers *answers, const mkv_frame *request, mkv_draft *draft,
                    bool last, mkv_answer **out)
{
    size_t n_iov = 0, n_values = 0;

    for (size_t i = 0; i < draft->n; i++) {
        uint64_t length = row_payload(&draft->rows[i]);
        n_iov += is_inline(&draft->rows[i]) ? most_pages(answers, length) : 0;
        n_values += length > 0;
    }
    mkv_answer *answer = allocate(answers, n_iov, n_values, draft->table_len);
    int status = answer != NULL ? MEMKV_OK : MEMKV_ERR_NO_MEMORY;
    if (status == MEMKV_OK) {
        answer->frame = frame_for(request, MEMKV_OK, last);
        status =
            mkv_replies_encode(&answer->frame, draft->rows, draft->n,
                               answer->node.control + MKV_PREFIX_LEN, draft->table_len);
    }
    if (status == MEMKV_OK) {
        take_payload(answer, draft);
        *out = answer;
    } else {
        mkv_answer_free(answer);
    }
    empty_draft(draft, answers->store);
    return status;
}

int mkv_answer_plain(mkv_answers *answers, const mkv_frame *request, int status,
                     const void *table, size_t table_len, mkv_answer **out)
{
    mkv_answer *answer = allocate(answers, 0, 0, table_len);
    if (answer == NULL)
        return MEMKV_ERR_NO_MEMORY;
    answer->frame = frame_for(request, status, true);
    answer->frame.table_len = (uint32_t)table_len;
    if (table_len > 0)
        memcpy(answer->node.control + MKV_PREFIX_LEN, table, table_len);
    *out = answer;
    return MEMKV_OK;
}

void mkv_answer_free(mkv_answer *answer)
{
    if (answer == NULL)
        return;
    for (size_t i = 0; i < answer->n_values; i++)
        mkv_value_release(answer->origin->store, answer->values[i]);
    atomic_fetch_sub_explicit(&answer->origin->bytes, answer->counted,
                              memory_order_relaxed);
    free(answer);
}
