/* Ed25519 without Python, for sanitizers, valgrind and other machines.
 *
 *   test_ed25519 vectors FILE...   files of tests/vectors/ed25519: every backend of this CPU,
 *                                  one and many, prepared or not, must give their answers
 *   test_ed25519 once FILE...      the same, but each answer once for each backend: for many
 *   test_ed25519 commands          reads commands, answers each in a line of hexadecimal or
 *                                  "?": a test written in Python compares with its integers
 *
 * The last line of the first two says how many checks passed and failed. What goes to many
 * verifications ends at a page that nobody may touch. */
#define _DEFAULT_SOURCE /* mmap's MAP_ANONYMOUS */

#include "commands.h"
#include "ed25519_relation.h"
#include "iomt_core.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MOST_ARGUMENTS 6
#define MOST_LINE (1 << 16)
#define MOST_ITEMS 1024

/* ---- Hexadecimal ---- */

static int nibble(int c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return -1;
}

/* "-" is no byte at all. The bytes are the caller's to free. */
static struct argument parse(const char *text)
{
    size_t size = strcmp(text, "-") == 0 ? 0 : strlen(text) / 2;
    uint8_t *bytes = malloc(size == 0 ? 1 : size);

    if (bytes == NULL)
        exit(2);
    for (size_t i = 0; i < size; i++) {
        int high = nibble(text[2 * i]), low = nibble(text[2 * i + 1]);

        if (high < 0 || low < 0) {
            fprintf(stderr, "not hexadecimal: %s\n", text);
            exit(2);
        }
        bytes[i] = (uint8_t)(high << 4 | low);
    }
    return (struct argument){bytes, size};
}

static void release(const struct argument *arguments, size_t count)
{
    for (size_t i = 0; i < count; i++)
        free((void *)(uintptr_t)arguments[i].bytes);
}

/* The words of a line up to a '#', at most MOST_ARGUMENTS. */
static size_t split(char *line, char *words[MOST_ARGUMENTS])
{
    size_t count = 0;
    char *comment = strchr(line, '#');

    if (comment != NULL)
        *comment = '\0';
    for (char *word = strtok(line, " \n"); word != NULL && count < MOST_ARGUMENTS;
         word = strtok(NULL, " \n"))
        words[count++] = word;
    return count;
}

/* ---- Commands ---- */

static void *room(size_t size)
{
    void *memory = malloc(size == 0 ? 1 : size);

    if (memory == NULL)
        exit(2);
    return memory;
}

static int scalar_of(struct iomt_scalar *scalar, const struct argument *argument)
{
    return argument->size == 32 && iomt_scalar_decode(scalar, argument->bytes);
}

static size_t scalar_command(const char *name, const struct argument *arguments, size_t count,
                             uint8_t *reply)
{
    struct iomt_scalar a, b, c;

    if (count == 1 && strcmp(name, "reduce") == 0 && arguments[0].size == 64) {
        iomt_scalar_reduce_secret(&a, arguments[0].bytes);
        iomt_scalar_encode(&a, reply);
        return 32;
    }
    if (count == 1 && strcmp(name, "decode") == 0 && arguments[0].size == 32) {
        reply[0] = (uint8_t)iomt_scalar_decode(&a, arguments[0].bytes);
        return 1;
    }
    if (count == 1 && strcmp(name, "radix16") == 0 && scalar_of(&a, &arguments[0])) {
        iomt_scalar_radix16(&a, (int8_t *)reply);
        return 64;
    }
    if (count == 1 && strcmp(name, "radix32") == 0 && scalar_of(&a, &arguments[0])) {
        iomt_scalar_radix32(&a, (int8_t *)reply);
        return IOMT_COMB_PLACES;
    }
    if (count == 1 && strcmp(name, "relation") == 0 && scalar_of(&a, &arguments[0])) {
        struct iomt_relation relation;

        iomt_ed25519_relation(&relation, &a);
        iomt_scalar_encode(&relation.u, reply);
        iomt_scalar_encode(&relation.v, reply + 32);
        reply[64] = (uint8_t)relation.negative;
        return 65;
    }
    if (count == 3 && strcmp(name, "muladd") == 0 && scalar_of(&a, &arguments[0]) &&
        scalar_of(&b, &arguments[1]) && scalar_of(&c, &arguments[2])) {
        iomt_scalar_muladd_secret(&a, &a, &b, &c);
        iomt_scalar_encode(&a, reply);
        return 32;
    }
    return 0;
}

