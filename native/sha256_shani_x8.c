/* SHA-256 of eight messages on CPUs that have both the SHA extensions and AVX-512's forms of
 * 256-bit instructions, each where it is better: the rounds by the SHA extensions, which do
 * them one message at a time, and the message schedule side by side in eight 32-bit lanes.
 * For CPUs that can begin a round instruction every cycle (AMD Zen 4): there the schedule's
 * own SHA instructions take as long as the rounds, in the same unit, while the vector units
 * have nothing to do.
 *
 * While the rounds take sixteen words of each message, the vector units make the sixteen
 * that follow. The two meet in memory, in the first cache: a round instruction takes two
 * words, so two words of a message have only to be brought together, not turned over.
 *
 * Not for Intel's CPUs, where a SHA instruction waits while upper halves are in use; the
 * calibration finds that out. */
#include "backend.h"

#if defined(IOMT_X86)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("sha,avx512f,avx512bw,avx512vl,bmi2"))), \
                             apply_to = function)
#else
#pragma GCC target("sha,avx512f,avx512bw,avx512vl,bmi2")
#endif

#include "edges.h"
#include "sha256_shani.h"

#define LANES 8

typedef __m256i words; /* the same word of eight messages */

/* Sixteen words of the eight messages, constants added, two words at a time. */
struct ready {
    _Alignas(64) uint64_t pairs[8][LANES];
};

/* The lane in which message i is, so that `pairs` has the messages in their order. */
#define LANE(i) ((i) == 2 || (i) == 3 ? (i) + 2 : (i) == 4 || (i) == 5 ? (i) - 2 : (i))

#define PLUS(x, y) _mm256_add_epi32(x, y)
#define ROTATE(x, bits) _mm256_ror_epi32(x, bits)

/* Not one three-input instruction: that may go where the round instructions have to. The
 * empty statement keeps the compiler from making one of the two. */
ALWAYS_INLINE words xor3(words x, words y, words z)
{
    words xy = _mm256_xor_si256(x, y);

    __asm__("" : "+v"(xy));
    return _mm256_xor_si256(xy, z);
}

#define SMALL_SIGMA0(x) xor3(ROTATE(x, 7), ROTATE(x, 18), _mm256_srli_epi32(x, 3))
#define SMALL_SIGMA1(x) xor3(ROTATE(x, 17), ROTATE(x, 19), _mm256_srli_epi32(x, 10))

ALWAYS_INLINE void keep_pair(struct ready *ready, const words w[16], unsigned i, const uint32_t *k)
{
    words even = PLUS(w[i], _mm256_set1_epi32((int)k[i]));
    words odd = PLUS(w[i + 1], _mm256_set1_epi32((int)k[i + 1]));
    uint64_t *pair = ready->pairs[i / 2];

    _mm256_store_si256((__m256i *)pair, _mm256_unpacklo_epi32(even, odd));
    _mm256_store_si256((__m256i *)(pair + 4), _mm256_unpackhi_epi32(even, odd));
}

/* The next word of the schedule takes the place of the word sixteen before it. */
ALWAYS_INLINE void next_word(words w[16], unsigned i)
{
    w[i] = PLUS(PLUS(w[i], SMALL_SIGMA0(w[(i + 1) % 16])),
                PLUS(w[(i + 9) % 16], SMALL_SIGMA1(w[(i + 14) % 16])));
}

/* Two rounds of two messages turn {f, e, b, a} and {h, g, d, c} into new {h, g, d, c} and
 * {f, e, b, a}: each pair of rounds names the other half. */
ALWAYS_INLINE void first_two_rounds(struct chain s[2], const uint64_t *pair)
{
    for (unsigned i = 0; i < 2; i++)
        s[i].cdgh = _mm_sha256rnds2_epu32(s[i].cdgh, s[i].abef,
                                          _mm_loadl_epi64((const __m128i *)(pair + i)));
}

ALWAYS_INLINE void second_two_rounds(struct chain s[2], const uint64_t *pair)
{
    for (unsigned i = 0; i < 2; i++)
        s[i].abef = _mm_sha256rnds2_epu32(s[i].abef, s[i].cdgh,
                                          _mm_loadl_epi64((const __m128i *)(pair + i)));
}

/* Four rounds of four messages, the words of which are in `one` and `two`. */
ALWAYS_INLINE void four_rounds_of_four(struct chain s[4], const uint64_t *one, const uint64_t *two)
{
    first_two_rounds(s, one);
    first_two_rounds(s + 2, one + 2);
    second_two_rounds(s, two);
    second_two_rounds(s + 2, two + 2);
}

