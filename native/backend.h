/* What a backend is, for the people who write one. To add one: write its file, and put one
 * line in the table of backends.c (and a feature bit in cpu.c if it needs a new one). */
#ifndef IOMT_BACKEND_H
#define IOMT_BACKEND_H

#include "iomt_core.h"

#define IOMT_MAX_LANES 16
#define IOMT_BLOCK_SIZE 64

#if defined(__x86_64__) || defined(__i386__)
#define IOMT_X86 1
#elif defined(__aarch64__) && defined(__AARCH64EL__)
#define IOMT_ARM64 1
#endif

/* What the CPU has and the operating system lets us use: bits for `needs`. Each stands for
 * a whole set that a backend wants together. */
enum {
    IOMT_CPU_SHA_NI = 1 << 0, /* SHA extensions with SSSE3 and SSE4.1 */
    IOMT_CPU_AVX2 = 1 << 1,
    IOMT_CPU_AVX512 = 1 << 2,      /* F, BW and VL */
    IOMT_CPU_AVX512_IFMA = 1 << 3, /* CD, DQ, and the 52-bit multiply */
    IOMT_CPU_NEON = 1 << 4,
    IOMT_CPU_ARM_SHA2 = 1 << 5,
    IOMT_CPU_ADX = 1 << 6 /* adcx, adox; with BMI2's mulx */
};

/* Asks CPU and operating system each time (cpu.c). */
uint32_t iomt_cpu_features(void);

/* A record to hash, and where its leaf hash goes. */
struct iomt_leaf {
    const uint8_t *record;
    size_t size;
    uint8_t *hash;
};

#define IOMT_GROUP_BLOCKS 64 /* longer records go through `compress` */

struct iomt_backend {
    const char *name;
    uint32_t needs; /* IOMT_CPU_ bits; 0 for portable */

    /* `compress` takes exactly this many messages, at most IOMT_MAX_LANES. */
    uint32_t lanes;

    /* With fewer messages than this left, one after the other through compress_one is
     * faster than `compress` with idle lanes. 1 .. lanes. */
    uint32_t fewest;

    /* Takes each message `count` blocks further: message i reads count * 64 bytes from
     * blocks[i]. Word w of message i's chaining value is state[w * lanes + i], so a backend
     * loads vectors and not scalars; words are in native byte order. Messages may share
     * their bytes (an idle lane repeats another's). */
    void (*compress)(uint32_t *state, const uint8_t *const *blocks, size_t count);

    /* The same for one message, state[8]. May be another backend's, if `needs` covers it. */
    void (*compress_one)(uint32_t state[8], const uint8_t *blocks, size_t count);

    /* parents[i] = SHA-256(0x01 || children[2i] || children[2i+1]) for i < count. `parents`
     * may be `children` itself: read a group of pairs before writing its parents. */
    void (*nodes)(const uint8_t *children, size_t count, uint8_t *parents);

    /* Optional; NULL: leaves.c builds the first and last blocks and calls `compress`. The
     * leaf hashes of exactly `lanes` records, each of which makes `blocks` blocks with its
     * prefix and padding, 1 .. IOMT_GROUP_BLOCKS. Reads nothing outside the records. Some
     * may be one and the same: idle lanes. */
    void (*leaves)(const struct iomt_leaf *leaf, size_t blocks);

    /* Optional; NULL: this backend itself. Who takes what is left when fewer than `fewest`
     * messages remain; iomt_calibrate sets both in its copy. */
    const iomt_backend *few;
};

/* `count` parents: `backend` takes as many as fill its lanes, and its `few` the rest where
 * they are fewer than `fewest` (tree.c). Otherwise as the function `nodes` above. */
void iomt_nodes(const iomt_backend *backend, const uint8_t *children, size_t count,
                uint8_t *parents);

/* Of the portable backend, for one that has no better `compress_one`. */
void iomt_compress_portable(uint32_t state[8], const uint8_t *blocks, size_t count);

/* FIPS 180-4: the initial hash value (5.3.3) and the constants (4.2.2). */
extern const uint32_t iomt_sha256_start[8];
extern const uint32_t iomt_sha256_k[64];

#endif
