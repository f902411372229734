/* Verification of one signature by itself with AVX-512 IFMA, for a key that was not prepared:
 * a point in the four lanes of a vector (ed25519_ifma_four.h).
 *
 *   1. decode the key A and, beside it in other lanes, R: a square root each. Rule 3 compares
 *      R's bytes with an encoding, so bytes that encode no point, or not as RFC 8032 5.1.2
 *      encodes it, are those of no sum: the answer is no. Otherwise the bytes are equal
 *      exactly if the points are.
 *   2. [v S] B - [v k] A - [v] R with a short relation (ed25519_relation.h), in one chain of
 *      about 128 doublings; v S, with 253 bits, has tables of B and of [2^128] B.
 *   3. Is it the neutral point? X = 0 and Y = Z: no inversion.
 *
 * Everything here is public. */
#include "ed25519_ifma.h"

#if defined(__x86_64__)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512vl,avx512ifma"))), \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512dq,avx512vl,avx512ifma")
#endif

#include "ed25519_digits.h"
#include "ed25519_ifma_four.h"
#include "ed25519_relation.h"

#define KEY 0 /* lanes while decoding, and tables */
#define R 1
#define DECODED 2

#define POINT_BITS 5 /* digits of u and v */
#define MULTIPLES (1 << (POINT_BITS - 2))
#define BASE_BITS 8
#define BASE_PART 2 /* of iomt_base_odd: [2^128] B */
#define BASE_SPLIT 128

/* ---- Decoding ---- */

/* As decode_keys() in ed25519_ifma.c. 1, x and y in the lanes KEY and R; or 0 if the key
 * is no point, or R is none or not encoded as it should be. */
ALWAYS_INLINE int decode(struct four *x, struct four *y, const uint8_t *key, const uint8_t *r)
{
    const struct four one = four_constant((const uint64_t[4]){1, 0, 0, 0});
    const struct four d = four_constant(iomt_curve_d.words);
    struct four_words bits, packed;
    struct four yy, u, v, v3, vxx;
    unsigned odd, right, turned, same = 3, zero;

    UNROLLED for (int i = 0; i < 4; i++) {
        const long long of_key = (long long)iomt_load_le64(key + 8 * i);
        const long long of_r = (long long)iomt_load_le64(r + 8 * i);

        bits.word[i] = _mm256_setr_epi64x(of_key, of_r, of_key, of_r);
    }
    odd = _mm256_movepi64_mask(bits.word[3]);
    bits.word[3] = _mm256_and_si256(bits.word[3], four_same(UINT64_MAX >> 1));
    *y = four_unpack(bits);
    packed = four_pack(*y);
    UNROLLED for (int i = 0; i < 4; i++)
        same &= _mm256_cmpeq_epi64_mask(packed.word[i], bits.word[i]);
    if ((same >> R & 1) == 0)
        return 0;

    yy = four_squared(*y);
    u = four_minus(yy, one);
    v = four_plus(four_times(yy, d), one);
    v3 = four_times(four_squared(v), v);
    *x = four_root_power(four_times(four_times(four_squared(v3), v), u)); /* (u v^7)^... */
    *x = four_times(four_times(*x, v3), u);
    vxx = four_times(four_squared(*x), v);
    right = four_is_zero(four_minus(vxx, u));
    turned = four_is_zero(four_plus(vxx, u));
    if (((right | turned) & 3) != 3)
        return 0;
    *x = four_choose((__mmask8)(turned & ~right), *x,
                     four_times(*x, four_constant(iomt_root_of_minus_one.words)));
    packed = four_pack(*x);
    zero = four_is_zero(*x);
    if ((zero & odd) >> R & 1)
        return 0; /* x = 0 is encoded without a sign */
    odd ^= _mm256_test_epi64_mask(packed.word[0], four_same(1));
    *x = four_negate_if((__mmask8)odd, *x);
    return 1;
}

/* ---- Multiples ---- */

struct multiples {
    struct four odd[MULTIPLES]; /* [2 i + 1] P as addends */
};

ALWAYS_INLINE struct four addend_factors(void)
{
    const struct four d = four_constant(iomt_curve_d.words);
    struct four factors = four_plus(d, d);

    EACH_LIMB factors.limb[i] =
        _mm256_mask_mov_epi64(factors.limb[i], LANE_X | LANE_Y, four_small(1, i));
    EACH_LIMB factors.limb[i] =
        _mm256_mask_mov_epi64(factors.limb[i], LANE_Z, four_small(2, i));
    return factors;
}

/* Of both points at once: their chains do not wait for each other. */
ALWAYS_INLINE void odd_multiples(struct multiples tables[DECODED], const struct four_sum points[DECODED])
{
    const struct four factors = addend_factors();
    struct four_sum sums[DECODED];
    struct four twice[DECODED];

#define BOTH UNROLLED for (int n = 0; n < DECODED; n++)
    BOTH {
        sums[n] = points[n];
        EACH_LIMB sums[n].limb[i] = MOVED(sums[n].limb[i], 0, 1, 2, 1);
        four_double(&sums[n], 1);
        twice[n] = four_addend(&sums[n], factors);
        sums[n] = points[n];
    }
    for (int i = 0; i < MULTIPLES; i++) {
        BOTH tables[n].odd[i] = four_addend(&sums[n], factors);
        if (i + 1 < MULTIPLES)
            BOTH four_add(&sums[n], &twice[n], 1);
    }
#undef BOTH
}

