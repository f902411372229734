/* Verification in eight lanes of AVX-512 IFMA: eight signatures side by side, each by itself.
 *
 * A group of eight takes these steps, all lanes at once:
 *   1. short relations: u and v of about 128 bits with v k = u (ed25519_relation.h);
 *   2. decode A and R. R's bytes are compared with an encoding (rule 3), so bytes that encode
 *      no point, or not as RFC 8032 5.1.2 does, are those of no sum; for all others the bytes
 *      are equal exactly if the points are;
 *   3. [v s]B - [u]A - [v]R in one chain of doublings, with signed digits of fixed width: of u
 *      and v in radix 16 from tables of 0 .. 8 times -A and -R, of v s in radix 256 from
 *      tables of B and [2^128]B that all lanes share. Is it the neutral point?
 *
 * With prepared keys [s]B - [k]A takes 64 doublings: there is nothing to shorten, and R is not
 * decoded but compared with the sum's encoding (ed25519_lanes.h). */
#include "ed25519_ifma.h"

#if defined(__x86_64__)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512ifma"))), \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512dq,avx512ifma")
#endif

#include "ed25519_ifma_group.h"

#define FEWEST_PLAIN 4
#define FEWEST_PREPARED 4
#include "ed25519_lanes.h"

#define KEY 0 /* the two points of a signature */
#define R 1
#define POINTS 2

#define TERM_BITS 4 /* digits of u, v and, with prepared keys, k */
#define TERM_MULTIPLES ((1 << (TERM_BITS - 1)) + 1)
#define BASE_BITS 8
#define BASE_PART 2 /* of iomt_base_rows: [2^128]B */
#define BASE_SPLIT 128
#define PART_BITS 64 /* of a prepared key, and of B with it */

ALWAYS_INLINE struct words strings(const uint8_t *const bytes[LANES])
{
    uintptr_t at[LANES];

    UNROLLED for (int lane = 0; lane < LANES; lane++)
        at[lane] = (uintptr_t)bytes[lane];
    return words_at(at, 0);
}

ALWAYS_INLINE __mmask8 are_equal(struct words a, struct words b)
{
    __mmask8 equal = 0xff;

    UNROLLED for (int i = 0; i < WORDS; i++)
        equal &= _mm512_cmpeq_epi64_mask(a.word[i], b.word[i]);
    return equal;
}

/* ---- Digits ---- */

/* Signed digits of `bits` bits are those of the number plus 2^(bits - 1) in every place,
 * each minus 2^(bits - 1): from -2^(bits - 1) to 2^(bits - 1) - 1. The sum stays below 2^256
 * for a number below 2^254: 0x88..88 + 2^254 and 0x80..80 + 2^254 do. */
ALWAYS_INLINE struct words with_halves(struct words a, unsigned bits)
{
    const __m512i halves = same(bits == TERM_BITS ? 0x8888888888888888 : 0x8080808080808080);
    __mmask8 carries = 0;

    UNROLLED for (int i = 0; i < WORDS; i++) {
        __m512i sum = _mm512_add_epi64(a.word[i], halves);
        __mmask8 over = _mm512_cmplt_epu64_mask(sum, a.word[i]);

        a.word[i] = _mm512_mask_add_epi64(sum, carries, sum, same(1));
        carries = over | (carries & _mm512_testn_epi64_mask(a.word[i], a.word[i]));
    }
    return a;
}

/* The digit at a bit, of a number from with_halves; it does not reach into the next word. */
ALWAYS_INLINE __m512i digit_at(const struct words *a, unsigned bit, unsigned bits)
{
    const __m512i digit =
        _mm512_srl_epi64(a->word[bit / 64], _mm_cvtsi32_si128((int)(bit % 64)));

    return _mm512_sub_epi64(_mm512_and_si512(digit, same((1u << bits) - 1)),
                            same(1u << (bits - 1)));
}

/* ---- Looking up multiples ---- */

