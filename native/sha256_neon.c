/* SHA-256 of four messages side by side, a word of each in one NEON register; and of five,
 * the fifth in the integer unit, which has little else to do meanwhile. For CPUs without
 * SHA-256 instructions: the Raspberry Pi 4 and older. Which of the two is faster depends
 * on the core, so both are in the table.
 *
 * Everything here is unrolled: where a function takes `i`, it is a constant once the
 * function is inlined, and arrays become registers. The same holds for `has_fifth`: without
 * a fifth message nothing is left of it. */
#include "backend.h"

#if defined(IOMT_ARM64)

#include "edges.h"

#include <arm_neon.h>

/* The sums below are written so that what comes late is added last; GCC would put them in
 * another order, which models as a tenth more cycles. */
#if !defined(__clang__)
#pragma GCC optimize("no-tree-reassoc")
#endif

#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* Each constant four times: loading a whole register costs the NEON units nothing, and
 * copying one word to four places costs them as much as an addition. */
#define FOUR(k) k, k, k, k
static const uint32_t k_four[64 * 4] = {
    FOUR(0x428a2f98), FOUR(0x71374491), FOUR(0xb5c0fbcf), FOUR(0xe9b5dba5),
    FOUR(0x3956c25b), FOUR(0x59f111f1), FOUR(0x923f82a4), FOUR(0xab1c5ed5),
    FOUR(0xd807aa98), FOUR(0x12835b01), FOUR(0x243185be), FOUR(0x550c7dc3),
    FOUR(0x72be5d74), FOUR(0x80deb1fe), FOUR(0x9bdc06a7), FOUR(0xc19bf174),
    FOUR(0xe49b69c1), FOUR(0xefbe4786), FOUR(0x0fc19dc6), FOUR(0x240ca1cc),
    FOUR(0x2de92c6f), FOUR(0x4a7484aa), FOUR(0x5cb0a9dc), FOUR(0x76f988da),
    FOUR(0x983e5152), FOUR(0xa831c66d), FOUR(0xb00327c8), FOUR(0xbf597fc7),
    FOUR(0xc6e00bf3), FOUR(0xd5a79147), FOUR(0x06ca6351), FOUR(0x14292967),
    FOUR(0x27b70a85), FOUR(0x2e1b2138), FOUR(0x4d2c6dfc), FOUR(0x53380d13),
    FOUR(0x650a7354), FOUR(0x766a0abb), FOUR(0x81c2c92e), FOUR(0x92722c85),
    FOUR(0xa2bfe8a1), FOUR(0xa81a664b), FOUR(0xc24b8b70), FOUR(0xc76c51a3),
    FOUR(0xd192e819), FOUR(0xd6990624), FOUR(0xf40e3585), FOUR(0x106aa070),
    FOUR(0x19a4c116), FOUR(0x1e376c08), FOUR(0x2748774c), FOUR(0x34b0bcb5),
    FOUR(0x391c0cb3), FOUR(0x4ed8aa4a), FOUR(0x5b9cca4f), FOUR(0x682e6ff3),
    FOUR(0x748f82ee), FOUR(0x78a5636f), FOUR(0x84c87814), FOUR(0x8cc70208),
    FOUR(0x90befffa), FOUR(0xa4506ceb), FOUR(0xbef9a3f7), FOUR(0xc67178f2),
};

/* The chaining values, and sixteen words of the message schedules. Neither moves: in round
 * i, word a stands at index (0 - i) & 7, b after it, and the schedule goes round. */
struct chains {
    uint32x4_t four[8];
    uint32_t fifth[8];
};

struct words {
    uint32x4_t four[16];
    uint32_t fifth[16];
};

/* Two NEON instructions: the second shifts and inserts. */
#define ROTATE_FOUR(x, bits) vsriq_n_u32(vshlq_n_u32((x), 32 - (bits)), (x), (bits))
#define ROTATE_ONE(x, bits) ((x) >> (bits) | (x) << (32 - (bits)))

