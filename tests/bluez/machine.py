"""A virtual machine with a Bluetooth stack: QEMU, a Debian kernel, BlueZ, D-Bus.

    python tests/bluez/machine.py [PYTEST ARGUMENT ...]

Runs tests/bluez in it, with this very interpreter and these very files: the guest's
root is the host's file system, read-only over virtio-9p, under a tmpfs overlay. It
needs no disk image and no KVM, and was tried as root only. The kernel comes from the
Debian archive with apt-get, is not installed, and is kept with its initramfs in
build/bluez-vm.

Exit status: pytest's own; NOT_RUN (77) with a line that begins "NOT RUN" where this
machine cannot do it. That is neither a pass nor a failure of the program.

The archive (initramfs) holds busybox, the modules below with what they depend on, in
the order of loading, and guest-init.sh. The "newc" format of cpio is: 6 bytes "070701",
13 numbers of 8 hex digits, the name and a zero byte, padded to 4, the content, padded.
"""

from __future__ import annotations

import contextlib
import gzip
import lzma
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CACHE = ROOT / "build" / "bluez-vm"
RESULTS = ROOT / "build" / "bluez"

NOT_RUN = 77
BOOT_LIMIT_S = 90.0  # it takes 3 s; a machine that hangs is started once more
RUN_LIMIT_S = 900.0
MEMORY_MB = 1024
QEMU = "qemu-system-x86_64"
# A Raspberry Pi has 6.12 too. Debian's 6.1.192 crashes in hci_chan_del if bluetoothd
# closes its end after a connection has gone: a device that hangs, a bond that is stale.
KERNELS = ("linux-image-6.12-amd64", "linux-image-amd64")
BOOTED = "IOMT-BOOTED"
CRASHES = frozenset({"Kernel panic", "kernel BUG at", "list_del corruption"})
SIGNS = {BOOTED, *CRASHES}
KERNEL_LINE = (
    "console=ttyS0 quiet loglevel=4 panic=-1 reboot=t mitigations=off "
    "random.trust_cpu=on oops=panic"
)

# sha512 to drbg before ecdh: without a random number generator the kernel's self-test
# of ecdh fails, and pairing with it. The last four are what bluetoothd asks for.
MODULES = (
    *("virtio_pci", "9pnet_virtio", "9p", "overlay", "virtio_rng"),
    *("sha512_generic", "ctr", "drbg", "ecb", "ccm", "cmac", "ecdh_generic"),
    *("bluetooth", "hci_vhci", "uhid", "algif_hash", "algif_skcipher"),
)
REQUIRED = frozenset({"9p", "overlay", "bluetooth", "hci_vhci"})


class NotRunError(Exception):
    """This machine cannot run the virtual machine; the text says why."""


# ---- The kernel and the archive -----------------------------------------------------


def kernel_and_archive() -> tuple[Path, Path]:
    """The kernel image and the initramfs, from the cache or made now."""
    stamp, image, archive = CACHE / "made-of", CACHE / "vmlinuz", CACHE / "initramfs"
    source = f"{os.stat(HERE / 'guest-init.sh').st_mtime_ns} {MODULES}"
    name = _kernel_package()
    made_of = stamp.read_text() if stamp.exists() else ""
    if name and made_of == f"{name} {source}":
        return image, archive
    CACHE.mkdir(parents=True, exist_ok=True)
    package = _download(name)
    if package is None:  # apt's lists are missing, or older than the archive
        _update_lists()
        name = _kernel_package()
        package = _download(name)
    if package is None:
        if made_of.endswith(source):  # an older kernel is better than none
            return image, archive
        raise NotRunError(f"apt-get download gives no kernel ({name or KERNELS})")
    kernel, modules = _unpacked(package)
    stamp.unlink(missing_ok=True)
    image.write_bytes(kernel)
    archive.write_bytes(gzip.compress(_archive(modules), 1))
    package.unlink()
    stamp.write_text(f"{name} {source}")
    return image, archive


def _kernel_package() -> str:
    """The exact name: apt-get download with a pattern fetches every kernel."""
    for kernel in KERNELS:
        found = subprocess.run(
            ["apt-cache", "depends", kernel],
            capture_output=True,
            text=True,
            check=False,
        ).stdout
        if names := re.findall(r"Depends: (linux-image-[0-9][^\s<>]*)", found):
            return str(names[0])
    return ""


