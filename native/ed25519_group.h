/* Points of the curve -x^2 + y^2 = 1 + d x^2 y^2 modulo p, and their multiples. */
#ifndef IOMT_ED25519_GROUP_H
#define IOMT_ED25519_GROUP_H

#include "ed25519_field.h"

/* Extended coordinates: x = X/Z, y = Y/Z, xy = T/Z; all tight. */
struct iomt_point {
    struct iomt_field x, y, z, t;
};

/* ---- Tables (ed25519_tables.c) ---- */

#define IOMT_COMB_PLACES 32
#define IOMT_COMB_MULTIPLES 8
#define IOMT_BASE_PARTS 4
#define IOMT_BASE_MULTIPLES 64

extern const struct iomt_packed iomt_curve_d;
extern const struct iomt_packed iomt_root_of_minus_one;

/* [i][j] = [(j + 1) 256^i] B */
extern const struct iomt_packed_point iomt_base_comb[IOMT_COMB_PLACES][IOMT_COMB_MULTIPLES];

/* [i][j] = [(2 j + 1) 2^(64 i)] B */
extern const struct iomt_packed_point iomt_base_odd[IOMT_BASE_PARTS][IOMT_BASE_MULTIPLES];

/* ---- Functions (ed25519_group.c) ---- */

/* The encoding of a point, RFC 8032 5.1.2. Constant time. */
void iomt_point_encode_secret(uint8_t bytes[32], const struct iomt_point *point);

/* [scalar] B, in constant time: every table is read whole. */
void iomt_base_multiple_secret(struct iomt_point *out, const struct iomt_scalar *scalar);

/* [s] B + [k] (-A) with A as rule 2 decoded it. */
void iomt_verify_multiple(struct iomt_point *out, const struct iomt_scalar *s,
                          const struct iomt_scalar *k, const struct iomt_packed *x,
                          const struct iomt_packed *y);

/* The same of a prepared key, which must be a point. */
void iomt_verify_multiple_prepared(struct iomt_point *out, const struct iomt_scalar *s,
                                   const struct iomt_scalar *k,
                                   const iomt_ed25519_prepared *prepared);

#endif
