"""The Python face of the C core: what it refuses, how a backend is chosen, Ed25519.

That the hashes are right is the matter of tests/native.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import sys
import threading
import time
from array import array
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.errors import ConfigurationError
from edge.ledger import core


@pytest.fixture(autouse=True)
def _same_backend_afterwards() -> Iterator[None]:
    before = core.active()
    yield
    core.use(before)


def leaf(record: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + record).digest()


# ---- Choosing a backend ----


def test_portable_is_always_there() -> None:
    """Every machine has one way to hash."""
    assert "portable" in core.backends()
    assert len(set(core.backends())) == len(core.backends())


def test_use_makes_a_backend_active() -> None:
    """A test or a person can force one by name."""
    for name in core.backends():
        core.use(name)
        assert core.active() == name
        assert core.leaf_hashes(b"abc", array("Q", [3])) == leaf(b"abc")


def test_unknown_backend_is_refused_with_the_usable_names() -> None:
    """The message must be enough to mend the setting; the choice stays as it was."""
    before = core.active()
    with pytest.raises(ConfigurationError, match=r"no backend 'sha-nj'.*portable"):
        core.use("sha-nj")
    assert core.active() == before


class Altered:
    """The real library, but for what a test gives another answer."""

    def __init__(self, **answers: Any) -> None:
        self._real = vars(core)["lib"]
        vars(self).update(answers)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def calibrated_without(*names: str, failed: bool) -> Any:
    """iomt_calibrate where these backends are missing, or fail their self-test."""
    lib = vars(core)["lib"]

    def calibrate(choice: Any) -> None:
        lib.iomt_calibrate(choice)
        rows = list(range(choice.count))
        gone = [i for i in rows if core._name(choice.measured[i].backend) in names]
        for place, i in enumerate(gone):
            choice.failed[place] = choice.measured[i].backend
        choice.failed_count = len(gone) if failed else 0
        for place, i in enumerate(i for i in rows if i not in gone):
            choice.measured[place] = choice.measured[i]
        choice.count -= len(gone)

    return calibrate


def test_backend_that_the_cpu_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Running it would end the process with an illegal instruction."""
    others = [name for name in core.backends() if name != "portable"]
    calibrate = calibrated_without(*others, failed=False)
    monkeypatch.setattr(core, "lib", Altered(iomt_calibrate=calibrate))
    monkeypatch.setattr(core, "_calibration", core._Calibration())
    assert core.backends() == ["portable"]
    for name in others:
        with pytest.raises(ConfigurationError, match=r"cannot run .*usable.*portable"):
            core.use(name)


def test_backend_that_fails_its_self_test_is_named_and_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A CPU that computes wrongly must be seen, not averaged away."""
    fastest = core.backends()[0]
    calibrate = calibrated_without(fastest, failed=True)
    monkeypatch.setattr(core, "lib", Altered(iomt_calibrate=calibrate))
    if len(core.backends()) == 1:
        with pytest.raises(ImportError, match="no backend"):
            core._Calibration()
        return
    monkeypatch.setattr(core, "_calibration", core._Calibration())
    assert f"backend {fastest} fails its self-test" in caplog.text
    assert fastest not in core.backends()
    assert core.report().failed == (fastest,)
    with pytest.raises(ConfigurationError, match="fails its self-test"):
        core.use(fastest)


def test_core_without_a_sound_backend_cannot_be_imported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A ledger of wrong hashes is worse than no gateway."""
    calibrate = calibrated_without(*core.backends(), failed=True)
    monkeypatch.setattr(core, "lib", Altered(iomt_calibrate=calibrate))
    with pytest.raises(ImportError, match="no backend"):
        core._Calibration()


