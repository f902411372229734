/* Pieces of SHA-256 with the x86 SHA extensions, for the backends that work on one, two and
 * four messages. Included after the file has named its instructions.
 *
 * The instructions keep the chaining value in two registers, {f, e, b, a} and {h, g, d, c}
 * from the lowest word up, and take four message words at a time. */
#ifndef IOMT_SHA256_SHANI_H
#define IOMT_SHA256_SHANI_H

#include "backend.h"

#include <immintrin.h>

#define ALWAYS_INLINE static inline __attribute__((always_inline))

struct chain {
    __m128i abef, cdgh;
};

struct words {
    __m128i w0, w1, w2, w3; /* sixteen words of the message schedule */
};

ALWAYS_INLINE __m128i load(const void *from)
{
    return _mm_loadu_si128((const __m128i *)from);
}

ALWAYS_INLINE void store(void *to, __m128i value)
{
    _mm_storeu_si128((__m128i *)to, value);
}

/* Row b: message word + constant for the 64 rounds of the block b, 0x80, zeros, and the
 * length of 65 bytes, all but the first byte of the second block of such a message. 64 KiB
 * (sha256_shani_x4.c). */
extern uint32_t iomt_last_byte_rounds[256][64];

/* Two words from each of two registers, which only floating-point shuffles can do. */
#define SHUFFLE(low, high, order) \
    _mm_castps_si128(_mm_shuffle_ps(_mm_castsi128_ps(low), _mm_castsi128_ps(high), (order)))

ALWAYS_INLINE __m128i swap_bytes(__m128i words)
{
    return _mm_shuffle_epi8(words, _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203));
}

ALWAYS_INLINE struct words load_block(const uint8_t *block)
{
    struct words m = {
        swap_bytes(load(block)),
        swap_bytes(load(block + 16)),
        swap_bytes(load(block + 32)),
        swap_bytes(load(block + 48)),
    };
    return m;
}

/* The four schedule words that follow sixteen, to stand in the place of w0. */
ALWAYS_INLINE __m128i next_words(__m128i w0, __m128i w1, __m128i w2, __m128i w3)
{
    __m128i sum = _mm_add_epi32(_mm_sha256msg1_epu32(w0, w1), _mm_alignr_epi8(w3, w2, 4));

    return _mm_sha256msg2_epu32(sum, w3);
}

/* Two rounds give the new {f, e, b, a}; the old one becomes {h, g, d, c}. */
ALWAYS_INLINE void four_rounds(struct chain *s, __m128i words, const uint32_t *k)
{
    __m128i wk = _mm_add_epi32(words, _mm_load_si128((const __m128i *)k));

    s->cdgh = _mm_sha256rnds2_epu32(s->cdgh, s->abef, wk);
    s->abef = _mm_sha256rnds2_epu32(s->abef, s->cdgh, _mm_shuffle_epi32(wk, 0x0e));
}

ALWAYS_INLINE void add_chain(struct chain *s, const struct chain *before)
{
    s->abef = _mm_add_epi32(s->abef, before->abef);
    s->cdgh = _mm_add_epi32(s->cdgh, before->cdgh);
}

ALWAYS_INLINE void rounds_of_one(struct chain *s, struct words m)
{
    const struct chain before = *s;
    const uint32_t *k = iomt_sha256_k;

    four_rounds(s, m.w0, k);
    four_rounds(s, m.w1, k + 4);
    four_rounds(s, m.w2, k + 8);
    four_rounds(s, m.w3, k + 12);
    for (unsigned done = 16; done < 64; done += 16) {
        k += 16;
        m.w0 = next_words(m.w0, m.w1, m.w2, m.w3);
        four_rounds(s, m.w0, k);
        m.w1 = next_words(m.w1, m.w2, m.w3, m.w0);
        four_rounds(s, m.w1, k + 4);
        m.w2 = next_words(m.w2, m.w3, m.w0, m.w1);
        four_rounds(s, m.w2, k + 8);
        m.w3 = next_words(m.w3, m.w0, m.w1, m.w2);
        four_rounds(s, m.w3, k + 12);
    }
    add_chain(s, &before);
}

/* From the words a to h in order, and back. */
ALWAYS_INLINE struct chain chain_from_halves(__m128i abcd, __m128i efgh)
{
    struct chain s = {
        SHUFFLE(efgh, abcd, _MM_SHUFFLE(0, 1, 0, 1)),
        SHUFFLE(efgh, abcd, _MM_SHUFFLE(2, 3, 2, 3)),
    };
    return s;
}

ALWAYS_INLINE struct chain chain_from_words(const uint32_t words[8])
{
    return chain_from_halves(load(words), load(words + 4));
}

ALWAYS_INLINE __m128i chain_abcd(struct chain s)
{
    return SHUFFLE(s.abef, s.cdgh, _MM_SHUFFLE(2, 3, 2, 3));
}

ALWAYS_INLINE __m128i chain_efgh(struct chain s)
{
    return SHUFFLE(s.abef, s.cdgh, _MM_SHUFFLE(0, 1, 0, 1));
}

/* A first block: the prefix, and 63 of the bytes that follow it, shifted by one byte. The
 * shuffle of the first 16 also leaves room for the prefix, so no byte before `rest` is
 * read. */
ALWAYS_INLINE struct words first_block(uint8_t prefix, const uint8_t *rest)
{
    __m128i shifted = _mm_set_epi64x(0x0b0c0d0e0708090a, 0x0304050680000102);
    struct words m = {
        _mm_or_si128(_mm_shuffle_epi8(load(rest), shifted), _mm_cvtsi32_si128(prefix << 24)),
        swap_bytes(load(rest + 15)),
        swap_bytes(load(rest + 31)),
        swap_bytes(load(rest + 47)),
    };
    return m;
}

ALWAYS_INLINE void store_hash(uint8_t *to, struct chain s)
{
    store(to, swap_bytes(chain_abcd(s)));
    store(to + 16, swap_bytes(chain_efgh(s)));
}

#endif