/* FIPS 180-4 section 4.1.2, for vectors and for words. */
#define BIG_SIGMA0(rotate, x) (rotate(x, 2) ^ rotate(x, 13) ^ rotate(x, 22))
#define BIG_SIGMA1(rotate, x) (rotate(x, 6) ^ rotate(x, 11) ^ rotate(x, 25))
#define SMALL_SIGMA0(rotate, x) (rotate(x, 7) ^ rotate(x, 18) ^ (x) >> 3)
#define SMALL_SIGMA1(rotate, x) (rotate(x, 17) ^ rotate(x, 19) ^ (x) >> 10)

/* vbsl takes bits of its second argument where the first has ones. Ch is f where e has ones
 * and g elsewhere; Maj is b, where a and b agree, and c elsewhere. */
ALWAYS_INLINE void round_of_four(uint32x4_t v[8], uint32x4_t word, const uint32_t *k, unsigned i)
{
    uint32x4_t a = v[(0 - i) & 7], b = v[(1 - i) & 7], c = v[(2 - i) & 7], d = v[(3 - i) & 7];
    uint32x4_t e = v[(4 - i) & 7], f = v[(5 - i) & 7], g = v[(6 - i) & 7], h = v[(7 - i) & 7];
    uint32x4_t t = h + (word + vld1q_u32(k)) + vbslq_u32(e, f, g) + BIG_SIGMA1(ROTATE_FOUR, e);

    v[(3 - i) & 7] = d + t;
    v[(7 - i) & 7] = t + vbslq_u32(a ^ b, c, b) + BIG_SIGMA0(ROTATE_FOUR, a);
}

/* Maj is b, unless a differs from b and b from c; the compiler sees that b ^ c was a ^ b in
 * the round before. */
ALWAYS_INLINE void round_of_one(uint32_t v[8], uint32_t word, uint32_t k, unsigned i)
{
    uint32_t a = v[(0 - i) & 7], b = v[(1 - i) & 7], c = v[(2 - i) & 7], d = v[(3 - i) & 7];
    uint32_t e = v[(4 - i) & 7], f = v[(5 - i) & 7], g = v[(6 - i) & 7], h = v[(7 - i) & 7];
    uint32_t t = h + BIG_SIGMA1(ROTATE_ONE, e) + (g ^ (e & (f ^ g))) + k + word;

    v[(3 - i) & 7] = d + t;
    v[(7 - i) & 7] = t + BIG_SIGMA0(ROTATE_ONE, a) + (b ^ ((a ^ b) & (b ^ c)));
}

ALWAYS_INLINE void round_of_all(struct chains *s, const struct words *w, unsigned done, unsigned i,
                                int has_fifth)
{
    round_of_four(s->four, w->four[i], k_four + 4 * (done + i), i);
    if (has_fifth)
        round_of_one(s->fifth, w->fifth[i], iomt_sha256_k[done + i], i);
}

/* Rounds done + i to done + i + 7. */
ALWAYS_INLINE void eight_rounds(struct chains *s, const struct words *w, unsigned done, unsigned i,
                                int has_fifth)
{
    round_of_all(s, w, done, i, has_fifth);
    round_of_all(s, w, done, i + 1, has_fifth);
    round_of_all(s, w, done, i + 2, has_fifth);
    round_of_all(s, w, done, i + 3, has_fifth);
    round_of_all(s, w, done, i + 4, has_fifth);
    round_of_all(s, w, done, i + 5, has_fifth);
    round_of_all(s, w, done, i + 6, has_fifth);
    round_of_all(s, w, done, i + 7, has_fifth);
}

