/* Signs on a stack of its own, on which nothing secret may be left: the two hashes, the key,
 * the nonce, their digits and the points that these choose from the table, looked for word by
 * word at every byte. */
#define _DEFAULT_SOURCE /* ucontext's stack_t */

#include "commands.h"

#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#define STACK_SIZE (1u << 16)
#define POINT_WORDS (sizeof(struct iomt_comb_point) / sizeof(uint64_t))
#define CHOSEN_WORDS (IOMT_COMB_PLACES * POINT_WORDS)
#define SECRET_WORDS (52 + 2 * CHOSEN_WORDS)

static struct {
    const iomt_ed25519_backend *backend;
    const uint8_t *seed, *message;
    size_t size;
    iomt_ed25519_signer *signer;
    ucontext_t back, there;
} signing;

static void sign_there(void)
{
    uint8_t signature[64];

    iomt_ed25519_start_signer(signing.backend, signing.signer, signing.seed);
    iomt_ed25519_sign(signing.backend, signing.signer, signing.message, signing.size,
                      signature);
}

/* The points that the digits choose; zeros for 0. An opposite has the same words but one. */
static void chosen_points(const int8_t digits[IOMT_COMB_PLACES], uint64_t words[CHOSEN_WORDS])
{
    memset(words, 0, CHOSEN_WORDS * sizeof words[0]);
    for (int i = 0; i < IOMT_COMB_PLACES; i++)
        if (digits[i] != 0)
            memcpy(words + (size_t)i * POINT_WORDS, &iomt_base_comb[i][abs(digits[i]) - 1],
                   sizeof(struct iomt_comb_point));
}

static void secrets_of(const uint8_t *seed, const uint8_t *message, size_t size,
                       uint64_t words[SECRET_WORDS])
{
    uint8_t digests[2][64], wide[64] = {0};
    struct iomt_scalar key, nonce;
    struct iomt_sha512 hash;
    int8_t digits[64];

    iomt_sha512_start(&hash);
    iomt_sha512_add(&hash, seed, 32);
    iomt_sha512_end(&hash, digests[0]);
    iomt_sha512_start(&hash);
    iomt_sha512_add(&hash, digests[0] + 32, 32);
    iomt_sha512_add(&hash, message, size);
    iomt_sha512_end(&hash, digests[1]);
    memcpy(wide, digests[0], 32);
    wide[0] &= 0xf8;
    wide[31] = (wide[31] & 0x7f) | 0x40;
    iomt_scalar_reduce_secret(&key, wide);
    iomt_scalar_reduce_secret(&nonce, digests[1]);
    memcpy(words, digests, 128);
    memcpy(words + 16, key.words, 32);
    memcpy(words + 20, nonce.words, 32);
    iomt_scalar_radix16(&key, digits);
    memcpy(words + 24, digits, 64);
    iomt_scalar_radix16(&nonce, digits);
    memcpy(words + 32, digits, 64);
    iomt_scalar_radix32(&key, digits); /* 51 digits are six words and a part */
    memcpy(words + 40, digits, 48);
    chosen_points(digits, words + 52);
    iomt_scalar_radix32(&nonce, digits);
    memcpy(words + 46, digits, 48);
    chosen_points(digits, words + 52 + CHOSEN_WORDS);
}

static void sign_on(uint8_t *stack)
{
    getcontext(&signing.there);
    signing.there.uc_stack.ss_sp = stack;
    signing.there.uc_stack.ss_size = STACK_SIZE;
    signing.there.uc_link = &signing.back;
    makecontext(&signing.there, sign_there, 0);
    swapcontext(&signing.back, &signing.there);
}

int leaves_secrets(const iomt_ed25519_backend *backend, const uint8_t *seed,
                   const uint8_t *message, size_t size)
{
    uint8_t *stack = calloc(1, STACK_SIZE);
    uint64_t words[SECRET_WORDS], word;
    int found = 0;

    signing.backend = backend;
    signing.seed = seed;
    signing.message = message;
    signing.size = size;
    signing.signer = malloc(iomt_ed25519_signer_size());
    if (stack == NULL || signing.signer == NULL)
        exit(2);
    sign_on(stack);
    secrets_of(seed, message, size, words);
    for (size_t i = 0; i + sizeof word <= STACK_SIZE; i++) {
        memcpy(&word, stack + i, sizeof word);
        for (size_t w = 0; w < SECRET_WORDS; w++)
            found |= word != 0 && word == words[w];
    }
    iomt_ed25519_wipe_signer(signing.signer);
    free(signing.signer);
    free(stack);
    return found;
}
