/* session.c: the order of frames on one connection, both roles: greeting, proof, then
 * requests one way and replies the other.  What a frame's items mean, where bytes come
 * from and what time it is are not known here.
 * SPDX-License-Identifier: Apache-2.0 */
#include "protocol/session.h"

#include <string.h>

#define AUTH_ID 1u /* HELLO has id 0 */

enum phase { PHASE_HELLO, PHASE_AUTH, PHASE_OPEN, PHASE_CLOSED };

/* How far the frame being read has come. */
enum step { STEP_PREFIX, STEP_NEED_TABLE, STEP_TABLE, STEP_CHECK, STEP_BODY };

/* ---- the frame on its way out ------------------------------------------------------ */

static void append(mkv_session *session, mkv_outgoing *out)
{
    out->next = NULL;
    out->control_sent = 0;
    if (session->out_tail != NULL)
        session->out_tail->next = out;
    else
        session->out_head = out;
    session->out_tail = out;
    session->out_bytes += out->left;
}

/* A frame of the handshake: untagged, in the session's own memory. */
static int greet(mkv_session *session, mkv_outgoing *node, uint8_t *control,
                 uint8_t kind, int status, size_t table_len)
{
    mkv_frame frame = {.kind = kind, .flags = MKV_FRAME_LAST, .status = status};
    frame.id = kind == MKV_AUTH ? AUTH_ID : 0;
    frame.table_len = (uint32_t)table_len;
    if (session->role == MKV_SERVER)
        frame.flags |= MKV_FRAME_REPLY;
    int rc = mkv_frame_encode(&frame, control);
    if (rc != MEMKV_OK)
        return rc;
    *node = (mkv_outgoing){.control = control,
                           .control_len = MKV_PREFIX_LEN + table_len,
                           .left = MKV_PREFIX_LEN + table_len};
    append(session, node);
    return MEMKV_OK;
}

int mkv_session_send(mkv_session *session, mkv_frame *frame, mkv_outgoing *out)
{
    if (session->phase != PHASE_OPEN)
        return MEMKV_ERR_INVALID;
    memset(frame->tag, 0, sizeof frame->tag);
    int rc = mkv_frame_encode(frame, out->control);
    if (rc == MEMKV_OK && session->tag_out != NULL)
        rc = mkv_tagger_next(session->tag_out, out->control, MKV_PREFIX_LEN,
                             out->control + MKV_PREFIX_LEN, frame->table_len,
                             out->control + MKV_TAG_OFFSET);
    if (rc != MEMKV_OK)
        return rc;
    out->control_len = MKV_PREFIX_LEN + frame->table_len;
    out->left = out->control_len + frame->body_len;
    append(session, out);
    return MEMKV_OK;
}

size_t mkv_session_want_write(mkv_session *session, struct iovec *iov, size_t cap)
{
    size_t n = 0;
    for (mkv_outgoing *out = session->out_head; out != NULL && n < cap;
         out = out->next) {
        if (out->control_sent < out->control_len) {
            iov[n].iov_base = out->control + out->control_sent;
            iov[n++].iov_len = out->control_len - out->control_sent;
        }
        for (size_t i = 0; i < out->n_body && n < cap; i++)
            iov[n++] = out->body[i];
    }
    return n;
}

static size_t advance_outgoing(mkv_outgoing *out, size_t n)
{
    size_t moved = n < out->left ? n : (size_t)out->left;
    size_t control = out->control_len - out->control_sent;
    if (control > moved)
        control = moved;
    out->control_sent += control;
    out->n_body = mkv_iov_advance(&out->body, out->n_body, moved - control);
    out->left -= moved;
    return moved;
}

mkv_outgoing *mkv_session_did_write(mkv_session *session, size_t n)
{
    mkv_outgoing *done = NULL, **last = &done;
    while (session->out_head != NULL) {
        mkv_outgoing *out = session->out_head;
        size_t moved = advance_outgoing(out, n);
        n -= moved;
        session->out_bytes -= moved;
        if (out->left > 0)
            break;
        session->out_head = out->next;
        if (session->out_head == NULL)
            session->out_tail = NULL;
        out->next = NULL;
        if (out != &session->hello_node && out != &session->auth_node) {
            *last = out;
            last = &out->next;
        }
    }
    return done;
}