def test_report_says_what_is_in_use_and_why() -> None:
    """`iomt doctor` shows it; a slow clinic's first question."""
    found = core.report()
    assert found.backend == core.active()
    assert [one.name for one in found.measured] == core.backends()
    assert found.why
    assert found.compiler.split()[0] in {"gcc", "clang", "unknown"}
    assert all(one.fewest <= one.lanes for one in found.measured)
    assert all(one.few is None or one.few in core.backends() for one in found.measured)
    core.use("portable")
    assert (core.report().backend, core.report().why) == (
        "portable",
        "asked for by the program",
    )


def run_with_backend(name: str) -> subprocess.CompletedProcess[str]:
    program = "from edge.ledger import core; print(core.active())"
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, core.BACKEND_VARIABLE: name},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_environment_forces_a_backend() -> None:
    """Fault finding in the field needs no change of code."""
    assert run_with_backend("portable").stdout == "portable\n"


def test_empty_environment_variable_means_not_set() -> None:
    """A service file that leaves the value blank must start."""
    assert run_with_backend("").stdout.strip() in core.backends()


def test_wrong_name_in_the_environment_stops_the_program() -> None:
    """Falling back silently would hide that the setting does nothing."""
    done = run_with_backend("fastest")
    assert done.returncode != 0
    assert "ConfigurationError: IOMT_CORE_BACKEND: there is no backend" in done.stderr
    assert "usable here: " in done.stderr
    assert all(name in done.stderr for name in core.backends())


def test_import_without_the_built_module_says_how_to_build_it() -> None:
    """A fresh checkout fails here first."""
    program = (
        "import sys; sys.modules['edge.ledger._core'] = None; import edge.ledger.core"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert "pip install -e ." in done.stderr


# ---- Threads ----


def test_threads_may_hash_while_the_backend_is_changed() -> None:
    """The choice is one pointer, read once a call: every answer is right."""
    records = [bytes([i]) * i for i in range(200)]
    joined, ends = b"".join(records), array("Q")
    for record in records:
        ends.append((ends[-1] if ends else 0) + len(record))
    expected = b"".join(map(leaf, records))
    root = core.tree_root(expected)

    def work(turn: int) -> bool:
        core.use(core.backends()[turn % len(core.backends())])
        hashes = core.leaf_hashes(joined, ends)
        return hashes == expected and core.tree_root(expected) == root

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(300)))


def test_other_threads_run_while_the_core_hashes() -> None:
    """The loop must go on reading sockets while a large batch is hashed."""
    core.use("portable")
    data = bytes(40_000_000)
    began, done = threading.Event(), threading.Event()

    def hash_it() -> None:
        began.set()
        core.leaf_hashes(data, array("Q", [len(data)]))
        done.set()

    # If C held the lock, this thread could not take a step between the two events.
    thread = threading.Thread(target=hash_it)
    thread.start()
    began.wait()
    time.sleep(0.005)
    steps = 0
    while not done.is_set():
        steps += 1
        time.sleep(0.001)
    thread.join()
    assert steps >= 5


def test_buffers_keep_their_size_while_the_core_has_them() -> None:
    """C holds bare pointers without the lock: memory must not go from under them."""
    core.use("portable")
    data, out = bytearray(40_000_000), bytearray(32)
    ends = array("Q", [len(data)])

    def hash_it() -> None:
        # Refused where one of them has grown just before C takes them.
        while not any(out):
            with contextlib.suppress(ValueError):
                core.leaf_hashes(data, ends, out)

    thread = threading.Thread(target=hash_it)
    thread.start()
    refused: set[str] = set()
    while thread.is_alive():
        for name, buffer in (("data", data), ("ends", ends), ("out", out)):
            try:
                buffer.append(0)
                buffer.pop()
            except BufferError:
                refused.add(name)
    thread.join()
    assert refused == {"data", "ends", "out"}
    assert out == leaf(bytes(40_000_000))
    data.append(0)