/* Digits are as good as random, so no branch depends on one: addresses are computed in
 * vectors, and go through memory to become addresses. The opposite of a multiple has plus and
 * minus exchanged, and t2d negated. */
struct places {
    uintptr_t plus[LANES], minus[LANES], rest[LANES];
};

/* For multiples that start at the addresses `from`, with plus and minus, of `size` bytes each,
 * in front of the rest. */
ALWAYS_INLINE void find_places(struct places *places, __m512i from, __mmask8 negative, size_t size)
{
    const __m512i next = _mm512_add_epi64(from, same(size));

    _mm512_storeu_si512(places->plus, _mm512_mask_mov_epi64(from, negative, next));
    _mm512_storeu_si512(places->minus, _mm512_mask_mov_epi64(next, negative, from));
    _mm512_storeu_si512(places->rest, _mm512_add_epi64(next, same(size)));
    /* Or the compiler takes vectors apart by shuffles, which the multiplier waits for. */
    __asm__("" : "+m"(*places));
}

static const struct iomt_packed_point packed_neutral = {{{1, 0, 0, 0}}, {{1, 0, 0, 0}}, {{0}}};

/* Adds each lane's multiple from its own row of multiples 1, 2, ...; `rows` are their
 * addresses. */
ALWAYS_INLINE void add_packed(struct efgh *p, __m512i rows, __m512i digits)
{
    const __m512i sizes = _mm512_abs_epi64(digits);
    const __m512i skipped =
        _mm512_mullo_epi64(_mm512_sub_epi64(sizes, same(1)), same(sizeof packed_neutral));
    const __mmask8 negative = _mm512_movepi64_mask(digits);
    struct places at;
    struct addend q;
    __m512i from = same((uintptr_t)&packed_neutral);

    from = _mm512_mask_add_epi64(from, _mm512_test_epi64_mask(sizes, sizes), rows, skipped);
    find_places(&at, from, negative, sizeof packed_neutral.t2d);
    q.plus = unpack(words_at(at.plus, 0));
    q.minus = unpack(words_at(at.minus, 0));
    q.t2d = negate_if(negative, unpack(words_at(at.rest, 0)));
    add_point(p, p, &q, 1);
}

ALWAYS_INLINE void add_base(struct efgh *p, unsigned part, __m512i digits)
{
    add_packed(p, same((uintptr_t)iomt_base_rows[part]), digits);
}

/* An addend of one lane: the lower four limbs of each number, and then the highest limbs. */
enum { PLUS, MINUS, T2D, Z2, HIGHEST, ADDEND_ROWS };

struct lane_addend {
    uint64_t rows[ADDEND_ROWS][WORDS];
};

/* The multiples 0 .. 8 of a point in each lane. */
struct table {
    struct lane_addend multiples[TERM_MULTIPLES][LANES];
};

ALWAYS_INLINE struct words lower_limbs(const struct number *a)
{
    return (struct words){{a->limb[0], a->limb[1], a->limb[2], a->limb[3]}};
}

ALWAYS_INLINE struct number with_highest(struct words lower, __m512i highest)
{
    return (struct number){
        {lower.word[0], lower.word[1], lower.word[2], lower.word[3], highest}};
}

ALWAYS_INLINE void put_multiple(struct table *table, int i, const struct addend *q)
{
    const struct words highest = {
        {q->plus.limb[4], q->minus.limb[4], q->t2d.limb[4], q->z2.limb[4]}};
    struct lane_addend *to = table->multiples[i];

    put_words(to->rows[PLUS], sizeof *to, lower_limbs(&q->plus));
    put_words(to->rows[MINUS], sizeof *to, lower_limbs(&q->minus));
    put_words(to->rows[T2D], sizeof *to, lower_limbs(&q->t2d));
    put_words(to->rows[Z2], sizeof *to, lower_limbs(&q->z2));
    put_words(to->rows[HIGHEST], sizeof *to, highest);
}