size_t mkv_iov_advance(struct iovec **iov, size_t n_iov, size_t n)
{
    while (n_iov > 0 && n >= (*iov)->iov_len) {
        n -= (*iov)->iov_len;
        (*iov)++;
        n_iov--;
    }
    if (n_iov > 0 && n > 0) {
        (*iov)->iov_base = (uint8_t *)(*iov)->iov_base + n;
        (*iov)->iov_len -= n;
    }
    return n_iov;
}

/* ---- life -------------------------------------------------------------------------- */

static uint8_t suite_of(const mkv_session *session)
{
    return session->self.key != NULL ? MKV_SUITE_HMAC_SHA256 : MKV_SUITE_NONE;
}

static int send_client_hello(mkv_session *session)
{
    const mkv_identity *self = &session->self;
    mkv_client_hello hello = {.version_low = MKV_VERSION,
                              .version_high = MKV_VERSION,
                              .features = self->features,
                              .suite = suite_of(session),
                              .max_requests = self->max_requests,
                              .max_table = MKV_MAX_TABLE,
                              .key_id = self->key_id,
                              .client_id = self->id,
                              .name_space = session->own_label,
                              .name_space_len = self->label_len};
    memcpy(hello.nonce, self->nonce, sizeof hello.nonce);
    size_t len;
    int rc = mkv_client_hello_encode(&hello, session->hello_out + MKV_PREFIX_LEN,
                                     sizeof session->hello_out - MKV_PREFIX_LEN, &len);
    if (rc != MEMKV_OK)
        return rc;
    session->hello_out_len = MKV_PREFIX_LEN + len;
    return greet(session, &session->hello_node, session->hello_out, MKV_HELLO, MEMKV_OK,
                 len);
}

int mkv_session_init(mkv_session *session, mkv_role role, const mkv_identity *self)
{
    if (self->label_len > sizeof session->own_label)
        return MEMKV_ERR_INVALID;
    memset(session, 0, sizeof *session);
    session->role = role;
    session->self = *self;
    if (self->label_len > 0)
        memcpy(session->own_label, self->label, self->label_len);
    session->self.label = session->own_label;
    return role == MKV_CLIENT ? send_client_hello(session) : MEMKV_OK;
}

void mkv_session_fini(mkv_session *session)
{
    mkv_tagger_close(session->tag_in);
    mkv_tagger_close(session->tag_out);
    session->tag_in = session->tag_out = NULL;
}

bool mkv_session_is_open(const mkv_session *session)
{
    return session->phase == PHASE_OPEN;
}

bool mkv_session_is_quiet(const mkv_session *session)
{
    return session->phase == PHASE_OPEN && session->out_head == NULL &&
           session->step == STEP_PREFIX && session->prefix_have == 0;
}

void mkv_session_hang_up(mkv_session *session, int reason)
{
    if (session->phase == PHASE_CLOSED)
        return;
    session->phase = PHASE_CLOSED;
    session->reason = reason;
}

static mkv_event fail(mkv_session *session, int reason)
{
    mkv_session_hang_up(session, reason);
    return MKV_EVENT_CLOSED;
}

/* ---- the handshake ----------------------------------------------------------------- */

static mkv_transcript transcript_of(const mkv_session *session)
{
    mkv_transcript in_order = {session->hello_out, session->hello_out_len,
                               session->hello_in, session->hello_in_len};
    if (session->role == MKV_SERVER)
        in_order = (mkv_transcript){session->hello_in, session->hello_in_len,
                                    session->hello_out, session->hello_out_len};
    return in_order;
}

static mkv_sender sender_of(mkv_role role)
{
    return role == MKV_CLIENT ? MKV_FROM_CLIENT : MKV_FROM_SERVER;
}

static int send_proof(mkv_session *session)
{
    mkv_transcript transcript = transcript_of(session);
    int rc = mkv_proof(session->self.key, sender_of(session->role), &transcript,
                       session->auth_out + MKV_PREFIX_LEN);
    if (rc != MEMKV_OK)
        return rc;
    return greet(session, &session->auth_node, session->auth_out, MKV_AUTH, MEMKV_OK,
                 MKV_PROOF_LEN);
}

