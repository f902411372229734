/* The Merkle tree root of RFC 6962 section 2.1 in bounded memory.
 *
 * The RFC splits n leaves at the largest power of two below n. The same tree comes out of
 * pairing neighbours level by level, where a lone last hash moves up unchanged. So the
 * leaves are taken in pieces of PIECE, a power of two, each reduced level by level (long
 * runs of independent nodes, which fill a backend's lanes, in memory that stays in the
 * first cache). Roots of whole pieces are joined as the digits of a binary counter carry:
 * one pending subtree for each bit of the number of pieces. */
#include "backend.h"
#include "bytes.h"

#define PIECE 1024

/* A leaf hash is 2^5 bytes and a piece 2^10 leaves: what memory can hold has fewer bits. */
#define MAX_PENDING (64 - 5 - 10 + 1)

void iomt_nodes(const iomt_backend *backend, const uint8_t *children, size_t count,
                uint8_t *parents)
{
    size_t rest = count % backend->lanes;

    if (backend->few == NULL || rest >= backend->fewest)
        rest = 0;
    if (count > rest)
        backend->nodes(children, count - rest, parents);
    if (rest > 0)
        iomt_nodes(backend->few, children + (count - rest) * (2 * IOMT_HASH_SIZE), rest,
                   parents + (count - rest) * IOMT_HASH_SIZE);
}

/* Reduces `count` >= 1 hashes in place to one, at `hashes`. */
static void reduce(const iomt_backend *backend, uint8_t *hashes, size_t count)
{
    while (count > 1) {
        size_t pairs = count / 2;

        iomt_nodes(backend, hashes, pairs, hashes);
        if (count % 2)
            memcpy(hashes + pairs * IOMT_HASH_SIZE, hashes + (count - 1) * IOMT_HASH_SIZE,
                   IOMT_HASH_SIZE);
        count = pairs + count % 2;
    }
}

/* The root of 1 .. PIECE leaf hashes, left at `scratch`, which holds PIECE / 2 hashes. */
static void piece_root(const iomt_backend *backend, const uint8_t *leaf_hashes, size_t count,
                       uint8_t *scratch)
{
    size_t pairs = count / 2;

    iomt_nodes(backend, leaf_hashes, pairs, scratch);
    if (count % 2)
        memcpy(scratch + pairs * IOMT_HASH_SIZE, leaf_hashes + (count - 1) * IOMT_HASH_SIZE,
               IOMT_HASH_SIZE);
    reduce(backend, scratch, pairs + count % 2);
}

void iomt_tree_root(const iomt_backend *backend, const uint8_t *leaf_hashes, size_t count,
                    uint8_t root[IOMT_HASH_SIZE])
{
    uint8_t scratch[PIECE / 2 * IOMT_HASH_SIZE];
    uint8_t pending[(MAX_PENDING + 1) * IOMT_HASH_SIZE]; /* oldest and largest first */
    size_t held = 0, pieces = count / PIECE, left = count % PIECE;

    if (count == 0) {
        iomt_sha256(backend, NULL, 0, root);
        return;
    }
    for (size_t done = 1; done <= pieces; done++, leaf_hashes += PIECE * IOMT_HASH_SIZE) {
        piece_root(backend, leaf_hashes, PIECE, scratch);
        memcpy(pending + held++ * IOMT_HASH_SIZE, scratch, IOMT_HASH_SIZE);
        for (size_t carry = done; carry % 2 == 0; carry /= 2) {
            uint8_t *pair = pending + (held - 2) * IOMT_HASH_SIZE;

            iomt_nodes(backend, pair, 1, pair);
            held--;
        }
    }
    if (left > 0) {
        piece_root(backend, leaf_hashes, left, scratch);
        memcpy(pending + held++ * IOMT_HASH_SIZE, scratch, IOMT_HASH_SIZE);
    }
    iomt_range_root(backend, pending, held, root);
}

void iomt_range_root(const iomt_backend *backend, const uint8_t *range, size_t count,
                     uint8_t root[IOMT_HASH_SIZE])
{
    uint8_t pair[2 * IOMT_HASH_SIZE];

    if (count == 0) {
        iomt_sha256(backend, NULL, 0, root);
        return;
    }
    memcpy(root, range + --count * IOMT_HASH_SIZE, IOMT_HASH_SIZE);
    while (count > 0) {
        memcpy(pair, range + --count * IOMT_HASH_SIZE, IOMT_HASH_SIZE);
        memcpy(pair + IOMT_HASH_SIZE, root, IOMT_HASH_SIZE);
        iomt_nodes(backend, pair, 1, root);
    }
}

size_t iomt_tree_path(const iomt_backend *backend, const uint8_t *leaf_hashes, size_t count,
                      size_t index, uint8_t path[64 * IOMT_HASH_SIZE])
{
    size_t sibling_at[64], sibling_count[64], depth = 0, first = 0;

    /* Down from the root, as the definition splits; the path is written from below. */
    for (; count > 1; depth++) {
        size_t split = 1;

        while (split * 2 < count)
            split *= 2;
        if (index - first < split) {
            sibling_at[depth] = first + split;
            sibling_count[depth] = count - split;
            count = split;
        } else {
            sibling_at[depth] = first;
            sibling_count[depth] = split;
            first += split;
            count -= split;
        }
    }
    for (size_t i = depth; i > 0; i--)
        iomt_tree_root(backend, leaf_hashes + sibling_at[i - 1] * IOMT_HASH_SIZE,
                       sibling_count[i - 1], path + (depth - i) * IOMT_HASH_SIZE);
    return depth;
}
