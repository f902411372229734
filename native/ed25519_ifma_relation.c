/* Short relations (ed25519_relation.h) of eight scalars at once: the algorithm of
 * ed25519_relation.c with a step that is the same in every lane. Where that divides, this
 * takes away the largest y 2^i that is not above x, or exchanges x and y; a lane that has
 * nothing left to do does nothing, until all are there.
 *
 * As there, all that happens to the rows (r, v) is that a multiple of one is added to the
 * other, or a sign is turned: r = v k modulo 8 L whatever the steps were. A lane in which
 * nothing short comes out, which takes k to be far from random, is left to the other code.
 *
 * Rows are numbers in limbs of 30 bits, the highest limb with the sign: so that a limb times a
 * factor below 2^31 is one instruction. Everything here is public. */
#include "ed25519_ifma.h"

#if defined(__x86_64__)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512cd,avx512dq"))), \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512cd,avx512dq")
#endif

#include "ed25519_ifma_words.h"

#define LIMB_BITS 30
#define LIMB_MASK ((1 << LIMB_BITS) - 1)
#define R_LIMBS 9
#define V_LIMBS 5
#define HALF_BITS 128
#define SMALLEST_BITS 33   /* see take_steps */
#define MOST_ROUNDS 8      /* each takes about 30 bits from both rows; 5 are usual */
#define MOST_MULTIPLE 0x1p30

struct row {
    __m512i r[R_LIMBS], v[V_LIMBS];
};

/* Row 0 becomes a times row 0 plus b times row 1, and row 1 c times 0 plus d times 1. */
struct matrix {
    __m512i a, b, c, d;
};

/* out = a x + b y; |a| and |b| are below 2^31, and the sum fits into the limbs. */
ALWAYS_INLINE void combine(__m512i *out, __m512i a, const __m512i *x, __m512i b,
                           const __m512i *y, int count)
{
    __m512i above = same(0);

    UNROLLED for (int i = 0; i < count; i++) {
        const __m512i sum = _mm512_add_epi64(_mm512_mul_epi32(a, x[i]),
                                             _mm512_mul_epi32(b, y[i]));

        above = _mm512_add_epi64(above, sum);
        out[i] = above;
        if (i < count - 1) {
            out[i] = _mm512_and_si512(above, same(LIMB_MASK));
            above = _mm512_srai_epi64(above, LIMB_BITS);
        }
    }
}

ALWAYS_INLINE void combine_rows(struct row *out, __m512i a, const struct row *x, __m512i b,
                                const struct row *y)
{
    combine(out->r, a, x->r, b, y->r, R_LIMBS);
    combine(out->v, a, x->v, b, y->v, V_LIMBS);
}

/* Of a number that is not negative. */
ALWAYS_INLINE struct words to_words(const __m512i *limbs, int count)
{
    struct words w = {{same(0), same(0), same(0), same(0)}};

    UNROLLED for (int i = 0; i < count; i++) {
        const int word = i * LIMB_BITS / 64, shift = i * LIMB_BITS % 64;

        w.word[word] = _mm512_or_si512(
            w.word[word], _mm512_sll_epi64(limbs[i], _mm_cvtsi32_si128(shift)));
        if (shift > 64 - LIMB_BITS && word + 1 < WORDS)
            w.word[word + 1] = _mm512_srl_epi64(limbs[i], _mm_cvtsi32_si128(64 - shift));
    }
    return w;
}

/* The lanes in which the number is below 2^128. */
ALWAYS_INLINE __mmask8 is_half(const struct words *w)
{
    const __m512i upper = _mm512_or_si512(w->word[2], w->word[3]);

    return _mm512_testn_epi64_mask(upper, upper);
}

/* ---- Steps ---- */

/* Steps on x and y, the upper parts of both rows, as long as the smaller one reaches `bound`,
 * at least 2^33. Both are below 2^63, and x |c| + y |a| stays the second as it was, and
 * x |d| + y |b| the first: so the factors stay below 2^30. */
