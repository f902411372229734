/* Ed25519 (RFC 8032) inside the core: what its files share. The public face is iomt_core.h.
 *
 *   sha512.c            SHA-512 (FIPS 180-4)
 *   ed25519_scalar.c    numbers modulo L, the order of the base point
 *   ed25519_field*.h    numbers modulo p = 2^255 - 19: in limbs of 51 bits, and with ADX
 *   ed25519_inverse.c   1/a modulo p
 *   ed25519_curve*      points, decoding, multiples, compiled for each of these fields
 *   ed25519_tables.c    multiples of the base point, written by make_ed25519_tables.py
 *   ed25519.c           keys, signing, verifying; the table of backends
 *   ed25519_lanes.h     verification in lanes, several signatures side by side
 *   ed25519_ifma.c      eight lanes of AVX-512 IFMA
 *   ed25519_ifma_one.c  one signature in four of them
 *   ed25519_ifma_*.[ch] what both are made of
 *   ed25519_relation.c  short scalars in place of a long one
 *   ed25519_neon.c      two lanes of NEON
 *
 * One rule of validity, in every backend, for one signature and for many: the answer that
 * OpenSSL gives.
 *   1. S, the second half of the signature as a little-endian number, is below L.
 *   2. The public key's 32 bytes give a point A: their low 255 bits, modulo p, are y (a y
 *      that is not below p is accepted); some x fits the curve; the top bit chooses the x
 *      of that parity, and is ignored where x = 0 (both parities give x = 0).
 *   3. The encoding of [S]B - [k]A equals the first half of the signature, byte for byte,
 *      with k = SHA-512(R || A || message) mod L over the bytes as they were given.
 * So the bytes of R decide (they may be decoded only if that answers the same: see
 * ed25519_relation.h), there is no cofactor, and k is reduced modulo L before it
 * multiplies (which matters where A has a part of small order).
 *
 * Names that end in _secret take secrets: no branch, address or division depends on them.
 * All others may take any time that their input makes them take. */
#ifndef IOMT_ED25519_H
#define IOMT_ED25519_H

#include "backend.h"
#include "iomt_core.h"

#ifndef __SIZEOF_INT128__
#error "Ed25519 needs a 64-bit machine and a compiler with unsigned __int128"
#endif

__extension__ typedef unsigned __int128 iomt_uint128;

/* ---- Little-endian words ---- */

static inline uint64_t iomt_load_le64(const uint8_t *from)
{
    uint64_t word = 0;

    for (int i = 7; i >= 0; i--)
        word = word << 8 | from[i];
    return word;
}

static inline void iomt_store_le64(uint8_t *to, uint64_t word)
{
    for (int i = 0; i < 8; i++)
        to[i] = (uint8_t)(word >> (8 * i));
}

/* Overwrites memory in a way that no compiler leaves out. */
void iomt_wipe(void *memory, size_t size);

/* ---- SHA-512 (sha512.c) ---- */

#define IOMT_SHA512_BLOCK_SIZE 128
#define IOMT_SHA512_SIZE 64

struct iomt_sha512 {
    uint64_t state[8];
    uint64_t size; /* bytes so far; below 2^61, whose length in bits fits in 64 */
    uint8_t block[IOMT_SHA512_BLOCK_SIZE];
};

void iomt_sha512_start(struct iomt_sha512 *hash);
void iomt_sha512_add(struct iomt_sha512 *hash, const uint8_t *bytes, size_t size);
void iomt_sha512_end(struct iomt_sha512 *hash, uint8_t digest[IOMT_SHA512_SIZE]);

/* Takes `state` (8 words in native byte order) `count` blocks further. */
void iomt_sha512_compress(uint64_t state[8], const uint8_t *blocks, size_t count);

extern const uint64_t iomt_sha512_initial[8]; /* FIPS 180-4, 5.3.5 */
extern const uint64_t iomt_sha512_k[80];      /* FIPS 180-4, 4.2.3 */

/* ---- Scalars: numbers modulo L = 2^252 + 27742317777372353535851937790883648493 ---- */

struct iomt_scalar {
    uint64_t words[4]; /* little-endian, always below L */
};

/* 1 if the 32 bytes are a number below L, which is then in `scalar`; otherwise 0. */
int iomt_scalar_decode(struct iomt_scalar *scalar, const uint8_t bytes[32]);

void iomt_scalar_encode(const struct iomt_scalar *scalar, uint8_t bytes[32]);

