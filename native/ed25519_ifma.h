/* What the files of the eight lanes share; no vector type, so any file may include it. */
#ifndef IOMT_ED25519_IFMA_H
#define IOMT_ED25519_IFMA_H

#include "ed25519_relation.h"

#define IOMT_IFMA_LANES 8

/* iomt_ed25519_challenge of each of the first `count` items, 1 to 8; what `k` has for the
 * others is not defined (ed25519_ifma_hash.c). */
void iomt_ifma_challenges(struct iomt_scalar k[IOMT_IFMA_LANES],
                          const struct iomt_ed25519_item *const items[IOMT_IFMA_LANES],
                          size_t count);

/* Modulo L: eight numbers of eight words, word by word; and products of scalars, which need
 * not be below L but below 2^256 (ed25519_ifma_scalar.c). */
void iomt_ifma_reduce(struct iomt_scalar out[IOMT_IFMA_LANES],
                      const uint64_t numbers[8][IOMT_IFMA_LANES]);
void iomt_ifma_products(struct iomt_scalar out[IOMT_IFMA_LANES],
                        const struct iomt_scalar a[IOMT_IFMA_LANES],
                        const struct iomt_scalar b[IOMT_IFMA_LANES]);

/* iomt_ed25519_relation of eight scalars, not always the same one; bit l of what it gives:
 * that of lane l is negative (ed25519_ifma_relation.c). */
unsigned iomt_ifma_relations(struct iomt_scalar u[IOMT_IFMA_LANES],
                             struct iomt_scalar v[IOMT_IFMA_LANES],
                             const struct iomt_scalar k[IOMT_IFMA_LANES]);

/* Bit l: the encoding of [s] B - [k] A is R, of the key and signature in lane l; no, if the
 * key is no point. Keys are not prepared (ed25519_ifma.c). */
unsigned iomt_ifma_are_differences(const struct iomt_ed25519_item *const items[IOMT_IFMA_LANES],
                                   const struct iomt_scalar s[IOMT_IFMA_LANES],
                                   const struct iomt_scalar k[IOMT_IFMA_LANES]);

/* The backend's is_difference (ed25519_ifma_check.c). */
int iomt_ifma_is_difference(const uint8_t bytes[32], const struct iomt_packed *x,
                            const struct iomt_scalar *s, const struct iomt_scalar *k,
                            const struct iomt_ed25519_check *check);

/* Verification of one item, and what it is made of: whether the encoding of [s] B - [k] A is
 * `r`, byte for byte; no, if the key is no point (ed25519_ifma_one.c). */
int iomt_ifma_verify_one(const struct iomt_ed25519_item *item);
int iomt_ifma_is_difference_new(const uint8_t r[32], const uint8_t key[32],
                                const struct iomt_scalar *s, const struct iomt_scalar *k);
int iomt_ifma_is_difference_known(const uint8_t r[32], const iomt_ed25519_prepared *prepared,
                                  const struct iomt_scalar *s, const struct iomt_scalar *k);

#endif
