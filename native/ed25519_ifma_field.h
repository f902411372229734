/* Numbers modulo p = 2^255 - 19, eight at a time: lane i of every vector belongs to number i,
 * and no lane ever reads another, so what one signature does cannot reach its neighbours.
 * For ed25519_ifma.c and its tests only; needs AVX-512 F, DQ and IFMA.
 *
 * A number is 5 limbs in radix 2^51. The multiply instructions take the low 52 bits of each
 * factor and add the low or the high 52 bits of the product to a 64-bit sum. That sets the
 * two kinds of number here, and the types keep them apart:
 *
 *   struct number  limbs below 2^52: a factor. From carry(), unpack() or negate_if().
 *   struct sum     limbs of up to 64 bits: what products, sums and differences give.
 *
 * Bounds, in units of 2^52 per limb, are PRODUCT below for any product, whatever the factors;
 * doubled() doubles them, plus() adds them, minus() adds the bias that keeps it positive. A
 * sum stays below 4096 units, where it would overflow: no formula here passes 1100. */
#ifndef IOMT_ED25519_IFMA_FIELD_H
#define IOMT_ED25519_IFMA_FIELD_H

#include "ed25519_ifma_words.h"

#define LIMBS 5
#define LIMB_BITS 51
#define LIMB_MASK 0x7ffffffffffffULL

/* Limb 0 of a product is at most 1 low half, and 19 times 4 low halves and 5 doubled high
 * halves, each below one unit: 1 + 19 (4 + 10). The other limbs have less. */
#define PRODUCT 267

struct number {
    __m512i limb[LIMBS];
};

struct sum {
    __m512i limb[LIMBS];
};

/* The same number in every lane. */
ALWAYS_INLINE struct number spread(const uint64_t limbs[LIMBS])
{
    struct number a;

    UNROLLED for (int i = 0; i < LIMBS; i++)
        a.limb[i] = same(limbs[i]);
    return a;
}

ALWAYS_INLINE struct number small(uint64_t word)
{
    return spread((const uint64_t[LIMBS]){word, 0, 0, 0, 0});
}

/* ---- Sums ---- */

ALWAYS_INLINE struct sum widen(struct number a)
{
    struct sum s;

    UNROLLED for (int i = 0; i < LIMBS; i++)
        s.limb[i] = a.limb[i];
    return s;
}

ALWAYS_INLINE struct sum plus(struct sum a, struct sum b)
{
    UNROLLED for (int i = 0; i < LIMBS; i++)
        a.limb[i] = _mm512_add_epi64(a.limb[i], b.limb[i]);
    return a;
}

ALWAYS_INLINE struct sum doubled(struct sum a)
{
    return plus(a, a);
}

/* a - b, where no limb of b reaches `bias` - 1 units; `bias` is a constant. Adds 2 bias times
 * p in radix 2^51, which is (2 bias) (2^51 - 19) or (2 bias) (2^51 - 1) per limb: no limb
 * falls below zero. */
ALWAYS_INLINE struct sum minus(struct sum a, struct sum b, uint64_t bias)
{
    const __m512i lowest = same(2 * bias * (LIMB_MASK - 18));
    const __m512i others = same(2 * bias * LIMB_MASK);

    UNROLLED for (int i = 0; i < LIMBS; i++)
        a.limb[i] = _mm512_sub_epi64(_mm512_add_epi64(a.limb[i], i == 0 ? lowest : others),
                                     b.limb[i]);
    return a;
}

/* One pass, all limbs at once: each keeps 51 bits and takes what its neighbour had above.
 * That is below 2^13, and 19 times as much for limb 0: limbs end below 2^51 + 2^18 (REDUCED
 * in the tests), far below 2^52. */
ALWAYS_INLINE struct number carry(struct sum s)
{
    const __m512i mask = same(LIMB_MASK);
    struct number a;
    __m512i above[LIMBS];

    UNROLLED for (int i = 0; i < LIMBS; i++) {
        above[i] = _mm512_srli_epi64(s.limb[i], LIMB_BITS);
        a.limb[i] = _mm512_and_si512(s.limb[i], mask);
    }
    a.limb[0] = _mm512_madd52lo_epu64(a.limb[0], above[LIMBS - 1], same(19));
    UNROLLED for (int i = 1; i < LIMBS; i++)
        a.limb[i] = _mm512_add_epi64(a.limb[i], above[i - 1]);
    return a;
}

