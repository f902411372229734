/* The work that benchmarks/arm_model.py counts, models or times: one implementation on one
 * piece of work.
 *
 *   arm_work once IMPLEMENTATION WORK    twice, the second time between two marks, whose
 *                                        addresses a trace shows; prints the number
 *                                        of items and the first hash
 *   arm_work time IMPLEMENTATION WORK    prints nanoseconds an item, median of rounds
 *
 * An implementation is a backend of the core by name, or "openssl": libcrypto's SHA256_*
 * functions, which cost less a call than its EVP ones. Exit code 3: not usable here. */
#define _POSIX_C_SOURCE 200809L
#define OPENSSL_SUPPRESS_DEPRECATED

#include "backend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#if defined(WITH_OPENSSL)
#include <openssl/sha.h>
#endif

#define ITEMS 60 /* records, nodes, or blocks of all lanes together */
#define MOST_RECORD 256

static uint8_t input[ITEMS * MOST_RECORD];
static uint8_t hashes[ITEMS * IOMT_HASH_SIZE];
static uint64_t ends[ITEMS];
static const iomt_backend *backend; /* NULL: OpenSSL */

/* Each returns how many items it hashed. */

static size_t blocks(void)
{
    if (backend != NULL) {
        uint32_t lanes = backend->lanes, state[8 * IOMT_MAX_LANES];
        const uint8_t *at[IOMT_MAX_LANES];

        for (uint32_t i = 0; i < lanes; i++) {
            at[i] = input + i * (ITEMS / lanes) * IOMT_BLOCK_SIZE;
            for (uint32_t w = 0; w < 8; w++)
                state[w * lanes + i] = iomt_sha256_start[w];
        }
        backend->compress(state, at, ITEMS / lanes);
        for (uint32_t w = 0; w < 8; w++)
            memcpy(hashes + 4 * w, &state[w * lanes], 4);
        return ITEMS / lanes * lanes;
    }
#if defined(WITH_OPENSSL)
    SHA256_CTX context;

    SHA256_Init(&context);
    SHA256_Update(&context, input, ITEMS * IOMT_BLOCK_SIZE);
    memcpy(hashes, context.h, IOMT_HASH_SIZE);
#endif
    return ITEMS;
}

static size_t leaves(size_t size)
{
    for (size_t i = 0; i < ITEMS; i++)
        ends[i] = (i + 1) * size;
    if (backend != NULL) {
        iomt_leaf_hashes(backend, input, ITEMS * size, ends, ITEMS, hashes);
        return ITEMS;
    }
#if defined(WITH_OPENSSL)
    for (size_t i = 0; i < ITEMS; i++) {
        SHA256_CTX context;

        SHA256_Init(&context);
        SHA256_Update(&context, "\x00", 1);
        SHA256_Update(&context, input + i * size, size);
        SHA256_Final(hashes + i * IOMT_HASH_SIZE, &context);
    }
#endif
    return ITEMS;
}

static size_t leaves_of_64(void)
{
    return leaves(64);
}

static size_t leaves_of_256(void)
{
    return leaves(256);
}

static size_t nodes(void)
{
    if (backend != NULL) {
        backend->nodes(input, ITEMS, hashes);
        return ITEMS;
    }
#if defined(WITH_OPENSSL)
    for (size_t i = 0; i < ITEMS; i++) {
        SHA256_CTX context;

        SHA256_Init(&context);
        SHA256_Update(&context, "\x01", 1);
        SHA256_Update(&context, input + 2 * i * IOMT_HASH_SIZE, 2 * IOMT_HASH_SIZE);
        SHA256_Final(hashes + i * IOMT_HASH_SIZE, &context);
    }
#endif
    return ITEMS;
}

static const struct work {
    const char *name;
    size_t (*run)(void);
} works[] = {
    {"block", blocks},
    {"leaf64", leaves_of_64},
    {"leaf256", leaves_of_256},
    {"node", nodes},
};
#define WORKS (sizeof works / sizeof works[0])

/* Found in a trace by their addresses; not inlined, not merged with each other. */
__attribute__((noinline)) void mark_begin(void);
__attribute__((noinline)) void mark_end(void);

void mark_begin(void)
{
    __asm__ volatile("" ::: "memory");
}

void mark_end(void)
{
    __asm__ volatile("nop" ::: "memory");
}

static double now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

#define ROUNDS 21
#define ROUND_NS 5e6

static double median_ns(const struct work *work)
{
    double taken[ROUNDS];
    size_t repeats = 1;

    for (;; repeats *= 2) { /* long enough for the clock; also warms up */
        double begin = now_ns();

        for (size_t i = 0; i < repeats; i++)
            work->run();
        if (now_ns() - begin > ROUND_NS)
            break;
    }
    for (size_t round = 0; round < ROUNDS; round++) {
        double begin = now_ns();
        size_t items = 0;

        for (size_t i = 0; i < repeats; i++)
            items += work->run();
        taken[round] = (now_ns() - begin) / (double)items;
    }
    qsort(taken, ROUNDS, sizeof taken[0], ascending);
    return taken[ROUNDS / 2];
}

static int choose(const char *name)
{
#if defined(WITH_OPENSSL)
    if (strcmp(name, "openssl") == 0)
        return 1;
#endif
    for (size_t i = 0; (backend = iomt_backend_at(i)) != NULL; i++)
        if (strcmp(iomt_backend_name(backend), name) == 0)
            return iomt_backend_usable(backend);
    return 0;
}

int main(int count, char **arguments)
{
    if (count != 4 || !choose(arguments[2]))
        return 3;
    for (size_t i = 0; i < sizeof input; i++)
        input[i] = (uint8_t)(i * 2654435761u >> 24);
    for (size_t i = 0; i < WORKS; i++) {
        if (strcmp(works[i].name, arguments[3]) != 0)
            continue;
        if (strcmp(arguments[1], "time") == 0) {
            printf("%.2f\n", median_ns(&works[i]));
            return 0;
        }
        works[i].run();
        mark_begin();
        size_t items = works[i].run();
        mark_end();
        printf("%zu ", items);
        for (size_t b = 0; b < IOMT_HASH_SIZE; b++)
            printf("%02x", hashes[b]);
        printf("\n");
        return 0;
    }
    return 3;
}