/* The next word of the schedule, in place of the one sixteen before. */
ALWAYS_INLINE void next_of_four(uint32x4_t w[16], unsigned i)
{
    uint32x4_t before = w[(i + 14) & 15], after = w[(i + 1) & 15];

    w[i] = w[i] + SMALL_SIGMA0(ROTATE_FOUR, after) +
           (w[(i + 9) & 15] + SMALL_SIGMA1(ROTATE_FOUR, before));
}

ALWAYS_INLINE void next_of_one(uint32_t w[16], unsigned i)
{
    uint32_t before = w[(i + 14) & 15], after = w[(i + 1) & 15];

    w[i] += SMALL_SIGMA1(ROTATE_ONE, before) + w[(i + 9) & 15] + SMALL_SIGMA0(ROTATE_ONE, after);
}

ALWAYS_INLINE void next_of_all(struct words *w, unsigned i, int has_fifth)
{
    next_of_four(w->four, i);
    if (has_fifth)
        next_of_one(w->fifth, i);
}

ALWAYS_INLINE void eight_words(struct words *w, unsigned i, int has_fifth)
{
    next_of_all(w, i, has_fifth), next_of_all(w, i + 1, has_fifth);
    next_of_all(w, i + 2, has_fifth), next_of_all(w, i + 3, has_fifth);
    next_of_all(w, i + 4, has_fifth), next_of_all(w, i + 5, has_fifth);
    next_of_all(w, i + 6, has_fifth), next_of_all(w, i + 7, has_fifth);
}

ALWAYS_INLINE void add_chains(struct chains *s, const struct chains *before, int has_fifth)
{
    for (unsigned i = 0; i < 8; i++) {
        s->four[i] += before->four[i];
        if (has_fifth)
            s->fifth[i] += before->fifth[i];
    }
}

ALWAYS_INLINE void rounds_from(unsigned done, struct chains *s, struct words *w, int has_fifth)
{
    for (; done < 64; done += 16) {
        eight_words(w, 0, has_fifth);
        eight_rounds(s, w, done, 0, has_fifth);
        eight_words(w, 8, has_fifth);
        eight_rounds(s, w, done, 8, has_fifth);
    }
}

ALWAYS_INLINE void compress_block(struct chains *s, struct words *w, int has_fifth)
{
    const struct chains before = *s;

    eight_rounds(s, w, 0, 0, has_fifth);
    eight_rounds(s, w, 0, 8, has_fifth);
    rounds_from(16, s, w, has_fifth);
    add_chains(s, &before, has_fifth);
}

/* Four rows of four words become four columns. */
ALWAYS_INLINE void transpose(uint32x4_t r[4])
{
    uint32x4_t low = vtrn1q_u32(r[0], r[1]), high = vtrn1q_u32(r[2], r[3]);
    uint32x4_t low2 = vtrn2q_u32(r[0], r[1]), high2 = vtrn2q_u32(r[2], r[3]);

#define HALVES(trn, x, y) \
    vreinterpretq_u32_u64(trn(vreinterpretq_u64_u32(x), vreinterpretq_u64_u32(y)))
    r[0] = HALVES(vtrn1q_u64, low, high), r[1] = HALVES(vtrn1q_u64, low2, high2);
    r[2] = HALVES(vtrn2q_u64, low, high), r[3] = HALVES(vtrn2q_u64, low2, high2);
}

ALWAYS_INLINE uint32x4_t swap_bytes(uint8x16_t bytes)
{
    return vreinterpretq_u32_u8(vrev32q_u8(bytes));
}

ALWAYS_INLINE void load_block(struct words *w, const uint8_t *const *blocks, size_t at,
                              int has_fifth)
{
    for (unsigned i = 0; i < 4; i++) {
        for (unsigned m = 0; m < 4; m++)
            w->four[4 * i + m] = swap_bytes(vld1q_u8(blocks[m] + at + 16 * i));
        transpose(w->four + 4 * i);
    }
    for (unsigned i = 0; has_fifth && i < 16; i++)
        w->fifth[i] = iomt_load_be32(blocks[4] + at + 4 * i);
}

