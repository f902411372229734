/* SHA-256 with the x86 SHA extensions, two messages interleaved: the round instruction takes
 * four cycles and the next one needs its result, so one message alone leaves the unit idle
 * half of the time.
 *
 * The instructions keep the chaining value in two registers, {f, e, b, a} and {h, g, d, c}
 * from the lowest word up, and take four message words at a time. */
#include "backend.h"

#if defined(IOMT_X86)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("sha,ssse3,sse4.1"))), apply_to = function)
#else
#pragma GCC target("sha,ssse3,sse4.1")
#endif

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

ALWAYS_INLINE void rounds_of_two(struct chain *s, struct chain *t, struct words m, struct words n)
{
    const struct chain s_before = *s, t_before = *t;
    const uint32_t *k = iomt_sha256_k;

    four_rounds(s, m.w0, k), four_rounds(t, n.w0, k);
    four_rounds(s, m.w1, k + 4), four_rounds(t, n.w1, k + 4);
    four_rounds(s, m.w2, k + 8), four_rounds(t, n.w2, k + 8);
    four_rounds(s, m.w3, k + 12), four_rounds(t, n.w3, k + 12);
    for (unsigned done = 16; done < 64; done += 16) {
        k += 16;
        m.w0 = next_words(m.w0, m.w1, m.w2, m.w3);
        n.w0 = next_words(n.w0, n.w1, n.w2, n.w3);
        four_rounds(s, m.w0, k), four_rounds(t, n.w0, k);
        m.w1 = next_words(m.w1, m.w2, m.w3, m.w0);
        n.w1 = next_words(n.w1, n.w2, n.w3, n.w0);
        four_rounds(s, m.w1, k + 4), four_rounds(t, n.w1, k + 4);
        m.w2 = next_words(m.w2, m.w3, m.w0, m.w1);
        n.w2 = next_words(n.w2, n.w3, n.w0, n.w1);
        four_rounds(s, m.w2, k + 8), four_rounds(t, n.w2, k + 8);
        m.w3 = next_words(m.w3, m.w0, m.w1, m.w2);
        n.w3 = next_words(n.w3, n.w0, n.w1, n.w2);
        four_rounds(s, m.w3, k + 12), four_rounds(t, n.w3, k + 12);
    }
    add_chain(s, &s_before);
    add_chain(t, &t_before);
}

/* From the words a to h in order, and back. */
ALWAYS_INLINE struct chain chain_from_words(const uint32_t words[8])
{
    __m128i abcd = load(words), efgh = load(words + 4);
    struct chain s = {
        SHUFFLE(efgh, abcd, _MM_SHUFFLE(0, 1, 0, 1)),
        SHUFFLE(efgh, abcd, _MM_SHUFFLE(2, 3, 2, 3)),
    };
    return s;
}

ALWAYS_INLINE __m128i chain_abcd(struct chain s)
{
    return SHUFFLE(s.abef, s.cdgh, _MM_SHUFFLE(2, 3, 2, 3));
}

ALWAYS_INLINE __m128i chain_efgh(struct chain s)
{
    return SHUFFLE(s.abef, s.cdgh, _MM_SHUFFLE(0, 1, 0, 1));
}

static void compress_one(uint32_t state[8], const uint8_t *blocks, size_t count)
{
    struct chain s = chain_from_words(state);

    for (; count > 0; count--, blocks += IOMT_BLOCK_SIZE)
        rounds_of_one(&s, load_block(blocks));
    store(state, chain_abcd(s));
    store(state + 4, chain_efgh(s));
}

/* Words of the two messages alternate in `state`, so a register holds {a, a', b, b'} and one
 * shuffle of two registers picks what the instructions want. */
