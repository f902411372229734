/* Verification in eight lanes of AVX-512 IFMA: eight signatures side by side, each by itself.
 *
 * A group of eight takes these steps, all lanes at once:
 *   1. decode the keys (unless they are prepared), -A;
 *   2. [s]B + [k](-A) in one chain of doublings, with signed digits of fixed width: of k in
 *      radix 32 from a table of 0 .. 16 times -A, of s in radix 256 from a table of B that
 *      all lanes share;
 *   3. with all groups of a call: 1/Z; encode; compare with R (ed25519_lanes.h). */
#include "ed25519_ifma.h"

#if defined(__x86_64__)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512ifma"))), \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512dq,avx512ifma")
#endif

#include "ed25519_ifma_group.h"

#include <string.h>

#define FEWEST_PLAIN 2
#define FEWEST_PREPARED 2
#include "ed25519_lanes.h"

#define KEY_BITS 5
#define KEY_MULTIPLES 17 /* 0 .. 16 */
#define BASE_BITS 8
#define KEY_TOP 250 /* where the highest digit of k stands: k < 2^253, and see digits_of */
#define PART_BITS 64

/* ---- Between memory and lanes ---- */

ALWAYS_INLINE struct words load_words(uint64_t words[4][LANES])
{
    struct words w;

    UNROLLED for (int i = 0; i < 4; i++)
        w.word[i] = _mm512_loadu_si512(words[i]);
    return w;
}

static struct words strings(const uint8_t *const bytes[LANES])
{
    uint64_t words[4][LANES];

    for (int lane = 0; lane < LANES; lane++)
        UNROLLED for (int i = 0; i < 4; i++)
            words[i][lane] = iomt_load_le64(bytes[lane] + 8 * i);
    return load_words(words);
}

static struct words scalars(const struct iomt_scalar numbers[LANES])
{
    uint64_t words[4][LANES];

    for (int lane = 0; lane < LANES; lane++)
        UNROLLED for (int i = 0; i < 4; i++)
            words[i][lane] = numbers[lane].words[i];
    return load_words(words);
}

/* ---- Digits ---- */

/* Signed digits of `bits` bits are those of the number plus 2^(bits - 1) in every place,
 * each minus 2^(bits - 1): from -2^(bits - 1) to 2^(bits - 1) - 1. The sum stays below 2^256
 * for a number below L: in radix 32 with 51 places below 2^255, in radix 16 and 256 because
 * 0x88..88 + 2^253 and 0x80..80 + 2^253 do. */
ALWAYS_INLINE struct words with_halves(struct words a, const uint64_t halves[4])
{
    __mmask8 carries = 0;

    UNROLLED for (int i = 0; i < 4; i++) {
        __m512i sum = _mm512_add_epi64(a.word[i], same(halves[i]));
        __mmask8 over = _mm512_cmplt_epu64_mask(sum, a.word[i]);

        a.word[i] = _mm512_mask_add_epi64(sum, carries, sum, same(1));
        carries = over | (carries & _mm512_testn_epi64_mask(a.word[i], a.word[i]));
    }
    return a;
}

/* In radix 32: 16 (32^51 - 1) / 31. */
static const uint64_t halves32[4] = {0x0842108421084210, 0x1084210842108421, 0x2108421084210842,
                                     0x4210842108421084};
static const uint64_t halves16[4] = {0x8888888888888888, 0x8888888888888888, 0x8888888888888888,
                                     0x8888888888888888};
static const uint64_t halves256[4] = {0x8080808080808080, 0x8080808080808080,
                                      0x8080808080808080, 0x8080808080808080};

/* The digit at a bit, of a number from with_halves. */
ALWAYS_INLINE __m512i digit_at(const struct words *a, unsigned bit, unsigned bits)
{
    const unsigned word = bit / 64, shift = bit % 64;
    __m512i digit = _mm512_srl_epi64(a->word[word], _mm_cvtsi32_si128((int)shift));

    if (shift + bits > 64 && word < 3)
        digit = _mm512_or_si512(digit, _mm512_sll_epi64(a->word[word + 1],
                                                        _mm_cvtsi32_si128((int)(64 - shift))));
    digit = _mm512_and_si512(digit, same((1u << bits) - 1));
    return _mm512_sub_epi64(digit, same(1u << (bits - 1)));
}