/* (Z, X, Y, T) of -A and -R. */
ALWAYS_INLINE void opposites(struct four_sum points[DECODED], struct four x, struct four y)
{
    struct four t;

    x = four_negate_if(0xf, x);
    t = four_times(x, y);
    EACH_LIMB {
        const __m256i xy = _mm256_unpacklo_epi64(x.limb[i], y.limb[i]);
        const __m256i other = _mm256_unpackhi_epi64(x.limb[i], y.limb[i]);
        const __m256i z = four_small(1, i);

        /* Lanes 0 and 2 are of the key, 1 and 3 of R. */
        points[KEY].limb[i] = MOVED(xy, 0, 0, 1, 1);
        points[R].limb[i] = MOVED(other, 0, 0, 1, 1);
        points[KEY].limb[i] = _mm256_mask_mov_epi64(points[KEY].limb[i], LANE_Z, z);
        points[R].limb[i] = _mm256_mask_mov_epi64(points[R].limb[i], LANE_Z, z);
        points[KEY].limb[i] =
            _mm256_mask_mov_epi64(points[KEY].limb[i], LANE_T, MOVED(t.limb[i], 0, 0, 0, 0));
        points[R].limb[i] =
            _mm256_mask_mov_epi64(points[R].limb[i], LANE_T, MOVED(t.limb[i], 1, 1, 1, 1));
    }
}

/* ---- The sum ---- */

/* An affine point of a table, or its opposite, as an addend. */
ALWAYS_INLINE struct four packed_addend(const struct iomt_packed_point *point, int negative)
{
    const uint64_t *plus = negative ? point->y_minus_x.words : point->y_plus_x.words;
    const uint64_t *minus = negative ? point->y_plus_x.words : point->y_minus_x.words;
    struct four_words w;

    UNROLLED for (int i = 0; i < 4; i++)
        w.word[i] = _mm256_setr_epi64x(i == 0 ? 2 : 0, (long long)minus[i], (long long)plus[i],
                                       (long long)point->t2d.words[i]);
    return four_negate_if(negative ? LANE_T : 0, four_unpack(w));
}

static inline int absolute(int digit)
{
    return digit < 0 ? -digit : digit;
}

struct digits {
    int8_t points[DECODED][IOMT_DIGITS], base[IOMT_DIGITS];
};

static __attribute__((noinline)) int is_sum_neutral(const struct digits *digits,
                                                    const struct multiples tables[DECODED])
{
    struct four_sum sum;
    int at = IOMT_DIGITS - 1;

    while (at >= 0 && digits->points[KEY][at] == 0 && digits->points[R][at] == 0 &&
           (at >= BASE_SPLIT || (digits->base[at] == 0 && digits->base[at + BASE_SPLIT] == 0)))
        at--;
    EACH_LIMB sum.limb[i] = _mm256_setr_epi64x(i == 0, 0, i == 0, 0);
    for (; at >= 0; at--) {
        const int of_base[2] = {at < BASE_SPLIT ? digits->base[at] : 0,
                                at < BASE_SPLIT ? digits->base[at + BASE_SPLIT] : 0};
        int count = (digits->points[KEY][at] != 0) + (digits->points[R][at] != 0) +
                    (of_base[0] != 0) + (of_base[1] != 0);

        four_double(&sum, count > 0);
        for (int n = 0; n < DECODED; n++) {
            const int digit = digits->points[n][at];

            if (digit != 0) {
                const struct four q =
                    four_opposite_if(digit < 0, tables[n].odd[absolute(digit) / 2]);

                four_add(&sum, &q, --count > 0);
            }
        }
        for (int part = 0; part < 2; part++)
            if (of_base[part] != 0) {
                const struct four q = packed_addend(
                    &iomt_base_odd[BASE_PART * part][absolute(of_base[part]) / 2],
                    of_base[part] < 0);

                four_add(&sum, &q, --count > 0);
            }
    }
    return four_is_neutral(&sum);
}

int iomt_ifma_verify_one(const struct iomt_ed25519_item *item)
{
    static const struct iomt_scalar zero = {{0}};
    struct iomt_relation relation;
    struct iomt_scalar s, k;
    struct four x, y;
    struct four_sum points[DECODED];
    struct multiples tables[DECODED];
    struct digits digits;

    if (item->prepared != NULL)
        return iomt_ed25519_verify_item(&iomt_curve_adx, item);
    if (!iomt_scalar_decode(&s, item->signature + 32) ||
        !decode(&x, &y, item->key, item->signature))
        return 0;
    opposites(points, x, y);
    odd_multiples(tables, points);
    iomt_ed25519_challenge(&k, item->signature, item->key, item->message, item->size);
    iomt_ed25519_relation(&relation, &k);
    iomt_scalar_muladd_secret(&s, &s, &relation.v, &zero);
    iomt_odd_digits(digits.points[KEY], &relation.u, POINT_BITS);
    iomt_odd_digits(digits.points[R], &relation.v, POINT_BITS);
    iomt_odd_digits(digits.base, &s, BASE_BITS);
    if (relation.negative)
        for (int i = 0; i < IOMT_DIGITS; i++)
            digits.points[KEY][i] = (int8_t)-digits.points[KEY][i];
    return is_sum_neutral(&digits, tables);
}

#endif