ALWAYS_INLINE void start(struct chains *s)
{
    for (unsigned i = 0; i < 8; i++) {
        s->four[i] = vdupq_n_u32(iomt_sha256_start[i]);
        s->fifth[i] = iomt_sha256_start[i];
    }
}

ALWAYS_INLINE void store_hashes(uint8_t *const *hashes, struct chains *s, int has_fifth)
{
    transpose(s->four);
    transpose(s->four + 4);
    for (unsigned m = 0; m < 4; m++) {
        vst1q_u8(hashes[m], vrev32q_u8(vreinterpretq_u8_u32(s->four[m])));
        vst1q_u8(hashes[m] + 16, vrev32q_u8(vreinterpretq_u8_u32(s->four[4 + m])));
    }
    for (unsigned i = 0; has_fifth && i < 8; i++)
        iomt_store_be32(hashes[4] + 4 * i, s->fifth[i]);
}

ALWAYS_INLINE void compress(uint32_t *state, const uint8_t *const *blocks, size_t count,
                            int has_fifth)
{
    const unsigned lanes = has_fifth ? 5 : 4;
    struct chains s;
    struct words w;

    for (unsigned i = 0; i < 8; i++) {
        s.four[i] = vld1q_u32(state + lanes * i);
        s.fifth[i] = has_fifth ? state[lanes * i + 4] : 0;
    }
    for (size_t at = 0; at < count * IOMT_BLOCK_SIZE; at += IOMT_BLOCK_SIZE) {
        load_block(&w, blocks, at, has_fifth);
        compress_block(&s, &w, has_fifth);
    }
    for (unsigned i = 0; i < 8; i++) {
        vst1q_u32(state + lanes * i, s.four[i]);
        if (has_fifth)
            state[lanes * i + 4] = s.fifth[i];
    }
}

/* ---- Messages of 65 bytes: nodes, and leaves of 64 bytes, which are common ---- */

#define NODE_PREFIX 0x01
#define PAIR_SIZE (2 * IOMT_HASH_SIZE)
#define BITS_OF_65 (65 * 8)

/* A prefix and the first 63 bytes, all moved up by one; no byte before them is read. */
ALWAYS_INLINE void first_block_of_65(struct words *w, uint8_t prefix,
                                     const uint8_t *const *bytes, int has_fifth)
{
    for (unsigned m = 0; m < 4; m++)
        w->four[m] = swap_bytes(vextq_u8(vdupq_n_u8(prefix), vld1q_u8(bytes[m]), 15));
    transpose(w->four);
    for (unsigned i = 1; i < 4; i++) {
        for (unsigned m = 0; m < 4; m++)
            w->four[4 * i + m] = swap_bytes(vld1q_u8(bytes[m] + 16 * i - 1));
        transpose(w->four + 4 * i);
    }
    if (has_fifth) {
        w->fifth[0] = (uint32_t)prefix << 24 | iomt_load_be32(bytes[4]) >> 8;
        for (unsigned i = 1; i < 16; i++)
            w->fifth[i] = iomt_load_be32(bytes[4] + 4 * i - 1);
    }
}

/* The second block is the last byte, the end mark, words of zero, and the length in bits. */
ALWAYS_INLINE void second_block_of_65(struct words *w, const uint8_t *const *bytes, int has_fifth)
{
    uint32_t first[5] = {0};

    for (unsigned m = 0; m < (has_fifth ? 5 : 4); m++)
        first[m] = (uint32_t)bytes[m][64 - 1] << 24 | 0x00800000;
    w->four[0] = vld1q_u32(first);
    w->fifth[0] = first[4];
    for (unsigned i = 1; i < 15; i++) {
        w->four[i] = vdupq_n_u32(0);
        w->fifth[i] = 0;
    }
    w->four[15] = vdupq_n_u32(BITS_OF_65);
    w->fifth[15] = BITS_OF_65;
}

