/* SHA-256 with the x86 SHA extensions, two messages interleaved: the round instruction takes
 * four cycles and the next one needs its result, so one message alone leaves the unit idle
 * half of the time. */
#include "backend.h"

#if defined(IOMT_X86)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("sha,ssse3,sse4.1"))), apply_to = function)
#else
#pragma GCC target("sha,ssse3,sse4.1")
#endif

#include "sha256_shani.h"

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

static void nodes(const uint8_t *children, size_t count, uint8_t *parents)
{
    const struct chain start = chain_from_words(iomt_sha256_start);

    for (; count >= 2; count -= 2, children += 4 * IOMT_HASH_SIZE, parents += 2 * IOMT_HASH_SIZE) {
        const uint8_t *second = children + 2 * IOMT_HASH_SIZE;
        struct chain s = start, t = start;

        rounds_of_two(&s, &t, first_block(0x01, children), first_block(0x01, second));
        rounds_of_two(&s, &t, node_second_block(children), node_second_block(second));
        store_hash(parents, s);
        store_hash(parents + IOMT_HASH_SIZE, t);
    }
    if (count > 0) {
        struct chain s = start;

        rounds_of_one(&s, first_block(0x01, children));
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
