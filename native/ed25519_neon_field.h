/* Numbers modulo p = 2^255 - 19, two at a time: lane 0 belongs to one number and lane 1 to the
 * other, and nothing here lets a lane read its neighbour, so what one signature does cannot
 * reach the one beside it. For ed25519_neon.c and its tests only.
 *
 * A number is ten limbs in radix 2^25.5: limb i weighs 2^ceil(25.5 i), so even limbs have 26
 * bits and odd ones 25. NEON multiplies two pairs of 32-bit numbers and adds the products to
 * two 64-bit sums in one instruction; a product of numbers is 100 of them for both lanes.
 *
 * Bounds are counted in units. One unit is an even limb below 2^26 + 2^17 and an odd one below
 * 2^25 + 2^16: what every product, every square and every unpacking gives. plus() adds units,
 * minus() says what it adds. Nothing is carried but columns of products, because products
 * take more than one unit:
 *
 *   multiply   left up to 8 units, right up to 3
 *   square     up to 3 units, and an addend of up to 4
 *
 * Right: 19 times a limb must fit in 32 bits, and 19 * 3 * (2^26 + 2^17) < 0.9 * 2^32. Left:
 * twice an odd limb must, with room to spare. Columns: 0 is the largest, one product of even
 * limbs, and 19 times four such and five products of odd limbs taken twice, which are half as
 * large: 1 + 19 (4 + 5 / 2) = 124.5 products of even limbs, each below 8 * 3 * (2^26 + 2^17)^2,
 * in all less than 2^63.6. The carry from below, less than 2^38, and an addend, less than
 * 2^29, leave it below 2^64. */
#ifndef IOMT_ED25519_NEON_FIELD_H
#define IOMT_ED25519_NEON_FIELD_H

#include "ed25519_field51.h"

#include <arm_neon.h>

#define LANES 2
#define LIMBS 10
#define MASK26 0x3ffffff
#define MASK25 0x1ffffff

#define ALWAYS_INLINE static inline __attribute__((always_inline))
#define NOT_INLINE static __attribute__((noinline, unused))

/* Before every loop over limbs: limbs are registers, and shifts want constants. */
#define UNROLLED _Pragma("GCC unroll 16")

/* Limb i of lane l is word 2 i + l: two limbs are a vector of four words, one is one of two. */
#define WORDS (LIMBS * LANES)

struct number {
    _Alignas(16) uint32_t word[WORDS];
};

ALWAYS_INLINE uint32x4_t pair_of(const struct number *a, int i)
{
    return vld1q_u32(a->word + 4 * i);
}

ALWAYS_INLINE uint32x2_t limb_of(const struct number *a, int i)
{
    return vld1_u32(a->word + 2 * i);
}

/* The same two limbs in both lanes. */
ALWAYS_INLINE uint32x4_t same(uint32_t even, uint32_t odd)
{
    return vcombine_u32(vdup_n_u32(even), vdup_n_u32(odd));
}

/* The same number in both lanes. */
ALWAYS_INLINE struct number small(uint32_t word)
{
    struct number a = {{word, word}};

    return a;
}

/* ---- Sums ---- */

/* `out` may be any of the others, here and below. */
ALWAYS_INLINE void plus(struct number *out, const struct number *a, const struct number *b)
{
    UNROLLED for (int i = 0; i < LIMBS / 2; i++)
        vst1q_u32(out->word + 4 * i, vaddq_u32(pair_of(a, i), pair_of(b, i)));
}

/* Limbs 2i and 2i + 1 of `times` p. */
ALWAYS_INLINE uint32x4_t pair_of_p(int i, uint32_t times)
{
    return same(times * (i == 0 ? MASK26 - 18 : MASK26), times * MASK25);
}

/* a - b, where b has up to `units` units. Adds units + 1 times p, of which a limb is more than
 * `units` units since 19 (units + 1) + 2^17 units < 2^26: no limb falls below zero, and the
 * result has units + 1 units more than a. */
ALWAYS_INLINE void minus(struct number *out, const struct number *a, const struct number *b,
                         uint32_t units)
{
    UNROLLED for (int i = 0; i < LIMBS / 2; i++)
        vst1q_u32(out->word + 4 * i, vsubq_u32(vaddq_u32(pair_of(a, i), pair_of_p(i, units + 1)),
                                               pair_of(b, i)));
}