static mkv_event become_open(mkv_session *session)
{
    if (session->self.key != NULL) {
        mkv_transcript transcript = transcript_of(session);
        mkv_sender own = sender_of(session->role);
        mkv_sender other =
            sender_of(session->role == MKV_CLIENT ? MKV_SERVER : MKV_CLIENT);
        int rc =
            mkv_tagger_open(session->self.key, own, &transcript, &session->tag_out);
        if (rc == MEMKV_OK)
            rc = mkv_tagger_open(session->self.key, other, &transcript,
                                 &session->tag_in);
        if (rc != MEMKV_OK)
            return fail(session, rc);
    }
    session->phase = PHASE_OPEN;
    return MKV_EVENT_OPEN;
}

static mkv_event after_hellos(mkv_session *session)
{
    if (session->self.key == NULL)
        return become_open(session);
    session->phase = PHASE_AUTH;
    if (session->role == MKV_SERVER)
        return MKV_EVENT_NONE;
    int rc = send_proof(session);
    return rc == MEMKV_OK ? MKV_EVENT_NONE : fail(session, rc);
}

/* Says why, then hangs up. */
static mkv_event refuse(mkv_session *session, mkv_outgoing *node, uint8_t *control,
                        uint8_t kind, int status)
{
    int rc = greet(session, node, control, kind, status, 0);
    return fail(session, rc == MEMKV_OK ? status : rc);
}

static int send_server_hello(mkv_session *session)
{
    const mkv_identity *self = &session->self;
    mkv_server_hello hello = {.version = MKV_VERSION,
                              .features = session->peer.features,
                              .suite = suite_of(session),
                              .max_requests = self->max_requests,
                              .max_table = MKV_MAX_TABLE,
                              .boot_id = self->id,
                              .uptime_ms = self->uptime_ms,
                              .name = session->own_label,
                              .name_len = self->label_len};
    memcpy(hello.nonce, self->nonce, sizeof hello.nonce);
    size_t len;
    int rc = mkv_server_hello_encode(&hello, session->hello_out + MKV_PREFIX_LEN,
                                     sizeof session->hello_out - MKV_PREFIX_LEN, &len);
    if (rc != MEMKV_OK)
        return rc;
    session->hello_out_len = MKV_PREFIX_LEN + len;
    return greet(session, &session->hello_node, session->hello_out, MKV_HELLO, MEMKV_OK,
                 len);
}

static void set_peer(mkv_session *session, const uint8_t *label, uint32_t label_len,
                     uint64_t id, uint32_t max_requests, uint32_t max_table)
{
    mkv_peer_info *peer = &session->peer;
    if (label_len > 0)
        memcpy(peer->label, label, label_len);
    peer->label_len = label_len;
    peer->id = id;
    peer->max_requests = max_requests < session->self.max_requests
                             ? max_requests
                             : session->self.max_requests;
    peer->max_table = max_table;
}

static mkv_event server_greeted(mkv_session *session)
{
    mkv_client_hello hello;
    if (mkv_client_hello_decode(session->table, session->frame.table_len, &hello) !=
        MEMKV_OK)
        return fail(session, MEMKV_ERR_PROTOCOL);
    if (hello.version_low > MKV_VERSION || hello.version_high < MKV_VERSION)
        return refuse(session, &session->hello_node, session->hello_out, MKV_HELLO,
                      MEMKV_ERR_VERSION);
    if (hello.suite != suite_of(session) || hello.key_id != session->self.key_id)
        return refuse(session, &session->hello_node, session->hello_out, MKV_HELLO,
                      MEMKV_ERR_AUTH);
    set_peer(session, hello.name_space, hello.name_space_len, hello.client_id,
             hello.max_requests, hello.max_table);
    session->peer.features = hello.features & session->self.features;
    int rc = send_server_hello(session);
    return rc == MEMKV_OK ? after_hellos(session) : fail(session, rc);
}

static mkv_event client_greeted(mkv_session *session)
{
    int status = session->frame.status;
    if (status == MEMKV_ERR_VERSION || status == MEMKV_ERR_AUTH)
        return fail(session, status);
    mkv_server_hello hello;
    if (status != MEMKV_OK ||
        mkv_server_hello_decode(session->table, session->frame.table_len, &hello) !=
            MEMKV_OK)
        return fail(session, MEMKV_ERR_PROTOCOL);
    if (hello.version != MKV_VERSION)
        return fail(session, MEMKV_ERR_VERSION);
    if (hello.suite != suite_of(session)) /* never talked down to no authentication */
        return fail(session, MEMKV_ERR_AUTH);
    set_peer(session, hello.name, hello.name_len, hello.boot_id, hello.max_requests,
             hello.max_table);
    session->peer.uptime_ms = hello.uptime_ms;
    session->peer.features = hello.features & session->self.features;
    return after_hellos(session);
}