def test_ends_that_change_under_the_call_make_no_wild_access() -> None:
    """Each end is read once and checked before it is used, so this cannot crash."""
    records, sane = bytes(4096), [64 * (i + 1) for i in range(64)]
    ends = array("Q", sane)
    stop = threading.Event()

    def meddle() -> None:
        while not stop.is_set():
            for wild in (0, 1 << 63, 2**64 - 1, 4097, 4095):
                ends[31] = wild
            ends[31] = sane[31]

    thread = threading.Thread(target=meddle)
    thread.start()
    view, answers = memoryview(ends), set()
    for _ in range(3000):
        try:
            core.leaf_hashes(records, view)
            answers.add("hashes")
        except ValueError as error:
            answers.add("refused" if "ends[" in str(error) else str(error))
    stop.set()
    thread.join()
    assert "refused" in answers
    assert answers <= {"hashes", "refused"}


# ---- Buffers and ends ----


def test_any_contiguous_buffer_is_taken() -> None:
    """Callers hold bytes, arrays and views; none of them should have to copy."""
    expected = leaf(b"ab") + leaf(b"cd")
    ends = array("Q", [2, 4])
    wide = memoryview(b"abcd").cast("H")
    for records in (b"abcd", bytearray(b"abcd"), memoryview(b"xabcdx")[1:5], wide):
        for each in (ends, ends.tobytes(), memoryview(b"-" + ends.tobytes())[1:]):
            assert core.leaf_hashes(records, each) == expected
    table = memoryview(expected).cast("B", (2, 32))
    assert core.tree_root(table) == core.tree_root(expected)


def test_no_record_gives_no_hash_and_the_empty_root() -> None:
    """An empty batch is a legal batch."""
    assert core.leaf_hashes(b"", array("Q")) == b""
    assert core.leaf_hashes(b"", b"", bytearray()) is None
    assert core.tree_root(b"") == hashlib.sha256().digest()


@pytest.mark.parametrize(
    ("ends", "says"),
    [
        ([2, 1, 4], r"ends\[1\] = 1 is before .* 2$"),
        ([2, 5, 4], r"ends\[1\] = 5 is beyond the 4 bytes"),
        ([5, 5, 5], r"ends\[0\] = 5 is beyond"),
        ([1, 2, 3], r"ends\[2\] = 3 is the last and must equal the 4 bytes"),
        ([1, 2**64 - 1, 4], r"ends\[1\] = 18446744073709551615 is beyond"),
        ([], "ends is empty, but there are 4 bytes"),
    ],
)
def test_wrong_ends_are_refused_by_index(ends: list[int], says: str) -> None:
    """A record cut wrongly would be committed wrongly, for ever."""
    keys, signatures = bytes(32 * len(ends)), bytes(64 * len(ends))
    with pytest.raises(ValueError, match=says):
        core.leaf_hashes(b"abcd", array("Q", ends))
    with pytest.raises(ValueError, match=says):
        core.verify_many(keys, b"abcd", array("Q", ends), signatures)


@pytest.mark.parametrize("code", ["I", "q", "d", "H"])
def test_ends_of_other_item_types_are_refused(code: str) -> None:
    """Four-byte integers read as eight would point anywhere."""
    with pytest.raises(TypeError, match="unsigned 64-bit"):
        core.leaf_hashes(b"abcd", array(code, [2, 4]))


def test_wrong_lengths_are_refused() -> None:
    """A length that does not divide is a mistake in the caller, told at once."""
    with pytest.raises(ValueError, match="ends has 9 bytes, not a multiple of 8"):
        core.leaf_hashes(b"", bytes(9))
    with pytest.raises(ValueError, match="leaf_hashes has 33 bytes"):
        core.tree_root(bytes(33))
    for size in (31, 33, 0, 64):
        with pytest.raises(ValueError, match=f"out has {size} bytes, not 1 × 32"):
            core.leaf_hashes(b"a", array("Q", [1]), bytearray(size))


def test_read_only_output_is_refused() -> None:
    """Writing into bytes would change a value that others share."""
    with pytest.raises(ValueError, match="writable"):
        core.leaf_hashes(b"a", array("Q", [1]), bytes(32))