def _update_lists() -> None:
    as_root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    with contextlib.suppress(OSError):  # no sudo: then the lists stay as they are
        command = [*as_root, "apt-get", "-qq", "update"]
        subprocess.run(command, capture_output=True, check=False)


def _download(name: str) -> Path | None:
    for old in CACHE.glob("*.deb"):
        old.unlink()
    if name:
        command = ["apt-get", "-qq", "download", name]
        subprocess.run(command, cwd=CACHE, capture_output=True, check=False)
    return next(CACHE.glob("*.deb"), None)


def _unpacked(package: Path) -> tuple[bytes, dict[str, bytes]]:
    """The kernel image, and every module that we might need, by its name."""
    kernel, modules, built_in = b"", {}, set()
    unpack = ["dpkg-deb", "--fsys-tarfile", str(package)]
    with (
        subprocess.Popen(unpack, stdout=subprocess.PIPE) as reading,
        tarfile.open(fileobj=reading.stdout, mode="r|") as files,
    ):
        for member in files:
            path = member.name
            name, _, kind = path.rpartition("/")[2].partition(".ko")
            if not member.isfile():
                continue
            if "/vmlinuz-" in path:
                kernel = _content(files, member)
            elif path.endswith("/modules.builtin"):
                built_in = set(_content(files, member).decode().split())
            elif ".ko" in path and kind in ("", ".xz") and _may_matter(path):
                octets = _content(files, member)
                octets = lzma.decompress(octets) if kind else octets
                modules[name.replace("-", "_")] = octets
    if not kernel:
        raise NotRunError(f"{package.name} holds no kernel image")
    for name in built_in:
        modules.setdefault(Path(name).name.removesuffix(".ko").replace("-", "_"), b"")
    return kernel, modules


def _may_matter(path: str) -> bool:
    rooms = ("/crypto/", "/net/", "/lib/", "/drivers/bluetooth/", "/drivers/virtio/")
    more = ("/drivers/hid/", "/drivers/char/hw_random/", "/fs/")
    return any(room in path for room in rooms + more)