/* The same, and words i and i + 1 of the next sixteen: spread among the rounds, because a CPU
 * looks only so far ahead for something to do. */
ALWAYS_INLINE void four_rounds_and_next_pair(struct chain s[4], const uint64_t *one,
                                             const uint64_t *two, words w[16], unsigned i,
                                             const uint32_t *k, struct ready *next)
{
    first_two_rounds(s, one);
    next_word(w, i);
    first_two_rounds(s + 2, one + 2);
    second_two_rounds(s, two);
    next_word(w, i + 1);
    second_two_rounds(s + 2, two + 2);
    keep_pair(next, w, i, k);
}

ALWAYS_INLINE void sixteen_rounds(struct chain s[LANES], const struct ready *ready)
{
    for (unsigned first = 0; first < LANES; first += 4)
        for (unsigned pair = 0; pair < 8; pair += 2)
            four_rounds_of_four(s + first, ready->pairs[pair] + first,
                                ready->pairs[pair + 1] + first);
}

/* Sixteen rounds of the four messages from `first` on, and eight of the next words. */
ALWAYS_INLINE void half_of_rounds_and_next(struct chain s[LANES], unsigned first,
                                           const struct ready *ready, words w[16],
                                           const uint32_t *k, struct ready *next)
{
    const uint64_t *pair = ready->pairs[0] + first;
    struct chain own[4] = {s[first], s[first + 1], s[first + 2], s[first + 3]};
    unsigned i = 2 * first;

    four_rounds_and_next_pair(own, pair, pair + LANES, w, i, k, next);
    four_rounds_and_next_pair(own, pair + 2 * LANES, pair + 3 * LANES, w, i + 2, k, next);
    four_rounds_and_next_pair(own, pair + 4 * LANES, pair + 5 * LANES, w, i + 4, k, next);
    four_rounds_and_next_pair(own, pair + 6 * LANES, pair + 7 * LANES, w, i + 6, k, next);
    memcpy(s + first, own, sizeof own);
    /* The other half wants the registers: without this they are moved about one by one. */
    __asm__ volatile("" ::: "memory");
}

ALWAYS_INLINE void rounds_of_eight(struct chain s[LANES], words w[16])
{
    struct chain before[LANES];
    const uint32_t *k = iomt_sha256_k;
    struct ready ready[2];

    memcpy(before, s, sizeof before);
    for (unsigned i = 0; i < 16; i += 2)
        keep_pair(&ready[0], w, i, k);
    for (unsigned quarter = 0; quarter < 3; quarter++) {
        const struct ready *now = &ready[quarter % 2];
        struct ready *next = &ready[(quarter + 1) % 2];

        k += 16;
        half_of_rounds_and_next(s, 0, now, w, k, next);
        half_of_rounds_and_next(s, 4, now, w, k, next);
    }
    sixteen_rounds(s, &ready[1]);
    for (unsigned i = 0; i < LANES; i++)
        add_chain(&s[i], &before[i]);
}

/* ---- Between memory and lanes ---- */

ALWAYS_INLINE words two(const uint8_t *low, const uint8_t *high)
{
    return _mm256_inserti128_si256(_mm256_castsi128_si256(load(low)), load(high), 1);
}

/* Four words of each message, from 16 bytes of each: `order` puts the bytes of a word the
 * right way round. */
ALWAYS_INLINE void four_words(words w[4], const uint8_t *const at[LANES], size_t offset,
                              words order)
{
    words r0 = _mm256_shuffle_epi8(two(at[LANE(0)] + offset, at[LANE(4)] + offset), order);
    words r1 = _mm256_shuffle_epi8(two(at[LANE(1)] + offset, at[LANE(5)] + offset), order);
    words r2 = _mm256_shuffle_epi8(two(at[LANE(2)] + offset, at[LANE(6)] + offset), order);
    words r3 = _mm256_shuffle_epi8(two(at[LANE(3)] + offset, at[LANE(7)] + offset), order);
    words low01 = _mm256_unpacklo_epi32(r0, r1), high01 = _mm256_unpackhi_epi32(r0, r1);
    words low23 = _mm256_unpacklo_epi32(r2, r3), high23 = _mm256_unpackhi_epi32(r2, r3);

    w[0] = _mm256_unpacklo_epi64(low01, low23);
    w[1] = _mm256_unpackhi_epi64(low01, low23);
    w[2] = _mm256_unpacklo_epi64(high01, high23);
    w[3] = _mm256_unpackhi_epi64(high01, high23);
}