static bool proof_is_right(mkv_session *session, mkv_sender sender)
{
    mkv_transcript transcript = transcript_of(session);
    uint8_t expected[MKV_PROOF_LEN];
    return session->frame.status == MEMKV_OK &&
           session->frame.table_len == MKV_PROOF_LEN &&
           mkv_proof(session->self.key, sender, &transcript, expected) == MEMKV_OK &&
           mkv_equal(expected, session->proof_in, MKV_PROOF_LEN);
}

static mkv_event proven(mkv_session *session)
{
    if (session->role == MKV_CLIENT)
        return proof_is_right(session, MKV_FROM_SERVER) ? become_open(session)
                                                        : fail(session, MEMKV_ERR_AUTH);
    if (!proof_is_right(session, MKV_FROM_CLIENT))
        return refuse(session, &session->auth_node, session->auth_out, MKV_AUTH,
                      MEMKV_ERR_AUTH);
    int rc = send_proof(session);
    return rc == MEMKV_OK ? become_open(session) : fail(session, rc);
}

/* ---- the frame on its way in ------------------------------------------------------- */

static bool has_items(uint8_t kind)
{
    return kind >= MKV_STAT && kind <= MKV_LIST;
}

/* Which frame may come now: the whole of the protocol's order. */
static bool may_come(const mkv_session *session, const mkv_frame *frame)
{
    bool is_reply = (frame->flags & MKV_FRAME_REPLY) != 0;
    if (is_reply != (session->role == MKV_CLIENT))
        return false;
    switch (session->phase) {
    case PHASE_HELLO:
        return frame->kind == MKV_HELLO && frame->id == 0 && frame->body_len == 0 &&
               frame->table_len <= MKV_MAX_GREETING - MKV_PREFIX_LEN;
    case PHASE_AUTH:
        return frame->kind == MKV_AUTH && frame->id == AUTH_ID &&
               frame->body_len == 0 && frame->table_len <= MKV_PROOF_LEN;
    default:
        return frame->kind != MKV_HELLO && frame->kind != MKV_AUTH &&
               (!is_reply || frame->kind <= MKV_PING);
    }
}

static int begin_frame(mkv_session *session)
{
    int rc = mkv_frame_decode(session->prefix, &session->frame);
    if (rc != MEMKV_OK)
        return rc;
    if (!may_come(session, &session->frame))
        return MEMKV_ERR_PROTOCOL;
    session->table = NULL;
    session->table_have = 0;
    session->body_left = session->frame.body_len;
    session->n_sink = 0;
    session->step = STEP_NEED_TABLE;
    if (session->phase == PHASE_HELLO)
        mkv_session_give_table(session, session->hello_in + MKV_PREFIX_LEN);
    else if (session->phase == PHASE_AUTH)
        mkv_session_give_table(session, session->proof_in);
    else if (session->frame.table_len == 0)
        session->step = STEP_CHECK;
    return MEMKV_OK;
}

static int check_tag(mkv_session *session)
{
    static const uint8_t zero[MKV_TAG_LEN];
    uint8_t expected[MKV_TAG_LEN] = {0};
    if (session->tag_in != NULL) {
        memcpy(session->prefix + MKV_TAG_OFFSET, zero, sizeof zero);
        int rc = mkv_tagger_next(session->tag_in, session->prefix, MKV_PREFIX_LEN,
                                 session->table, session->frame.table_len, expected);
        if (rc != MEMKV_OK)
            return rc;
    }
    return mkv_equal(expected, session->frame.tag, MKV_TAG_LEN) ? MEMKV_OK
                                                                : MEMKV_ERR_PROTOCOL;
}

static int check_table(const mkv_session *session)
{
    const mkv_frame *frame = &session->frame;
    mkv_cursor cursor;
    if (!has_items(frame->kind))
        return MEMKV_OK;
    return session->role == MKV_SERVER
               ? mkv_requests_begin(frame, session->table, &cursor)
               : mkv_replies_begin(frame, session->table, &cursor);
}