/* 2p - a in the lanes of `lanes`, a elsewhere. A limb of `a` is at most 2^51 + 2^18, and of
 * 2p at least 2^52 - 38. */
ALWAYS_INLINE struct number negate_if(__mmask8 lanes, struct number a)
{
    const __m512i lowest = same(2 * (LIMB_MASK - 18)), others = same(2 * LIMB_MASK);

    UNROLLED for (int i = 0; i < LIMBS; i++)
        a.limb[i] = _mm512_mask_sub_epi64(a.limb[i], lanes, i == 0 ? lowest : others, a.limb[i]);
    return a;
}

/* ---- Products ---- */

#define LOW(z, x, y) ((z) = _mm512_madd52lo_epu64((z), (x), (y)))
#define HIGH(z, x, y) ((z) = _mm512_madd52hi_epu64((z), (x), (y)))
#define TWICE(z) ((z) = _mm512_add_epi64((z), (z)))

/* The high half of a product of limbs weighs 2^52, which is twice the next column: each
 * column first sums high halves, is doubled, then sums low halves. Columns 5 to 9 have the
 * weight 2^255 = 19 of columns 0 to 4. Column 9 has no low halves: it is doubled together
 * with column 4. */
ALWAYS_INLINE struct sum multiply(struct number a, struct number b)
{
    __m512i nineteen = same(19);
    __m512i z[2 * LIMBS];
    struct sum s;

    __asm__("" : "+v"(nineteen)); /* or the compiler multiplies by shifts and sums */
    UNROLLED for (int k = 0; k < 2 * LIMBS; k++)
        z[k] = _mm512_setzero_si512();
    UNROLLED for (int i = 0; i < LIMBS; i++)
        UNROLLED for (int j = LIMBS - 1 - i; j < LIMBS; j++)
            HIGH(z[i + j + 1], a.limb[i], b.limb[j]);
    UNROLLED for (int k = LIMBS; k < 2 * LIMBS - 1; k++)
        TWICE(z[k]);
    UNROLLED for (int i = 0; i < LIMBS; i++)
        UNROLLED for (int j = LIMBS - i; j < LIMBS; j++)
            LOW(z[i + j], a.limb[i], b.limb[j]);
    UNROLLED for (int i = 0; i < LIMBS; i++)
        UNROLLED for (int j = 0; j < LIMBS - 1 - i; j++)
            HIGH(z[i + j + 1], a.limb[i], b.limb[j]);
    UNROLLED for (int k = 0; k < LIMBS; k++) {
        const __m512i folded = _mm512_mullo_epi64(z[k + LIMBS], nineteen);

        if (k > 0 && k < LIMBS - 1)
            TWICE(z[k]);
        z[k] = k == 0 ? folded : _mm512_add_epi64(z[k], folded);
    }
    TWICE(z[LIMBS - 1]);
    UNROLLED for (int i = 0; i < LIMBS; i++)
        UNROLLED for (int j = 0; j < LIMBS - i; j++)
            LOW(z[i + j], a.limb[i], b.limb[j]);
    UNROLLED for (int k = 0; k < LIMBS; k++)
        s.limb[k] = z[k];
    return s;
}

/* Products of different limbs count twice. So a column sums high halves of these, is doubled,
 * sums their low halves and the high halves of squares, is doubled, sums low halves of
 * squares. Columns 5, 7 and 9 have none of the last: there the second doubling comes after
 * they were folded, together with that of columns 0, 2 and 4. */
