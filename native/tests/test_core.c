/* Tests of the C core without Python, to be run under sanitizers: every backend that this
 * CPU can run against published vectors, against the simplest code that can be written from
 * the standards, and with every buffer ending at a page that must not be touched.
 *
 * The last line says how many checks passed and failed; the exit code is 0 if none failed. */
#define _DEFAULT_SOURCE /* mmap's MAP_ANONYMOUS */

#include "backend.h"
#include "iomt_core.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MOST_RECORDS 160
#define MOST_BYTES (1u << 18)
#define MOST_LEAVES 5000

static unsigned long passed, failed;

static void check(int holds, const iomt_backend *backend, const char *what, size_t detail)
{
    if (holds) {
        passed++;
        return;
    }
    failed++;
    printf("FAILED %s: %s (%zu)\n", iomt_backend_name(backend), what, detail);
}

/* ---- Memory that ends at a guard page ---- */

struct guarded {
    uint8_t *end; /* the first byte that must not be touched */
    size_t room;
};

static struct guarded guarded_memory(size_t room)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t whole = (room + page - 1) / page * page;
    uint8_t *at = mmap(NULL, whole + 2 * page, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    /* The page before is closed too: a read of the byte before a buffer must not go unseen. */
    if (at == MAP_FAILED || mprotect(at, page, PROT_NONE) != 0 ||
        mprotect(at + page + whole, page, PROT_NONE) != 0) {
        perror("guard page");
        exit(2);
    }
    return (struct guarded){at + page + whole, whole};
}

/* The last `size` bytes before the guard page. */
static uint8_t *last(const struct guarded *memory, size_t size)
{
    return memory->end - size;
}

/* The first bytes after the other guard page. */
static uint8_t *first(const struct guarded *memory)
{
    return memory->end - memory->room;
}

/* ---- Reference: FIPS 180-4 and RFC 6962 read aloud, sharing nothing with the core ---- */

static uint32_t right(uint32_t x, int n)
{
    return x >> n | x << (32 - n);
}

/* Its constants are the fractions of roots of primes (FIPS 180-4 section 4.2.2 and 5.3.3);
 * here they are computed in integers: the largest r with r^power <= prime * 2^(32 * power),
 * without its integer part. */
static uint32_t fraction_of_root(unsigned prime, unsigned power)
{
    uint64_t r = 0;

    for (int bit = 35; bit >= 0; bit--) {
        uint64_t t = r | (uint64_t)1 << bit;
        uint64_t high = t >> 18, low = t & 0x3ffff; /* t = high * 2^18 + low, below 2^36 */
        uint64_t square_low = low * low + ((2 * high * low & 0x3ffff) << 18);
        uint64_t square_high = high * high + (2 * high * low >> 18) + (square_low >> 36);
        uint64_t limit = (uint64_t)prime << 28; /* prime * 2^64 in units of 2^36 */

        square_low &= 0xfffffffff;
        if (power == 2) {
            if (square_high > limit || (square_high == limit && square_low > 0))
                continue;
        } else {
            /* t^3 = (square_high * 2^36 + square_low) * t against prime * 2^96; digits of
             * 36 bits, each product in two halves of t. */
            uint64_t a = square_low * low, b = square_low * high;
            uint64_t c = square_high * low, d = square_high * high;
            uint64_t d0 = (a & 0xfffffffff) + ((b & 0x3ffff) << 18);
            uint64_t d1 = (a >> 36) + (b >> 18) + (d0 >> 36) + (c & 0xfffffffff) +
                          ((d & 0x3ffff) << 18);
            uint64_t d2 = (c >> 36) + (d >> 18) + (d1 >> 36);
            uint64_t top = (uint64_t)prime << 24; /* prime * 2^96 in units of 2^72 */

            if (d2 > top || (d2 == top && ((d1 | d0) & 0xfffffffff) > 0))
                continue;
        }
        r = t;
    }
    return (uint32_t)r;
}

