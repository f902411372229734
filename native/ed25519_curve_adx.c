/* The curve in words of 64 bits, for x86-64 with BMI2 and ADX; rows of the table for signing
 * are read in vectors of AVX2. */
#include "ed25519.h"

#if defined(__x86_64__)
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#else
#pragma GCC target("avx2")
#endif

#include "ed25519_field_adx.h"

/* find_in_row_secret of ed25519_curve_code.h. */
#define FIND_IN_ROW_SECRET
static inline void find_in_row_secret(struct iomt_comb_point *found,
                                      const struct iomt_comb_point row[IOMT_COMB_MULTIPLES],
                                      uint64_t size)
{
    const __m256i wanted = _mm256_set1_epi64x((long long)size), one = _mm256_set1_epi64x(1);
    __m256i sum = _mm256_setzero_si256(), difference = sum, dxy = sum, at = sum;

    for (int j = 0; j < IOMT_COMB_MULTIPLES; j++) {
        const __m256i *point = (const __m256i *)&row[j];
        __m256i mask;

        at = _mm256_add_epi64(at, one);
        mask = _mm256_cmpeq_epi64(at, wanted);
        sum = _mm256_or_si256(sum, _mm256_and_si256(mask, _mm256_loadu_si256(point)));
        difference =
            _mm256_or_si256(difference, _mm256_and_si256(mask, _mm256_loadu_si256(point + 1)));
        dxy = _mm256_or_si256(dxy, _mm256_and_si256(mask, _mm256_loadu_si256(point + 2)));
    }
    _mm256_storeu_si256((__m256i *)&found->half_sum, sum);
    _mm256_storeu_si256((__m256i *)&found->half_difference, difference);
    _mm256_storeu_si256((__m256i *)&found->dxy, dxy);
}

#include "ed25519_curve_code.h"

const struct iomt_curve iomt_curve_adx = {CURVE_FUNCTIONS};
#else
typedef int iomt_no_adx_here; /* a file may not be empty */
#endif
