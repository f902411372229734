/* Short relations (ed25519_relation.h) by Euclid's algorithm on 8 L and k, as Lehmer made it
 * fast: most steps see only the upper 64 bits of both numbers.
 *
 * Two rows (r, v) hold at any time, with r = v k modulo 8 L; they begin as (8 L, 0) and
 * (k, 1). All that happens to them is that a multiple of one is added to the other, or a sign
 * is turned. So the relation is right whatever the quotients were, and of two neighbours one
 * v is odd, since they have no common divisor. How short both become is all that depends on
 * the quotients. Everything here is public. */
#include "ed25519_relation.h"

#include <string.h>

#define R_WORDS 5 /* two's complement: r has at most 256 bits, and a sign on the way */
#define V_WORDS 4
#define HALF_BITS 128
#define LONGEST_U 253
#define LONGEST_V 250 /* below L */
#define UPPER_BITS 64
#define SMALLEST_BITS 32  /* the upper part of a divisor that quotients are still taken by */
#define MOST_ROUNDS 1000  /* each takes a quarter away from a number of 256 bits */
#define MOST_BALANCING 32 /* subtractions in place of one division */

__extension__ typedef __int128 iomt_int128;

struct row {
    uint64_t r[R_WORDS], v[V_WORDS];
};

const uint64_t iomt_eight_orders[R_WORDS] = {UINT64_C(0xc09318d2e7ae9f68),
                                               UINT64_C(0xa6f7cef517bce6b2), 0,
                                               UINT64_C(0x8000000000000000), 0};

/* out = a x + b y, in two's complement; |a| and |b| are at most 2^33. */
static void combine(uint64_t *out, int64_t a, const uint64_t *x, int64_t b, const uint64_t *y,
                    int count)
{
    iomt_int128 carry = 0;

    for (int i = 0; i < count; i++) {
        carry += (iomt_int128)x[i] * a + (iomt_int128)y[i] * b;
        out[i] = (uint64_t)carry;
        carry >>= 64;
    }
}

/* out -= y 2^shift */
static void subtract_shifted(uint64_t *out, const uint64_t *y, int shift, int count)
{
    const int words = shift / 64, bits = shift % 64;
    uint64_t borrow = 0;

    for (int i = words; i < count; i++) {
        uint64_t word = y[i - words] << bits;
        iomt_uint128 t;

        if (bits > 0 && i > words)
            word |= y[i - words - 1] >> (64 - bits);
        t = (iomt_uint128)out[i] - word - borrow;
        out[i] = (uint64_t)t;
        borrow = (uint64_t)(t >> 64) & 1;
    }
}

static int is_negative(const uint64_t *a, int count)
{
    return (int)(a[count - 1] >> 63);
}

static void turn(uint64_t *a, int count)
{
    uint64_t carry = 1;

    for (int i = 0; i < count; i++) {
        a[i] = ~a[i] + carry;
        carry &= a[i] == 0;
    }
}

/* How many bits a number has that is not negative. */
static int length(const uint64_t *a, int count)
{
    while (count > 0 && a[count - 1] == 0)
        count--;
    return count == 0 ? 0 : 64 * count - __builtin_clzll(a[count - 1]);
}

/* The 64 bits from bit `shift` on. */
static uint64_t upper(const uint64_t a[R_WORDS], int shift)
{
    const int word = shift / 64, bits = shift % 64;

    return bits == 0 ? a[word] : a[word] >> bits | a[word + 1] << (64 - bits);
}

/* Division steps on the upper parts, then both rows at once; 0 if not one step was sure. The
 * factors stay below 2^33: that of a row is at most what x was, over the divisor before. */
