/* Signed digits, and looking up the multiples that they name, in two lanes at a time. For
 * ed25519_neon.c only. */
#ifndef IOMT_ED25519_NEON_TABLES_H
#define IOMT_ED25519_NEON_TABLES_H

#include "ed25519_neon_group.h"

#define MULTIPLES 9 /* 0 .. 8: digits in radix 16 */

/* ---- Digits ---- */

struct digits {
    uint64_t words[4];
};

/* Signed digits of `bits` bits are those of the number plus 2^(bits - 1) in every place,
 * each minus 2^(bits - 1): from -2^(bits - 1) to 2^(bits - 1) - 1. The sum stays below 2^256
 * for a number below 2^254: 0x88..88 and 0x80..80 are below 2^255 + 2^252. */
static struct digits with_halves(const struct iomt_scalar *number, uint64_t halves)
{
    struct digits out;
    iomt_uint128 sum = 0;

    for (int i = 0; i < 4; i++) {
        sum += (iomt_uint128)number->words[i] + halves;
        out.words[i] = (uint64_t)sum;
        sum >>= 64;
    }
    return out;
}

#define HALVES16 UINT64_C(0x8888888888888888)
#define HALVES256 UINT64_C(0x8080808080808080)

/* The digit at a bit; `bits` divides 64. */
ALWAYS_INLINE int digit_at(const struct digits *a, unsigned bit, unsigned bits)
{
    const uint64_t digit = a->words[bit / 64] >> bit % 64;

    return (int)(digit & ((1u << bits) - 1)) - (1 << (bits - 1));
}

/* The digits of both lanes: their sizes, and the lanes in which they are negative. Digits are
 * as good as random, so no branch should depend on one. */
struct pair_of_digits {
    unsigned size[LANES], negative;
};

ALWAYS_INLINE struct pair_of_digits digits_at(const struct digits a[LANES], unsigned bit,
                                              unsigned bits)
{
    const int first = digit_at(&a[0], bit, bits), second = digit_at(&a[1], bit, bits);

    return (struct pair_of_digits){
        {(unsigned)(first < 0 ? -first : first), (unsigned)(second < 0 ? -second : second)},
        (unsigned)(first < 0) | (unsigned)(second < 0) << 1,
    };
}

/* ---- Looking up multiples ---- */

/* A number of one lane: its ten limbs, and two words more so that it is three vectors. */
struct lane_number {
    _Alignas(16) uint32_t word[12];
};

struct lane_addend {
    struct lane_number sums[2], t2d, z2; /* sums: Y + X and Y - X */
};

/* Each lane's multiples of its own point lie together, so that one is read in whole vectors. */
struct table {
    struct lane_addend lane[LANES][MULTIPLES];
};

static void take_apart(struct lane_number *first, struct lane_number *second,
                       const struct number *a)
{
    UNROLLED for (int i = 0; i < 3; i++) {
        const uint32x4_t low = pair_of(a, 2 * i), high = i < 2 ? pair_of(a, 2 * i + 1) : low;

        vst1q_u32(first->word + 4 * i, vuzp1q_u32(low, high));
        vst1q_u32(second->word + 4 * i, vuzp2q_u32(low, high));
    }
}

ALWAYS_INLINE void put_together(struct number *out, const struct lane_number *first,
                                const struct lane_number *second)
{
    UNROLLED for (int i = 0; i < LIMBS / 2; i++) {
        const uint32x4_t a = vld1q_u32(first->word + i / 2 * 4);
        const uint32x4_t b = vld1q_u32(second->word + i / 2 * 4);

        vst1q_u32(out->word + 4 * i, i % 2 == 0 ? vzip1q_u32(a, b) : vzip2q_u32(a, b));
    }
}

static void put_multiple(struct table *table, int i, const struct addend *multiple)
{
    struct lane_addend *first = &table->lane[0][i], *second = &table->lane[1][i];

    take_apart(&first->sums[0], &second->sums[0], &multiple->plus);
    take_apart(&first->sums[1], &second->sums[1], &multiple->minus);
    take_apart(&first->t2d, &second->t2d, &multiple->t2d);
    take_apart(&first->z2, &second->z2, &multiple->z2);
}

/* The opposite has plus and minus exchanged, and t2d negated. */
static void look_up(struct addend *out, const struct table *table, struct pair_of_digits d)
{
    const struct lane_addend *first = &table->lane[0][d.size[0]];
    const struct lane_addend *second = &table->lane[1][d.size[1]];
    const unsigned turn0 = d.negative & 1, turn1 = d.negative >> 1;

    put_together(&out->plus, &first->sums[turn0], &second->sums[turn1]);
    put_together(&out->minus, &first->sums[!turn0], &second->sums[!turn1]);
    put_together(&out->t2d, &first->t2d, &second->t2d);
    put_together(&out->z2, &first->z2, &second->z2);
    negate_if(lane_mask(d.negative), &out->t2d);
}

static const struct iomt_packed_point packed_neutral = {{{1, 0, 0, 0}}, {{1, 0, 0, 0}}, {{0}}};

/* The same where each lane has its own row of multiples 1, 2, ... */
static void look_up_packed(struct addend *out, const struct iomt_packed_point *const rows[LANES],
                           struct pair_of_digits d)
{
    const struct iomt_packed_point *at[LANES];
    const struct iomt_packed *plus[LANES], *minus[LANES];

    UNROLLED for (int lane = 0; lane < LANES; lane++) {
        const unsigned turn = d.negative >> lane & 1;

        at[lane] = d.size[lane] == 0 ? &packed_neutral : rows[lane] + d.size[lane] - 1;
        plus[lane] = turn ? &at[lane]->y_minus_x : &at[lane]->y_plus_x;
        minus[lane] = turn ? &at[lane]->y_plus_x : &at[lane]->y_minus_x;
    }
    unpack(&out->plus, plus[0]->words, plus[1]->words);
    unpack(&out->minus, minus[0]->words, minus[1]->words);
    unpack(&out->t2d, at[0]->t2d.words, at[1]->t2d.words);
    negate_if(lane_mask(d.negative), &out->t2d);
}

#endif
