/* Points of the curve -x^2 + y^2 = 1 + d x^2 y^2 modulo p and their multiples: code that is
 * compiled once for each way to compute modulo p. A file includes a field, ed25519_field51.h
 * or ed25519_field_adx.h, then this, and puts CURVE_FUNCTIONS into its struct iomt_curve.
 * Here: sums, encoding and decoding, [scalar] B for signing; the part for verifying is
 * ed25519_curve_verify.h.
 *
 * The formulas are those of Hisil, Wong, Carter and Dawson, "Twisted Edwards curves
 * revisited" (2008), for a = -1: sums in extended coordinates, complete on this curve (they
 * hold for equal, opposite and neutral points), and doublings that do not need T.
 *
 * The comments tight, sum and loose are explained in ed25519_field51.h. */
#ifndef IOMT_ED25519_CURVE_CODE_H
#define IOMT_ED25519_CURVE_CODE_H

#include "ed25519_relation.h"

#include <string.h>

/* Extended coordinates: x = X/Z, y = Y/Z, xy = T/Z; all tight. */
struct point {
    struct iomt_field x, y, z, t;
};

/* A point to be added: (Y + X, Y - X, 2 d T, 2 Z), loose. */
struct addend {
    struct iomt_field plus, minus, t2d, z2;
};

static const struct iomt_field one = {{1}};
static const struct point neutral = {{{0}}, {{1}}, {{1}}, {{0}}};

/* ---- Powers and comparison ---- */

static void square_times(struct iomt_field *out, const struct iomt_field *a, int times)
{
    struct iomt_field t = *a;

    for (int i = 0; i < times; i++)
        iomt_field_square(&t, &t);
    *out = t;
}

/* a^((p - 5) / 8), from which a square root is made. Each `ones` is a^(2^n - 1); n doubles
 * (or nearly) by squaring n times and multiplying by itself. */
static void root_power(struct iomt_field *out, const struct iomt_field *a)
{
    struct iomt_field base = *a, t, ones2, ones5, ones10, ones20, ones50, ones100;

    iomt_field_square(&t, &base);
    iomt_field_mul(&ones2, &t, &base);
    iomt_field_square(&t, &ones2);
    iomt_field_mul(&t, &t, &base);
    square_times(&t, &t, 2);
    iomt_field_mul(&ones5, &t, &ones2);
    square_times(&t, &ones5, 5);
    iomt_field_mul(&ones10, &t, &ones5);
    square_times(&t, &ones10, 10);
    iomt_field_mul(&ones20, &t, &ones10);
    square_times(&t, &ones20, 20);
    iomt_field_mul(&t, &t, &ones20);
    square_times(&t, &t, 10);
    iomt_field_mul(&ones50, &t, &ones10);
    square_times(&t, &ones50, 50);
    iomt_field_mul(&ones100, &t, &ones50);
    square_times(&t, &ones100, 100);
    iomt_field_mul(&t, &t, &ones100);
    square_times(&t, &t, 50);
    iomt_field_mul(&t, &t, &ones50); /* 2^250 - 1 */
    square_times(&t, &t, 2);
    iomt_field_mul(out, &t, &base); /* (2^250 - 1) 2^2 + 1 = 2^252 - 3 = (p - 5) / 8 */
}

/* The inverse; of 0 it is 0. */
static void invert(struct iomt_field *out, const struct iomt_field *a)
{
    struct iomt_packed packed;

    iomt_field_pack(&packed, a);
    iomt_invert_secret(&packed, &packed);
    iomt_field_unpack(out, &packed);
    iomt_wipe(&packed, sizeof packed);
}

static int is_zero(const struct iomt_field *a)
{
    struct iomt_packed packed;

    iomt_field_pack(&packed, a);
    return (packed.words[0] | packed.words[1] | packed.words[2] | packed.words[3]) == 0;
}

/* ---- Sums and doublings ---- */

/* All formulas end with these: X = E F, Y = G H, Z = F G, T = E H. */
static inline void finish(struct point *out, const struct iomt_field *e,
                          const struct iomt_field *f, const struct iomt_field *g,
                          const struct iomt_field *h, int with_t)
{
    iomt_field_mul(&out->x, e, f);
    iomt_field_mul(&out->y, g, h);
    iomt_field_mul(&out->z, f, g);
    if (with_t)
        iomt_field_mul(&out->t, e, h);
}