def test_buffers_with_gaps_are_refused() -> None:
    """A strided view would have to be copied, which this layer never does."""
    gaps = memoryview(bytes(128))[::2]
    with pytest.raises(ValueError, match="leaf_hashes must be contiguous"):
        core.tree_root(gaps)
    with pytest.raises(ValueError, match="records must be contiguous"):
        core.leaf_hashes(gaps, array("Q", [64]))
    with pytest.raises(ValueError, match="out must be contiguous"):
        core.leaf_hashes(b"ab", array("Q", [1, 2]), memoryview(bytearray(128))[::2])
    with pytest.raises(ValueError, match="message must be contiguous"):
        core.verify(bytes(32), gaps, bytes(64))


def test_what_is_no_buffer_is_refused() -> None:
    """Text has no bytes until somebody says how it is encoded."""
    not_a_buffer: Any
    for not_a_buffer in ("abcd", 4, None, [1]):
        with pytest.raises(TypeError, match="must be a buffer"):
            core.leaf_hashes(not_a_buffer, array("Q", [4]))
        with pytest.raises(TypeError, match="must be a buffer"):
            core.tree_root(not_a_buffer)
        with pytest.raises(TypeError, match="must be a buffer"):
            core.sign(bytes(32), not_a_buffer)


# ---- Ed25519 ----

# RFC 8032 section 7.1, TEST 1, 2, 3 and TEST SHA(abc): seed, public key, message,
# signature.
RFC_8032 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        (
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
            "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
        ),
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        (
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
            "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
        ),
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        (
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
            "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a"
        ),
    ),
    (
        "833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42",
        "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
        hashlib.sha512(b"abc").hexdigest(),
        (
            "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b589"
            "09351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17ad9bef1177331a704"
        ),
    ),
]
Vector = tuple[bytes, bytes, bytes, bytes]
VECTORS: list[Vector] = [
    (bytes.fromhex(a), bytes.fromhex(b), bytes.fromhex(c), bytes.fromhex(d))
    for a, b, c, d in RFC_8032
]


@pytest.mark.parametrize("vector", VECTORS, ids=["empty", "1 byte", "2 bytes", "abc"])
def test_signatures_are_those_of_rfc_8032(vector: Vector) -> None:
    """A device maker's own library must come to the same bytes."""
    seed, key, message, signature = vector
    assert core.public_key(seed) == key
    assert core.sign(seed, message) == signature
    assert core.verify(key, message, signature) is True
    assert core.verify(bytearray(key), memoryview(message), memoryview(signature))


@pytest.mark.parametrize("backend", core.signature_backends())
@settings(deadline=None)  # other programs run on this machine too
@given(seed=st.binary(min_size=32, max_size=32), message=st.binary(max_size=400))
def test_signatures_are_those_of_openssl(
    backend: str, seed: bytes, message: bytes
) -> None:
    """`[ledger] signer` may change at any start: nobody can tell from a checkpoint."""
    before = core.active_signatures()
    core.use_signatures(backend)
    try:
        signature = core.sign(seed, message)
        assert signature == core.sign_by_openssl(seed, message)
        assert core.verify(core.public_key(seed), message, signature)
    finally:
        core.use_signatures(before)


def test_a_closed_signer_signs_nothing() -> None:
    """Its key is wiped: a signature by zeros would be a forgery of our own."""
    seed, key, message, signature = VECTORS[2]
    signer = core.Signer(seed)
    assert signer.public_key == key
    assert signer.sign(message) == signature
    signer.close()
    signer.close()
    with pytest.raises(ValueError, match="closed"):
        signer.sign(message)


def test_an_ed25519_backend_that_is_not_there_is_a_mistake_of_the_operator() -> None:
    """The text says which ones run here."""
    with pytest.raises(ConfigurationError, match=r"usable: .*portable"):
        core.use_signatures("abacus")
    assert core.active_signatures() in core.signature_backends()