static size_t inverse_command(const struct argument *number, uint8_t *reply)
{
    struct iomt_packed a;

    if (number->size != 32)
        return 0;
    for (int i = 0; i < 4; i++)
        a.words[i] = iomt_load_le64(number->bytes + 8 * i);
    iomt_invert_secret(&a, &a);
    for (int i = 0; i < 4; i++)
        iomt_store_le64(reply + 8 * i, a.words[i]);
    return 32;
}

/* In two parts, the first of `at` bytes. */
static size_t hash_command(const struct argument *message, size_t at, uint8_t *reply)
{
    struct iomt_sha512 hash;

    iomt_sha512_start(&hash);
    iomt_sha512_add(&hash, message->bytes, at);
    iomt_sha512_add(&hash, message->bytes + at, message->size - at);
    iomt_sha512_end(&hash, reply);
    return IOMT_SHA512_SIZE;
}

/* Without a prepared key: yes to this encoding, no to others. */
static int is_only_difference(const struct iomt_curve *curve, const uint8_t right[32],
                              const struct iomt_scalar *s, const struct iomt_scalar *k,
                              const struct iomt_packed *x, const struct iomt_packed *y)
{
    int holds = curve->is_difference(right, s, k, x, y);
    uint8_t spoilt[32];

    for (int bit = 255; bit >= 0; bit -= 51) {
        memcpy(spoilt, right, 32);
        spoilt[bit / 8] ^= (uint8_t)(1 << bit % 8);
        holds = holds && !curve->is_difference(spoilt, s, k, x, y);
    }
    return holds;
}

/* The check without inversion agrees: yes to this encoding with its x, no to x + p (where
 * that fits), to another x, sign or y. */
static int checks_itself(const struct iomt_curve *curve, const uint8_t right[32],
                         const struct iomt_scalar *s, const struct iomt_scalar *k,
                         const iomt_ed25519_prepared *prepared)
{
    struct iomt_packed x, y, other;
    uint8_t spoilt[32];
    int holds = curve->decode_key(&x, &y, right);

    holds = holds && curve->is_difference_prepared(right, &x, s, k, prepared);
    for (int bit = 0; bit < 256; bit += 5) {
        other = x;
        other.words[bit / 64] ^= UINT64_C(1) << bit % 64;
        holds = holds && !curve->is_difference_prepared(right, &other, s, k, prepared);
        memcpy(spoilt, right, 32);
        spoilt[bit / 8] ^= (uint8_t)(1 << bit % 8);
        holds = holds && !curve->is_difference_prepared(spoilt, &x, s, k, prepared);
    }
    return holds;
}

/* The same check in lanes, of every backend that has one, made with this curve. */
static int checks_in_lanes(const struct iomt_curve *curve, const uint8_t right[32],
                           const struct iomt_scalar *s, const struct iomt_scalar *k,
                           const uint8_t key[32])
{
    struct iomt_ed25519_check *check = room(sizeof *check);
    const iomt_ed25519_backend *backend;
    struct iomt_packed x, y, other;
    struct iomt_scalar wrong;
    uint8_t spoilt[32];
    int holds = curve->decode_key(&x, &y, right);

    iomt_ed25519_make_check(curve, check, key);
    holds = holds && check->is_ready == 1;
    for (size_t i = 0; (backend = iomt_ed25519_backend_at(i)) != NULL; i++) {
        if (!iomt_ed25519_backend_usable(backend) || backend->is_difference == NULL)
            continue;
        holds = holds && backend->is_difference(right, &x, s, k, check);
        for (int bit = 0; bit < 256; bit += 5) {
            const uint64_t flip = UINT64_C(1) << bit % 64;

            other = x;
            other.words[bit / 64] ^= flip;
            holds = holds && !backend->is_difference(right, &other, s, k, check);
            memcpy(spoilt, right, 32);
            spoilt[bit / 8] ^= (uint8_t)(1 << bit % 8);
            holds = holds && !backend->is_difference(spoilt, &x, s, k, check);
            if (bit < 252) { /* stays a scalar of 64 digits */
                wrong = *s;
                wrong.words[bit / 64] ^= flip;
                holds = holds && !backend->is_difference(right, &x, &wrong, k, check);
            }
        }
    }
    free(check);
    return holds;
}

