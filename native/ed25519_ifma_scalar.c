/* Numbers modulo L, eight at a time: what ed25519_scalar.c does, for public numbers only.
 *
 * Numbers are in limbs of 52 bits, as the multiply instructions want them. Reduction is
 * Barrett's (Handbook of Applied Cryptography, 14.42, with b = 2^52 and k = 5): the quotient
 * estimated from the upper limbs is at most 2 too small. (For numbers of 512 bits, at most 1,
 * since what is lost is below 2^-8 + 2^-43 before it is rounded down.) */
#include "ed25519_ifma.h"

#if defined(__x86_64__)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512ifma"))), \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512dq,avx512ifma")
#endif

#include "ed25519_ifma_words.h"

#define LIMBS 5
#define LIMB_BITS 52
#define LIMB_MASK ((UINT64_C(1) << LIMB_BITS) - 1)
#define ESTIMATE_LIMBS (2 * LIMBS + 2)

static const uint64_t order[LIMBS + 1] = {0x2631a5cf5d3ed, 0xdea2f79cd6581, 0x000000014def9,
                                          0x0000000000000, 0x0100000000000, 0x0000000000000};

/* floor(2^520 / L) */
static const uint64_t reciprocal[LIMBS + 1] = {
    0x5a30a2c131b39, 0x086329a7ed9ce, 0xfffeb2106215d, 0xfffffffffffff,
    0xfffffffffffff, 0x00000000000ff};

/* Every limb but the last to 52 bits, from limbs that may be negative. */
ALWAYS_INLINE void carry(__m512i *a, int count)
{
    UNROLLED for (int i = 0; i < count - 1; i++) {
        a[i + 1] = _mm512_add_epi64(a[i + 1], _mm512_srai_epi64(a[i], LIMB_BITS));
        a[i] = _mm512_and_si512(a[i], same(LIMB_MASK));
    }
}

/* The lowest `count` limbs of a b; limbs of a and b are below 2^52. */
ALWAYS_INLINE void multiply(__m512i *out, const __m512i *a, int na, const __m512i *b, int nb,
                            int count)
{
    UNROLLED for (int i = 0; i < count; i++)
        out[i] = same(0);
    UNROLLED for (int i = 0; i < na; i++)
        UNROLLED for (int j = 0; j < nb; j++) {
            if (i + j < count)
                out[i + j] = _mm512_madd52lo_epu64(out[i + j], a[i], b[j]);
            if (i + j + 1 < count)
                out[i + j + 1] = _mm512_madd52hi_epu64(out[i + j + 1], a[i], b[j]);
        }
    carry(out, count);
}

ALWAYS_INLINE void spread(__m512i out[LIMBS + 1], const uint64_t limbs[LIMBS + 1])
{
    UNROLLED for (int i = 0; i <= LIMBS; i++)
        out[i] = same(limbs[i]);
}

ALWAYS_INLINE void to_limbs(__m512i *limbs, int limb_count, const __m512i *words, int count)
{
    UNROLLED for (int i = 0; i < limb_count; i++)
        limbs[i] = bits_of(words, count, i * LIMB_BITS, LIMB_BITS);
}

/* a - L in the lanes where that is not negative. */
ALWAYS_INLINE void subtract_order_once(__m512i a[LIMBS + 1], const __m512i l[LIMBS + 1])
{
    __m512i less[LIMBS + 1];
    __mmask8 kept;

    UNROLLED for (int i = 0; i <= LIMBS; i++)
        less[i] = _mm512_sub_epi64(a[i], l[i]);
    carry(less, LIMBS + 1);
    kept = _mm512_movepi64_mask(less[LIMBS]);
    UNROLLED for (int i = 0; i <= LIMBS; i++)
        a[i] = _mm512_mask_mov_epi64(less[i], kept, a[i]);
}

/* x modulo L, of 10 limbs. */
ALWAYS_INLINE void reduce(struct iomt_scalar out[LANES], const __m512i x[2 * LIMBS])
{
    __m512i l[LIMBS + 1], factor[LIMBS + 1], estimate[ESTIMATE_LIMBS], rest[LIMBS + 1];
    struct words w;

    spread(l, order);
    spread(factor, reciprocal);
    multiply(estimate, x + LIMBS - 1, LIMBS + 1, factor, LIMBS + 1, ESTIMATE_LIMBS);
    multiply(rest, estimate + LIMBS + 1, LIMBS + 1, l, LIMBS, LIMBS + 1);
    UNROLLED for (int i = 0; i <= LIMBS; i++)
        rest[i] = _mm512_sub_epi64(x[i], rest[i]);
    carry(rest, LIMBS + 1);
    rest[LIMBS] = _mm512_and_si512(rest[LIMBS], same(LIMB_MASK)); /* modulo b^6 */
    subtract_order_once(rest, l);
    subtract_order_once(rest, l);
    w.word[0] = _mm512_or_si512(rest[0], _mm512_slli_epi64(rest[1], 52));
    w.word[1] = _mm512_or_si512(_mm512_srli_epi64(rest[1], 12), _mm512_slli_epi64(rest[2], 40));
    w.word[2] = _mm512_or_si512(_mm512_srli_epi64(rest[2], 24), _mm512_slli_epi64(rest[3], 28));
    w.word[3] = _mm512_or_si512(_mm512_srli_epi64(rest[3], 36), _mm512_slli_epi64(rest[4], 16));
    put_words(out, sizeof out[0], w);
}

void iomt_ifma_reduce(struct iomt_scalar out[LANES], const uint64_t numbers[2 * WORDS][LANES])
{
    __m512i words[2 * WORDS], limbs[2 * LIMBS];

    UNROLLED for (int i = 0; i < 2 * WORDS; i++)
        words[i] = _mm512_loadu_si512(numbers[i]);
    to_limbs(limbs, 2 * LIMBS, words, 2 * WORDS);
    reduce(out, limbs);
}

void iomt_ifma_products(struct iomt_scalar out[LANES], const struct iomt_scalar a[LANES],
                        const struct iomt_scalar b[LANES])
{
    const struct words words_a = scalars(a), words_b = scalars(b);
    __m512i limbs_a[LIMBS], limbs_b[LIMBS], product[2 * LIMBS];

    to_limbs(limbs_a, LIMBS, words_a.word, WORDS);
    to_limbs(limbs_b, LIMBS, words_b.word, WORDS);
    multiply(product, limbs_a, LIMBS, limbs_b, LIMBS, 2 * LIMBS);
    reduce(out, product);
}

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
