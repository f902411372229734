/* The only place that asks what the CPU can do, and whether the operating system saves the
 * registers that it would use: an AVX-512 CPU under a kernel or hypervisor that does not
 * save ZMM registers must not run AVX-512 code. */
#include "backend.h"

#if defined(IOMT_X86)
#include <cpuid.h>

/* Bits of XCR0: the register files that the operating system saves. */
#define SAVES_AVX 0x06u    /* XMM and YMM */
#define SAVES_AVX512 0xe6u /* these, mask registers, and both halves of ZMM */

/* Only with OSXSAVE set, otherwise the instruction does not exist. */
static uint32_t saved_registers(void)
{
    uint32_t low, high;

    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

static int all(uint32_t word, uint32_t bits)
{
    return (word & bits) == bits;
}

uint32_t iomt_cpu_features(void)
{
    uint32_t eax, ebx, ecx, edx, basic, extended, saved = 0, found = 0;

    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx))
        return 0;
    basic = ecx;
    if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx))
        return 0;
    extended = ebx;
    if (all(basic, bit_OSXSAVE))
        saved = saved_registers();

    /* XMM registers are saved by every system that runs 64-bit code. */
    if (all(basic, bit_SSSE3 | bit_SSE4_1) && all(extended, bit_SHA))
        found |= IOMT_CPU_SHA_NI;
    if (all(extended, bit_ADX | bit_BMI2))
        found |= IOMT_CPU_ADX;
    if (all(saved, SAVES_AVX) && all(basic, bit_AVX) && all(extended, bit_AVX2))
        found |= IOMT_CPU_AVX2;
    if (all(saved, SAVES_AVX512) && all(extended, bit_AVX512F | bit_AVX512BW | bit_AVX512VL)) {
        found |= IOMT_CPU_AVX512;
        if (all(extended, bit_AVX512CD | bit_AVX512DQ | bit_AVX512IFMA))
            found |= IOMT_CPU_AVX512_IFMA;
    }
    return found;
}

#elif defined(IOMT_ARM64) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>

/* Here the kernel answers for both: it sets a bit only for what it also saves. */
uint32_t iomt_cpu_features(void)
{
    unsigned long kernel = getauxval(AT_HWCAP);
    uint32_t found = 0;

    if (kernel & HWCAP_ASIMD)
        found |= IOMT_CPU_NEON;
    if ((kernel & HWCAP_ASIMD) && (kernel & HWCAP_SHA2))
        found |= IOMT_CPU_ARM_SHA2;
    return found;
}

#else

uint32_t iomt_cpu_features(void)
{
    return 0;
}

#endif
