/* The second part of ed25519_curve_code.h, which includes it: what verifying multiplies.
 * Nothing here is secret. */
#ifndef IOMT_ED25519_CURVE_VERIFY_H
#define IOMT_ED25519_CURVE_VERIFY_H

/* ---- [s] B - [k] A ---- */

#define DIGITS 256
#define BASE_BITS 8     /* odd digits below 128: 64 multiples */
#define TERM_BITS 5     /* odd digits below 16: 8 multiples, made for each call */
#define PREPARED_BITS 4 /* odd digits below 8: 1, 3, 5 and 7 of the 8 multiples */
#define PART_DIGITS 64
#define TERM_MULTIPLES (1 << (TERM_BITS - 2))
#define TERMS 2      /* A and R */
#define SPLIT_PART 2 /* of iomt_base_odd: [2^128] B */
#define SPLIT 128

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
    const struct addend *terms[TERMS];
    const struct iomt_packed_point *packed[2 * IOMT_PREPARED_PARTS];
    int terms_minus[TERMS], packed_minus[2 * IOMT_PREPARED_PARTS], term_count, count;
};

static inline void plan(struct step *step, const struct iomt_packed_point *point, int minus)
{
    step->packed[step->count] = point;
    step->packed_minus[step->count++] = minus;
}

static void add_planned(struct point *p, const struct step *step)
{
    for (int i = 0; i < step->count; i++)
        add_packed(p, step->packed[i], step->packed_minus[i], i + 1 < step->count);
}

/* By itself: inlined, it takes a tenth longer. */
static __attribute__((noinline)) void take_step(struct point *p, const struct step *step)
{
    double_point(p, step->term_count > 0 || step->count > 0);
    for (int i = 0; i < step->term_count; i++)
        add(p, step->terms[i], step->terms_minus[i],
            i + 1 < step->term_count || step->count > 0);
    add_planned(p, step);
}

static int absolute(int digit)
{
    return digit < 0 ? -digit : digit;
}

static void odd_multiples(struct addend table[TERM_MULTIPLES], const struct iomt_packed *x,
                          const struct iomt_packed *y)
{
    struct point p, twice;
    struct addend step;

    iomt_field_unpack(&p.x, x);
    iomt_field_unpack(&p.y, y);
    p.z = one;
    iomt_field_mul(&p.t, &p.x, &p.y);
    twice = p;
    double_point(&twice, 1);
    to_addend(&step, &twice);
    to_addend(&table[0], &p);
    for (int i = 1; i < TERM_MULTIPLES; i++) {
        add(&p, &step, 0, 1);
        to_addend(&table[i], &p);
    }
}

static int is_neutral(const struct point *p)
{
    struct iomt_field difference;

    iomt_field_sub(&difference, &p->y, &p->z);
    return is_zero(&p->x) && is_zero(&difference);
}

/* R decoded; or 0 if its bytes are no encoding, and so not that of any sum. */
static int decode_r(struct iomt_packed *x, struct iomt_packed *y, const uint8_t bytes[32])
{
    if (!decode_key(x, y, bytes))
        return 0;
    for (int i = 0; i < 4; i++) {
        const uint64_t sign = i == 3 ? x->words[0] << 63 : 0;

        if (iomt_load_le64(bytes + 8 * i) != (y->words[i] | sign))
            return 0;
    }
    return 1;
}

/* By a short relation: is [v s] B - [u] A - [v] R the neutral point? (ed25519_relation.h) */
static int is_difference(const uint8_t r[32], const struct iomt_scalar *s,
                         const struct iomt_scalar *k, const struct iomt_packed *x,
                         const struct iomt_packed *y)
{
    struct point sum = neutral;
    struct iomt_packed r_x, r_y;
    struct iomt_relation relation;
    struct iomt_scalar vs;
    struct addend tables[TERMS][TERM_MULTIPLES];
    int8_t base_digits[DIGITS], term_digits[TERMS][DIGITS];
    int at = DIGITS - 1;

    if (!decode_r(&r_x, &r_y, r))
        return 0;
    iomt_ed25519_relation(&relation, k);
    iomt_ed25519_scale(&vs, &relation, s);
    odd_multiples(tables[0], x, y);
    odd_multiples(tables[1], &r_x, &r_y);
    odd_digits(term_digits[0], &relation.u, TERM_BITS);
    odd_digits(term_digits[1], &relation.v, TERM_BITS);
    odd_digits(base_digits, &vs, BASE_BITS);
    while (at >= SPLIT && term_digits[0][at] == 0 && term_digits[1][at] == 0)
        at--;
    for (; at >= 0; at--) {
        struct step step = {.term_count = 0, .count = 0};

        for (int i = 0; i < TERMS; i++) {
            const int digit = term_digits[i][at];

            if (digit == 0)
                continue;
            step.terms[step.term_count] = &tables[i][absolute(digit) / 2];
            step.terms_minus[step.term_count++] =
                (digit > 0) ^ (i == 0 && relation.negative);
        }
        for (int part = 0; part <= SPLIT_PART && at < SPLIT; part += SPLIT_PART) {
            const int digit = base_digits[PART_DIGITS * part + at];

            if (digit != 0)
                plan(&step, &iomt_base_odd[part][absolute(digit) / 2], digit < 0);
        }
        take_step(&sum, &step);
    }
    return is_neutral(&sum);
}