/* Words 16 to 31 of that block, with what is zero left out. The compiler does this for the
 * fifth message, but does not know what a shift with insertion gives. */
ALWAYS_INLINE void second_sixteen_of_four(uint32x4_t w[16])
{
    const uint32_t w17 = SMALL_SIGMA1(ROTATE_ONE, (uint32_t)BITS_OF_65);
    const uint32_t w19 = SMALL_SIGMA1(ROTATE_ONE, w17), w21 = SMALL_SIGMA1(ROTATE_ONE, w19);

    w[1] = vdupq_n_u32(w17);
    w[2] = SMALL_SIGMA1(ROTATE_FOUR, w[0]); /* w[0], word 16, is as word 0 */
    w[3] = vdupq_n_u32(w19);
    w[4] = SMALL_SIGMA1(ROTATE_FOUR, w[2]);
    w[5] = vdupq_n_u32(w21);
    w[6] = SMALL_SIGMA1(ROTATE_FOUR, w[4]) + w[15];
    w[7] = w[0] + SMALL_SIGMA1(ROTATE_ONE, w21);
    for (unsigned i = 8; i < 14; i++)
        w[i] = w[i - 7] + SMALL_SIGMA1(ROTATE_FOUR, w[i - 2]);
    w[14] = w[7] + SMALL_SIGMA1(ROTATE_FOUR, w[12]) +
            SMALL_SIGMA0(ROTATE_ONE, (uint32_t)BITS_OF_65);
    w[15] += w[8] + SMALL_SIGMA1(ROTATE_FOUR, w[13]) + SMALL_SIGMA0(ROTATE_FOUR, w[0]);
}

ALWAYS_INLINE void second_sixteen_of_one(uint32_t w[16])
{
    next_of_one(w, 0), next_of_one(w, 1), next_of_one(w, 2), next_of_one(w, 3);
    next_of_one(w, 4), next_of_one(w, 5), next_of_one(w, 6), next_of_one(w, 7);
    next_of_one(w, 8), next_of_one(w, 9), next_of_one(w, 10), next_of_one(w, 11);
    next_of_one(w, 12), next_of_one(w, 13), next_of_one(w, 14), next_of_one(w, 15);
}

ALWAYS_INLINE void hash_65(uint8_t prefix, const uint8_t *const *bytes, uint8_t *const *hashes,
                           int has_fifth)
{
    struct chains s, before;
    struct words w;

    start(&s);
    first_block_of_65(&w, prefix, bytes, has_fifth);
    compress_block(&s, &w, has_fifth);
    before = s;
    second_block_of_65(&w, bytes, has_fifth);
    eight_rounds(&s, &w, 0, 0, has_fifth);
    eight_rounds(&s, &w, 0, 8, has_fifth);
    second_sixteen_of_four(w.four);
    if (has_fifth)
        second_sixteen_of_one(w.fifth);
    eight_rounds(&s, &w, 16, 0, has_fifth);
    eight_rounds(&s, &w, 16, 8, has_fifth);
    rounds_from(32, &s, &w, has_fifth);
    add_chains(&s, &before, has_fifth);
    store_hashes(hashes, &s, has_fifth);
}

/* ---- The two backends: four messages, and five ---- */

#define FEWEST 3 /* one by one, fewer take less time */

extern const iomt_backend iomt_backend_portable;

