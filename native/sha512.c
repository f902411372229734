/* SHA-512 (FIPS 180-4, section 6.4) of one message. No step depends on what is hashed, only
 * on its size: it may be secret. */
#include "ed25519.h"

#include <string.h>

#define ROUNDS 80
#define LENGTH_SIZE 16 /* bytes of the length field; its upper 8 are always 0 here */

const uint64_t iomt_sha512_initial[8] = {
    UINT64_C(0x6a09e667f3bcc908), UINT64_C(0xbb67ae8584caa73b), UINT64_C(0x3c6ef372fe94f82b),
    UINT64_C(0xa54ff53a5f1d36f1), UINT64_C(0x510e527fade682d1), UINT64_C(0x9b05688c2b3e6c1f),
    UINT64_C(0x1f83d9abfb41bd6b), UINT64_C(0x5be0cd19137e2179),
};

const uint64_t iomt_sha512_k[ROUNDS] = {
    UINT64_C(0x428a2f98d728ae22), UINT64_C(0x7137449123ef65cd), UINT64_C(0xb5c0fbcfec4d3b2f),
    UINT64_C(0xe9b5dba58189dbbc), UINT64_C(0x3956c25bf348b538), UINT64_C(0x59f111f1b605d019),
    UINT64_C(0x923f82a4af194f9b), UINT64_C(0xab1c5ed5da6d8118), UINT64_C(0xd807aa98a3030242),
    UINT64_C(0x12835b0145706fbe), UINT64_C(0x243185be4ee4b28c), UINT64_C(0x550c7dc3d5ffb4e2),
    UINT64_C(0x72be5d74f27b896f), UINT64_C(0x80deb1fe3b1696b1), UINT64_C(0x9bdc06a725c71235),
    UINT64_C(0xc19bf174cf692694), UINT64_C(0xe49b69c19ef14ad2), UINT64_C(0xefbe4786384f25e3),
    UINT64_C(0x0fc19dc68b8cd5b5), UINT64_C(0x240ca1cc77ac9c65), UINT64_C(0x2de92c6f592b0275),
    UINT64_C(0x4a7484aa6ea6e483), UINT64_C(0x5cb0a9dcbd41fbd4), UINT64_C(0x76f988da831153b5),
    UINT64_C(0x983e5152ee66dfab), UINT64_C(0xa831c66d2db43210), UINT64_C(0xb00327c898fb213f),
    UINT64_C(0xbf597fc7beef0ee4), UINT64_C(0xc6e00bf33da88fc2), UINT64_C(0xd5a79147930aa725),
    UINT64_C(0x06ca6351e003826f), UINT64_C(0x142929670a0e6e70), UINT64_C(0x27b70a8546d22ffc),
    UINT64_C(0x2e1b21385c26c926), UINT64_C(0x4d2c6dfc5ac42aed), UINT64_C(0x53380d139d95b3df),
    UINT64_C(0x650a73548baf63de), UINT64_C(0x766a0abb3c77b2a8), UINT64_C(0x81c2c92e47edaee6),
    UINT64_C(0x92722c851482353b), UINT64_C(0xa2bfe8a14cf10364), UINT64_C(0xa81a664bbc423001),
    UINT64_C(0xc24b8b70d0f89791), UINT64_C(0xc76c51a30654be30), UINT64_C(0xd192e819d6ef5218),
    UINT64_C(0xd69906245565a910), UINT64_C(0xf40e35855771202a), UINT64_C(0x106aa07032bbd1b8),
    UINT64_C(0x19a4c116b8d2d0c8), UINT64_C(0x1e376c085141ab53), UINT64_C(0x2748774cdf8eeb99),
    UINT64_C(0x34b0bcb5e19b48a8), UINT64_C(0x391c0cb3c5c95a63), UINT64_C(0x4ed8aa4ae3418acb),
    UINT64_C(0x5b9cca4f7763e373), UINT64_C(0x682e6ff3d6b2b8a3), UINT64_C(0x748f82ee5defb2fc),
    UINT64_C(0x78a5636f43172f60), UINT64_C(0x84c87814a1f0ab72), UINT64_C(0x8cc702081a6439ec),
    UINT64_C(0x90befffa23631e28), UINT64_C(0xa4506cebde82bde9), UINT64_C(0xbef9a3f7b2c67915),
    UINT64_C(0xc67178f2e372532b), UINT64_C(0xca273eceea26619c), UINT64_C(0xd186b8c721c0c207),
    UINT64_C(0xeada7dd6cde0eb1e), UINT64_C(0xf57d4f7fee6ed178), UINT64_C(0x06f067aa72176fba),
    UINT64_C(0x0a637dc5a2c898a6), UINT64_C(0x113f9804bef90dae), UINT64_C(0x1b710b35131c471b),
    UINT64_C(0x28db77f523047d84), UINT64_C(0x32caab7b40c72493), UINT64_C(0x3c9ebe0a15c9bebc),
    UINT64_C(0x431d67c49c100d4c), UINT64_C(0x4cc5d4becb3e42b6), UINT64_C(0x597f299cfc657e2a),
    UINT64_C(0x5fcb6fab3ad6faec), UINT64_C(0x6c44198c4a475817),
};

static inline uint64_t right(uint64_t x, int n)
{
    return x >> n | x << (64 - n);
}

static inline uint64_t load_be64(const uint8_t *from)
{
    uint64_t word = 0;

    for (int i = 0; i < 8; i++)
        word = word << 8 | from[i];
    return word;
}