static uint32_t reference_k[64], reference_start[8];

static void make_reference(void)
{
    unsigned found = 0;

    for (unsigned n = 2; found < 64; n++) {
        unsigned divisor = 2;

        while (n % divisor != 0)
            divisor++;
        if (divisor < n)
            continue;
        if (found < 8)
            reference_start[found] = fraction_of_root(n, 2);
        reference_k[found++] = fraction_of_root(n, 3);
    }
}

static void reference_block(uint32_t h[8], const uint8_t *block)
{
    uint32_t w[64], v[8];

    for (int t = 0; t < 64; t++) {
        if (t < 16) {
            w[t] = 0;
            for (int i = 0; i < 4; i++)
                w[t] = w[t] << 8 | block[4 * t + i];
            continue;
        }
        w[t] = (right(w[t - 2], 17) ^ right(w[t - 2], 19) ^ w[t - 2] >> 10) + w[t - 7] +
               (right(w[t - 15], 7) ^ right(w[t - 15], 18) ^ w[t - 15] >> 3) + w[t - 16];
    }
    memcpy(v, h, sizeof v);
    for (int t = 0; t < 64; t++) {
        uint32_t t1 = v[7] + (right(v[4], 6) ^ right(v[4], 11) ^ right(v[4], 25)) +
                      ((v[4] & v[5]) ^ (~v[4] & v[6])) + reference_k[t] + w[t];
        uint32_t t2 = (right(v[0], 2) ^ right(v[0], 13) ^ right(v[0], 22)) +
                      ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));

        memmove(v + 1, v, 7 * sizeof v[0]);
        v[4] += t1;
        v[0] = t1 + t2;
    }
    for (int i = 0; i < 8; i++)
        h[i] += v[i];
}

/* SHA-256 of prefix || message, fed byte by byte; `prefix` < 0 means none. */
static void reference_sha256(int prefix, const uint8_t *message, size_t size, uint8_t digest[32])
{
    uint32_t h[8];
    uint8_t block[64];
    uint64_t total = size + (prefix >= 0 ? 1u : 0u);
    uint64_t padded = (total + 9 + 63) / 64 * 64;

    memcpy(h, reference_start, sizeof h);
    for (uint64_t i = 0; i < padded; i++) {
        uint64_t at = prefix >= 0 ? i - 1 : i;
        uint8_t byte = 0;

        if (prefix >= 0 && i == 0)
            byte = (uint8_t)prefix;
        else if (i < total)
            byte = message[at];
        else if (i == total)
            byte = 0x80;
        else if (i >= padded - 8)
            byte = (uint8_t)(total * 8 >> (8 * (padded - 1 - i)));
        block[i % 64] = byte;
        if (i % 64 == 63)
            reference_block(h, block);
    }
    for (int i = 0; i < 32; i++)
        digest[i] = (uint8_t)(h[i / 4] >> (24 - 8 * (i % 4)));
}

/* RFC 6962 section 2.1, as it is defined: split at the largest power of two below n. */
static void reference_root(const uint8_t *leaves, size_t n, uint8_t root[32])
{
    uint8_t both[64];
    size_t k = 1;

    if (n == 0) {
        reference_sha256(-1, NULL, 0, root);
        return;
    }
    if (n == 1) {
        memcpy(root, leaves, 32);
        return;
    }
    while (2 * k < n)
        k *= 2;
    reference_root(leaves, k, both);
    reference_root(leaves + 32 * k, n - k, both + 32);
    reference_sha256(0x01, both, 64, root);
}

/* ---- Inputs ---- */

/* xorshift64*: the same bytes on every machine and run. */
static uint64_t random_state;

static uint64_t next_random(void)
{
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return random_state * 0x2545f4914f6cdd1dULL;
}

