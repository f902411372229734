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

#include "bytes.h"

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
ALWAYS_INLINE void next_word(struct words *w, unsigned i, int has_fifth)
{
    uint32x4_t before = w->four[(i + 14) & 15], after = w->four[(i + 1) & 15];

    w->four[i] = w->four[i] + SMALL_SIGMA0(ROTATE_FOUR, after) +
                 (w->four[(i + 9) & 15] + SMALL_SIGMA1(ROTATE_FOUR, before));
    if (has_fifth) {
        uint32_t one_before = w->fifth[(i + 14) & 15], one_after = w->fifth[(i + 1) & 15];

        w->fifth[i] += SMALL_SIGMA1(ROTATE_ONE, one_before) + w->fifth[(i + 9) & 15] +
                       SMALL_SIGMA0(ROTATE_ONE, one_after);
    }
}

ALWAYS_INLINE void eight_words(struct words *w, unsigned i, int has_fifth)
{
    next_word(w, i, has_fifth), next_word(w, i + 1, has_fifth);
    next_word(w, i + 2, has_fifth), next_word(w, i + 3, has_fifth);
    next_word(w, i + 4, has_fifth), next_word(w, i + 5, has_fifth);
    next_word(w, i + 6, has_fifth), next_word(w, i + 7, has_fifth);
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

/* ---- Whole messages ---- */

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
        for (unsigned i = 0; i < 4; i++) {
            for (unsigned m = 0; m < 4; m++)
                w.four[4 * i + m] = swap_bytes(vld1q_u8(blocks[m] + at + 16 * i));
            transpose(w.four + 4 * i);
        }
        for (unsigned i = 0; has_fifth && i < 16; i++)
            w.fifth[i] = iomt_load_be32(blocks[4] + at + 4 * i);
        compress_block(&s, &w, has_fifth);
    }
    for (unsigned i = 0; i < 8; i++) {
        vst1q_u32(state + lanes * i, s.four[i]);
        if (has_fifth)
            state[lanes * i + 4] = s.fifth[i];
    }
}

static void compress_four(uint32_t *state, const uint8_t *const *blocks, size_t count)
{
    compress(state, blocks, count, 0);
}

static void compress_five(uint32_t *state, const uint8_t *const *blocks, size_t count)
{
    compress(state, blocks, count, 1);
}

/* One message alone gains nothing from lanes. */
extern const iomt_backend iomt_backend_portable;

static void compress_one(uint32_t state[8], const uint8_t *blocks, size_t count)
{
    iomt_backend_portable.compress_one(state, blocks, count);
}

/* ---- Nodes ---- */

#define NODE_BITS (65 * 8)
#define PAIR_SIZE (2 * IOMT_HASH_SIZE)

/* A node is 0x01 and 64 bytes of children. Its first block holds 63 of them, shifted by one
 * byte; no byte before `children` is read. */
ALWAYS_INLINE void node_first_block(struct words *w, const uint8_t *children, int has_fifth)
{
    const uint8x16_t prefix = vdupq_n_u8(0x01);

    for (unsigned m = 0; m < 4; m++)
        w->four[m] = swap_bytes(vextq_u8(prefix, vld1q_u8(children + PAIR_SIZE * m), 15));
    transpose(w->four);
    for (unsigned i = 1; i < 4; i++) {
        for (unsigned m = 0; m < 4; m++)
            w->four[4 * i + m] = swap_bytes(vld1q_u8(children + PAIR_SIZE * m + 16 * i - 1));
        transpose(w->four + 4 * i);
    }
    if (has_fifth) {
        const uint8_t *fifth = children + 4 * PAIR_SIZE;

        w->fifth[0] = 0x01000000 | iomt_load_be32(fifth) >> 8;
        for (unsigned i = 1; i < 16; i++)
            w->fifth[i] = iomt_load_be32(fifth + 4 * i - 1);
    }
}

/* The second block is the last byte, the end mark, words of zero, and the length in bits. */
ALWAYS_INLINE void node_second_block(struct words *w, const uint8_t *children, int has_fifth)
{
    uint32_t first[5] = {0};

    for (unsigned m = 0; m < (has_fifth ? 5 : 4); m++)
        first[m] = (uint32_t)children[PAIR_SIZE * m + 63] << 24 | 0x00800000;
    w->four[0] = vld1q_u32(first);
    w->fifth[0] = first[4];
    for (unsigned i = 1; i < 15; i++) {
        w->four[i] = vdupq_n_u32(0);
        w->fifth[i] = 0;
    }
    w->four[15] = vdupq_n_u32(NODE_BITS);
    w->fifth[15] = NODE_BITS;
}

/* Words 16 to 31 of that block, with what is zero left out. The compiler does this for the
 * fifth message, but does not know what a shift with insertion gives. */
