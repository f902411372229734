/* Which backend to use: each is tested with a known answer, then timed for some hundred
 * microseconds. Tables of what ought to be fast are wrong on the next CPU: AVX-512 beats
 * SHA-NI on one maker's chips and loses to it on the other's. */
#define _POSIX_C_SOURCE 199309L /* clock_gettime */

#include "backend.h"
#include "bytes.h"

#include <time.h>

/* ---- Known answer ---- */

#define MIXED_RECORDS 100 /* of 0 to 199 bytes: a third of them shares a number of blocks */
#define NODE_SIZED_RECORDS 28 /* of 64 bytes, which some backends treat alone */
#define KNOWN_RECORDS (MIXED_RECORDS + NODE_SIZED_RECORDS)
#define KNOWN_SIZE 11742

/* The root over the records that iomt_self_test makes, computed with Python's hashlib
 * (tests/native/test_choice.py does it again). */
static const uint8_t known_root[IOMT_HASH_SIZE] = {
    0xd7, 0xb1, 0xa6, 0xfd, 0xd7, 0x6f, 0x38, 0x77, 0x64, 0x4f, 0x68, 0xea, 0xaa, 0x32, 0x02, 0x6f,
    0x8c, 0x2b, 0x44, 0xcb, 0xa6, 0xc4, 0x53, 0x8d, 0xbd, 0x89, 0xfe, 0xfa, 0x20, 0x75, 0x1d, 0xbe,
};

int iomt_self_test(const iomt_backend *backend)
{
    uint8_t records[KNOWN_SIZE], hashes[KNOWN_RECORDS * IOMT_HASH_SIZE], root[IOMT_HASH_SIZE];
    uint64_t ends[KNOWN_RECORDS], end = 0;
    uint32_t number = 1;

    for (unsigned i = 0; i < KNOWN_RECORDS; i++)
        ends[i] = end += i < MIXED_RECORDS ? i * 37 % 200 : 64;
    for (size_t i = 0; i < KNOWN_SIZE; i++) {
        number = number * 1664525 + 1013904223;
        records[i] = (uint8_t)(number >> 24);
    }
    if (iomt_leaf_hashes(backend, records, KNOWN_SIZE, ends, KNOWN_RECORDS, hashes) !=
        KNOWN_RECORDS)
        return 0;
    iomt_tree_root(backend, hashes, KNOWN_RECORDS, root);
    return memcmp(root, known_root, sizeof root) == 0;
}

/* ---- Calibration ---- */

#define TRIALS 2          /* of each time, of which the shortest counts; in each of */
#define PASSES 2          /* passes over all backends */
#define BUDGET_NS 3000000 /* of CPU time after the self-tests; then no further measurement */
#define SAMPLE 64        /* records, and nodes */
#define SAMPLE_RECORD_SIZE 150 /* such as a gateway's records have: three blocks */
#define REPEATS 4        /* of the few nodes, so that a clock can tell */

struct sample {
    uint8_t records[SAMPLE * SAMPLE_RECORD_SIZE], hashes[2 * SAMPLE * IOMT_HASH_SIZE];
    uint64_t ends[SAMPLE];
};