ALWAYS_INLINE struct sum square(struct number a)
{
    __m512i nineteen = same(19), thirty_eight = same(38);
    __m512i z[2 * LIMBS];
    struct sum s;

    __asm__("" : "+v"(nineteen), "+v"(thirty_eight));
    UNROLLED for (int k = 0; k < 2 * LIMBS; k++)
        z[k] = _mm512_setzero_si512();
    UNROLLED for (int i = 0; i < LIMBS; i++)
        UNROLLED for (int j = i + 1; j < LIMBS; j++)
            HIGH(z[i + j + 1], a.limb[i], a.limb[j]);
    UNROLLED for (int k = 2; k <= 8; k++)
        TWICE(z[k]);
    UNROLLED for (int i = 0; i < LIMBS; i++)
        UNROLLED for (int j = i + 1; j < LIMBS; j++)
            LOW(z[i + j], a.limb[i], a.limb[j]);
    UNROLLED for (int i = 0; i < LIMBS; i++)
        HIGH(z[2 * i + 1], a.limb[i], a.limb[i]);
    UNROLLED for (int k = 1; k < LIMBS; k += 2) {
        TWICE(z[k]);
        TWICE(z[k + LIMBS]);
        LOW(z[k + LIMBS], a.limb[(k + LIMBS) / 2], a.limb[(k + LIMBS) / 2]);
    }
    UNROLLED for (int k = 0; k < LIMBS; k++) {
        const __m512i folded = _mm512_mullo_epi64(z[k + LIMBS], k == 0 ? thirty_eight : nineteen);

        z[k] = k == 0 ? folded : _mm512_add_epi64(z[k], folded);
    }
    UNROLLED for (int k = 0; k < LIMBS; k += 2) {
        if (k > 0)
            TWICE(z[k]);
        LOW(z[k], a.limb[k / 2], a.limb[k / 2]);
    }
    UNROLLED for (int k = 0; k < LIMBS; k++)
        s.limb[k] = z[k];
    return s;
}

ALWAYS_INLINE struct number times(struct number a, struct number b)
{
    return carry(multiply(a, b));
}

ALWAYS_INLINE struct number squared(struct number a)
{
    return carry(square(a));
}

/* ---- Words ---- */

/* All 256 bits; limbs end below 2^51, the highest below 2^52. */
ALWAYS_INLINE struct number unpack(struct words w)
{
    const __m512i mask = same(LIMB_MASK);
    struct number a;

    a.limb[0] = w.word[0];
    a.limb[1] = _mm512_or_si512(_mm512_srli_epi64(w.word[0], 51), _mm512_slli_epi64(w.word[1], 13));
    a.limb[2] = _mm512_or_si512(_mm512_srli_epi64(w.word[1], 38), _mm512_slli_epi64(w.word[2], 26));
    a.limb[3] = _mm512_or_si512(_mm512_srli_epi64(w.word[2], 25), _mm512_slli_epi64(w.word[3], 39));
    a.limb[4] = _mm512_srli_epi64(w.word[3], 12);
    UNROLLED for (int i = 0; i < LIMBS - 1; i++)
        a.limb[i] = _mm512_and_si512(a.limb[i], mask);
    return a;
}

/* The one representation below p, of a number below 2^255 + 2^223 and so below 2p, as carry()
 * gives, and unpack() where bit 255 is not set: p is taken away once if adding 19 reaches 2^255. */
ALWAYS_INLINE struct words pack(struct number a)
{
    const __m512i mask = same(LIMB_MASK);
    __m512i above = same(19);
    struct words w;

    UNROLLED for (int i = 0; i < LIMBS; i++)
        above = _mm512_srli_epi64(_mm512_add_epi64(a.limb[i], above), LIMB_BITS);
    above = _mm512_mullo_epi64(above, same(19));
    UNROLLED for (int i = 0; i < LIMBS; i++) {
        a.limb[i] = _mm512_add_epi64(a.limb[i], above);
        above = _mm512_srli_epi64(a.limb[i], LIMB_BITS);
        a.limb[i] = _mm512_and_si512(a.limb[i], mask);
    }
    w.word[0] = _mm512_or_si512(a.limb[0], _mm512_slli_epi64(a.limb[1], 51));
    w.word[1] = _mm512_or_si512(_mm512_srli_epi64(a.limb[1], 13), _mm512_slli_epi64(a.limb[2], 38));
    w.word[2] = _mm512_or_si512(_mm512_srli_epi64(a.limb[2], 26), _mm512_slli_epi64(a.limb[3], 25));
    w.word[3] = _mm512_or_si512(_mm512_srli_epi64(a.limb[3], 39), _mm512_slli_epi64(a.limb[4], 12));
    return w;
}

