/* Numbers modulo p = 2^255 - 19: the longer functions of ed25519_field.h. */
#include "ed25519_field.h"

const struct iomt_field iomt_field_one = {{1, 0, 0, 0, 0}};

/* One pass of carries; a loose number becomes one with limbs below 2^51 + 2^8. */
static void carry_once(struct iomt_field *a)
{
    uint64_t carry = 0;

    for (int i = 0; i < IOMT_LIMBS; i++) {
        a->limb[i] += carry;
        carry = a->limb[i] >> IOMT_LIMB_BITS;
        a->limb[i] &= IOMT_LIMB_MASK;
    }
    a->limb[0] += 19 * carry;
}

void iomt_field_pack(struct iomt_packed *packed, const struct iomt_field *a)
{
    struct iomt_field t = *a;
    uint64_t quotient;

    /* After two passes the value is below 2^255 + 19, so at most one p has to go. */
    carry_once(&t);
    carry_once(&t);

    /* The value is at least p exactly if adding 19 carries out of 255 bits. Then that sum,
     * less its top bit, is the value minus p. */
    quotient = (t.limb[0] + 19) >> IOMT_LIMB_BITS;
    for (int i = 1; i < IOMT_LIMBS; i++)
        quotient = (t.limb[i] + quotient) >> IOMT_LIMB_BITS;
    t.limb[0] += 19 * quotient;
    for (int i = 0; i < IOMT_LIMBS - 1; i++) {
        t.limb[i + 1] += t.limb[i] >> IOMT_LIMB_BITS;
        t.limb[i] &= IOMT_LIMB_MASK;
    }
    t.limb[4] &= IOMT_LIMB_MASK;

    packed->words[0] = t.limb[0] | t.limb[1] << 51;
    packed->words[1] = t.limb[1] >> 13 | t.limb[2] << 38;
    packed->words[2] = t.limb[2] >> 26 | t.limb[3] << 25;
    packed->words[3] = t.limb[3] >> 39 | t.limb[4] << 12;
}

static void square_times(struct iomt_field *out, const struct iomt_field *a, int times)
{
    struct iomt_field t = *a;

    for (int i = 0; i < times; i++)
        iomt_field_square(&t, &t);
    *out = t;
}

/* a^(2^250 - 1), the common start of both powers, and a^11. Each `ones` is a^(2^n - 1);
 * n doubles (or nearly) by squaring n times and multiplying by itself. */
static void power_of_ones(struct iomt_field *ones250, struct iomt_field *a11,
                          const struct iomt_field *a)
{
    struct iomt_field a2, a9, t, ones5, ones10, ones20, ones50, ones100;

    iomt_field_square(&a2, a);
    square_times(&t, &a2, 2);
    iomt_field_mul(&a9, &t, a);
    iomt_field_mul(a11, &a9, &a2);
    iomt_field_square(&t, a11);
    iomt_field_mul(&ones5, &t, &a9); /* 22 + 9 = 31 */
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
    iomt_field_mul(ones250, &t, &ones50);
}

void iomt_field_invert(struct iomt_field *out, const struct iomt_field *a)
{
    struct iomt_field t, a11;

    power_of_ones(&t, &a11, a);
    square_times(&t, &t, 5);
    iomt_field_mul(out, &t, &a11); /* (2^250 - 1) 2^5 + 11 = 2^255 - 21 = p - 2 */
}

void iomt_field_root_power(struct iomt_field *out, const struct iomt_field *a)
{
    struct iomt_field t, a11, base = *a;

    power_of_ones(&t, &a11, a);
    square_times(&t, &t, 2);
    iomt_field_mul(out, &t, &base); /* (2^250 - 1) 2^2 + 1 = 2^252 - 3 = (p - 5) / 8 */
}

int iomt_field_is_zero(const struct iomt_field *a)
{
    struct iomt_packed packed;

    iomt_field_pack(&packed, a);
    return (packed.words[0] | packed.words[1] | packed.words[2] | packed.words[3]) == 0;
}