/* The 64 bytes as a little-endian number, modulo L, in constant time. */
void iomt_scalar_reduce_secret(struct iomt_scalar *scalar, const uint8_t bytes[64]);

/* a * b + c modulo L, in constant time. `out` may be any of the others. */
void iomt_scalar_muladd_secret(struct iomt_scalar *out, const struct iomt_scalar *a,
                               const struct iomt_scalar *b, const struct iomt_scalar *c);

/* The same in radix 32: each -16 .. 15, the last 0 .. 8. */
void iomt_scalar_radix32(const struct iomt_scalar *scalar, int8_t digits[51]);

/* Signed digits of a scalar in radix 16, least significant first, each -8 .. 7 but the last,
 * which is 0 .. 2: scalar = sum of digits[i] 16^i. */
void iomt_scalar_radix16(const struct iomt_scalar *scalar, int8_t digits[64]);

/* k = SHA-512(R || A || message) mod L; `r` and `key` are the bytes as given. */
void iomt_ed25519_challenge(struct iomt_scalar *k, const uint8_t r[32], const uint8_t key[32],
                            const uint8_t *message, size_t size);

/* ---- Public keys ---- */

/* A number modulo p in 4 little-endian words, below p: the same for every backend,
 * whatever limbs it computes in. */
struct iomt_packed {
    uint64_t words[4];
};

/* An affine point (x, y) as additions want it; 96 bytes without padding. The neutral point
 * is (1, 1, 0); the negative has the first two changed and the third negated. */
struct iomt_packed_point {
    struct iomt_packed y_plus_x, y_minus_x, t2d; /* t2d = 2 d x y */
};

/* A point of the table for signing: (y + x) / 2, (y - x) / 2 and d x y. */
struct iomt_comb_point {
    struct iomt_packed half_sum, half_difference, dxy;
};

/* 1/a modulo p, and 0 for 0, below p; `a` is below p. In constant time, faster than a power:
 * 600 division steps (ed25519_inverse.c). `out` may be `a`. */
void iomt_invert_secret(struct iomt_packed *out, const struct iomt_packed *a);

/* What iomt_ed25519_prepare makes of a key: multiples[j][i] = [(i + 1) 2^(64 j)] (-A), so
 * that a scalar's digits need only 64 doublings in all: digit 64 j + q of a signed-digit
 * string belongs to table j at step q. */
#define IOMT_PREPARED_PARTS 4
#define IOMT_PREPARED_MULTIPLES 8

struct iomt_ed25519_prepared {
    uint64_t is_point; /* 0: the key is no point, nothing verifies, no multiple is set */
    uint8_t key[IOMT_ED25519_KEY_SIZE]; /* what it was made of */
    struct iomt_packed_point multiples[IOMT_PREPARED_PARTS][IOMT_PREPARED_MULTIPLES];
};

/* ---- Checking what was signed, in lanes ---- */

/* A multiple [i] of a point as the eight lanes want it, in limbs of 51 bits; [0] is neutral. */
struct iomt_comb_entry {
    uint64_t plus[5], minus[5], t2d[5], unused; /* Y + X, Y - X, 2 d X Y */
};

#define IOMT_CHECK_PLACES 64
#define IOMT_CHECK_MULTIPLES 9

typedef struct iomt_comb_entry iomt_check_comb[IOMT_CHECK_PLACES][IOMT_CHECK_MULTIPLES];

/* [i][j] = [j 16^i] of B and of -A: with it [s] B - [k] A is a sum of entries, one for each
 * digit in radix 16, without a doubling. */
struct iomt_ed25519_check {
    uint64_t is_ready; /* 0: nothing else is set */
    iomt_check_comb base, key;
};

/* ---- The curve in 64-bit scalar code (ed25519_curve_code.h) ---- */

/* One way to compute on it. The encodings are those of RFC 8032 5.1.2. */
struct iomt_curve {
    /* The encoding of [scalar] B, and its x as it stands there, in constant time. */
    void (*encode_base_multiple_secret)(uint8_t bytes[32], struct iomt_packed *x,
                                        const struct iomt_scalar *scalar);

    /* Rule 2. 1 and the affine coordinates of A if the key is a point, otherwise 0. */
    int (*decode_key)(struct iomt_packed *x, struct iomt_packed *y, const uint8_t key[32]);

    /* Rule 3: whether `r` is the encoding of [s] B - [k] A, with A as decode_key gave it. */
    int (*is_difference)(const uint8_t r[32], const struct iomt_scalar *s,
                         const struct iomt_scalar *k, const struct iomt_packed *x,
                         const struct iomt_packed *y);

