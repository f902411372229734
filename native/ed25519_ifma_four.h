/* Numbers modulo p = 2^255 - 19, four at a time, and a point of the curve in four lanes: for
 * one signature by itself (ed25519_ifma_one.c) and its tests only; needs AVX-512 F, DQ, VL
 * and IFMA. What is said of numbers and their bounds in ed25519_ifma_field.h holds here for
 * vectors of 256 bits. Products are in another order: there is one chain of them, each waits
 * for the one before, so it is the time to the last limb that counts (30 cycles a square, 39
 * a product on Zen 4), not how often the multiplier is busy.
 *
 * The formulas are those of Hisil, Wong, Carter and Dawson, "Twisted Edwards curves
 * revisited" (2008), section 4 for four processors: every sum and every doubling is two
 * products of four lanes. They are complete, as ed25519_ifma_group.h says. */
#ifndef IOMT_ED25519_IFMA_FOUR_H
#define IOMT_ED25519_IFMA_FOUR_H

#include "ed25519_ifma_field.h"

#define FOUR_LANES 4

/* Limbs below 2^52, and limbs of up to 64 bits. */
struct four {
    __m256i limb[LIMBS];
};

struct four_sum {
    __m256i limb[LIMBS];
};

#define EACH_LIMB UNROLLED for (int i = 0; i < LIMBS; i++)

ALWAYS_INLINE __m256i four_same(uint64_t word)
{
    return _mm256_set1_epi64x((long long)word);
}

/* `times` p in radix 2^51, as limb i of it. */
ALWAYS_INLINE __m256i four_multiple_of_p(uint64_t times, int i)
{
    return four_same(times * (i == 0 ? LIMB_MASK - 18 : LIMB_MASK));
}

/* A limb of a number that is the same small word in every lane. */
ALWAYS_INLINE __m256i four_small(uint64_t word, int i)
{
    return four_same(i == 0 ? word : 0);
}

/* As carry(): limbs end below 2^51 + 2^18. */
ALWAYS_INLINE struct four four_carry(struct four_sum s)
{
    const __m256i mask = four_same(LIMB_MASK);
    struct four a;
    __m256i above[LIMBS];

    EACH_LIMB {
        above[i] = _mm256_srli_epi64(s.limb[i], LIMB_BITS);
        a.limb[i] = _mm256_and_si256(s.limb[i], mask);
    }
    a.limb[0] = _mm256_madd52lo_epu64(a.limb[0], above[LIMBS - 1], four_same(19));
    UNROLLED for (int i = 1; i < LIMBS; i++)
        a.limb[i] = _mm256_add_epi64(a.limb[i], above[i - 1]);
    return a;
}

/* ---- Products ---- */

#define FOUR_LOW(z, x, y) ((z) = _mm256_madd52lo_epu64((z), (x), (y)))
#define FOUR_HIGH(z, x, y) ((z) = _mm256_madd52hi_epu64((z), (x), (y)))

/* The columns 0 to 4 of ten, with 19 times the columns 5 to 9. */
ALWAYS_INLINE struct four_sum four_fold(const __m256i columns[2 * LIMBS])
{
    __m256i nineteen = four_same(19);
    struct four_sum s;

    __asm__("" : "+v"(nineteen));
    EACH_LIMB s.limb[i] = _mm256_add_epi64(
        columns[i], _mm256_mullo_epi64(columns[i + LIMBS], nineteen));
    return s;
}

/* High halves weigh twice the column in which they stand: they have sums of their own. The
 * columns from 5 on come first, since what they give is still to be multiplied. */
