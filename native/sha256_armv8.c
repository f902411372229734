/* SHA-256 with the SHA-256 instructions of ARMv8 (a Raspberry Pi 5 has them, older ones do
 * not), two messages interleaved: an instruction takes four cycles, the next one needs its
 * result, and one message alone leaves the unit idle a third of the time.
 *
 * The instructions keep the chaining value in two registers, {a, b, c, d} and {e, f, g, h}
 * from the lowest word up, and take four message words, with their constants added, at a
 * time. */
#include "backend.h"

#if defined(IOMT_ARM64)

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

/* A node is 0x01 and 64 bytes of children. Its first block holds 63 of them, shifted by one
 * byte; no byte before `children` is read. */
ALWAYS_INLINE struct words node_first_block(const uint8_t *children)
{
    struct words m = {
        swap_bytes(vextq_u8(vdupq_n_u8(0x01), vld1q_u8(children), 15)),
        swap_bytes(vld1q_u8(children + 15)),
        swap_bytes(vld1q_u8(children + 31)),
        swap_bytes(vld1q_u8(children + 47)),
    };
    return m;
}

/* The second block is the last byte, the end mark, thirteen words of zero and the length of
 * 520 bits. So the constants of rounds 4 to 15 have their message words in them. */
static const uint32_t k_second_block[16] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5,
    0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3,
    0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174 + 65 * 8,
};

/* Its words 16 to 31: three sums of zeros are left out of next_sixteen. */
ALWAYS_INLINE struct words node_second_sixteen(uint32x4_t w0)
{
    const uint32x4_t zero = vdupq_n_u32(0), w3 = vsetq_lane_u32(65 * 8, zero, 3);
    struct words m;

    m.w0 = vsha256su1q_u32(w0, zero, w3);
    m.w1 = vsha256su1q_u32(zero, w3, m.w0);
    m.w2 = vsha256su1q_u32(zero, m.w0, m.w1);
    m.w3 = next_words(w3, m.w0, m.w1, m.w2);
    return m;
}

ALWAYS_INLINE uint32x4_t node_last_word(const uint8_t *children)
{
    return vsetq_lane_u32((uint32_t)children[63] << 24 | 0x00800000, vdupq_n_u32(0), 0);
}

ALWAYS_INLINE void rounds_of_second_block(struct chain *s, const uint8_t *children)
{
    const struct chain before = *s;
    const uint32_t *k = k_second_block;
    uint32x4_t w0 = node_last_word(children);
    struct words m = node_second_sixteen(w0);

    four_rounds(s, vaddq_u32(w0, vld1q_u32(k)));
    four_rounds(s, vld1q_u32(k + 4));
    four_rounds(s, vld1q_u32(k + 8));
    four_rounds(s, vld1q_u32(k + 12));
    sixteen_rounds(s, &m, iomt_sha256_k + 16);
    for (unsigned done = 32; done < 64; done += 16) {
        next_sixteen(&m);
        sixteen_rounds(s, &m, iomt_sha256_k + done);
    }
    add_chain(s, &before);
}

ALWAYS_INLINE void rounds_of_two_second_blocks(struct chain *s, struct chain *t,
                                               const uint8_t *children, const uint8_t *others)
{
    const struct chain s_before = *s, t_before = *t;
    const uint32_t *k = k_second_block;
    uint32x4_t k1 = vld1q_u32(k + 4), k2 = vld1q_u32(k + 8), k3 = vld1q_u32(k + 12);
    uint32x4_t w0 = node_last_word(children), x0 = node_last_word(others);
    struct words m = node_second_sixteen(w0), n = node_second_sixteen(x0);

    four_rounds(s, vaddq_u32(w0, vld1q_u32(k))), four_rounds(t, vaddq_u32(x0, vld1q_u32(k)));
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

ALWAYS_INLINE void store_hash(uint8_t *to, const struct chain *s)
{
    vst1q_u8(to, vrev32q_u8(vreinterpretq_u8_u32(s->abcd)));
    vst1q_u8(to + 16, vrev32q_u8(vreinterpretq_u8_u32(s->efgh)));
}

static void nodes(const uint8_t *children, size_t count, uint8_t *parents)
{
    const struct chain start = {vld1q_u32(iomt_sha256_start), vld1q_u32(iomt_sha256_start + 4)};

    for (; count >= 2; count -= 2, children += 4 * IOMT_HASH_SIZE, parents += 2 * IOMT_HASH_SIZE) {
        const uint8_t *others = children + 2 * IOMT_HASH_SIZE;
        struct chain s = start, t = start;

        rounds_of_two(&s, &t, node_first_block(children), node_first_block(others));
        rounds_of_two_second_blocks(&s, &t, children, others);
        store_hash(parents, &s);
        store_hash(parents + IOMT_HASH_SIZE, &t);
    }
    if (count > 0) {
        struct chain s = start;

        rounds_of_one(&s, node_first_block(children));
        rounds_of_second_block(&s, children);
        store_hash(parents, &s);
    }
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
};

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
