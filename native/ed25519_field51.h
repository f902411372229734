/* Numbers modulo p = 2^255 - 19 in five limbs of 51 bits: value = sum of limb[i] 2^(51 i),
 * for every 64-bit machine. ed25519_field_adx.h has the same functions; a file includes one
 * of the two.
 *
 * Limbs are not unique, and how large they may be is part of each function's contract:
 *
 *   tight   limbs below 2^51 + 2^13: what a product, a square and a decoding give
 *   sum     limbs below 2^52 + 2^14: a tight number plus a tight one
 *   loose   limbs below 2^54: a sum minus a sum (which adds 4p, so nothing goes below zero)
 *
 * Products and squares take loose numbers. Their largest column is then
 *   (1 + 4 * 19) * 2^108 < 2^114.3 (limb 0), its carry is below 2^64; the top column, which
 * has no factor 19, is below 2^110.4, so 19 times its carry is below 2^64 too.
 *
 * Everything here takes the same time for all values, so there is no _secret in the names.
 * Functions stand in the header because calls would cost a fifth of their time. */
#ifndef IOMT_ED25519_FIELD51_H
#define IOMT_ED25519_FIELD51_H

#include "ed25519.h"

#define IOMT_LIMBS 5
#define IOMT_LIMB_BITS 51
#define IOMT_LIMB_MASK ((UINT64_C(1) << IOMT_LIMB_BITS) - 1)

struct iomt_field {
    uint64_t limb[IOMT_LIMBS];
};

/* ---- Sums ---- */

/* Tight and tight give a sum. */
static inline void iomt_field_add(struct iomt_field *out, const struct iomt_field *a,
                                  const struct iomt_field *b)
{
    for (int i = 0; i < IOMT_LIMBS; i++)
        out->limb[i] = a->limb[i] + b->limb[i];
}

/* Sum minus sum gives a loose number: a + 4p - b, limb by limb. */
static inline void iomt_field_sub(struct iomt_field *out, const struct iomt_field *a,
                                  const struct iomt_field *b)
{
    out->limb[0] = a->limb[0] + ((UINT64_C(1) << 53) - 76) - b->limb[0];
    for (int i = 1; i < IOMT_LIMBS; i++)
        out->limb[i] = a->limb[i] + ((UINT64_C(1) << 53) - 4) - b->limb[i];
}

/* The same for tight numbers only; other fields are faster at that. */
static inline void iomt_field_add_tight(struct iomt_field *out, const struct iomt_field *a,
                                        const struct iomt_field *b)
{
    iomt_field_add(out, a, b);
}

static inline void iomt_field_sub_tight(struct iomt_field *out, const struct iomt_field *a,
                                        const struct iomt_field *b)
{
    iomt_field_sub(out, a, b);
}

/* ---- Products ---- */

/* Five columns become a tight number; what leaves at the top comes back times 19. */
static inline void iomt_field_carry(struct iomt_field *out, iomt_uint128 c0, iomt_uint128 c1,
                                    iomt_uint128 c2, iomt_uint128 c3, iomt_uint128 c4)
{
    uint64_t low0, low1, low2, low3, low4;

    low0 = (uint64_t)c0 & IOMT_LIMB_MASK;
    c1 += (uint64_t)(c0 >> IOMT_LIMB_BITS);
    low1 = (uint64_t)c1 & IOMT_LIMB_MASK;
    c2 += (uint64_t)(c1 >> IOMT_LIMB_BITS);
    low2 = (uint64_t)c2 & IOMT_LIMB_MASK;
    c3 += (uint64_t)(c2 >> IOMT_LIMB_BITS);
    low3 = (uint64_t)c3 & IOMT_LIMB_MASK;
    c4 += (uint64_t)(c3 >> IOMT_LIMB_BITS);
    low4 = (uint64_t)c4 & IOMT_LIMB_MASK;
    low0 += 19 * (uint64_t)(c4 >> IOMT_LIMB_BITS);
    low1 += low0 >> IOMT_LIMB_BITS;
    low0 &= IOMT_LIMB_MASK;
    out->limb[0] = low0;
    out->limb[1] = low1;
    out->limb[2] = low2;
    out->limb[3] = low3;
    out->limb[4] = low4;
}

