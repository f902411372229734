/* SHA-256 with the SHA-256 instructions of ARMv8 (a Raspberry Pi 5 has them, older ones do
 * not), two messages interleaved: an instruction takes four cycles, the next one needs its
 * result, and one message alone leaves the unit idle a third of the time.
 *
 * The instructions keep the chaining value in two registers, {a, b, c, d} and {e, f, g, h}
 * from the lowest word up, and take four message words, with their constants added, at a
 * time. */
#include "backend.h"

#if defined(IOMT_ARM64)

#include "edges.h"

/* GCC 12 knows the SHA-256 intrinsics only as a part of "crypto". */
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("sha2"))), apply_to = function)
#else
#pragma GCC target("+crypto")
#endif

#include <arm_neon.h>

#define ALWAYS_INLINE static inline __attribute__((always_inline))

struct chain {
    uint32x4_t abcd, efgh;
};

struct words {
    uint32x4_t w0, w1, w2, w3; /* sixteen words of the message schedule */
};

ALWAYS_INLINE uint32x4_t swap_bytes(uint8x16_t bytes)
{
    return vreinterpretq_u32_u8(vrev32q_u8(bytes));
}

ALWAYS_INLINE struct words load_block(const uint8_t *block)
{
    struct words m = {
        swap_bytes(vld1q_u8(block)),
        swap_bytes(vld1q_u8(block + 16)),
        swap_bytes(vld1q_u8(block + 32)),
        swap_bytes(vld1q_u8(block + 48)),
    };
    return m;
}

ALWAYS_INLINE void four_rounds(struct chain *s, uint32x4_t words_and_k)
{
    uint32x4_t abcd = s->abcd;

    s->abcd = vsha256hq_u32(abcd, s->efgh, words_and_k);
    s->efgh = vsha256h2q_u32(s->efgh, abcd, words_and_k);
}

/* The four schedule words that follow sixteen, to stand in the place of w0. */
ALWAYS_INLINE uint32x4_t next_words(uint32x4_t w0, uint32x4_t w1, uint32x4_t w2, uint32x4_t w3)
{
    return vsha256su1q_u32(vsha256su0q_u32(w0, w1), w2, w3);
}

ALWAYS_INLINE void next_sixteen(struct words *m)
{
    m->w0 = next_words(m->w0, m->w1, m->w2, m->w3);
    m->w1 = next_words(m->w1, m->w2, m->w3, m->w0);
    m->w2 = next_words(m->w2, m->w3, m->w0, m->w1);
    m->w3 = next_words(m->w3, m->w0, m->w1, m->w2);
}

ALWAYS_INLINE void sixteen_rounds(struct chain *s, const struct words *m, const uint32_t *k)
{
    four_rounds(s, vaddq_u32(m->w0, vld1q_u32(k)));
    four_rounds(s, vaddq_u32(m->w1, vld1q_u32(k + 4)));
    four_rounds(s, vaddq_u32(m->w2, vld1q_u32(k + 8)));
    four_rounds(s, vaddq_u32(m->w3, vld1q_u32(k + 12)));
}

ALWAYS_INLINE void sixteen_rounds_of_two(struct chain *s, struct chain *t, const struct words *m,
                                         const struct words *n, const uint32_t *k)
{
    uint32x4_t k0 = vld1q_u32(k), k1 = vld1q_u32(k + 4);
    uint32x4_t k2 = vld1q_u32(k + 8), k3 = vld1q_u32(k + 12);

    four_rounds(s, vaddq_u32(m->w0, k0)), four_rounds(t, vaddq_u32(n->w0, k0));
    four_rounds(s, vaddq_u32(m->w1, k1)), four_rounds(t, vaddq_u32(n->w1, k1));
    four_rounds(s, vaddq_u32(m->w2, k2)), four_rounds(t, vaddq_u32(n->w2, k2));
    four_rounds(s, vaddq_u32(m->w3, k3)), four_rounds(t, vaddq_u32(n->w3, k3));
}

ALWAYS_INLINE void add_chain(struct chain *s, const struct chain *before)
{
    s->abcd = vaddq_u32(s->abcd, before->abcd);
    s->efgh = vaddq_u32(s->efgh, before->efgh);
}

ALWAYS_INLINE void rounds_of_one(struct chain *s, struct words m)
{
    const struct chain before = *s;

    sixteen_rounds(s, &m, iomt_sha256_k);
    for (unsigned done = 16; done < 64; done += 16) {
        next_sixteen(&m);
        sixteen_rounds(s, &m, iomt_sha256_k + done);
    }
    add_chain(s, &before);
}