    /* iomt_ed25519_prepare */
    int (*prepare)(iomt_ed25519_prepared *prepared, const uint8_t key[32]);

    /* The multiples of -A; 0 if the key is no point. */
    int (*make_comb)(iomt_check_comb comb, const uint8_t key[32]);

    /* The encoding of [s] B - [k] A; the key must be a point. */
    void (*encode_difference_prepared)(uint8_t bytes[32], const struct iomt_scalar *s,
                                       const struct iomt_scalar *k,
                                       const iomt_ed25519_prepared *prepared);

    /* Whether `bytes` are what encode_difference_prepared gives, for somebody who knows
     * what x should be: that saves the inversion. A wrong x is a no. */
    int (*is_difference_prepared)(const uint8_t bytes[32], const struct iomt_packed *x,
                                  const struct iomt_scalar *s, const struct iomt_scalar *k,
                                  const iomt_ed25519_prepared *prepared);
};

extern const struct iomt_curve iomt_curve51;   /* everywhere */
extern const struct iomt_curve iomt_curve_adx; /* x86-64 with IOMT_CPU_ADX */

/* Both combs (ed25519.c); a key that is no point leaves the check not ready. */
void iomt_ed25519_make_check(const struct iomt_curve *curve, struct iomt_ed25519_check *check,
                             const uint8_t key[IOMT_ED25519_KEY_SIZE]);

/* ---- Tables (ed25519_tables.c) ---- */

#define IOMT_COMB_PLACES 51
#define IOMT_COMB_MULTIPLES 16
#define IOMT_BASE_PARTS 4
#define IOMT_BASE_MULTIPLES 64

extern const struct iomt_packed iomt_curve_d;
extern const struct iomt_packed iomt_root_of_minus_one;
extern const struct iomt_packed iomt_half; /* 1/2 */

/* [i][j] = [(j + 1) 32^i] B */
extern const struct iomt_comb_point iomt_base_comb[IOMT_COMB_PLACES][IOMT_COMB_MULTIPLES];

/* [i][j] = [(2 j + 1) 2^(64 i)] B */
extern const struct iomt_packed_point iomt_base_odd[IOMT_BASE_PARTS][IOMT_BASE_MULTIPLES];

#define IOMT_BASE_ROW 128

/* [i][j] = [(j + 1) 2^(64 i)] B, for lanes (ed25519_lane_tables.c) */
extern const struct iomt_packed_point iomt_base_rows[IOMT_BASE_PARTS][IOMT_BASE_ROW];

/* ---- Verification ---- */

/* One of the signatures of a call. */
struct iomt_ed25519_item {
    const uint8_t *key;       /* 32 bytes */
    const uint8_t *signature; /* 64 bytes */
    const uint8_t *message;   /* NULL only if size is 0 */
    size_t size;
    const iomt_ed25519_prepared *prepared; /* of this very key; or NULL: not prepared */
};

/* The rule for one item in 64-bit scalar code. */
int iomt_ed25519_verify_item(const struct iomt_curve *curve,
                             const struct iomt_ed25519_item *item);

/* The most items that a backend is handed at once: enough to share one inversion. */
#define IOMT_ED25519_GROUP 64

/* One way to do all of it. To add one: write its file and a line in the table of ed25519.c. */
struct iomt_ed25519_backend {
    const char *name;
    uint32_t needs; /* IOMT_CPU_ bits, as in backend.h */
    uint32_t lanes;

    /* The scalar code: for signing and for keys. */
    const struct iomt_curve *curve;

    /* is_difference_prepared by a check that is ready; NULL: there is no faster way. */
    int (*is_difference)(const uint8_t bytes[32], const struct iomt_packed *x,
                         const struct iomt_scalar *s, const struct iomt_scalar *k,
                         const struct iomt_ed25519_check *check);

    /* answers[i] = 1 or 0 by the rule, for 1 <= count <= IOMT_ED25519_GROUP; few may go
     * another way than many. */
    void (*verify)(const struct iomt_ed25519_item *items, size_t count, uint8_t *answers);
};

#if defined(__x86_64__)
extern const iomt_ed25519_backend iomt_ed25519_backend_ifma; /* ed25519_ifma.c */
#elif defined(IOMT_ARM64)
extern const iomt_ed25519_backend iomt_ed25519_backend_neon; /* ed25519_neon.c */
#endif

#endif