ALWAYS_INLINE struct matrix take_steps(__m512i x, __m512i y, __m512i bound)
{
    struct matrix m = {same(1), same(0), same(0), same(1)};

    for (;;) {
        const __mmask8 turned = _mm512_cmplt_epu64_mask(x, y);
        const __m512i larger = _mm512_max_epu64(x, y), a = m.a, b = m.b;
        __m512i shift, taken, rest, more;
        __mmask8 active, over;

        y = _mm512_min_epu64(x, y);
        x = larger;
        m.a = _mm512_mask_mov_epi64(a, turned, m.c);
        m.b = _mm512_mask_mov_epi64(b, turned, m.d);
        m.c = _mm512_mask_mov_epi64(m.c, turned, a);
        m.d = _mm512_mask_mov_epi64(m.d, turned, b);
        active = _mm512_cmpge_epu64_mask(y, bound);
        if (active == 0)
            return m;
        shift = _mm512_sub_epi64(_mm512_lzcnt_epi64(y), _mm512_lzcnt_epi64(x));
        taken = _mm512_sllv_epi64(y, shift); /* as long as x; twice too much if above x */
        rest = _mm512_sub_epi64(x, taken);
        more = _mm512_sub_epi64(x, _mm512_srli_epi64(taken, 1));
        over = _mm512_cmpgt_epu64_mask(taken, x);
        x = _mm512_mask_min_epu64(x, active, rest, more); /* below zero is above 2^63 */
        shift = _mm512_mask_sub_epi64(shift, over, shift, same(1));
        m.a = _mm512_mask_sub_epi64(m.a, active, m.a, _mm512_sllv_epi64(m.c, shift));
        m.b = _mm512_mask_sub_epi64(m.b, active, m.b, _mm512_sllv_epi64(m.d, shift));
    }
}

/* 63 bits from bit z on of the two words high and low, seen from above. */
ALWAYS_INLINE __m512i upper(__m512i high, __m512i low, __m512i z)
{
    const __m512i word = _mm512_or_si512(
        _mm512_sllv_epi64(high, z), _mm512_srlv_epi64(low, _mm512_sub_epi64(same(64), z)));

    return _mm512_srli_epi64(word, 1);
}

/* One round for rows of which one is 2^128 or more. */
ALWAYS_INLINE struct matrix steps_of(const struct words *r0, const struct words *r1)
{
    const __m512i top = _mm512_or_si512(r0->word[3], r1->word[3]);
    const __mmask8 longer = _mm512_test_epi64_mask(top, top); /* than 192 bits */
    const __m512i high0 = _mm512_mask_mov_epi64(r0->word[2], longer, r0->word[3]);
    const __m512i low0 = _mm512_mask_mov_epi64(r0->word[1], longer, r0->word[2]);
    const __m512i high1 = _mm512_mask_mov_epi64(r1->word[2], longer, r1->word[3]);
    const __m512i low1 = _mm512_mask_mov_epi64(r1->word[1], longer, r1->word[2]);
    const __m512i z = _mm512_lzcnt_epi64(_mm512_or_si512(high0, high1));
    /* Where the upper parts begin: 193 - z or 129 - z. A bound at 2^128 seen from there. */
    const __m512i begin = _mm512_sub_epi64(
        _mm512_mask_mov_epi64(same(HALF_BITS + 1), longer, same(HALF_BITS + 65)), z);
    const __m512i bits = _mm512_max_epi64(_mm512_sub_epi64(same(HALF_BITS), begin),
                                          same(SMALLEST_BITS));

    return take_steps(upper(high0, low0, z), upper(high1, low1, z),
                      _mm512_sllv_epi64(same(1), bits));
}

/* -1 in these lanes, 1 in the others. */
ALWAYS_INLINE __m512i with_sign(__mmask8 negative)
{
    return _mm512_mask_mov_epi64(same(1), negative, same(UINT64_MAX));
}

/* A quotient that was too large by one has made r negative: then both signs are turned. */
ALWAYS_INLINE void keep_positive(struct row *row)
{
    const __mmask8 negative = _mm512_movepi64_mask(row->r[R_LIMBS - 1]);

    if (negative != 0)
        combine_rows(row, with_sign(negative), row, same(0), row);
}

/* ---- The row that is taken ---- */

ALWAYS_INLINE __m512d as_double(const __m512i *limbs, int count)
{
    __m512d sum = _mm512_cvtepi64_pd(limbs[count - 1]);

    UNROLLED for (int i = count - 1; i-- > 0;)
        sum = _mm512_add_pd(_mm512_mul_pd(sum, _mm512_set1_pd(0x1p30)),
                            _mm512_cvtepi64_pd(limbs[i]));
    return sum;
}

/* The second row, the one below 2^128; or, where its v is even, the first, with as much of
 * the second taken away as makes r and v about as long. The lanes that have one.
 *
 * As much is below 2^30 and at most r0 / v1, and r0 v1 at most about 8 L: so v stays below
 * 2^144, and its highest limb is a factor, too. */
