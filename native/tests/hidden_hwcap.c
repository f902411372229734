/* Preloaded by tests: takes the bits that the environment variable IOMT_TEST_HIDDEN_HWCAP
 * names (hexadecimal) away from what the kernel says of the CPU. QEMU shows the SHA-256
 * instructions on every model, and a Raspberry Pi 4 does not have them. */
#define _GNU_SOURCE /* RTLD_NEXT */

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>

unsigned long getauxval(unsigned long type)
{
    void *symbol = dlsym(RTLD_NEXT, "getauxval");
    const char *hidden = getenv("IOMT_TEST_HIDDEN_HWCAP");
    unsigned long (*next)(unsigned long);
    unsigned long value;

    memcpy(&next, &symbol, sizeof next); /* ISO C has no cast from data to function */
    value = next(type);
    if (type == AT_HWCAP && hidden != NULL)
        value &= ~strtoul(hidden, NULL, 16);
    return value;
}