/* ---- Looking up multiples ---- */

/* Each lane's multiple is copied word by word through general registers, which have nothing
 * else to do: gathers took longer. A vector can be loaded only when its eight words have
 * left the store buffer, so a look-up stands a doubling or a sum before its use. Digits are
 * as good as random, so no branch depends on one: addresses are computed in vectors. */

/* What was found: each lane's |digit|-th multiple, and the lanes that want its opposite. For
 * these plus and minus are already exchanged, and t2d is still to be negated. */
struct found {
    struct addend multiple;
    __mmask8 negative;
};

struct found_packed {
    uint64_t plus[4][LANES], minus[4][LANES], t2d[4][LANES];
    __mmask8 negative;
};

/* Per lane, where to read what. */
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
}

/* Not by way of a vector register, which the compiler would fill with shuffles. */
ALWAYS_INLINE void copy_word(void *to, const void *from)
{
    uint64_t word;

    memcpy(&word, from, sizeof word);
    __asm__("" : "+r"(word));
    memcpy(to, &word, sizeof word);
}

ALWAYS_INLINE void copy_lane(__m512i *to, uintptr_t from, int limbs, int lane)
{
    UNROLLED for (int i = 0; i < limbs; i++)
        copy_word((char *)&to[i] + 8 * lane, (const char *)from + 64 * i);
}

ALWAYS_INLINE void look_up(struct found *found, const struct addend table[KEY_MULTIPLES],
                           __m512i digits)
{
    const __m512i lane_bytes = _mm512_setr_epi64(0, 8, 16, 24, 32, 40, 48, 56);
    const __m512i start = _mm512_add_epi64(same((uintptr_t)table), lane_bytes);
    const __m512i skipped = _mm512_mullo_epi64(_mm512_abs_epi64(digits), same(sizeof table[0]));
    struct places at;

    found->negative = _mm512_movepi64_mask(digits);
    find_places(&at, _mm512_add_epi64(start, skipped), found->negative, sizeof table[0].plus);
    for (int lane = 0; lane < LANES; lane++) {
        copy_lane(found->multiple.plus.limb, at.plus[lane], LIMBS, lane);
        copy_lane(found->multiple.minus.limb, at.minus[lane], LIMBS, lane);
        copy_lane(found->multiple.t2d.limb, at.rest[lane], LIMBS, lane);
        copy_lane(found->multiple.z2.limb, at.rest[lane] + sizeof table[0].t2d, LIMBS, lane);
    }
}

static const struct iomt_packed_point packed_neutral = {{{1, 0, 0, 0}}, {{1, 0, 0, 0}}, {{0}}};

/* The same where each lane has its own row of multiples 1, 2, ...; `rows` are their
 * addresses. */
ALWAYS_INLINE void look_up_packed(struct found_packed *found, __m512i rows, __m512i digits)
{
    const uint64_t size = sizeof packed_neutral;
    const __m512i sizes = _mm512_abs_epi64(digits);
    const __m512i skipped = _mm512_mullo_epi64(_mm512_sub_epi64(sizes, same(1)), same(size));
    struct places at;
    __m512i from = same((uintptr_t)&packed_neutral);

    from = _mm512_mask_add_epi64(from, _mm512_test_epi64_mask(sizes, sizes), rows, skipped);
    found->negative = _mm512_movepi64_mask(digits);
    find_places(&at, from, found->negative, sizeof packed_neutral.t2d);
    for (int lane = 0; lane < LANES; lane++)
        UNROLLED for (int i = 0; i < 4; i++) {
            copy_word(&found->plus[i][lane], (const uint64_t *)at.plus[lane] + i);
            copy_word(&found->minus[i][lane], (const uint64_t *)at.minus[lane] + i);
            copy_word(&found->t2d[i][lane], (const uint64_t *)at.rest[lane] + i);
        }
}

ALWAYS_INLINE void look_up_base(struct found_packed *found, unsigned part, __m512i digits)
{
    look_up_packed(found, same((uintptr_t)iomt_base_rows[part]), digits);
}

