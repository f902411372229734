/* SHA-256 of one message, and the leaf hashes of many records on all lanes of a backend.
 *
 * Records go into buckets by the number of blocks they make, and a bucket that has one for
 * each lane is hashed: those which share a call of the backend end together, and no lane
 * waits for another. What is left over in the end goes together as well as it can, and where
 * fewer than a handful remain to the backend that is best at few.
 *
 * edges.h tells how a leaf is cut into blocks; a backend with a `leaves` of its own may do
 * it another way. */
#include "backend.h"
#include "bytes.h"
#include "edges.h"

/* Kind k makes k blocks; records of more than IOMT_GROUP_BLOCKS share the last bucket. */
#define KINDS (IOMT_GROUP_BLOCKS + 2)

struct lane {
    struct iomt_edges edges;
    size_t next; /* block */
    uint8_t *hash;
};

/* 25 KB of stack, of which only the buckets in use are touched. */
struct buckets {
    struct iomt_leaf leaf[KINDS * IOMT_MAX_LANES]; /* bucket k begins at k * IOMT_MAX_LANES */
    uint8_t held[KINDS];
};

static inline size_t leaf_blocks(size_t size)
{
    return iomt_block_count(1 + size);
}

static void store_hash(const uint32_t *state, size_t stride, uint8_t *hash)
{
    for (size_t w = 0; w < 8; w++)
        iomt_store_be32(hash + 4 * w, state[w * stride]);
}

static inline int is_busy(const struct lane *lane)
{
    return lane->next < lane->edges.count;
}

static void begin(struct lane *lane, const struct iomt_leaf *leaf)
{
    iomt_build_tail(&lane->edges, leaf);
    iomt_build_head(&lane->edges);
    lane->next = 0;
    lane->hash = leaf->hash;
}

static void finish_alone(const iomt_backend *backend, struct lane *lane, const uint32_t *state,
                         size_t lanes)
{
    uint32_t own[8];

    for (size_t w = 0; w < 8; w++)
        own[w] = state[w * lanes];
    while (is_busy(lane)) {
        size_t run = iomt_leaf_run(&lane->edges, lane->next);

        backend->compress_one(own, iomt_leaf_block(&lane->edges, lane->next), run);
        lane->next += run;
    }
    store_hash(own, 1, lane->hash);
}

/* One call of `compress`: as many blocks as the message that has the fewest in one piece.
 * An idle lane computes along with a busy one, and its result is dropped. */
static size_t compress_all(const iomt_backend *backend, const struct lane *lane, uint32_t *state)
{
    const uint8_t *blocks[IOMT_MAX_LANES], *any = NULL;
    size_t step = SIZE_MAX;

    for (size_t i = 0; i < backend->lanes; i++) {
        size_t run;

        if (!is_busy(&lane[i]))
            continue;
        any = iomt_leaf_block(&lane[i].edges, lane[i].next);
        run = iomt_leaf_run(&lane[i].edges, lane[i].next);
        if (run < step)
            step = run;
    }
    for (size_t i = 0; i < backend->lanes; i++)
        blocks[i] = is_busy(&lane[i]) ? iomt_leaf_block(&lane[i].edges, lane[i].next) : any;
    backend->compress(state, blocks, step);
    return step;
}

static const iomt_backend *backend_for_few(const iomt_backend *backend)
{
    return backend->few != NULL ? backend->few : backend;
}

/* Up to `lanes` records of any number of blocks, in lanes as long as that pays. */
static void hash_together(const iomt_backend *backend, const struct iomt_leaf *leaf, size_t count)
{
    struct lane lane[IOMT_MAX_LANES];
    _Alignas(64) uint32_t state[8 * IOMT_MAX_LANES];
    size_t lanes = backend->lanes, busy = count;

    for (size_t i = 0; i < lanes; i++) {
        lane[i].next = lane[i].edges.count = 0;
        if (i < count)
            begin(&lane[i], &leaf[i]);
        for (size_t w = 0; w < 8; w++)
            state[w * lanes + i] = iomt_sha256_start[w];
    }
    while (busy >= backend->fewest) {
        size_t step = compress_all(backend, lane, state);

        for (size_t i = 0; i < lanes; i++) {
            if (!is_busy(&lane[i]))
                continue;
            lane[i].next += step;
            if (is_busy(&lane[i]))
                continue;
            store_hash(state + i, lanes, lane[i].hash);
            busy--;
        }
    }
    for (size_t i = 0; i < lanes; i++)
        if (is_busy(&lane[i]))
            finish_alone(backend_for_few(backend), &lane[i], state + i, lanes);
}

/* Records that make `blocks` blocks each, fewer of them than there are lanes. */
static void hash_with_idle_lanes(const iomt_backend *backend, const struct iomt_leaf *leaf,
                                 size_t count, size_t blocks)
{
    struct iomt_leaf all[IOMT_MAX_LANES];

    for (size_t i = 0; i < backend->lanes; i++)
        all[i] = leaf[i < count ? i : 0];
    backend->leaves(all, blocks);
}