ALWAYS_INLINE __mmask8 odd_row(struct row *out, const struct row rows[2])
{
    const __mmask8 odd = _mm512_test_epi64_mask(rows[1].v[0], same(1));
    const __m512d r0 = as_double(rows[0].r, R_LIMBS), r1 = as_double(rows[1].r, R_LIMBS);
    const __m512d v0 = _mm512_abs_pd(as_double(rows[0].v, V_LIMBS));
    const __m512d v1 = _mm512_abs_pd(as_double(rows[1].v, V_LIMBS));
    const __m512d many = _mm512_max_pd(
        _mm512_div_pd(_mm512_sub_pd(r0, v0), _mm512_add_pd(r1, v1)), _mm512_setzero_pd());
    const __mmask8 few = _mm512_cmp_pd_mask(many, _mm512_set1_pd(MOST_MULTIPLE), _CMP_LT_OQ);
    const __m512i multiple = _mm512_cvttpd_epi64(many);
    const __m512i taken = _mm512_sub_epi64(same(0), multiple);

    combine_rows(out, _mm512_mask_mov_epi64(same(1), odd, same(0)), &rows[0],
                 _mm512_mask_mov_epi64(taken, odd, same(1)), &rows[1]);
    return (odd | few) & _mm512_test_epi64_mask(out->v[0], same(1)) &
           (__mmask8)~_mm512_movepi64_mask(out->r[R_LIMBS - 1]);
}

static void exchange(struct row rows[2], __mmask8 lanes)
{
    for (int i = 0; i < R_LIMBS; i++) {
        const __m512i r = rows[0].r[i];

        rows[0].r[i] = _mm512_mask_mov_epi64(r, lanes, rows[1].r[i]);
        rows[1].r[i] = _mm512_mask_mov_epi64(rows[1].r[i], lanes, r);
    }
    for (int i = 0; i < V_LIMBS; i++) {
        const __m512i v = rows[0].v[i];

        rows[0].v[i] = _mm512_mask_mov_epi64(v, lanes, rows[1].v[i]);
        rows[1].v[i] = _mm512_mask_mov_epi64(rows[1].v[i], lanes, v);
    }
}

/* Both rows until one is below 2^128, which is then the second; the lanes where one is. */
static __mmask8 shorten(struct row rows[2])
{
    for (int round = 0;; round++) {
        const struct words first = to_words(rows[0].r, R_LIMBS);
        const struct words second = to_words(rows[1].r, R_LIMBS);
        const __mmask8 half = is_half(&second), either = half | is_half(&first);
        struct matrix m;
        struct row next;

        if (either == 0xff || round == MOST_ROUNDS) {
            exchange(rows, (__mmask8)~half);
            return either;
        }
        m = steps_of(&first, &second);
        combine_rows(&next, m.a, &rows[0], m.b, &rows[1]);
        combine_rows(&rows[1], m.c, &rows[0], m.d, &rows[1]);
        rows[0] = next;
        keep_positive(&rows[0]);
        keep_positive(&rows[1]);
    }
}

/* ---- In and out ---- */

static void start(struct row rows[2], const struct iomt_scalar k[LANES])
{
    const struct words of_k = scalars(k);

    UNROLLED for (int i = 0; i < R_LIMBS; i++) {
        const int word = i * LIMB_BITS / 64, shift = i * LIMB_BITS % 64;
        uint64_t of_order = iomt_eight_orders[word] >> shift;

        if (shift > 64 - LIMB_BITS)
            of_order |= iomt_eight_orders[word + 1] << (64 - shift);
        rows[0].r[i] = same(of_order & LIMB_MASK);
        rows[1].r[i] = bits_of(of_k.word, WORDS, i * LIMB_BITS, LIMB_BITS);
    }
    UNROLLED for (int i = 0; i < V_LIMBS; i++) {
        rows[0].v[i] = same(0);
        rows[1].v[i] = same(i == 0);
    }
}

unsigned iomt_ifma_relations(struct iomt_scalar u[LANES], struct iomt_scalar v[LANES],
                             const struct iomt_scalar k[LANES])
{
    struct row rows[2], chosen;
    __mmask8 found, negative;

    start(rows, k);
    found = shorten(rows);
    found &= odd_row(&chosen, rows);
    negative = _mm512_movepi64_mask(chosen.v[V_LIMBS - 1]);
    combine(chosen.v, with_sign(negative), chosen.v, same(0), chosen.v, V_LIMBS);
    put_words(u, sizeof u[0], to_words(chosen.r, R_LIMBS));
    put_words(v, sizeof v[0], to_words(chosen.v, V_LIMBS));
    for (int lane = 0; lane < LANES; lane++) {
        struct iomt_relation relation;

        if (found >> lane & 1)
            continue;
        iomt_ed25519_relation(&relation, &k[lane]);
        u[lane] = relation.u;
        v[lane] = relation.v;
        negative &= (__mmask8)~(1u << lane);
        negative |= (__mmask8)(relation.negative << lane);
    }
    return negative;
}

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
