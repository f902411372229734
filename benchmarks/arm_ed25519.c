/* The Ed25519 work that benchmarks/arm_ed25519.py counts and models: one implementation on
 * one piece of work.
 *
 *   arm_ed25519 once IMPLEMENTATION WORK    twice, the second time between two marks, whose
 *                                           addresses a trace shows; prints the number of
 *                                           items and the signature
 *
 * An implementation is a backend of the core by name, or "openssl": libcrypto's EVP with key
 * objects that were made before. Exit code 3: not usable here. */
#include "ed25519.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(WITH_OPENSSL)
#include <openssl/evp.h>
#endif

#define MESSAGE_SIZE 128
#define MOST 8 /* signatures at once */

static uint8_t message[MESSAGE_SIZE];
static uint8_t seed[IOMT_ED25519_SEED_SIZE];
static uint8_t key[IOMT_ED25519_KEY_SIZE];
static uint8_t signature[IOMT_ED25519_SIGNATURE_SIZE];
static const iomt_ed25519_backend *backend; /* NULL: OpenSSL */
static iomt_ed25519_signer *signer;
static iomt_ed25519_prepared *prepared;

/* Of other keys, for verifying many. */
static uint8_t keys[MOST * IOMT_ED25519_KEY_SIZE];
static uint8_t signatures[MOST * IOMT_ED25519_SIGNATURE_SIZE];
static uint8_t messages[MOST * MESSAGE_SIZE];
static uint64_t ends[MOST];
static iomt_ed25519_prepared *all_prepared[MOST];

#if defined(WITH_OPENSSL)
static EVP_PKEY *private_key, *public_key;
#endif

__attribute__((noinline)) void mark_begin(void);
__attribute__((noinline)) void mark_end(void);

void mark_begin(void)
{
    __asm__ volatile("");
}

void mark_end(void)
{
    __asm__ volatile("nop");
}

/* Each returns whether it did what it should. */

static int sign(void)
{
#if defined(WITH_OPENSSL)
    if (backend == NULL) {
        size_t size = sizeof signature;
        EVP_MD_CTX *context = EVP_MD_CTX_new();
        int good = EVP_DigestSignInit(context, NULL, NULL, NULL, private_key) == 1 &&
                   EVP_DigestSign(context, signature, &size, message, MESSAGE_SIZE) == 1;

        EVP_MD_CTX_free(context);
        return good;
    }
#endif
    return iomt_ed25519_sign(backend, signer, message, MESSAGE_SIZE, signature);
}

static int verify_with(const iomt_ed25519_prepared *kept)
{
#if defined(WITH_OPENSSL)
    if (backend == NULL) {
        EVP_MD_CTX *context = EVP_MD_CTX_new();
        int good = EVP_DigestVerifyInit(context, NULL, NULL, NULL, public_key) == 1 &&
                   EVP_DigestVerify(context, signature, sizeof signature, message,
                                    MESSAGE_SIZE) == 1;

        EVP_MD_CTX_free(context);
        return good;
    }
#endif
    return iomt_ed25519_verify(backend, key, kept, message, MESSAGE_SIZE, signature);
}

static int verify(void)
{
    return verify_with(NULL);
}

static int verify_known(void)
{
    return verify_with(prepared);
}

/* The first `count` of them with one call, each with a key of its own. */
static int verify_many(size_t count, const iomt_ed25519_prepared *const *kept)
{
    uint8_t answers[MOST];
    int good = backend != NULL && iomt_ed25519_verify_many(
        backend, keys, kept, messages, count * MESSAGE_SIZE, ends, count, signatures,
        answers) == count;

    for (size_t i = 0; i < count; i++)
        good = good && answers[i] == 1;
    return good;
}

static int four(void)
{
    return verify_many(4, NULL);
}

static int four_known(void)
{
    return verify_many(4, (const iomt_ed25519_prepared *const *)all_prepared);
}

static int eight(void)
{
    return verify_many(8, NULL);
}

static int eight_known(void)
{
    return verify_many(8, (const iomt_ed25519_prepared *const *)all_prepared);
}

static int prepare(void)
{
    return backend != NULL && iomt_ed25519_prepare(backend, prepared, key);
}

static const struct {
    const char *name;
    int (*run)(void);
} works[] = {
    {"sign", sign},
    {"verify", verify},
    {"verify-known", verify_known},
    {"prepare", prepare},
    {"verify-4", four},
    {"verify-4-known", four_known},
    {"verify-8", eight},
    {"verify-8-known", eight_known},
};

static int make_many(void)
{
    for (size_t i = 0; i < MOST; i++) {
        uint8_t *own_key = keys + i * IOMT_ED25519_KEY_SIZE;

        seed[0] = (uint8_t)(i + 1);
        iomt_ed25519_start_signer(backend, signer, seed);
        iomt_ed25519_signer_key(signer, own_key);
        for (size_t j = 0; j < MESSAGE_SIZE; j++)
            messages[i * MESSAGE_SIZE + j] = (uint8_t)(i * 13 + j);
        ends[i] = (i + 1) * MESSAGE_SIZE;
        all_prepared[i] = malloc(iomt_ed25519_prepared_size());
        if (all_prepared[i] == NULL ||
            !iomt_ed25519_sign(backend, signer, messages + i * MESSAGE_SIZE, MESSAGE_SIZE,
                               signatures + i * IOMT_ED25519_SIGNATURE_SIZE) ||
            !iomt_ed25519_prepare(backend, all_prepared[i], own_key))
            return 0;
    }
    return 1;
}

static int find(const char *name)
{
    const iomt_ed25519_backend *one;

#if defined(WITH_OPENSSL)
    if (strcmp(name, "openssl") == 0) {
        size_t size = sizeof key;

        private_key = EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL, seed, sizeof seed);
        if (private_key == NULL || EVP_PKEY_get_raw_public_key(private_key, key, &size) != 1)
            return 0;
        public_key = EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, key, sizeof key);
        return public_key != NULL;
    }
#endif
    for (size_t i = 0; (one = iomt_ed25519_backend_at(i)) != NULL; i++)
        if (strcmp(iomt_ed25519_backend_name(one), name) == 0 &&
            iomt_ed25519_backend_usable(one))
            backend = one;
    if (backend == NULL)
        return 0;
    signer = malloc(iomt_ed25519_signer_size());
    prepared = malloc(iomt_ed25519_prepared_size());
    if (signer == NULL || prepared == NULL)
        return 0;
    if (!make_many())
        return 0;
    iomt_ed25519_start_signer(backend, signer, seed);
    iomt_ed25519_signer_key(signer, key);
    return iomt_ed25519_prepare(backend, prepared, key);
}

int main(int count, char **arguments)
{
    size_t chosen = 0;
    int good;

    if (count != 4 || strcmp(arguments[1], "once") != 0)
        return 2;
    for (size_t i = 0; i < MESSAGE_SIZE; i++)
        message[i] = (uint8_t)(i * 7);
    for (size_t i = 0; i < sizeof seed; i++)
        seed[i] = (uint8_t)(i * 11 + 1);
    if (!find(arguments[2]))
        return 3;
    while (chosen < sizeof works / sizeof works[0] &&
           strcmp(works[chosen].name, arguments[3]) != 0)
        chosen++;
    if (chosen == sizeof works / sizeof works[0] || !sign() || !works[chosen].run())
        return 3;
    mark_begin();
    good = works[chosen].run();
    mark_end();
    printf("1 ");
    for (size_t i = 0; i < sizeof signature; i++)
        printf("%02x", signature[i]);
    printf("\n");
    return good ? 0 : 1;
}
