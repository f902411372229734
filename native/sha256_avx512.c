/* SHA-256 of sixteen messages side by side in the 32-bit lanes of AVX-512 registers.
 *
 * Register w of a block holds word w of all sixteen messages, so every operation of
 * FIPS 180-4 is one instruction for all of them: rotations exist, and one three-input
 * logical instruction makes Ch, Maj or a sum of three. A round is 17 instructions, a step
 * of the message schedule 11; both run at the rate of the two 512-bit ports.
 *
 * Blocks come from memory one message after the other and are turned over (16 × 16 words)
 * in registers. Records are read where they are, one byte early to make room for the leaf
 * prefix; masks cut off what does not belong to the record, and a masked byte is not read. */
#include "backend.h"

#if defined(IOMT_X86)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,bmi2"))), \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512vl,bmi2")
#endif

#include "bytes.h"

#include <immintrin.h>

#define LANES 16
#define ALWAYS_INLINE static inline __attribute__((always_inline))

typedef __m512i words; /* the same word of sixteen messages */

#define PLUS(x, y) _mm512_add_epi32(x, y)

/* Truth tables of three inputs, as the instruction takes them. */
#define XOR3(x, y, z) _mm512_ternarylogic_epi32(x, y, z, 0x96)
#define CHOOSE(x, y, z) _mm512_ternarylogic_epi32(x, y, z, 0xca)
#define MAJORITY(x, y, z) _mm512_ternarylogic_epi32(x, y, z, 0xe8)

#define ROTATE(x, bits) _mm512_ror_epi32(x, bits)
#define BIG_SIGMA0(x) XOR3(ROTATE(x, 2), ROTATE(x, 13), ROTATE(x, 22))
#define BIG_SIGMA1(x) XOR3(ROTATE(x, 6), ROTATE(x, 11), ROTATE(x, 25))
#define SMALL_SIGMA0(x) XOR3(ROTATE(x, 7), ROTATE(x, 18), _mm512_srli_epi32(x, 3))
#define SMALL_SIGMA1(x) XOR3(ROTATE(x, 17), ROTATE(x, 19), _mm512_srli_epi32(x, 10))

struct chain {
    words a, b, c, d, e, f, g, h;
};

ALWAYS_INLINE words all(uint32_t word)
{
    return _mm512_set1_epi32((int)word);
}

/* One round with `wk` = message word + constant. The variables do not move, the caller
 * renames them. */
#define ROUND(a, b, c, d, e, f, g, h, wk)                                         \
    do {                                                                          \
        words t_ = PLUS(PLUS(h, wk), PLUS(BIG_SIGMA1(e), CHOOSE(e, f, g)));       \
        d = PLUS(d, t_);                                                          \
        h = PLUS(t_, PLUS(BIG_SIGMA0(a), MAJORITY(a, b, c)));                     \
    } while (0)

/* Eight rounds bring the variables back to their places. WK(i) is the word and constant of
 * round i of these sixteen. */
#define EIGHT_ROUNDS(s, WK, i)                                              \
    do {                                                                    \
        ROUND(s.a, s.b, s.c, s.d, s.e, s.f, s.g, s.h, WK((i) + 0));         \
        ROUND(s.h, s.a, s.b, s.c, s.d, s.e, s.f, s.g, WK((i) + 1));         \
        ROUND(s.g, s.h, s.a, s.b, s.c, s.d, s.e, s.f, WK((i) + 2));         \
        ROUND(s.f, s.g, s.h, s.a, s.b, s.c, s.d, s.e, WK((i) + 3));         \
        ROUND(s.e, s.f, s.g, s.h, s.a, s.b, s.c, s.d, WK((i) + 4));         \
        ROUND(s.d, s.e, s.f, s.g, s.h, s.a, s.b, s.c, WK((i) + 5));         \
        ROUND(s.c, s.d, s.e, s.f, s.g, s.h, s.a, s.b, WK((i) + 6));         \
        ROUND(s.b, s.c, s.d, s.e, s.f, s.g, s.h, s.a, WK((i) + 7));         \
    } while (0)

/* The next word of the schedule takes the place of the word sixteen before it. */
#define NEXT(i)                                                                       \
    (w[i] = PLUS(PLUS(w[i], SMALL_SIGMA0(w[((i) + 1) % 16])),                         \
                 PLUS(w[((i) + 9) % 16], SMALL_SIGMA1(w[((i) + 14) % 16]))))

#define FIRST_WK(i) PLUS(w[i], all(k[i]))
#define NEXT_WK(i) PLUS(NEXT(i), all(k[i]))

