/* 1/a modulo p = 2^255 - 19 in constant time, by the division steps of Bernstein and Yang,
 * "Fast constant-time gcd computation and modular inversion" (2019), in the variant that
 * starts at delta = 1/2 (Wuille), for which 590 steps are enough below 2^256.
 *
 * From f = p and g = a, each step is
 *
 *   (delta, f, g)  ->  (1 - delta, g, (g - f) / 2)                 delta > 0 and g odd
 *                      (1 + delta, f, (g + (g mod 2) f) / 2)       otherwise
 *
 * and after enough of them g = 0 and f is 1 or -1 (or f is still p: a was 0). What a step
 * does is decided by the lowest bits of f and g, so 60 steps are computed on single words,
 * which gives them as a matrix; then it is applied to the whole numbers. d and e go the same
 * way modulo p, from 0 and 1: f = d a and g = e a modulo p throughout, and at the end 1/a is
 * d or -d.
 *
 * Whole numbers are five limbs of 60 bits, the last with the sign: what 60 steps divide by is
 * one limb. Everywhere |f|, |g| <= p, and |d|, |e| grow by at most p in each round. */
#include "ed25519.h"

#define LIMBS 5
#define LIMB_BITS 60
#define LIMB_MASK ((INT64_C(1) << LIMB_BITS) - 1)
#define ROUNDS 10      /* of 60 steps: 600, not fewer than 590 */
#define GROUP_STEPS 20 /* as many steps are computed at once; three times that is a round */
#define TOP_BITS 15    /* of p in the last limb: 4 * 60 + 15 = 255 */

/* 19 times this is 1 modulo 2^60. */
#define INVERSE_OF_19 INT64_C(0x6bca1af286bca1b)

__extension__ typedef __int128 iomt_int128;

struct number {
    int64_t limb[LIMBS];
};

/* What n steps do: f becomes (u f + v g) / 2^n and g (q f + r g) / 2^n. In each row the sizes
 * sum up to at most 2^n. */
struct matrix {
    int64_t u, v, q, r;
};

/* The shift of a negative number is arithmetic in all compilers that have 128-bit integers. */
static inline int64_t signed_bits(uint64_t word, int above, int below)
{
    return (int64_t)(word << above) >> (above + below);
}

/* ---- Steps ---- */

/* GROUP_STEPS steps from the lowest GROUP_STEPS bits of f and g. f and u and v travel in one
 * word, f + 2^40 u + 2^62 v at first and g and q and r in another; halving the second
 * moves them down, so at the end u stands at bit 20 and v at bit 42. That f and g are taken
 * with a sign keeps them in their 20 bits, and what is negative borrows from its neighbour,
 * which the rounding gives back.
 *
 * `zeta` is -(delta + 1/2): negative exactly where delta > 0. */
static int64_t few_steps(struct matrix *steps, int64_t zeta, uint64_t f, uint64_t g)
{
    const uint64_t half = UINT64_C(1) << (GROUP_STEPS - 1);
    uint64_t fuv = (uint64_t)signed_bits(f, 44, 0) + (UINT64_C(1) << 40);
    uint64_t gqr = (uint64_t)signed_bits(g, 44, 0) + (UINT64_C(1) << 62);

    for (int i = 0; i < GROUP_STEPS; i++) {
        const uint64_t odd = 0 - (gqr & 1);
        const uint64_t positive = (uint64_t)(zeta >> 63); /* delta is */
        const uint64_t swap = odd & positive;
        const uint64_t addend = (fuv ^ positive) - positive;
        const uint64_t change = (fuv ^ gqr) & swap;

        gqr += addend & odd;
        gqr = (uint64_t)((int64_t)gqr >> 1);
        fuv ^= change;
        zeta = (int64_t)((uint64_t)zeta ^ swap) - 1;
    }
    steps->u = signed_bits(fuv + half, 22, GROUP_STEPS);
    steps->v = (int64_t)(fuv + half + (half << 22)) >> 42;
    steps->q = signed_bits(gqr + half, 22, GROUP_STEPS);
    steps->r = (int64_t)(gqr + half + (half << 22)) >> 42;
    return zeta;
}

static inline void then(struct matrix *all, const struct matrix *next)
{
    const struct matrix first = *all;

    all->u = next->u * first.u + next->v * first.q;
    all->v = next->u * first.v + next->v * first.r;
    all->q = next->q * first.u + next->r * first.q;
    all->r = next->q * first.v + next->r * first.r;
}

static inline uint64_t low_word(int64_t u, int64_t v, uint64_t f, uint64_t g)
{
    return ((uint64_t)u * f + (uint64_t)v * g) >> GROUP_STEPS;
}

/* 60 steps from the lowest 60 bits of f and g. */
static int64_t round_of_steps(struct matrix *all, int64_t zeta, uint64_t f, uint64_t g)
{
    struct matrix next;

    zeta = few_steps(all, zeta, f, g);
    next = *all;
    for (int i = 1; i < LIMB_BITS / GROUP_STEPS; i++) {
        const uint64_t old_f = f;

        f = low_word(next.u, next.v, f, g);
        g = low_word(next.q, next.r, old_f, g);
        zeta = few_steps(&next, zeta, f, g);
        then(all, &next);
    }
    return zeta;
}