static void difference_prepared(struct point *sum, const struct iomt_scalar *s,
                                const struct iomt_scalar *k,
                                const iomt_ed25519_prepared *prepared)
{
    int8_t base_digits[DIGITS], key_digits[DIGITS];

    *sum = neutral;
    odd_digits(base_digits, s, BASE_BITS);
    odd_digits(key_digits, k, PREPARED_BITS);
    for (int at = PART_DIGITS - 1; at >= 0; at--) {
        struct step step = {.term_count = 0, .count = 0};

        for (int part = 0; part < IOMT_PREPARED_PARTS; part++) {
            int digit = key_digits[PART_DIGITS * part + at];

            if (digit != 0)
                plan(&step, &prepared->multiples[part][absolute(digit) - 1], digit < 0);
            digit = base_digits[PART_DIGITS * part + at];
            if (digit != 0)
                plan(&step, &iomt_base_odd[part][absolute(digit) / 2], digit < 0);
        }
        double_point(sum, step.count > 0);
        add_planned(sum, &step);
    }
}

static void encode_difference_prepared(uint8_t bytes[32], const struct iomt_scalar *s,
                                       const struct iomt_scalar *k,
                                       const iomt_ed25519_prepared *prepared)
{
    struct iomt_packed x;
    struct point sum;

    difference_prepared(&sum, s, k, prepared);
    encode_secret(bytes, &x, &sum);
}

static int same(const struct iomt_packed *a, const struct iomt_packed *b)
{
    return memcmp(a->words, b->words, sizeof a->words) == 0;
}

/* x and y must be below p, or their packed forms differ; then x Z = X and y Z = Y. */
static int is_difference_prepared(const uint8_t bytes[32], const struct iomt_packed *x,
                                  const struct iomt_scalar *s, const struct iomt_scalar *k,
                                  const iomt_ed25519_prepared *prepared)
{
    struct iomt_field fx, fy, difference_x, difference_y;
    struct iomt_packed y, again;
    struct point sum;
    uint64_t sign;

    for (int i = 0; i < 4; i++)
        y.words[i] = iomt_load_le64(bytes + 8 * i);
    sign = y.words[3] >> 63;
    y.words[3] &= UINT64_MAX >> 1;
    if (x->words[3] >> 63 != 0 || (x->words[0] & 1) != sign)
        return 0;
    iomt_field_unpack(&fx, x);
    iomt_field_pack(&again, &fx);
    if (!same(&again, x))
        return 0;
    iomt_field_unpack(&fy, &y);
    iomt_field_pack(&again, &fy);
    if (!same(&again, &y))
        return 0;
    difference_prepared(&sum, s, k, prepared);
    iomt_field_mul(&fx, &fx, &sum.z);
    iomt_field_mul(&fy, &fy, &sum.z);
    iomt_field_sub(&difference_x, &fx, &sum.x);
    iomt_field_sub(&difference_y, &fy, &sum.y);
    return is_zero(&difference_x) && is_zero(&difference_y) && !is_zero(&sum.z);
}

/* ---- Prepared keys ---- */

#define ALL_MULTIPLES (IOMT_PREPARED_PARTS * IOMT_PREPARED_MULTIPLES)

/* 1/z of every point with one inversion: `inverses` first holds the products of all z before
 * each. No z is 0: the formulas are complete. */
