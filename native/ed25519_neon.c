/* Verification in two lanes of NEON, for 64-bit ARM: two signatures side by side, each by
 * itself, or one in both lanes. On the cores of a Raspberry Pi 4 and 5 two products modulo p
 * take it less than the scalar code takes for one (docs/ed25519.md).
 *
 * With new keys:
 *   1. a short relation for each k (ed25519_relation.h);
 *   2. decode A and R. Rule 3 compares R's bytes with an encoding, so bytes that encode no
 *      point, or not as RFC 8032 5.1.2 encodes it, are those of no sum: the answer is no.
 *      Otherwise the bytes are equal exactly if the points are;
 *   3. [v S]B - [u]A - [v]R in one chain of about 128 doublings, with signed digits of fixed
 *      width: of u and v in radix 16 from tables of 0 .. 8 times -A and -R, of v S in radix 256
 *      from tables of B and of [2^128]B;
 *   4. is it the neutral point? Y = Z: no inversion.
 * Two signatures take a lane each. One by itself has what belongs to A in lane 0 and what
 * belongs to R in lane 1, with half of v S each, and the sum of both lanes is what is asked.
 *
 * With prepared keys: [S]B + [k](-A) in 64 doublings; then with all groups of a call 1/Z;
 * encode; compare with R (ed25519_lanes.h). */
#include "ed25519_neon.h"

#if defined(IOMT_ARM64)

#include "ed25519_neon_tables.h"
#include "ed25519_relation.h"

#include <string.h>

#define FEWEST_PLAIN LANES /* one by itself takes both lanes */
#define FEWEST_PREPARED 1  /* one with an idle lane beside it: see docs/ed25519.md */
#include "ed25519_lanes.h"

#define POINT_BITS 4 /* digits of u, v and, with prepared keys, k */
#define BASE_BITS 8
#define HALF_BITS 128 /* v S is split there */
#define HALF_PART 2   /* of iomt_base_rows: [2^128]B */
#define FEWEST_PLACES ((HALF_BITS - BASE_BITS) / POINT_BITS + 1)
#define PART_BITS 64

/* ---- Decoding ---- */

struct affine {
    struct number x, y;   /* one or two units, and one */
    unsigned is_point;    /* the lanes that are one */
    unsigned is_encoding; /* the lanes whose bytes are, moreover, the encoding of it */
};

struct ratio {
    struct number u, v, v3; /* x^2 = u/v; 3 units, 2 and 1 */
    unsigned odd, reduced;  /* the lanes whose sign bit is set, and whose y is below p */
};

static int is_below_p(const struct iomt_packed *a)
{
    return a->words[0] < (uint64_t)-19 || a->words[3] != UINT64_MAX >> 1 ||
           (a->words[1] & a->words[2]) != UINT64_MAX;
}

static void start_decoding(struct ratio *out, struct number *y, struct number *w,
                           const uint8_t *const bytes[LANES])
{
    const struct number one = small(1), d = constant(&iomt_curve_d);
    struct iomt_packed packed[LANES];
    struct number yy;

    out->odd = out->reduced = 0;
    for (int lane = 0; lane < LANES; lane++) {
        for (int i = 0; i < 4; i++)
            packed[lane].words[i] = iomt_load_le64(bytes[lane] + 8 * i);
        out->odd |= (unsigned)(packed[lane].words[3] >> 63) << lane;
        packed[lane].words[3] &= UINT64_MAX >> 1;
        out->reduced |= (unsigned)is_below_p(&packed[lane]) << lane;
    }
    unpack(y, packed[0].words, packed[1].words);
    square(&yy, y);
    minus(&out->u, &yy, &one, 1);
    multiply(&out->v, &yy, &d);
    plus(&out->v, &out->v, &one);
    square(&out->v3, &out->v);
    multiply(&out->v3, &out->v3, &out->v);
    square(w, &out->v3);
    multiply(w, w, &out->v);
    multiply(w, w, &out->u); /* u v^7 */
}

/* RFC 8032 5.1.3, as decode_key of ed25519_curve_code.h: the candidate for the root of u/v is
 * u v^3 (u v^7)^((p-5)/8), and `power` is that power. */
