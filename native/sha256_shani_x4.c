/* SHA-256 with the x86 SHA extensions, four messages interleaved, for CPUs that can begin a
 * round instruction every cycle though its result takes four (AMD Zen). Four messages need
 * more registers than there are, and AVX's three operands save the copies.
 *
 * A message of 65 bytes (an inner node; the leaf of a 64-byte record) has a second block of
 * which only one byte varies: the whole schedule of that block, constants added, comes
 * from a table of 256. What is left of the block are its 32 round instructions. */
#include "backend.h"

#if defined(IOMT_X86)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("sha,avx2"))), apply_to = function)
#else
#pragma GCC target("sha,avx2")
#endif

#include "edges.h"
#include "sha256_shani.h"

#define LANES 4
#define NODE_SIZE 65 /* bytes of the message */

/* Written once before main and only read after that. */
_Alignas(64) uint32_t iomt_last_byte_rounds[256][64];

static uint32_t rotate(uint32_t x, unsigned bits)
{
    return x >> bits | x << (32 - bits);
}

__attribute__((constructor)) static void fill_last_byte_rounds(void)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t w[64] = {byte << 24 | 0x00800000};

        w[15] = NODE_SIZE * 8;
        for (unsigned t = 16; t < 64; t++) {
            uint32_t x = w[t - 15], y = w[t - 2];

            w[t] = w[t - 16] + (rotate(x, 7) ^ rotate(x, 18) ^ x >> 3) + w[t - 7] +
                   (rotate(y, 17) ^ rotate(y, 19) ^ y >> 10);
        }
        for (unsigned t = 0; t < 64; t++)
            iomt_last_byte_rounds[byte][t] = w[t] + iomt_sha256_k[t];
    }
}

/* Four rounds of each, in an order in which no instruction waits for the one before. */
#define FOUR_ROUNDS_EACH(w, k)                       \
    do {                                             \
        four_rounds(&s[0], m[0].w, k);               \
        four_rounds(&s[1], m[1].w, k);               \
        four_rounds(&s[2], m[2].w, k);               \
        four_rounds(&s[3], m[3].w, k);               \
    } while (0)

#define NEXT_AND_FOUR_ROUNDS_EACH(w, x, y, z, k)                         \
    do {                                                                 \
        m[0].w = next_words(m[0].w, m[0].x, m[0].y, m[0].z);             \
        m[1].w = next_words(m[1].w, m[1].x, m[1].y, m[1].z);             \
        m[2].w = next_words(m[2].w, m[2].x, m[2].y, m[2].z);             \
        m[3].w = next_words(m[3].w, m[3].x, m[3].y, m[3].z);             \
        FOUR_ROUNDS_EACH(w, k);                                          \
    } while (0)

ALWAYS_INLINE void rounds_of_four(struct chain s[LANES], struct words m[LANES])
{
    const struct chain before[LANES] = {s[0], s[1], s[2], s[3]};
    const uint32_t *k = iomt_sha256_k;

    FOUR_ROUNDS_EACH(w0, k);
    FOUR_ROUNDS_EACH(w1, k + 4);
    FOUR_ROUNDS_EACH(w2, k + 8);
    FOUR_ROUNDS_EACH(w3, k + 12);
    for (unsigned done = 16; done < 64; done += 16) {
        k += 16;
        NEXT_AND_FOUR_ROUNDS_EACH(w0, w1, w2, w3, k);
        NEXT_AND_FOUR_ROUNDS_EACH(w1, w2, w3, w0, k + 4);
        NEXT_AND_FOUR_ROUNDS_EACH(w2, w3, w0, w1, k + 8);
        NEXT_AND_FOUR_ROUNDS_EACH(w3, w0, w1, w2, k + 12);
    }
    for (unsigned i = 0; i < LANES; i++)
        add_chain(&s[i], &before[i]);
}

/* As four_rounds, from words that have their constants. */
ALWAYS_INLINE void four_ready_rounds(struct chain *s, const uint32_t *wk)
{
    s->cdgh = _mm_sha256rnds2_epu32(s->cdgh, s->abef, _mm_loadl_epi64((const __m128i *)wk));
    s->abef = _mm_sha256rnds2_epu32(s->abef, s->cdgh, _mm_loadl_epi64((const __m128i *)(wk + 2)));
}

/* The second block of four messages of 65 bytes that end with these bytes. */
ALWAYS_INLINE void rounds_of_last_bytes(struct chain s[LANES], const uint8_t last[LANES])
{
    const struct chain before[LANES] = {s[0], s[1], s[2], s[3]};
    const uint32_t *first = iomt_last_byte_rounds[last[0]], *second = iomt_last_byte_rounds[last[1]];
    const uint32_t *third = iomt_last_byte_rounds[last[2]], *fourth = iomt_last_byte_rounds[last[3]];

    for (unsigned t = 0; t < 64; t += 4) {
        four_ready_rounds(&s[0], first + t);
        four_ready_rounds(&s[1], second + t);
        four_ready_rounds(&s[2], third + t);
        four_ready_rounds(&s[3], fourth + t);
    }
    for (unsigned i = 0; i < LANES; i++)
        add_chain(&s[i], &before[i]);
}

/* Turns 4 × 4 words over: from the words a of four messages, the words b, ... to the words a
 * to d of each; and back. */