ALWAYS_INLINE void add_chain(struct chain *s, const struct chain *before)
{
    s->a = PLUS(s->a, before->a), s->b = PLUS(s->b, before->b);
    s->c = PLUS(s->c, before->c), s->d = PLUS(s->d, before->d);
    s->e = PLUS(s->e, before->e), s->f = PLUS(s->f, before->f);
    s->g = PLUS(s->g, before->g), s->h = PLUS(s->h, before->h);
}

ALWAYS_INLINE void rounds(struct chain *chain, words w[16])
{
    const uint32_t *k = iomt_sha256_k;
    struct chain s = *chain;

    EIGHT_ROUNDS(s, FIRST_WK, 0);
    EIGHT_ROUNDS(s, FIRST_WK, 8);
    for (unsigned done = 16; done < 64; done += 16) {
        k += 16;
        EIGHT_ROUNDS(s, NEXT_WK, 0);
        EIGHT_ROUNDS(s, NEXT_WK, 8);
    }
    add_chain(chain, &s);
}

/* The same for a last block that holds no more than `first` (at most three bytes of the
 * message, and the end mark) and `bits`, the length: words 1 to 14 are zero, so these
 * rounds add only constants, and most of the schedule's first sixteen steps fall away. */
ALWAYS_INLINE void rounds_of_short_block(struct chain *chain, words first, words bits)
{
    const uint32_t *k = iomt_sha256_k;
    struct chain s = *chain;
    words w[16];

#define CONSTANT_WK(i) ((i) == 0 ? PLUS(first, all(k[0])) : all(k[i]))
    EIGHT_ROUNDS(s, CONSTANT_WK, 0);
#undef CONSTANT_WK
#define CONSTANT_WK(i) ((i) == 15 ? PLUS(bits, all(k[15])) : all(k[i]))
    EIGHT_ROUNDS(s, CONSTANT_WK, 8);
#undef CONSTANT_WK

    /* NEXT with the zeros left out. */
    w[0] = first;
    w[1] = SMALL_SIGMA1(bits);
    w[2] = SMALL_SIGMA1(w[0]);
    w[3] = SMALL_SIGMA1(w[1]);
    w[4] = SMALL_SIGMA1(w[2]);
    w[5] = SMALL_SIGMA1(w[3]);
    w[6] = PLUS(bits, SMALL_SIGMA1(w[4]));
    w[7] = PLUS(w[0], SMALL_SIGMA1(w[5]));
    w[8] = PLUS(w[1], SMALL_SIGMA1(w[6]));
    w[9] = PLUS(w[2], SMALL_SIGMA1(w[7]));
    w[10] = PLUS(w[3], SMALL_SIGMA1(w[8]));
    w[11] = PLUS(w[4], SMALL_SIGMA1(w[9]));
    w[12] = PLUS(w[5], SMALL_SIGMA1(w[10]));
    w[13] = PLUS(w[6], SMALL_SIGMA1(w[11]));
    w[14] = PLUS(PLUS(w[7], SMALL_SIGMA1(w[12])), SMALL_SIGMA0(bits));
    w[15] = PLUS(PLUS(bits, SMALL_SIGMA0(w[0])), PLUS(w[8], SMALL_SIGMA1(w[13])));
    k += 16;
    EIGHT_ROUNDS(s, FIRST_WK, 0);
    EIGHT_ROUNDS(s, FIRST_WK, 8);
    for (unsigned done = 32; done < 64; done += 16) {
        k += 16;
        EIGHT_ROUNDS(s, NEXT_WK, 0);
        EIGHT_ROUNDS(s, NEXT_WK, 8);
    }
    add_chain(chain, &s);
}

/* ---- Between memory and lanes ---- */

/* Big-endian words of each 128-bit part. */
ALWAYS_INLINE words swap_bytes(words w)
{
    return _mm512_shuffle_epi8(
        w, _mm512_broadcast_i32x4(_mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203)));
}

/* Turns 4 × 4 words over within each 128-bit part: from row r, words 4p .. 4p+3 in part p,
 * to row c, word 4p + c of the four rows. */
ALWAYS_INLINE void turn_parts(words *r)
{
    words ab_low = _mm512_unpacklo_epi32(r[0], r[1]), ab_high = _mm512_unpackhi_epi32(r[0], r[1]);
    words cd_low = _mm512_unpacklo_epi32(r[2], r[3]), cd_high = _mm512_unpackhi_epi32(r[2], r[3]);

    r[0] = _mm512_unpacklo_epi64(ab_low, cd_low);
    r[1] = _mm512_unpackhi_epi64(ab_low, cd_low);
    r[2] = _mm512_unpacklo_epi64(ab_high, cd_high);
    r[3] = _mm512_unpackhi_epi64(ab_high, cd_high);
}

