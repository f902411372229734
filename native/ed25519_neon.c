/* Verification in two lanes of NEON, for 64-bit ARM: two signatures side by side, each by
 * itself. On the cores of a Raspberry Pi 4 and 5 two products modulo p take it less than the
 * scalar code takes for one (docs/ed25519.md), so that even one signature is faster in one of
 * two lanes.
 *
 * A group of two takes these steps, both lanes at once:
 *   1. decode the keys (unless they are prepared), -A;
 *   2. [s]B + [k](-A) in one chain of doublings, with signed digits of fixed width: of k in
 *      radix 32 from a table of 0 .. 16 times -A, of s in radix 256 from a table of B;
 *   3. with all groups of a call: 1/Z; encode; compare with R (ed25519_lanes.h). */
#include "ed25519.h"

#if defined(IOMT_ARM64)

#include "ed25519_neon_group.h"

#include <string.h>

#define FEWEST_PLAIN 1 /* one with an idle lane beside it is still faster, by the model */
#define FEWEST_PREPARED 1
#include "ed25519_lanes.h"

#define KEY_BITS 5
#define KEY_MULTIPLES 17 /* 0 .. 16 */
#define BASE_BITS 8
#define KEY_TOP 250 /* where the highest digit of k stands: k < 2^253, and see with_halves */
#define PREPARED_BITS 4
#define PART_BITS 64

/* ---- Digits ---- */

struct digits {
    uint64_t words[4];
};

/* Signed digits of `bits` bits are those of the number plus 2^(bits - 1) in every place,
 * each minus 2^(bits - 1): from -2^(bits - 1) to 2^(bits - 1) - 1. The sum stays below 2^256
 * for a number below L: in radix 32 with 51 places below 2^255, in radix 16 and 256 because
 * 0x88..88 + 2^253 and 0x80..80 + 2^253 do. */
static void with_halves(struct digits out[LANES], const struct iomt_scalar numbers[LANES],
                        const uint64_t halves[4])
{
    for (int lane = 0; lane < LANES; lane++) {
        iomt_uint128 sum = 0;

        for (int i = 0; i < 4; i++) {
            sum += (iomt_uint128)numbers[lane].words[i] + halves[i];
            out[lane].words[i] = (uint64_t)sum;
            sum >>= 64;
        }
    }
}

/* In radix 32: 16 (32^51 - 1) / 31. */
static const uint64_t halves32[4] = {0x0842108421084210, 0x1084210842108421, 0x2108421084210842,
                                     0x4210842108421084};
static const uint64_t halves16[4] = {0x8888888888888888, 0x8888888888888888, 0x8888888888888888,
                                     0x8888888888888888};
static const uint64_t halves256[4] = {0x8080808080808080, 0x8080808080808080,
                                      0x8080808080808080, 0x8080808080808080};

/* The digit at a bit. */
ALWAYS_INLINE int digit_at(const struct digits *a, unsigned bit, unsigned bits)
{
    const unsigned word = bit / 64, shift = bit % 64;
    uint64_t digit = a->words[word] >> shift;

    if (shift + bits > 64 && word < 3)
        digit |= a->words[word + 1] << (64 - shift);
    return (int)(digit & ((1u << bits) - 1)) - (1 << (bits - 1));
}

/* The digits of both lanes: their sizes, and the lanes in which they are negative. Digits are
 * as good as random, so no branch should depend on one. */
struct pair_of_digits {
    unsigned size[LANES], negative;
};

ALWAYS_INLINE struct pair_of_digits digits_at(const struct digits a[LANES], unsigned bit,
                                              unsigned bits)
{
    const int first = digit_at(&a[0], bit, bits), second = digit_at(&a[1], bit, bits);

    return (struct pair_of_digits){
        {(unsigned)(first < 0 ? -first : first), (unsigned)(second < 0 ? -second : second)},
        (unsigned)(first < 0) | (unsigned)(second < 0) << 1,
    };
}

/* ---- Looking up multiples ---- */

/* A number of one lane: its ten limbs, and two words more so that it is three vectors. */
struct lane_number {
    _Alignas(16) uint32_t word[12];
};

struct lane_addend {
    struct lane_number sums[2], t2d, z2; /* sums: Y + X and Y - X */
};

/* Each lane's multiples of its own key lie together, so that one is read in whole vectors. */
struct key_table {
    struct lane_addend lane[LANES][KEY_MULTIPLES];
};