static uint64_t read_ns(clockid_t clock)
{
    struct timespec now;

    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static uint64_t now_ns(void)
{
    return read_ns(CLOCK_MONOTONIC);
}

/* What this thread has used: time in which others ran must not end the calibration early,
 * with the best backends not yet measured. A system call, too slow for short measurements. */
static uint64_t used_ns(void)
{
    return read_ns(CLOCK_THREAD_CPUTIME_ID);
}

static uint64_t leaves_ns(const iomt_backend *backend, struct sample *sample)
{
    uint64_t shortest = UINT64_MAX;

    for (int trial = 0; trial < TRIALS; trial++) {
        uint64_t begin = now_ns(), took;

        iomt_leaf_hashes(backend, sample->records, sizeof sample->records, sample->ends, SAMPLE,
                         sample->hashes);
        took = now_ns() - begin;
        shortest = took < shortest ? took : shortest;
    }
    return shortest;
}

static uint64_t nodes_ns(const iomt_backend *backend, struct sample *sample, size_t count)
{
    uint64_t shortest = UINT64_MAX, repeats = count < SAMPLE ? REPEATS : 1;
    uint8_t parents[SAMPLE * IOMT_HASH_SIZE];

    for (int trial = 0; trial < TRIALS; trial++) {
        uint64_t begin = now_ns(), took;

        for (uint64_t repeat = 0; repeat < repeats; repeat++)
            iomt_nodes(backend, sample->hashes, count, parents);
        took = now_ns() - begin;
        shortest = took < shortest ? took : shortest;
    }
    return shortest / repeats;
}

/* From how many messages on `backend` is faster than `few`, so that the sum of the times for
 * 1, 2, .. lanes - 1 messages is least; and that sum. */
static uint64_t best_split(const iomt_backend *backend, const iomt_backend *few,
                           struct sample *sample, uint32_t *fewest)
{
    uint64_t own = nodes_ns(backend, sample, 1), sum = own * (backend->lanes - 1);
    uint64_t best = sum;

    *fewest = 1;
    for (uint32_t count = 1; count < backend->lanes; count++) {
        sum = sum - own + nodes_ns(few, sample, count);
        if (sum < best) {
            best = sum;
            *fewest = count + 1;
        }
    }
    return best;
}

/* Finds the one among those chosen before, all of fewer lanes, that is best at few. */
static void tune(iomt_choice *choice, size_t index, struct sample *sample)
{
    iomt_backend *own = (iomt_backend *)choice->memory + index;
    uint64_t best = UINT64_MAX, best_alone = UINT64_MAX;

    own->few = NULL;
    for (size_t i = index; i > 0 && own->lanes > 1; i--) {
        const iomt_backend *few = choice->measured[i - 1].backend;
        uint64_t sum, alone = nodes_ns(few, sample, 1);
        uint32_t fewest;

        /* Who is far slower even at one message is not worth the time to ask. */
        if (few->lanes >= own->lanes || alone / 2 > best_alone)
            continue;
        best_alone = alone < best_alone ? alone : best_alone;
        sum = best_split(own, few, sample, &fewest);
        if (sum < best) {
            best = sum;
            choice->measured[index].few = few;
            choice->measured[index].fewest = fewest;
        }
    }
    own->few = choice->measured[index].few;
    if (own->few != NULL)
        own->fewest = choice->measured[index].fewest;
    choice->measured[index].fewest = own->fewest;
}

/* The next backend of the table in order of lanes, after the `index`th. NULL at the end. */
static const iomt_backend *in_order_of_lanes(size_t index)
{
    const iomt_backend *backend;

    for (uint32_t lanes = 1; lanes <= IOMT_MAX_LANES; lanes++)
        for (size_t i = 0; (backend = iomt_backend_at(i)) != NULL; i++)
            if (backend->lanes == lanes && index-- == 0)
                return backend;
    return NULL;
}

static void keep_shorter(double *time, double other)
{
    if (*time <= 0 || other < *time)
        *time = other;
}

/* In the order of the table, which ends with portable: if time runs out, it is what was not
 * likely to be best that was not measured. The first is measured however long it takes. */
static void measure_in_order_of_preference(iomt_choice *choice, uint64_t begin,
                                           struct sample *sample)
{
    const iomt_backend *backend;
    int measured = 0;

    /* More than once each, with the others in between: a moment may be bad for one. */
    for (int pass = 0; pass < PASSES; pass++)
        for (size_t i = 0; (backend = iomt_backend_at(i)) != NULL; i++)
            for (size_t j = 0; j < choice->count; j++) {
                iomt_measured *row = &choice->measured[j];

                if (row->backend->name != backend->name ||
                    (measured && used_ns() - begin >= BUDGET_NS))
                    continue;
                keep_shorter(&row->leaf_ns, (double)leaves_ns(row->backend, sample) / SAMPLE);
                keep_shorter(&row->node_ns,
                             (double)nodes_ns(row->backend, sample, SAMPLE) / SAMPLE);
                measured = 1;
            }
}

void iomt_calibrate(iomt_choice *choice)
{
    struct sample sample;
    uint64_t entered = used_ns(), begin;
    const iomt_backend *backend;

    _Static_assert(sizeof(iomt_backend) * IOMT_BACKENDS_MAX <= sizeof choice->memory,
                   "room for a copy of each backend");
    memset(&sample, 0x5a, sizeof sample);
    for (unsigned i = 0; i < SAMPLE; i++)
        sample.ends[i] = (i + 1) * SAMPLE_RECORD_SIZE;
    memset(choice, 0, sizeof *choice);
    for (size_t i = 0; (backend = in_order_of_lanes(i)) != NULL; i++) {
        size_t index = choice->count;
        iomt_measured *row = &choice->measured[index];

        if (!iomt_backend_usable(backend) || index == IOMT_BACKENDS_MAX)
            continue;
        if (!iomt_self_test(backend)) {
            choice->failed[choice->failed_count++] = backend;
            continue;
        }
        memcpy((iomt_backend *)choice->memory + index, backend, sizeof *backend);
        row->backend = (const iomt_backend *)choice->memory + index;
        row->fewest = backend->fewest;
        choice->count++;
    }
    begin = used_ns();
    measure_in_order_of_preference(choice, begin, &sample);
    for (size_t i = 0; i < choice->count && used_ns() - begin < BUDGET_NS; i++)
        tune(choice, i, &sample);
    choice->took_ns = used_ns() - entered;
}