ALWAYS_INLINE void multiple_at(struct addend *out, const struct table *table, __m512i digits)
{
    const size_t row = sizeof table->multiples[0][0].rows[0];
    const __m512i lanes = _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7);
    const __m512i before = _mm512_add_epi64(
        _mm512_mullo_epi64(_mm512_abs_epi64(digits), same(LANES)), lanes);
    const __m512i from =
        _mm512_add_epi64(same((uintptr_t)table),
                         _mm512_mullo_epi64(before, same(sizeof table->multiples[0][0])));
    const __mmask8 negative = _mm512_movepi64_mask(digits);
    struct places at;
    struct words highest;

    find_places(&at, from, negative, row);
    highest = words_at(at.rest, (HIGHEST - T2D) * row);
    out->plus = with_highest(
        words_at(at.plus, 0),
        _mm512_mask_mov_epi64(highest.word[PLUS], negative, highest.word[MINUS]));
    out->minus = with_highest(
        words_at(at.minus, 0),
        _mm512_mask_mov_epi64(highest.word[MINUS], negative, highest.word[PLUS]));
    out->t2d = negate_if(negative, with_highest(words_at(at.rest, 0), highest.word[T2D]));
    out->z2 = with_highest(words_at(at.rest, (Z2 - T2D) * row), highest.word[Z2]);
}

ALWAYS_INLINE void add_multiple(struct efgh *p, const struct table *table, __m512i digits)
{
    struct addend q;

    multiple_at(&q, table, digits);
    add_point(p, p, &q, 0);
}

/* ---- [v s]B - [u]A - [v]R ---- */

struct affine {
    struct number x, y;
};

/* RFC 8032 5.1.3, as decode_key in ed25519_curve_code.h: x^2 = u/v, and the candidate for its root is
 * u v^3 (u v^7)^((p-5)/8). The negatives of A, or A itself in the lanes of `kept`, and of R;
 * both chains of squarings at once, since one leaves the multiplier idle for a fifth of the
 * time. What is no point gives other numbers, that harm no other lane. The lanes in which
 * both are points, and R's bytes its encoding. */
ALWAYS_INLINE __mmask8 decode(struct affine out[POINTS],
                              const struct iomt_ed25519_item *const items[LANES], __mmask8 kept)
{
    const struct number d = constant(iomt_curve_d.words);
    const struct number root = constant(iomt_root_of_minus_one.words);
    struct number u[POINTS], v[POINTS], v3[POINTS], w[POINTS], power[POINTS];
    const uint8_t *from[POINTS][LANES];
    __mmask8 odd[POINTS], good = 0xff;

    for (int lane = 0; lane < LANES; lane++) {
        from[KEY][lane] = items[lane]->key;
        from[R][lane] = items[lane]->signature;
    }
    for (int n = 0; n < POINTS; n++) {
        struct words bits = strings(from[n]);
        struct sum yy;

        odd[n] = _mm512_movepi64_mask(bits.word[3]);
        bits.word[3] = _mm512_and_si512(bits.word[3], same(UINT64_MAX >> 1));
        out[n].y = unpack(bits);
        if (n == R) /* y + p encodes nothing */
            good &= are_equal(pack(out[n].y), bits);
        yy = square(out[n].y);
        u[n] = carry(minus(yy, widen(small(1)), 2));
        v[n] = carry(plus(multiply(carry(yy), d), widen(small(1))));
        v3[n] = times(squared(v[n]), v[n]);
        w[n] = times(times(squared(v3[n]), v[n]), u[n]); /* u v^7 */
    }
    root_power(power, w, POINTS);
    for (int n = 0; n < POINTS; n++) {
        struct number x = times(times(power[n], v3[n]), u[n]);
        const struct sum vxx = multiply(squared(x), v[n]);
        const __mmask8 right = is_zero(carry(minus(vxx, widen(u[n]), 2)));
        const __mmask8 turned = is_zero(carry(plus(vxx, widen(u[n]))));
        struct words bits;

        good &= right | turned;
        if (n == R) /* x = 0 is encoded without a sign */
            good &= (__mmask8)~(odd[n] & right & turned);
        x = choose(turned & (__mmask8)~right, x, times(x, root));
        bits = pack(x);
        /* The parity of x must be that of the sign bit; then -A has the other one. */
        odd[n] ^= _mm512_test_epi64_mask(bits.word[0], same(1));
        out[n].x = negate_if((__mmask8)(n == KEY ? ~odd[n] ^ kept : ~odd[n]), x);
    }
    return good;
}