static mkv_event handshake(mkv_session *session)
{
    session->step = STEP_PREFIX;
    session->prefix_have = 0;
    if (session->phase == PHASE_AUTH)
        return proven(session);
    memcpy(session->hello_in, session->prefix, MKV_PREFIX_LEN);
    session->hello_in_len = MKV_PREFIX_LEN + session->frame.table_len;
    return session->role == MKV_SERVER ? server_greeted(session)
                                       : client_greeted(session);
}

static mkv_event check_frame(mkv_session *session)
{
    int rc = check_tag(session);
    if (rc != MEMKV_OK)
        return fail(session, rc);
    if (session->phase != PHASE_OPEN)
        return handshake(session);
    rc = check_table(session);
    if (rc != MEMKV_OK)
        return fail(session, rc);
    session->step = STEP_BODY;
    session->prefix_have = 0;
    return MKV_EVENT_FRAME;
}

static mkv_event after_body(mkv_session *session)
{
    if (session->body_left > 0)
        return session->n_sink == 0 ? MKV_EVENT_BODY : MKV_EVENT_NONE;
    session->step = STEP_PREFIX;
    session->table = NULL;
    return MKV_EVENT_END;
}

mkv_event mkv_session_next(mkv_session *session)
{
    for (;;) {
        if (session->phase == PHASE_CLOSED)
            return MKV_EVENT_CLOSED;
        switch (session->step) {
        case STEP_PREFIX: {
            if (session->prefix_have < MKV_PREFIX_LEN)
                return MKV_EVENT_NONE;
            int rc = begin_frame(session);
            if (rc != MEMKV_OK)
                return fail(session, rc);
            break;
        }
        case STEP_NEED_TABLE:
            return MKV_EVENT_TABLE;
        case STEP_TABLE:
            if (session->table_have < session->frame.table_len)
                return MKV_EVENT_NONE;
            session->step = STEP_CHECK;
            break;
        case STEP_CHECK: {
            mkv_event event = check_frame(session);
            if (event != MKV_EVENT_NONE)
                return event;
            break;
        }
        default:
            return after_body(session);
        }
    }
}

void mkv_session_give_table(mkv_session *session, uint8_t *table)
{
    session->table = table;
    session->step = STEP_TABLE;
}

void mkv_session_give_sink(mkv_session *session, struct iovec *iov, size_t n)
{
    session->sink = iov;
    session->n_sink = n;
}

static void name_prefix(mkv_session *session, struct iovec *iov)
{
    iov->iov_base = session->prefix + session->prefix_have;
    iov->iov_len = MKV_PREFIX_LEN - session->prefix_have;
}

/* The sink, and behind the body's last byte the next frame's prefix: one system call
 * less a frame. */
static size_t want_body(mkv_session *session, struct iovec *iov, size_t cap)
{
    uint64_t room = 0;
    size_t n = 0;
    for (; n < session->n_sink && n < cap - 1; n++) {
        iov[n] = session->sink[n];
        room += iov[n].iov_len;
    }
    if (n > 0 && room == session->body_left)
        name_prefix(session, &iov[n++]);
    return n;
}

size_t mkv_session_want_read(mkv_session *session, struct iovec *iov, size_t cap)
{
    if (session->phase == PHASE_CLOSED)
        return 0;
    switch (session->step) {
    case STEP_PREFIX:
        name_prefix(session, iov);
        return iov->iov_len > 0;
    case STEP_TABLE:
        iov->iov_base = session->table + session->table_have;
        iov->iov_len = session->frame.table_len - session->table_have;
        return iov->iov_len > 0;
    case STEP_BODY:
        return want_body(session, iov, cap);
    default:
        return 0;
    }
}

void mkv_session_did_read(mkv_session *session, size_t n)
{
    if (session->step == STEP_TABLE) {
        session->table_have += n;
        return;
    }
    if (session->step == STEP_BODY) {
        size_t body = n < session->body_left ? n : (size_t)session->body_left;
        session->n_sink = mkv_iov_advance(&session->sink, session->n_sink, body);
        session->body_left -= body;
        n -= body;
    }
    session->prefix_have += n;
}