/* Does not read p->t, and sets it only if asked: a doubling after this one would not read
 * it either. */
static inline void double_point(struct point *p, int with_t)
{
    struct iomt_field a, b, c, sum, e, f, g, h;

    iomt_field_square(&a, &p->x);
    iomt_field_square(&b, &p->y);
    iomt_field_square(&c, &p->z);
    iomt_field_add(&c, &c, &c);
    iomt_field_add(&sum, &p->x, &p->y);
    iomt_field_square(&sum, &sum);
    iomt_field_add(&h, &a, &b);
    iomt_field_sub(&e, &h, &sum);
    iomt_field_sub(&g, &a, &b);
    iomt_field_add(&f, &c, &g); /* at most 7/4 of 2^53 a limb, so loose */
    finish(p, &e, &f, &g, &h, with_t);
}

/* What sums have in common, from A = (Y1 - X1)(Y2 - X2), B = (Y1 + X1)(Y2 + X2),
 * C = 2 d T1 T2 and D = 2 Z1 Z2. With `minus`, the point to add is negated: A and B were
 * made with its coordinates exchanged, and C changes sign. */
static inline void finish_sum(struct point *p, const struct iomt_field *a,
                              const struct iomt_field *b, const struct iomt_field *c,
                              const struct iomt_field *d, int minus, int with_t)
{
    struct iomt_field e, f, g, h;

    iomt_field_sub(&e, b, a);
    iomt_field_add(&h, b, a);
    if (minus) {
        iomt_field_add(&f, d, c);
        iomt_field_sub(&g, d, c);
    } else {
        iomt_field_sub(&f, d, c);
        iomt_field_add(&g, d, c);
    }
    finish(p, &e, &f, &g, &h, with_t);
}

static inline void add(struct point *p, const struct addend *q, int minus, int with_t)
{
    struct iomt_field a, b, c, d;

    iomt_field_sub(&a, &p->y, &p->x);
    iomt_field_add(&b, &p->y, &p->x);
    iomt_field_mul(&a, &a, minus ? &q->plus : &q->minus);
    iomt_field_mul(&b, &b, minus ? &q->minus : &q->plus);
    iomt_field_mul(&c, &p->t, &q->t2d);
    iomt_field_mul(&d, &p->z, &q->z2);
    finish_sum(p, &a, &b, &c, &d, minus, with_t);
}

/* The same for an affine point out of a table. */
static inline void add_packed(struct point *p, const struct iomt_packed_point *q, int minus,
                              int with_t)
{
    struct iomt_field a, b, c, d, plus, less, t2d;

    iomt_field_unpack(&plus, minus ? &q->y_minus_x : &q->y_plus_x);
    iomt_field_unpack(&less, minus ? &q->y_plus_x : &q->y_minus_x);
    iomt_field_unpack(&t2d, &q->t2d);
    iomt_field_sub(&a, &p->y, &p->x);
    iomt_field_add(&b, &p->y, &p->x);
    iomt_field_mul(&a, &a, &less);
    iomt_field_mul(&b, &b, &plus);
    iomt_field_mul(&c, &p->t, &t2d);
    iomt_field_add(&d, &p->z, &p->z);
    finish_sum(p, &a, &b, &c, &d, minus, with_t);
}

static void twice_d(struct iomt_field *out)
{
    iomt_field_unpack(out, &iomt_curve_d);
    iomt_field_add(out, out, out);
}

static void to_addend(struct addend *out, const struct point *p)
{
    struct iomt_field d2;

    twice_d(&d2);
    iomt_field_add(&out->plus, &p->y, &p->x);
    iomt_field_sub(&out->minus, &p->y, &p->x);
    iomt_field_mul(&out->t2d, &p->t, &d2);
    iomt_field_add(&out->z2, &p->z, &p->z);
}

/* ---- Encoding and decoding ---- */

