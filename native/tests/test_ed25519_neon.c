/* The parts of the two lanes as commands, for a test in Python that knows the answers: see
 * lane_lines.h. Numbers come and go as they lie in memory, limb by limb and in it lane by lane,
 * so that a test can stand on the bounds of limbs and give each lane its own number. */
#include "ed25519_neon.h"
#include "lane_lines.h"

#if defined(IOMT_ARM64)

#include "ed25519_neon_group.h"

static struct number number_of(const struct argument *argument)
{
    struct number a;

    if (argument->size != sizeof a)
        exit(2);
    memcpy(&a, argument->bytes, sizeof a);
    return a;
}

static void put_packed(struct reply *reply, const struct number *a)
{
    for (int lane = 0; lane < LANES; lane++) {
        struct iomt_packed packed;

        pack_lane(&packed, a, lane);
        put(reply, &packed, sizeof packed);
    }
}

/* ---- Commands ---- */

/* The name's last digit is the number of units that the subtrahend may have. */
static int difference(const char *name, const struct number *a, const struct number *b,
                      struct number *out)
{
    if (strcmp(name, "minus-1") == 0)
        minus(out, a, b, 1);
    else if (strcmp(name, "minus-2") == 0)
        minus(out, a, b, 2);
    else if (strcmp(name, "minus-3") == 0)
        minus(out, a, b, 3);
    else
        return 0;
    return 1;
}

static int command_of_two(const char *name, const struct argument *arguments,
                          struct reply *reply)
{
    const struct number a = number_of(&arguments[0]), b = number_of(&arguments[1]);
    struct number out;

    if (strcmp(name, "product") == 0)
        multiply(&out, &a, &b);
    else if (strcmp(name, "square-plus") == 0)
        square_plus(&out, &a, &b);
    else if (strcmp(name, "plus") == 0)
        plus(&out, &a, &b);
    else if (strcmp(name, "choose") == 0) /* the second in lane 1 */
        choose(&out, lane_mask(2), &a, &b);
    else if (!difference(name, &a, &b, &out))
        return 0;
    put(reply, &out, sizeof out);
    return 1;
}

static int command_of_one(const char *name, const struct argument *arguments,
                          struct reply *reply)
{
    struct number a = number_of(&arguments[0]), bases[2], powers[2];
    uint8_t lanes;

    if (strcmp(name, "square") == 0) {
        square(&a, &a);
        put(reply, &a, sizeof a);
    } else if (strcmp(name, "negate-lane-1") == 0) {
        negate_if(lane_mask(2), &a);
        put(reply, &a, sizeof a);
    } else if (strcmp(name, "negate-lane-0") == 0) {
        negate_if(lane_mask(1), &a);
        put(reply, &a, sizeof a);
    } else if (strcmp(name, "pack") == 0) {
        put_packed(reply, &a);
    } else if (strcmp(name, "is-zero") == 0) {
        lanes = (uint8_t)is_zero(&a);
        put(reply, &lanes, 1);
    } else if (strcmp(name, "inverse") == 0) {
        a = inverse(a);
        put_packed(reply, &a);
    } else if (strcmp(name, "root-power") == 0) {
        bases[0] = bases[1] = a;
        root_power(powers, bases, 2);
        put_packed(reply, &powers[1]);
    } else {
        return 0;
    }
    return 1;
}

static void put_affine(struct reply *reply, const struct point *p)
{
    const struct number over_z = inverse(p->z);
    const struct number x = times(p->x, over_z), y = times(p->y, over_z);

    put_packed(reply, &x);
    put_packed(reply, &y);
}

/* points XP YP XQ YQ: P + Q, P + 2 Q by way of both kinds of sum, and 2 (P + Q). */
static int point_command(const struct argument *arguments, struct reply *reply)
{
    struct number d2 = constant(&iomt_curve_d);
    struct point p, q;
    struct addend addend;

    plus(&d2, &d2, &d2);
    p.x = number_of(&arguments[0]);
    p.y = number_of(&arguments[1]);
    q.x = number_of(&arguments[2]);
    q.y = number_of(&arguments[3]);
    p.z = q.z = small(1);
    p.t = times(p.x, p.y);
    q.t = times(q.x, q.y);
    to_addend(&addend, &q, &d2);
    add_point(&p, &addend, 0, 1);
    put_affine(reply, &p);
    q = p;
    double_point(&q, 0);
    add_point(&p, &addend, 1, 0);
    put_affine(reply, &p);
    put_affine(reply, &q);
    return 1;
}

/* differences, then R KEY S K of each lane: the lanes in which [S] B - [K] A is encoded as R,
 * with both side by side, and with each by itself. */
static int differences_command(const struct argument *arguments, struct reply *reply)
{
    const uint8_t *const r[LANES] = {arguments[0].bytes, arguments[4].bytes};
    const uint8_t *const keys[LANES] = {arguments[1].bytes, arguments[5].bytes};
    struct iomt_scalar s[LANES], k[LANES];
    uint8_t together, alone = 0;

    for (int i = 0; i < 4 * LANES; i++)
        if (arguments[i].size != 32)
            exit(2);
    for (int lane = 0; lane < LANES; lane++) {
        if (!iomt_scalar_decode(&s[lane], arguments[4 * lane + 2].bytes) ||
            !iomt_scalar_decode(&k[lane], arguments[4 * lane + 3].bytes))
            exit(2);
        alone |= (uint8_t)(iomt_neon_is_difference(r[lane], keys[lane], &s[lane], &k[lane])
                           << lane);
    }
    together = (uint8_t)iomt_neon_are_differences(r, keys, s, k);
    put(reply, &together, 1);
    put(reply, &alone, 1);
    return 1;
}

static int answer(const char *name, const struct argument *arguments, size_t count,
                  struct reply *reply)
{
    struct iomt_packed words[LANES];
    struct number a;

    if (strcmp(name, "points") == 0 && count == 4)
        return point_command(arguments, reply);
    if (strcmp(name, "differences") == 0 && count == 4 * LANES)
        return differences_command(arguments, reply);
    if (strcmp(name, "unpack") == 0 && count == 1 && arguments[0].size == sizeof words) {
        memcpy(words, arguments[0].bytes, sizeof words);
        unpack(&a, words[0].words, words[1].words);
        put(reply, &a, sizeof a);
        return 1;
    }
    if (count == 2)
        return command_of_two(name, arguments, reply);
    return count == 1 && command_of_one(name, arguments, reply);
}

int main(void)
{
    return answer_lines(answer, iomt_ed25519_backend_usable(&iomt_ed25519_backend_neon));
}

#else

int main(void)
{
    return answer_lines(NULL, 0);
}

#endif