/* All ones in the lanes of `lanes` (bit l is lane l), as two limbs have them. */
ALWAYS_INLINE uint32x4_t lane_mask(unsigned lanes)
{
    const uint64_t both = (lanes & 1 ? 0xffffffffu : 0) | (lanes & 2 ? ~0xffffffffULL : 0);

    return vreinterpretq_u32_u64(vdupq_n_u64(both));
}

/* 2p - a in the lanes of the mask, a elsewhere. Takes one unit and gives two: 2p - a is
 * 2p + 1 with all bits of a turned, modulo 2^32. */
ALWAYS_INLINE void negate_if(uint32x4_t mask, struct number *a)
{
    UNROLLED for (int i = 0; i < LIMBS / 2; i++) {
        const uint32x4_t more = vandq_u32(vaddq_u32(pair_of_p(i, 2), same(1, 1)), mask);

        vst1q_u32(a->word + 4 * i, vaddq_u32(veorq_u32(pair_of(a, i), mask), more));
    }
}

/* b in the lanes of the mask, a elsewhere. */
ALWAYS_INLINE void choose(struct number *out, uint32x4_t mask, const struct number *a,
                          const struct number *b)
{
    UNROLLED for (int i = 0; i < LIMBS / 2; i++)
        vst1q_u32(out->word + 4 * i, vbslq_u32(mask, pair_of(b, i), pair_of(a, i)));
}

/* ---- Products ---- */

/* Column `to` takes what column `from` has above `bits` bits, which then keeps the rest. */
#define CARRY(to, from, bits)                                    \
    (z[to] = vsraq_n_u64(z[to], z[from], (bits)),                \
     z[from] = vandq_u64(z[from], (bits) == 26 ? mask26 : mask25))

/* Two chains side by side, 0 to 5 and 5 to 9 and 0, since a step waits for the one before it.
 * Column 9 leaves for column 0 with the factor 19 = 1 + 2 + 16.
 *
 * Columns come in below 2^64, so none leaves more than 2^39 above it. Column 9 has no product
 * with the factor 19: it comes in below 10 * 24 * 2^51.1 < 2^59.1 and leaves less than 2^34.2,
 * of which 19 times are below 2^38.5. So the second time 0 leaves less than 2^13 for 1, and 5,
 * below 2^25 + 2^38, less than 2^14 for 6: all come out within one unit. */
ALWAYS_INLINE void carry(struct number *out, uint64x2_t z[LIMBS])
{
    const uint64x2_t mask26 = vdupq_n_u64(MASK26), mask25 = vdupq_n_u64(MASK25);
    uint64x2_t top;

    CARRY(1, 0, 26);
    CARRY(6, 5, 25);
    CARRY(2, 1, 25);
    CARRY(7, 6, 26);
    CARRY(3, 2, 26);
    CARRY(8, 7, 25);
    CARRY(4, 3, 25);
    CARRY(9, 8, 26);
    CARRY(5, 4, 26);
    top = vbicq_u64(z[9], mask25);
    z[9] = vandq_u64(z[9], mask25);
    z[0] = vsraq_n_u64(z[0], top, 25);
    z[0] = vsraq_n_u64(z[0], top, 24);
    z[0] = vsraq_n_u64(z[0], top, 21);
    CARRY(6, 5, 25);
    CARRY(1, 0, 26);
    UNROLLED for (int i = 0; i < LIMBS / 2; i++)
        vst1q_u32(out->word + 4 * i, vuzp1q_u32(vreinterpretq_u32_u64(z[2 * i]),
                                                vreinterpretq_u32_u64(z[2 * i + 1])));
}
#undef CARRY

/* Row by row: limb i of a with all limbs of b. Columns 10 and up have the weight 2^255 = 19 of
 * columns 0 and up, so before row i limb 10 - i of b takes the factor 19, and keeps it: all of
 * b, the columns and one limb of a are registers. Two odd limbs weigh twice their column. */
