/* SHA-256 of one message, and the leaf hashes of many records on all lanes of a backend.
 *
 * Records are taken in windows and ordered by the number of blocks they make, so that those
 * which share a call of the backend end together: no lane waits for another. What is left
 * over when fewer than a handful remain goes to the backend that is best at few.
 *
 * A leaf is 0x00 || record || padding. Only its first block and its last ones are built, in
 * the lane's `edge`; after the first block the record lies one byte off the block grid, so
 * the blocks in between are read where the record is, from its byte 63 on. A backend with a
 * `leaves` of its own need not even build those. */
#include "backend.h"
#include "bytes.h"

#define LEAF_PREFIX 0x00
#define END_MARK 0x80
#define MARK_AND_LENGTH 9 /* the shortest padding: end mark and 64-bit length */
#define HEAD 63           /* record bytes in the first block of a leaf */

/* Up to here a whole leaf is built in `edge`: a first block and at most two last ones. */
#define SHORT_RECORD (HEAD + IOMT_BLOCK_SIZE - 1)

/* Records ordered at a time: enough that lanes which wait at the seams between two numbers
 * of blocks do not count, and few enough to stay in the first cache. */
#define WINDOW 512

/* Records of more than IOMT_GROUP_BLOCKS blocks stand together, in no order. */
#define KINDS (IOMT_GROUP_BLOCKS + 2)

struct lane {
    uint8_t edge[3 * IOMT_BLOCK_SIZE];
    const uint8_t *blocks; /* where this message goes on, for `count` blocks; then */
    size_t count;          /* 0: the lane is idle */
    const uint8_t *middle; /* `middle_count` blocks here, then */
    size_t middle_count;
    size_t tail_count; /* this many from edge + 64 */
    uint8_t *hash;
};

/* Some records that follow each other, and the same ordered by the blocks they make. */
struct window {
    struct iomt_leaf given[WINDOW], ordered[WINDOW];
    uint8_t kind[WINDOW]; /* blocks, or KINDS - 1 for many */
    uint16_t first[KINDS + 1]; /* place in `ordered` of the first of each kind */
};

/* How many blocks a record makes as a leaf. */
static inline size_t leaf_blocks(size_t size)
{
    return (1 + size + MARK_AND_LENGTH + IOMT_BLOCK_SIZE - 1) / IOMT_BLOCK_SIZE;
}

/* Ends a message whose last bytes, `used` of them, stand at `blocks`. Returns how many
 * blocks that makes. */
static size_t pad(uint8_t *blocks, size_t used, uint64_t message_size)
{
    size_t count = (used + MARK_AND_LENGTH + IOMT_BLOCK_SIZE - 1) / IOMT_BLOCK_SIZE;
    size_t length_at = count * IOMT_BLOCK_SIZE - 8;

    blocks[used] = END_MARK;
    memset(blocks + used + 1, 0, length_at - used - 1);
    iomt_store_be64(blocks + length_at, message_size * 8);
    return count;
}

static void begin(struct lane *lane, const struct iomt_leaf *leaf)
{
    const uint8_t *record = leaf->record;
    size_t size = leaf->size;

    lane->hash = leaf->hash;
    lane->edge[0] = LEAF_PREFIX;
    lane->blocks = lane->edge;
    lane->middle_count = 0;
    lane->tail_count = 0;
    if (size <= SHORT_RECORD) {
        if (size > 0)
            memcpy(lane->edge + 1, record, size);
        lane->count = pad(lane->edge, 1 + size, 1 + (uint64_t)size);
    } else {
        size_t left = (size - HEAD) % IOMT_BLOCK_SIZE;

        memcpy(lane->edge + 1, record, HEAD);
        memcpy(lane->edge + IOMT_BLOCK_SIZE, record + size - left, left);
        lane->count = 1;
        lane->middle = record + HEAD;
        lane->middle_count = (size - HEAD) / IOMT_BLOCK_SIZE;
        lane->tail_count = pad(lane->edge + IOMT_BLOCK_SIZE, left, 1 + (uint64_t)size);
    }
}

/* Moves on by `step` blocks. Returns 1 if the message is complete; the lane is then idle. */
static int advance(struct lane *lane, size_t step)
{
    lane->blocks += step * IOMT_BLOCK_SIZE;
    lane->count -= step;
    if (lane->count > 0)
        return 0;
    if (lane->middle_count > 0) {
        lane->blocks = lane->middle;
        lane->count = lane->middle_count;
        lane->middle_count = 0;
        return 0;
    }
    lane->blocks = lane->edge + IOMT_BLOCK_SIZE;
    lane->count = lane->tail_count;
    lane->tail_count = 0;
    return lane->count == 0;
}

static void store_hash(const uint32_t *state, size_t stride, uint8_t *hash)
{
    for (size_t w = 0; w < 8; w++)
        iomt_store_be32(hash + 4 * w, state[w * stride]);
}