ALWAYS_INLINE void rounds_of_two(struct chain *s, struct chain *t, struct words m, struct words n)
{
    const struct chain s_before = *s, t_before = *t;

    sixteen_rounds_of_two(s, t, &m, &n, iomt_sha256_k);
    for (unsigned done = 16; done < 64; done += 16) {
        next_sixteen(&m), next_sixteen(&n);
        sixteen_rounds_of_two(s, t, &m, &n, iomt_sha256_k + done);
    }
    add_chain(s, &s_before);
    add_chain(t, &t_before);
}

static void compress_one(uint32_t state[8], const uint8_t *blocks, size_t count)
{
    struct chain s = {vld1q_u32(state), vld1q_u32(state + 4)};

    for (; count > 0; count--, blocks += IOMT_BLOCK_SIZE)
        rounds_of_one(&s, load_block(blocks));
    vst1q_u32(state, s.abcd);
    vst1q_u32(state + 4, s.efgh);
}

/* Words of the two messages alternate in `state`: what vld2q takes apart. */
static void compress(uint32_t *state, const uint8_t *const *blocks, size_t count)
{
    const uint8_t *first = blocks[0], *second = blocks[1];
    uint32x4x2_t abcd = vld2q_u32(state), efgh = vld2q_u32(state + 8);
    struct chain s = {abcd.val[0], efgh.val[0]}, t = {abcd.val[1], efgh.val[1]};

    for (; count > 0; count--, first += IOMT_BLOCK_SIZE, second += IOMT_BLOCK_SIZE)
        rounds_of_two(&s, &t, load_block(first), load_block(second));
    abcd.val[0] = s.abcd, abcd.val[1] = t.abcd;
    efgh.val[0] = s.efgh, efgh.val[1] = t.efgh;
    vst2q_u32(state, abcd);
    vst2q_u32(state + 8, efgh);
}

/* ---- Messages of 65 bytes: nodes, and leaves of 64 bytes, which are common ---- */

#define NODE_PREFIX 0x01

/* A prefix and the first 63 of `bytes`, all moved up by one; no byte before them is read. */
ALWAYS_INLINE struct words first_block(uint8_t prefix, const uint8_t *bytes)
{
    struct words m = {
        swap_bytes(vextq_u8(vdupq_n_u8(prefix), vld1q_u8(bytes), 15)),
        swap_bytes(vld1q_u8(bytes + 15)),
        swap_bytes(vld1q_u8(bytes + 31)),
        swap_bytes(vld1q_u8(bytes + 47)),
    };
    return m;
}

/* The second block is the last byte, the end mark, words of zero, and the length in bits. */
#define BITS_OF_65 (65 * 8)

ALWAYS_INLINE uint32x4_t word_of_second_block(const uint8_t *bytes)
{
    return vsetq_lane_u32((uint32_t)bytes[64 - 1] << 24 | 0x00800000, vdupq_n_u32(0), 0);
}

/* Its constants of rounds 4 to 15, with their message words in them. */
static const uint32_t k_second_block[12] = {
    0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, /* rounds 4 to 7 */
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, /* 8 to 11 */
    0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174 + BITS_OF_65,
};

/* Its words 16 to 31: three sums of zeros are left out of next_sixteen. */
ALWAYS_INLINE struct words second_sixteen(uint32x4_t w0)
{
    const uint32x4_t zero = vdupq_n_u32(0), w3 = vsetq_lane_u32(BITS_OF_65, zero, 3);
    struct words m;

    m.w0 = vsha256su1q_u32(w0, zero, w3);
    m.w1 = vsha256su1q_u32(zero, w3, m.w0);
    m.w2 = vsha256su1q_u32(zero, m.w0, m.w1);
    m.w3 = next_words(w3, m.w0, m.w1, m.w2);
    return m;
}

ALWAYS_INLINE void rounds_of_second_block(struct chain *s, const uint8_t *bytes)
{
    const struct chain before = *s;
    const uint32_t *k = k_second_block;
    uint32x4_t w0 = word_of_second_block(bytes);
    struct words m = second_sixteen(w0);

    four_rounds(s, vaddq_u32(w0, vld1q_u32(iomt_sha256_k)));
    four_rounds(s, vld1q_u32(k));
    four_rounds(s, vld1q_u32(k + 4));
    four_rounds(s, vld1q_u32(k + 8));
    sixteen_rounds(s, &m, iomt_sha256_k + 16);
    for (unsigned done = 32; done < 64; done += 16) {
        next_sixteen(&m);
        sixteen_rounds(s, &m, iomt_sha256_k + done);
    }
    add_chain(s, &before);
}