/* From sixteen rows of sixteen words in memory order to sixteen words of sixteen lanes. */
ALWAYS_INLINE void turn_over(words w[16])
{
    words turned[16];

    for (unsigned i = 0; i < 16; i += 4)
        turn_parts(w + i);
    /* Now w[4r + c] holds, in part p, word 4p + c of rows 4r .. 4r+3. */
    for (unsigned c = 0; c < 4; c++) {
        words low01 = _mm512_shuffle_i32x4(w[c], w[4 + c], 0x44);
        words high01 = _mm512_shuffle_i32x4(w[c], w[4 + c], 0xee);
        words low23 = _mm512_shuffle_i32x4(w[8 + c], w[12 + c], 0x44);
        words high23 = _mm512_shuffle_i32x4(w[8 + c], w[12 + c], 0xee);

        turned[c] = swap_bytes(_mm512_shuffle_i32x4(low01, low23, 0x88));
        turned[4 + c] = swap_bytes(_mm512_shuffle_i32x4(low01, low23, 0xdd));
        turned[8 + c] = swap_bytes(_mm512_shuffle_i32x4(high01, high23, 0x88));
        turned[12 + c] = swap_bytes(_mm512_shuffle_i32x4(high01, high23, 0xdd));
    }
    for (unsigned i = 0; i < 16; i++)
        w[i] = turned[i];
}

/* The hashes of lanes 0 .. 15, two to a register: pairs[i] has those of lanes HASH_LANE(i)
 * and HASH_LANE(i) + 4. */
#define HASH_LANE(i) ((i) / 4 * 8 + (i) % 4)

ALWAYS_INLINE void hashes_of(const struct chain *s, words pairs[8])
{
    words abcd[4] = {s->a, s->b, s->c, s->d}, efgh[4] = {s->e, s->f, s->g, s->h};

    turn_parts(abcd);
    turn_parts(efgh);
    /* Now abcd[c] holds, in part p, the first four words of lane 4p + c. */
    for (unsigned c = 0; c < 4; c++) {
        words low = _mm512_shuffle_i32x4(abcd[c], efgh[c], 0x44);
        words high = _mm512_shuffle_i32x4(abcd[c], efgh[c], 0xee);

        pairs[c] = swap_bytes(_mm512_shuffle_i32x4(low, low, 0xd8));
        pairs[4 + c] = swap_bytes(_mm512_shuffle_i32x4(high, high, 0xd8));
    }
}

ALWAYS_INLINE void store_pair(words pair, uint8_t *first, uint8_t *second)
{
    _mm256_storeu_si256((__m256i *)first, _mm512_castsi512_si256(pair));
    _mm256_storeu_si256((__m256i *)second, _mm512_extracti64x4_epi64(pair, 1));
}

ALWAYS_INLINE struct chain start(void)
{
    const uint32_t *h = iomt_sha256_start;

    return (struct chain){all(h[0]), all(h[1]), all(h[2]), all(h[3]),
                          all(h[4]), all(h[5]), all(h[6]), all(h[7])};
}

/* ---- What the table offers ---- */

static void compress(uint32_t *state, const uint8_t *const *blocks, size_t count)
{
    struct chain s;
    words w[16];

    memcpy(&s, state, sizeof s);
    for (size_t at = 0; at < count * IOMT_BLOCK_SIZE; at += IOMT_BLOCK_SIZE) {
        for (unsigned i = 0; i < LANES; i++)
            w[i] = _mm512_loadu_si512(blocks[i] + at);
        turn_over(w);
        rounds(&s, w);
    }
    memcpy(state, &s, sizeof s);
    _mm256_zeroupper();
}

/* Bits 0 .. count-1, where count may be beyond either end. */
ALWAYS_INLINE __mmask64 first_bytes(ptrdiff_t count)
{
    return count <= 0 ? 0 : count >= 64 ? ~(__mmask64)0 : ((__mmask64)1 << count) - 1;
}

/* The block of a leaf that begins `at` bytes into it, padding included but for the length.
 * Its message is the prefix and the record, so its byte i is byte i - 1 of the record. */
ALWAYS_INLINE words last_blocks_row(const struct iomt_leaf *leaf, size_t at)
{
    ptrdiff_t left = (ptrdiff_t)(1 + leaf->size) - (ptrdiff_t)at;
    __mmask64 own = first_bytes(left);
    __mmask64 mark = first_bytes(left + 1) & ~own;

    if (at == 0)
        own &= ~(__mmask64)1; /* the prefix: zero, and not a byte of the record */
    return _mm512_mask_mov_epi8(_mm512_maskz_loadu_epi8(own, leaf->record - 1 + at),
                                mark, _mm512_set1_epi8((char)0x80));
}

