/* Points of the curve -x^2 + y^2 = 1 + d x^2 y^2, two at a time. For ed25519_neon.c and its
 * tests only.
 *
 * The formulas are those of Hisil, Wong, Carter and Dawson, "Twisted Edwards curves
 * revisited" (2008), for a = -1: complete on this curve, so there are no cases, and the Z of a
 * sum is never 0. Numbers beside the lines are units (ed25519_neon_field.h). */
#ifndef IOMT_ED25519_NEON_GROUP_H
#define IOMT_ED25519_NEON_GROUP_H

#include "ed25519_neon_field.h"

/* Extended coordinates: x = X/Z, y = Y/Z, xy = T/Z; one unit each. */
struct point {
    struct number x, y, z, t;
};

/* A point to be added: Y + X, Y - X, 2 d T and, unless Z is 1, 2 Z; up to three units. */
struct addend {
    struct number plus, minus, t2d, z2;
};

struct xyz {
    struct number x, y, z;
};

ALWAYS_INLINE void neutral_point(struct point *out)
{
    out->x = out->t = small(0);
    out->y = out->z = small(1);
}

/* All formulas end with these: X = E F, Y = G H, Z = F G, T = E H. E and G up to 3 units, F up
 * to 8, H up to 3; T only if it is asked for. */
ALWAYS_INLINE void finish(struct point *out, const struct number *e, const struct number *f,
                          const struct number *g, const struct number *h, int with_t)
{
    multiply(&out->x, f, e);
    multiply(&out->y, g, h);
    multiply(&out->z, f, g);
    if (with_t)
        multiply(&out->t, e, h);
}

/* 2 (X : Y : Z) with all four signs turned, which is the same point:
 * H = Y^2 + X^2, G = Y^2 - X^2, E = (X + Y)^2 - H = 2 X Y, F = 2 Z^2 - G. */
NOT_INLINE void double_point(struct point *p, int with_t)
{
    struct number e, f, g, h, xx, yy;

    square(&xx, &p->x);
    square(&yy, &p->y);
    plus(&e, &p->x, &p->y); /* 2 */
    square(&f, &p->z);
    plus(&h, &yy, &xx);     /* 2 */
    minus(&g, &yy, &xx, 1); /* 3 */
    plus(&f, &f, &f);       /* 2 */
    minus(&f, &f, &g, 3);   /* 6 */
    xx = small(0);
    minus(&xx, &xx, &h, 2); /* 3 */
    square_plus(&e, &e, &xx);
    finish(p, &e, &f, &g, &h, with_t);
}

/* The sum of both; `affine` says that q's Z is 1 and z2 is not set. */
NOT_INLINE void add_point(struct point *p, const struct addend *q, int affine, int with_t)
{
    struct number a, b, c, d, f;

    minus(&a, &p->y, &p->x, 1); /* 3 */
    plus(&b, &p->y, &p->x);     /* 2 */
    multiply(&a, &a, &q->minus);
    multiply(&b, &b, &q->plus);
    multiply(&c, &p->t, &q->t2d);
    if (affine)
        plus(&d, &p->z, &p->z); /* 2 */
    else
        multiply(&d, &p->z, &q->z2);
    minus(&f, &d, &c, 1); /* 4 */
    plus(&d, &d, &c);     /* G: 3 */
    minus(&c, &b, &a, 1); /* E: 3 */
    plus(&b, &b, &a);     /* H: 2 */
    finish(p, &c, &f, &d, &b, with_t);
}

/* `d2` is 2 d, of two units. */
ALWAYS_INLINE void to_addend(struct addend *out, const struct point *p, const struct number *d2)
{
    plus(&out->plus, &p->y, &p->x);
    minus(&out->minus, &p->y, &p->x, 1);
    multiply(&out->t2d, &p->t, d2);
    plus(&out->z2, &p->z, &p->z);
}

#endif