NOT_INLINE void multiply(struct number *out, const struct number *a, const struct number *b)
{
    const uint32x2_t nineteen = vdup_n_u32(19);
    uint32x2_t right[LIMBS];
    uint64x2_t z[LIMBS];

    UNROLLED for (int j = 0; j < LIMBS; j++)
        right[j] = limb_of(b, j);
    UNROLLED for (int j = 0; j < LIMBS; j++)
        z[j] = vmull_u32(limb_of(a, 0), right[j]);
    UNROLLED for (int i = 1; i < LIMBS; i++) {
        const uint32x2_t left = limb_of(a, i), twice = vadd_u32(left, left);

        right[LIMBS - i] = vmul_u32(right[LIMBS - i], nineteen);
        UNROLLED for (int j = 0; j < LIMBS; j++) {
            const int k = (i + j) % LIMBS;

            z[k] = vmlal_u32(z[k], i % 2 == 1 && j % 2 == 1 ? twice : left, right[j]);
        }
    }
    carry(out, z);
}

/* Products of different limbs count twice; `z` has the start of each column. */
ALWAYS_INLINE void add_square(uint64x2_t z[LIMBS], const struct number *a)
{
    const uint32x2_t nineteen = vdup_n_u32(19);
    uint32x2_t limb[LIMBS], wrapped[LIMBS];

    UNROLLED for (int i = 0; i < LIMBS; i++)
        limb[i] = limb_of(a, i);
    UNROLLED for (int i = LIMBS / 2; i < LIMBS; i++)
        wrapped[i] = vmul_u32(limb[i], nineteen);
    UNROLLED for (int i = 0; i < LIMBS; i++) {
        const uint32x2_t twice = vadd_u32(limb[i], limb[i]), four = vadd_u32(twice, twice);

        UNROLLED for (int j = i; j < LIMBS; j++) {
            const int k = (i + j) % LIMBS, odd = i % 2 == 1 && j % 2 == 1;
            const uint32x2_t left = i == j ? (odd ? twice : limb[i]) : (odd ? four : twice);

            z[k] = vmlal_u32(z[k], left, i + j < LIMBS ? limb[j] : wrapped[j]);
        }
    }
}

NOT_INLINE void square(struct number *out, const struct number *a)
{
    uint64x2_t z[LIMBS];

    UNROLLED for (int k = 0; k < LIMBS; k++)
        z[k] = vdupq_n_u64(0);
    add_square(z, a);
    carry(out, z);
}

/* a^2 + b. */
NOT_INLINE void square_plus(struct number *out, const struct number *a, const struct number *b)
{
    uint64x2_t z[LIMBS];

    UNROLLED for (int k = 0; k < LIMBS; k++)
        z[k] = vmovl_u32(limb_of(b, k));
    add_square(z, a);
    carry(out, z);
}

/* ---- 255 bits in four little-endian words ---- */

/* The low 255 bits of both, which may be p or more; one unit. */
ALWAYS_INLINE void unpack(struct number *out, const uint64_t first[4], const uint64_t second[4])
{
    const uint64x2_t first01 = vld1q_u64(first), first23 = vld1q_u64(first + 2);
    const uint64x2_t second01 = vld1q_u64(second), second23 = vld1q_u64(second + 2);
    const uint64x2_t w0 = vzip1q_u64(first01, second01), w1 = vzip2q_u64(first01, second01);
    const uint64x2_t w2 = vzip1q_u64(first23, second23), w3 = vzip2q_u64(first23, second23);
    const uint64x2_t limbs[LIMBS] = {
        w0,
        vshrq_n_u64(w0, 26),
        vsliq_n_u64(vshrq_n_u64(w0, 51), w1, 13),
        vshrq_n_u64(w1, 13),
        vshrq_n_u64(w1, 38),
        w2,
        vshrq_n_u64(w2, 25),
        vsliq_n_u64(vshrq_n_u64(w2, 51), w3, 13),
        vshrq_n_u64(w3, 12),
        vshrq_n_u64(w3, 38),
    };

    UNROLLED for (int i = 0; i < LIMBS / 2; i++)
        vst1q_u32(out->word + 4 * i,
                  vandq_u32(vuzp1q_u32(vreinterpretq_u32_u64(limbs[2 * i]),
                                       vreinterpretq_u32_u64(limbs[2 * i + 1])),
                            same(MASK26, MASK25)));
}

/* The same number in both lanes. */
ALWAYS_INLINE struct number constant(const struct iomt_packed *packed)
{
    struct number a;

    unpack(&a, packed->words, packed->words);
    return a;
}

