/* The native core of the IoMT edge gateway: SHA-256 over many records at once, and the
 * Merkle tree root of RFC 6962. This header is the contract.
 *
 * For every function here:
 *  - The caller owns all memory; nothing is kept after the call. No heap, no globals, no I/O,
 *    no locks: any number of threads may call at the same time.
 *  - A pointer to zero bytes may be NULL. Buffers may have any alignment.
 *  - Input is const. Output must not overlap input.
 *  - Nothing outside the given buffers is read or written, not even within a page.
 *  - Results do not depend on the backend, nor on the byte order of the machine.
 */
#ifndef IOMT_CORE_H
#define IOMT_CORE_H

#include <stddef.h>
#include <stdint.h>

#define IOMT_HASH_SIZE 32 /* bytes in a SHA-256 digest, a leaf hash, a node, a root */

/* ---- Backends: one way to compute SHA-256 on one kind of CPU (backends.c) ---- */

typedef struct iomt_backend iomt_backend; /* const and static; see backend.h to add one */

/* The backend at `index` of this build's table, best first, or NULL past its end. The last
 * one is "portable" and runs everywhere. A backend in the table may not run on this CPU. */
const iomt_backend *iomt_backend_at(size_t index);

/* 1 if this CPU and its operating system can run `backend`, otherwise 0. Passing a backend
 * that is not usable to a function below ends in an illegal instruction. */
int iomt_backend_usable(const iomt_backend *backend);

/* A static string, such as "sha-ni". */
const char *iomt_backend_name(const iomt_backend *backend);

/* How many messages it works on side by side, 1 to 16. */
size_t iomt_backend_lanes(const iomt_backend *backend);

/* What this core was compiled with, such as "gcc 12.2.0", for benchmarks and reports. */
const char *iomt_compiler(void);

/* ---- Choice (choice.c) ---- */

/* 1 if `backend` gives the right hashes and root for some records made up for the purpose,
 * in all its lanes. About a tenth of a millisecond. */
int iomt_self_test(const iomt_backend *backend);

#define IOMT_BACKENDS_MAX 8

typedef struct {
    const iomt_backend *backend; /* a tuned copy, which knows who is better at few messages */
    const iomt_backend *few;     /* that one, tuned as well; NULL: none */
    uint32_t fewest;             /* messages from which on `backend` takes them itself */
    double leaf_ns, node_ns;     /* per leaf hash of 150 bytes and per node, of 64; 0: not timed */
} iomt_measured;

/* What iomt_calibrate found, in the caller's memory: it is not to be moved, nor freed before
 * the last call with one of its backends. */
typedef struct {
    iomt_measured measured[IOMT_BACKENDS_MAX]; /* the usable ones, fewest lanes first */
    size_t count;
    const iomt_backend *failed[IOMT_BACKENDS_MAX]; /* usable, but wrong in the self-test */
    size_t failed_count;
    uint64_t took_ns; /* of CPU time */
    uint64_t memory[IOMT_BACKENDS_MAX * 12]; /* holds the tuned copies */
} iomt_choice;

/* Tests and times every usable backend: about a millisecond of CPU time; three after the
 * tests it begins no further measurement. Writes only `choice`; afterwards that is only read. */
void iomt_calibrate(iomt_choice *choice);

/* ---- Hashes of records (leaves.c) ---- */

/* SHA-256 of `size` bytes. */
void iomt_sha256(const iomt_backend *backend, const uint8_t *message, size_t size,
                 uint8_t digest[IOMT_HASH_SIZE]);

/* The RFC 6962 leaf hashes SHA-256(0x00 || record) of `count` records that lie one after
 * the other in `records`.
 *
 * `ends` points to `count` unsigned 64-bit integers in native byte order: record i is
 * records[ends[i-1] .. ends[i]), the first starts at 0. They must not decrease, and the last
 * must equal `size`, so that no byte is left out of the log unnoticed. Each one is read
 * once and checked before it is used, so a buffer that changes under the call can give wrong
 * hashes but no access outside it.
 *
 * `hashes` has room for count * 32 bytes. Returns `count`, or the index of an end that is
 * wrong; what `hashes` then holds is not defined. Uses up to 40 KiB of stack. */
size_t iomt_leaf_hashes(const iomt_backend *backend, const uint8_t *records, size_t size,
                        const void *ends, size_t count, uint8_t *hashes);

/* The check of `ends` alone: `count`, or the index of the first that is wrong. */
size_t iomt_check_ends(const void *ends, size_t count, size_t size);

/* ---- Merkle tree (tree.c) ---- */

/* The RFC 6962 root over `count` leaf hashes of 32 bytes each; no leaf gives the SHA-256 of
 * the empty string, one leaf gives that leaf. Uses about 18 KiB of stack whatever `count`
 * is. */
void iomt_tree_root(const iomt_backend *backend, const uint8_t *leaf_hashes, size_t count,
                    uint8_t root[IOMT_HASH_SIZE]);

/* The inclusion path of leaf `index` < `count` (RFC 6962 section 2.1.1), from its sibling up:
 * at most 64 hashes. Returns how many. */
size_t iomt_tree_path(const iomt_backend *backend, const uint8_t *leaf_hashes, size_t count,
                      size_t index, uint8_t path[64 * IOMT_HASH_SIZE]);

/* The root over a compact range of `count` hashes, and that of no leaf if there are none. */
void iomt_range_root(const iomt_backend *backend, const uint8_t *range, size_t count,
                     uint8_t root[IOMT_HASH_SIZE]);

/* ---- A commit of the gateway (batch.c) ---- */

#define IOMT_SALT_SIZE 16
#define IOMT_SALT_KEY_SIZE 32

