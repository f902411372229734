"""Builds edge.ledger._core, the C core, with cffi; setup.py names `ffi` below.

The declarations repeat iomt_core.h, where their contract stands; a compiler checks one
against the other when it builds. No flag names a CPU: each backend asks for its
instructions in its own file, and the module chooses when it is imported.
"""

from pathlib import Path

from cffi import FFI

NATIVE = Path(__file__).resolve().parent
ROOT = NATIVE.parent

ffi = FFI()
ffi.cdef(
    """
    typedef struct iomt_backend iomt_backend;

    const iomt_backend *iomt_backend_at(size_t index);
    int iomt_backend_usable(const iomt_backend *backend);
    const char *iomt_backend_name(const iomt_backend *backend);
    size_t iomt_backend_lanes(const iomt_backend *backend);
    const char *iomt_compiler(void);

    typedef struct {
        const iomt_backend *backend;
        const iomt_backend *few;
        uint32_t fewest;
        double leaf_ns, node_ns;
        ...;
    } iomt_measured;

    typedef struct {
        iomt_measured measured[8];
        size_t count;
        const iomt_backend *failed[8];
        size_t failed_count;
        uint64_t took_ns;
        ...;
    } iomt_choice;

    int iomt_self_test(const iomt_backend *backend);
    void iomt_calibrate(iomt_choice *choice);

    void iomt_sha256(const iomt_backend *backend, const uint8_t *message, size_t size,
                     uint8_t *digest);
    size_t iomt_leaf_hashes(const iomt_backend *backend, const uint8_t *records,
                            size_t size, const void *ends, size_t count,
                            uint8_t *hashes);
    size_t iomt_check_ends(const void *ends, size_t count, size_t size);
    void iomt_tree_root(const iomt_backend *backend, const uint8_t *leaf_hashes,
                        size_t count, uint8_t *root);
    size_t iomt_tree_path(const iomt_backend *backend, const uint8_t *leaf_hashes,
                          size_t count, size_t index, uint8_t *path);
    void iomt_range_root(const iomt_backend *backend, const uint8_t *range,
                         size_t count, uint8_t *root);
    size_t iomt_batch(const iomt_backend *backend, uint8_t *records, size_t size,
                      const void *ends, size_t count, const uint8_t *salt_keys,
                      size_t key_count, const void *key_of, uint8_t *tree,
                      size_t width);
    size_t iomt_extend_range(const iomt_backend *backend, uint64_t size,
                             uint8_t *range, const uint8_t *leaf_hashes, size_t count);

    typedef struct iomt_ed25519_backend iomt_ed25519_backend;
    typedef struct iomt_ed25519_signer iomt_ed25519_signer;
    typedef struct iomt_ed25519_prepared iomt_ed25519_prepared;

    const iomt_ed25519_backend *iomt_ed25519_backend_at(size_t index);
    int iomt_ed25519_backend_usable(const iomt_ed25519_backend *backend);
    const char *iomt_ed25519_backend_name(const iomt_ed25519_backend *backend);

    size_t iomt_ed25519_signer_size(void);
    void iomt_ed25519_start_signer(const iomt_ed25519_backend *backend,
                                   iomt_ed25519_signer *signer, const uint8_t *seed);
    void iomt_ed25519_wipe_signer(iomt_ed25519_signer *signer);
    void iomt_ed25519_signer_key(const iomt_ed25519_signer *signer,
                                 uint8_t *public_key);
    int iomt_ed25519_sign(const iomt_ed25519_backend *backend,
                          const iomt_ed25519_signer *signer, const uint8_t *message,
                          size_t size, uint8_t *signature);

    size_t iomt_ed25519_prepared_size(void);
    int iomt_ed25519_prepare(const iomt_ed25519_backend *backend,
                             iomt_ed25519_prepared *prepared,
                             const uint8_t *public_key);
    int iomt_ed25519_verify(const iomt_ed25519_backend *backend,
                            const uint8_t *public_key,
                            const iomt_ed25519_prepared *prepared,
                            const uint8_t *message, size_t size,
                            const uint8_t *signature);
    size_t iomt_ed25519_verify_many(const iomt_ed25519_backend *backend,
                                    const uint8_t *public_keys,
                                    const iomt_ed25519_prepared *const *prepared,
                                    const uint8_t *messages, size_t size,
                                    const void *ends, size_t count,
                                    const uint8_t *signatures, uint8_t *answers);
    """
)
ffi.set_source(
    "edge.ledger._core",
    '#include "iomt_core.h"',
    # Relative to the project, as setuptools wants them: an absolute path would be
    # written into the sdist's list of files.
    sources=sorted(f"native/{source.name}" for source in NATIVE.glob("*.c")),
    depends=sorted(f"native/{header.name}" for header in NATIVE.glob("*.h")),
    include_dirs=["native"],
    extra_compile_args=["-O3", "-std=c11", "-fvisibility=hidden"],
    py_limited_api=True,
)

if __name__ == "__main__":
    ffi.compile(tmpdir=str(ROOT), verbose=True)
