/* Eight lanes and memory: the words of eight numbers of 256 bits. For the files of the eight
 * lanes and their tests only; needs AVX-512 F.
 *
 * A vector holds one word, or one limb, of eight numbers: lane i of every vector belongs to
 * number i. In memory each lane's four words lie in a row, half a vector. Four vectors are
 * turned into eight rows and back by shuffles: that takes less than gathers, and less than
 * words that go one by one through other registers. */
#ifndef IOMT_ED25519_IFMA_WORDS_H
#define IOMT_ED25519_IFMA_WORDS_H

#include "ed25519.h"

#include <immintrin.h>

#define LANES 8
#define WORDS 4

/* With a sanitizer's checks in every line the whole would take minutes to compile; gcc says
 * only of one of them that it is there. */
#if defined(__SANITIZE_ADDRESS__) || defined(IOMT_SANITIZED)
#define ALWAYS_INLINE static __attribute__((noinline, unused))
#else
#define ALWAYS_INLINE static inline __attribute__((always_inline, unused))
#endif

/* Before every loop over limbs: without, the compiler gives up in large functions, and keeps
 * limbs in memory. */
#define UNROLLED _Pragma("GCC unroll 16")

/* 256 bits as four little-endian words. */
struct words {
    __m512i word[WORDS];
};

ALWAYS_INLINE __m512i same(uint64_t word)
{
    return _mm512_set1_epi64((long long)word);
}

/* `bits` bits, at most 64, of a number from bit `from` on; words from `count` on are 0. */
ALWAYS_INLINE __m512i bits_of(const __m512i *words, int count, int from, int bits)
{
    const int word = from / 64, shift = from % 64;
    __m512i found = same(0);

    if (word < count)
        found = _mm512_srl_epi64(words[word], _mm_cvtsi32_si128(shift));
    if (shift + bits > 64 && word + 1 < count)
        found = _mm512_or_si512(
            found, _mm512_sll_epi64(words[word + 1], _mm_cvtsi32_si128(64 - shift)));
    return _mm512_and_si512(found, same(UINT64_MAX >> (64 - bits)));
}

ALWAYS_INLINE __m512i two_rows(uintptr_t low, uintptr_t high)
{
    return _mm512_inserti64x4(
        _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)low)),
        _mm256_loadu_si256((const __m256i *)high), 1);
}

/* The rows at `skip` bytes after these addresses. */
ALWAYS_INLINE struct words words_at(const uintptr_t at[LANES], size_t skip)
{
    const __m512i row02 = two_rows(at[0] + skip, at[2] + skip);
    const __m512i row13 = two_rows(at[1] + skip, at[3] + skip);
    const __m512i row46 = two_rows(at[4] + skip, at[6] + skip);
    const __m512i row57 = two_rows(at[5] + skip, at[7] + skip);
    const __m512i even = _mm512_unpacklo_epi64(row02, row13);
    const __m512i even4 = _mm512_unpacklo_epi64(row46, row57);
    const __m512i odd = _mm512_unpackhi_epi64(row02, row13);
    const __m512i odd4 = _mm512_unpackhi_epi64(row46, row57);
    struct words w;

    w.word[0] = _mm512_shuffle_i64x2(even, even4, 0x88);
    w.word[1] = _mm512_shuffle_i64x2(odd, odd4, 0x88);
    w.word[2] = _mm512_shuffle_i64x2(even, even4, 0xdd);
    w.word[3] = _mm512_shuffle_i64x2(odd, odd4, 0xdd);
    return w;
}

ALWAYS_INLINE void put_two_rows(uintptr_t low, uintptr_t high, __m512i rows)
{
    _mm256_storeu_si256((__m256i *)low, _mm512_castsi512_si256(rows));
    _mm256_storeu_si256((__m256i *)high, _mm512_extracti64x4_epi64(rows, 1));
}

/* The rows go to `first` and every `stride` bytes after it. */
ALWAYS_INLINE void put_words(void *first, size_t stride, struct words w)
{
    const uintptr_t to = (uintptr_t)first;
    const __m512i low = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
    const __m512i high = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
    const __m512i even = _mm512_unpacklo_epi64(w.word[0], w.word[1]);
    const __m512i even2 = _mm512_unpacklo_epi64(w.word[2], w.word[3]);
    const __m512i odd = _mm512_unpackhi_epi64(w.word[0], w.word[1]);
    const __m512i odd2 = _mm512_unpackhi_epi64(w.word[2], w.word[3]);

    put_two_rows(to, to + 2 * stride, _mm512_permutex2var_epi64(even, low, even2));
    put_two_rows(to + stride, to + 3 * stride, _mm512_permutex2var_epi64(odd, low, odd2));
    put_two_rows(to + 4 * stride, to + 6 * stride, _mm512_permutex2var_epi64(even, high, even2));
    put_two_rows(to + 5 * stride, to + 7 * stride, _mm512_permutex2var_epi64(odd, high, odd2));
}

ALWAYS_INLINE struct words scalars(const struct iomt_scalar numbers[LANES])
{
    uintptr_t at[LANES];

    UNROLLED for (int lane = 0; lane < LANES; lane++)
        at[lane] = (uintptr_t)numbers[lane].words;
    return words_at(at, 0);
}

#endif