/* Loose times loose gives tight. `out` may be `a` or `b`. */
static inline void iomt_field_mul(struct iomt_field *out, const struct iomt_field *a,
                                  const struct iomt_field *b)
{
    const uint64_t a0 = a->limb[0], a1 = a->limb[1], a2 = a->limb[2], a3 = a->limb[3],
                   a4 = a->limb[4];
    const uint64_t b0 = b->limb[0], b1 = b->limb[1], b2 = b->limb[2], b3 = b->limb[3],
                   b4 = b->limb[4];
    const uint64_t d1 = 19 * a1, d2 = 19 * a2, d3 = 19 * a3, d4 = 19 * a4;
    iomt_uint128 c0, c1, c2, c3, c4;

    c0 = (iomt_uint128)a0 * b0 + (iomt_uint128)d4 * b1 + (iomt_uint128)d3 * b2 +
         (iomt_uint128)d2 * b3 + (iomt_uint128)d1 * b4;
    c1 = (iomt_uint128)a1 * b0 + (iomt_uint128)a0 * b1 + (iomt_uint128)d4 * b2 +
         (iomt_uint128)d3 * b3 + (iomt_uint128)d2 * b4;
    c2 = (iomt_uint128)a2 * b0 + (iomt_uint128)a1 * b1 + (iomt_uint128)a0 * b2 +
         (iomt_uint128)d4 * b3 + (iomt_uint128)d3 * b4;
    c3 = (iomt_uint128)a3 * b0 + (iomt_uint128)a2 * b1 + (iomt_uint128)a1 * b2 +
         (iomt_uint128)a0 * b3 + (iomt_uint128)d4 * b4;
    c4 = (iomt_uint128)a4 * b0 + (iomt_uint128)a3 * b1 + (iomt_uint128)a2 * b2 +
         (iomt_uint128)a1 * b3 + (iomt_uint128)a0 * b4;
    iomt_field_carry(out, c0, c1, c2, c3, c4);
}

/* The square of a loose number, tight. `out` may be `a`. */
static inline void iomt_field_square(struct iomt_field *out, const struct iomt_field *a)
{
    const uint64_t a0 = a->limb[0], a1 = a->limb[1], a2 = a->limb[2], a3 = a->limb[3],
                   a4 = a->limb[4];
    const uint64_t twice0 = 2 * a0, twice1 = 2 * a1, d3 = 19 * a3, d4 = 19 * a4;
    const uint64_t twice_d3 = 2 * d3, twice_d4 = 2 * d4;
    iomt_uint128 c0, c1, c2, c3, c4;

    c0 = (iomt_uint128)a0 * a0 + (iomt_uint128)twice_d4 * a1 + (iomt_uint128)twice_d3 * a2;
    c1 = (iomt_uint128)twice0 * a1 + (iomt_uint128)twice_d4 * a2 + (iomt_uint128)d3 * a3;
    c2 = (iomt_uint128)twice0 * a2 + (iomt_uint128)a1 * a1 + (iomt_uint128)twice_d4 * a3;
    c3 = (iomt_uint128)twice0 * a3 + (iomt_uint128)twice1 * a2 + (iomt_uint128)d4 * a4;
    c4 = (iomt_uint128)twice0 * a4 + (iomt_uint128)twice1 * a3 + (iomt_uint128)a2 * a2;
    iomt_field_carry(out, c0, c1, c2, c3, c4);
}

/* ---- Other forms ---- */

/* Any 255 bits, also p and above; the top bit of the last word must be clear. */
static inline void iomt_field_unpack(struct iomt_field *out, const struct iomt_packed *packed)
{
    const uint64_t *w = packed->words;

    out->limb[0] = w[0] & IOMT_LIMB_MASK;
    out->limb[1] = (w[0] >> 51 | w[1] << 13) & IOMT_LIMB_MASK;
    out->limb[2] = (w[1] >> 38 | w[2] << 26) & IOMT_LIMB_MASK;
    out->limb[3] = (w[2] >> 25 | w[3] << 39) & IOMT_LIMB_MASK;
    out->limb[4] = w[3] >> 12;
}

/* One pass of carries; a loose number becomes one with limbs below 2^51 + 2^8. */
static inline void iomt_field_carry_once(struct iomt_field *a)
{
    uint64_t carry = 0;

    for (int i = 0; i < IOMT_LIMBS; i++) {
        a->limb[i] += carry;
        carry = a->limb[i] >> IOMT_LIMB_BITS;
        a->limb[i] &= IOMT_LIMB_MASK;
    }
    a->limb[0] += 19 * carry;
}

/* The one number below p. Takes a loose number. */
static inline void iomt_field_pack(struct iomt_packed *packed, const struct iomt_field *a)
{
    struct iomt_field t = *a;
    uint64_t quotient;

    /* After two passes the value is below 2^255, so at most one p has to go. */
    iomt_field_carry_once(&t);
    iomt_field_carry_once(&t);

    /* The value is at least p exactly if adding 19 carries out of 255 bits. Then that sum,
     * less its top bit, is the value minus p. */
    quotient = (t.limb[0] + 19) >> IOMT_LIMB_BITS;
    for (int i = 1; i < IOMT_LIMBS; i++)
        quotient = (t.limb[i] + quotient) >> IOMT_LIMB_BITS;
    t.limb[0] += 19 * quotient;
    for (int i = 0; i < IOMT_LIMBS - 1; i++) {
        t.limb[i + 1] += t.limb[i] >> IOMT_LIMB_BITS;
        t.limb[i] &= IOMT_LIMB_MASK;
    }
    t.limb[4] &= IOMT_LIMB_MASK;

    packed->words[0] = t.limb[0] | t.limb[1] << 51;
    packed->words[1] = t.limb[1] >> 13 | t.limb[2] << 38;
    packed->words[2] = t.limb[2] >> 26 | t.limb[3] << 25;
    packed->words[3] = t.limb[3] >> 39 | t.limb[4] << 12;
}

#endif