ALWAYS_INLINE words bits_of(const struct iomt_leaf *leaf)
{
    _Alignas(64) uint32_t bits[LANES];

    for (unsigned i = 0; i < LANES; i++)
        bits[i] = (uint32_t)(1 + leaf[i].size) * 8;
    return _mm512_load_si512(bits);
}

/* Whether each last block, `at` bytes into its message, has at most three bytes of it: the
 * end mark is then in the block's first word, or in the block before. */
ALWAYS_INLINE int all_short(const struct iomt_leaf *leaf, size_t at)
{
    size_t longest = 0;

    for (unsigned i = 0; i < LANES; i++)
        longest = leaf[i].size > longest ? leaf[i].size : longest;
    return at > 0 && 1 + longest <= at + 3;
}

/* The first word of such a last block, from the record's last four bytes. */
ALWAYS_INLINE words short_words(const struct iomt_leaf *leaf, size_t at)
{
    _Alignas(64) uint32_t first[LANES];

    for (unsigned i = 0; i < LANES; i++) {
        size_t message_size = 1 + leaf[i].size;
        uint64_t last = iomt_load_be32(leaf[i].record + leaf[i].size - 4);

        /* Last bytes and mark in one, moved so far up that only what is left stays. */
        last = message_size < at ? 0 : (last << 8 | 0x80) << (8 * (3 - (message_size - at)));
        first[i] = (uint32_t)last;
    }
    return _mm512_load_si512(first);
}

static void leaves(const struct iomt_leaf *leaf, size_t blocks)
{
    struct chain s = start();
    words w[16], pairs[8];
    size_t at = 0, last = (blocks - 1) * IOMT_BLOCK_SIZE;
    int is_short = all_short(leaf, last);

    for (; at <= last; at += IOMT_BLOCK_SIZE) {
        if (at == last && is_short) {
            rounds_of_short_block(&s, short_words(leaf, at), bits_of(leaf));
            break;
        }
        /* Padding begins in the last block but one at the earliest. */
        if (at > 0 && at + IOMT_BLOCK_SIZE < last)
            for (unsigned i = 0; i < LANES; i++)
                w[i] = _mm512_loadu_si512(leaf[i].record - 1 + at);
        else
            for (unsigned i = 0; i < LANES; i++)
                w[i] = last_blocks_row(&leaf[i], at);
        turn_over(w);
        if (at == last)
            w[15] = bits_of(leaf);
        rounds(&s, w);
    }
    hashes_of(&s, pairs);
    for (unsigned i = 0; i < 8; i++)
        store_pair(pairs[i], leaf[HASH_LANE(i)].hash, leaf[HASH_LANE(i) + 4].hash);
    _mm256_zeroupper();
}

/* Sixteen parents, or the first `count`, from as many pairs of children. */
static void sixteen_nodes(const uint8_t *children, size_t count, uint8_t *parents)
{
    _Alignas(64) uint32_t last_bytes[LANES];
    uint8_t idle[IOMT_HASH_SIZE];
    struct chain s = start();
    words w[16], pairs[8];

    for (unsigned i = 0; i < LANES; i++) {
        const uint8_t *pair = children + (i < count ? i : 0) * (2 * IOMT_HASH_SIZE);

        w[i] = _mm512_maskz_loadu_epi8(~(__mmask64)1, pair - 1);
        last_bytes[i] = (uint32_t)pair[2 * IOMT_HASH_SIZE - 1] << 24 | 0x00800000;
    }
    turn_over(w);
    w[0] = _mm512_or_si512(w[0], all(0x01000000));
    rounds(&s, w);
    rounds_of_short_block(&s, _mm512_load_si512(last_bytes), all(65 * 8));
    hashes_of(&s, pairs);
    for (unsigned i = 0; i < 8; i++) {
        unsigned lane = HASH_LANE(i);

        store_pair(pairs[i], lane < count ? parents + lane * IOMT_HASH_SIZE : idle,
                   lane + 4 < count ? parents + (lane + 4) * IOMT_HASH_SIZE : idle);
    }
}

static void nodes(const uint8_t *children, size_t count, uint8_t *parents)
{
    for (; count >= LANES; count -= LANES) {
        sixteen_nodes(children, LANES, parents);
        children += LANES * 2 * IOMT_HASH_SIZE;
        parents += LANES * IOMT_HASH_SIZE;
    }
    if (count > 0)
        sixteen_nodes(children, count, parents);
    _mm256_zeroupper();
}

extern const iomt_backend iomt_backend_avx512;
const iomt_backend iomt_backend_avx512 = {
    .name = "avx512",
    .needs = IOMT_CPU_AVX512,
    .lanes = LANES,
    .fewest = 4,
    .compress = compress,
    .compress_one = iomt_compress_portable,
    .nodes = nodes,
    .leaves = leaves,
};

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
