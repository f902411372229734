/* A short relation instead of a long scalar: with it a verification doubles half as often.
 *
 * Whether [S] B - [k] A = R, exactly and not but for a part of small order, is what rule 3 of
 * ed25519.h asks where R's bytes encode a point as RFC 8032 5.1.2 does; where they do not, they
 * are the encoding of no sum, and the answer is no. The order of every point divides 8 L. So multiplying by
 * an odd v with 0 < v < L loses nothing: v is invertible modulo 8 L (L is a prime), and
 *
 *     [S] B - [k] A - R = 0   if and only if   [v S] B - [v k] A - [v] R = 0.
 *
 * B has the order L, so v S counts modulo L; A may have any order, so v k counts modulo 8 L
 * and not modulo L. What is looked for is a v whose product with k is as short as itself:
 * about 128 bits each (Antipa, Brown, Gallant, Lambert, Struik and Vanstone, "Accelerated
 * verification of ECDSA signatures", 2005). */
#ifndef IOMT_ED25519_RELATION_H
#define IOMT_ED25519_RELATION_H

#include "ed25519.h"

/* v k = u modulo 8 L, or v k = -u if `negative`; v is odd and below L, u below 2^253. If there
 * is nothing short, v = 1 and u = k. */
struct iomt_relation {
    struct iomt_scalar u, v; /* u need not be below L */
    int negative;
};

/* 8 L, with room for a sign in the fifth word */
extern const uint64_t iomt_eight_orders[5];

void iomt_ed25519_relation(struct iomt_relation *relation, const struct iomt_scalar *k);

/* v s modulo L: what B is multiplied by in place of s. */
void iomt_ed25519_scale(struct iomt_scalar *vs, const struct iomt_relation *relation,
                        const struct iomt_scalar *s);

#endif
