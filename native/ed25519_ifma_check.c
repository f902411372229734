/* The check of a signature before it is given out, one signature in eight lanes of AVX-512
 * IFMA: lane l sums the multiples of every eighth digit of s and k, from l on, then the lanes
 * are summed. All of it is public. */
#include "ed25519_ifma.h"

#if defined(__x86_64__)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512ifma"))), \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512dq,avx512ifma")
#endif

#include "ed25519_ifma_group.h"

/* ---- Looking up ---- */

/* Eight rows of eight words become eight columns. */
ALWAYS_INLINE void transpose(__m512i v[LANES])
{
    __m512i pairs[LANES], fours[LANES];

    UNROLLED for (int i = 0; i < LANES; i += 2) {
        pairs[i] = _mm512_unpacklo_epi64(v[i], v[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_epi64(v[i], v[i + 1]);
    }
    UNROLLED for (int i = 0; i < 2; i++)
        UNROLLED for (int half = 0; half < LANES; half += 4) {
            fours[half + i] = _mm512_shuffle_i64x2(pairs[half + i], pairs[half + i + 2], 0x88);
            fours[half + i + 2] =
                _mm512_shuffle_i64x2(pairs[half + i], pairs[half + i + 2], 0xdd);
        }
    UNROLLED for (int i = 0; i < 4; i++) {
        v[i] = _mm512_shuffle_i64x2(fours[i], fours[i + 4], 0x88);
        v[i + 4] = _mm512_shuffle_i64x2(fours[i], fours[i + 4], 0xdd);
    }
}

/* Each lane's multiple: of row l by digit l. */
ALWAYS_INLINE void look_up(struct addend *q,
                           const struct iomt_comb_entry rows[LANES][IOMT_CHECK_MULTIPLES],
                           const int8_t digits[LANES])
{
    struct number plus, minus;
    __m512i first[LANES], second[LANES];
    unsigned negative = 0;

    UNROLLED for (int lane = 0; lane < LANES; lane++) {
        const int digit = digits[lane];
        const struct iomt_comb_entry *entry = &rows[lane][digit < 0 ? -digit : digit];

        negative |= (unsigned)(digit < 0) << lane;
        first[lane] = _mm512_loadu_si512(entry->plus);
        second[lane] = _mm512_loadu_si512(entry->minus + 3);
    }
    transpose(first);
    transpose(second);
    UNROLLED for (int i = 0; i < LIMBS; i++) {
        plus.limb[i] = first[i];
        minus.limb[i] = i < 3 ? first[LIMBS + i] : second[i - 3];
        q->t2d.limb[i] = second[2 + i];
    }
    q->plus = choose((__mmask8)negative, plus, minus);
    q->minus = choose((__mmask8)negative, minus, plus);
    q->t2d = negate_if((__mmask8)negative, q->t2d);
}

/* ---- Sums ---- */

ALWAYS_INLINE void move_lanes(struct number *a, __m512i from)
{
    UNROLLED for (int i = 0; i < LIMBS; i++)
        a->limb[i] = _mm512_permutexvar_epi64(from, a->limb[i]);
}

/* Afterwards every lane holds the sum of all. */
ALWAYS_INLINE void sum_lanes(struct efgh *p)
{
    const __m512i lanes = _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7);
    const struct number d2 = carry(doubled(widen(constant(iomt_curve_d.words))));

    for (uint64_t distance = LANES / 2; distance > 0; distance /= 2) {
        const __m512i from = _mm512_xor_si512(lanes, same(distance));
        struct operand own;
        struct addend other;

        multiply_out(&own, p);
        to_addend(&other, &own, d2);
        move_lanes(&other.plus, from);
        move_lanes(&other.minus, from);
        move_lanes(&other.t2d, from);
        move_lanes(&other.z2, from);
        add_to_operand(p, &own, &other, 0);
    }
}

/* The number in every lane, and whether it is below p. */
ALWAYS_INLINE int read_number(struct number *a, const uint64_t words[4])
{
    struct words packed;
    __mmask8 equal = 0xff;

    *a = constant(words);
    packed = pack(*a);
    UNROLLED for (int i = 0; i < 4; i++)
        equal &= _mm512_cmpeq_epi64_mask(packed.word[i], same(words[i]));
    return equal == 0xff;
}

int iomt_ifma_is_difference(const uint8_t bytes[32], const struct iomt_packed *x,
                            const struct iomt_scalar *s, const struct iomt_scalar *k,
                            const struct iomt_ed25519_check *check)
{
    int8_t s_digits[IOMT_CHECK_PLACES], k_digits[IOMT_CHECK_PLACES];
    struct number right_x, right_y;
    struct iomt_packed y;
    struct efgh p;
    struct xyz sum;
    uint64_t sign;
    int good;

    for (int i = 0; i < 4; i++)
        y.words[i] = iomt_load_le64(bytes + 8 * i);
    sign = y.words[3] >> 63;
    y.words[3] &= UINT64_MAX >> 1;
    good = (x->words[0] & 1) == sign;
    good &= read_number(&right_x, x->words);
    good &= read_number(&right_y, y.words);

    iomt_scalar_radix16(s, s_digits);
    iomt_scalar_radix16(k, k_digits);
    for (int place = 0; place < IOMT_CHECK_PLACES; place += LANES) {
        struct addend multiple;

        look_up(&multiple, &check->base[place], s_digits + place);
        multiple.z2 = small(2);
        if (place == 0)
            only_addend(&p, &multiple);
        else
            add_point(&p, &p, &multiple, 1);
        look_up(&multiple, &check->key[place], k_digits + place);
        add_point(&p, &p, &multiple, 1);
    }
    sum_lanes(&p);
    projective(&sum, &p);
    /* x Z = X and y Z = Y, the same in all lanes. */
    good &= is_zero(carry(minus(multiply(right_x, sum.z), widen(sum.x), 2))) == 0xff;
    good &= is_zero(carry(minus(multiply(right_y, sum.z), widen(sum.y), 2))) == 0xff;
    good &= is_zero(sum.z) == 0;
    return good;
}

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
