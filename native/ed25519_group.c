/* Points of the curve and their multiples.
 *
 * The formulas are those of Hisil, Wong, Carter and Dawson, "Twisted Edwards curves
 * revisited" (2008), for a = -1: sums in extended coordinates, complete on this curve (they
 * hold for equal, opposite and neutral points), and doublings that do not need T. */
#include "ed25519_group.h"

#include <string.h>

/* A point to be added: (Y + X, Y - X, 2 d T, 2 Z), loose. */
struct addend {
    struct iomt_field plus, minus, t2d, z2;
};

static const struct iomt_point neutral = {
    {{0, 0, 0, 0, 0}}, {{1, 0, 0, 0, 0}}, {{1, 0, 0, 0, 0}}, {{0, 0, 0, 0, 0}}};

/* ---- Sums and doublings ---- */

/* All formulas end with these: X = E F, Y = G H, Z = F G, T = E H. */
static inline void finish(struct iomt_point *out, const struct iomt_field *e,
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
static inline void double_point(struct iomt_point *p, int with_t)
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
static inline void finish_sum(struct iomt_point *p, const struct iomt_field *a,
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

static inline void add(struct iomt_point *p, const struct addend *q, int minus, int with_t)
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
static inline void add_packed(struct iomt_point *p, const struct iomt_packed_point *q, int minus,
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

static void to_addend(struct addend *out, const struct iomt_point *p)
{
    struct iomt_field d2;

    twice_d(&d2);
    iomt_field_add(&out->plus, &p->y, &p->x);
    iomt_field_sub(&out->minus, &p->y, &p->x);
    iomt_field_mul(&out->t2d, &p->t, &d2);
    iomt_field_add(&out->z2, &p->z, &p->z);
}

/* ---- Encoding and decoding ---- */

void iomt_point_encode_secret(uint8_t bytes[32], const struct iomt_point *point)
{
    struct iomt_field inverse, x, y;
    struct iomt_packed packed_x, packed_y;

    iomt_field_invert(&inverse, &point->z);
    iomt_field_mul(&x, &point->x, &inverse);
    iomt_field_mul(&y, &point->y, &inverse);
    iomt_field_pack(&packed_x, &x);
    iomt_field_pack(&packed_y, &y);
    packed_y.words[3] |= packed_x.words[0] << 63;
    for (int i = 0; i < 4; i++)
        iomt_store_le64(bytes + 8 * i, packed_y.words[i]);
    iomt_wipe(&packed_x, sizeof packed_x);
}

/* RFC 8032 5.1.3: x^2 = u/v, and the candidate for its root is u v^3 (u v^7)^((p-5)/8). */
int iomt_ed25519_decode_key(struct iomt_packed *x, struct iomt_packed *y, const uint8_t key[32])
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
    iomt_field_sub(&u, &t, &iomt_field_one);
    iomt_field_unpack(&v, &iomt_curve_d);
    iomt_field_mul(&v, &v, &t);
    iomt_field_add(&v, &v, &iomt_field_one);
    iomt_field_square(&t, &v);
    iomt_field_mul(&v3, &t, &v);
    iomt_field_square(&t, &v3);
    iomt_field_mul(&t, &t, &v);
    iomt_field_mul(&t, &t, &u); /* u v^7 */
    iomt_field_root_power(&t, &t);
    iomt_field_mul(&t, &t, &v3);
    iomt_field_mul(&fx, &t, &u);

    iomt_field_square(&check, &fx);
    iomt_field_mul(&check, &check, &v);
    iomt_field_mul(&u, &u, &iomt_field_one); /* tight, for what follows */
    iomt_field_sub(&t, &check, &u);
    if (!iomt_field_is_zero(&t)) {
        iomt_field_add(&t, &check, &u);
        if (!iomt_field_is_zero(&t))
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

/* The row's multiple [digit], -8 <= digit <= 8, by reading the whole row. */
static void choose_secret(struct iomt_field *plus, struct iomt_field *minus,
                          struct iomt_field *t2d,
                          const struct iomt_packed_point row[IOMT_COMB_MULTIPLES], int8_t digit)
{
    const uint64_t negative = hidden(0 - ((uint64_t)(int64_t)digit >> 63));
    const uint64_t size = ((uint64_t)(int64_t)digit ^ negative) - negative;
    const uint64_t none = equal_mask(size, 0);
    struct iomt_packed_point found = {{{none & 1, 0, 0, 0}}, {{none & 1, 0, 0, 0}}, {{0}}};
    struct iomt_field zero = {{0}}, opposite;

    for (uint64_t j = 0; j < IOMT_COMB_MULTIPLES; j++) {
        const uint64_t mask = equal_mask(size, j + 1);

        for (int w = 0; w < 4; w++) {
            found.y_plus_x.words[w] |= row[j].y_plus_x.words[w] & mask;
            found.y_minus_x.words[w] |= row[j].y_minus_x.words[w] & mask;
            found.t2d.words[w] |= row[j].t2d.words[w] & mask;
        }
    }
    for (int w = 0; w < 4; w++) { /* the opposite has the first two exchanged */
        uint64_t change =
            (found.y_plus_x.words[w] ^ found.y_minus_x.words[w]) & negative;

        found.y_plus_x.words[w] ^= change;
        found.y_minus_x.words[w] ^= change;
    }
    iomt_field_unpack(plus, &found.y_plus_x);
    iomt_field_unpack(minus, &found.y_minus_x);
    iomt_field_unpack(t2d, &found.t2d);
    iomt_field_sub(&opposite, &zero, t2d);
    for (int i = 0; i < IOMT_LIMBS; i++)
        t2d->limb[i] ^= (t2d->limb[i] ^ opposite.limb[i]) & negative;
    iomt_wipe(&found, sizeof found);
}

static void add_chosen_secret(struct iomt_point *p, const struct iomt_packed_point *row,
                              int8_t digit)
{
    struct iomt_field a, b, c, d, plus, minus, t2d;

    choose_secret(&plus, &minus, &t2d, row, digit);
    iomt_field_sub(&a, &p->y, &p->x);
    iomt_field_add(&b, &p->y, &p->x);
    iomt_field_mul(&a, &a, &minus);
    iomt_field_mul(&b, &b, &plus);
    iomt_field_mul(&c, &p->t, &t2d);
    iomt_field_add(&d, &p->z, &p->z);
    finish_sum(p, &a, &b, &c, &d, 0, 1);
}

/* scalar = sum of digits[i] 16^i. The table has the even places; the odd ones are summed
 * first and multiplied by 16. */
void iomt_base_multiple_secret(struct iomt_point *out, const struct iomt_scalar *scalar)
{
    int8_t digits[64];

    iomt_scalar_radix16(scalar, digits);
    *out = neutral;
    for (int i = 0; i < IOMT_COMB_PLACES; i++)
        add_chosen_secret(out, iomt_base_comb[i], digits[2 * i + 1]);
    double_point(out, 0);
    double_point(out, 0);
    double_point(out, 0);
    double_point(out, 1);
    for (int i = 0; i < IOMT_COMB_PLACES; i++)
        add_chosen_secret(out, iomt_base_comb[i], digits[2 * i]);
    iomt_wipe(digits, sizeof digits);
}

/* ---- Verification: [s] B + [k] (-A), nothing of it secret ---- */

#define DIGITS 256
#define BASE_BITS 8     /* odd digits below 128: 64 multiples */
#define KEY_BITS 5      /* odd digits below 16: 8 multiples, made for each call */
#define PREPARED_BITS 4 /* odd digits below 8: 1, 3, 5 and 7 of the 8 multiples */
#define PART_DIGITS 64
#define KEY_MULTIPLES (1 << (KEY_BITS - 2))

/* scalar = sum of digits[i] 2^i; each digit is 0 or odd and below 2^(bits - 1) in size, and
 * at least bits - 1 zeros follow one that is not 0. */
static void odd_digits(int8_t digits[DIGITS], const struct iomt_scalar *scalar, int bits)
{
    const unsigned whole = 1u << bits;
    unsigned carry = 0;
    int at = 0;

    memset(digits, 0, DIGITS);
    while (at < DIGITS) {
        int word = at / 64, shift = at % 64;
        uint64_t window = scalar->words[word] >> shift;
        unsigned digit;

        if (shift > 64 - bits && word < 3)
            window |= scalar->words[word + 1] << (64 - shift);
        digit = ((unsigned)window & (whole - 1)) + carry;
        if ((digit & 1) == 0) {
            at++;
            continue;
        }
        carry = digit > whole / 2;
        digits[at] = (int8_t)((int)digit - (int)(carry ? whole : 0));
        at += bits;
    }
}

/* What one step adds, so that T is computed only where the next sum reads it. */
struct step {
    const struct addend *key;
    const struct iomt_packed_point *packed[2 * IOMT_PREPARED_PARTS];
    int key_minus, packed_minus[2 * IOMT_PREPARED_PARTS], count;
};

static inline void plan(struct step *step, const struct iomt_packed_point *point, int minus)
{
    step->packed[step->count] = point;
    step->packed_minus[step->count++] = minus;
}

static void take_step(struct iomt_point *p, const struct step *step)
{
    double_point(p, step->key != NULL || step->count > 0);
    if (step->key != NULL)
        add(p, step->key, step->key_minus, step->count > 0);
    for (int i = 0; i < step->count; i++)
        add_packed(p, step->packed[i], step->packed_minus[i], i + 1 < step->count);
}

static int absolute(int digit)
{
    return digit < 0 ? -digit : digit;
}

static void key_multiples(struct addend table[KEY_MULTIPLES], const struct iomt_packed *x,
                          const struct iomt_packed *y)
{
    struct iomt_point p, twice;
    struct addend step;

    iomt_field_unpack(&p.x, x);
    iomt_field_unpack(&p.y, y);
    p.z = iomt_field_one;
    iomt_field_mul(&p.t, &p.x, &p.y);
    twice = p;
    double_point(&twice, 1);
    to_addend(&step, &twice);
    to_addend(&table[0], &p);
    for (int i = 1; i < KEY_MULTIPLES; i++) {
        add(&p, &step, 0, 1);
        to_addend(&table[i], &p);
    }
}

void iomt_verify_multiple(struct iomt_point *out, const struct iomt_scalar *s,
                          const struct iomt_scalar *k, const struct iomt_packed *x,
                          const struct iomt_packed *y)
{
    struct addend table[KEY_MULTIPLES];
    int8_t base_digits[DIGITS], key_digits[DIGITS];
    int at = DIGITS - 1;

    key_multiples(table, x, y);
    odd_digits(base_digits, s, BASE_BITS);
    odd_digits(key_digits, k, KEY_BITS);
    *out = neutral;
    while (at >= 0 && base_digits[at] == 0 && key_digits[at] == 0)
        at--;
    for (; at >= 0; at--) {
        struct step step = {.key = NULL, .count = 0};
        int digit = key_digits[at];

        if (digit != 0) { /* -A is added, so a positive digit subtracts */
            step.key = &table[absolute(digit) / 2];
            step.key_minus = digit > 0;
        }
        digit = base_digits[at];
        if (digit != 0)
            plan(&step, &iomt_base_odd[0][absolute(digit) / 2], digit < 0);
        take_step(out, &step);
    }
}

void iomt_verify_multiple_prepared(struct iomt_point *out, const struct iomt_scalar *s,
                                   const struct iomt_scalar *k,
                                   const iomt_ed25519_prepared *prepared)
{
    int8_t base_digits[DIGITS], key_digits[DIGITS];

    odd_digits(base_digits, s, BASE_BITS);
    odd_digits(key_digits, k, PREPARED_BITS);
    *out = neutral;
    for (int at = PART_DIGITS - 1; at >= 0; at--) {
        struct step step = {.key = NULL, .count = 0};

        for (int part = 0; part < IOMT_PREPARED_PARTS; part++) {
            int digit = key_digits[PART_DIGITS * part + at];

            if (digit != 0)
                plan(&step, &prepared->multiples[part][absolute(digit) - 1], digit < 0);
            digit = base_digits[PART_DIGITS * part + at];
            if (digit != 0)
                plan(&step, &iomt_base_odd[part][absolute(digit) / 2], digit < 0);
        }
        take_step(out, &step);
    }
}

/* ---- Prepared keys ---- */

#define ALL_MULTIPLES (IOMT_PREPARED_PARTS * IOMT_PREPARED_MULTIPLES)

/* 1/z of every point with one inversion: `inverses` first holds the products of all z before
 * each. No z is 0: the formulas are complete. */
static void invert_all(struct iomt_field inverses[ALL_MULTIPLES],
                       const struct iomt_point points[ALL_MULTIPLES])
{
    struct iomt_field product = iomt_field_one;

    for (int i = 0; i < ALL_MULTIPLES; i++) {
        inverses[i] = product;
        iomt_field_mul(&product, &product, &points[i].z);
    }
    iomt_field_invert(&product, &product);
    for (int i = ALL_MULTIPLES - 1; i >= 0; i--) {
        iomt_field_mul(&inverses[i], &inverses[i], &product);
        iomt_field_mul(&product, &product, &points[i].z);
    }
}

static void pack_point(struct iomt_packed_point *out, const struct iomt_point *p,
                       const struct iomt_field *inverse)
{
    struct iomt_field x, y, t, d2;

    twice_d(&d2);
    iomt_field_mul(&x, &p->x, inverse);
    iomt_field_mul(&y, &p->y, inverse);
    iomt_field_add(&t, &y, &x);
    iomt_field_pack(&out->y_plus_x, &t);
    iomt_field_sub(&t, &y, &x);
    iomt_field_pack(&out->y_minus_x, &t);
    iomt_field_mul(&t, &x, &y);
    iomt_field_mul(&t, &t, &d2);
    iomt_field_pack(&out->t2d, &t);
}

int iomt_ed25519_prepare(iomt_ed25519_prepared *prepared,
                         const uint8_t key[IOMT_ED25519_KEY_SIZE])
{
    struct iomt_point points[ALL_MULTIPLES], first;
    struct iomt_field inverses[ALL_MULTIPLES], zero = {{0}}, x;
    struct iomt_packed packed_x, packed_y;

    memset(prepared, 0, sizeof *prepared);
    memcpy(prepared->key, key, sizeof prepared->key);
    if (!iomt_ed25519_decode_key(&packed_x, &packed_y, key))
        return 0;
    iomt_field_unpack(&x, &packed_x);
    iomt_field_sub(&x, &zero, &x);
    iomt_field_mul(&first.x, &x, &iomt_field_one); /* tight */
    iomt_field_unpack(&first.y, &packed_y);
    first.z = iomt_field_one;
    iomt_field_mul(&first.t, &first.x, &first.y);
    for (int part = 0; part < IOMT_PREPARED_PARTS; part++) {
        struct iomt_point *row = &points[part * IOMT_PREPARED_MULTIPLES];
        struct addend step;

        to_addend(&step, &first);
        row[0] = first;
        for (int i = 1; i < IOMT_PREPARED_MULTIPLES; i++) {
            row[i] = row[i - 1];
            add(&row[i], &step, 0, 1);
        }
        for (int i = 0; i < PART_DIGITS; i++)
            double_point(&first, i == PART_DIGITS - 1);
    }
    invert_all(inverses, points);
    for (int i = 0; i < ALL_MULTIPLES; i++)
        pack_point(&prepared->multiples[i / IOMT_PREPARED_MULTIPLES][i % IOMT_PREPARED_MULTIPLES],
                   &points[i], &inverses[i]);
    prepared->is_point = 1;
    return 1;
}