static inline void store_be64(uint8_t *to, uint64_t word)
{
    for (int i = 0; i < 8; i++)
        to[i] = (uint8_t)(word >> (56 - 8 * i));
}

/* W[t] for t >= 16 in place: w[t mod 16] holds W[t - 16] before and W[t] after. */
static inline uint64_t schedule(uint64_t w[16], int t)
{
    uint64_t early = w[(t + 1) % 16], late = w[(t + 14) % 16];
    uint64_t sigma0 = right(early, 1) ^ right(early, 8) ^ early >> 7;
    uint64_t sigma1 = right(late, 19) ^ right(late, 61) ^ late >> 6;

    return w[t % 16] += sigma0 + w[(t + 9) % 16] + sigma1;
}

/* One round without moving the variables: the caller turns their names instead. */
static inline void one_round(uint64_t a, uint64_t b, uint64_t c, uint64_t *d, uint64_t e,
                             uint64_t f, uint64_t g, uint64_t *h, uint64_t k_plus_w)
{
    uint64_t choice = g ^ (e & (f ^ g));
    uint64_t majority = b ^ ((a ^ b) & (b ^ c)); /* b ^ c is the a ^ b of the round before */
    uint64_t t1 = *h + (right(e, 14) ^ right(e, 18) ^ right(e, 41)) + choice + k_plus_w;

    *d += t1;
    *h = t1 + (right(a, 28) ^ right(a, 34) ^ right(a, 39)) + majority;
}

/* Eight rounds bring every variable back under its own name. */
#define EIGHT_ROUNDS(W)                                             \
    do {                                                            \
        one_round(a, b, c, &d, e, f, g, &h, iomt_sha512_k[t] + W(t));         \
        one_round(h, a, b, &c, d, e, f, &g, iomt_sha512_k[t + 1] + W(t + 1)); \
        one_round(g, h, a, &b, c, d, e, &f, iomt_sha512_k[t + 2] + W(t + 2)); \
        one_round(f, g, h, &a, b, c, d, &e, iomt_sha512_k[t + 3] + W(t + 3)); \
        one_round(e, f, g, &h, a, b, c, &d, iomt_sha512_k[t + 4] + W(t + 4)); \
        one_round(d, e, f, &g, h, a, b, &c, iomt_sha512_k[t + 5] + W(t + 5)); \
        one_round(c, d, e, &f, g, h, a, &b, iomt_sha512_k[t + 6] + W(t + 6)); \
        one_round(b, c, d, &e, f, g, h, &a, iomt_sha512_k[t + 7] + W(t + 7)); \
    } while (0)
#define LOADED(t) (w[(t) % 16] = load_be64(blocks + 8 * (t)))
#define EXTENDED(t) schedule(w, (t))

void iomt_sha512_compress(uint64_t state[8], const uint8_t *blocks, size_t count)
{
    uint64_t w[16];

    for (; count > 0; count--, blocks += IOMT_SHA512_BLOCK_SIZE) {
        uint64_t a = state[0], b = state[1], c = state[2], d = state[3];
        uint64_t e = state[4], f = state[5], g = state[6], h = state[7];
        int t;

        for (t = 0; t < 16; t += 8)
            EIGHT_ROUNDS(LOADED);
        for (; t < ROUNDS; t += 8)
            EIGHT_ROUNDS(EXTENDED);
        state[0] += a;
        state[1] += b;
        state[2] += c;
        state[3] += d;
        state[4] += e;
        state[5] += f;
        state[6] += g;
        state[7] += h;
    }
    iomt_wipe(w, sizeof w);
}

void iomt_sha512_start(struct iomt_sha512 *hash)
{
    memcpy(hash->state, iomt_sha512_initial, sizeof hash->state);
    hash->size = 0;
}

void iomt_sha512_add(struct iomt_sha512 *hash, const uint8_t *bytes, size_t size)
{
    size_t held = hash->size % IOMT_SHA512_BLOCK_SIZE;
    size_t whole;

    if (size == 0) /* then `bytes` may be NULL */
        return;
    hash->size += size;
    if (held > 0) {
        size_t room = IOMT_SHA512_BLOCK_SIZE - held;
        size_t taken = size < room ? size : room;

        memcpy(hash->block + held, bytes, taken);
        bytes += taken;
        size -= taken;
        if (taken < room)
            return;
        iomt_sha512_compress(hash->state, hash->block, 1);
    }
    whole = size / IOMT_SHA512_BLOCK_SIZE;
    iomt_sha512_compress(hash->state, bytes, whole);
    memcpy(hash->block, bytes + whole * IOMT_SHA512_BLOCK_SIZE, size % IOMT_SHA512_BLOCK_SIZE);
}

void iomt_sha512_end(struct iomt_sha512 *hash, uint8_t digest[IOMT_SHA512_SIZE])
{
    size_t held = hash->size % IOMT_SHA512_BLOCK_SIZE;

    hash->block[held++] = 0x80;
    if (held > IOMT_SHA512_BLOCK_SIZE - LENGTH_SIZE) {
        memset(hash->block + held, 0, IOMT_SHA512_BLOCK_SIZE - held);
        iomt_sha512_compress(hash->state, hash->block, 1);
        held = 0;
    }
    memset(hash->block + held, 0, IOMT_SHA512_BLOCK_SIZE - 8 - held);
    store_be64(hash->block + IOMT_SHA512_BLOCK_SIZE - 8, hash->size * 8);
    iomt_sha512_compress(hash->state, hash->block, 1);
    for (int i = 0; i < 8; i++)
        store_be64(digest + 8 * i, hash->state[i]);
}
