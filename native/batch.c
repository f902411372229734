/* What a commit of the gateway needs of hashing, in one call: salts, leaf hashes and the
 * tree over them; and the compact range of the log that the commit is appended to. */
#include "backend.h"
#include "bytes.h"

#define HMAC_INNER 0x36
#define HMAC_OUTER 0x5c
#define INDEX_SIZE 8

/* The two hashes of HMAC-SHA-256 (RFC 2104) are two blocks each here: the padded key, and a
 * message short enough to share its block with its padding. */
struct hmac_lane {
    uint8_t blocks[2 * IOMT_BLOCK_SIZE];
    uint8_t *salt;
};

/* The padded key, and the padding of a message of `size` bytes that is to stand behind it. */
static void begin_hmac(struct hmac_lane *lane, const uint8_t *key, uint8_t pad, size_t size)
{
    uint8_t *message = lane->blocks + IOMT_BLOCK_SIZE;

    for (size_t i = 0; i < IOMT_SALT_KEY_SIZE; i++)
        lane->blocks[i] = key[i] ^ pad;
    memset(lane->blocks + IOMT_SALT_KEY_SIZE, pad, IOMT_BLOCK_SIZE - IOMT_SALT_KEY_SIZE);
    memset(message, 0, IOMT_BLOCK_SIZE);
    message[size] = 0x80;
    iomt_store_be64(message + IOMT_BLOCK_SIZE - 8, (uint64_t)(IOMT_BLOCK_SIZE + size) * 8);
}

/* Both blocks of every lane; the digest of lane i goes to digests[i]. */
static void hash_lanes(const iomt_backend *backend, const struct hmac_lane *lane,
                       uint8_t digests[][IOMT_HASH_SIZE])
{
    _Alignas(64) uint32_t state[8 * IOMT_MAX_LANES];
    const uint8_t *blocks[IOMT_MAX_LANES] = {NULL};
    size_t lanes = backend->lanes;

    for (size_t i = 0; i < lanes; i++) {
        blocks[i] = lane[i].blocks;
        for (size_t w = 0; w < 8; w++)
            state[w * lanes + i] = iomt_sha256_start[w];
    }
    backend->compress(state, blocks, 2);
    for (size_t i = 0; i < lanes; i++)
        for (size_t w = 0; w < 8; w++)
            iomt_store_be32(digests[i] + 4 * w, state[w * lanes + i]);
}

struct salting {
    uint8_t *records;
    const void *ends, *key_of;
    const uint8_t *keys;
};

/* The salts of the records first .. first + count, at most as many as there are lanes. */
static void salt_group(const iomt_backend *backend, const struct salting *job, size_t first,
                       size_t count)
{
    struct hmac_lane lane[IOMT_MAX_LANES];
    uint8_t digests[IOMT_MAX_LANES][IOMT_HASH_SIZE];
    const uint8_t *key[IOMT_MAX_LANES];

    for (size_t i = 0; i < backend->lanes; i++) {
        size_t index = first + (i < count ? i : 0); /* an idle lane repeats the first */

        key[i] = job->keys + (size_t)iomt_load_u32(job->key_of, index) * IOMT_SALT_KEY_SIZE;
        begin_hmac(&lane[i], key[i], HMAC_INNER, INDEX_SIZE);
        iomt_store_be64(lane[i].blocks + IOMT_BLOCK_SIZE, index);
        lane[i].salt =
            job->records + (index > 0 ? (size_t)iomt_load_u64(job->ends, index - 1) : 0);
    }
    hash_lanes(backend, lane, digests);
    for (size_t i = 0; i < backend->lanes; i++) {
        begin_hmac(&lane[i], key[i], HMAC_OUTER, IOMT_HASH_SIZE);
        memcpy(lane[i].blocks + IOMT_BLOCK_SIZE, digests[i], IOMT_HASH_SIZE);
    }
    hash_lanes(backend, lane, digests);
    for (size_t i = 0; i < count; i++)
        memcpy(lane[i].salt, digests[i], IOMT_SALT_SIZE);
}

static void salt_all(const iomt_backend *backend, const struct salting *job, size_t first,
                     size_t count)
{
    while (count >= backend->fewest || (count > 0 && backend->few == NULL)) {
        size_t group = count < backend->lanes ? count : backend->lanes;

        salt_group(backend, job, first, group);
        first += group;
        count -= group;
    }
    if (count > 0)
        salt_all(backend->few, job, first, count);
}

size_t iomt_batch(const iomt_backend *backend, uint8_t *records, size_t size, const void *ends,
                  size_t count, const uint8_t *salt_keys, size_t key_count, const void *key_of,
                  uint8_t *tree, size_t width)
{
    const struct salting job = {records, ends, key_of, salt_keys};
    uint64_t start = 0;

    for (size_t i = 0; i < count; i++) {
        uint64_t end = iomt_load_u64(ends, i);

        if (end < start || end - start < IOMT_SALT_SIZE || end > size ||
            (i + 1 == count && end != size) || iomt_load_u32(key_of, i) >= key_count)
            return i;
        start = end;
    }
    salt_all(backend, &job, 0, count);
    iomt_leaf_hashes(backend, records, size, ends, count, tree);
    for (uint8_t *row = tree; width > 1; width /= 2) {
        uint8_t *above = row + width * IOMT_HASH_SIZE;

        iomt_nodes(backend, row, width / 2, above);
        row = above;
    }
    return count;
}

size_t iomt_extend_range(const iomt_backend *backend, uint64_t size,
                         uint8_t range[(IOMT_RANGE_MAX + 1) * IOMT_HASH_SIZE],
                         const uint8_t *leaf_hashes, size_t count)
{
    size_t held = 0;

    for (uint64_t bits = size; bits > 0; bits &= bits - 1)
        held++;
    while (count > 0) {
        /* The largest complete subtree that begins here and is not more than there is. */
        uint64_t some = 1;

        while (some * 2 <= count && (size & (2 * some - 1)) == 0)
            some *= 2;
        iomt_tree_root(backend, leaf_hashes, (size_t)some, range + held++ * IOMT_HASH_SIZE);
        for (uint64_t bit = some; size & bit; bit <<= 1) {
            uint8_t *pair = range + (held-- - 2) * IOMT_HASH_SIZE;

            iomt_nodes(backend, pair, 1, pair);
        }
        size += some;
        leaf_hashes += some * IOMT_HASH_SIZE;
        count -= (size_t)some;
    }
    return held;
}
