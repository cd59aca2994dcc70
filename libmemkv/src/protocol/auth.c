/* SPDX-License-Identifier: Apache-2.0
 * auth.c: the handshake's proofs, the session keys and the frames' tags, all of them
 * HMAC-SHA256 of libcrypto (docs/wire.md, "Authentication").  Knows bytes, not frames:
 * what is proven and when is session.c's. */
#include "protocol/auth.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/bytes.h"

#define DIGEST_LEN 32

static const char *const PROOF_LABELS[] = {"memkv-1 client proof",
                                           "memkv-1 server proof"};
static const char *const FRAME_LABELS[] = {"memkv-1 client frames",
                                           "memkv-1 server frames"};
static const char KEY_ID_LABEL[] = "memkv-1 key id";

struct mkv_tagger {
    EVP_MAC_CTX *hmac; /* reused: a new one for each frame costs three times as much */
    uint64_t sequence; /* of the next frame */
};

/* An HMAC-SHA256 context ready for its first update. */
static int open_hmac(const uint8_t key[MEMKV_AUTH_KEY_LEN], EVP_MAC_CTX **out)
{
    EVP_MAC *mac = EVP_MAC_fetch(NULL, "HMAC", NULL);
    if (mac == NULL)
        return MEMKV_ERR_UNSUPPORTED;
    EVP_MAC_CTX *hmac = EVP_MAC_CTX_new(mac);
    EVP_MAC_free(mac); /* the context holds its own reference */
    if (hmac == NULL)
        return MEMKV_ERR_NO_MEMORY;
    char digest[] = "SHA256";
    const OSSL_PARAM params[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0),
        OSSL_PARAM_construct_end(),
    };
    if (EVP_MAC_init(hmac, key, MEMKV_AUTH_KEY_LEN, params) != 1) {
        EVP_MAC_CTX_free(hmac);
        return MEMKV_ERR_UNSUPPORTED;
    }
    *out = hmac;
    return MEMKV_OK;
}

static int finish_hmac(EVP_MAC_CTX *hmac, uint8_t out[DIGEST_LEN])
{
    size_t len = 0;
    if (EVP_MAC_final(hmac, out, &len, DIGEST_LEN) != 1 || len != DIGEST_LEN)
        return MEMKV_ERR_SYSTEM;
    return MEMKV_OK;
}

static bool add_text(EVP_MAC_CTX *hmac, const char *text)
{
    return EVP_MAC_update(hmac, (const uint8_t *)text, strlen(text)) == 1;
}

static bool add_framed(EVP_MAC_CTX *hmac, const uint8_t *data, size_t len)
{
    uint8_t prefix[4];
    mkv_put_u32(prefix, (uint32_t)len);
    return EVP_MAC_update(hmac, prefix, sizeof(prefix)) == 1 &&
           EVP_MAC_update(hmac, data, len) == 1;
}

/* The digest of a label and, unless it is NULL, the transcript. */
static int derive(const uint8_t key[MEMKV_AUTH_KEY_LEN], const char *label,
                  const mkv_transcript *transcript, uint8_t out[DIGEST_LEN])
{
    EVP_MAC_CTX *hmac = NULL;
    int status = open_hmac(key, &hmac);
    if (status != MEMKV_OK)
        return status;
    bool added = add_text(hmac, label);
    if (added && transcript != NULL)
        added =
            add_framed(hmac, transcript->client_hello, transcript->client_hello_len) &&
            add_framed(hmac, transcript->server_hello, transcript->server_hello_len);
    uint8_t digest[DIGEST_LEN];
    status = added ? finish_hmac(hmac, digest) : MEMKV_ERR_SYSTEM;
    if (status == MEMKV_OK)
        memcpy(out, digest, DIGEST_LEN);
    OPENSSL_cleanse(digest, sizeof(digest));
    EVP_MAC_CTX_free(hmac);
    return status;
}

int mkv_key_id(const uint8_t key[MEMKV_AUTH_KEY_LEN], uint64_t *out)
{
    uint8_t digest[DIGEST_LEN];
    int status = derive(key, KEY_ID_LABEL, NULL, digest);
    if (status != MEMKV_OK)
        return status;
    uint64_t id = mkv_get_u64(digest);
    *out = id == 0 ? 1 : id; /* 0 says "no key" */
    return MEMKV_OK;
}

int mkv_proof(const uint8_t key[MEMKV_AUTH_KEY_LEN], mkv_sender sender,
              const mkv_transcript *transcript, uint8_t out[MKV_PROOF_LEN])
{
    return derive(key, PROOF_LABELS[sender], transcript, out);
}

bool mkv_equal(const void *a, const void *b, size_t len)
{
    return CRYPTO_memcmp(a, b, len) == 0;
}

int mkv_tagger_open(const uint8_t key[MEMKV_AUTH_KEY_LEN], mkv_sender sender,
                    const mkv_transcript *transcript, mkv_tagger **out)
{
    uint8_t session_key[DIGEST_LEN];
    int status = derive(key, FRAME_LABELS[sender], transcript, session_key);
    if (status != MEMKV_OK)
        return status;
    mkv_tagger *tagger = calloc(1, sizeof(*tagger));
    status =
        tagger == NULL ? MEMKV_ERR_NO_MEMORY : open_hmac(session_key, &tagger->hmac);
    OPENSSL_cleanse(session_key, sizeof(session_key));
    if (status != MEMKV_OK) {
        free(tagger);
        return status;
    }
    *out = tagger;
    return MEMKV_OK;
}

int mkv_tagger_next(mkv_tagger *tagger, const uint8_t *prefix, size_t prefix_len,
                    const uint8_t *table, size_t table_len, uint8_t out[MKV_TAG_LEN])
{
    uint8_t sequence[8];
    uint8_t digest[DIGEST_LEN];
    mkv_put_u64(sequence, tagger->sequence);
    /* No key and no parameters: the same ones again, without setting them up anew. */
    if (EVP_MAC_init(tagger->hmac, NULL, 0, NULL) != 1 ||
        EVP_MAC_update(tagger->hmac, sequence, sizeof(sequence)) != 1 ||
        EVP_MAC_update(tagger->hmac, prefix, prefix_len) != 1 ||
        EVP_MAC_update(tagger->hmac, table, table_len) != 1)
        return MEMKV_ERR_SYSTEM;
    int status = finish_hmac(tagger->hmac, digest);
    if (status != MEMKV_OK)
        return status;
    memcpy(out, digest, MKV_TAG_LEN);
    tagger->sequence++;
    return MEMKV_OK;
}

void mkv_tagger_close(mkv_tagger *tagger)
{
    if (tagger == NULL)
        return;
    EVP_MAC_CTX_free(tagger->hmac); /* clears its copy of the key */
    free(tagger);
}