ALWAYS_INLINE struct four_sum four_multiply(struct four a, struct four b)
{
    __m256i low[2 * LIMBS], high[2 * LIMBS], columns[2 * LIMBS];

    UNROLLED for (int k = 0; k < 2 * LIMBS; k++)
        low[k] = high[k] = _mm256_setzero_si256();
    UNROLLED for (int i = 0; i < LIMBS; i++)
        UNROLLED for (int j = LIMBS - 1 - i; j < LIMBS; j++)
            FOUR_HIGH(high[i + j + 1], a.limb[i], b.limb[j]);
    UNROLLED for (int i = 0; i < LIMBS; i++)
        UNROLLED for (int j = LIMBS - i; j < LIMBS; j++)
            FOUR_LOW(low[i + j], a.limb[i], b.limb[j]);
    UNROLLED for (int i = 0; i < LIMBS; i++)
        UNROLLED for (int j = 0; j < LIMBS - 1 - i; j++)
            FOUR_HIGH(high[i + j + 1], a.limb[i], b.limb[j]);
    UNROLLED for (int i = 0; i < LIMBS; i++)
        UNROLLED for (int j = 0; j < LIMBS - i; j++)
            FOUR_LOW(low[i + j], a.limb[i], b.limb[j]);
    UNROLLED for (int k = 0; k < 2 * LIMBS; k++)
        columns[k] = _mm256_add_epi64(_mm256_add_epi64(high[k], high[k]), low[k]);
    return four_fold(columns);
}

/* Three sums to a column: `once` low halves of squares; `twice` their high halves and the low
 * halves of other products; `often`, which counts four times, the high halves of these. */
ALWAYS_INLINE struct four_sum four_square(struct four a)
{
    __m256i once[2 * LIMBS], twice[2 * LIMBS], often[2 * LIMBS], columns[2 * LIMBS];

    UNROLLED for (int k = 0; k < 2 * LIMBS; k++)
        once[k] = twice[k] = often[k] = _mm256_setzero_si256();
    UNROLLED for (int upper = 1; upper >= 0; upper--) {
        UNROLLED for (int i = 0; i < LIMBS; i++)
            UNROLLED for (int j = i + 1; j < LIMBS; j++)
                if ((i + j + 1 >= LIMBS) == upper)
                    FOUR_HIGH(often[i + j + 1], a.limb[i], a.limb[j]);
        EACH_LIMB if ((2 * i + 1 >= LIMBS) == upper)
            FOUR_HIGH(twice[2 * i + 1], a.limb[i], a.limb[i]);
        UNROLLED for (int i = 0; i < LIMBS; i++)
            UNROLLED for (int j = i + 1; j < LIMBS; j++)
                if ((i + j >= LIMBS) == upper)
                    FOUR_LOW(twice[i + j], a.limb[i], a.limb[j]);
        EACH_LIMB if ((2 * i >= LIMBS) == upper)
            FOUR_LOW(once[2 * i], a.limb[i], a.limb[i]);
    }
    UNROLLED for (int k = 0; k < 2 * LIMBS; k++) {
        columns[k] = _mm256_add_epi64(_mm256_add_epi64(twice[k], twice[k]), once[k]);
        columns[k] = _mm256_add_epi64(columns[k], _mm256_slli_epi64(often[k], 2));
    }
    return four_fold(columns);
}

ALWAYS_INLINE struct four four_times(struct four a, struct four b)
{
    return four_carry(four_multiply(a, b));
}

ALWAYS_INLINE struct four four_squared(struct four a)
{
    return four_carry(four_square(a));
}

/* ---- Sums ---- */

ALWAYS_INLINE struct four four_plus(struct four a, struct four b)
{
    struct four_sum s;

    EACH_LIMB s.limb[i] = _mm256_add_epi64(a.limb[i], b.limb[i]);
    return four_carry(s);
}

/* Both reduced; 4 p keeps it positive. */
ALWAYS_INLINE struct four four_minus(struct four a, struct four b)
{
    struct four_sum s;

    EACH_LIMB s.limb[i] = _mm256_sub_epi64(
        _mm256_add_epi64(a.limb[i], four_multiple_of_p(4, i)), b.limb[i]);
    return four_carry(s);
}

/* As negate_if(). */
ALWAYS_INLINE struct four four_negate_if(__mmask8 lanes, struct four a)
{
    EACH_LIMB a.limb[i] =
        _mm256_mask_sub_epi64(a.limb[i], lanes, four_multiple_of_p(2, i), a.limb[i]);
    return a;
}

