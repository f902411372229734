/* The check before a signature goes out, against one fault at a time: not in S, R, x, the
 * challenge, the public key, nor in what the check itself is made of may it let one pass. */
#include "commands.h"

#include <stdlib.h>
#include <string.h>

#define SCALAR_BITS 252 /* a flip below keeps 64 digits */

struct checked {
    const iomt_ed25519_backend *backend;
    struct iomt_ed25519_check *combs;
    uint8_t r[32];
    struct iomt_packed x;
    struct iomt_scalar s, k;
};

static int passes(const struct checked *c)
{
    return c->backend->is_difference(c->r, &c->x, &c->s, &c->k, c->combs);
}

/* How many single flipped bits among `bits` pass. */
static size_t flips_that_pass(const struct checked *c, uint8_t *bytes, size_t bits)
{
    size_t passed = 0;

    for (size_t bit = 0; bit < bits; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        passed += (size_t)passes(c);
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    return passed;
}

/* R was already wrong when the challenge was made. */
static size_t early_flips_that_pass(struct checked *c, const uint8_t *key,
                                    const uint8_t *message, size_t size)
{
    const struct iomt_scalar k = c->k;
    size_t passed = 0;

    for (size_t bit = 0; bit < 256; bit++) {
        c->r[bit / 8] ^= (uint8_t)(1 << bit % 8);
        iomt_ed25519_challenge(&c->k, c->r, key, message, size);
        passed += (size_t)passes(c);
        c->r[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    c->k = k;
    return passed;
}

/* A row at a time, since digits choose within it. */
static size_t rows_that_pass(const struct checked *c)
{
    size_t passed = 0;

    for (size_t at = 0; at < 2 * IOMT_CHECK_PLACES; at++) {
        struct iomt_comb_entry *row =
            at % 2 == 0 ? c->combs->base[at / 2] : c->combs->key[at / 2];

        for (size_t i = 0; i < IOMT_CHECK_MULTIPLES; i++)
            row[i].minus[at / 2 % 5] ^= 1;
        passed += (size_t)passes(c);
        for (size_t i = 0; i < IOMT_CHECK_MULTIPLES; i++)
            row[i].minus[at / 2 % 5] ^= 1;
    }
    return passed;
}

size_t faults_that_pass(const iomt_ed25519_backend *backend, const uint8_t *key,
                        const uint8_t *message, size_t size, const uint8_t *signature)
{
    struct checked c = {.backend = backend};
    struct iomt_packed y;
    size_t passed = 0;

    if (backend->is_difference == NULL)
        return 0;
    c.combs = malloc(sizeof *c.combs);
    if (c.combs == NULL)
        exit(2);
    iomt_ed25519_make_check(backend->curve, c.combs, key);
    memcpy(c.r, signature, 32);
    passed += !backend->curve->decode_key(&c.x, &y, c.r);
    passed += !iomt_scalar_decode(&c.s, signature + 32);
    iomt_ed25519_challenge(&c.k, c.r, key, message, size);
    passed += !passes(&c); /* without a fault it must */
    passed += flips_that_pass(&c, (uint8_t *)c.x.words, 256);
    passed += flips_that_pass(&c, c.r, 256);
    passed += flips_that_pass(&c, (uint8_t *)c.s.words, SCALAR_BITS);
    passed += flips_that_pass(&c, (uint8_t *)c.k.words, SCALAR_BITS);
    passed += early_flips_that_pass(&c, key, message, size);
    passed += rows_that_pass(&c);
    passed += !passes(&c);
    free(c.combs);
    return passed;
}

size_t damaged_keys_that_sign(const iomt_ed25519_backend *backend, iomt_ed25519_signer *signer,
                              const uint8_t *message, size_t size)
{
    uint8_t *memory = (uint8_t *)signer, key[32], signature[64];
    size_t copies = 0, signing = 0;

    iomt_ed25519_signer_key(signer, key);
    for (size_t i = 0; i + sizeof key <= iomt_ed25519_signer_size(); i++) {
        if (memcmp(memory + i, key, sizeof key) != 0)
            continue;
        copies++;
        memory[i + 5] ^= 4;
        signing += (size_t)iomt_ed25519_sign(backend, signer, message, size, signature);
        memory[i + 5] ^= 4;
    }
    return copies == 2 ? signing : 2;
}