/* ---- Whole numbers ---- */

static inline iomt_int128 sum_of_products(int64_t u, int64_t a, int64_t v, int64_t b)
{
    return (iomt_int128)u * a + (iomt_int128)v * b;
}

/* (u f + v g) / 2^60, which is whole. */
static inline struct number combine(int64_t u, int64_t v, const struct number *f,
                                    const struct number *g)
{
    iomt_int128 column = sum_of_products(u, f->limb[0], v, g->limb[0]);
    struct number out;

    for (int i = 1; i < LIMBS; i++) {
        column >>= LIMB_BITS;
        column += sum_of_products(u, f->limb[i], v, g->limb[i]);
        out.limb[i - 1] = (int64_t)column & LIMB_MASK;
    }
    out.limb[LIMBS - 1] = (int64_t)(column >> LIMB_BITS);
    return out;
}

/* The same modulo p: a multiple of p, m 2^255 - 19 m, makes the sum a multiple of 2^60. */
static inline struct number combine_modulo(int64_t u, int64_t v, const struct number *d,
                                           const struct number *e)
{
    iomt_int128 column = sum_of_products(u, d->limb[0], v, e->limb[0]);
    const int64_t m = (int64_t)((uint64_t)column * (uint64_t)INVERSE_OF_19) & LIMB_MASK;
    struct number out;

    column -= (iomt_int128)19 * m;
    for (int i = 1; i < LIMBS; i++) {
        column >>= LIMB_BITS;
        column += sum_of_products(u, d->limb[i], v, e->limb[i]);
        if (i == LIMBS - 1)
            column += (iomt_int128)m << TOP_BITS;
        out.limb[i - 1] = (int64_t)column & LIMB_MASK;
    }
    out.limb[LIMBS - 1] = (int64_t)(column >> LIMB_BITS);
    return out;
}

static inline void carry(struct number *a)
{
    for (int i = 1; i < LIMBS; i++) {
        a->limb[i] += a->limb[i - 1] >> LIMB_BITS;
        a->limb[i - 1] &= LIMB_MASK;
    }
}

/* d, or -d where f is negative, below p. |d| < 16 p. */
static inline void normalize(struct iomt_packed *out, const struct number *d,
                             const struct number *f)
{
    const int64_t top_mask = (INT64_C(1) << TOP_BITS) - 1;
    const int64_t negative = f->limb[LIMBS - 1] >> 63;
    struct number t;
    int64_t over;

    for (int i = 0; i < LIMBS; i++)
        t.limb[i] = (d->limb[i] ^ negative) - negative;
    t.limb[0] -= 16 * 19;
    t.limb[LIMBS - 1] += INT64_C(16) << TOP_BITS;
    carry(&t);
    t.limb[0] += 19 * (t.limb[LIMBS - 1] >> TOP_BITS);
    t.limb[LIMBS - 1] &= top_mask;
    carry(&t); /* below 2^255 + 19 * 32 */

    /* At least p exactly if 19 more reach bit 255; then that sum without the bit is it. */
    over = t.limb[0] + 19;
    for (int i = 1; i < LIMBS; i++)
        over = t.limb[i] + (over >> LIMB_BITS);
    t.limb[0] += 19 * (over >> TOP_BITS);
    carry(&t);
    t.limb[LIMBS - 1] &= top_mask;
    for (int i = 0; i < 4; i++)
        out->words[i] = (uint64_t)t.limb[i] >> 4 * i |
                        (uint64_t)t.limb[i + 1] << (LIMB_BITS - 4 * i);
}

void iomt_invert_secret(struct iomt_packed *out, const struct iomt_packed *a)
{
    const uint64_t *w = a->words;
    struct number f = {{LIMB_MASK - 18, LIMB_MASK, LIMB_MASK, LIMB_MASK,
                        (INT64_C(1) << TOP_BITS) - 1}};
    struct number g, d = {{0}}, e = {{1}};
    int64_t zeta = -1; /* delta = 1/2 */
    struct matrix m;

    g.limb[0] = (int64_t)w[0] & LIMB_MASK;
    for (int i = 1; i < LIMBS - 1; i++)
        g.limb[i] = (int64_t)(w[i - 1] >> (64 - 4 * i) | w[i] << 4 * i) & LIMB_MASK;
    g.limb[LIMBS - 1] = (int64_t)(w[3] >> 48);

    for (int i = 0; i < ROUNDS; i++) {
        const struct number old_f = f, old_d = d;

        zeta = round_of_steps(&m, zeta, (uint64_t)f.limb[0], (uint64_t)g.limb[0]);
        f = combine(m.u, m.v, &old_f, &g);
        d = combine_modulo(m.u, m.v, &old_d, &e);
        if (i + 1 < ROUNDS) {
            g = combine(m.q, m.r, &old_f, &g);
            e = combine_modulo(m.q, m.r, &old_d, &e);
        }
    }
    normalize(out, &d, &f);
}
