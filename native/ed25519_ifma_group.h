/* Points of the curve -x^2 + y^2 = 1 + d x^2 y^2, eight at a time. For ed25519_ifma.c and its
 * tests only.
 *
 * The formulas are those of Hisil, Wong, Carter and Dawson, "Twisted Edwards curves
 * revisited" (2008), for a = -1. Since -1 is a square and d is none, they are complete: for
 * any two points of the curve, the same, opposite, neutral or of small order, Z of the sum is
 * not 0. So there are no cases, and a product of Zs can be inverted. */
#ifndef IOMT_ED25519_IFMA_GROUP_H
#define IOMT_ED25519_IFMA_GROUP_H

#include "ed25519_ifma_field.h"

/* What the formulas end in: X = E F, Y = G H, Z = F G, T = E H. The products wait until the
 * next step says which of them, and which sums of them, it wants. */
struct efgh {
    struct number e, f, g, h;
};

/* An affine or projective point to be added: Y + X, Y - X, 2 d T and, unless Z is 1, 2 Z. */
struct addend {
    struct number plus, minus, t2d, z2;
};

struct xyz {
    struct number x, y, z;
};

/* Results go through pointers: the compiler copies a structure of many vectors by an
 * instruction that takes longer than a multiplication. `out` may be `p`. */

ALWAYS_INLINE void neutral_point(struct efgh *out)
{
    out->e = small(0);
    out->f = small(1);
    out->g = small(1);
    out->h = small(1);
}

/* An addend by itself: with X, Y and Z twice those of q, the point (X Z : Y Z : Z Z). */
ALWAYS_INLINE void only_addend(struct efgh *out, const struct addend *q)
{
    out->e = carry(minus(widen(q->plus), widen(q->minus), 2));
    out->f = out->g = q->z2;
    out->h = carry(plus(widen(q->plus), widen(q->minus)));
}

ALWAYS_INLINE void projective(struct xyz *out, const struct efgh *p)
{
    out->x = times(p->e, p->f);
    out->y = times(p->g, p->h);
    out->z = times(p->f, p->g);
}

/* 2 (X : Y : Z) with all four signs turned, which is the same point:
 * E = 2 X Y, H = Y^2 + X^2, G = Y^2 - X^2, F = 2 Z^2 - G. */
ALWAYS_INLINE void double_point(struct efgh *out, const struct efgh *p)
{
    const struct number x = times(p->e, p->f), y = times(p->g, p->h), z = times(p->f, p->g);
    const struct sum xx = square(x), yy = square(y), zz = square(z);
    const struct sum xy = square(carry(plus(widen(x), widen(y))));
    const struct sum g = minus(yy, xx, PRODUCT + 1); /* below 2 PRODUCT + 1 */
    const struct sum h = plus(yy, xx);

    out->e = carry(minus(xy, h, 2 * PRODUCT + 1));
    out->f = carry(minus(doubled(zz), g, 2 * PRODUCT + 2));
    out->g = carry(g);
    out->h = carry(h);
}

/* What a sum needs of a point: Y + X, Y - X, T and Z. */
struct operand {
    struct number plus, minus, t;
    struct sum z;
};

ALWAYS_INLINE void multiply_out(struct operand *out, const struct efgh *p)
{
    const struct sum x = multiply(p->e, p->f), y = multiply(p->g, p->h);

    out->plus = carry(plus(y, x));
    out->minus = carry(minus(y, x, PRODUCT + 1));
    out->t = times(p->e, p->h);
    out->z = multiply(p->f, p->g);
}

/* The sum of both; `affine` says that q's Z is 1 and z2 is not set. */
ALWAYS_INLINE void add_to_operand(struct efgh *out, const struct operand *p,
                                  const struct addend *q, int affine)
{
    const struct sum a = multiply(p->minus, q->minus), b = multiply(p->plus, q->plus);
    const struct sum c = multiply(p->t, q->t2d);
    const struct sum d = affine ? doubled(p->z) : multiply(carry(p->z), q->z2);

    out->e = carry(minus(b, a, PRODUCT + 1));
    out->f = carry(minus(d, c, PRODUCT + 1));
    out->g = carry(plus(d, c));
    out->h = carry(plus(b, a));
}

ALWAYS_INLINE void add_point(struct efgh *out, const struct efgh *p, const struct addend *q,
                             int affine)
{
    struct operand operand;

    multiply_out(&operand, p);
    add_to_operand(out, &operand, q, affine);
}

ALWAYS_INLINE void to_addend(struct addend *out, const struct operand *p, struct number d2)
{
    out->plus = p->plus;
    out->minus = p->minus;
    out->t2d = times(p->t, d2);
    out->z2 = carry(doubled(p->z));
}

#endif