static void encode_secret(uint8_t bytes[32], struct iomt_packed *packed_x,
                          const struct point *point)
{
    struct iomt_field inverse, x, y;
    struct iomt_packed packed_y;

    invert(&inverse, &point->z);
    iomt_field_mul(&x, &point->x, &inverse);
    iomt_field_mul(&y, &point->y, &inverse);
    iomt_field_pack(packed_x, &x);
    iomt_field_pack(&packed_y, &y);
    packed_y.words[3] |= packed_x->words[0] << 63;
    for (int i = 0; i < 4; i++)
        iomt_store_le64(bytes + 8 * i, packed_y.words[i]);
}

/* RFC 8032 5.1.3: x^2 = u/v, and the candidate for its root is u v^3 (u v^7)^((p-5)/8). */
static int decode_key(struct iomt_packed *x, struct iomt_packed *y, const uint8_t key[32])
{
    struct iomt_field fy, fx, u, v, v3, t, check, root;
    struct iomt_packed bits;
    uint64_t sign;

    for (int i = 0; i < 4; i++)
        bits.words[i] = iomt_load_le64(key + 8 * i);
    sign = bits.words[3] >> 63;
    bits.words[3] &= UINT64_MAX >> 1;
    iomt_field_unpack(&fy, &bits);

    iomt_field_square(&t, &fy);
    iomt_field_sub(&u, &t, &one);
    iomt_field_unpack(&v, &iomt_curve_d);
    iomt_field_mul(&v, &v, &t);
    iomt_field_add(&v, &v, &one);
    iomt_field_square(&t, &v);
    iomt_field_mul(&v3, &t, &v);
    iomt_field_square(&t, &v3);
    iomt_field_mul(&t, &t, &v);
    iomt_field_mul(&t, &t, &u); /* u v^7 */
    root_power(&t, &t);
    iomt_field_mul(&t, &t, &v3);
    iomt_field_mul(&fx, &t, &u);

    iomt_field_square(&check, &fx);
    iomt_field_mul(&check, &check, &v);
    iomt_field_mul(&u, &u, &one); /* tight, for what follows */
    iomt_field_sub(&t, &check, &u);
    if (!is_zero(&t)) {
        iomt_field_add(&t, &check, &u);
        if (!is_zero(&t))
            return 0;
        iomt_field_unpack(&root, &iomt_root_of_minus_one);
        iomt_field_mul(&fx, &fx, &root);
    }
    iomt_field_pack(y, &fy);
    iomt_field_pack(x, &fx);
    if ((x->words[0] & 1) != sign) {
        struct iomt_field zero = {{0}};

        iomt_field_sub(&fx, &zero, &fx);
        iomt_field_pack(x, &fx); /* 0 stays 0 */
    }
    return 1;
}

/* ---- [scalar] B in constant time ---- */

/* The compiler must not see that a mask is all or nothing: it could make a branch of it. */
static inline uint64_t hidden(uint64_t value)
{
    __asm__("" : "+r"(value));
    return value;
}

/* All ones if a == b, otherwise 0; both below 2^63. */
static inline uint64_t equal_mask(uint64_t a, uint64_t b)
{
    return hidden(0 - (((a ^ b) - 1) >> 63));
}

/* Rows of the table are read in vectors, of two words unless this field's file says that it
 * may use larger ones. */
#ifndef ROW_VECTOR_SIZE
#define ROW_VECTOR_SIZE 16
#endif
#define ROW_VECTORS (sizeof(struct iomt_comb_point) / ROW_VECTOR_SIZE)

typedef uint64_t row_vector
    __attribute__((vector_size(ROW_VECTOR_SIZE), aligned(8), may_alias));

/* The multiple [size] of a row, all of which is read; all zeros if size is 0. */
static inline void find_in_row_secret(struct iomt_comb_point *found,
                                      const struct iomt_comb_point row[IOMT_COMB_MULTIPLES],
                                      uint64_t size)
{
    const row_vector zero = {0}, wanted = zero + size;
    row_vector sum[ROW_VECTORS] = {{0}}, at = zero;

    for (int j = 0; j < IOMT_COMB_MULTIPLES; j++) {
        const row_vector *point = (const row_vector *)(const void *)&row[j];
        row_vector mask;

        at += 1;
        mask = (row_vector)(at == wanted);
        for (size_t v = 0; v < ROW_VECTORS; v++)
            sum[v] |= point[v] & mask;
    }
    memcpy(found, sum, sizeof *found);
}