/* difference R KEY S K: whether R is the encoding of [S] B - [K] A. */
static size_t judge_difference(const struct iomt_curve *curve, const struct argument *arguments,
                               uint8_t *reply)
{
    struct iomt_packed x, y;
    struct iomt_scalar s, k;

    if (arguments[0].size != 32 || arguments[1].size != 32 || !scalar_of(&s, &arguments[2]) ||
        !scalar_of(&k, &arguments[3]))
        return 0;
    reply[0] = (uint8_t)(curve->decode_key(&x, &y, arguments[1].bytes) &&
                         curve->is_difference(arguments[0].bytes, &s, &k, &x, &y));
    return 1;
}

/* base S: [S] B. difference S K KEY: [S] B - [K] A, where all ways agree on it. */
static size_t curve_command(const struct iomt_curve *curve, const char *name,
                            const struct argument *arguments, size_t count, uint8_t *reply)
{
    struct iomt_scalar s, k;
    struct iomt_packed x, y;
    iomt_ed25519_prepared *prepared;

    if (count == 4 && strcmp(name, "difference") == 0)
        return judge_difference(curve, arguments, reply);
    if (count < 1 || !scalar_of(&s, &arguments[0]))
        return 0;
    if (count == 1 && strcmp(name, "base") == 0) {
        curve->encode_base_multiple_secret(reply, &x, &s);
        return 32;
    }
    if (count != 3 || strcmp(name, "difference") != 0 || !scalar_of(&k, &arguments[1]) ||
        arguments[2].size != 32)
        return 0;
    prepared = malloc(sizeof *prepared);
    if (prepared == NULL)
        exit(2);
    if (curve->decode_key(&x, &y, arguments[2].bytes) !=
        curve->prepare(prepared, arguments[2].bytes)) {
        free(prepared);
        return 0;
    }
    if (prepared->is_point) {
        curve->encode_difference_prepared(reply, &s, &k, prepared);
        if (!is_only_difference(curve, reply, &s, &k, &x, &y) ||
            !checks_itself(curve, reply, &s, &k, prepared) ||
            !checks_in_lanes(curve, reply, &s, &k, arguments[2].bytes))
            memset(reply, 0xee, 32);
    } else {
        memset(reply, 0, 32);
    }
    free(prepared);
    return 32;
}

static size_t answer(const char *where, const char *name, const struct argument *arguments,
                     size_t count, uint8_t *reply)
{
    if (strcmp(where, "field51") == 0)
        return field51_command(name, arguments, count, reply);
    if (strcmp(where, "field-adx") == 0)
        return field_adx_command(name, arguments, count, reply);
    if (strcmp(where, "scalar") == 0)
        return scalar_command(name, arguments, count, reply);
    if (strcmp(where, "inverse") == 0 && count == 1)
        return inverse_command(&arguments[0], reply);
    if (strcmp(where, "sha512") == 0 && count == 1)
        return hash_command(&arguments[0], (size_t)atoi(name), reply);
    if (strcmp(where, "curve51") == 0)
        return curve_command(&iomt_curve51, name, arguments, count, reply);
#if defined(__x86_64__)
    if (strcmp(where, "curve-adx") == 0 &&
        (~iomt_cpu_features() & (IOMT_CPU_ADX | IOMT_CPU_AVX2)) == 0)
        return curve_command(&iomt_curve_adx, name, arguments, count, reply);
#endif
    return 0;
}