/* b in the lanes of `lanes`, a elsewhere. */
ALWAYS_INLINE struct four four_choose(__mmask8 lanes, struct four a, struct four b)
{
    EACH_LIMB a.limb[i] = _mm256_mask_mov_epi64(a.limb[i], lanes, b.limb[i]);
    return a;
}

/* ---- Words ---- */

struct four_words {
    __m256i word[4];
};

#define FOUR_OR(a, b) _mm256_or_si256((a), (b))
#define FOUR_LEFT(a, bits) _mm256_slli_epi64((a), (bits))
#define FOUR_RIGHT(a, bits) _mm256_srli_epi64((a), (bits))

/* As unpack(): the low 255 bits. */
ALWAYS_INLINE struct four four_unpack(struct four_words w)
{
    const __m256i mask = four_same(LIMB_MASK);
    struct four a;

    a.limb[0] = w.word[0];
    a.limb[1] = FOUR_OR(FOUR_RIGHT(w.word[0], 51), FOUR_LEFT(w.word[1], 13));
    a.limb[2] = FOUR_OR(FOUR_RIGHT(w.word[1], 38), FOUR_LEFT(w.word[2], 26));
    a.limb[3] = FOUR_OR(FOUR_RIGHT(w.word[2], 25), FOUR_LEFT(w.word[3], 39));
    a.limb[4] = FOUR_RIGHT(w.word[3], 12);
    EACH_LIMB a.limb[i] = _mm256_and_si256(a.limb[i], mask);
    return a;
}

/* As pack(): the one representation below p. */
ALWAYS_INLINE struct four_words four_pack(struct four a)
{
    const __m256i mask = four_same(LIMB_MASK);
    __m256i above = four_same(19);
    struct four_words w;

    EACH_LIMB above = FOUR_RIGHT(_mm256_add_epi64(a.limb[i], above), LIMB_BITS);
    above = _mm256_mullo_epi64(above, four_same(19));
    EACH_LIMB {
        a.limb[i] = _mm256_add_epi64(a.limb[i], above);
        above = FOUR_RIGHT(a.limb[i], LIMB_BITS);
        a.limb[i] = _mm256_and_si256(a.limb[i], mask);
    }
    w.word[0] = FOUR_OR(a.limb[0], FOUR_LEFT(a.limb[1], 51));
    w.word[1] = FOUR_OR(FOUR_RIGHT(a.limb[1], 13), FOUR_LEFT(a.limb[2], 38));
    w.word[2] = FOUR_OR(FOUR_RIGHT(a.limb[2], 26), FOUR_LEFT(a.limb[3], 25));
    w.word[3] = FOUR_OR(FOUR_RIGHT(a.limb[3], 39), FOUR_LEFT(a.limb[4], 12));
    return w;
}

/* The lanes in which the number is 0 modulo p. */
ALWAYS_INLINE unsigned four_is_zero(struct four a)
{
    struct four_words w = four_pack(a);
    __m256i any = FOUR_OR(FOUR_OR(w.word[0], w.word[1]), FOUR_OR(w.word[2], w.word[3]));

    return _mm256_testn_epi64_mask(any, any);
}

/* The same 32 bytes in every lane. */
ALWAYS_INLINE struct four four_constant(const uint64_t words[4])
{
    struct four_words w;

    UNROLLED for (int i = 0; i < 4; i++)
        w.word[i] = four_same(words[i]);
    return four_unpack(w);
}

/* ---- Powers ---- */

ALWAYS_INLINE struct four four_square_often(struct four a, int how_often)
{
    for (; how_often > 0; how_often--)
        a = four_squared(a);
    return a;
}