static void take_apart(struct lane_number *first, struct lane_number *second,
                       const struct number *a)
{
    UNROLLED for (int i = 0; i < 3; i++) {
        const uint32x4_t low = pair_of(a, 2 * i), high = i < 2 ? pair_of(a, 2 * i + 1) : low;

        vst1q_u32(first->word + 4 * i, vuzp1q_u32(low, high));
        vst1q_u32(second->word + 4 * i, vuzp2q_u32(low, high));
    }
}

ALWAYS_INLINE void put_together(struct number *out, const struct lane_number *first,
                                const struct lane_number *second)
{
    UNROLLED for (int i = 0; i < LIMBS / 2; i++) {
        const uint32x4_t a = vld1q_u32(first->word + i / 2 * 4);
        const uint32x4_t b = vld1q_u32(second->word + i / 2 * 4);

        vst1q_u32(out->word + 4 * i, i % 2 == 0 ? vzip1q_u32(a, b) : vzip2q_u32(a, b));
    }
}

static void put_multiple(struct key_table *table, int i, const struct addend *multiple)
{
    struct lane_addend *first = &table->lane[0][i], *second = &table->lane[1][i];

    take_apart(&first->sums[0], &second->sums[0], &multiple->plus);
    take_apart(&first->sums[1], &second->sums[1], &multiple->minus);
    take_apart(&first->t2d, &second->t2d, &multiple->t2d);
    take_apart(&first->z2, &second->z2, &multiple->z2);
}

/* The opposite has plus and minus exchanged, and t2d negated. */
static void look_up(struct addend *out, const struct key_table *table, struct pair_of_digits d)
{
    const struct lane_addend *first = &table->lane[0][d.size[0]];
    const struct lane_addend *second = &table->lane[1][d.size[1]];
    const unsigned turn0 = d.negative & 1, turn1 = d.negative >> 1;

    put_together(&out->plus, &first->sums[turn0], &second->sums[turn1]);
    put_together(&out->minus, &first->sums[!turn0], &second->sums[!turn1]);
    put_together(&out->t2d, &first->t2d, &second->t2d);
    put_together(&out->z2, &first->z2, &second->z2);
    negate_if(lane_mask(d.negative), &out->t2d);
}

static const struct iomt_packed_point packed_neutral = {{{1, 0, 0, 0}}, {{1, 0, 0, 0}}, {{0}}};

/* The same where each lane has its own row of multiples 1, 2, ... */
static void look_up_packed(struct addend *out, const struct iomt_packed_point *const rows[LANES],
                           struct pair_of_digits d)
{
    const struct iomt_packed_point *at[LANES];
    const struct iomt_packed *plus[LANES], *minus[LANES];

    UNROLLED for (int lane = 0; lane < LANES; lane++) {
        const unsigned turn = d.negative >> lane & 1;

        at[lane] = d.size[lane] == 0 ? &packed_neutral : rows[lane] + d.size[lane] - 1;
        plus[lane] = turn ? &at[lane]->y_minus_x : &at[lane]->y_plus_x;
        minus[lane] = turn ? &at[lane]->y_plus_x : &at[lane]->y_minus_x;
    }
    unpack(&out->plus, plus[0]->words, plus[1]->words);
    unpack(&out->minus, minus[0]->words, minus[1]->words);
    unpack(&out->t2d, at[0]->t2d.words, at[1]->t2d.words);
    negate_if(lane_mask(d.negative), &out->t2d);
}

static void look_up_base(struct addend *out, unsigned part, struct pair_of_digits d)
{
    const struct iomt_packed_point *const rows[LANES] = {iomt_base_rows[part],
                                                         iomt_base_rows[part]};

    look_up_packed(out, rows, d);
}

/* ---- [s]B + [k](-A) ---- */

struct affine {
    struct number x, y; /* one or two units, and one */
};

struct ratio {
    struct number u, v, v3; /* x^2 = u/v; 3 units, 2 and 1 */
    unsigned odd;           /* the lanes whose sign bit is set */
};

