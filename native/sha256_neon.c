/* SHA-256 of four messages side by side, a word of each in one NEON register. For CPUs
 * without SHA-256 instructions: the Raspberry Pi 4 and older. */
#include "backend.h"

#if defined(IOMT_ARM64)

#include <arm_neon.h>

#define ALWAYS_INLINE static inline __attribute__((always_inline))
#define LANES 4

/* Each constant four times: loading a whole register costs the NEON units nothing, and
 * copying one word to four costs as much as an addition. */
#define FOUR(k) k, k, k, k
static const uint32_t k_four[64 * LANES] = {
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

/* Two instructions: the second shifts and inserts. */
#define ROTATE(x, bits) vsriq_n_u32(vshlq_n_u32((x), 32 - (bits)), (x), (bits))

/* The functions of FIPS 180-4 section 4.1.2; its Maj is in ROUND. */
ALWAYS_INLINE uint32x4_t big_sigma0(uint32x4_t x)
{
    return veorq_u32(veorq_u32(ROTATE(x, 2), ROTATE(x, 13)), ROTATE(x, 22));
}

ALWAYS_INLINE uint32x4_t big_sigma1(uint32x4_t x)
{
    return veorq_u32(veorq_u32(ROTATE(x, 6), ROTATE(x, 11)), ROTATE(x, 25));
}

ALWAYS_INLINE uint32x4_t small_sigma0(uint32x4_t x)
{
    return veorq_u32(veorq_u32(ROTATE(x, 7), ROTATE(x, 18)), vshrq_n_u32(x, 3));
}

ALWAYS_INLINE uint32x4_t small_sigma1(uint32x4_t x)
{
    return veorq_u32(veorq_u32(ROTATE(x, 17), ROTATE(x, 19)), vshrq_n_u32(x, 10));
}

/* One round. The variables do not move: the caller renames them, so that only d and h are
 * written. */
#define ROUND(a, b, c, d, e, f, g, h, i)                                                \
    do {                                                                                \
        uint32x4_t t = vaddq_u32((h), vaddq_u32(w[i], vld1q_u32(k + LANES * (i))));     \
        t = vaddq_u32(vaddq_u32(t, vbslq_u32((e), (f), (g))), big_sigma1(e));           \
        (d) = vaddq_u32((d), t);                                                        \
        t = vaddq_u32(t, vbslq_u32(veorq_u32((a), (b)), (c), (b)));                     \
        (h) = vaddq_u32(t, big_sigma0(a));                                              \
    } while (0)

#define EIGHT_ROUNDS(i)                         \
    do {                                        \
        ROUND(a, b, c, d, e, f, g, h, (i));     \
        ROUND(h, a, b, c, d, e, f, g, (i) + 1); \
        ROUND(g, h, a, b, c, d, e, f, (i) + 2); \
        ROUND(f, g, h, a, b, c, d, e, (i) + 3); \
        ROUND(e, f, g, h, a, b, c, d, (i) + 4); \
        ROUND(d, e, f, g, h, a, b, c, (i) + 5); \
        ROUND(c, d, e, f, g, h, a, b, (i) + 6); \
        ROUND(b, c, d, e, f, g, h, a, (i) + 7); \
    } while (0)

/* The next words of the message schedule, in place of the ones sixteen before. */
#define NEXT(i)                                                                  \
    (w[i] = vaddq_u32(vaddq_u32(w[i], small_sigma0(w[((i) + 1) & 15])),          \
                      vaddq_u32(w[((i) + 9) & 15], small_sigma1(w[((i) + 14) & 15]))))

static void rounds(uint32x4_t s[8], uint32x4_t w[16])
{
    uint32x4_t a = s[0], b = s[1], c = s[2], d = s[3], e = s[4], f = s[5], g = s[6], h = s[7];
    const uint32_t *k = k_four;

    EIGHT_ROUNDS(0);
    EIGHT_ROUNDS(8);
    for (unsigned done = 16; done < 64; done += 16) {
        k += 16 * LANES;
        NEXT(0), NEXT(1), NEXT(2), NEXT(3), NEXT(4), NEXT(5), NEXT(6), NEXT(7);
        EIGHT_ROUNDS(0);
        NEXT(8), NEXT(9), NEXT(10), NEXT(11), NEXT(12), NEXT(13), NEXT(14), NEXT(15);
        EIGHT_ROUNDS(8);
    }
    s[0] = vaddq_u32(s[0], a), s[1] = vaddq_u32(s[1], b);
    s[2] = vaddq_u32(s[2], c), s[3] = vaddq_u32(s[3], d);
    s[4] = vaddq_u32(s[4], e), s[5] = vaddq_u32(s[5], f);
    s[6] = vaddq_u32(s[6], g), s[7] = vaddq_u32(s[7], h);
}

/* Four rows of four words become four columns. */
ALWAYS_INLINE void transpose(uint32x4_t r[4])
{
    uint32x4_t ab = vtrn1q_u32(r[0], r[1]), cd = vtrn1q_u32(r[2], r[3]);
    uint32x4_t ab2 = vtrn2q_u32(r[0], r[1]), cd2 = vtrn2q_u32(r[2], r[3]);

#define HALVES(which, low, high) \
    vreinterpretq_u32_u64(which(vreinterpretq_u64_u32(low), vreinterpretq_u64_u32(high)))
    r[0] = HALVES(vtrn1q_u64, ab, cd), r[1] = HALVES(vtrn1q_u64, ab2, cd2);
    r[2] = HALVES(vtrn2q_u64, ab, cd), r[3] = HALVES(vtrn2q_u64, ab2, cd2);
}

ALWAYS_INLINE uint32x4_t load_words(const uint8_t *from)
{
    return vreinterpretq_u32_u8(vrev32q_u8(vld1q_u8(from)));
}

static void compress(uint32_t *state, const uint8_t *const *blocks, size_t count)
{
    uint32x4_t s[8], w[16];

    for (unsigned i = 0; i < 8; i++)
        s[i] = vld1q_u32(state + LANES * i);
    for (size_t at = 0; at < count * IOMT_BLOCK_SIZE; at += IOMT_BLOCK_SIZE) {
        for (unsigned i = 0; i < 4; i++) {
            for (unsigned m = 0; m < LANES; m++)
                w[4 * i + m] = load_words(blocks[m] + at + 16 * i);
            transpose(w + 4 * i);
        }
        rounds(s, w);
    }
    for (unsigned i = 0; i < 8; i++)
        vst1q_u32(state + LANES * i, s[i]);
}

/* One message alone gains nothing from lanes. */
extern const iomt_backend iomt_backend_portable;

static void compress_one(uint32_t state[8], const uint8_t *blocks, size_t count)
{
    iomt_backend_portable.compress_one(state, blocks, count);
}

static void nodes(const uint8_t *children, size_t count, uint8_t *parents)
{
    iomt_backend_portable.nodes(children, count, parents);
}

extern const iomt_backend iomt_backend_neon;
const iomt_backend iomt_backend_neon = {
    .name = "neon",
    .needs = IOMT_CPU_NEON,
    .lanes = LANES,
    .fewest = 2,
    .compress = compress,
    .compress_one = compress_one,
    .nodes = nodes,
};

#endif