static void invert_all(struct iomt_field inverses[ALL_MULTIPLES],
                       const struct point points[ALL_MULTIPLES])
{
    struct iomt_field product = one;

    for (int i = 0; i < ALL_MULTIPLES; i++) {
        inverses[i] = product;
        iomt_field_mul(&product, &product, &points[i].z);
    }
    invert(&product, &product);
    for (int i = ALL_MULTIPLES - 1; i >= 0; i--) {
        iomt_field_mul(&inverses[i], &inverses[i], &product);
        iomt_field_mul(&product, &product, &points[i].z);
    }
}

static void pack_point(struct iomt_packed_point *out, const struct point *p,
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

/* -A, and 1; or 0 if the key is no point. */
static int negative_key(struct point *out, const uint8_t key[IOMT_ED25519_KEY_SIZE])
{
    struct iomt_field zero = {{0}}, x;
    struct iomt_packed packed_x, packed_y;

    if (!decode_key(&packed_x, &packed_y, key))
        return 0;
    iomt_field_unpack(&x, &packed_x);
    iomt_field_sub(&x, &zero, &x);
    iomt_field_mul(&out->x, &x, &one); /* tight */
    iomt_field_unpack(&out->y, &packed_y);
    out->z = one;
    iomt_field_mul(&out->t, &out->x, &out->y);
    return 1;
}

/* rows[j][i] = [(i + 1) 2^(doublings j)] P; P becomes what a next row would start with. */
static void rows_of_multiples(
    struct iomt_packed_point rows[IOMT_PREPARED_PARTS][IOMT_PREPARED_MULTIPLES],
    struct point *p, int doublings)
{
    struct point points[ALL_MULTIPLES];
    struct iomt_field inverses[ALL_MULTIPLES];

    for (int part = 0; part < IOMT_PREPARED_PARTS; part++) {
        struct point *row = &points[part * IOMT_PREPARED_MULTIPLES];
        struct addend step;

        to_addend(&step, p);
        row[0] = *p;
        for (int i = 1; i < IOMT_PREPARED_MULTIPLES; i++) {
            row[i] = row[i - 1];
            add(&row[i], &step, 0, 1);
        }
        for (int i = 0; i < doublings; i++)
            double_point(p, i == doublings - 1);
    }
    invert_all(inverses, points);
    for (int i = 0; i < ALL_MULTIPLES; i++)
        pack_point(&rows[i / IOMT_PREPARED_MULTIPLES][i % IOMT_PREPARED_MULTIPLES],
                   &points[i], &inverses[i]);
}

static int prepare(iomt_ed25519_prepared *prepared, const uint8_t key[IOMT_ED25519_KEY_SIZE])
{
    struct point first;

    memset(prepared, 0, sizeof *prepared);
    memcpy(prepared->key, key, sizeof prepared->key);
    if (!negative_key(&first, key))
        return 0;
    rows_of_multiples(prepared->multiples, &first, PART_DIGITS);
    prepared->is_point = 1;
    return 1;
}

/* ---- Combs for lanes ---- */

/* Limbs of 51 bits, whatever this field has. */
static void lane_limbs(uint64_t limbs[5], const struct iomt_packed *a)
{
    const uint64_t mask = (UINT64_C(1) << 51) - 1, *w = a->words;

    limbs[0] = w[0] & mask;
    limbs[1] = (w[0] >> 51 | w[1] << 13) & mask;
    limbs[2] = (w[1] >> 38 | w[2] << 26) & mask;
    limbs[3] = (w[2] >> 25 | w[3] << 39) & mask;
    limbs[4] = w[3] >> 12;
}

static int make_comb(iomt_check_comb comb, const uint8_t key[IOMT_ED25519_KEY_SIZE])
{
    struct iomt_packed_point rows[IOMT_PREPARED_PARTS][IOMT_PREPARED_MULTIPLES];
    struct point first;

    memset(comb, 0, sizeof(iomt_check_comb));
    if (!negative_key(&first, key))
        return 0;
    for (int place = 0; place < IOMT_CHECK_PLACES; place++) {
        const int row = place % IOMT_PREPARED_PARTS;

        if (row == 0)
            rows_of_multiples(rows, &first, 4);
        comb[place][0].plus[0] = comb[place][0].minus[0] = 1;
        for (int i = 1; i < IOMT_CHECK_MULTIPLES; i++) {
            const struct iomt_packed_point *multiple = &rows[row][i - 1];

            lane_limbs(comb[place][i].plus, &multiple->y_plus_x);
            lane_limbs(comb[place][i].minus, &multiple->y_minus_x);
            lane_limbs(comb[place][i].t2d, &multiple->t2d);
        }
    }
    return 1;
}

#endif
