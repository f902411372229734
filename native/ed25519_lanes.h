/* Verification in lanes, several signatures side by side, each by itself: what is the same for
 * every kind of vector. A file that computes in lanes defines, and then includes this:
 *
 *   LANES            signatures side by side, at most 8
 *   FEWEST_PLAIN     with fewer left over than these, one by one is faster than idle lanes
 *   FEWEST_PREPARED  the same where the keys are prepared
 *   struct number    numbers modulo p, one for each lane; small(), times(), inverse()
 *   struct xyz       three of them
 *
 * and says after it how one is verified alone, and how a group is multiplied, compared and
 * hashed: the functions that are declared here and not defined.
 *
 * Lanes do not mix: every vector instruction works within lanes, tables belong to lanes, and
 * the inversion multiplies Zs of the same lane only. All take the same steps, whether the
 * signature is good or bad; how many, depends on the longest scalar of the group alone.
 *
 * Everything here is public. */
#ifndef IOMT_ED25519_LANES_H
#define IOMT_ED25519_LANES_H

#include "ed25519.h"

#define MOST_GROUPS (IOMT_ED25519_GROUP / LANES)

struct group {
    size_t count;        /* lanes in use; the others repeat lane 0 */
    size_t index[LANES]; /* among the items of the call */
    const struct iomt_ed25519_item *items[LANES];
    struct iomt_scalar s[LANES], k[LANES];
    struct xyz point; /* [s]B - [k]A = (x/z, y/z) */
};

/* The rule for one item, by what is fastest for one. */
static int verify_alone(const struct iomt_ed25519_item *item);

/* iomt_ed25519_challenge of the first `count` items; the others are not defined. */
static void challenges(struct iomt_scalar k[LANES],
                       const struct iomt_ed25519_item *const items[LANES], size_t count);

/* The lanes of a group without prepared keys in which the encoding of [s]B - [k]A is R. */
static unsigned are_differences(const struct group *group);

/* Fill in the point, of a group whose keys are all prepared, and are points. */
static void multiply_prepared(struct group *group);

/* The lanes whose affine point (x, y) has the encoding R. */
static unsigned lanes_with_r(const struct group *group, const struct number *x,
                             const struct number *y);

static void answer(const struct group *group, unsigned good, uint8_t *answers)
{
    for (size_t lane = 0; lane < group->count; lane++)
        answers[group->index[lane]] = good >> lane & 1;
}

/* 1/Z of every group with one inversion: `before` is the product of all Z before it. */
static void compare(const struct group *groups, size_t count, uint8_t *answers)
{
    struct number before[MOST_GROUPS], rest = small(1);

    for (size_t g = 0; g < count; g++) {
        before[g] = rest;
        rest = times(rest, groups[g].point.z);
    }
    rest = inverse(rest);
    for (size_t g = count; g-- > 0;) {
        const struct group *group = &groups[g];
        const struct number over_z = times(rest, before[g]);
        const struct number x = times(group->point.x, over_z), y = times(group->point.y, over_z);

        rest = times(rest, group->point.z);
        answer(group, lanes_with_r(group, &x, &y), answers);
    }
}

/* A group of the items at `indices`; lanes without one repeat the first. */
static void start_group(struct group *group, const struct iomt_ed25519_item *items,
                        const struct iomt_scalar *s, const size_t *indices, size_t count)
{
    group->count = count < LANES ? count : LANES;
    for (size_t lane = 0; lane < LANES; lane++) {
        group->index[lane] = indices[lane < group->count ? lane : 0];
        group->items[lane] = &items[group->index[lane]];
        group->s[lane] = s[group->index[lane]];
    }
    challenges(group->k, group->items, group->count);
    for (size_t lane = group->count; lane < LANES; lane++)
        group->k[lane] = group->k[0];
}

/* A group costs the same however few are in it. Answers those that would be fewer than
 * `fewest`, and gives the number of items that stay. */
static size_t without_few(const struct iomt_ed25519_item *items, const size_t *indices,
                          size_t count, size_t fewest, uint8_t *answers)
{
    if (count % LANES < fewest)
        for (size_t left = count % LANES; left > 0; left--) {
            const size_t index = indices[--count];

            answers[index] = (uint8_t)verify_alone(&items[index]);
        }
    return count;
}

static void verify_in_lanes(const struct iomt_ed25519_item *items, size_t count, uint8_t *answers)
{
    struct iomt_scalar s[IOMT_ED25519_GROUP];
    size_t plain[IOMT_ED25519_GROUP], prepared[IOMT_ED25519_GROUP];
    size_t plain_count = 0, prepared_count = 0, group_count = 0;
    struct group groups[MOST_GROUPS];

    for (size_t i = 0; i < count; i++) {
        answers[i] = 0;
        if (!iomt_scalar_decode(&s[i], items[i].signature + 32))
            continue;
        if (items[i].prepared == NULL)
            plain[plain_count++] = i;
        else if (items[i].prepared->is_point)
            prepared[prepared_count++] = i;
    }
    plain_count = without_few(items, plain, plain_count, FEWEST_PLAIN, answers);
    prepared_count = without_few(items, prepared, prepared_count, FEWEST_PREPARED, answers);
    for (size_t i = 0; i < plain_count; i += LANES) {
        start_group(&groups[0], items, s, plain + i, plain_count - i);
        answer(&groups[0], are_differences(&groups[0]), answers);
    }
    for (size_t i = 0; i < prepared_count; i += LANES) {
        struct group *group = &groups[group_count++];

        start_group(group, items, s, prepared + i, prepared_count - i);
        multiply_prepared(group);
    }
    if (group_count > 0)
        compare(groups, group_count, answers);
}

#endif
