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
    uint64_t took_ns;
    uint64_t memory[IOMT_BACKENDS_MAX * 12]; /* holds the tuned copies */
} iomt_choice;

/* Tests and times every usable backend: about a millisecond, and after four it times no
 * more. Writes only `choice`; afterwards that is only read. */
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
 * wrong; what `hashes` then holds is not defined. */
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

#endif