static void compress(uint32_t *state, const uint8_t *const *blocks, size_t count)
{
    const uint8_t *first = blocks[0], *second = blocks[1];
    __m128i ab = load(state), cd = load(state + 4), ef = load(state + 8), gh = load(state + 12);
    struct chain s = {
        SHUFFLE(ef, ab, _MM_SHUFFLE(0, 2, 0, 2)),
        SHUFFLE(gh, cd, _MM_SHUFFLE(0, 2, 0, 2)),
    };
    struct chain t = {
        SHUFFLE(ef, ab, _MM_SHUFFLE(1, 3, 1, 3)),
        SHUFFLE(gh, cd, _MM_SHUFFLE(1, 3, 1, 3)),
    };

    for (; count > 0; count--, first += IOMT_BLOCK_SIZE, second += IOMT_BLOCK_SIZE)
        rounds_of_two(&s, &t, load_block(first), load_block(second));

    /* Interleaving gives {b, b', a, a'}; 0x4e exchanges the halves. */
    store(state, _mm_shuffle_epi32(_mm_unpackhi_epi32(s.abef, t.abef), 0x4e));
    store(state + 4, _mm_shuffle_epi32(_mm_unpackhi_epi32(s.cdgh, t.cdgh), 0x4e));
    store(state + 8, _mm_shuffle_epi32(_mm_unpacklo_epi32(s.abef, t.abef), 0x4e));
    store(state + 12, _mm_shuffle_epi32(_mm_unpacklo_epi32(s.cdgh, t.cdgh), 0x4e));
}

/* A node is 0x01 and 64 bytes of children. Its first block holds 63 of them, shifted by one
 * byte: the shuffle of the first 16 also leaves room for the prefix, so no byte before
 * `children` is read. */
ALWAYS_INLINE struct words node_first_block(const uint8_t *children)
{
    __m128i shifted = _mm_set_epi64x(0x0b0c0d0e0708090a, 0x0304050680000102);
    struct words m = {
        _mm_or_si128(_mm_shuffle_epi8(load(children), shifted), _mm_set_epi32(0, 0, 0, 0x01000000)),
        swap_bytes(load(children + 15)),
        swap_bytes(load(children + 31)),
        swap_bytes(load(children + 47)),
    };
    return m;
}

/* And its second block: the last byte, the end mark, the length of 520 bits. */
ALWAYS_INLINE struct words node_second_block(const uint8_t *children)
{
    uint32_t word = (uint32_t)children[63] << 24 | 0x00800000;
    struct words m = {
        _mm_cvtsi32_si128((int)word),
        _mm_setzero_si128(),
        _mm_setzero_si128(),
        _mm_set_epi32(65 * 8, 0, 0, 0),
    };
    return m;
}

ALWAYS_INLINE void store_hash(uint8_t *to, struct chain s)
{
    store(to, swap_bytes(chain_abcd(s)));
    store(to + 16, swap_bytes(chain_efgh(s)));
}

static void nodes(const uint8_t *children, size_t count, uint8_t *parents)
{
    const struct chain start = chain_from_words(iomt_sha256_start);

    for (; count >= 2; count -= 2, children += 4 * IOMT_HASH_SIZE, parents += 2 * IOMT_HASH_SIZE) {
        const uint8_t *second = children + 2 * IOMT_HASH_SIZE;
        struct chain s = start, t = start;

        rounds_of_two(&s, &t, node_first_block(children), node_first_block(second));
        rounds_of_two(&s, &t, node_second_block(children), node_second_block(second));
        store_hash(parents, s);
        store_hash(parents + IOMT_HASH_SIZE, t);
    }
    if (count > 0) {
        struct chain s = start;

        rounds_of_one(&s, node_first_block(children));
        rounds_of_one(&s, node_second_block(children));
        store_hash(parents, s);
    }
}

extern const iomt_backend iomt_backend_shani;
const iomt_backend iomt_backend_shani = {
    .name = "sha-ni",
    .needs = IOMT_CPU_SHA_NI,
    .lanes = 2,
    .fewest = 2,
    .compress = compress,
    .compress_one = compress_one,
    .nodes = nodes,
};

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