static int take_steps(struct row rows[2], int shift)
{
    const int bits = HALF_BITS - shift > SMALLEST_BITS ? HALF_BITS - shift : SMALLEST_BITS;
    uint64_t x = upper(rows[0].r, shift), y = upper(rows[1].r, shift);
    int64_t a = 1, b = 0, c = 0, d = 1;
    struct row next[2];

    while (y >> bits != 0) {
        const uint64_t quotient = x / y, rest = x % y;
        const int64_t next_c = a - (int64_t)quotient * c, next_d = b - (int64_t)quotient * d;

        x = y, y = rest;
        a = c, b = d;
        c = next_c, d = next_d;
    }
    if (c == 0) /* as it began */
        return 0;
    combine(next[0].r, a, rows[0].r, b, rows[1].r, R_WORDS);
    combine(next[0].v, a, rows[0].v, b, rows[1].v, V_WORDS);
    combine(next[1].r, c, rows[0].r, d, rows[1].r, R_WORDS);
    combine(next[1].v, c, rows[0].v, d, rows[1].v, V_WORDS);
    for (int i = 0; i < 2; i++) {
        rows[i] = next[i];
        if (is_negative(rows[i].r, R_WORDS)) { /* a quotient was too large by one */
            turn(rows[i].r, R_WORDS);
            turn(rows[i].v, V_WORDS);
        }
    }
    return 1;
}

/* Until the second r has no more than half of the bits. */
static void shorten(struct row rows[2])
{
    for (int round = 0; round < MOST_ROUNDS; round++) {
        int first = length(rows[0].r, R_WORDS), second = length(rows[1].r, R_WORDS);

        if (first < second) {
            const struct row kept = rows[0];

            rows[0] = rows[1];
            rows[1] = kept;
            first = second;
            second = length(rows[1].r, R_WORDS);
        }
        if (second <= HALF_BITS)
            return;
        if (!take_steps(rows, first - UPPER_BITS)) {
            const int shift = first - second - 1;

            subtract_shifted(rows[0].r, rows[1].r, shift, R_WORDS);
            subtract_shifted(rows[0].v, rows[1].v, shift, V_WORDS);
        }
    }
}

/* The second row; or, where its v is even, the first, with as much of the second taken away
 * as makes r and v about as long. */
static const struct row *odd_row(struct row rows[2])
{
    if (rows[1].v[0] & 1)
        return &rows[1];
    for (int i = 0; i < MOST_BALANCING; i++) {
        const int bits = length(rows[0].r, R_WORDS);
        uint64_t v[V_WORDS];

        memcpy(v, rows[0].v, sizeof v);
        if (is_negative(v, V_WORDS))
            turn(v, V_WORDS);
        if (bits <= length(v, V_WORDS) || bits <= length(rows[1].r, R_WORDS))
            break;
        subtract_shifted(rows[0].r, rows[1].r, 0, R_WORDS);
        subtract_shifted(rows[0].v, rows[1].v, 0, V_WORDS);
    }
    return &rows[0];
}

void iomt_ed25519_relation(struct iomt_relation *relation, const struct iomt_scalar *k)
{
    struct row rows[2] = {{{0}, {0}}, {{0}, {1}}}, chosen;

    memcpy(rows[0].r, iomt_eight_orders, sizeof iomt_eight_orders);
    memcpy(rows[1].r, k->words, sizeof k->words);
    shorten(rows);
    chosen = *odd_row(rows);
    relation->negative = is_negative(chosen.v, V_WORDS);
    if (relation->negative)
        turn(chosen.v, V_WORDS);
    if (is_negative(chosen.r, R_WORDS) || length(chosen.r, R_WORDS) > LONGEST_U ||
        length(chosen.v, V_WORDS) > LONGEST_V) {
        relation->u = *k;
        relation->v = (struct iomt_scalar){{1, 0, 0, 0}};
        relation->negative = 0;
        return;
    }
    memcpy(relation->u.words, chosen.r, sizeof relation->u.words);
    memcpy(relation->v.words, chosen.v, sizeof relation->v.words);
}

void iomt_ed25519_scale(struct iomt_scalar *vs, const struct iomt_relation *relation,
                        const struct iomt_scalar *s)
{
    static const struct iomt_scalar zero = {{0}};

    iomt_scalar_muladd_secret(vs, s, &relation->v, &zero);
}
