/* SHA-256 of one message, and the leaf hashes of many records on all lanes of a backend.
 *
 * A leaf is 0x00 || record || padding. Only its first block and its last ones are built, in
 * the lane's `edge`; after the first block the record lies one byte off the block grid, so
 * the blocks in between are read where the record is, from its byte 63 on. */
#include "backend.h"
#include "bytes.h"

#define LEAF_PREFIX 0x00
#define END_MARK 0x80
#define MARK_AND_LENGTH 9 /* the shortest padding: end mark and 64-bit length */
#define HEAD 63           /* record bytes in the first block of a leaf */

/* Up to here a whole leaf is built in `edge`: a first block and at most two last ones. */
#define SHORT_RECORD (HEAD + IOMT_BLOCK_SIZE - 1)

struct lane {
    uint8_t edge[3 * IOMT_BLOCK_SIZE];
    size_t padded_for;     /* `edge` holds the padding of a short record of this size */
    const uint8_t *blocks; /* where this message goes on, for `count` blocks; then */
    size_t count;          /* 0: the lane is idle */
    const uint8_t *middle; /* `middle_count` blocks here, then */
    size_t middle_count;
    size_t tail_count; /* this many from edge + 64 */
    uint8_t *hash;
};

/* The records not yet begun. */
struct queue {
    const uint8_t *records;
    const void *ends;
    size_t size, count, next;
    size_t start; /* of record `next` */
    uint8_t *hashes;
};

#define NO_PADDING SIZE_MAX

#define INLINE static inline __attribute__((always_inline))

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

INLINE void begin(struct lane *lane, const uint8_t *record, size_t size)
{
    lane->edge[0] = LEAF_PREFIX;
    lane->blocks = lane->edge;
    lane->middle_count = 0;
    lane->tail_count = 0;
    if (size <= SHORT_RECORD) {
        if (size > 0)
            memcpy(lane->edge + 1, record, size);
        if (lane->padded_for == size) { /* records of one size follow each other */
            lane->count = (1 + size + MARK_AND_LENGTH + IOMT_BLOCK_SIZE - 1) / IOMT_BLOCK_SIZE;
        } else {
            lane->count = pad(lane->edge, 1 + size, 1 + (uint64_t)size);
            lane->padded_for = size;
        }
    } else {
        size_t left = (size - HEAD) % IOMT_BLOCK_SIZE;

        memcpy(lane->edge + 1, record, HEAD);
        memcpy(lane->edge + IOMT_BLOCK_SIZE, record + size - left, left);
        lane->count = 1;
        lane->middle = record + HEAD;
        lane->middle_count = (size - HEAD) / IOMT_BLOCK_SIZE;
        lane->tail_count = pad(lane->edge + IOMT_BLOCK_SIZE, left, 1 + (uint64_t)size);
        lane->padded_for = NO_PADDING;
    }
}

/* Gives the next record to `lane`, whose first word of `state` this is. Returns 0 if its end
 * is wrong. */
INLINE int begin_next(struct queue *queue, struct lane *lane, uint32_t *state, size_t lanes)
{
    uint64_t end = iomt_load_u64(queue->ends, queue->next);
    int is_last = queue->next + 1 == queue->count;

    if (end < queue->start || end > queue->size || (is_last && end != queue->size))
        return 0;
    begin(lane, queue->records + queue->start, (size_t)end - queue->start);
    lane->hash = queue->hashes + queue->next * IOMT_HASH_SIZE;
    for (size_t w = 0; w < 8; w++)
        state[w * lanes] = iomt_sha256_start[w];
    queue->start = (size_t)end;
    queue->next++;
    return 1;
}

/* Moves on by `step` blocks. Returns 1 if the message is complete; the lane is then idle. */
INLINE int advance(struct lane *lane, size_t step)
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

INLINE void store_hash(const uint32_t *state, size_t stride, uint8_t *hash)
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
INLINE size_t compress_all(const iomt_backend *backend, const struct lane *lane, uint32_t *state,
                           size_t lanes)
{
    const uint8_t *blocks[IOMT_MAX_LANES], *any = NULL;
    size_t step = SIZE_MAX;

    for (size_t i = 0; i < lanes; i++) {
        if (lane[i].count == 0)
            continue;
        any = lane[i].blocks;
        if (lane[i].count < step)
            step = lane[i].count;
    }
    for (size_t i = 0; i < lanes; i++)
        blocks[i] = lane[i].count > 0 ? lane[i].blocks : any;
    backend->compress(state, blocks, step);
    return step;
}

INLINE size_t hash_queue(const iomt_backend *backend, struct queue *queue, size_t lanes)
{
    struct lane lane[IOMT_MAX_LANES];
    _Alignas(64) uint32_t state[8 * IOMT_MAX_LANES];
    size_t busy = 0;

    for (size_t i = 0; i < lanes; i++) {
        lane[i].count = 0;
        lane[i].padded_for = NO_PADDING;
        if (queue->next == queue->count)
            continue;
        if (!begin_next(queue, &lane[i], state + i, lanes))
            return queue->next;
        busy++;
    }
    while (busy >= backend->fewest) {
        size_t step = compress_all(backend, lane, state, lanes);

        for (size_t i = 0; i < lanes; i++) {
            if (lane[i].count == 0 || !advance(&lane[i], step))
                continue;
            store_hash(state + i, lanes, lane[i].hash);
            if (queue->next == queue->count)
                busy--;
            else if (!begin_next(queue, &lane[i], state + i, lanes))
                return queue->next;
        }
    }
    for (size_t i = 0; i < lanes; i++)
        if (lane[i].count > 0)
            finish_alone(backend, &lane[i], state + i, lanes);
    return queue->count;
}

size_t iomt_leaf_hashes(const iomt_backend *backend, const uint8_t *records, size_t size,
                        const void *ends, size_t count, uint8_t *hashes)
{
    struct queue queue = {records, ends, size, count, 0, 0, hashes};

    /* With the number of lanes known, the compiler unrolls what is done for each; a short
     * record takes little more time to hash than this takes. */
    if (backend->lanes == 2)
        return hash_queue(backend, &queue, 2);
    return hash_queue(backend, &queue, backend->lanes);
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