/* The one representation below p of the number in a lane, which has up to 7 units: two limbs
 * make one of 51 bits, below 7 (2^51 + 2^43) and so loose (ed25519_field51.h). */
NOT_INLINE void pack_lane(struct iomt_packed *out, const struct number *a, int lane)
{
    struct iomt_field limbs;

    for (int i = 0; i < LIMBS / 2; i++)
        limbs.limb[i] = a->word[4 * i + lane] + ((uint64_t)a->word[4 * i + 2 + lane] << 26);
    iomt_field_pack(out, &limbs);
}

/* The lanes in which the number, of up to 7 units, is 0 modulo p. */
ALWAYS_INLINE unsigned is_zero(const struct number *a)
{
    unsigned lanes = 0;

    for (int lane = 0; lane < LANES; lane++) {
        struct iomt_packed packed;
        const uint64_t *w = packed.words;

        pack_lane(&packed, a, lane);
        lanes |= (unsigned)((w[0] | w[1] | w[2] | w[3]) == 0) << lane;
    }
    return lanes;
}

/* ---- Powers ---- */

/* Each of `count` numbers squared `how_often` times: two at once hide each other's latency. */
ALWAYS_INLINE void square_often(struct number *a, int count, int how_often)
{
    for (; how_often > 0; how_often--)
        for (int n = 0; n < count; n++)
            square(&a[n], &a[n]);
}

ALWAYS_INLINE void multiply_each(struct number *out, const struct number *a,
                                 const struct number *b, int count)
{
    for (int n = 0; n < count; n++)
        multiply(&out[n], &a[n], &b[n]);
}

ALWAYS_INLINE void copy_each(struct number *out, const struct number *a, int count)
{
    for (int n = 0; n < count; n++)
        out[n] = a[n];
}

/* out = out^(2^how_often) b. */
ALWAYS_INLINE void shift_and_multiply(struct number *out, int how_often, const struct number *b,
                                      int count)
{
    square_often(out, count, how_often);
    multiply_each(out, out, b, count);
}

/* a^(2^250 - 1) and a^11, which both powers below end with, of one or two numbers of one unit.
 * `ones`n is a^(2^n - 1). */
NOT_INLINE void power_of_ones(struct number *ones250, struct number *eleven,
                              const struct number *a, int count)
{
    struct number nine[2], ones5[2], ones10[2], ones50[2], ones100[2], t[2];

    copy_each(t, a, count);
    square_often(t, count, 1);
    copy_each(eleven, t, count); /* 2 so far */
    square_often(t, count, 2);
    multiply_each(nine, t, a, count);
    multiply_each(eleven, eleven, nine, count);
    copy_each(ones5, eleven, count);
    shift_and_multiply(ones5, 1, nine, count); /* 22 + 9 = 2^5 - 1 */
    copy_each(ones10, ones5, count);
    shift_and_multiply(ones10, 5, ones5, count);
    copy_each(t, ones10, count);
    shift_and_multiply(t, 10, ones10, count); /* 20 */
    copy_each(ones50, t, count);
    shift_and_multiply(ones50, 20, t, count); /* 40 */
    shift_and_multiply(ones50, 10, ones10, count);
    copy_each(ones100, ones50, count);
    shift_and_multiply(ones100, 50, ones50, count);
    copy_each(ones250, ones100, count);
    shift_and_multiply(ones250, 100, ones100, count); /* 200 */
    shift_and_multiply(ones250, 50, ones50, count);
}

/* a^((p - 5) / 8) = a^(2^252 - 3), for square roots. `out` is not `a`. */
ALWAYS_INLINE void root_power(struct number *out, const struct number *a, int count)
{
    struct number eleven[2];

    power_of_ones(out, eleven, a, count);
    shift_and_multiply(out, 2, a, count);
}

/* ---- By value, for what is not done often ---- */

ALWAYS_INLINE struct number times(struct number a, struct number b)
{
    multiply(&a, &a, &b);
    return a;
}

/* 1/a = a^(p - 2) = a^(2^255 - 21); 0 for 0. One unit. */
ALWAYS_INLINE struct number inverse(struct number a)
{
    struct number out, eleven;

    power_of_ones(&out, &eleven, &a, 1);
    shift_and_multiply(&out, 5, &eleven, 1);
    return out;
}

#endif