/* a^((p - 5) / 8) = a^(2^252 - 3), for square roots; see root_power(). */
ALWAYS_INLINE struct four four_root_power(struct four a)
{
    const struct four two = four_squared(a);
    const struct four nine = four_times(four_square_often(two, 2), a);
    const struct four eleven = four_times(nine, two);
    const struct four ones5 = four_times(four_squared(eleven), nine); /* 2^5 - 1 */
    const struct four ones10 = four_times(four_square_often(ones5, 5), ones5);
    const struct four ones20 = four_times(four_square_often(ones10, 10), ones10);
    const struct four ones40 = four_times(four_square_often(ones20, 20), ones20);
    const struct four ones50 = four_times(four_square_often(ones40, 10), ones10);
    const struct four ones100 = four_times(four_square_often(ones50, 50), ones50);
    const struct four ones200 = four_times(four_square_often(ones100, 100), ones100);
    const struct four ones250 = four_times(four_square_often(ones200, 50), ones50);

    return four_times(four_square_often(ones250, 2), a);
}

/* ---- Points ---- */

/* A point is (Z, X, Y, T) in the four lanes, with x = X/Z, y = Y/Z, xy = T/Z, as a product
 * gives it; or (Z, X, Y, X), all that a doubling wants. An addend is (2 Z, Y - X, Y + X,
 * 2 d T), reduced, or all four a multiple of it. */
#define LANE_Z 1
#define LANE_X 2
#define LANE_Y 4
#define LANE_T 8
#define LANES_OF(a, b, c, d) ((a) | (b) << 2 | (c) << 4 | (d) << 6)
#define MOVED(v, a, b, c, d) _mm256_permutex_epi64((v), LANES_OF(a, b, c, d))

/* (E, F, G, H) end every formula: Z = F G, X = E F, Y = G H, and T = E H or X once more.
 * `at` names where each of them stands in `efgh`. */
#define FINISH(efgh, e, f, g, h, with_t)                                                \
    do {                                                                                \
        const __m256i left_ = _mm256_setr_epi64x(f, e, g, e);                           \
        const __m256i of_x_ = _mm256_setr_epi64x(g, f, h, f);                           \
        const __m256i of_t_ = _mm256_setr_epi64x(g, f, h, h);                           \
        const __m256i right_ = (with_t) ? of_t_ : of_x_;                                \
        struct four a_, b_;                                                             \
        EACH_LIMB a_.limb[i] = _mm256_permutexvar_epi64(left_, (efgh).limb[i]);         \
        EACH_LIMB b_.limb[i] = _mm256_permutexvar_epi64(right_, (efgh).limb[i]);        \
        *p = four_multiply(a_, b_);                                                     \
    } while (0)

/* 2 P of (Z, X, Y, X). With the squares of Z, X, Y and of X + Y in the lanes:
 * F = 2 ZZ + XX - YY, G = XX - YY, H = XX + YY, E = H - (X + Y)^2, as in double_point(). */
ALWAYS_INLINE void four_double(struct four_sum *p, int with_t)
{
    struct four_sum s;
    struct four efgh;

    EACH_LIMB {
        const __m256i y = _mm256_unpacklo_epi64(p->limb[i], p->limb[i]); /* in lane T */

        s.limb[i] = _mm256_mask_add_epi64(p->limb[i], LANE_T, p->limb[i], y);
    }
    s = four_square(four_carry(s));
    EACH_LIMB {
        const __m256i own = s.limb[i];
        const __m256i xx = MOVED(own, 1, 1, 1, 1), yy = MOVED(own, 2, 2, 2, 2);
        __m256i t = four_multiple_of_p(2 * (PRODUCT + 1), i);

        t = _mm256_mask_add_epi64(t, 1, t, _mm256_add_epi64(own, own));
        t = _mm256_mask_sub_epi64(t, 8, t, own);
        t = _mm256_add_epi64(t, xx);
        t = _mm256_mask_add_epi64(t, 4 | 8, t, yy);
        s.limb[i] = _mm256_mask_sub_epi64(t, 1 | 2, t, yy);
    }
    efgh = four_carry(s); /* F, G, H, E */
    FINISH(efgh, 3, 0, 1, 2, with_t);
}

