/* The curve in words of 64 bits, for x86-64 with BMI2 and ADX; rows of the table for signing
 * are read in vectors of AVX2. */
#include "ed25519.h"

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#else
#pragma GCC target("avx2")
#endif

#include "ed25519_field_adx.h"

#define ROW_VECTOR_SIZE 32
#include "ed25519_curve_code.h"

const struct iomt_curve iomt_curve_adx = {CURVE_FUNCTIONS};

#if defined(__clang__)
#pragma clang attribute pop
#endif
#else
typedef int iomt_no_adx_here; /* a file may not be empty */
#endif