/* Idle lanes repeat the first pair, for nobody to see. */
ALWAYS_INLINE void nodes(const uint8_t *children, size_t count, uint8_t *parents, size_t lanes,
                         void (*hash_group)(uint8_t, const uint8_t *const *, uint8_t *const *))
{
    while (count >= FEWEST) {
        size_t busy = count < lanes ? count : lanes;
        const uint8_t *bytes[5];
        uint8_t *hashes[5], unseen[IOMT_HASH_SIZE];

        for (size_t i = 0; i < lanes; i++) {
            bytes[i] = children + (i < busy ? i : 0) * PAIR_SIZE;
            hashes[i] = i < busy ? parents + i * IOMT_HASH_SIZE : unseen;
        }
        hash_group(NODE_PREFIX, bytes, hashes);
        count -= busy;
        children += busy * PAIR_SIZE;
        parents += busy * IOMT_HASH_SIZE;
    }
    if (count > 0)
        iomt_backend_portable.nodes(children, count, parents);
}

ALWAYS_INLINE void leaves(const struct iomt_leaf *leaf, size_t blocks, int has_fifth,
                          void (*hash_group)(uint8_t, const uint8_t *const *, uint8_t *const *))
{
    const unsigned lanes = has_fifth ? 5 : 4;
    struct iomt_edges edges[5];
    const uint8_t *at[5];
    uint8_t *hashes[5];
    struct chains s;
    struct words w;
    unsigned are_64 = 0;

    for (unsigned i = 0; i < lanes; i++) {
        at[i] = leaf[i].record;
        hashes[i] = leaf[i].hash;
        are_64 += leaf[i].size == 64;
    }
    if (are_64 == lanes) {
        hash_group(IOMT_LEAF_PREFIX, at, hashes);
        return;
    }
    for (unsigned i = 0; i < lanes; i++) {
        iomt_build_tail(&edges[i], &leaf[i]);
        iomt_build_head(&edges[i]);
    }
    start(&s);
    for (size_t b = 0; b < blocks; b++) {
        for (unsigned i = 0; i < lanes; i++)
            at[i] = iomt_leaf_block(&edges[i], b);
        load_block(&w, at, 0, has_fifth);
        compress_block(&s, &w, has_fifth);
    }
    store_hashes(hashes, &s, has_fifth);
}

/* Functions on their own, so that each stands once in the program. */

static void four_of_65(uint8_t prefix, const uint8_t *const *bytes, uint8_t *const *hashes)
{
    hash_65(prefix, bytes, hashes, 0);
}

static void five_of_65(uint8_t prefix, const uint8_t *const *bytes, uint8_t *const *hashes)
{
    hash_65(prefix, bytes, hashes, 1);
}

static void compress_four(uint32_t *state, const uint8_t *const *blocks, size_t count)
{
    compress(state, blocks, count, 0);
}

static void compress_five(uint32_t *state, const uint8_t *const *blocks, size_t count)
{
    compress(state, blocks, count, 1);
}

static void nodes_by_four(const uint8_t *children, size_t count, uint8_t *parents)
{
    nodes(children, count, parents, 4, four_of_65);
}

static void nodes_by_five(const uint8_t *children, size_t count, uint8_t *parents)
{
    nodes(children, count, parents, 5, five_of_65);
}

static void leaves_by_four(const struct iomt_leaf *leaf, size_t blocks)
{
    leaves(leaf, blocks, 0, four_of_65);
}

static void leaves_by_five(const struct iomt_leaf *leaf, size_t blocks)
{
    leaves(leaf, blocks, 1, five_of_65);
}

extern const iomt_backend iomt_backend_neon;
const iomt_backend iomt_backend_neon = {
    .name = "neon",
    .needs = IOMT_CPU_NEON,
    .lanes = 4,
    .fewest = FEWEST,
    .compress = compress_four,
    .compress_one = iomt_compress_portable,
    .nodes = nodes_by_four,
    .leaves = leaves_by_four,
};

extern const iomt_backend iomt_backend_neon5;
const iomt_backend iomt_backend_neon5 = {
    .name = "neon-5",
    .needs = IOMT_CPU_NEON,
    .lanes = 5,
    .fewest = FEWEST,
    .compress = compress_five,
    .compress_one = iomt_compress_portable,
    .nodes = nodes_by_five,
    .leaves = leaves_by_five,
};

#endif
