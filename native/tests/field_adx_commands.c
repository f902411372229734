/* The field of BMI2 and ADX, for test_ed25519.c; knows no command elsewhere. */
#include "commands.h"

#if defined(__x86_64__)
#include "ed25519_field_adx.h"

#include "field_commands.h"

size_t field_adx_command(const char *name, const struct argument *arguments, size_t count,
                         uint8_t *reply)
{
    if ((iomt_cpu_features() & IOMT_CPU_ADX) == 0)
        return 0;
    return field_command(name, arguments, count, reply);
}
#else
size_t field_adx_command(const char *name, const struct argument *arguments, size_t count,
                         uint8_t *reply)
{
    (void)name, (void)arguments, (void)count, (void)reply;
    return 0;
}
#endif