static void end_decoding(struct affine *out, const struct ratio *r, const struct number *power,
                         unsigned turned)
{
    const struct number root = constant(&iomt_root_of_minus_one);
    struct number x, vxx, other;
    unsigned right, opposite, negate = 0, minus_zero = 0;

    multiply(&x, power, &r->v3);
    multiply(&x, &x, &r->u);
    square(&vxx, &x);
    multiply(&vxx, &vxx, &r->v);
    minus(&other, &vxx, &r->u, 3); /* 5 */
    right = is_zero(&other);
    plus(&other, &vxx, &r->u); /* 4 */
    opposite = is_zero(&other);
    multiply(&other, &x, &root);
    choose(&x, lane_mask(opposite), &x, &other); /* 0 stays 0, where it is right, too */
    for (int lane = 0; lane < LANES; lane++) {
        const unsigned odd = r->odd >> lane & 1;
        struct iomt_packed packed;
        const uint64_t *w = packed.words;

        /* The parity of x must be that of the sign bit; then -A has the other one. */
        pack_lane(&packed, &x, lane);
        negate |= (unsigned)((w[0] & 1) == odd) << lane;
        minus_zero |= (unsigned)(odd && (w[0] | w[1] | w[2] | w[3]) == 0) << lane;
    }
    out->x = x;
    negate_if(lane_mask(negate ^ turned), &out->x);
    out->is_point = right | opposite;
    out->is_encoding = out->is_point & r->reduced & ~minus_zero;
}

/* The opposites of one or two times two points; in the lanes of `turned` the points. What is
 * none computes on with other numbers. */
static void decode(struct affine *out, const uint8_t *const (*bytes)[LANES],
                   const unsigned *turned, int count)
{
    struct ratio ratios[2];
    struct number w[2], power[2];

    for (int n = 0; n < count; n++)
        start_decoding(&ratios[n], &out[n].y, &w[n], bytes[n]);
    root_power(power, w, count);
    for (int n = 0; n < count; n++)
        end_decoding(&out[n], &ratios[n], &power[n], turned[n]);
}

static void multiples_of(struct table *table, const struct affine *a)
{
    struct number d2 = constant(&iomt_curve_d);
    const struct number one = small(1);
    struct addend once, multiple = {small(1), small(1), small(0), small(2)};
    struct point p;

    plus(&d2, &d2, &d2);
    put_multiple(table, 0, &multiple);
    multiply(&p.x, &a->x, &one); /* one unit, whatever it had */
    p.y = a->y;
    p.z = one;
    multiply(&p.t, &p.x, &p.y);
    to_addend(&once, &p, &d2);
    put_multiple(table, 1, &once);
    for (int i = 2; i < MULTIPLES; i++) {
        add_point(&p, &once, 1, 1);
        to_addend(&multiple, &p, &d2);
        put_multiple(table, i, &multiple);
    }
}

/* ---- [v S]B - [u]A - [v]R ---- */

/* A multiple of a point and one of the base point, or of [2^128]B, in each lane. */
struct term {
    struct table table;
    struct digits scalars[LANES]; /* in radix 16 */
    const struct iomt_packed_point *base[LANES];
    struct digits halves[LANES]; /* in radix 256, the lower 128 bits count */
};

/* The sum of all terms. */
static void add_up(struct point *p, const struct term *terms, int count, unsigned places)
{
    struct addend multiple;

    neutral_point(p);
    for (unsigned place = places; place-- > 0;) {
        const unsigned bit = place * POINT_BITS;
        const int with_base = bit % BASE_BITS == 0 && bit < HALF_BITS;

        for (int i = POINT_BITS; i-- > 0 && place < places - 1;)
            double_point(p, i == 0);
        for (int n = 0; n < count; n++) {
            look_up(&multiple, &terms[n].table, digits_at(terms[n].scalars, bit, POINT_BITS));
            add_point(p, &multiple, 0, with_base || n < count - 1);
        }
        for (int n = 0; n < count && with_base; n++) {
            look_up_packed(&multiple, terms[n].base, digits_at(terms[n].halves, bit, BASE_BITS));
            add_point(p, &multiple, 1, n < count - 1);
        }
    }
}

