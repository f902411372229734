/* Verification of one signature by itself with AVX-512 IFMA: a point in the four lanes of a
 * vector (ed25519_ifma_four.h).
 *
 *   1. Decode the key A and, beside it in other lanes, R: a square root each. Rule 3 compares
 *      R's bytes with an encoding, so bytes that encode no point, or not as RFC 8032 5.1.2
 *      encodes it, are those of no sum: the answer is no. Otherwise the bytes are equal
 *      exactly if the points are.
 *   2. [v S] B - [v k] A - [v] R with a short relation (ed25519_relation.h), in one chain of
 *      about 128 doublings; v S, with 253 bits, has tables of B and of [2^128] B. Or, of a
 *      prepared key, [S] B - [k] A - R with 64 doublings.
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

#include "ed25519_ifma_four.h"
#include "ed25519_relation.h"

#include <string.h>

#define KEY 0 /* lanes while decoding, and tables */
#define R 1
#define DECODED 2

#define POINT_BITS 5 /* digits of u and v */
#define MULTIPLES (1 << (POINT_BITS - 2))
#define BASE_BITS 8
#define BASE_PART 2 /* of iomt_base_odd: [2^128] B */
#define BASE_SPLIT 128
#define KNOWN_BITS 4 /* of the multiples 1 to 8 the odd ones */
#define KNOWN_SPLIT 64

/* ---- Decoding ---- */

