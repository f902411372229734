/* The curve in words of 64 bits, for x86-64 with BMI2 and ADX. */
#include "backend.h"

#if defined(__x86_64__)
#include "ed25519_field_adx.h"

#include "ed25519_curve_code.h"

const struct iomt_curve iomt_curve_adx = {CURVE_FUNCTIONS};
#else
typedef int iomt_no_adx_here; /* a file may not be empty */
#endif