/* Of one signature, in digits. */
struct scalars {
    struct digits u, v, vs;
    unsigned negative, places;
};

static unsigned length(const struct iomt_scalar *a)
{
    for (unsigned i = 4; i-- > 0;)
        if (a->words[i] != 0)
            return 64 * (i + 1) - (unsigned)__builtin_clzll(a->words[i]);
    return 0;
}

/* A number of n bits and its halves fit into (n + 5) / 4 digits. */
static unsigned more_places(unsigned places, const struct iomt_scalar *a)
{
    const unsigned needed = (length(a) + 5) / POINT_BITS;

    return needed > places ? needed : places;
}

static void shorten(struct scalars *out, const struct iomt_scalar *s, const struct iomt_scalar *k)
{
    struct iomt_relation relation;
    struct iomt_scalar vs;

    iomt_ed25519_relation(&relation, k);
    iomt_ed25519_scale(&vs, &relation, s);
    out->u = with_halves(&relation.u, HALVES16);
    out->v = with_halves(&relation.v, HALVES16);
    out->vs = with_halves(&vs, HALVES256);
    out->negative = (unsigned)relation.negative;
    out->places = more_places(more_places(FEWEST_PLACES, &relation.u), &relation.v);
}

/* In this lane of a term belong A and the lower half of v S, or R and the upper half. */
static void put_key(struct term *term, int lane, const struct scalars *of)
{
    term->scalars[lane] = of->u;
    term->base[lane] = iomt_base_rows[0];
    term->halves[lane] = of->vs;
}

static void put_r(struct term *term, int lane, const struct scalars *of)
{
    term->scalars[lane] = of->v;
    term->base[lane] = iomt_base_rows[HALF_PART];
    memcpy(term->halves[lane].words, of->vs.words + HALF_BITS / 64, HALF_BITS / 8);
}

unsigned iomt_neon_are_differences(const uint8_t *const r[LANES], const uint8_t *const keys[LANES],
                                   const struct iomt_scalar s[LANES],
                                   const struct iomt_scalar k[LANES])
{
    const uint8_t *const bytes[2][LANES] = {{keys[0], keys[1]}, {r[0], r[1]}};
    struct scalars scalars[LANES];
    struct affine points[2]; /* A and R */
    struct term terms[2];
    struct point p;
    struct number rest;
    unsigned places = 0;

    for (int lane = 0; lane < LANES; lane++) {
        shorten(&scalars[lane], &s[lane], &k[lane]);
        put_key(&terms[0], lane, &scalars[lane]);
        put_r(&terms[1], lane, &scalars[lane]);
        if (scalars[lane].places > places)
            places = scalars[lane].places;
    }
    decode(points, bytes, (const unsigned[]){scalars[0].negative | scalars[1].negative << 1, 0}, 2);
    for (int n = 0; n < 2; n++)
        multiples_of(&terms[n].table, &points[n]);
    add_up(&p, terms, 2, places);
    minus(&rest, &p.y, &p.z, 1); /* y = 1 is the neutral point's alone */
    return points[0].is_point & points[1].is_encoding & is_zero(&rest);
}

/* Each lane has the other one's. */
static struct number exchanged(const struct number *a)
{
    struct number out;

    UNROLLED for (int i = 0; i < LIMBS / 2; i++)
        vst1q_u32(out.word + 4 * i, vrev64q_u32(pair_of(a, i)));
    return out;
}

/* Whether the points of both lanes are opposites. */
static int is_cancelled(const struct point *p)
{
    const struct number z = exchanged(&p->z);
    const struct number x = times(p->x, z), other_x = exchanged(&x);
    const struct number y = times(p->y, z), other_y = exchanged(&y);
    struct number sum, difference;

    plus(&sum, &x, &other_x);
    minus(&difference, &y, &other_y, 1);
    return (is_zero(&sum) & is_zero(&difference)) == 3;
}

