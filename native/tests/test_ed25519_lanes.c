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
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512vl,avx512ifma"))), \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512dq,avx512vl,avx512ifma")
#endif

#include "ed25519_ifma_four.h"
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
    struct operand operand;
    struct addend addend;

    from_affine(&p, &arguments[0]);
    from_affine(&q, &arguments[2]);
    multiply_out(&operand, &q);
    to_addend(&addend, &operand, d2);
    add_point(&p, &p, &addend, 0);
    put_affine(reply, &p);
    double_point(&q, &p);
    add_point(&p, &p, &addend, 1);
    put_affine(reply, &p);
    put_affine(reply, &q);
    return 1;
}

/* ---- Four lanes ---- */

static struct four four_of(const struct argument *argument)
{
    struct four a;

    if (argument->size != sizeof a)
        exit(2);
    memcpy(&a, argument->bytes, sizeof a);
    return a;
}

static struct four_sum four_sum_of(const struct argument *argument)
{
    struct four_sum s;

    if (argument->size != sizeof s)
        exit(2);
    memcpy(&s, argument->bytes, sizeof s);
    return s;
}

static void put_four(struct reply *reply, struct four a)
{
    put(reply, &a, sizeof a);
}

static void put_four_packed(struct reply *reply, struct four a)
{
    const struct four_words w = four_pack(a);

    put(reply, &w, sizeof w);
}

/* four-points P Q, each (Z, X, Y, T): 2 P with T and with X in its place, P + Q, P - Q and
 * P + Q with X in place of T. */
static void four_points(const struct argument *arguments, struct reply *reply)
{
    const struct four_sum p = four_sum_of(&arguments[0]), q = four_sum_of(&arguments[1]);
    const struct four addend = four_addend(&q);
    struct four_sum sum = p;

    EACH_LIMB sum.limb[i] = MOVED(p.limb[i], 0, 1, 2, 1);
    for (int with_t = 1; with_t >= 0; with_t--) {
        struct four_sum twice = sum;

        four_double(&twice, with_t);
        put_four_packed(reply, four_carry(twice));
    }
    for (int turn = 0; turn < 3; turn++) {
        const struct four other = four_opposite_if(turn == 1, addend);

        sum = p;
        four_add(&sum, &other, turn < 2);
        put_four_packed(reply, four_carry(sum));
    }
}

static int four_command(const char *name, const struct argument *arguments, size_t count,
                        struct reply *reply)
{
    struct four_words w;
    struct four_sum s;
    uint8_t answer;

    if (strcmp(name, "four-product") == 0 && count == 2) {
        s = four_multiply(four_of(&arguments[0]), four_of(&arguments[1]));
        put(reply, &s, sizeof s);
    } else if (strcmp(name, "four-square") == 0) {
        s = four_square(four_of(&arguments[0]));
        put(reply, &s, sizeof s);
    } else if (strcmp(name, "four-carry") == 0) {
        put_four(reply, four_carry(four_sum_of(&arguments[0])));
    } else if (strcmp(name, "four-plus") == 0 && count == 2) {
        put_four(reply, four_plus(four_of(&arguments[0]), four_of(&arguments[1])));
    } else if (strcmp(name, "four-minus") == 0 && count == 2) {
        put_four(reply, four_minus(four_of(&arguments[0]), four_of(&arguments[1])));
    } else if (strcmp(name, "four-negate") == 0) { /* the odd lanes */
        put_four(reply, four_negate_if(0xa, four_of(&arguments[0])));
    } else if (strcmp(name, "four-scaled") == 0) {
        put_four(reply, four_scaled(four_of(&arguments[0]), four_same((1 << 18) - 1)));
    } else if (strcmp(name, "four-unpack") == 0 && arguments[0].size == sizeof w) {
        memcpy(&w, arguments[0].bytes, sizeof w);
        put_four(reply, four_unpack(w));
    } else if (strcmp(name, "four-pack") == 0) {
        put_four_packed(reply, four_of(&arguments[0]));
    } else if (strcmp(name, "four-is-zero") == 0) {
        answer = (uint8_t)four_is_zero(four_of(&arguments[0]));
        put(reply, &answer, 1);
    } else if (strcmp(name, "four-is-neutral") == 0) {
        s = four_sum_of(&arguments[0]);
        answer = (uint8_t)four_is_neutral(&s);
        put(reply, &answer, 1);
    } else if (strcmp(name, "four-root-power") == 0) {
        put_four_packed(reply, four_root_power(four_of(&arguments[0])));
    } else if (strcmp(name, "four-points") == 0 && count == 2) {
        four_points(arguments, reply);
    } else {
        return 0;
    }
    return 1;
}