def _content(files: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    opened = files.extractfile(member)
    return opened.read() if opened is not None else b""


def _in_order(modules: dict[str, bytes]) -> Iterator[str]:
    """MODULES with what they depend on, each after what it needs."""
    seen: set[str] = set()

    def walk(name: str) -> Iterator[str]:
        if name in seen:
            return
        seen.add(name)
        octets = modules.get(name)
        if octets is None and name in REQUIRED:
            raise NotRunError(f"this kernel has no module {name}")
        if not octets:  # built in, or of another kernel version's
            return
        # A module's own list: "depends=a,b" between zero bytes in its .modinfo section.
        needs = re.search(rb"\0depends=([^\0]*)\0", octets)
        for one in (needs[1].decode() if needs else "").split(","):
            if one:
                yield from walk(one.replace("-", "_"))
        yield name

    for name in MODULES:
        yield from walk(name)


def _archive(modules: dict[str, bytes]) -> bytes:
    busybox = shutil.which("busybox")
    if busybox is None:
        raise NotRunError("busybox is missing (package busybox-static)")
    order = list(_in_order(modules))
    out = bytearray()
    folders = ("bin", "proc", "sys", "dev", "host", "over", "whole", "modules")
    for name in folders:
        out += _entry(name, b"", 0o040755)
    out += _entry("bin/busybox", Path(busybox).read_bytes(), 0o100755)
    out += _entry("init", (HERE / "guest-init.sh").read_bytes(), 0o100755)
    for place, name in enumerate(order):
        out += _entry(f"modules/{place:03}-{name}.ko", modules[name], 0o100644)
    return bytes(out + _entry("TRAILER!!!", b"", 0))


def _entry(name: str, content: bytes, mode: int) -> bytes:
    links = 2 if mode & 0o040000 else 1
    # inode, mode, uid, gid, links, time, size, device 2, special device 2, name, check
    numbers = (0, mode, 0, 0, links, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08x" % number for number in numbers)
    head += name.encode() + b"\0"
    return _padded(head) + _padded(content)


def _padded(octets: bytes) -> bytes:
    return octets + bytes(-len(octets) % 4)


# ---- The machine --------------------------------------------------------------------


def run(arguments: list[str]) -> int:
    """Run the tests; the exit status as at the top of this file."""
    _check_machine()
    # The guest may not write: without this it would compile everything each time.
    compiling = [
        sys.executable,
        "-m",
        "compileall",
        "-q",
        "edge",
        "firmware_sim",
        "tests",
    ]
    subprocess.run(compiling, cwd=ROOT, check=False)
    image, archive = kernel_and_archive()
    shutil.rmtree(RESULTS, ignore_errors=True)
    RESULTS.mkdir(parents=True)
    shutil.copy(HERE / "guest.sh", RESULTS)
    (RESULTS / "guest.env").write_text(
        f"PYTHON={shlex.quote(sys.executable)}\n"
        f"PROJECT={shlex.quote(str(ROOT))}\n"
        f"RESULTS={shlex.quote(str(RESULTS))}\n"
        f"ARGUMENTS={shlex.quote(shlex.join(arguments or [str(HERE)]))}\n"
    )
    for _ in range(2):
        seen = _started(image, archive)
        if BOOTED not in seen:
            print("the machine has not booted", flush=True)
            continue
        with contextlib.suppress(OSError, ValueError):
            return int((RESULTS / "exit-status").read_text())
        print("the machine ended without a result", flush=True)
        if not seen & CRASHES:
            return 1
        print("its kernel has crashed (not the program under test)", flush=True)
    if BOOTED not in seen:
        raise NotRunError("the virtual machine does not boot here")
    return 1


def _check_machine() -> None:
    if platform.machine() != "x86_64":
        raise NotRunError(
            f"the virtual machine is for x86_64, not {platform.machine()}"
        )
    for command, package in (
        (QEMU, "qemu-system-x86"),
        ("busybox", "busybox-static"),
        ("dbus-daemon", "dbus"),
        ("dpkg-deb", "dpkg"),
        ("apt-cache", "apt"),
    ):
        if shutil.which(command) is None:
            raise NotRunError(f"{command} is missing (package {package})")
    if not _bluetoothd():
        raise NotRunError("bluetoothd is missing (package bluez)")


def _bluetoothd() -> bool:
    places = ("/usr/libexec/bluetooth/bluetoothd", "/usr/lib/bluetooth/bluetoothd")
    return any(map(os.path.exists, places))


def _started(image: Path, archive: Path) -> set[str]:
    """Run the machine to its end; which of SIGNS it has said."""
    share = "security_model=none,multidevs=remap"
    command = [
        # "microvm" hangs under TCG one start in six (no clock to calibrate by).
        *(QEMU, "-M", "pc", "-accel", "tcg,thread=multi", "-cpu", "max"),
        *("-smp", "2", "-m", str(MEMORY_MB), "-nodefaults", "-no-user-config"),
        *("-display", "none", "-serial", "stdio", "-no-reboot"),
        *("-kernel", str(image), "-initrd", str(archive)),
        *("-fsdev", f"local,id=host,path=/,readonly=on,{share}"),
        *("-device", "virtio-9p-pci,fsdev=host,mount_tag=host"),
        *("-fsdev", f"local,id=out,path={RESULTS},{share}"),
        *("-device", "virtio-9p-pci,fsdev=out,mount_tag=out"),
        *("-device", "virtio-rng-pci"),
        *("-append", f"{KERNEL_LINE} iomt={RESULTS}"),
    ]
    began, seen = time.monotonic(), set[str]()
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    ) as machine:
        assert machine.stdout is not None
        os.set_blocking(machine.stdout.fileno(), False)
        line = b""
        ended = False
        signal.signal(signal.SIGTERM, lambda *_: machine.kill())
        while not ended:
            ended = machine.poll() is not None  # asked before the last words are read
            line += machine.stdout.read() or b""
            *lines, line = line.split(b"\n")
            for one in lines:
                seen |= {sign for sign in SIGNS if sign.encode() in one}
                print(one.decode(errors="replace").rstrip("\r"), flush=True)
            spent_s = time.monotonic() - began
            if spent_s > (RUN_LIMIT_S if BOOTED in seen else BOOT_LIMIT_S):
                machine.kill()
            time.sleep(0.05)
        print(line.decode(errors="replace"), flush=True)
    print(f"the machine ran for {time.monotonic() - began:.0f} s")
    return seen


if __name__ == "__main__":
    try:
        sys.exit(run(sys.argv[1:]))
    except NotRunError as reason:
        print(f"NOT RUN: the tests on the real Bluetooth stack: {reason}")
        sys.exit(NOT_RUN)