/* (Z, Y - X, Y + X, T) */
ALWAYS_INLINE struct four four_crossed(const struct four_sum *p)
{
    struct four_sum s;

    EACH_LIMB {
        const __m256i own = p->limb[i], other = MOVED(own, 0, 2, 1, 3);
        const __m256i biased = _mm256_add_epi64(other, four_multiple_of_p(2 * (PRODUCT + 1), i));

        s.limb[i] = _mm256_mask_add_epi64(own, LANE_Y, own, other);
        s.limb[i] = _mm256_mask_sub_epi64(s.limb[i], LANE_X, biased, own);
    }
    return four_carry(s);
}

/* P + Q of (Z, X, Y, T): D = 2 Z Z, A = (Y - X)(Y - X), B = (Y + X)(Y + X), C = 2 d T T;
 * F = D - C, H = B + A, E = B - A, G = D + C. */
ALWAYS_INLINE void four_add(struct four_sum *p, const struct four *q, int with_t)
{
    struct four_sum s = four_multiply(four_crossed(p), *q); /* D, A, B, C */
    struct four efgh;

    EACH_LIMB {
        const __m256i own = s.limb[i], other = MOVED(own, 3, 2, 1, 0);
        const __m256i biased = _mm256_add_epi64(own, four_multiple_of_p(2 * (PRODUCT + 1), i));

        s.limb[i] = _mm256_mask_sub_epi64(_mm256_add_epi64(own, other), 1 | 4, biased, other);
    }
    efgh = four_carry(s); /* F, H, E, G */
    FINISH(efgh, 2, 0, 3, 1, with_t);
}

/* a times the small words, below 2^18, in the lanes of `factors`. */
ALWAYS_INLINE struct four four_scaled(struct four a, __m256i factors)
{
    __m256i high[LIMBS];
    struct four_sum s;

    EACH_LIMB {
        s.limb[i] = high[i] = _mm256_setzero_si256();
        FOUR_LOW(s.limb[i], a.limb[i], factors);
        FOUR_HIGH(high[i], a.limb[i], factors); /* below 2^18 */
    }
    s.limb[0] = _mm256_add_epi64(s.limb[0], _mm256_mullo_epi64(high[LIMBS - 1], four_same(38)));
    UNROLLED for (int i = 1; i < LIMBS; i++)
        s.limb[i] = _mm256_add_epi64(s.limb[i], _mm256_add_epi64(high[i - 1], high[i - 1]));
    return four_carry(s);
}

/* d = -121665 / 121666 */
#define D_OVER UINT64_C(121665)
#define D_UNDER UINT64_C(121666)

/* The addend of (Z, X, Y, T), with all four coordinates D_UNDER times as large: this is the
 * same point, and the factors are small. */
ALWAYS_INLINE struct four four_addend(const struct four_sum *p)
{
    const __m256i factors = _mm256_setr_epi64x(2 * D_UNDER, D_UNDER, D_UNDER, 2 * D_OVER);

    return four_scaled(four_negate_if(LANE_T, four_crossed(p)), factors);
}

/* The opposite of an addend, if `negative`: Y - X and Y + X exchanged, T negated. */
ALWAYS_INLINE struct four four_opposite_if(int negative, struct four q)
{
    const __mmask8 all = (__mmask8)(0 - negative);

    EACH_LIMB q.limb[i] =
        _mm256_mask_permutex_epi64(q.limb[i], all, q.limb[i], LANES_OF(0, 2, 1, 3));
    return four_negate_if(all & LANE_T, q);
}

/* Whether it is the neutral point: X = 0, Y = Z (and Z, which is never 0, is not). */
ALWAYS_INLINE int four_is_neutral(const struct four_sum *p)
{
    const struct four a = four_carry(*p);
    struct four z;
    unsigned zero;

    EACH_LIMB z.limb[i] = _mm256_maskz_mov_epi64(LANE_Y, MOVED(a.limb[i], 0, 0, 0, 0));
    zero = four_is_zero(four_minus(a, z));
    return (zero & (LANE_Z | LANE_X | LANE_Y)) == (LANE_X | LANE_Y);
}

#endif