static __attribute__((noinline)) void multiples_of(struct table *table, const struct affine *a)
{
    const struct number d2 = carry(doubled(widen(constant(iomt_curve_d.words))));
    const struct addend neutral = {small(1), small(1), small(0), small(2)};
    const struct sum x = widen(a->x), y = widen(a->y);
    struct operand multiple;
    struct addend once, next;

    put_multiple(table, 0, &neutral);
    multiple.plus = carry(plus(y, x));
    multiple.minus = carry(minus(y, x, 2));
    multiple.t = times(a->x, a->y);
    multiple.z = widen(small(1));
    to_addend(&once, &multiple, d2);
    put_multiple(table, 1, &once);
    for (int i = 2; i < TERM_MULTIPLES; i++) {
        struct efgh p;

        add_to_operand(&p, &multiple, &once, 1);
        multiply_out(&multiple, &p);
        to_addend(&next, &multiple, d2);
        put_multiple(table, i, &next);
    }
}

ALWAYS_INLINE __mmask8 is_neutral(const struct efgh *p)
{
    const struct sum y = multiply(p->g, p->h), z = multiply(p->f, p->g);

    return is_zero(times(p->e, p->f)) & is_zero(carry(minus(y, z, PRODUCT + 1)));
}

/* How many digits in radix 16 these need: n bits and the carry of the highest digit, and not
 * fewer than v s has in its halves. A longer u or v is all that a signature can cost its
 * neighbours. It comes from a hash: each bit more takes four times as many messages. */
static unsigned places_of(const struct iomt_scalar u[LANES], const struct iomt_scalar v[LANES])
{
    const struct words words_u = scalars(u), words_v = scalars(v);
    unsigned word = BASE_SPLIT / 64;
    uint64_t all[WORDS];

    UNROLLED for (int i = 0; i < WORDS; i++)
        all[i] = (uint64_t)_mm512_reduce_or_epi64(
            _mm512_or_si512(words_u.word[i], words_v.word[i]));
    if (all[3] != 0)
        word = 3;
    if (all[word] == 0)
        return BASE_SPLIT / TERM_BITS + 1;
    return (64 * (word + 1) - (unsigned)__builtin_clzll(all[word]) + 1) / TERM_BITS + 1;
}

static __attribute__((noinline)) __mmask8 are_sums_neutral(const struct affine points[POINTS],
                                                           const struct iomt_scalar u[LANES],
                                                           const struct iomt_scalar v[LANES],
                                                           const struct iomt_scalar vs[LANES])
{
    const struct words of_key = with_halves(scalars(u), TERM_BITS);
    const struct words of_r = with_halves(scalars(v), TERM_BITS);
    const struct words of_base = with_halves(scalars(vs), BASE_BITS);
    const unsigned top = (places_of(u, v) - 1) * TERM_BITS;
    struct table tables[POINTS];
    struct addend first;
    struct efgh p;

    for (int n = 0; n < POINTS; n++)
        multiples_of(&tables[n], &points[n]);
    multiple_at(&first, &tables[KEY], digit_at(&of_key, top, TERM_BITS));
    only_addend(&p, &first);
    add_multiple(&p, &tables[R], digit_at(&of_r, top, TERM_BITS));
    for (unsigned bit = top; bit > 0;) {
        bit -= TERM_BITS;
        for (int i = 0; i < TERM_BITS; i++)
            double_point(&p, &p);
        add_multiple(&p, &tables[KEY], digit_at(&of_key, bit, TERM_BITS));
        add_multiple(&p, &tables[R], digit_at(&of_r, bit, TERM_BITS));
        if (bit < BASE_SPLIT && bit % BASE_BITS == 0) {
            add_base(&p, 0, digit_at(&of_base, bit, BASE_BITS));
            add_base(&p, BASE_PART, digit_at(&of_base, BASE_SPLIT + bit, BASE_BITS));
        }
    }
    return is_neutral(&p);
}

