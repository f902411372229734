/* The field in limbs of 51 bits, for test_ed25519.c. */
#include "ed25519_field51.h"

#include "field_commands.h"

size_t field51_command(const char *name, const struct argument *arguments, size_t count,
                       uint8_t *reply)
{
    return field_command(name, arguments, count, reply);
}
