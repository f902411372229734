/* What the files of test_ed25519 share: one line of input is a command, its arguments in
 * hexadecimal; a command answers with bytes. */
#ifndef IOMT_TEST_COMMANDS_H
#define IOMT_TEST_COMMANDS_H

#include "ed25519.h"

struct argument {
    const uint8_t *bytes;
    size_t size;
};

#define MOST_REPLY 128

/* Each returns the size of the reply, 0 for a command that it does not know. */
size_t field51_command(const char *name, const struct argument *arguments, size_t count,
                       uint8_t *reply);
size_t field_adx_command(const char *name, const struct argument *arguments, size_t count,
                         uint8_t *reply);

/* 1 if signing leaves something secret on the stack (stack_secrets.c). */
int leaves_secrets(const iomt_ed25519_backend *backend, const uint8_t *seed,
                   const uint8_t *message, size_t size);

/* How many single faults the backend's own check lets pass, out of some 1,500, for a good
 * signature; 0 if it has none of its own (signing_faults.c). */
size_t faults_that_pass(const iomt_ed25519_backend *backend, const uint8_t *key,
                        const uint8_t *message, size_t size, const uint8_t *signature);

/* How many of the signer's two copies of its public key can be damaged and still sign. */
size_t damaged_keys_that_sign(const iomt_ed25519_backend *backend, iomt_ed25519_signer *signer,
                              const uint8_t *message, size_t size);

#endif
