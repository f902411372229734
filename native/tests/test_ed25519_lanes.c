/* The parts of the eight lanes as commands, for a test in Python that knows the answers.
 *
 * Each line is a command and its arguments in hexadecimal, each line of output its reply; a
 * machine without the instructions answers "?" to all. Numbers come and go as they lie in
 * memory, limb by limb and in it lane by lane, so that a test can stand on the bounds of
 * limbs and give every lane its own number. */
#include "ed25519_ifma.h"
#include "lane_lines.h"

#if defined(__x86_64__)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512ifma"))), \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512dq,avx512ifma")
#endif

#include "ed25519_ifma_group.h"

static struct number number_of(const struct argument *argument)
{
    struct number a;

    if (argument->size != sizeof a)
        exit(2);
    memcpy(&a, argument->bytes, sizeof a);
    return a;
}

static struct sum sum_of(const struct argument *argument)
{
    return widen(number_of(argument));
}

/* ---- Commands ---- */

static int field_command(const char *name, const struct argument *arguments, struct reply *reply)
{
    struct sum s;
    struct number a;

    if (strcmp(name, "product") == 0) {
        s = multiply(number_of(&arguments[0]), number_of(&arguments[1]));
        put(reply, &s, sizeof s);
    } else if (strcmp(name, "square") == 0) {
        s = square(number_of(&arguments[0]));
        put(reply, &s, sizeof s);
    } else if (strcmp(name, "minus") == 0) { /* both up to a product */
        s = minus(sum_of(&arguments[0]), sum_of(&arguments[1]), PRODUCT + 1);
        put(reply, &s, sizeof s);
    } else if (strcmp(name, "carry") == 0) {
        a = carry(sum_of(&arguments[0]));
        put(reply, &a, sizeof a);
    } else if (strcmp(name, "negate") == 0) { /* the odd lanes */
        a = negate_if(0xaa, number_of(&arguments[0]));
        put(reply, &a, sizeof a);
    } else {
        return 0;
    }
    return 1;
}

static int whole_number_command(const char *name, const struct argument *arguments,
                                struct reply *reply)
{
    struct words w;
    struct number a, bases[2], powers[2];
    uint8_t zero;

    if (strcmp(name, "unpack") == 0 && arguments[0].size == sizeof w) {
        memcpy(&w, arguments[0].bytes, sizeof w);
        a = unpack(w);
        put(reply, &a, sizeof a);
    } else if (strcmp(name, "pack") == 0) {
        w = pack(number_of(&arguments[0]));
        put(reply, &w, sizeof w);
    } else if (strcmp(name, "is-zero") == 0) {
        zero = is_zero(number_of(&arguments[0]));
        put(reply, &zero, 1);
    } else if (strcmp(name, "inverse") == 0) {
        w = pack(inverse(number_of(&arguments[0])));
        put(reply, &w, sizeof w);
    } else if (strcmp(name, "root-power") == 0) {
        bases[0] = bases[1] = number_of(&arguments[0]);
        root_power(powers, bases, 2);
        w = pack(powers[1]);
        put(reply, &w, sizeof w);
    } else {
        return 0;
    }
    return 1;
}

static void put_affine(struct reply *reply, const struct efgh *p)
{
    struct words x, y;
    struct xyz q;

    projective(&q, p);
    q.z = inverse(q.z);
    x = pack(times(q.x, q.z));
    y = pack(times(q.y, q.z));
    put(reply, &x, sizeof x);
    put(reply, &y, sizeof y);
}

static void from_affine(struct efgh *p, const struct argument *xy)
{
    p->e = number_of(&xy[0]);
    p->h = number_of(&xy[1]);
    p->f = p->g = small(1);
}

/* points XP YP XQ YQ: P + Q, P + 2 Q by way of both kinds of sum, and 2 (P + Q). */
static int point_command(const struct argument *arguments, struct reply *reply)
{
    const struct number d2 = carry(doubled(widen(constant(iomt_curve_d.words))));
    struct efgh p, q;
    struct addend addend;

    from_affine(&p, &arguments[0]);
    from_affine(&q, &arguments[2]);
    to_addend(&addend, &q, d2);
    add_point(&p, &p, &addend, 0);
    put_affine(reply, &p);
    double_point(&q, &p);
    add_point(&p, &p, &addend, 1);
    put_affine(reply, &p);
    put_affine(reply, &q);
    return 1;
}

/* challenge, then R, KEY and MESSAGE of 1 to 8 signatures. */
static int challenge_command(const struct argument *arguments, size_t count, struct reply *reply)
{
    struct iomt_ed25519_item items[LANES];
    const struct iomt_ed25519_item *places[LANES];
    struct iomt_scalar k[LANES];

    for (size_t i = 0; i < LANES; i++) {
        const struct argument *of = &arguments[3 * (i < count / 3 ? i : 0)];

        items[i] = (struct iomt_ed25519_item){.signature = of[0].bytes,
                                              .key = of[1].bytes,
                                              .message = of[2].size > 0 ? of[2].bytes : NULL,
                                              .size = of[2].size};
        places[i] = &items[i];
    }
    iomt_ifma_challenges(k, places, count / 3);
    put(reply, k, count / 3 * sizeof k[0]);
    return 1;
}

static int answer(const char *name, const struct argument *arguments, size_t count,
                  struct reply *reply)
{
    if (strcmp(name, "points") == 0 && count == 4)
        return point_command(arguments, reply);
    if (strcmp(name, "challenge") == 0 && count >= 3 && count % 3 == 0)
        return challenge_command(arguments, count, reply);
    if (count == 2 || (count == 1 && strcmp(name, "product") != 0 && strcmp(name, "minus") != 0))
        return field_command(name, arguments, reply) ||
               whole_number_command(name, arguments, reply);
    return 0;
}

int main(void)
{
    return answer_lines(answer, iomt_ed25519_backend_usable(&iomt_ed25519_backend_ifma));
}

#else

int main(void)
{
    return answer_lines(NULL, 0);
}

#endif