static int run_commands(void)
{
    static char line[MOST_LINE];
    char *words[MOST_ARGUMENTS];

    while (fgets(line, sizeof line, stdin) != NULL) {
        struct argument arguments[MOST_ARGUMENTS];
        uint8_t reply[MOST_REPLY];
        size_t count = split(line, words), size;

        if (count < 2)
            return 2;
        for (size_t i = 2; i < count; i++)
            arguments[i - 2] = parse(words[i]);
        size = answer(words[0], words[1], arguments, count - 2, reply);
        for (size_t i = 0; i < size; i++)
            printf("%02x", reply[i]);
        puts(size == 0 ? "?" : "");
        release(arguments, count - 2);
    }
    return 0;
}

/* ---- Vectors ---- */

static unsigned long passed, failed;

static void check(int holds, const iomt_ed25519_backend *backend, const char *what,
                  size_t line)
{
    if (holds) {
        passed++;
        return;
    }
    failed++;
    printf("FAILED %s: %s, vector %zu\n", iomt_ed25519_backend_name(backend), what, line);
}

/* `answer key message signature`, or `seed key message signature`: one that must verify and
 * that the seed must make. */
struct vector {
    struct argument seed, key, message, signature;
    int good;
};

static size_t read_vectors(const char *path, struct vector vectors[MOST_ITEMS])
{
    static char line[MOST_LINE];
    char *words[MOST_ARGUMENTS];
    FILE *file = fopen(path, "r");
    size_t count = 0;

    if (file == NULL) {
        perror(path);
        exit(2);
    }
    while (fgets(line, sizeof line, file) != NULL && count < MOST_ITEMS) {
        size_t found = split(line, words);
        struct vector *v = &vectors[count];

        if (found == 0)
            continue;
        if (found != 4) {
            fprintf(stderr, "%s: not a vector\n", path);
            exit(2);
        }
        v->seed = strlen(words[0]) > 1 ? parse(words[0]) : (struct argument){NULL, 0};
        v->good = v->seed.size > 0 || words[0][0] == '1';
        v->key = parse(words[1]);
        v->message = parse(words[2]);
        v->signature = parse(words[3]);
        if (v->key.size == 32 && v->signature.size == 64)
            count++;
        else /* a wrong length never reaches the core */
            release((struct argument[]){v->seed, v->key, v->message, v->signature}, 4);
    }
    fclose(file);
    return count;
}

/* Room that ends at a page which must not be touched; `size` bytes of one mapping, which is
 * kept until the end. A place is one of the buffers of a call. */
#define PLACES 5
#define MOST_ROOM (1u << 20)