int iomt_neon_is_difference(const uint8_t r[32], const uint8_t key[32],
                            const struct iomt_scalar *s, const struct iomt_scalar *k)
{
    const uint8_t *const bytes[1][LANES] = {{key, r}};
    struct scalars scalars;
    struct affine points;
    struct term term;
    struct point p;

    shorten(&scalars, s, k);
    decode(&points, bytes, &scalars.negative, 1);
    if (points.is_point != 3 || (points.is_encoding & 2) == 0)
        return 0;
    put_key(&term, 0, &scalars);
    put_r(&term, 1, &scalars);
    multiples_of(&term.table, &points);
    add_up(&p, &term, 1, scalars.places);
    return is_cancelled(&p);
}

/* ---- [S]B - [k]A of prepared keys ---- */

/* With prepared keys only 64 doublings: each 64 bits of k and s have their own row. */
static void multiply_prepared(struct group *group)
{
    struct digits s[LANES], k[LANES];
    struct addend multiple;
    struct point p;

    for (int lane = 0; lane < LANES; lane++) {
        k[lane] = with_halves(&group->k[lane], HALVES16);
        s[lane] = with_halves(&group->s[lane], HALVES256);
    }
    neutral_point(&p);
    for (unsigned bit = PART_BITS; bit-- > 0;) {
        const int with_key = bit % POINT_BITS == 0, with_base = bit % BASE_BITS == 0;

        if (bit < PART_BITS - POINT_BITS)
            double_point(&p, with_key);
        for (unsigned part = 0; with_key && part < IOMT_PREPARED_PARTS; part++) {
            const struct iomt_packed_point *const rows[LANES] = {
                group->items[0]->prepared->multiples[part],
                group->items[1]->prepared->multiples[part]};

            look_up_packed(&multiple, rows, digits_at(k, PART_BITS * part + bit, POINT_BITS));
            add_point(&p, &multiple, 1, with_base || part < IOMT_PREPARED_PARTS - 1);
        }
        for (unsigned part = 0; with_base && part < IOMT_PREPARED_PARTS; part++) {
            const struct iomt_packed_point *const rows[LANES] = {iomt_base_rows[part],
                                                                 iomt_base_rows[part]};

            look_up_packed(&multiple, rows, digits_at(s, PART_BITS * part + bit, BASE_BITS));
            add_point(&p, &multiple, 1, part < IOMT_PREPARED_PARTS - 1);
        }
    }
    group->point = (struct xyz){p.x, p.y, p.z};
}

/* ---- Groups ---- */

static unsigned lanes_with_r(const struct group *group, const struct number *x,
                             const struct number *y)
{
    unsigned lanes = 0;

    for (int lane = 0; lane < LANES; lane++) {
        struct iomt_packed packed_x, packed_y;
        uint8_t encoded[32];

        pack_lane(&packed_x, x, lane);
        pack_lane(&packed_y, y, lane);
        packed_y.words[3] |= packed_x.words[0] << 63;
        for (int i = 0; i < 4; i++)
            iomt_store_le64(encoded + 8 * i, packed_y.words[i]);
        lanes |= (unsigned)(memcmp(encoded, group->items[lane]->signature, sizeof encoded) == 0)
                 << lane;
    }
    return lanes;
}

static unsigned are_differences(const struct group *group)
{
    const uint8_t *const r[LANES] = {group->items[0]->signature, group->items[1]->signature};
    const uint8_t *const keys[LANES] = {group->items[0]->key, group->items[1]->key};

    return iomt_neon_are_differences(r, keys, group->s, group->k);
}

static int verify_alone(const struct iomt_ed25519_item *item)
{
    struct iomt_scalar s, k;

    if (!iomt_scalar_decode(&s, item->signature + 32))
        return 0;
    iomt_ed25519_challenge(&k, item->signature, item->key, item->message, item->size);
    return iomt_neon_is_difference(item->signature, item->key, &s, &k);
}

static void challenges(struct iomt_scalar k[LANES],
                       const struct iomt_ed25519_item *const items[LANES], size_t count)
{
    for (size_t lane = 0; lane < count; lane++)
        iomt_ed25519_challenge(&k[lane], items[lane]->signature, items[lane]->key,
                               items[lane]->message, items[lane]->size);
}

const iomt_ed25519_backend iomt_ed25519_backend_neon = {
    .name = "neon",
    .needs = IOMT_CPU_NEON,
    .lanes = LANES,
    .curve = &iomt_curve51,
    .verify = verify_in_lanes,
};

#endif