ALWAYS_INLINE void node_words_of_four(uint32x4_t w[16])
{
    const uint32_t w17 = SMALL_SIGMA1(ROTATE_ONE, (uint32_t)NODE_BITS);
    const uint32_t w19 = SMALL_SIGMA1(ROTATE_ONE, w17), w21 = SMALL_SIGMA1(ROTATE_ONE, w19);
    const uint32_t sigma0_of_15 = SMALL_SIGMA0(ROTATE_ONE, (uint32_t)NODE_BITS);

    w[1] = vdupq_n_u32(w17);
    w[2] = SMALL_SIGMA1(ROTATE_FOUR, w[0]); /* w[0], word 16, is as word 0 */
    w[3] = vdupq_n_u32(w19);
    w[4] = SMALL_SIGMA1(ROTATE_FOUR, w[2]);
    w[5] = vdupq_n_u32(w21);
    w[6] = SMALL_SIGMA1(ROTATE_FOUR, w[4]) + w[15];
    w[7] = w[0] + SMALL_SIGMA1(ROTATE_ONE, w21);
    for (unsigned i = 8; i < 14; i++)
        w[i] = w[i - 7] + SMALL_SIGMA1(ROTATE_FOUR, w[i - 2]);
    w[14] = w[7] + SMALL_SIGMA1(ROTATE_FOUR, w[12]) + sigma0_of_15;
    w[15] += w[8] + SMALL_SIGMA1(ROTATE_FOUR, w[13]) + SMALL_SIGMA0(ROTATE_FOUR, w[0]);
}

ALWAYS_INLINE void node_words_of_one(uint32_t w[16])
{
    for (unsigned i = 0; i < 16; i++)
        w[i] += SMALL_SIGMA1(ROTATE_ONE, w[(i + 14) & 15]) + w[(i + 9) & 15] +
                SMALL_SIGMA0(ROTATE_ONE, w[(i + 1) & 15]);
}

ALWAYS_INLINE void compress_node(struct chains *s, const uint8_t *children, int has_fifth)
{
    struct chains before;
    struct words w;

    node_first_block(&w, children, has_fifth);
    compress_block(s, &w, has_fifth);
    before = *s;
    node_second_block(&w, children, has_fifth);
    eight_rounds(s, &w, 0, 0, has_fifth);
    eight_rounds(s, &w, 0, 8, has_fifth);
    node_words_of_four(w.four);
    if (has_fifth)
        node_words_of_one(w.fifth);
    eight_rounds(s, &w, 16, 0, has_fifth);
    eight_rounds(s, &w, 16, 8, has_fifth);
    rounds_from(32, s, &w, has_fifth);
    add_chains(s, &before, has_fifth);
}

/* As many groups as there are whole ones; returns how many nodes that makes. */
ALWAYS_INLINE size_t whole_groups(const uint8_t *children, size_t count, uint8_t *parents,
                                  int has_fifth)
{
    const unsigned lanes = has_fifth ? 5 : 4;
    size_t done = 0;

    for (; done + lanes <= count; done += lanes, children += lanes * PAIR_SIZE) {
        uint8_t *to = parents + done * IOMT_HASH_SIZE;
        struct chains s;

        for (unsigned i = 0; i < 8; i++) {
            s.four[i] = vdupq_n_u32(iomt_sha256_start[i]);
            s.fifth[i] = iomt_sha256_start[i];
        }
        compress_node(&s, children, has_fifth);
        transpose(s.four);
        transpose(s.four + 4);
        for (unsigned m = 0; m < 4; m++, to += IOMT_HASH_SIZE) {
            vst1q_u8(to, vrev32q_u8(vreinterpretq_u8_u32(s.four[m])));
            vst1q_u8(to + 16, vrev32q_u8(vreinterpretq_u8_u32(s.four[4 + m])));
        }
        for (unsigned i = 0; has_fifth && i < 8; i++)
            iomt_store_be32(to + 4 * i, s.fifth[i]);
    }
    return done;
}

static size_t groups_of_four(const uint8_t *children, size_t count, uint8_t *parents)
{
    return whole_groups(children, count, parents, 0);
}

static size_t groups_of_five(const uint8_t *children, size_t count, uint8_t *parents)
{
    return whole_groups(children, count, parents, 1);
}

/* What is left after whole groups joins one with idle lanes, or goes one by one. */
ALWAYS_INLINE void nodes(const iomt_backend *backend, const uint8_t *children, size_t count,
                         uint8_t *parents,
                         size_t (*groups)(const uint8_t *, size_t, uint8_t *))
{
    size_t done = groups(children, count, parents), left = count - done;

    children += done * PAIR_SIZE;
    parents += done * IOMT_HASH_SIZE;
    if (left >= backend->fewest) {
        uint8_t pairs[5 * PAIR_SIZE] = {0}, hashes[5 * IOMT_HASH_SIZE];

        memcpy(pairs, children, left * PAIR_SIZE);
        groups(pairs, backend->lanes, hashes);
        memcpy(parents, hashes, left * IOMT_HASH_SIZE);
    } else if (left > 0) {
        iomt_backend_portable.nodes(children, left, parents);
    }
}

extern const iomt_backend iomt_backend_neon;
extern const iomt_backend iomt_backend_neon5;

static void nodes_of_four(const uint8_t *children, size_t count, uint8_t *parents)
{
    nodes(&iomt_backend_neon, children, count, parents, groups_of_four);
}

static void nodes_of_five(const uint8_t *children, size_t count, uint8_t *parents)
{
    nodes(&iomt_backend_neon5, children, count, parents, groups_of_five);
}

const iomt_backend iomt_backend_neon = {
    .name = "neon",
    .needs = IOMT_CPU_NEON,
    .lanes = 4,
    .fewest = 3,
    .compress = compress_four,
    .compress_one = compress_one,
    .nodes = nodes_of_four,
};

const iomt_backend iomt_backend_neon5 = {
    .name = "neon-5",
    .needs = IOMT_CPU_NEON,
    .lanes = 5,
    .fewest = 3,
    .compress = compress_five,
    .compress_one = compress_one,
    .nodes = nodes_of_five,
};

#endif
