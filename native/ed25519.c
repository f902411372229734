/* Ed25519: keys, signing, verifying one and many, and the table of ways to verify many.
 *
 * Signing is in constant time. What it makes public is passed to PUBLISHED at the place where
 * it becomes so: the public key, R and S. A test builds this file with IOMT_TRACK_SECRETS,
 * marks the seed undefined under valgrind, and then no branch and no address may depend on
 * it until there. */
#include "ed25519.h"

#include "bytes.h"

#include <string.h>

#ifdef IOMT_TRACK_SECRETS
#include <valgrind/memcheck.h>
#define PUBLISHED(memory, size) (void)VALGRIND_MAKE_MEM_DEFINED(memory, size)
#else
#define PUBLISHED(memory, size) ((void)0)
#endif

struct iomt_ed25519_signer {
    struct iomt_scalar scalar; /* a, modulo L: B has that order */
    uint8_t prefix[32];        /* what nonces are made of */
    uint8_t key[IOMT_ED25519_KEY_SIZE]; /* what is signed with; the check has its own copy */
    struct iomt_ed25519_prepared prepared;
    struct iomt_ed25519_check check; /* only if the backend that started it uses one */
};

void iomt_wipe(void *memory, size_t size)
{
    memset(memory, 0, size);
    /* Says that the memory is read afterwards, so the line above cannot be left out. */
    __asm__ volatile("" : : "r"(memory) : "memory");
}

#define BELOW_SIZE 8192 /* signing uses less than half of it */

/* What functions that have returned left on the stack: partial sums, digits, hashes. */
static __attribute__((noinline)) void wipe_stack_below(void)
{
    uint8_t below[BELOW_SIZE];

    iomt_wipe(below, sizeof below);
}

/* ---- Signing ---- */

size_t iomt_ed25519_signer_size(void)
{
    return sizeof(struct iomt_ed25519_signer);
}

/* The base point's negative, whose comb is that of B. */
static const uint8_t minus_base[IOMT_ED25519_KEY_SIZE] = {
    0x58, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66,
    0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66,
    0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0xe6};

void iomt_ed25519_make_check(const struct iomt_curve *curve, struct iomt_ed25519_check *check,
                             const uint8_t key[IOMT_ED25519_KEY_SIZE])
{
    const int made = curve->make_comb(check->base, minus_base);

    check->is_ready = (uint64_t)(curve->make_comb(check->key, key) && made);
}

void iomt_ed25519_start_signer(const iomt_ed25519_backend *backend, iomt_ed25519_signer *signer,
                               const uint8_t seed[IOMT_ED25519_SEED_SIZE])
{
    struct iomt_sha512 hash;
    struct iomt_packed x;
    uint8_t digest[IOMT_SHA512_SIZE], wide[64] = {0}, key[IOMT_ED25519_KEY_SIZE];

    iomt_sha512_start(&hash);
    iomt_sha512_add(&hash, seed, IOMT_ED25519_SEED_SIZE);
    iomt_sha512_end(&hash, digest);
    memcpy(signer->prefix, digest + 32, sizeof signer->prefix);
    memcpy(wide, digest, 32);
    wide[0] &= 0xf8; /* RFC 8032 5.1.5: a multiple of 8, with bit 254 as the highest */
    wide[31] &= 0x7f;
    wide[31] |= 0x40;
    iomt_scalar_reduce_secret(&signer->scalar, wide);
    backend->curve->encode_base_multiple_secret(key, &x, &signer->scalar);
    PUBLISHED(key, sizeof key);
    memcpy(signer->key, key, sizeof signer->key);
    backend->curve->prepare(&signer->prepared, key);
    signer->check.is_ready = 0;
    if (backend->is_difference != NULL)
        iomt_ed25519_make_check(backend->curve, &signer->check, key);
    iomt_wipe(&hash, sizeof hash);
    iomt_wipe(digest, sizeof digest);
    iomt_wipe(wide, sizeof wide);
    wipe_stack_below();
}

