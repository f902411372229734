/* SHA-256 (FIPS 180-4) in plain C: the backend that every other one is compared with. */
#include "backend.h"
#include "bytes.h"

const uint32_t iomt_sha256_start[8] = {
    0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
};

/* Aligned, so that vector backends may use it as a memory operand. */
_Alignas(64) const uint32_t iomt_sha256_k[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static inline uint32_t rotate(uint32_t x, unsigned bits)
{
    return x >> bits | x << (32 - bits);
}

/* The functions of FIPS 180-4 section 4.1.2; its Maj is in ROUND. */
static inline uint32_t choose(uint32_t x, uint32_t y, uint32_t z)
{
    return z ^ (x & (y ^ z));
}

static inline uint32_t big_sigma0(uint32_t x)
{
    return rotate(x, 2) ^ rotate(x, 13) ^ rotate(x, 22);
}

static inline uint32_t big_sigma1(uint32_t x)
{
    return rotate(x, 6) ^ rotate(x, 11) ^ rotate(x, 25);
}

static inline uint32_t small_sigma0(uint32_t x)
{
    return rotate(x, 7) ^ rotate(x, 18) ^ x >> 3;
}

static inline uint32_t small_sigma1(uint32_t x)
{
    return rotate(x, 17) ^ rotate(x, 19) ^ x >> 10;
}

/* One round. The variables do not move: the caller renames them, so that only d and h are
 * written. The majority of a, b and c is b, unless a differs from b and b from c; b ^ c is
 * kept in `bc`, being a ^ b of the round before. */
#define ROUND(a, b, c, d, e, f, g, h, i)                                   \
    do {                                                                   \
        uint32_t t = (h) + big_sigma1(e) + choose(e, f, g) + k[i] + w[i];  \
        uint32_t ab = (a) ^ (b);                                           \
        (d) += t;                                                          \
        (h) = t + big_sigma0(a) + ((b) ^ (ab & bc));                       \
        bc = ab;                                                           \
    } while (0)

#define EIGHT_ROUNDS(i)                       \
    do {                                      \
        ROUND(a, b, c, d, e, f, g, h, (i));     \
        ROUND(h, a, b, c, d, e, f, g, (i) + 1); \
        ROUND(g, h, a, b, c, d, e, f, (i) + 2); \
        ROUND(f, g, h, a, b, c, d, e, (i) + 3); \
        ROUND(e, f, g, h, a, b, c, d, (i) + 4); \
        ROUND(d, e, f, g, h, a, b, c, (i) + 5); \
        ROUND(c, d, e, f, g, h, a, b, (i) + 6); \
        ROUND(b, c, d, e, f, g, h, a, (i) + 7); \
    } while (0)

/* The next sixteen words of the message schedule, in place of the last sixteen. */
#define NEXT(i) \
    (w[i] += small_sigma1(w[((i) + 14) & 15]) + w[((i) + 9) & 15] + small_sigma0(w[((i) + 1) & 15]))

static void compress_block(uint32_t state[8], const uint8_t *block)
{
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
    uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
    const uint32_t *k = iomt_sha256_k;
    uint32_t w[16], bc = b ^ c;

    for (unsigned i = 0; i < 16; i++)
        w[i] = iomt_load_be32(block + 4 * i);
    EIGHT_ROUNDS(0);
    EIGHT_ROUNDS(8);
    for (unsigned done = 16; done < 64; done += 16) {
        k += 16;
        NEXT(0), NEXT(1), NEXT(2), NEXT(3), NEXT(4), NEXT(5), NEXT(6), NEXT(7);
        EIGHT_ROUNDS(0);
        NEXT(8), NEXT(9), NEXT(10), NEXT(11), NEXT(12), NEXT(13), NEXT(14), NEXT(15);
        EIGHT_ROUNDS(8);
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d;
    state[4] += e, state[5] += f, state[6] += g, state[7] += h;
}

void iomt_compress_portable(uint32_t state[8], const uint8_t *blocks, size_t count)
{
    for (; count > 0; count--, blocks += IOMT_BLOCK_SIZE)
        compress_block(state, blocks);
}

static void compress(uint32_t *state, const uint8_t *const *blocks, size_t count)
{
    iomt_compress_portable(state, blocks[0], count);
}

/* A node is 65 bytes: one full block, and one with the last byte, the end mark and the
 * length in bits. */
static void nodes(const uint8_t *children, size_t count, uint8_t *parents)
{
    uint8_t blocks[2 * IOMT_BLOCK_SIZE] = {0x01};
    uint32_t state[8];

    blocks[65] = 0x80;
    iomt_store_be32(blocks + 124, 65 * 8);
    for (; count > 0; count--, children += 2 * IOMT_HASH_SIZE, parents += IOMT_HASH_SIZE) {
        memcpy(blocks + 1, children, 2 * IOMT_HASH_SIZE);
        memcpy(state, iomt_sha256_start, sizeof state);
        iomt_compress_portable(state, blocks, 2);
        for (unsigned w = 0; w < 8; w++)
            iomt_store_be32(parents + 4 * w, state[w]);
    }
}

extern const iomt_backend iomt_backend_portable;
const iomt_backend iomt_backend_portable = {
    .name = "portable",
    .needs = 0,
    .lanes = 1,
    .fewest = 1,
    .compress = compress,
    .compress_one = iomt_compress_portable,
    .nodes = nodes,
};
