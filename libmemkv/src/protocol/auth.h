/* auth.h: the handshake's proofs and the tag on every frame, over libcrypto's
 * HMAC-SHA256 (docs/wire.md, "Authentication").  Knows bytes, not frames.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef MKV_AUTH_H
#define MKV_AUTH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "memkv/memkv.h"

/* cffi: on */
#define MKV_PROOF_LEN 32
#define MKV_TAG_LEN 16

typedef enum mkv_sender { MKV_FROM_CLIENT = 0, MKV_FROM_SERVER = 1 } mkv_sender;

/* Both HELLO frames, whole, as they went over the stream. */
typedef struct mkv_transcript {
    const uint8_t *client_hello;
    size_t client_hello_len;
    const uint8_t *server_hello;
    size_t server_hello_len;
} mkv_transcript;

/* Names a key without telling it: two ends compare these first, so that a wrong key is
 * an error that says so. */
int mkv_key_id(const uint8_t key[MEMKV_AUTH_KEY_LEN], uint64_t *out);

/* What `sender` puts into its AUTH frame. */
int mkv_proof(const uint8_t key[MEMKV_AUTH_KEY_LEN], mkv_sender sender,
              const mkv_transcript *transcript, uint8_t out[MKV_PROOF_LEN]);

/* In constant time. */
bool mkv_equal(const void *a, const void *b, size_t len);

/* Tags the frames of one direction; counts them, so that none can be replayed, dropped
 * or swapped.  One thread.  open makes it (from the session key of `sender`), close
 * frees it and forgets the key; NULL is fine. */
typedef struct mkv_tagger mkv_tagger;

int mkv_tagger_open(const uint8_t key[MEMKV_AUTH_KEY_LEN], mkv_sender sender,
                    const mkv_transcript *transcript, mkv_tagger **out);
/* The tag of the next frame: over the sequence number, `prefix` (its tag field zero)
 * and `table`.  Counts one frame. */
int mkv_tagger_next(mkv_tagger *tagger, const uint8_t *prefix, size_t prefix_len,
                    const uint8_t *table, size_t table_len, uint8_t out[MKV_TAG_LEN]);
void mkv_tagger_close(mkv_tagger *tagger);
/* cffi: off */

#endif