/* difference R KEY S K: whether [S] B - [K] A is encoded as R, for a new and a known key. */
static int difference_command(const struct argument *arguments, struct reply *reply)
{
    iomt_ed25519_prepared *prepared = malloc(sizeof *prepared);
    struct iomt_scalar s, k;
    uint8_t answers[2];

    if (prepared == NULL || arguments[0].size != 32 || arguments[1].size != 32 ||
        arguments[2].size != 32 || arguments[3].size != 32 ||
        !iomt_scalar_decode(&s, arguments[2].bytes) ||
        !iomt_scalar_decode(&k, arguments[3].bytes))
        exit(2);
    iomt_ed25519_prepare(&iomt_ed25519_backend_ifma, prepared, arguments[1].bytes);
    answers[0] = (uint8_t)iomt_ifma_is_difference_new(arguments[0].bytes, arguments[1].bytes,
                                                      &s, &k);
    answers[1] = (uint8_t)iomt_ifma_is_difference_known(arguments[0].bytes, prepared, &s, &k);
    put(reply, answers, sizeof answers);
    free(prepared);
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

static struct iomt_scalar scalar_of(const struct argument *argument)
{
    struct iomt_scalar scalar;

    if (argument->size != 32)
        exit(2);
    for (int i = 0; i < 4; i++)
        scalar.words[i] = iomt_load_le64(argument->bytes + 8 * i);
    return scalar;
}

/* differences, then R KEY S K of each lane: bit l of the reply is that of lane l. */
static int differences_command(const struct argument *arguments, struct reply *reply)
{
    struct iomt_ed25519_item items[LANES];
    const struct iomt_ed25519_item *places[LANES];
    struct iomt_scalar s[LANES], k[LANES];
    uint8_t good;

    for (size_t lane = 0; lane < LANES; lane++) {
        const struct argument *of = &arguments[4 * lane];

        items[lane] = (struct iomt_ed25519_item){.signature = of[0].bytes, .key = of[1].bytes};
        places[lane] = &items[lane];
        s[lane] = scalar_of(&of[2]);
        k[lane] = scalar_of(&of[3]);
    }
    good = (uint8_t)iomt_ifma_are_differences(places, s, k);
    put(reply, &good, sizeof good);
    return 1;
}

/* relations K ...: u, v and the sign of each lane. */
static int relations_command(const struct argument *arguments, struct reply *reply)
{
    struct iomt_scalar k[LANES], u[LANES], v[LANES];
    uint8_t negative;

    for (size_t lane = 0; lane < LANES; lane++)
        k[lane] = scalar_of(&arguments[lane]);
    negative = (uint8_t)iomt_ifma_relations(u, v, k);
    put(reply, u, sizeof u);
    put(reply, v, sizeof v);
    put(reply, &negative, sizeof negative);
    return 1;
}

/* reduce N ..., of 64 bytes each; scalar-product A ... B ...: modulo L. */
static int reduction_command(const char *name, const struct argument *arguments,
                             struct reply *reply)
{
    struct iomt_scalar out[LANES], a[LANES], b[LANES];
    uint64_t numbers[8][LANES];

    for (size_t lane = 0; lane < LANES; lane++) {
        if (strcmp(name, "reduce") != 0) {
            a[lane] = scalar_of(&arguments[lane]);
            b[lane] = scalar_of(&arguments[LANES + lane]);
            continue;
        }
        if (arguments[lane].size != 64)
            exit(2);
        for (int i = 0; i < 8; i++)
            numbers[i][lane] = iomt_load_le64(arguments[lane].bytes + 8 * i);
    }
    if (strcmp(name, "reduce") == 0)
        iomt_ifma_reduce(out, (const uint64_t (*)[LANES])numbers);
    else
        iomt_ifma_products(out, a, b);
    put(reply, out, sizeof out);
    return 1;
}

static int answer(const char *name, const struct argument *arguments, size_t count,
                  struct reply *reply)
{
    if (strcmp(name, "points") == 0 && count == 4)
        return point_command(arguments, reply);
    if (strcmp(name, "differences") == 0 && count == 4 * LANES)
        return differences_command(arguments, reply);
    if (strcmp(name, "relations") == 0 && count == LANES)
        return relations_command(arguments, reply);
    if ((strcmp(name, "reduce") == 0 && count == LANES) ||
        (strcmp(name, "scalar-product") == 0 && count == 2 * LANES))
        return reduction_command(name, arguments, reply);
    if (strcmp(name, "difference") == 0 && count == 4)
        return difference_command(arguments, reply);
    if (strncmp(name, "four-", 5) == 0 && count >= 1)
        return four_command(name, arguments, count, reply);
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