/* Salts the records of one commit, hashes them, and builds the tree over the hashes.
 *
 * `records` and `ends` are as for iomt_leaf_hashes, but each record begins with 16 bytes of
 * room, into which its salt is written: HMAC-SHA-256(its key, its index as 8 bytes,
 * big-endian), cut to 16. Record i uses key key_of[i] < `key_count` of `salt_keys`, 32 bytes
 * each; `key_of` points to `count` uint32_t in native byte order. `records` is written and
 * read, and nothing may change it, `ends` or `key_of` meanwhile: unlike everywhere else they
 * are read more than once.
 *
 * `tree` has room for (2 * width - 1) * 32 bytes, `width` a power of two and not below
 * `count`. The hashes beyond `count` stand there already (the batch's padding); the first
 * `count` are written, then behind the row of `width` hashes the row of their parents, and so
 * on: the last 32 bytes are the root, and a leaf's path is one sibling from each row.
 *
 * Returns `count`, or the index of a record that is wrong (its end, its room for the salt, or
 * its key); nothing is then written. */
size_t iomt_batch(const iomt_backend *backend, uint8_t *records, size_t size, const void *ends,
                  size_t count, const uint8_t *salt_keys, size_t key_count, const void *key_of,
                  uint8_t *tree, size_t width);

#define IOMT_RANGE_MAX 64 /* hashes in a compact range: one for each bit of a size */

/* Appends `count` leaf hashes to a tree of `size` leaves of which only the compact range is
 * known: `range` holds one hash for each 1 bit of `size`, the largest subtree first, and has
 * room for IOMT_RANGE_MAX + 1. It then holds that of size + count leaves, which must be below
 * 2^63. Returns how many hashes that are. */
size_t iomt_extend_range(const iomt_backend *backend, uint64_t size,
                         uint8_t range[(IOMT_RANGE_MAX + 1) * IOMT_HASH_SIZE],
                         const uint8_t *leaf_hashes, size_t count);

/* ---- Ed25519 (ed25519.c; the rule of validity stands in ed25519.h) ---- */

#define IOMT_ED25519_SEED_SIZE 32
#define IOMT_ED25519_KEY_SIZE 32
#define IOMT_ED25519_SIGNATURE_SIZE 64

/* Ways to compute it, listed as iomt_backend_at lists those of SHA-256: best first, the last
 * is "portable". The answers and signatures of all are the same. */
typedef struct iomt_ed25519_backend iomt_ed25519_backend;

const iomt_ed25519_backend *iomt_ed25519_backend_at(size_t index);
int iomt_ed25519_backend_usable(const iomt_ed25519_backend *backend);
const char *iomt_ed25519_backend_name(const iomt_ed25519_backend *backend);

/* A private key ready to sign: secret. The caller has room for iomt_ed25519_signer_size()
 * bytes, aligned for uint64_t, and wipes it in the end. */
typedef struct iomt_ed25519_signer iomt_ed25519_signer;

size_t iomt_ed25519_signer_size(void);

/* Derives the key of RFC 8032 5.1.5 from a seed. Constant time. */
void iomt_ed25519_start_signer(const iomt_ed25519_backend *backend, iomt_ed25519_signer *signer,
                               const uint8_t seed[IOMT_ED25519_SEED_SIZE]);

void iomt_ed25519_wipe_signer(iomt_ed25519_signer *signer);

void iomt_ed25519_signer_key(const iomt_ed25519_signer *signer,
                             uint8_t public_key[IOMT_ED25519_KEY_SIZE]);

/* The deterministic signature of RFC 8032 5.1.6, in constant time for each size. It is
 * verified before it is given out: 1, or 0 and a signature of zeros when the machine made a
 * mistake (a wrong signature can give the key away). */
int iomt_ed25519_sign(const iomt_ed25519_backend *backend, const iomt_ed25519_signer *signer,
                      const uint8_t *message, size_t size,
                      uint8_t signature[IOMT_ED25519_SIGNATURE_SIZE]);

/* A public key with multiples of its point, for a key that comes back: verifying is then
 * more than twice as fast. The caller has room for iomt_ed25519_prepared_size() bytes,
 * aligned for uint64_t; any number of calls may read it at once. */
typedef struct iomt_ed25519_prepared iomt_ed25519_prepared;

size_t iomt_ed25519_prepared_size(void);

/* Returns 1, or 0 for bytes that are no point: `prepared` then verifies nothing, and is as
 * good to keep. */
int iomt_ed25519_prepare(const iomt_ed25519_backend *backend, iomt_ed25519_prepared *prepared,
                         const uint8_t public_key[IOMT_ED25519_KEY_SIZE]);

/* 1 if this is the key's signature of the message, otherwise 0. `prepared` may be NULL; if it
 * was made of another key it is not used. */
int iomt_ed25519_verify(const iomt_ed25519_backend *backend,
                        const uint8_t public_key[IOMT_ED25519_KEY_SIZE],
                        const iomt_ed25519_prepared *prepared, const uint8_t *message,
                        size_t size, const uint8_t signature[IOMT_ED25519_SIGNATURE_SIZE]);

/* answers[i] = iomt_ed25519_verify of key i (32 bytes of `public_keys`), message i and
 * signature i (64 bytes of `signatures`), whatever stands beside it. `ends` divides
 * `messages` as it does records in iomt_leaf_hashes. `prepared` is NULL or has `count`
 * pointers, each NULL or a prepared key. Returns `count`, or the index of an end that is
 * wrong; what `answers` then holds is not defined. */
size_t iomt_ed25519_verify_many(const iomt_ed25519_backend *backend, const uint8_t *public_keys,
                                const iomt_ed25519_prepared *const *prepared,
                                const uint8_t *messages, size_t size, const void *ends,
                                size_t count, const uint8_t *signatures, uint8_t *answers);

#endif