ALWAYS_INLINE void rounds_of_two_second_blocks(struct chain *s, struct chain *t,
                                               const uint8_t *bytes, const uint8_t *others)
{
    const struct chain s_before = *s, t_before = *t;
    uint32x4_t k0 = vld1q_u32(iomt_sha256_k), k1 = vld1q_u32(k_second_block);
    uint32x4_t k2 = vld1q_u32(k_second_block + 4), k3 = vld1q_u32(k_second_block + 8);
    uint32x4_t w0 = word_of_second_block(bytes), x0 = word_of_second_block(others);
    struct words m = second_sixteen(w0), n = second_sixteen(x0);

    four_rounds(s, vaddq_u32(w0, k0)), four_rounds(t, vaddq_u32(x0, k0));
    four_rounds(s, k1), four_rounds(t, k1);
    four_rounds(s, k2), four_rounds(t, k2);
    four_rounds(s, k3), four_rounds(t, k3);
    sixteen_rounds_of_two(s, t, &m, &n, iomt_sha256_k + 16);
    for (unsigned done = 32; done < 64; done += 16) {
        next_sixteen(&m), next_sixteen(&n);
        sixteen_rounds_of_two(s, t, &m, &n, iomt_sha256_k + done);
    }
    add_chain(s, &s_before);
    add_chain(t, &t_before);
}

ALWAYS_INLINE struct chain start(void)
{
    struct chain s = {vld1q_u32(iomt_sha256_start), vld1q_u32(iomt_sha256_start + 4)};

    return s;
}

ALWAYS_INLINE void store_hash(uint8_t *to, const struct chain *s)
{
    vst1q_u8(to, vrev32q_u8(vreinterpretq_u8_u32(s->abcd)));
    vst1q_u8(to + 16, vrev32q_u8(vreinterpretq_u8_u32(s->efgh)));
}

ALWAYS_INLINE void hash_two_of_65(uint8_t prefix, const uint8_t *bytes, const uint8_t *others,
                                  uint8_t *hash, uint8_t *other_hash)
{
    struct chain s = start(), t = s;

    rounds_of_two(&s, &t, first_block(prefix, bytes), first_block(prefix, others));
    rounds_of_two_second_blocks(&s, &t, bytes, others);
    store_hash(hash, &s);
    store_hash(other_hash, &t);
}

static void nodes(const uint8_t *children, size_t count, uint8_t *parents)
{
    const size_t pair = 2 * IOMT_HASH_SIZE;

    for (; count >= 2; count -= 2, children += 2 * pair, parents += 2 * IOMT_HASH_SIZE)
        hash_two_of_65(NODE_PREFIX, children, children + pair, parents, parents + IOMT_HASH_SIZE);
    if (count > 0) {
        struct chain s = start();

        rounds_of_one(&s, first_block(NODE_PREFIX, children));
        rounds_of_second_block(&s, children);
        store_hash(parents, &s);
    }
}

/* ---- Leaves of any size ---- */

ALWAYS_INLINE struct words leaf_block(const struct iomt_edges *edges, size_t index)
{
    if (index == 0 && edges->in_place > 0)
        return first_block(IOMT_LEAF_PREFIX, edges->record);
    return load_block(iomt_leaf_block(edges, index));
}

static void leaves(const struct iomt_leaf *leaf, size_t blocks)
{
    struct iomt_edges edges[2];
    struct chain s = start(), t = s;

    if (leaf[0].size == 64 && leaf[1].size == 64) {
        hash_two_of_65(IOMT_LEAF_PREFIX, leaf[0].record, leaf[1].record, leaf[0].hash,
                       leaf[1].hash);
        return;
    }
    iomt_build_tail(&edges[0], &leaf[0]);
    iomt_build_tail(&edges[1], &leaf[1]);
    for (size_t b = 0; b < blocks; b++)
        rounds_of_two(&s, &t, leaf_block(&edges[0], b), leaf_block(&edges[1], b));
    store_hash(leaf[0].hash, &s);
    store_hash(leaf[1].hash, &t);
}

extern const iomt_backend iomt_backend_armv8;
const iomt_backend iomt_backend_armv8 = {
    .name = "armv8",
    .needs = IOMT_CPU_ARM_SHA2,
    .lanes = 2,
    .fewest = 2,
    .compress = compress,
    .compress_one = compress_one,
    .nodes = nodes,
    .leaves = leaves,
};

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