ALWAYS_INLINE void turn_over(__m128i r[4])
{
    __m128i ab_low = _mm_unpacklo_epi32(r[0], r[1]), ab_high = _mm_unpackhi_epi32(r[0], r[1]);
    __m128i cd_low = _mm_unpacklo_epi32(r[2], r[3]), cd_high = _mm_unpackhi_epi32(r[2], r[3]);

    r[0] = _mm_unpacklo_epi64(ab_low, cd_low);
    r[1] = _mm_unpackhi_epi64(ab_low, cd_low);
    r[2] = _mm_unpacklo_epi64(ab_high, cd_high);
    r[3] = _mm_unpackhi_epi64(ab_high, cd_high);
}

static void compress(uint32_t *state, const uint8_t *const *blocks, size_t count)
{
    __m128i abcd[4], efgh[4];
    struct chain s[LANES];

    for (unsigned w = 0; w < 4; w++) {
        abcd[w] = load(state + LANES * w);
        efgh[w] = load(state + LANES * (4 + w));
    }
    turn_over(abcd), turn_over(efgh);
    for (unsigned i = 0; i < LANES; i++)
        s[i] = chain_from_halves(abcd[i], efgh[i]);
    for (size_t at = 0; at < count * IOMT_BLOCK_SIZE; at += IOMT_BLOCK_SIZE) {
        struct words m[LANES] = {load_block(blocks[0] + at), load_block(blocks[1] + at),
                                 load_block(blocks[2] + at), load_block(blocks[3] + at)};

        rounds_of_four(s, m);
    }
    for (unsigned i = 0; i < LANES; i++) {
        abcd[i] = chain_abcd(s[i]);
        efgh[i] = chain_efgh(s[i]);
    }
    turn_over(abcd), turn_over(efgh);
    for (unsigned w = 0; w < 4; w++) {
        store(state + LANES * w, abcd[w]);
        store(state + LANES * (4 + w), efgh[w]);
    }
}

static void compress_one(uint32_t state[8], const uint8_t *blocks, size_t count)
{
    struct chain s = chain_from_words(state);

    for (; count > 0; count--, blocks += IOMT_BLOCK_SIZE)
        rounds_of_one(&s, load_block(blocks));
    store(state, chain_abcd(s));
    store(state + 4, chain_efgh(s));
}

/* Four messages of 65 bytes: a prefix and 64 bytes. */
ALWAYS_INLINE void hash_65_bytes(uint8_t prefix, const uint8_t *const rest[LANES],
                                 struct chain s[LANES])
{
    const struct chain start = chain_from_words(iomt_sha256_start);
    const uint8_t last[LANES] = {rest[0][63], rest[1][63], rest[2][63], rest[3][63]};
    struct words m[LANES];

    for (unsigned i = 0; i < LANES; i++) {
        _mm_prefetch((const char *)iomt_last_byte_rounds[last[i]], _MM_HINT_T0);
        s[i] = start;
        m[i] = first_block(prefix, rest[i]);
    }
    rounds_of_four(s, m);
    rounds_of_last_bytes(s, last);
}

static void nodes(const uint8_t *children, size_t count, uint8_t *parents)
{
    const size_t pair_size = 2 * IOMT_HASH_SIZE;

    while (count > 0) {
        size_t some = count < LANES ? count : LANES;
        const uint8_t *pairs[LANES];
        struct chain s[LANES];

        /* Where fewer than four are left, the last one is computed more than once. */
        for (size_t i = 0; i < LANES; i++)
            pairs[i] = children + (i < some ? i : some - 1) * pair_size;
        hash_65_bytes(0x01, pairs, s);
        for (size_t i = 0; i < some; i++)
            store_hash(parents + i * IOMT_HASH_SIZE, s[i]);
        children += some * pair_size;
        parents += some * IOMT_HASH_SIZE;
        count -= some;
    }
}

static void leaves(const struct iomt_leaf *leaf, size_t blocks)
{
    const struct chain start = chain_from_words(iomt_sha256_start);
    struct chain s[LANES];

    if (leaf[0].size == 64 && leaf[1].size == 64 && leaf[2].size == 64 && leaf[3].size == 64) {
        const uint8_t *records[LANES] = {leaf[0].record, leaf[1].record, leaf[2].record,
                                         leaf[3].record};

        hash_65_bytes(0x00, records, s);
    } else {
        struct iomt_edges edges[LANES];

        for (unsigned i = 0; i < LANES; i++) {
            s[i] = start;
            iomt_build_tail(&edges[i], &leaf[i]);
        }
        for (size_t b = 0; b < blocks; b++) {
            struct words m[LANES];

            for (unsigned i = 0; i < LANES; i++)
                m[i] = b == 0 && edges[i].in_place > 0
                           ? first_block(IOMT_LEAF_PREFIX, leaf[i].record)
                           : load_block(iomt_leaf_block(&edges[i], b));
            rounds_of_four(s, m);
        }
    }
    for (unsigned i = 0; i < LANES; i++)
        store_hash(leaf[i].hash, s[i]);
}

extern const iomt_backend iomt_backend_shani_x4;
const iomt_backend iomt_backend_shani_x4 = {
    .name = "sha-ni-x4",
    .needs = IOMT_CPU_SHA_NI | IOMT_CPU_AVX2,
    .lanes = LANES,
    .fewest = 3,
    .compress = compress,
    .compress_one = compress_one,
    .nodes = nodes,
    .leaves = leaves,
};

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