/* As many records as there are lanes, or fewer where it says so. They make `blocks` blocks
 * each, or, where that is more than IOMT_GROUP_BLOCKS, any number. */
static void hash_alike(const iomt_backend *backend, const struct iomt_leaf *leaf, size_t count,
                       size_t blocks)
{
    if (backend->leaves == NULL || blocks > IOMT_GROUP_BLOCKS)
        hash_together(backend, leaf, count);
    else if (count < backend->lanes)
        hash_with_idle_lanes(backend, leaf, count, blocks);
    else
        backend->leaves(leaf, blocks);
}

/* Any number of records, ordered by the blocks they make. */
static void hash_ordered(const iomt_backend *backend, const struct iomt_leaf *leaf, size_t count)
{
    while (count >= backend->fewest) {
        size_t group = count < backend->lanes ? count : backend->lanes;
        size_t blocks = leaf_blocks(leaf[0].size);

        if (blocks == leaf_blocks(leaf[group - 1].size))
            hash_alike(backend, leaf, group, blocks);
        else
            hash_together(backend, leaf, group);
        leaf += group;
        count -= group;
    }
    if (count > 0 && backend->few != NULL)
        hash_ordered(backend->few, leaf, count);
    else if (count > 0)
        hash_together(backend, leaf, count);
}

/* What no bucket had enough of. */
static void hash_rest(const iomt_backend *backend, struct buckets *buckets)
{
    size_t count = 0;

    for (size_t kind = 0; kind < KINDS; kind++)
        for (size_t i = 0; i < buckets->held[kind]; i++)
            buckets->leaf[count++] = buckets->leaf[kind * IOMT_MAX_LANES + i];
    hash_ordered(backend, buckets->leaf, count);
}

static void put_into_bucket(const iomt_backend *backend, struct buckets *buckets,
                            const struct iomt_leaf *leaf)
{
    size_t blocks = leaf_blocks(leaf->size), kind = blocks < KINDS ? blocks : KINDS - 1;
    struct iomt_leaf *bucket = buckets->leaf + kind * IOMT_MAX_LANES;

    bucket[buckets->held[kind]++] = *leaf;
    if (buckets->held[kind] == backend->lanes) {
        hash_alike(backend, bucket, backend->lanes, blocks);
        buckets->held[kind] = 0;
    }
}

size_t iomt_leaf_hashes(const iomt_backend *backend, const uint8_t *records, size_t size,
                        const void *ends, size_t count, uint8_t *hashes)
{
    struct iomt_leaf group[IOMT_MAX_LANES];
    struct buckets buckets;
    uint64_t start = 0;

    memset(buckets.held, 0, sizeof buckets.held);
    for (size_t done = 0; done < count;) {
        size_t some = count - done < backend->lanes ? count - done : backend->lanes;
        size_t blocks = 0, differ = 0;

        for (size_t i = 0; i < some; i++, hashes += IOMT_HASH_SIZE) {
            uint64_t end = iomt_load_u64(ends, done + i);

            if (end < start || end > size)
                return done + i;
            group[i] = (struct iomt_leaf){records + start, (size_t)(end - start), hashes};
            blocks = leaf_blocks(group[i].size);
            differ |= blocks ^ leaf_blocks(group[0].size);
            start = end;
        }
        done += some;
        /* Neighbours are often alike, and then need no bucket. */
        if (differ == 0 && some == backend->lanes)
            hash_alike(backend, group, some, blocks);
        else
            for (size_t i = 0; i < some; i++)
                put_into_bucket(backend, &buckets, &group[i]);
    }
    if (count > 0 && start != size)
        return count - 1;
    hash_rest(backend, &buckets);
    return count;
}

size_t iomt_check_ends(const void *ends, size_t count, size_t size)
{
    uint64_t start = 0;

    for (size_t i = 0; i < count; i++) {
        uint64_t end = iomt_load_u64(ends, i);

        if (end < start || end > size || (i + 1 == count && end != size))
            return i;
        start = end;
    }
    return count;
}

void iomt_sha256(const iomt_backend *backend, const uint8_t *message, size_t size,
                 uint8_t digest[IOMT_HASH_SIZE])
{
    size_t whole = size / IOMT_BLOCK_SIZE, left = size % IOMT_BLOCK_SIZE;
    size_t count = iomt_block_count(left);
    uint8_t tail[2 * IOMT_BLOCK_SIZE] = {0};
    uint32_t state[8];

    memcpy(state, iomt_sha256_start, sizeof state);
    if (whole > 0)
        backend_for_few(backend)->compress_one(state, message, whole);
    if (left > 0)
        memcpy(tail, message + whole * IOMT_BLOCK_SIZE, left);
    tail[left] = IOMT_END_MARK;
    iomt_store_be64(tail + count * IOMT_BLOCK_SIZE - 8, (uint64_t)size * 8);
    backend_for_few(backend)->compress_one(state, tail, count);
    store_hash(state, 1, digest);
}
