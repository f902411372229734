/* SHA-512 (FIPS 180-4, section 6.4) of R || A || message for eight signatures at once: word i
 * of the state is a vector with one lane for each. */
#include "ed25519_ifma.h"

#if defined(__x86_64__)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw")
#endif

#include "ed25519_ifma_words.h"

#include <string.h>

#define ROUNDS 80
#define BLOCK IOMT_SHA512_BLOCK_SIZE
#define BEFORE_MESSAGE 64 /* bytes of R and A */
#define PADDING 17        /* the least: one bit in a byte of its own, and the length */

/* A block for eight lanes costs as much as this many eighths of blocks for one: where few
 * messages are much longer than the others, one after the other is faster. */
#define EIGHTHS 13

ALWAYS_INLINE __m512i add(__m512i a, __m512i b)
{
    return _mm512_add_epi64(a, b);
}

/* By truth tables: of a ^ b ^ c, of "b or c, as a says", and of the majority. */
#define XOR3(a, b, c) _mm512_ternarylogic_epi64((a), (b), (c), 0x96)
#define CHOICE(a, b, c) _mm512_ternarylogic_epi64((a), (b), (c), 0xca)
#define MAJORITY(a, b, c) _mm512_ternarylogic_epi64((a), (b), (c), 0xe8)
#define RIGHT(x, n) _mm512_ror_epi64((x), (n))

ALWAYS_INLINE void one_round(__m512i s[8], uint64_t k, __m512i w)
{
    const __m512i a = s[0], e = s[4];
    const __m512i sum1 = XOR3(RIGHT(e, 14), RIGHT(e, 18), RIGHT(e, 41));
    const __m512i sum0 = XOR3(RIGHT(a, 28), RIGHT(a, 34), RIGHT(a, 39));
    const __m512i kw = add(w, same(k));
    const __m512i t = add(add(add(s[7], kw), sum1), CHOICE(e, s[5], s[6]));
    const __m512i first = add(add(t, sum0), MAJORITY(a, s[1], s[2]));

    s[7] = s[6];
    s[6] = s[5];
    s[5] = s[4];
    s[4] = add(s[3], t);
    s[3] = s[2];
    s[2] = s[1];
    s[1] = s[0];
    s[0] = first;
}

/* W[t] for t >= 16 in the place of W[t - 16]. */
ALWAYS_INLINE __m512i schedule(__m512i w[16], int t)
{
    const __m512i early = w[(t + 1) % 16], late = w[(t + 14) % 16];
    const __m512i sigma0 = XOR3(RIGHT(early, 1), RIGHT(early, 8), _mm512_srli_epi64(early, 7));
    const __m512i sigma1 = XOR3(RIGHT(late, 19), RIGHT(late, 61), _mm512_srli_epi64(late, 6));

    w[t % 16] = add(add(w[t % 16], sigma0), add(w[(t + 9) % 16], sigma1));
    return w[t % 16];
}

ALWAYS_INLINE __m512i big_endian(void)
{
    return _mm512_broadcast_i32x4(_mm_set_epi64x(0x08090a0b0c0d0e0f, 0x0001020304050607));
}

/* Takes the lanes of `lanes` one block further, at the addresses `blocks`. */
static void compress(__m512i state[8], const uintptr_t blocks[LANES], __mmask8 lanes)
{
    __m512i s[8], w[16];

    UNROLLED for (int i = 0; i < 16; i += WORDS) {
        const struct words four = words_at(blocks, sizeof(uint64_t) * (size_t)i);

        UNROLLED for (int j = 0; j < WORDS; j++)
            w[i + j] = _mm512_shuffle_epi8(four.word[j], big_endian());
    }
    UNROLLED for (int i = 0; i < 8; i++)
        s[i] = state[i];
    UNROLLED for (int t = 0; t < 16; t++)
        one_round(s, iomt_sha512_k[t], w[t]);
    for (int done = 16; done < ROUNDS; done += 16) {
        UNROLLED for (int t = 0; t < 16; t++)
            one_round(s, iomt_sha512_k[done + t], schedule(w, t));
    }
    UNROLLED for (int i = 0; i < 8; i++)
        state[i] = _mm512_mask_add_epi64(state[i], lanes, state[i], s[i]);
}

/* ---- Blocks ---- */

static size_t blocks_of(const struct iomt_ed25519_item *item)
{
    return (BEFORE_MESSAGE + item->size + PADDING + BLOCK - 1) / BLOCK;
}

/* Block `at` of R || A || message || padding: in the message itself, or put together in
 * `buffer`. */
static const uint8_t *block_at(const struct iomt_ed25519_item *item, size_t at,
                               uint8_t buffer[BLOCK])
{
    const uint64_t total = BEFORE_MESSAGE + (uint64_t)item->size, start = (uint64_t)at * BLOCK;
    const uint64_t from = at == 0 ? BEFORE_MESSAGE : start;
    const uint64_t to = total < start + BLOCK ? total : start + BLOCK;

    if (at > 0 && start + BLOCK <= total)
        return item->message + (start - BEFORE_MESSAGE);
    memset(buffer, 0, BLOCK);
    if (at == 0) {
        memcpy(buffer, item->signature, 32);
        memcpy(buffer + 32, item->key, 32);
    }
    if (from < to)
        memcpy(buffer + (from - start), item->message + (from - BEFORE_MESSAGE), to - from);
    if (start <= total && total < start + BLOCK)
        buffer[total - start] = 0x80;
    if (at == blocks_of(item) - 1)
        for (int i = 0; i < 8; i++) /* the length in bits; its upper 8 bytes are 0 */
            buffer[BLOCK - 1 - i] = (uint8_t)(total * 8 >> (8 * i));
    return buffer;
}

static void in_lanes(struct iomt_scalar k[LANES], const struct iomt_ed25519_item *const *items,
                     const size_t blocks[LANES], size_t most)
{
    uint8_t buffers[LANES][BLOCK] = {{0}};
    uintptr_t at[LANES];
    uint64_t digests[8][LANES];
    __m512i state[8];

    for (int i = 0; i < 8; i++)
        state[i] = same(iomt_sha512_initial[i]);
    for (size_t block = 0; block < most; block++) {
        __mmask8 lanes = 0;

        for (int lane = 0; lane < LANES; lane++) {
            if (block < blocks[lane]) {
                at[lane] = (uintptr_t)block_at(items[lane], block, buffers[lane]);
                lanes |= (__mmask8)(1u << lane);
            } else { /* what it reads does not count */
                at[lane] = (uintptr_t)buffers[lane];
            }
        }
        compress(state, at, lanes);
    }
    for (int i = 0; i < 8; i++) /* the digest's bytes are a little-endian number */
        _mm512_storeu_si512(digests[i], _mm512_shuffle_epi8(state[i], big_endian()));
    iomt_ifma_reduce(k, (const uint64_t (*)[LANES])digests);
}

void iomt_ifma_challenges(struct iomt_scalar k[LANES],
                          const struct iomt_ed25519_item *const items[LANES], size_t count)
{
    size_t blocks[LANES] = {0}, all = 0, most = 0;

    for (size_t lane = 0; lane < count; lane++) {
        blocks[lane] = blocks_of(items[lane]);
        all += blocks[lane];
        most = blocks[lane] > most ? blocks[lane] : most;
    }
    if (all * LANES >= most * EIGHTHS) {
        in_lanes(k, items, blocks, most);
        return;
    }
    for (size_t lane = 0; lane < count; lane++)
        iomt_ed25519_challenge(&k[lane], items[lane]->signature, items[lane]->key,
                               items[lane]->message, items[lane]->size);
}

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
