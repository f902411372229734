/* Signs with a seed that valgrind holds for undefined: it then reports every branch and every
 * address that depends on the seed, until ed25519.c says that a value is public. To be built
 * with IOMT_TRACK_SECRETS and run as
 *
 *   valgrind --error-exitcode=9 secrets BACKEND...
 *
 * Backends are named, because valgrind runs instructions that its CPUID does not show (ADX).
 * One in lanes signs with the functions of adx. */
#include "ed25519.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <valgrind/memcheck.h>

#define MOST_SIZE 300

static const iomt_ed25519_backend *named(const char *name)
{
    const iomt_ed25519_backend *backend;
    size_t at = 0;

    while ((backend = iomt_ed25519_backend_at(at++)) != NULL)
        if (strcmp(iomt_ed25519_backend_name(backend), name) == 0)
            return backend;
    fprintf(stderr, "no backend %s\n", name);
    exit(2);
}

int main(int count, char **words)
{
    if (count < 2 || !RUNNING_ON_VALGRIND) {
        fprintf(stderr, "run it under valgrind, with backends\n");
        return 2;
    }
    for (int i = 1; i < count; i++) {
        const iomt_ed25519_backend *backend = named(words[i]);
        uint8_t seed[32], key[32], signature[64], message[MOST_SIZE] = {7};
        iomt_ed25519_signer *signer;
        int good = 1;

        signer = malloc(iomt_ed25519_signer_size());
        if (signer == NULL)
            return 2;
        for (size_t at = 0; at < sizeof seed; at++)
            seed[at] = (uint8_t)(31 * at + (size_t)i);
        (void)VALGRIND_MAKE_MEM_UNDEFINED(seed, sizeof seed);
        iomt_ed25519_start_signer(backend, signer, seed);
        iomt_ed25519_signer_key(signer, key);
        for (size_t size = 0; size <= MOST_SIZE; size += 60) {
            good &= iomt_ed25519_sign(backend, signer, message, size, signature);
            good &= iomt_ed25519_verify(backend, key, NULL, message, size, signature);
        }
        iomt_ed25519_wipe_signer(signer);
        free(signer);
        printf("%s: %s\n", iomt_ed25519_backend_name(backend), good ? "signed" : "WRONG");
        if (!good)
            return 1;
    }
    return 0;
}