void iomt_ed25519_wipe_signer(iomt_ed25519_signer *signer)
{
    iomt_wipe(signer, sizeof *signer);
}

void iomt_ed25519_signer_key(const iomt_ed25519_signer *signer,
                             uint8_t public_key[IOMT_ED25519_KEY_SIZE])
{
    memcpy(public_key, signer->key, IOMT_ED25519_KEY_SIZE);
}

static int is_difference(const iomt_ed25519_backend *backend, const iomt_ed25519_signer *signer,
                         const uint8_t r[32], const struct iomt_packed *x,
                         const struct iomt_scalar *s, const struct iomt_scalar *k)
{
    if (backend->is_difference != NULL && signer->check.is_ready)
        return backend->is_difference(r, x, s, k, &signer->check);
    return signer->prepared.is_point &&
           backend->curve->is_difference_prepared(r, x, s, k, &signer->prepared);
}

int iomt_ed25519_sign(const iomt_ed25519_backend *backend, const iomt_ed25519_signer *signer,
                      const uint8_t *message, size_t size,
                      uint8_t signature[IOMT_ED25519_SIGNATURE_SIZE])
{
    struct iomt_sha512 hash;
    struct iomt_scalar nonce, k, s;
    struct iomt_packed x;
    uint8_t digest[IOMT_SHA512_SIZE];
    int good;

    iomt_sha512_start(&hash);
    iomt_sha512_add(&hash, signer->prefix, sizeof signer->prefix);
    iomt_sha512_add(&hash, message, size);
    iomt_sha512_end(&hash, digest);
    iomt_scalar_reduce_secret(&nonce, digest);
    backend->curve->encode_base_multiple_secret(signature, &x, &nonce);
    PUBLISHED(signature, 32);
    PUBLISHED(&x, sizeof x);
    iomt_ed25519_challenge(&k, signature, signer->key, message, size);
    iomt_scalar_muladd_secret(&s, &k, &signer->scalar, &nonce);
    iomt_scalar_encode(&s, signature + 32);
    PUBLISHED(signature + 32, 32);
    iomt_wipe(&hash, sizeof hash);
    iomt_wipe(&nonce, sizeof nonce);
    iomt_wipe(digest, sizeof digest);
    wipe_stack_below();

    /* From the bytes that go out: a new challenge, S as it is read again. With another copy
     * of the key: two signatures over one message, one of them with a damaged key in the
     * challenge, would give the secret half away. */
    iomt_ed25519_challenge(&k, signature, signer->prepared.key, message, size);
    good = iomt_scalar_decode(&s, signature + 32) &&
           is_difference(backend, signer, signature, &x, &s, &k);
    if (!good)
        iomt_wipe(signature, IOMT_ED25519_SIGNATURE_SIZE);
    return good;
}

/* ---- Verifying one ---- */

int iomt_ed25519_verify_item(const struct iomt_curve *curve,
                             const struct iomt_ed25519_item *item)
{
    struct iomt_scalar s, k;
    struct iomt_packed x, y;
    uint8_t encoded[32];

    if (!iomt_scalar_decode(&s, item->signature + 32))
        return 0;
    if (item->prepared != NULL) {
        if (!item->prepared->is_point)
            return 0;
    } else if (!curve->decode_key(&x, &y, item->key)) {
        return 0;
    }
    iomt_ed25519_challenge(&k, item->signature, item->key, item->message, item->size);
    if (item->prepared == NULL)
        return curve->is_difference(item->signature, &s, &k, &x, &y);
    curve->encode_difference_prepared(encoded, &s, &k, item->prepared);
    return memcmp(encoded, item->signature, sizeof encoded) == 0;
}

size_t iomt_ed25519_prepared_size(void)
{
    return sizeof(iomt_ed25519_prepared);
}

/* A prepared key is used only for the key that it was made of. */
static const iomt_ed25519_prepared *same_key(const iomt_ed25519_prepared *prepared,
                                             const uint8_t *key)
{
    if (prepared != NULL && memcmp(prepared->key, key, IOMT_ED25519_KEY_SIZE) != 0)
        return NULL;
    return prepared;
}

