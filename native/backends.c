/* The table of backends, and the questions one may ask of it. Each file defines one const
 * struct iomt_backend_NAME; a line X(NAME) here makes it known. */
#include "backend.h"

/* Order is preference: best first. */
#if defined(IOMT_X86)
#define BACKENDS_OF_THIS_MACHINE(X) \
    X(shani_x8) \
    X(avx512) \
    X(shani_x4) \
    X(avx2) \
    X(shani)
#elif defined(IOMT_ARM64)
#define BACKENDS_OF_THIS_MACHINE(X) \
    X(armv8)                        \
    X(neon5)                        \
    X(neon)
#else
#define BACKENDS_OF_THIS_MACHINE(X)
#endif

/* Last and always there. */
#define BACKENDS(X) \
    BACKENDS_OF_THIS_MACHINE(X) \
    X(portable)

#define DECLARE(name) extern const iomt_backend iomt_backend_##name;
BACKENDS(DECLARE)

#define ADDRESS(name) &iomt_backend_##name,
static const iomt_backend *const table[] = {BACKENDS(ADDRESS)};

const iomt_backend *iomt_backend_at(size_t index)
{
    return index < sizeof table / sizeof table[0] ? table[index] : NULL;
}

int iomt_backend_usable(const iomt_backend *backend)
{
    return (backend->needs & ~iomt_cpu_features()) == 0;
}

const char *iomt_backend_name(const iomt_backend *backend)
{
    return backend->name;
}

size_t iomt_backend_lanes(const iomt_backend *backend)
{
    return backend->lanes;
}

const char *iomt_compiler(void)
{
#if defined(__clang__)
    return "clang " __clang_version__;
#elif defined(__GNUC__)
    return "gcc " __VERSION__;
#else
    return "unknown compiler";
#endif
}