ALWAYS_INLINE words swapped(void)
{
    return _mm256_broadcastsi128_si256(
        _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203));
}

ALWAYS_INLINE void load_blocks(words w[16], const uint8_t *const at[LANES])
{
    for (unsigned i = 0; i < 16; i += 4)
        four_words(w + i, at, 4 * i, swapped());
}

/* First blocks: a prefix, and 63 bytes. The first 16 bytes are also moved on by one, so that
 * no byte before `rest` is read. */
ALWAYS_INLINE void load_first_blocks(words w[16], uint8_t prefix, const uint8_t *const rest[LANES])
{
    words moved = _mm256_broadcastsi128_si256(
        _mm_set_epi64x(0x0b0c0d0e0708090a, 0x0304050680000102));

    four_words(w, rest, 0, moved);
    w[0] = _mm256_or_si256(w[0], _mm256_set1_epi32(prefix << 24));
    for (unsigned i = 4; i < 16; i += 4)
        four_words(w + i, rest, 4 * i - 1, swapped());
}

/* ---- What the table offers ---- */

static void compress(uint32_t *state, const uint8_t *const *blocks, size_t count)
{
    struct chain s[LANES];
    const uint8_t *at[LANES];
    words w[16];

    for (unsigned i = 0; i < LANES; i++) {
        uint32_t own[8];

        for (unsigned j = 0; j < 8; j++)
            own[j] = state[LANES * j + i];
        s[i] = chain_from_words(own);
        at[i] = blocks[i];
    }
    for (; count > 0; count--) {
        load_blocks(w, at);
        rounds_of_eight(s, w);
        for (unsigned i = 0; i < LANES; i++)
            at[i] += IOMT_BLOCK_SIZE;
    }
    for (unsigned i = 0; i < LANES; i++) {
        uint32_t own[8];

        store(own, chain_abcd(s[i]));
        store(own + 4, chain_efgh(s[i]));
        for (unsigned j = 0; j < 8; j++)
            state[LANES * j + i] = own[j];
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

/* As four_rounds, from words that have their constants. */
ALWAYS_INLINE void four_ready_rounds(struct chain *s, const uint32_t *wk)
{
    s->cdgh = _mm_sha256rnds2_epu32(s->cdgh, s->abef, _mm_loadl_epi64((const __m128i *)wk));
    s->abef = _mm_sha256rnds2_epu32(s->abef, s->cdgh, _mm_loadl_epi64((const __m128i *)(wk + 2)));
}

/* The second blocks of messages of 65 bytes that end with these bytes. */
ALWAYS_INLINE void rounds_of_last_bytes(struct chain s[LANES], const uint8_t last[LANES])
{
    for (unsigned first = 0; first < LANES; first += 4) {
        const uint32_t *row[4];
        struct chain before[4];

        for (unsigned i = 0; i < 4; i++) {
            before[i] = s[first + i];
            row[i] = iomt_last_byte_rounds[last[first + i]];
        }
        /* Rolled up it takes some per cent longer. */
#pragma GCC unroll 16
        for (unsigned t = 0; t < 64; t += 4)
            for (unsigned i = 0; i < 4; i++)
                four_ready_rounds(&s[first + i], row[i] + t);
        for (unsigned i = 0; i < 4; i++)
            add_chain(&s[first + i], &before[i]);
    }
}

/* Eight messages of 65 bytes: a prefix and 64 bytes. */
ALWAYS_INLINE void hash_65_bytes(uint8_t prefix, const uint8_t *const rest[LANES],
                                 struct chain s[LANES])
{
    const struct chain start = chain_from_words(iomt_sha256_start);
    uint8_t last[LANES];
    words w[16];

    for (unsigned i = 0; i < LANES; i++) {
        s[i] = start;
        last[i] = rest[i][63];
        _mm_prefetch((const char *)iomt_last_byte_rounds[last[i]], _MM_HINT_T0);
    }
    load_first_blocks(w, prefix, rest);
    rounds_of_eight(s, w);
    rounds_of_last_bytes(s, last);
}

static void nodes(const uint8_t *children, size_t count, uint8_t *parents)
{
    const size_t pair_size = 2 * IOMT_HASH_SIZE;

    while (count > 0) {
        size_t some = count < LANES ? count : LANES;
        const uint8_t *pairs[LANES];
        struct chain s[LANES];

        /* Where fewer are left, the last one is computed more than once. */
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

/* Bits 0 .. count-1, where count may be beyond either end. */
ALWAYS_INLINE __mmask64 first_bytes(ptrdiff_t count)
{
    return count <= 0 ? 0 : count >= 64 ? ~(__mmask64)0 : ((__mmask64)1 << count) - 1;
}

/* Builds the block of a leaf that begins `at` bytes into it, where it may hold the prefix,
 * padding and, if it is the last, the length. Bytes outside the record are not read. */
ALWAYS_INLINE void build_block(uint8_t *block, const struct iomt_leaf *leaf, size_t at, int is_last)
{
    ptrdiff_t left = (ptrdiff_t)(1 + leaf->size) - (ptrdiff_t)at;
    __mmask64 own = first_bytes(left);
    __mmask64 mark = first_bytes(left + 1) & ~own;
    __m512i row;

    if (at == 0)
        own &= ~(__mmask64)1; /* the prefix: zero, and not a byte of the record */
    row = _mm512_mask_mov_epi8(_mm512_maskz_loadu_epi8(own, leaf->record - 1 + at), mark,
                               _mm512_set1_epi8((char)IOMT_END_MARK));
    if (is_last)
        row = _mm512_mask_set1_epi32(row, 1 << 15,
                                     (int)__builtin_bswap32((uint32_t)(1 + leaf->size) * 8));
    _mm512_store_si512(block, row);
}

static void leaves_of_64_bytes(const struct iomt_leaf *leaf)
{
    const uint8_t *records[LANES];
    struct chain s[LANES];

    for (unsigned i = 0; i < LANES; i++)
        records[i] = leaf[i].record;
    hash_65_bytes(IOMT_LEAF_PREFIX, records, s);
    for (unsigned i = 0; i < LANES; i++)
        store_hash(leaf[i].hash, s[i]);
}

/* Where the blocks are that begin `at` bytes into their leaves: in the record if they lie in
 * it whole, otherwise built. */
ALWAYS_INLINE void find_blocks(const uint8_t *block[LANES], uint8_t built[LANES][IOMT_BLOCK_SIZE],
                               const struct iomt_leaf *leaf, size_t at, int are_last)
{
    for (unsigned i = 0; i < LANES; i++) {
        block[i] = leaf[i].record + at - 1;
        if (at == 0 || are_last || at + IOMT_BLOCK_SIZE > 1 + leaf[i].size) {
            build_block(built[i], &leaf[i], at, are_last);
            block[i] = built[i];
        }
    }
}

static void leaves(const struct iomt_leaf *leaf, size_t blocks)
{
    _Alignas(64) uint8_t built[LANES][IOMT_BLOCK_SIZE];
    const struct chain start = chain_from_words(iomt_sha256_start);
    struct chain s[LANES];
    size_t last = (blocks - 1) * IOMT_BLOCK_SIZE, other_sizes = 0;

    for (unsigned i = 0; i < LANES; i++) {
        s[i] = start;
        other_sizes |= leaf[i].size ^ 64;
    }
    if (other_sizes == 0) {
        leaves_of_64_bytes(leaf);
        return;
    }
    for (size_t at = 0; at <= last; at += IOMT_BLOCK_SIZE) {
        const uint8_t *block[LANES];
        words w[16];

        /* Padding begins in the last block but one at the earliest. */
        if (at == 0 && blocks > 2) {
            for (unsigned i = 0; i < LANES; i++)
                block[i] = leaf[i].record;
            load_first_blocks(w, IOMT_LEAF_PREFIX, block);
        } else {
            find_blocks(block, built, leaf, at, at == last);
            load_blocks(w, block);
        }
        rounds_of_eight(s, w);
    }
    for (unsigned i = 0; i < LANES; i++)
        store_hash(leaf[i].hash, s[i]);
}

extern const iomt_backend iomt_backend_shani_x8;
const iomt_backend iomt_backend_shani_x8 = {
    .name = "sha-ni-x8",
    .needs = IOMT_CPU_SHA_NI | IOMT_CPU_AVX512,
    .lanes = LANES,
    .fewest = 5,
    .compress = compress,
    .compress_one = compress_one,
    .nodes = nodes,
    .leaves = leaves,
};

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