/* (y + x) / 2, (y - x) / 2 and d x y of an affine point; tight. */
struct chosen {
    struct iomt_field plus, minus, dxy;
};

/* The row's multiple [digit], -16 <= digit <= 16, by reading the whole row. What is left in
 * `found` is secret. */
static inline void choose_secret(struct chosen *out, struct iomt_comb_point *found,
                                 const struct iomt_comb_point row[IOMT_COMB_MULTIPLES],
                                 int8_t digit)
{
    const uint64_t negative = hidden(0 - ((uint64_t)(int64_t)digit >> 63));
    const uint64_t size = ((uint64_t)(int64_t)digit ^ negative) - negative;
    const uint64_t none = equal_mask(size, 0);
    struct iomt_field zero = {{0}}, opposite;

    find_in_row_secret(found, row, size);
    for (int w = 0; w < 4; w++) { /* the opposite has the first two exchanged */
        uint64_t change = (found->half_sum.words[w] ^ found->half_difference.words[w]) & negative;
        uint64_t neutral_word = iomt_half.words[w] & none;

        found->half_sum.words[w] ^= change | neutral_word;
        found->half_difference.words[w] ^= change | neutral_word;
    }
    iomt_field_unpack(&out->plus, &found->half_sum);
    iomt_field_unpack(&out->minus, &found->half_difference);
    iomt_field_unpack(&out->dxy, &found->dxy);
    iomt_field_sub_tight(&opposite, &zero, &out->dxy);
    for (int i = 0; i < IOMT_LIMBS; i++)
        out->dxy.limb[i] ^= (out->dxy.limb[i] ^ opposite.limb[i]) & negative;
}

/* As add_packed; with all of the point halved, E, F, G and H are half of what they were,
 * which gives the same point, and D is Z. */
static inline void add_chosen(struct point *p, const struct chosen *q, int with_t)
{
    struct iomt_field a, b, c, e, f, g, h;

    iomt_field_sub_tight(&a, &p->y, &p->x);
    iomt_field_add_tight(&b, &p->y, &p->x);
    iomt_field_mul(&a, &a, &q->minus);
    iomt_field_mul(&b, &b, &q->plus);
    iomt_field_mul(&c, &p->t, &q->dxy);
    iomt_field_sub_tight(&e, &b, &a);
    iomt_field_add_tight(&h, &b, &a);
    iomt_field_sub_tight(&f, &p->z, &c);
    iomt_field_add_tight(&g, &p->z, &c);
    finish(p, &e, &f, &g, &h, with_t);
}

/* scalar = sum of digits[i] 32^i, and row i of the table has the multiples of [32^i] B: a sum
 * of 51 points, without a doubling. A row is read while the point before it is added. */
static void encode_base_multiple_secret(uint8_t bytes[32], struct iomt_packed *x,
                                        const struct iomt_scalar *scalar)
{
    struct point sum = neutral;
    struct iomt_comb_point found;
    struct chosen chosen, next;
    int8_t digits[IOMT_COMB_PLACES];

    iomt_scalar_radix32(scalar, digits);
    choose_secret(&next, &found, iomt_base_comb[0], digits[0]);
    for (int i = 1; i < IOMT_COMB_PLACES; i++) {
        chosen = next;
        choose_secret(&next, &found, iomt_base_comb[i], digits[i]);
        add_chosen(&sum, &chosen, 1);
    }
    add_chosen(&sum, &next, 0);
    encode_secret(bytes, x, &sum);
    iomt_wipe(digits, sizeof digits);
    iomt_wipe(&found, sizeof found);
    iomt_wipe(&chosen, sizeof chosen);
    iomt_wipe(&next, sizeof next);
    iomt_wipe(&sum, sizeof sum);
}

#include "ed25519_curve_verify.h"

#define CURVE_FUNCTIONS                                              \
    .encode_base_multiple_secret = encode_base_multiple_secret,      \
    .decode_key = decode_key,                                        \
    .is_difference = is_difference,                                  \
    .prepare = prepare,                                              \
    .make_comb = make_comb,                                          \
    .encode_difference_prepared = encode_difference_prepared,        \
    .is_difference_prepared = is_difference_prepared

#endif