ALWAYS_INLINE void add_found(struct efgh *p, struct found *found)
{
    found->multiple.t2d = negate_if(found->negative, found->multiple.t2d);
    add_point(p, p, &found->multiple, 0);
}

ALWAYS_INLINE void add_found_packed(struct efgh *p, struct found_packed *found)
{
    struct addend q;

    q.plus = unpack(load_words(found->plus));
    q.minus = unpack(load_words(found->minus));
    q.t2d = negate_if(found->negative, unpack(load_words(found->t2d)));
    add_point(p, p, &q, 1);
}

/* ---- [s]B + [k](-A) ---- */

struct affine {
    struct number x, y;
};

/* RFC 8032 5.1.3, as iomt_ed25519_decode_key: x^2 = u/v, and the candidate for its root is
 * u v^3 (u v^7)^((p-5)/8). The negative of the point; the neutral one, with its lane not in
 * `is_point`, for a key that is none. */
ALWAYS_INLINE void decode_keys(struct group *groups, struct affine *out, int count)
{
    const struct number d = constant(iomt_curve_d.words);
    const struct number root = constant(iomt_root_of_minus_one.words);
    struct number u[2], v[2], v3[2], w[2], power[2];
    __mmask8 odd[2];

    for (int n = 0; n < count; n++) {
        const uint8_t *keys[LANES];
        struct words bits;
        struct sum yy;
        struct number y2, v6;

        for (int lane = 0; lane < LANES; lane++)
            keys[lane] = groups[n].items[lane]->key;
        bits = strings(keys);
        odd[n] = _mm512_movepi64_mask(bits.word[3]);
        out[n].y = unpack(bits);
        yy = square(out[n].y);
        y2 = carry(yy);
        u[n] = carry(minus(yy, widen(small(1)), 2));
        v[n] = carry(plus(multiply(y2, d), widen(small(1))));
        v3[n] = times(squared(v[n]), v[n]);
        v6 = squared(v3[n]);
        w[n] = times(times(v6, v[n]), u[n]); /* u v^7 */
    }
    root_power(power, w, count);
    for (int n = 0; n < count; n++) {
        struct number x = times(times(power[n], v3[n]), u[n]);
        const struct sum vxx = multiply(squared(x), v[n]);
        const __mmask8 right = is_zero(carry(minus(vxx, widen(u[n]), 2)));
        const __mmask8 turned = is_zero(carry(plus(vxx, widen(u[n]))));
        struct words bits;

        x = choose(turned & (__mmask8)~right, x, times(x, root));
        bits = pack(x);
        /* The parity of x must be that of the sign bit; then -A has the other one. */
        odd[n] ^= _mm512_test_epi64_mask(bits.word[0], same(1));
        out[n].x = negate_if((__mmask8)~odd[n], x);
        groups[n].is_point = right | turned;
        out[n].x = choose(right | turned, small(0), out[n].x);
        out[n].y = choose(right | turned, small(1), out[n].y);
    }
}

static void multiples_of_key(struct addend table[KEY_MULTIPLES], const struct affine *a)
{
    struct number d2 = constant(iomt_curve_d.words);
    const struct sum x = widen(a->x), y = widen(a->y);
    struct efgh p;

    d2 = carry(doubled(widen(d2)));
    table[0].plus = table[0].minus = small(1);
    table[0].t2d = small(0);
    table[0].z2 = small(2);
    table[1].plus = carry(plus(y, x));
    table[1].minus = carry(minus(y, x, 2));
    table[1].t2d = times(times(a->x, a->y), d2);
    table[1].z2 = small(2);
    p.e = a->x; /* X = x, Y = y, Z = 1, T = xy */
    p.f = p.g = small(1);
    p.h = a->y;
    for (int i = 2; i < KEY_MULTIPLES; i++) {
        add_point(&p, &p, &table[1], 1);
        to_addend(&table[i], &p, d2);
    }
}