/* The lanes in which the number is 0 modulo p. */
ALWAYS_INLINE __mmask8 is_zero(struct number a)
{
    struct words w = pack(a);
    __m512i any = _mm512_or_si512(_mm512_or_si512(w.word[0], w.word[1]),
                                  _mm512_or_si512(w.word[2], w.word[3]));

    return _mm512_testn_epi64_mask(any, any);
}

/* b in the lanes of `lanes`, a elsewhere. */
ALWAYS_INLINE struct number choose(__mmask8 lanes, struct number a, struct number b)
{
    UNROLLED for (int i = 0; i < LIMBS; i++)
        a.limb[i] = _mm512_mask_mov_epi64(a.limb[i], lanes, b.limb[i]);
    return a;
}

/* The same 32 bytes in every lane. */
ALWAYS_INLINE struct number constant(const uint64_t words[4])
{
    struct words w;

    UNROLLED for (int i = 0; i < 4; i++)
        w.word[i] = same(words[i]);
    return unpack(w);
}

/* ---- Powers ---- */

/* Each of `count` numbers squared `times` times: two at once hide each other's latency. */
ALWAYS_INLINE void square_often(struct number *a, int count, int how_often)
{
    for (; how_often > 0; how_often--)
        for (int n = 0; n < count; n++)
            a[n] = squared(a[n]);
}

/* a^(2^250 - 1) and a^11, which both powers below end with. The exponents of the left side
 * double in length with each line. */
ALWAYS_INLINE void power_of_ones(struct number *ones250, struct number *eleven,
                                 const struct number *a, int count)
{
    struct number ones5[2], ones10[2], ones50[2], t[2], two[2], nine[2];

#define EACH for (int n = 0; n < count; n++)
    EACH two[n] = squared(a[n]);
    EACH t[n] = two[n];
    square_often(t, count, 2);
    EACH nine[n] = times(t[n], a[n]);
    EACH eleven[n] = times(nine[n], two[n]);
    EACH ones5[n] = times(squared(eleven[n]), nine[n]); /* 22 + 9 = 2^5 - 1 */
    EACH t[n] = ones5[n];
    square_often(t, count, 5);
    EACH ones10[n] = times(t[n], ones5[n]);
    EACH t[n] = ones10[n];
    square_often(t, count, 10);
    EACH ones50[n] = times(t[n], ones10[n]); /* 20 so far */
    EACH t[n] = ones50[n];
    square_often(t, count, 20);
    EACH t[n] = times(t[n], ones50[n]); /* 40 */
    square_often(t, count, 10);
    EACH ones50[n] = times(t[n], ones10[n]);
    EACH t[n] = ones50[n];
    square_often(t, count, 50);
    EACH ones10[n] = times(t[n], ones50[n]); /* 100, kept where 10 was */
    EACH t[n] = ones10[n];
    square_often(t, count, 100);
    EACH t[n] = times(t[n], ones10[n]); /* 200 */
    square_often(t, count, 50);
    EACH ones250[n] = times(t[n], ones50[n]);
}

/* a^((p - 5) / 8) = a^(2^252 - 3), for square roots. `out` is not `a`. */
ALWAYS_INLINE void root_power(struct number *out, const struct number *a, int count)
{
    struct number eleven[2];

    power_of_ones(out, eleven, a, count);
    square_often(out, count, 2);
    EACH out[n] = times(out[n], a[n]);
}
#undef EACH

/* 1/a = a^(p - 2) = a^(2^255 - 21); 0 for 0. */
ALWAYS_INLINE struct number inverse(struct number a)
{
    struct number out, eleven;

    power_of_ones(&out, &eleven, &a, 1);
    square_often(&out, 1, 5);
    return times(out, eleven);
}

#endif
