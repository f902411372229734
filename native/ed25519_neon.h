/* What the two lanes of NEON have inside, for their test; no vector type, so any file may
 * include it. */
#ifndef IOMT_ED25519_NEON_H
#define IOMT_ED25519_NEON_H

#include "ed25519.h"

#if defined(IOMT_ARM64)

#define IOMT_NEON_LANES 2

/* Whether the encoding of [s] B - [k] A is `r`, byte for byte; no, if the key is no point: of
 * two signatures, a bit for each lane, and of one that takes both lanes. */
unsigned iomt_neon_are_differences(const uint8_t *const r[IOMT_NEON_LANES],
                                   const uint8_t *const keys[IOMT_NEON_LANES],
                                   const struct iomt_scalar s[IOMT_NEON_LANES],
                                   const struct iomt_scalar k[IOMT_NEON_LANES]);
int iomt_neon_is_difference(const uint8_t r[32], const uint8_t key[32],
                            const struct iomt_scalar *s, const struct iomt_scalar *k);

#endif

#endif