@pytest.mark.parametrize("backend", core.signature_backends())
def test_a_key_that_comes_back_is_answered_as_before(backend: str) -> None:
    """From the third time on its multiples are ready, in one call and in many."""
    before = core.active_signatures()
    core.use_signatures(backend)
    core.forget_public_keys()
    try:
        for _, key, message, signature in VECTORS:
            for _ in range(4):
                ends = array("Q", [len(message)])
                assert core.verify(key, message, signature)
                assert not core.verify(key, message + b"!", signature)
                assert core.verify_many(key, message, ends, signature) == b"\x01"
            assert core._kept(key)._memory is not None
    finally:
        core.use_signatures(before)


def test_every_changed_bit_of_a_signature_is_bad() -> None:
    """Nothing of a signature is beside the point."""
    _, key, message, signature = VECTORS[2]
    for bit in range(512):
        changed = bytearray(signature)
        changed[bit // 8] ^= 1 << bit % 8
        assert core.verify(key, message, changed) is False


def test_scalar_beyond_the_group_order_is_bad() -> None:
    """S and S + L would be two signatures of one reading (RFC 8032 5.1.7)."""
    order = 2**252 + 27742317777372353535851937790883648493
    _, key, message, signature = VECTORS[1]
    scalar = int.from_bytes(signature[32:], "little") + order
    assert not core.verify(key, message, signature[:32] + scalar.to_bytes(32, "little"))


def test_bytes_that_are_no_key_verify_nothing() -> None:
    """Whoever sends one must be refused, not stop the gateway: y = 2 has no x."""
    no_point = (2).to_bytes(32, "little")
    _, _, message, signature = VECTORS[1]
    for key in (no_point, b"\xff" * 32, bytes(32)):
        assert core.verify(key, message, signature) is False


def test_wrong_lengths_of_keys_and_signatures_are_mistakes() -> None:
    """The decoder before us has fixed lengths; another one is a mistake of ours."""
    seed, key, message, signature = VECTORS[0]
    for wrong in (b"", key[:-1], key + b"\x00"):
        with pytest.raises(ValueError, match=r"public_key has .* bytes, not 32"):
            core.verify(wrong, message, signature)
        with pytest.raises(ValueError, match=r"seed has .* bytes, not 32"):
            core.sign(wrong, message)
        with pytest.raises(ValueError, match=r"seed has .* bytes, not 32"):
            core.public_key(wrong)
    for wrong in (b"", signature[:-1], signature + b"\x00"):
        with pytest.raises(ValueError, match=r"signature has .* bytes, not 64"):
            core.verify(key, message, wrong)
    with pytest.raises(ValueError, match="public_keys has 31 bytes, not 1 × 32"):
        core.verify_many(key[:-1], message, array("Q", [0]), signature)
    with pytest.raises(ValueError, match="signatures has 63 bytes, not 1 × 64"):
        core.verify_many(key, message, array("Q", [0]), signature[:-1])
    assert seed


def test_many_are_answered_as_one_by_one() -> None:
    """One bad message must not spoil those beside it, nor hide among them."""
    rows = [list(VECTORS[i % 4][1:]) for i in range(24)]
    for i in range(0, 24, 3):  # every third is bad, in one of three ways
        part = i // 3 % 3
        rows[i][part] = bytes(len(rows[i][part])) or b"\x00"
    keys, messages, signatures = (
        b"".join(column) for column in zip(*rows, strict=True)
    )
    ends = array("Q")
    for _, message, _ in rows:
        ends.append((ends[-1] if ends else 0) + len(message))
    answers = core.verify_many(keys, messages, ends, signatures)
    assert list(answers) == [core.verify(*row) for row in rows]
    assert list(answers) == [int(i % 3 != 0) for i in range(24)]
    assert core.verify_many(b"", b"", b"", b"") == b""


def test_kept_public_keys_are_bounded() -> None:
    """Strangers can send any number of keys; memory must not follow them."""
    assert core._kept.cache_info().maxsize == core.KEPT_PUBLIC_KEYS