int iomt_ed25519_prepare(const iomt_ed25519_backend *backend, iomt_ed25519_prepared *prepared,
                         const uint8_t public_key[IOMT_ED25519_KEY_SIZE])
{
    return backend->curve->prepare(prepared, public_key);
}

int iomt_ed25519_verify(const iomt_ed25519_backend *backend,
                        const uint8_t public_key[IOMT_ED25519_KEY_SIZE],
                        const iomt_ed25519_prepared *prepared, const uint8_t *message,
                        size_t size, const uint8_t signature[IOMT_ED25519_SIGNATURE_SIZE])
{
    const struct iomt_ed25519_item item = {public_key, signature, message, size,
                                           same_key(prepared, public_key)};
    uint8_t answer;

    backend->verify(&item, 1, &answer);
    return answer;
}

/* ---- Verifying many ---- */

static void verify_portable(const struct iomt_ed25519_item *items, size_t count,
                            uint8_t *answers)
{
    for (size_t i = 0; i < count; i++)
        answers[i] = (uint8_t)iomt_ed25519_verify_item(&iomt_curve51, &items[i]);
}

static const iomt_ed25519_backend portable = {
    .name = "portable",
    .lanes = 1,
    .curve = &iomt_curve51,
    .verify = verify_portable,
};

#if defined(__x86_64__)
static void verify_adx(const struct iomt_ed25519_item *items, size_t count, uint8_t *answers)
{
    for (size_t i = 0; i < count; i++)
        answers[i] = (uint8_t)iomt_ed25519_verify_item(&iomt_curve_adx, &items[i]);
}

static const iomt_ed25519_backend adx = {
    .name = "adx",
    .needs = IOMT_CPU_ADX | IOMT_CPU_AVX2,
    .lanes = 1,
    .curve = &iomt_curve_adx,
    .verify = verify_adx,
};
#endif

/* Order is preference: best first, portable last. */
static const iomt_ed25519_backend *const table[] = {
#if defined(__x86_64__)
    &iomt_ed25519_backend_ifma,
    &adx,
#elif defined(IOMT_ARM64)
    &iomt_ed25519_backend_neon,
#endif
    &portable,
};

const iomt_ed25519_backend *iomt_ed25519_backend_at(size_t index)
{
    return index < sizeof table / sizeof table[0] ? table[index] : NULL;
}

int iomt_ed25519_backend_usable(const iomt_ed25519_backend *backend)
{
    return (backend->needs & ~iomt_cpu_features()) == 0;
}

const char *iomt_ed25519_backend_name(const iomt_ed25519_backend *backend)
{
    return backend->name;
}

size_t iomt_ed25519_verify_many(const iomt_ed25519_backend *backend, const uint8_t *public_keys,
                                const iomt_ed25519_prepared *const *prepared,
                                const uint8_t *messages, size_t size, const void *ends,
                                size_t count, const uint8_t *signatures, uint8_t *answers)
{
    struct iomt_ed25519_item items[IOMT_ED25519_GROUP];
    uint64_t start = 0;

    for (size_t first = 0; first < count; first += IOMT_ED25519_GROUP) {
        size_t left = count - first;
        size_t taken = left < IOMT_ED25519_GROUP ? left : IOMT_ED25519_GROUP;

        for (size_t i = 0; i < taken; i++) {
            size_t at = first + i;
            uint64_t end = iomt_load_u64(ends, at);
            const uint8_t *key = public_keys + at * IOMT_ED25519_KEY_SIZE;

            if (end < start || end > size || (at == count - 1 && end != size))
                return at;
            items[i] = (struct iomt_ed25519_item){
                .key = key,
                .signature = signatures + at * IOMT_ED25519_SIGNATURE_SIZE,
                .message = end > start ? messages + start : NULL,
                .size = (size_t)(end - start),
                .prepared = prepared != NULL ? same_key(prepared[at], key) : NULL,
            };
            start = end;
        }
        backend->verify(items, taken, answers + first);
    }
    return count;
}