static uint8_t *guarded(size_t place, size_t size)
{
    static uint8_t *ends[PLACES];

    if (ends[place] == NULL) {
        size_t page = (size_t)sysconf(_SC_PAGESIZE);
        uint8_t *at = mmap(NULL, MOST_ROOM + page, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        if (at == MAP_FAILED || mprotect(at + MOST_ROOM, page, PROT_NONE) != 0) {
            perror("guard page");
            exit(2);
        }
        ends[place] = at + MOST_ROOM;
    }
    if (size > MOST_ROOM)
        exit(2);
    return ends[place] - size;
}

static void test_signing(const iomt_ed25519_backend *backend, const struct vector *v, size_t at)
{
    iomt_ed25519_signer *signer = room(iomt_ed25519_signer_size());
    uint8_t key[32], signature[64];

    iomt_ed25519_start_signer(backend, signer, v->seed.bytes);
    iomt_ed25519_signer_key(signer, key);
    check(memcmp(key, v->key.bytes, 32) == 0, backend, "public key", at);
    check(iomt_ed25519_sign(backend, signer, v->message.bytes, v->message.size, signature) == 1,
          backend, "a signature is made", at);
    check(memcmp(signature, v->signature.bytes, 64) == 0, backend, "signature", at);

    check(faults_that_pass(backend, v->key.bytes, v->message.bytes, v->message.size,
                           v->signature.bytes) == 0,
          backend, "no single fault passes the check", at);
    check(damaged_keys_that_sign(backend, signer, v->message.bytes, v->message.size) == 0,
          backend, "a damaged copy of the public key signs nothing", at);

    /* A key whose secret half was damaged must not give out what it makes. */
    *(uint8_t *)signer ^= 1;
    check(iomt_ed25519_sign(backend, signer, v->message.bytes, v->message.size, signature) == 0,
          backend, "a damaged key signs nothing", at);
    for (size_t i = 0; i < sizeof signature; i++)
        check(signature[i] == 0, backend, "nothing of a bad signature is left", at);
    iomt_ed25519_wipe_signer(signer);
    for (size_t i = 0; i < iomt_ed25519_signer_size(); i++)
        check(((uint8_t *)signer)[i] == 0, backend, "a signer is wiped", at);
    free(signer);
}

static void test_one_by_one(const iomt_ed25519_backend *backend, const struct vector *vectors,
                            size_t count, iomt_ed25519_prepared **prepared)
{
    for (size_t i = 0; i < count; i++) {
        const struct vector *v = &vectors[i];

        for (int ready = 0; ready < 2; ready++)
            check(iomt_ed25519_verify(backend, v->key.bytes, ready ? prepared[i] : NULL,
                                      v->message.bytes, v->message.size,
                                      v->signature.bytes) == v->good,
                  backend, ready ? "one, prepared" : "one", i);
        check(iomt_ed25519_verify(backend, v->key.bytes, prepared[(i + 1) % count],
                                  v->message.bytes, v->message.size,
                                  v->signature.bytes) == v->good,
              backend, "one, with another's prepared key", i);
        if (v->seed.size == 32) {
            test_signing(backend, v, i);
            check(!leaves_secrets(backend, v->seed.bytes, v->message.bytes, v->message.size),
                  backend, "no secret is left on the stack", i);
        }
    }
}

/* `count` of the vectors from `first` on, turning; every third is prepared or none or all. */
static void test_together(const iomt_ed25519_backend *backend, const struct vector *vectors,
                          size_t all, size_t first, size_t count, int ready,
                          iomt_ed25519_prepared **prepared)
{
    uint8_t *keys = guarded(0, 32 * count), *signatures = guarded(1, 64 * count);
    uint8_t *answers = guarded(2, count), *ends = guarded(3, 8 * count), *messages;
    const iomt_ed25519_prepared **known = room(count * sizeof *known);
    uint64_t size = 0;

    for (size_t i = 0; i < count; i++)
        size += vectors[(first + i) % all].message.size;
    messages = guarded(4, size);
    size = 0;
    for (size_t i = 0; i < count; i++) {
        size_t at = (first + i) % all;
        const struct vector *v = &vectors[at];

        memcpy(keys + 32 * i, v->key.bytes, 32);
        memcpy(signatures + 64 * i, v->signature.bytes, 64);
        memcpy(messages + size, v->message.bytes, v->message.size);
        size += v->message.size;
        memcpy(ends + 8 * i, &size, 8);
        known[i] = ready == 2 || (ready == 1 && i % 3 == 0) ? prepared[at] : NULL;
    }
    memset(answers, 7, count);
    check(iomt_ed25519_verify_many(backend, keys, ready ? known : NULL, messages, size, ends,
                                   count, signatures, answers) == count,
          backend, "ends are right", count);
    for (size_t i = 0; i < count; i++)
        check(answers[i] == vectors[(first + i) % all].good, backend, "many", (first + i) % all);
    free(known);
}

static void test_wrong_ends(const iomt_ed25519_backend *backend, const struct vector *v)
{
    static const struct {
        uint64_t ends[3];
        size_t wrong;
    } cases[] = {{{1, 2, 3}, 3}, {{2, 1, 3}, 1}, {{1, 2, 2}, 2}, {{1, 4, 3}, 1},
                 {{1, 2, 4}, 2}, {{UINT64_MAX, 2, 3}, 0}};
    uint8_t keys[96], signatures[192], answers[3], messages[3] = {0};

    for (size_t i = 0; i < 3; i++) {
        memcpy(keys + 32 * i, v->key.bytes, 32);
        memcpy(signatures + 64 * i, v->signature.bytes, 64);
    }
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        check(iomt_ed25519_verify_many(backend, keys, NULL, messages, 3, cases[i].ends, 3,
                                       signatures, answers) == cases[i].wrong,
              backend, "the wrong end is named", i);
    check(iomt_ed25519_verify_many(backend, NULL, NULL, NULL, 0, NULL, 0, NULL, NULL) == 0,
          backend, "no signature", 0);
}

static void test_vectors(const iomt_ed25519_backend *backend, const struct vector *vectors,
                         size_t count)
{
    iomt_ed25519_prepared **prepared = room(count * sizeof *prepared);
    static const size_t counts[] = {1, 2, 3, 7, 8, 9, 15, 16, 17, 63, 64, 65, 129};

    for (size_t i = 0; i < count; i++) {
        prepared[i] = room(iomt_ed25519_prepared_size());
        iomt_ed25519_prepare(backend, prepared[i], vectors[i].key.bytes);
    }
    test_one_by_one(backend, vectors, count, prepared);
    test_wrong_ends(backend, &vectors[0]);
    for (size_t c = 0; c < sizeof counts / sizeof counts[0]; c++)
        for (int ready = 0; ready < 3; ready++)
            test_together(backend, vectors, count, 31 * c, counts[c], ready, prepared);
    test_together(backend, vectors, count, 0, count, 1, prepared);
    for (size_t i = 0; i < count; i++)
        free(prepared[i]);
    free(prepared);
}

/* In batches of several sizes, of prepared keys, of others, and of both. */
static void test_once(const iomt_ed25519_backend *backend, const struct vector *vectors,
                      size_t count)
{
    static const size_t sizes[] = {64, 1, 65, 2, 7, 500, 3};
    iomt_ed25519_prepared **prepared = room(count * sizeof *prepared);
    size_t taken, batch = 0;

    for (size_t i = 0; i < count; i++) {
        prepared[i] = room(iomt_ed25519_prepared_size());
        iomt_ed25519_prepare(backend, prepared[i], vectors[i].key.bytes);
    }
    for (size_t at = 0; at < count; at += taken, batch++) {
        taken = sizes[batch % (sizeof sizes / sizeof sizes[0])];
        taken = taken < count - at ? taken : count - at;
        test_together(backend, vectors, count, at, taken, (int)(batch % 3), prepared);
    }
    for (size_t i = 0; i < count; i++)
        free(prepared[i]);
    free(prepared);
}

int main(int count, char **words)
{
    static struct vector vectors[MOST_ITEMS];
    const iomt_ed25519_backend *backend;
    int once;

    if (count == 2 && strcmp(words[1], "commands") == 0)
        return run_commands();
    once = count > 1 && strcmp(words[1], "once") == 0;
    if (count < 3 || (!once && strcmp(words[1], "vectors") != 0)) {
        fprintf(stderr, "usage: test_ed25519 vectors FILE... | once FILE... | commands\n");
        return 2;
    }
    for (int file = 2; file < count; file++) {
        size_t found = read_vectors(words[file], vectors);

        for (size_t i = 0; (backend = iomt_ed25519_backend_at(i)) != NULL; i++) {
            if (!iomt_ed25519_backend_usable(backend)) {
                printf("%s: not usable on this CPU\n", iomt_ed25519_backend_name(backend));
                continue;
            }
            printf("%s: %zu vectors of %s\n", iomt_ed25519_backend_name(backend), found,
                   words[file]);
            if (once)
                test_once(backend, vectors, found);
            else
                test_vectors(backend, vectors, found);
        }
        for (size_t i = 0; i < found; i++)
            release((struct argument[]){vectors[i].seed, vectors[i].key, vectors[i].message,
                                        vectors[i].signature}, 4);
    }
    printf("%lu passed, %lu failed\n", passed, failed);
    return failed > 0;
}