static void fill(uint8_t *to, size_t size)
{
    for (size_t i = 0; i < size; i++)
        to[i] = (uint8_t)(next_random() >> 56);
}

static int is_hex(const uint8_t digest[32], const char *hex)
{
    char text[65];

    for (int i = 0; i < 32; i++)
        snprintf(text + 2 * i, 3, "%02x", digest[i]);
    return strcmp(text, hex) == 0;
}

/* ---- Tests ---- */

struct vector {
    const char *message;
    size_t repeat;
    const char *digest;
};

/* The examples that NIST publishes for FIPS 180 SHA-256 (csrc.nist.gov, "Examples with
 * intermediate values"), and the long message of FIPS 180-2 appendix B.3. */
static const struct vector fips_180[] = {
    {"", 1, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
    {"abc", 1, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
    {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 1,
     "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
    {"abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmn"
     "hijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopqrstnopqrstu", 1,
     "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1"},
    {"a", 1000000, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"},
};

static void test_published_digests(const iomt_backend *backend)
{
    for (size_t i = 0; i < sizeof fips_180 / sizeof fips_180[0]; i++) {
        const struct vector *v = &fips_180[i];
        size_t one = strlen(v->message), size = one * v->repeat;
        uint8_t *message = malloc(size + 1), digest[32];

        if (message == NULL)
            exit(2);
        for (size_t r = 0; r < v->repeat; r++)
            memcpy(message + r * one, v->message, one);
        iomt_sha256(backend, message, size, digest);
        check(is_hex(digest, v->digest), backend, "FIPS 180 example", i);
        reference_sha256(-1, message, size, digest);
        check(is_hex(digest, v->digest), backend, "FIPS 180 example, reference", i);
        free(message);
    }
}

/* Records of the given sizes, each buffer ending at the guard page; `expected` byte for
 * byte from the reference. */
static void compare_leaves(const iomt_backend *backend, const struct guarded memory[3],
                           const size_t *sizes, size_t count, const char *what)
{
    uint64_t ends[MOST_RECORDS];
    uint8_t expected[32];
    size_t total = 0;

    for (size_t i = 0; i < count; i++)
        ends[i] = total += sizes[i];
    uint8_t *records = last(&memory[0], total);
    uint8_t *native_ends = last(&memory[1], count * 8);
    uint8_t *hashes = last(&memory[2], count * 32);

    fill(records, total);
    if (count > 0)
        memcpy(native_ends, ends, count * 8);
    memset(hashes, 0xee, count * 32);
    check(iomt_leaf_hashes(backend, records, total, native_ends, count, hashes) == count,
          backend, "ends are right", count);
    for (size_t i = 0; i < count; i++) {
        reference_sha256(0x00, records + ends[i] - sizes[i], sizes[i], expected);
        check(memcmp(hashes + 32 * i, expected, 32) == 0, backend, what, sizes[i]);
    }
}

/* Sizes around every edge of blocks and padding, numbers around the number of lanes. */
static void test_leaves_at_awkward_sizes(const iomt_backend *backend,
                                         const struct guarded memory[3])
{
    static const size_t awkward[] = {0,   1,   54,  55,  56,  62,  63,  64,  65,  118, 119,
                                     120, 125, 126, 127, 128, 181, 182, 183, 191, 192, 1000};
    const size_t kinds = sizeof awkward / sizeof awkward[0];
    size_t lanes = iomt_backend_lanes(backend);
    const size_t counts[] = {0, 1, lanes - 1, lanes, lanes + 1, 2 * lanes, 2 * lanes + 1};
    size_t sizes[MOST_RECORDS];

    for (size_t c = 0; c < sizeof counts / sizeof counts[0]; c++)
        for (size_t k = 0; k < kinds; k++) {
            for (size_t i = 0; i < counts[c]; i++)
                sizes[i] = awkward[k];
            compare_leaves(backend, memory, sizes, counts[c], "leaves of one size");
            for (size_t i = 0; i < counts[c]; i++)
                sizes[i] = awkward[(k + 7 * i) % kinds];
            compare_leaves(backend, memory, sizes, counts[c], "leaves of mixed sizes");
        }
    /* Every pair that shares the lanes, so each kind of message ends beside each other. */
    for (size_t a = 0; a < kinds; a++)
        for (size_t b = 0; b < kinds; b++) {
            const size_t pair[] = {awkward[a], awkward[b], awkward[b], awkward[a], awkward[a]};

            compare_leaves(backend, memory, pair, 5, "leaves in pairs");
        }
}

static void test_leaves_of_random_sizes(const iomt_backend *backend,
                                        const struct guarded memory[3])
{
    size_t sizes[MOST_RECORDS];

    for (int round = 0; round < 60; round++) {
        size_t count = next_random() % MOST_RECORDS;

        for (size_t i = 0; i < count; i++) {
            unsigned shape = (unsigned)(next_random() % 8);

            sizes[i] = next_random() % (shape == 0 ? 1500 : shape < 3 ? 300 : 80);
        }
        compare_leaves(backend, memory, sizes, count, "leaves of random sizes");
    }
}

/* A record right behind a closed page: nothing before it may be read either. */
static void test_leaf_at_the_start_of_memory(const iomt_backend *backend,
                                             const struct guarded memory[3])
{
    uint8_t *record = first(&memory[0]), hash[32], expected[32];

    for (uint64_t size = 0; size < 260; size++) {
        fill(record, size);
        check(iomt_leaf_hashes(backend, record, size, &size, 1, hash) == 1, backend, "one leaf",
              size);
        reference_sha256(0x00, record, size, expected);
        check(memcmp(hash, expected, 32) == 0, backend, "leaf after a closed page", size);
    }
}

static void test_wrong_ends_are_named(const iomt_backend *backend)
{
    static const struct {
        uint64_t ends[4];
        size_t wrong;
    } cases[] = {
        {{10, 20, 30, 40}, 4},           {{0, 0, 0, 40}, 4},
        {{10, 9, 30, 40}, 1},            {{10, 20, 30, 39}, 3},
        {{10, 20, 30, 41}, 3},           {{41, 40, 40, 40}, 0},
        {{10, UINT64_MAX, 30, 40}, 1},   {{10, 20, 1ull << 63, 40}, 2},
        {{10, 20, (1ull << 32) + 30, 40}, 2},
    };
    uint8_t records[40] = {0}, hashes[4 * 32];

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        check(iomt_leaf_hashes(backend, records, 40, cases[i].ends, 4, hashes) == cases[i].wrong,
              backend, "leaf_hashes names the wrong end", i);
        check(iomt_check_ends(cases[i].ends, 4, 40) == cases[i].wrong, backend,
              "check_ends names the wrong end", i);
    }
    check(iomt_leaf_hashes(backend, NULL, 0, NULL, 0, NULL) == 0, backend, "no record", 0);
}

static void test_roots(const iomt_backend *backend, const struct guarded memory[3])
{
    static const size_t large[] = {127, 255,  256,  257,  1000, 1023, 1024, 1025,
                                   1535, 2047, 2048, 2049, 3072, 3073, 4097, MOST_LEAVES};
    uint8_t root[32], expected[32];

    for (size_t n = 0; n < 70 + sizeof large / sizeof large[0]; n++) {
        size_t count = n < 70 ? n : large[n - 70];

        for (int side = 0; side < 2; side++) {
            uint8_t *leaves = side ? first(&memory[0]) : last(&memory[0], count * 32);

            fill(leaves, count * 32);
            iomt_tree_root(backend, leaves, count, root);
            reference_root(leaves, count, expected);
            check(memcmp(root, expected, 32) == 0, backend, "tree root", count);
        }
    }
}

/* ---- Batches ---- */

/* HMAC-SHA-256 (RFC 2104) of a short message under a key of 32 bytes. */
static void reference_hmac(const uint8_t key[32], const uint8_t *message, size_t size,
                           uint8_t digest[32])
{
    uint8_t inner[64 + 64], outer[64 + 32];

    for (int i = 0; i < 64; i++) {
        inner[i] = (uint8_t)((i < 32 ? key[i] : 0) ^ 0x36);
        outer[i] = (uint8_t)((i < 32 ? key[i] : 0) ^ 0x5c);
    }
    memcpy(inner + 64, message, size);
    reference_sha256(-1, inner, 64 + size, outer + 64);
    reference_sha256(-1, outer, sizeof outer, digest);
}

/* Commits of 1 to 40 records under three salt keys; all buffers end at a guard page. */
static void test_batches(const iomt_backend *backend, const struct guarded memory[3])
{
    for (size_t count = 1; count <= 40; count++) {
        uint64_t ends[40], index[1];
        uint32_t key_of[40];
        uint8_t keys[3 * 32], salted[40 * 200], digest[32], be[8], *records, *tree;
        size_t total = 0, width = 1;

        while (width < count)
            width *= 2;
        for (size_t i = 0; i < count; i++) {
            ends[i] = total += 16 + next_random() % 180;
            key_of[i] = (uint32_t)(next_random() % 3);
        }
        records = last(&memory[0], total);
        tree = last(&memory[2], (2 * width - 1) * 32);
        fill(keys, sizeof keys);
        fill(records, total);
        fill(tree, (2 * width - 1) * 32);
        memcpy(salted, records, total);
        check(iomt_batch(backend, records, total, ends, count, keys, 3, key_of, tree, width) ==
                  count, backend, "batch takes its records", count);
        for (size_t i = 0; i < count; i++) {
            size_t start = i > 0 ? ends[i - 1] : 0;

            for (int b = 0; b < 8; b++)
                be[b] = (uint8_t)((uint64_t)i >> (56 - 8 * b));
            reference_hmac(keys + 32 * key_of[i], be, 8, digest);
            check(memcmp(records + start, digest, 16) == 0, backend, "salt", i);
            memcpy(salted + start, digest, 16);
            reference_sha256(0x00, salted + start, ends[i] - start, digest);
            check(memcmp(tree + 32 * i, digest, 32) == 0, backend, "salted leaf", i);
        }
        check(memcmp(salted, records, total) == 0, backend, "only salts are written", count);
        reference_root(tree, width, digest);
        check(memcmp(tree + (2 * width - 2) * 32, digest, 32) == 0, backend, "batch root", count);
        index[0] = ends[count - 1];
        ends[count - 1] = total + 1;
        check(iomt_batch(backend, records, total, ends, count, keys, 3, key_of, tree, width) ==
                  count - 1, backend, "batch names a wrong end", count);
        ends[count - 1] = index[0];
        key_of[count / 2] = 3;
        check(iomt_batch(backend, records, total, ends, count, keys, 3, key_of, tree, width) ==
                  count / 2, backend, "batch names a wrong key", count);
    }
}

static void test_paths_and_ranges(const iomt_backend *backend)
{
    static uint8_t leaves[200 * 32];
    uint8_t range[(IOMT_RANGE_MAX + 1) * 32], path[64 * 32], root[32], expected[32];

    fill(leaves, sizeof leaves);
    for (size_t size = 0; size < 70; size += 1 + size / 20)
        for (size_t more = 0; more < 130; more += 1 + more / 9) {
            size_t held = iomt_extend_range(backend, 0, range, leaves, size);

            held = iomt_extend_range(backend, size, range, leaves + 32 * size, more);
            iomt_range_root(backend, range, held, root);
            reference_root(leaves, size + more, expected);
            check(memcmp(root, expected, 32) == 0, backend, "extended range", size + more);
        }
    for (size_t count = 1; count < 40; count++)
        for (size_t index = 0; index < count; index++) {
            size_t length = iomt_tree_path(backend, leaves, count, index, path);
            size_t at = index, end = count - 1, used = 0;
            uint8_t pair[64];

            /* RFC 9162 section 2.1.3.2. */
            memcpy(root, leaves + 32 * index, 32);
            for (; used < length; used++, at >>= 1, end >>= 1) {
                int is_right = (at & 1) || at == end;

                memcpy(pair + (is_right ? 32 : 0), root, 32);
                memcpy(pair + (is_right ? 0 : 32), path + 32 * used, 32);
                reference_sha256(0x01, pair, 64, root);
                while (is_right && !(at & 1) && at > 0)
                    at >>= 1, end >>= 1;
            }
            reference_root(leaves, count, expected);
            check(end == 0 && memcmp(root, expected, 32) == 0, backend, "path", count);
        }
}

/* ---- All backends against portable, on whatever comes ---- */

/* One try in a loop of `make fuzz`: any number of records of any sizes, at any alignment. */
static void fuzz_once(const iomt_backend *backend, const iomt_backend *portable)
{
    static uint8_t bytes[1 << 17], own[600 * 32], wanted[600 * 32];
    static uint64_t ends[600];
    size_t count = next_random() % (next_random() % 4 == 0 ? 600 : 70);
    size_t most = (size_t)1 << (next_random() % 11), shift = next_random() % 64, total = 0;

    for (size_t i = 0; i < count; i++) {
        size_t size = next_random() % 3 == 0 ? 64 : next_random() % most;

        ends[i] = total += total + size < (1 << 17) - 64 ? size : 0;
    }
    for (size_t i = 0; i < 64; i++)
        bytes[next_random() % sizeof bytes] = (uint8_t)next_random();
    iomt_leaf_hashes(portable, bytes + shift, total, ends, count, wanted);
    iomt_leaf_hashes(backend, bytes + shift, total, ends, count, own);
    check(memcmp(own, wanted, 32 * count) == 0, backend, "fuzz: leaf hashes", count);
    iomt_tree_root(portable, wanted, count, wanted);
    iomt_tree_root(backend, own, count, own);
    check(memcmp(own, wanted, 32) == 0, backend, "fuzz: root", count);
}

static void fuzz(unsigned long rounds, uint64_t seed)
{
    const iomt_backend *backend, *portable = NULL;
    iomt_choice choice;

    iomt_calibrate(&choice);
    for (size_t i = 0; (backend = iomt_backend_at(i)) != NULL; i++)
        portable = backend;
    random_state = seed;
    for (unsigned long round = 0; round < rounds && failed == 0; round++) {
        for (size_t i = 0; (backend = iomt_backend_at(i)) != NULL; i++)
            if (iomt_backend_usable(backend))
                fuzz_once(backend, portable);
        for (size_t i = 0; i < choice.count; i++)
            fuzz_once(choice.measured[i].backend, portable);
    }
    if (failed > 0)
        printf("seed %llu\n", (unsigned long long)seed);
}

static void test_calibration(const struct guarded memory[3])
{
    static iomt_choice choice;

    iomt_calibrate(&choice);
    check(choice.count > 0 && choice.failed_count == 0, iomt_backend_at(0), "self-tests", 0);
    for (size_t i = 0; i < choice.count; i++) {
        const iomt_measured *row = &choice.measured[i];

        check(row->fewest >= 1 && row->fewest <= row->backend->lanes, row->backend, "fewest", i);
        check(row->few == NULL || row->few->lanes < row->backend->lanes, row->backend,
              "who takes the few has fewer lanes", i);
        test_leaves_at_awkward_sizes(row->backend, memory);
        test_roots(row->backend, memory);
        test_batches(row->backend, memory);
        test_paths_and_ranges(row->backend);
    }
}

/* As wide as a backend may be, and content with idle lanes from 5 messages on: the way the
 * leaves are dealt to lanes is tested here even where no CPU is that wide. */
static void sixteen_lanes(uint32_t *state, const uint8_t *const *blocks, size_t count)
{
    for (size_t i = 0; i < IOMT_MAX_LANES; i++) {
        uint32_t own[8];

        for (size_t w = 0; w < 8; w++)
            own[w] = state[w * IOMT_MAX_LANES + i];
        for (size_t b = 0; b < count; b++)
            reference_block(own, blocks[i] + 64 * b);
        for (size_t w = 0; w < 8; w++)
            state[w * IOMT_MAX_LANES + i] = own[w];
    }
}

static void one_lane(uint32_t state[8], const uint8_t *blocks, size_t count)
{
    for (size_t b = 0; b < count; b++)
        reference_block(state, blocks + 64 * b);
}

static void reference_nodes(const uint8_t *children, size_t count, uint8_t *parents)
{
    for (size_t i = 0; i < count; i++) {
        uint8_t pair[64];

        memcpy(pair, children + 64 * i, 64);
        reference_sha256(0x01, pair, 64, parents + 32 * i);
    }
}

static const iomt_backend wide = {
    .name = "sixteen lanes of the reference",
    .lanes = IOMT_MAX_LANES,
    .fewest = 5,
    .compress = sixteen_lanes,
    .compress_one = one_lane,
};

/* The same with one bit wrong in one lane: what the self-test is there for. */
static void fifteen_right_lanes(uint32_t *state, const uint8_t *const *blocks, size_t count)
{
    sixteen_lanes(state, blocks, count);
    state[7 * IOMT_MAX_LANES + 11] ^= 1;
}

static const iomt_backend wrong = {
    .name = "a wrong lane",
    .lanes = IOMT_MAX_LANES,
    .fewest = 5,
    .compress = fifteen_right_lanes,
    .compress_one = one_lane,
    .nodes = reference_nodes,
};

/* `test_core [ROUNDS [SEED]]`: with arguments, so many rounds of comparing instead. */
int main(int words, char **word)
{
    const struct guarded memory[3] = {
        guarded_memory(MOST_BYTES),
        guarded_memory(MOST_RECORDS * 8),
        guarded_memory(MOST_RECORDS * 32),
    };
    const iomt_backend *backend;

    make_reference();
    if (words > 1) {
        fuzz(strtoul(word[1], NULL, 10), words > 2 ? strtoull(word[2], NULL, 10) : 1);
        printf("%lu passed, %lu failed\n", passed, failed);
        return failed > 0;
    }
    for (size_t i = 0; (backend = iomt_backend_at(i)) != NULL; i++) {
        if (!iomt_backend_usable(backend)) {
            printf("%s: not usable on this CPU\n", iomt_backend_name(backend));
            continue;
        }
        printf("%s\n", iomt_backend_name(backend));
        random_state = 0x9e3779b97f4a7c15;
        test_published_digests(backend);
        test_leaves_at_awkward_sizes(backend, memory);
        test_leaves_of_random_sizes(backend, memory);
        test_leaf_at_the_start_of_memory(backend, memory);
        test_wrong_ends_are_named(backend);
        test_roots(backend, memory);
        test_batches(backend, memory);
        test_paths_and_ranges(backend);
        check(iomt_self_test(backend), backend, "self-test", 0);
    }
    test_calibration(memory);
    fuzz(300, 0x9e3779b97f4a7c15);
    random_state = 0x9e3779b97f4a7c15;
    test_leaves_at_awkward_sizes(&wide, memory);
    test_leaves_of_random_sizes(&wide, memory);
    test_wrong_ends_are_named(&wide);
    check(!iomt_self_test(&wrong), &wrong, "a wrong backend fails its self-test", 0);
    printf("%lu passed, %lu failed\n", passed, failed);
    return failed > 0;
}
