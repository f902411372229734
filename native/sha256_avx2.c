/* SHA-256 of eight messages side by side in the 32-bit lanes of AVX2 registers.
 *
 * Register w of a block holds word w of all eight messages, so every operation of FIPS 180-4
 * is done for all of them at once. There is no rotation and no three-input logic as in
 * AVX-512: a round is about 35 instructions. Sixteen registers hold the chaining values and what a
 * round needs; the words of the block live in the first cache. */
#include "backend.h"

#if defined(IOMT_X86)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#else
#pragma GCC target("avx2")
#endif

#include "edges.h"

#include <immintrin.h>

#define LANES 8
#define ALWAYS_INLINE static inline __attribute__((always_inline))

typedef __m256i words; /* the same word of eight messages */

#define PLUS(x, y) _mm256_add_epi32(x, y)
#define XOR(x, y) _mm256_xor_si256(x, y)
#define XOR3(x, y, z) XOR(XOR(x, y), z)
#define CHOOSE(x, y, z) XOR(z, _mm256_and_si256(x, XOR(y, z)))

#define DOWN(x, bits) _mm256_srli_epi32(x, bits)
#define ROTATE(x, bits) XOR(DOWN(x, bits), _mm256_slli_epi32(x, 32 - (bits)))
#define BIG_SIGMA0(x) XOR3(ROTATE(x, 2), ROTATE(x, 13), ROTATE(x, 22))
#define BIG_SIGMA1(x) XOR3(ROTATE(x, 6), ROTATE(x, 11), ROTATE(x, 25))
#define SMALL_SIGMA0(x) XOR3(ROTATE(x, 7), ROTATE(x, 18), DOWN(x, 3))
#define SMALL_SIGMA1(x) XOR3(ROTATE(x, 17), ROTATE(x, 19), DOWN(x, 10))

struct chain {
    words a, b, c, d, e, f, g, h;
};

ALWAYS_INLINE words all(uint32_t word)
{
    return _mm256_set1_epi32((int)word);
}

/* One round with `wk` = message word + constant. The variables do not move, the caller
 * renames them. The majority of a, b and c is b, unless a differs from b and b from c; b ^ c
 * is kept in `bc`, being a ^ b of the round before. */
#define ROUND(a, b, c, d, e, f, g, h, wk)                                       \
    do {                                                                        \
        words t_ = PLUS(PLUS(h, wk), PLUS(BIG_SIGMA1(e), CHOOSE(e, f, g)));     \
        words ab_ = XOR(a, b);                                                  \
        d = PLUS(d, t_);                                                        \
        h = PLUS(t_, PLUS(BIG_SIGMA0(a), XOR(b, _mm256_and_si256(ab_, bc))));   \
        bc = ab_;                                                               \
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
    words bc = XOR(s.b, s.c);

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
    words bc = XOR(s.b, s.c);
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

/* Big-endian words of each 128-bit half. */
ALWAYS_INLINE words swap_bytes(words w)
{
    return _mm256_shuffle_epi8(
        w, _mm256_broadcastsi128_si256(_mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203)));
}

/* Turns 4 × 4 words over within each half: from row r, words 4p .. 4p+3 in half p, to row c,
 * word 4p + c of the four rows. */
ALWAYS_INLINE void turn_halves(words *r)
{
    words ab_low = _mm256_unpacklo_epi32(r[0], r[1]), ab_high = _mm256_unpackhi_epi32(r[0], r[1]);
    words cd_low = _mm256_unpacklo_epi32(r[2], r[3]), cd_high = _mm256_unpackhi_epi32(r[2], r[3]);

    r[0] = _mm256_unpacklo_epi64(ab_low, cd_low);
    r[1] = _mm256_unpackhi_epi64(ab_low, cd_low);
    r[2] = _mm256_unpacklo_epi64(ab_high, cd_high);
    r[3] = _mm256_unpackhi_epi64(ab_high, cd_high);
}

/* From eight rows of eight words in memory order to eight words of eight lanes. */
ALWAYS_INLINE void turn_over(words r[8])
{
    turn_halves(r);
    turn_halves(r + 4);
    for (unsigned c = 0; c < 4; c++) {
        words first = r[c], second = r[4 + c];

        r[c] = swap_bytes(_mm256_permute2x128_si256(first, second, 0x20));
        r[4 + c] = swap_bytes(_mm256_permute2x128_si256(first, second, 0x31));
    }
}

ALWAYS_INLINE words load(const uint8_t *from)
{
    return _mm256_loadu_si256((const __m256i *)from);
}