static __attribute__((noinline)) void multiply_group(struct group *group, const struct affine *a)
{
    struct addend table[KEY_MULTIPLES];
    const struct words k = with_halves(scalars(group->k), halves32);
    const struct words s = with_halves(scalars(group->s), halves256);
    struct efgh p;

    multiples_of_key(table, a);
    neutral_point(&p);
    for (unsigned bit = KEY_TOP + 1; bit-- > 0;) {
        const int with_key = bit % KEY_BITS == 0, with_base = bit % BASE_BITS == 0;
        struct found key;
        struct found_packed base;

        base.negative = 0;
        if (with_key)
            look_up(&key, table, digit_at(&k, bit, KEY_BITS));
        if (with_base)
            look_up_base(&base, 0, digit_at(&s, bit, BASE_BITS));
        if (bit < KEY_TOP)
            double_point(&p, &p);
        if (with_key)
            add_found(&p, &key);
        if (with_base)
            add_found_packed(&p, &base);
    }
    projective(&group->point, &p);
}

/* One group, or two, whose keys are decoded together: a chain of squarings leaves the
 * multiplier idle for a fifth of the time. */
static void multiply_pair(struct group *groups, int count)
{
    struct affine a[2];

    if (count == 2)
        decode_keys(groups, a, 2);
    else
        decode_keys(groups, a, 1);
    for (int n = 0; n < count; n++)
        multiply_group(&groups[n], &a[n]);
}

/* With prepared keys only 64 doublings: each 64 bits of k and s have their own row. */
static __attribute__((noinline)) void multiply_prepared(struct group *group)
{
    const struct words k = with_halves(scalars(group->k), halves16);
    const struct words s = with_halves(scalars(group->s), halves256);
    const iomt_ed25519_prepared *first = group->items[0]->prepared;
    uintptr_t multiples[LANES];
    struct efgh p;
    __m512i keys;

    for (int lane = 0; lane < LANES; lane++)
        multiples[lane] = (uintptr_t)group->items[lane]->prepared->multiples;
    keys = _mm512_loadu_si512(multiples);
    neutral_point(&p);
    for (unsigned bit = PART_BITS; bit-- > 0;) {
        struct found_packed found[2 * IOMT_PREPARED_PARTS];
        int count = 0;

        for (unsigned part = 0; part < IOMT_PREPARED_PARTS && bit % 4 == 0; part++) {
            const __m512i rows = _mm512_add_epi64(keys, same(part * sizeof first->multiples[0]));

            look_up_packed(&found[count++], rows, digit_at(&k, PART_BITS * part + bit, 4));
        }
        for (unsigned part = 0; part < IOMT_PREPARED_PARTS && bit % BASE_BITS == 0; part++)
            look_up_base(&found[count++], part,
                         digit_at(&s, PART_BITS * part + bit, BASE_BITS));
        if (bit < PART_BITS - 4)
            double_point(&p, &p);
        for (int i = 0; i < count; i++)
            add_found_packed(&p, &found[i]);
    }
    projective(&group->point, &p);
}

/* ---- Groups ---- */

static unsigned lanes_with_r(const struct group *group, const struct number *x,
                             const struct number *y)
{
    const struct words packed_x = pack(*x);
    struct words encoded = pack(*y), r;
    const uint8_t *rs[LANES];
    __mmask8 same_words = 0xff;

    for (int lane = 0; lane < LANES; lane++)
        rs[lane] = group->items[lane]->signature;
    r = strings(rs);
    encoded.word[3] =
        _mm512_or_si512(encoded.word[3], _mm512_slli_epi64(packed_x.word[0], 63));
    UNROLLED for (int i = 0; i < 4; i++)
        same_words &= _mm512_cmpeq_epi64_mask(encoded.word[i], r.word[i]);
    return same_words;
}

static void challenges(struct iomt_scalar k[LANES],
                       const struct iomt_ed25519_item *const items[LANES], size_t count)
{
    iomt_ifma_challenges(k, items, count);
}

static int verify_alone(const struct iomt_ed25519_item *item)
{
    return iomt_ed25519_verify_item(&iomt_curve_adx, item);
}

const iomt_ed25519_backend iomt_ed25519_backend_ifma = {
    .name = "avx512-ifma",
    .needs = IOMT_CPU_AVX512_IFMA | IOMT_CPU_ADX,
    .lanes = LANES,
    .curve = &iomt_curve_adx,
    .fewest = FEWEST_PREPARED,
    .is_difference = iomt_ifma_is_difference,
    .verify = verify_in_lanes,
};

#endif