static void start_decoding(struct ratio *out, struct number *y, struct number *w,
                           const struct group *group)
{
    const struct number one = small(1), d = constant(&iomt_curve_d);
    struct iomt_packed keys[LANES];
    struct number yy;

    out->odd = 0;
    for (int lane = 0; lane < LANES; lane++) {
        for (int i = 0; i < 4; i++)
            keys[lane].words[i] = iomt_load_le64(group->items[lane]->key + 8 * i);
        out->odd |= (unsigned)(keys[lane].words[3] >> 63) << lane;
    }
    unpack(y, keys[0].words, keys[1].words);
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
static void end_decoding(struct group *group, struct affine *out, const struct ratio *r,
                         const struct number *power)
{
    const struct number root = constant(&iomt_root_of_minus_one);
    const struct number zero = small(0), one = small(1);
    struct number x, vxx, other;
    unsigned right, turned, negate = 0;

    multiply(&x, power, &r->v3);
    multiply(&x, &x, &r->u);
    square(&vxx, &x);
    multiply(&vxx, &vxx, &r->v);
    minus(&other, &vxx, &r->u, 3); /* 5 */
    right = is_zero(&other);
    plus(&other, &vxx, &r->u); /* 4 */
    turned = is_zero(&other) & ~right;
    multiply(&other, &x, &root);
    choose(&x, lane_mask(turned), &x, &other);
    group->is_point = right | turned;
    for (int lane = 0; lane < LANES; lane++) {
        struct iomt_packed packed;

        /* The parity of x must be that of the sign bit; then -A has the other one. */
        pack_lane(&packed, &x, lane);
        negate |= (unsigned)((packed.words[0] & 1) == (r->odd >> lane & 1)) << lane;
    }
    negate_if(lane_mask(negate), &x);
    choose(&out->x, lane_mask(group->is_point), &zero, &x);
    choose(&out->y, lane_mask(group->is_point), &one, &out->y);
}

static void decode_keys(struct group *groups, struct affine *out, int count)
{
    struct ratio ratios[2];
    struct number w[2], power[2];

    for (int n = 0; n < count; n++)
        start_decoding(&ratios[n], &out[n].y, &w[n], &groups[n]);
    root_power(power, w, count);
    for (int n = 0; n < count; n++)
        end_decoding(&groups[n], &out[n], &ratios[n], &power[n]);
}

static void multiples_of_key(struct key_table *table, const struct affine *a)
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
    for (int i = 2; i < KEY_MULTIPLES; i++) {
        add_point(&p, &once, 1, 1);
        to_addend(&multiple, &p, &d2);
        put_multiple(table, i, &multiple);
    }
}

static void multiply_group(struct group *group, const struct affine *a)
{
    struct digits s[LANES], k[LANES];
    struct key_table table;
    struct addend multiple;
    struct point p;

    with_halves(k, group->k, halves32);
    with_halves(s, group->s, halves256);
    multiples_of_key(&table, a);
    neutral_point(&p);
    for (unsigned bit = KEY_TOP + 1; bit-- > 0;) {
        const int with_key = bit % KEY_BITS == 0, with_base = bit % BASE_BITS == 0;

        if (bit < KEY_TOP)
            double_point(&p, with_key || with_base);
        if (with_key) {
            look_up(&multiple, &table, digits_at(k, bit, KEY_BITS));
            add_point(&p, &multiple, 0, with_base);
        }
        if (with_base) {
            look_up_base(&multiple, 0, digits_at(s, bit, BASE_BITS));
            add_point(&p, &multiple, 1, 0);
        }
    }
    group->point = (struct xyz){p.x, p.y, p.z};
}

/* One group, or two, whose keys are decoded together: a chain of squarings leaves the
 * multiplier idle while it carries. */
static void multiply_pair(struct group *groups, int count)
{
    struct affine a[2];

    decode_keys(groups, a, count);
    for (int n = 0; n < count; n++)
        multiply_group(&groups[n], &a[n]);
}

/* With prepared keys only 64 doublings: each 64 bits of k and s have their own row. */
static void multiply_prepared(struct group *group)
{
    struct digits s[LANES], k[LANES];
    struct addend multiple;
    struct point p;

    with_halves(k, group->k, halves16);
    with_halves(s, group->s, halves256);
    neutral_point(&p);
    for (unsigned bit = PART_BITS; bit-- > 0;) {
        const int with_key = bit % PREPARED_BITS == 0, with_base = bit % BASE_BITS == 0;

        if (bit < PART_BITS - PREPARED_BITS)
            double_point(&p, with_key);
        for (unsigned part = 0; with_key && part < IOMT_PREPARED_PARTS; part++) {
            const struct iomt_packed_point *const rows[LANES] = {
                group->items[0]->prepared->multiples[part],
                group->items[1]->prepared->multiples[part]};

            look_up_packed(&multiple, rows, digits_at(k, PART_BITS * part + bit, PREPARED_BITS));
            add_point(&p, &multiple, 1, with_base || part < IOMT_PREPARED_PARTS - 1);
        }
        for (unsigned part = 0; with_base && part < IOMT_PREPARED_PARTS; part++) {
            look_up_base(&multiple, part, digits_at(s, PART_BITS * part + bit, BASE_BITS));
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

static int verify_alone(const struct iomt_ed25519_item *item)
{
    return iomt_ed25519_verify_item(&iomt_curve51, item);
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
