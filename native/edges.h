/* The blocks of one leaf: 0x00 || record || padding, without a copy of the record.
 *
 * The first block holds 63 bytes of the record, so all that follow lie one byte off the
 * record's own grid and can be read where they are, from its byte 63 on. Only the first
 * block and the last ones have to be built:
 *
 *     record    |............ 63 ............|.... whole blocks ....|.. left ..|
 *     blocks    head                          in place               tail
 */
#ifndef IOMT_EDGES_H
#define IOMT_EDGES_H

#include "backend.h"
#include "bytes.h"

#define IOMT_HEAD 63            /* record bytes in the first block of a leaf */
#define IOMT_LEAF_PREFIX 0x00
#define IOMT_END_MARK 0x80
#define IOMT_MARK_AND_LENGTH 9  /* the shortest padding: end mark and 64-bit length */

struct iomt_edges {
    uint8_t bytes[4 * IOMT_BLOCK_SIZE];
    const uint8_t *record;
    size_t in_place;     /* index of the first block of the tail; 0: no head either */
    const uint8_t *tail; /* one or two blocks within `bytes` */
    size_t count;        /* of all blocks */
};

/* How many blocks a message of `size` bytes makes. */
static inline size_t iomt_block_count(size_t size)
{
    return (size + IOMT_MARK_AND_LENGTH + IOMT_BLOCK_SIZE - 1) / IOMT_BLOCK_SIZE;
}

/* The tail. Copies are of fixed size wherever they can be: a short record takes little more
 * time to hash than a copy whose size is only known when it runs, and compilers make a slow
 * string instruction of more than a block of zeros. */
static inline void iomt_build_tail(struct iomt_edges *edges, const struct iomt_leaf *leaf)
{
    uint8_t *bytes = edges->bytes, *tail;
    size_t size = leaf->size, left, blocks;

    edges->record = leaf->record;
    if (size < IOMT_HEAD) {
        /* All of it is tail, prefix included. */
        memset(bytes, 0, IOMT_BLOCK_SIZE);
        memset(bytes + IOMT_BLOCK_SIZE, 0, IOMT_BLOCK_SIZE);
        bytes[0] = IOMT_LEAF_PREFIX;
        if (size > 0)
            memcpy(bytes + 1, leaf->record, size);
        bytes[1 + size] = IOMT_END_MARK;
        edges->in_place = 0;
        tail = bytes;
        left = 1 + size;
    } else {
        /* The record's last 63 bytes, of which the tail takes the last `left`. */
        left = (size - IOMT_HEAD) % IOMT_BLOCK_SIZE;
        memcpy(bytes + IOMT_BLOCK_SIZE, leaf->record + size - IOMT_HEAD, IOMT_HEAD);
        bytes[IOMT_BLOCK_SIZE + IOMT_HEAD] = IOMT_END_MARK;
        memset(bytes + 2 * IOMT_BLOCK_SIZE, 0, IOMT_BLOCK_SIZE);
        memset(bytes + 3 * IOMT_BLOCK_SIZE, 0, IOMT_BLOCK_SIZE);
        edges->in_place = 1 + (size - IOMT_HEAD) / IOMT_BLOCK_SIZE;
        tail = bytes + IOMT_BLOCK_SIZE + IOMT_HEAD - left;
    }
    blocks = iomt_block_count(left);
    iomt_store_be64(tail + blocks * IOMT_BLOCK_SIZE - 8, (1 + (uint64_t)size) * 8);
    edges->tail = tail;
    edges->count = edges->in_place + blocks;
}

/* The head, which a backend may rather make in registers. */
static inline void iomt_build_head(struct iomt_edges *edges)
{
    if (edges->in_place > 0) {
        edges->bytes[0] = IOMT_LEAF_PREFIX;
        memcpy(edges->bytes + 1, edges->record, IOMT_HEAD);
    }
}

/* Where block `index` of the leaf is. */
static inline const uint8_t *iomt_leaf_block(const struct iomt_edges *edges, size_t index)
{
    if (index >= edges->in_place)
        return edges->tail + (index - edges->in_place) * IOMT_BLOCK_SIZE;
    return index == 0 ? edges->bytes : edges->record + (index * IOMT_BLOCK_SIZE - 1);
}

/* How many blocks, that one included, follow each other there. */
static inline size_t iomt_leaf_run(const struct iomt_edges *edges, size_t index)
{
    if (index >= edges->in_place)
        return edges->count - index;
    return index == 0 ? 1 : edges->in_place - index;
}

#endif
