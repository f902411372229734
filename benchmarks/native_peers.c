/* The core's jobs as other libraries do them, in C, for native_goals.py: leaf hashes of
 * records of one size, and the root over leaf hashes. Each function returns 1 if its library
 * was compiled in. None of their code is here: only calls of their public functions.
 *
 *   cc -O3 -shared -fPIC native_peers.c -lcrypto -o peers.so          OpenSSL alone
 *   … -DISAL -I ISAL/include ISAL/bin/isa-l_crypto.a                  isa-l_crypto too
 *   … -DHASHTREE -I HASHTREE/src HASHTREE/src/lib/libhashtree.a       hashtree too
 *
 * Who takes only whole messages gets the prefix and the bytes copied together within the
 * call: that copy is part of what its users pay. */
#define OPENSSL_SUPPRESS_DEPRECATED /* SHA256_*, which costs less a call than EVP */

#include <openssl/evp.h>
#include <openssl/sha.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define HASH_SIZE 32
#define MESSAGE_MAX 512
#define GROUP 4096 /* messages given to isa-l_crypto at a time */

/* hashes[i] = SHA-256(prefix || items[i]) for `count` items of `size` bytes. `hashes` may
 * begin where `items` does. */
typedef void hash_all(uint8_t prefix, const uint8_t *items, size_t size, size_t count,
                      uint8_t *hashes);

static void openssl_evp(uint8_t prefix, const uint8_t *items, size_t size, size_t count,
                        uint8_t *hashes)
{
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    EVP_MD *sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
    uint8_t message[MESSAGE_MAX];

    message[0] = prefix;
    for (size_t i = 0; i < count; i++) {
        memcpy(message + 1, items + i * size, size);
        EVP_DigestInit_ex2(context, sha256, NULL);
        EVP_DigestUpdate(context, message, 1 + size);
        EVP_DigestFinal_ex(context, hashes + i * HASH_SIZE, NULL);
    }
    EVP_MD_free(sha256);
    EVP_MD_CTX_free(context);
}

static void openssl_low(uint8_t prefix, const uint8_t *items, size_t size, size_t count,
                        uint8_t *hashes)
{
    uint8_t message[MESSAGE_MAX];
    SHA256_CTX context;

    message[0] = prefix;
    for (size_t i = 0; i < count; i++) {
        memcpy(message + 1, items + i * size, size);
        SHA256_Init(&context);
        SHA256_Update(&context, message, 1 + size);
        SHA256_Final(hashes + i * HASH_SIZE, &context);
    }
}

#ifdef ISAL
#include <isa-l_crypto/sha256_mb.h>

static ISAL_SHA256_HASH_CTX contexts[GROUP];
static uint8_t messages[GROUP * MESSAGE_MAX];

static void isal_group(uint8_t prefix, const uint8_t *items, size_t size, size_t count,
                       uint8_t *hashes)
{
    static _Alignas(64) ISAL_SHA256_HASH_CTX_MGR manager;
    ISAL_SHA256_HASH_CTX *done;

    isal_sha256_ctx_mgr_init(&manager);
    for (size_t i = 0; i < count; i++) {
        uint8_t *message = messages + i * (1 + size);

        message[0] = prefix;
        memcpy(message + 1, items + i * size, size);
        isal_hash_ctx_init(&contexts[i]);
        isal_sha256_ctx_mgr_submit(&manager, &contexts[i], &done, message, (uint32_t)(1 + size),
                                   ISAL_HASH_ENTIRE);
    }
    do
        isal_sha256_ctx_mgr_flush(&manager, &done);
    while (done != NULL);
    for (size_t i = 0; i < count; i++)
        for (size_t w = 0; w < 8; w++) {
            uint32_t word = __builtin_bswap32(contexts[i].job.result_digest[w]);

            memcpy(hashes + i * HASH_SIZE + 4 * w, &word, 4);
        }
}

static void isal(uint8_t prefix, const uint8_t *items, size_t size, size_t count, uint8_t *hashes)
{
    while (count > 0) {
        size_t some = count < GROUP ? count : GROUP;

        isal_group(prefix, items, size, some, hashes);
        items += some * size;
        hashes += some * HASH_SIZE;
        count -= some;
    }
}
#endif

/* The root over `count` hashes, a power of two; level by level. */
static void root_by(hash_all *hash, const uint8_t *leaf_hashes, size_t count, uint8_t *root)
{
    uint8_t *row = malloc(count * HASH_SIZE);

    if (row == NULL)
        abort();
    hash(0x01, leaf_hashes, 2 * HASH_SIZE, count /= 2, row);
    while (count > 1)
        hash(0x01, row, 2 * HASH_SIZE, count /= 2, row);
    memcpy(root, row, HASH_SIZE);
    free(row);
}

#define PEER(name, hash)                                                                   \
    int name##_leaves(const uint8_t *records, size_t size, size_t count, uint8_t *hashes)  \
    {                                                                                      \
        hash(0x00, records, size, count, hashes);                                          \
        return 1;                                                                          \
    }                                                                                      \
    int name##_root(const uint8_t *leaf_hashes, size_t count, uint8_t *root)               \
    {                                                                                      \
        root_by(hash, leaf_hashes, count, root);                                           \
        return 1;                                                                          \
    }

PEER(openssl_evp, openssl_evp)
PEER(openssl_low, openssl_low)
#ifdef ISAL
PEER(isal, isal)
#endif

#ifdef HASHTREE
#include "hashtree.h"

/* Ethereum's tree: a node is the hash of 64 bytes, without a prefix, so its second block is
 * the same always. Another root, and less work: an upper bound of what a tree can cost. */
int hashtree_root(const uint8_t *leaf_hashes, size_t count, uint8_t *root)
{
    uint8_t *row = malloc(count * HASH_SIZE);

    if (row == NULL)
        abort();
    hashtree_init(NULL);
    hashtree_hash(row, leaf_hashes, count /= 2);
    while (count > 1) {
        hashtree_hash(row, row, count / 2);
        count /= 2;
    }
    memcpy(root, row, HASH_SIZE);
    free(row);
    return 1;
}
#endif
