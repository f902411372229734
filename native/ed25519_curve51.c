/* The curve in limbs of 51 bits, for every 64-bit machine. */
#include "ed25519_field51.h"

#include "ed25519_curve_code.h"

const struct iomt_curve iomt_curve51 = {CURVE_FUNCTIONS};