unsigned iomt_ifma_are_differences(const struct iomt_ed25519_item *const items[LANES],
                                   const struct iomt_scalar s[LANES],
                                   const struct iomt_scalar k[LANES])
{
    struct iomt_scalar u[LANES], v[LANES], vs[LANES];
    struct affine points[POINTS];
    __mmask8 good, kept;

    kept = (__mmask8)iomt_ifma_relations(u, v, k);
    iomt_ifma_products(vs, s, v);
    good = decode(points, items, kept);
    return good & are_sums_neutral(points, u, v, vs);
}

/* ---- [s]B - [k]A with prepared keys ---- */

/* Only 64 doublings: each 64 bits of k and s have their own row. */
static __attribute__((noinline)) void multiply_prepared(struct group *group)
{
    const struct words k = with_halves(scalars(group->k), TERM_BITS);
    const struct words s = with_halves(scalars(group->s), BASE_BITS);
    const iomt_ed25519_prepared *first = group->items[0]->prepared;
    uintptr_t multiples[LANES];
    struct efgh p;
    __m512i keys;

    for (int lane = 0; lane < LANES; lane++)
        multiples[lane] = (uintptr_t)group->items[lane]->prepared->multiples;
    keys = _mm512_loadu_si512(multiples);
    neutral_point(&p);
    for (unsigned bit = PART_BITS; bit > 0;) {
        bit -= TERM_BITS;
        if (bit < PART_BITS - TERM_BITS)
            for (int i = 0; i < TERM_BITS; i++)
                double_point(&p, &p);
        for (unsigned part = 0; part < IOMT_PREPARED_PARTS; part++) {
            const __m512i rows = _mm512_add_epi64(keys, same(part * sizeof first->multiples[0]));

            add_packed(&p, rows, digit_at(&k, PART_BITS * part + bit, TERM_BITS));
        }
        for (unsigned part = 0; part < IOMT_BASE_PARTS && bit % BASE_BITS == 0; part++)
            add_base(&p, part, digit_at(&s, PART_BITS * part + bit, BASE_BITS));
    }
    projective(&group->point, &p);
}

/* ---- Groups ---- */

static unsigned are_differences(const struct group *group)
{
    return iomt_ifma_are_differences(group->items, group->s, group->k);
}

static unsigned lanes_with_r(const struct group *group, const struct number *x,
                             const struct number *y)
{
    const struct words packed_x = pack(*x);
    struct words encoded = pack(*y);
    const uint8_t *rs[LANES];

    for (int lane = 0; lane < LANES; lane++)
        rs[lane] = group->items[lane]->signature;
    encoded.word[3] =
        _mm512_or_si512(encoded.word[3], _mm512_slli_epi64(packed_x.word[0], 63));
    return are_equal(encoded, strings(rs));
}

static int verify_alone(const struct iomt_ed25519_item *item)
{
    return iomt_ifma_verify_one(item);
}

static void challenges(struct iomt_scalar k[LANES],
                       const struct iomt_ed25519_item *const items[LANES], size_t count)
{
    iomt_ifma_challenges(k, items, count);
}

const iomt_ed25519_backend iomt_ed25519_backend_ifma = {
    .name = "avx512-ifma",
    .needs = IOMT_CPU_AVX512_IFMA | IOMT_CPU_ADX | IOMT_CPU_AVX2,
    .lanes = LANES,
    .curve = &iomt_curve_adx,
    .is_difference = iomt_ifma_is_difference,
    .verify = verify_in_lanes,
};

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