static void finish_alone(const iomt_backend *backend, struct lane *lane, const uint32_t *state,
                         size_t lanes)
{
    uint32_t own[8];
    size_t step;

    for (size_t w = 0; w < 8; w++)
        own[w] = state[w * lanes];
    do {
        step = lane->count;
        backend->compress_one(own, lane->blocks, step);
    } while (!advance(lane, step));
    store_hash(own, 1, lane->hash);
}

/* One call of `compress`: as many blocks as the message that has the fewest in one piece.
 * An idle lane computes along with a busy one, and its result is dropped. */
static size_t compress_all(const iomt_backend *backend, const struct lane *lane, uint32_t *state)
{
    const uint8_t *blocks[IOMT_MAX_LANES], *any = NULL;
    size_t step = SIZE_MAX;

    for (size_t i = 0; i < backend->lanes; i++) {
        if (lane[i].count == 0)
            continue;
        any = lane[i].blocks;
        if (lane[i].count < step)
            step = lane[i].count;
    }
    for (size_t i = 0; i < backend->lanes; i++)
        blocks[i] = lane[i].count > 0 ? lane[i].blocks : any;
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
        lane[i].count = 0;
        if (i < count)
            begin(&lane[i], &leaf[i]);
        for (size_t w = 0; w < 8; w++)
            state[w * lanes + i] = iomt_sha256_start[w];
    }
    while (busy >= backend->fewest) {
        size_t step = compress_all(backend, lane, state);

        for (size_t i = 0; i < lanes; i++) {
            if (lane[i].count == 0 || !advance(&lane[i], step))
                continue;
            store_hash(state + i, lanes, lane[i].hash);
            busy--;
        }
    }
    for (size_t i = 0; i < lanes; i++)
        if (lane[i].count > 0)
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

/* Any number of records, ordered by the blocks they make. */
static void hash_ordered(const iomt_backend *backend, const struct iomt_leaf *leaf, size_t count)
{
    size_t lanes = backend->lanes;

    while (count >= backend->fewest) {
        size_t group = count < lanes ? count : lanes;
        size_t blocks = leaf_blocks(leaf[0].size);
        int alike = blocks == leaf_blocks(leaf[group - 1].size);

        if (backend->leaves == NULL || !alike || blocks > IOMT_GROUP_BLOCKS)
            hash_together(backend, leaf, group);
        else if (group < lanes)
            hash_with_idle_lanes(backend, leaf, group, blocks);
        else
            backend->leaves(leaf, blocks);
        leaf += group;
        count -= group;
    }
    if (count > 0 && backend->few != NULL)
        hash_ordered(backend->few, leaf, count);
    else if (count > 0)
        hash_together(backend, leaf, count);
}

/* Orders `count` records by kind; `first` holds how many there are of each, one place on. */
static const struct iomt_leaf *ordered(struct window *window, size_t count)
{
    if (window->first[window->kind[0] + 1] == count)
        return window->given;
    for (size_t k = 0; k < KINDS; k++)
        window->first[k + 1] = (uint16_t)(window->first[k + 1] + window->first[k]);
    for (size_t i = 0; i < count; i++)
        window->ordered[window->first[window->kind[i]]++] = window->given[i];
    return window->ordered;
}

size_t iomt_leaf_hashes(const iomt_backend *backend, const uint8_t *records, size_t size,
                        const void *ends, size_t count, uint8_t *hashes)
{
    struct window window;
    uint64_t start = 0;

    for (size_t done = 0; done < count;) {
        size_t some = count - done < WINDOW ? count - done : WINDOW;

        memset(window.first, 0, sizeof window.first);
        for (size_t i = 0; i < some; i++) {
            uint64_t end = iomt_load_u64(ends, done + i);
            size_t blocks;

            if (end < start || end > size || (done + i + 1 == count && end != size))
                return done + i;
            blocks = leaf_blocks((size_t)(end - start));
            window.given[i] = (struct iomt_leaf){records + start, (size_t)(end - start), hashes};
            window.kind[i] = (uint8_t)(blocks < KINDS ? blocks : KINDS - 1);
            window.first[window.kind[i] + 1]++;
            start = end;
            hashes += IOMT_HASH_SIZE;
        }
        hash_ordered(backend, ordered(&window, some), some);
        done += some;
    }
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
    uint8_t tail[2 * IOMT_BLOCK_SIZE];
    uint32_t state[8];

    memcpy(state, iomt_sha256_start, sizeof state);
    if (whole > 0)
        backend->compress_one(state, message, whole);
    if (left > 0)
        memcpy(tail, message + whole * IOMT_BLOCK_SIZE, left);
    backend->compress_one(state, tail, pad(tail, left, size));
    store_hash(state, 1, digest);
}
