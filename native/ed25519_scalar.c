/* Numbers modulo L = 2^252 + 27742317777372353535851937790883648493 in 4 words of 64 bits,
 * in constant time: one code for challenges, which are public, and for nonces and keys. */
#include "ed25519.h"

#include <string.h>

#define WORDS 4

static const uint64_t order[WORDS + 1] = {UINT64_C(0x5812631a5cf5d3ed),
                                          UINT64_C(0x14def9dea2f79cd6), 0,
                                          UINT64_C(0x1000000000000000), 0};

/* floor(2^512 / L), for the reduction. */
static const uint64_t reciprocal[WORDS + 1] = {
    UINT64_C(0xed9ce5a30a2c131b), UINT64_C(0x2106215d086329a7), UINT64_C(0xffffffffffffffeb),
    UINT64_C(0xffffffffffffffff), 0xf};

/* product[0 .. na + nb) = a * b */
static void multiply(uint64_t *product, const uint64_t *a, int na, const uint64_t *b, int nb)
{
    memset(product, 0, (size_t)(na + nb) * sizeof *product);
    for (int i = 0; i < na; i++) {
        iomt_uint128 carry = 0;

        for (int j = 0; j < nb; j++) {
            carry += (iomt_uint128)a[i] * b[j] + product[i + j];
            product[i + j] = (uint64_t)carry;
            carry >>= 64;
        }
        product[i + nb] = (uint64_t)carry;
    }
}

/* a -= b over `count` words; the borrow, 0 or 1. */
static uint64_t subtract(uint64_t *a, const uint64_t *b, int count)
{
    uint64_t borrow = 0;

    for (int i = 0; i < count; i++) {
        iomt_uint128 t = (iomt_uint128)a[i] - b[i] - borrow;

        a[i] = (uint64_t)t;
        borrow = (uint64_t)(t >> 64) & 1;
    }
    return borrow;
}

/* a of 5 words minus L if that is not negative; both are computed. */
static void subtract_order_once(uint64_t a[WORDS + 1])
{
    uint64_t less[WORDS + 1], keep;

    memcpy(less, a, sizeof less);
    keep = 0 - subtract(less, order, WORDS + 1);
    for (int i = 0; i <= WORDS; i++)
        a[i] = (a[i] & keep) | (less[i] & ~keep);
    iomt_wipe(less, sizeof less);
}

/* Barrett's reduction (Handbook of Applied Cryptography, 14.42, with b = 2^64 and k = 4):
 * the quotient estimated from the upper words is at most 2 too small. */
static void reduce(struct iomt_scalar *out, const uint64_t number[2 * WORDS])
{
    uint64_t estimate[2 * WORDS + 2], multiple[2 * WORDS + 1], rest[WORDS + 1];

    multiply(estimate, number + WORDS - 1, WORDS + 1, reciprocal, WORDS + 1);
    multiply(multiple, estimate + WORDS + 1, WORDS + 1, order, WORDS);
    memcpy(rest, number, sizeof rest);
    subtract(rest, multiple, WORDS + 1);
    subtract_order_once(rest);
    subtract_order_once(rest);
    memcpy(out->words, rest, sizeof out->words);
    iomt_wipe(estimate, sizeof estimate);
    iomt_wipe(multiple, sizeof multiple);
    iomt_wipe(rest, sizeof rest);
}

int iomt_scalar_decode(struct iomt_scalar *scalar, const uint8_t bytes[32])
{
    uint64_t t[WORDS];

    for (int i = 0; i < WORDS; i++)
        t[i] = scalar->words[i] = iomt_load_le64(bytes + 8 * i);
    return (int)subtract(t, order, WORDS);
}

void iomt_scalar_encode(const struct iomt_scalar *scalar, uint8_t bytes[32])
{
    for (int i = 0; i < WORDS; i++)
        iomt_store_le64(bytes + 8 * i, scalar->words[i]);
}

void iomt_scalar_reduce_secret(struct iomt_scalar *scalar, const uint8_t bytes[64])
{
    uint64_t number[2 * WORDS];

    for (int i = 0; i < 2 * WORDS; i++)
        number[i] = iomt_load_le64(bytes + 8 * i);
    reduce(scalar, number);
    iomt_wipe(number, sizeof number);
}

void iomt_scalar_muladd_secret(struct iomt_scalar *out, const struct iomt_scalar *a,
                               const struct iomt_scalar *b, const struct iomt_scalar *c)
{
    uint64_t number[2 * WORDS];
    iomt_uint128 carry = 0;

    multiply(number, a->words, WORDS, b->words, WORDS);
    for (int i = 0; i < 2 * WORDS; i++) { /* L^2 + L is far below 2^512 */
        carry += number[i];
        if (i < WORDS)
            carry += c->words[i];
        number[i] = (uint64_t)carry;
        carry >>= 64;
    }
    reduce(out, number);
    iomt_wipe(number, sizeof number);
}

void iomt_scalar_radix32(const struct iomt_scalar *scalar, int8_t digits[51])
{
    int carry = 0;

    for (int i = 0; i < 51; i++) {
        const int word = 5 * i / 64, shift = 5 * i % 64;
        uint64_t bits = scalar->words[word] >> shift;
        int digit;

        if (shift > 59 && word < 3)
            bits |= scalar->words[word + 1] << (64 - shift);
        digit = (int)(bits & 31) + carry;
        carry = (digit + 16) >> 5; /* 1 from 16 on */
        digits[i] = (int8_t)(digit - 32 * carry);
    }
    /* A scalar is below 2^253: the last digit is at most 8 and nothing is carried out. */
}

void iomt_scalar_radix16(const struct iomt_scalar *scalar, int8_t digits[64])
{
    int carry = 0;

    for (int i = 0; i < 64; i++) {
        int digit = (int)(scalar->words[i / 16] >> (4 * (i % 16)) & 15) + carry;

        carry = (digit + 8) >> 4; /* 1 from 8 on */
        digits[i] = (int8_t)(digit - 16 * carry);
    }
    /* A scalar is below 2^253: the last digit is at most 2 and nothing is carried out. */
}

void iomt_ed25519_challenge(struct iomt_scalar *k, const uint8_t r[32], const uint8_t key[32],
                            const uint8_t *message, size_t size)
{
    struct iomt_sha512 hash;
    uint8_t digest[IOMT_SHA512_SIZE];

    iomt_sha512_start(&hash);
    iomt_sha512_add(&hash, r, 32);
    iomt_sha512_add(&hash, key, 32);
    iomt_sha512_add(&hash, message, size);
    iomt_sha512_end(&hash, digest);
    iomt_scalar_reduce_secret(k, digest);
}