/* As decode() in ed25519_ifma.c. 1, x and y in the lanes KEY and R; or 0 if the key
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

/* Of both points at once: their chains do not wait for each other. */
ALWAYS_INLINE void odd_multiples(struct multiples tables[DECODED],
                                 const struct four_sum points[DECODED])
{
    struct four_sum sums[DECODED];
    struct four twice[DECODED];

#define BOTH UNROLLED for (int n = 0; n < DECODED; n++)
    BOTH {
        sums[n] = points[n];
        EACH_LIMB sums[n].limb[i] = MOVED(sums[n].limb[i], 0, 1, 2, 1);
        four_double(&sums[n], 1);
        twice[n] = four_addend(&sums[n]);
        sums[n] = points[n];
    }
    for (int i = 0; i < MULTIPLES; i++) {
        BOTH tables[n].odd[i] = four_addend(&sums[n]);
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
    struct four_words w;

    UNROLLED for (int i = 0; i < 4; i++)
        w.word[i] = _mm256_setr_epi64x(
            i == 0 ? 2 : 0, (long long)point->y_minus_x.words[i],
            (long long)point->y_plus_x.words[i], (long long)point->t2d.words[i]);
    return four_opposite_if(negative, four_unpack(w));
}

/* What is added after which doubling, ready to be added: so that the sum itself, in which
 * every step waits for the one before, has next to no branch that depends on digits. Bit n
 * of terms[i] says that term n, the digits of one point, has one for 2^i. */
#define PLACES 256
#define TERMS 8
#define MOST_DIGITS 64 /* of a term: with 4 bits and more at least 4 places apart */

struct plan {
    uint8_t terms[PLACES];
    int counts[TERMS];
    struct four addends[TERMS][MOST_DIGITS]; /* from the lowest place on */
};

/* [2 i + 1] of a point, in one of two forms (the other is NULL), at every `step`-th place. */
struct odd_table {
    const struct four *addends;
    const struct iomt_packed_point *packed;
    int step;
};

/* Puts the digits of a scalar below 2^255 into the plan: odd, below 2^(bits - 1) in size, at
 * least bits - 1 zeros after each. Those of every `split` places are a term of their own,
 * from `term` on, with a table of its own. */
ALWAYS_INLINE void plan_digits(struct plan *plan, int term, const struct odd_table *tables,
                               const struct iomt_scalar *scalar, int bits, int split,
                               int opposite)
{
    const uint64_t *w = scalar->words;
    const uint64_t words[] = {w[0], w[1], w[2], w[3], 0, 0};
    const int whole = 1 << bits;
    uint64_t carry = 0; /* all ones if there is one */

    for (int at = 0;;) {
        const uint64_t *from = &words[at / 64];
        uint64_t window = (uint64_t)((((iomt_uint128)from[1] << 64) | from[0]) >> at % 64);
        int digit, negative, part, to;

        /* A carry runs through ones, as none runs through zeros. */
        at += __builtin_ctzll((window ^ carry) | UINT64_C(1) << 63);
        if (at >= PLACES)
            return;
        from = &words[at / 64];
        window = (uint64_t)((((iomt_uint128)from[1] << 64) | from[0]) >> at % 64);
        if (((window ^ carry) & 1) == 0) /* no digit within 63 places */
            continue;
        digit = (int)((window & (uint64_t)(whole - 1)) + (carry & 1));
        negative = digit > whole / 2;
        carry = 0 - (uint64_t)negative;
        digit = negative ? whole - digit : digit;
        part = at / split;
        to = plan->counts[term + part]++;
        plan->terms[at % split] |= (uint8_t)(1u << (term + part));
        digit = digit / 2 * tables[part].step;
        plan->addends[term + part][to] =
            tables->packed == NULL
                ? four_opposite_if(negative ^ opposite, tables->addends[digit])
                : packed_addend(&tables[part].packed[digit], negative ^ opposite);
        at += bits;
    }
}

static void empty(struct plan *plan)
{
    memset(plan->terms, 0, sizeof plan->terms);
    memset(plan->counts, 0, sizeof plan->counts);
}

/* Whether what is planned, and then `last` (if it is not NULL), sum up to the neutral point. */
static __attribute__((noinline)) int is_sum_neutral(const struct plan *plan,
                                                    const struct four *last)
{
    const struct four *next[TERMS];
    struct four_sum sum;
    int place = PLACES - 1;

    for (int n = 0; n < TERMS; n++)
        next[n] = plan->addends[n] + plan->counts[n];
    while (place > 0 && plan->terms[place] == 0)
        place--;
    EACH_LIMB sum.limb[i] = _mm256_setr_epi64x(i == 0, 0, i == 0, 0);
    for (; place >= 0; place--) {
        unsigned terms = plan->terms[place];

        if (terms == 0 && (place > 0 || last == NULL)) {
            four_double(&sum, 0);
            continue;
        }
        four_double(&sum, 1);
        for (; terms != 0; terms &= terms - 1)
            four_add(&sum, --next[__builtin_ctz(terms)], (terms & (terms - 1)) != 0 || place == 0);
    }
    if (last != NULL)
        four_add(&sum, last, 0);
    return four_is_neutral(&sum);
}

/* ---- Verification ---- */

/* [v s] B - [v k] A - [v] R */
int iomt_ifma_is_difference_new(const uint8_t r[32], const uint8_t key[32],
                                const struct iomt_scalar *s, const struct iomt_scalar *k)
{
    static const struct odd_table base[] = {{NULL, iomt_base_odd[0], 1},
                                            {NULL, iomt_base_odd[BASE_PART], 1}};
    struct iomt_relation relation;
    struct iomt_scalar vs;
    struct four x, y;
    struct four_sum points[DECODED];
    struct multiples multiples[DECODED];
    const struct odd_table tables[DECODED] = {{multiples[KEY].odd, NULL, 1},
                                              {multiples[R].odd, NULL, 1}};
    struct plan plan;

    if (!decode(&x, &y, key, r))
        return 0;
    opposites(points, x, y);
    odd_multiples(multiples, points);
    iomt_ed25519_relation(&relation, k);
    iomt_ed25519_scale(&vs, &relation, s);
    empty(&plan);
    plan_digits(&plan, KEY, &tables[KEY], &relation.u, POINT_BITS, PLACES, relation.negative);
    plan_digits(&plan, R, &tables[R], &relation.v, POINT_BITS, PLACES, 0);
    plan_digits(&plan, DECODED, base, &vs, BASE_BITS, BASE_SPLIT, 0);
    return is_sum_neutral(&plan, NULL);
}

/* [s] B - [k] A - R with the multiples of a prepared key: 64 doublings. */
int iomt_ifma_is_difference_known(const uint8_t r[32], const iomt_ed25519_prepared *prepared,
                                  const struct iomt_scalar *s, const struct iomt_scalar *k)
{
    static const struct odd_table base[] = {{NULL, iomt_base_odd[0], 1},
                                            {NULL, iomt_base_odd[1], 1},
                                            {NULL, iomt_base_odd[2], 1},
                                            {NULL, iomt_base_odd[3], 1}};
    struct odd_table key[IOMT_PREPARED_PARTS];
    struct four x, y, minus_r;
    struct four_sum points[DECODED];
    struct plan plan;

    if (!prepared->is_point || !decode(&x, &y, r, r))
        return 0;
    opposites(points, x, y);
    minus_r = four_addend(&points[R]);
    for (int part = 0; part < IOMT_PREPARED_PARTS; part++)
        key[part] = (struct odd_table){NULL, prepared->multiples[part], 2};
    empty(&plan);
    plan_digits(&plan, 0, key, k, KNOWN_BITS, KNOWN_SPLIT, 0);
    plan_digits(&plan, IOMT_PREPARED_PARTS, base, s, BASE_BITS, KNOWN_SPLIT, 0);
    return is_sum_neutral(&plan, &minus_r);
}

int iomt_ifma_verify_one(const struct iomt_ed25519_item *item)
{
    struct iomt_scalar s, k;

    if (!iomt_scalar_decode(&s, item->signature + 32))
        return 0;
    iomt_ed25519_challenge(&k, item->signature, item->key, item->message, item->size);
    if (item->prepared != NULL)
        return iomt_ifma_is_difference_known(item->signature, item->prepared, &s, &k);
    return iomt_ifma_is_difference_new(item->signature, item->key, &s, &k);
}

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