/* Half a block, 32 bytes, of each message. */
ALWAYS_INLINE void load_half(words w[8], const uint8_t *const *blocks, size_t at)
{
    for (unsigned i = 0; i < LANES; i++)
        w[i] = load(blocks[i] + at);
    turn_over(w);
}

ALWAYS_INLINE struct chain start(void)
{
    const uint32_t *h = iomt_sha256_start;

    return (struct chain){all(h[0]), all(h[1]), all(h[2]), all(h[3]),
                          all(h[4]), all(h[5]), all(h[6]), all(h[7])};
}

/* The hash of lane i in hashes[i]: the words of the chain are eight rows to turn over. */
ALWAYS_INLINE void hashes_of(const struct chain *s, words hashes[8])
{
    memcpy(hashes, s, 8 * sizeof hashes[0]);
    turn_over(hashes);
}

/* ---- What the table offers ---- */

static void compress(uint32_t *state, const uint8_t *const *blocks, size_t count)
{
    struct chain s;
    words w[16];

    memcpy(&s, state, sizeof s);
    for (size_t at = 0; at < count * IOMT_BLOCK_SIZE; at += IOMT_BLOCK_SIZE) {
        load_half(w, blocks, at);
        load_half(w + 8, blocks, at + 32);
        rounds(&s, w);
    }
    memcpy(state, &s, sizeof s);
    _mm256_zeroupper();
}

static void leaves(const struct iomt_leaf *leaf, size_t blocks)
{
    struct iomt_edges edges[LANES];
    struct chain s = start();
    words w[16], hashes[8];

    for (unsigned i = 0; i < LANES; i++) {
        iomt_build_tail(&edges[i], &leaf[i]);
        iomt_build_head(&edges[i]);
    }
    for (size_t b = 0; b < blocks; b++) {
        const uint8_t *at[LANES];

        for (unsigned i = 0; i < LANES; i++)
            at[i] = iomt_leaf_block(&edges[i], b);
        load_half(w, at, 0);
        load_half(w + 8, at, 32);
        rounds(&s, w);
    }
    hashes_of(&s, hashes);
    for (unsigned i = 0; i < LANES; i++)
        _mm256_storeu_si256((__m256i *)leaf[i].hash, hashes[i]);
    _mm256_zeroupper();
}

/* 31 bytes moved up by one, so that the byte before `from` need not be read. */
ALWAYS_INLINE words load_after_prefix(const uint8_t *from)
{
    words bytes = load(from), lower = _mm256_permute2x128_si256(bytes, bytes, 0x08);

    return _mm256_alignr_epi8(bytes, lower, 15);
}

/* Eight parents, or the first `count`, from as many pairs of children. */
static void eight_nodes(const uint8_t *children, size_t count, uint8_t *parents)
{
    _Alignas(32) uint32_t last_bytes[LANES];
    struct chain s = start();
    words w[16], hashes[8];

    for (unsigned i = 0; i < LANES; i++) {
        const uint8_t *pair = children + (i < count ? i : 0) * (2 * IOMT_HASH_SIZE);

        w[i] = load_after_prefix(pair);
        w[8 + i] = load(pair + 31);
        last_bytes[i] = (uint32_t)pair[2 * IOMT_HASH_SIZE - 1] << 24 | 0x00800000;
    }
    turn_over(w);
    turn_over(w + 8);
    w[0] = _mm256_or_si256(w[0], all(0x01000000));
    rounds(&s, w);
    rounds_of_short_block(&s, _mm256_load_si256((const __m256i *)last_bytes), all(65 * 8));
    hashes_of(&s, hashes);
    for (unsigned i = 0; i < count; i++)
        _mm256_storeu_si256((__m256i *)(parents + i * IOMT_HASH_SIZE), hashes[i]);
}

static void nodes(const uint8_t *children, size_t count, uint8_t *parents)
{
    for (; count >= LANES; count -= LANES) {
        eight_nodes(children, LANES, parents);
        children += LANES * 2 * IOMT_HASH_SIZE;
        parents += LANES * IOMT_HASH_SIZE;
    }
    if (count > 0)
        eight_nodes(children, count, parents);
    _mm256_zeroupper();
}

extern const iomt_backend iomt_backend_avx2;
const iomt_backend iomt_backend_avx2 = {
    .name = "avx2",
    .needs = IOMT_CPU_AVX2,
    .lanes = LANES,
    .fewest = 3,
    .compress = compress,
    .compress_one = iomt_compress_portable,
    .nodes = nodes,
    .leaves = leaves,
};

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
