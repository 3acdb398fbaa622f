"""Build the tiny test guest: one BIOS-bootable qcow2 out of Debian packages, without root and without loop devices.

    build.py OUTPUT.qcow2

The disk holds an MBR with syslinux, a FAT partition with kernel and initramfs, and an ext4 partition that
the guest mounts on /persist. Everything else the guest needs is in the initramfs: busybox, dropbear, sftp-server,
a handful of modules and the files below `root/`. Nothing of the build host gets into the image.

A build is skipped when OUTPUT is there and was made from the same scripts and package versions.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
OVERLAY = HERE / "root"

KERNEL = "linux-image-cloud-amd64"  # a metapackage: it names the real one
PACKAGES = (
    "busybox-static",
    "dropbear-bin",
    "openssh-sftp-server",
    "libc6",
    "libcrypt1",
    "libgmp10",
    "libtomcrypt1",
    "libtommath1",
    "zlib1g",
)
# Loaded in this order, each after what it depends on.
MODULES = (
    "sr_mod",
    "ata_piix",
    "virtio_pci",
    "virtio_blk",
    "virtio_scsi",
    "sd_mod",
    "isofs",
    "virtio_net",
    "af_packet",
    "button",
    "evdev",
    "virtio-rng",
    "virtio_balloon",
    "pvpanic-mmio",
    "pvpanic-pci",
)
PROGRAMS = {  # where the guest has it -> where its package has it
    "usr/sbin/dropbear": "usr/sbin/dropbear",
    "usr/bin/dropbearconvert": "usr/bin/dropbearconvert",
    "usr/lib/sftp-server": "usr/lib/openssh/sftp-server",  # the path that dropbear is built with
}
LIBRARY_DIRS = ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu")
LOADER = "lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"
DIRECTORIES = (
    *("bin", "dev", "etc", "etc/dropbear", "home", "lib", "lib64", "mnt", "persist", "proc", "root", "run", "sbin"),
    *("sys", "tmp", "usr", "usr/bin", "usr/lib", "usr/sbin", "var", "var/log"),
)
FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
    "etc/group": "root:x:0:\n",
    "etc/shells": "/bin/sh\n",
    "etc/hosts": "127.0.0.1 localhost\n",
    "etc/profile": "export PATH=/usr/sbin:/usr/bin:/sbin:/bin\nexport PS1='\\u@\\h:\\w\\$ '\n",
}
# no_timer_check and tsc=reliable leave out calibrations that only cost time on an emulated machine.
COMMAND_LINE = "console=ttyS0 panic=1 no_timer_check tsc=reliable mitigations=off"

SECTOR = 512
MIB = 1024 * 1024
BOOT_START, BOOT_SIZE = 1 * MIB, 30 * MIB
PERSIST_START, PERSIST_SIZE = 31 * MIB, 32 * MIB
DISK_SIZE = 64 * MIB
EPOCH = 1_700_000_000  # every time stamp in the image


class BuildError(Exception):
    """The image cannot be built; the text says what is missing."""


def run(*argv: str | Path, cwd: Path | None = None, stdin: bytes | None = None) -> str:
    environment = {**os.environ, "LC_ALL": "C", "SOURCE_DATE_EPOCH": str(EPOCH), "MTOOLS_SKIP_CHECK": "1"}
    done = subprocess.run(
        [str(argument) for argument in argv], cwd=cwd, input=stdin, capture_output=True, env=environment, check=False
    )
    if done.returncode != 0:
        said = (done.stderr or done.stdout).decode(errors="replace").strip()
        raise BuildError(f"{argv[0]} failed with {done.returncode}: {said}")
    return done.stdout.decode(errors="replace")


def package_versions() -> dict[str, str]:
    """The Debian packages that the image is made of, at the versions that apt would install now."""
    found = re.search(r"Depends: (linux-image-\S+-cloud-amd64)", run("apt-cache", "depends", KERNEL))
    if found is None:
        raise BuildError(f"apt does not know which kernel {KERNEL} stands for (run apt-get update)")
    versions = {}
    for name in (found.group(1), *PACKAGES):
        candidate = re.search(r"Candidate: (\S+)", run("apt-cache", "policy", name))
        if candidate is None or candidate.group(1) == "(none)":
            raise BuildError(f"apt has no candidate for {name} (run apt-get update)")
        versions[name] = candidate.group(1)
    return versions


def inputs_digest(versions: dict[str, str]) -> str:
    digest = hashlib.sha256()
    for path in sorted((HERE / "build.py", *OVERLAY.rglob("*"))):
        if path.is_file():
            digest.update(f"{path.relative_to(HERE)} {path.stat().st_mode:o}\0".encode() + path.read_bytes() + b"\0")
    for name, version in sorted(versions.items()):
        digest.update(f"{name}={version}\0".encode())
    return digest.hexdigest()


def unpack_packages(versions: dict[str, str], work: Path) -> Path:
    downloads, unpacked = work / "debs", work / "unpacked"
    downloads.mkdir()
    unpacked.mkdir()
    run("apt-get", "download", "-q", *(f"{name}={version}" for name, version in versions.items()), cwd=downloads)
    for package in sorted(downloads.glob("*.deb")):
        run("dpkg-deb", "-x", package, unpacked)
    return unpacked


@dataclass
class Archive:
    """A cpio archive in the kernel's "newc" form, written by hand so that it can hold root's files without root."""

    entries: dict[str, tuple[int, bytes, tuple[int, int]]] = field(default_factory=dict)

    def directory(self, name: str) -> None:
        for parent in reversed(Path(name).parents):
            if parent != Path() and str(parent) not in self.entries:
                self.directory(str(parent))
        self.entries.setdefault(name, (stat.S_IFDIR | 0o755, b"", (0, 0)))

    def file(self, name: str, content: bytes, mode: int = 0o644) -> None:
        self.directory(str(Path(name).parent))
        self.entries[name] = (stat.S_IFREG | mode, content, (0, 0))

    def link(self, name: str, target: str) -> None:
        self.entries.setdefault(name, (stat.S_IFLNK | 0o777, target.encode(), (0, 0)))

    def device(self, name: str, major: int, minor: int) -> None:
        self.entries[name] = (stat.S_IFCHR | 0o600, b"", (major, minor))

    def pack(self) -> bytes:
        packed = bytearray()
        entries = {**self.entries, "TRAILER!!!": (0, b"", (0, 0))}
        for number, (name, (mode, content, (major, minor))) in enumerate(entries.items(), start=1):
            fields = (number, mode, 0, 0, 1, EPOCH, len(content), 0, 0, major, minor, len(name) + 1, 0)
            packed += b"070701" + b"".join(b"%08X" % value for value in fields) + name.encode() + b"\0"
            packed += b"\0" * (-len(packed) % 4)
            packed += content
            packed += b"\0" * (-len(packed) % 4)
        return bytes(packed)


def modinfo(module: Path, key: str) -> str:
    found = re.search(rb"\0" + key.encode() + rb"=([^\0]*)\0", module.read_bytes())
    return found.group(1).decode() if found else ""


def ordered_modules(unpacked: Path) -> dict[str, Path]:
    """The modules and what they depend on, dependencies first; those built into the kernel are left out."""
    (tree,) = (unpacked / "lib/modules").iterdir()
    available = {path.stem.replace("-", "_"): path for path in tree.rglob("*.ko")}
    builtin = {Path(line).stem.replace("-", "_") for line in (tree / "modules.builtin").read_text().split()}
    ordered: dict[str, Path] = {}

    def add(name: str) -> None:
        if name in ordered or name in builtin:
            return
        if name not in available:
            raise BuildError(f"the kernel has no module {name}")
        for dependency in filter(None, modinfo(available[name], "depends").split(",")):
            add(dependency.replace("-", "_"))
        ordered[name] = available[name]

    for name in MODULES:
        add(name.replace("-", "_"))
    return ordered


def libraries(unpacked: Path) -> set[str]:
    """The shared libraries of PROGRAMS, as the unpacked loader resolves them: the host's are never looked at."""
    path = ":".join(str(unpacked / directory) for directory in LIBRARY_DIRS)
    found = {LOADER}
    for program in PROGRAMS.values():
        listing = run(unpacked / LOADER, "--library-path", path, "--list", unpacked / program)
        for name, target in re.findall(r"(\S+) => (\S+)", listing):
            resolved = Path(target)
            if not resolved.is_relative_to(unpacked):
                if name.startswith("/lib64/ld-linux"):
                    continue
                raise BuildError(f"{name}, needed by {program}, is in none of the packages")
            found.add(str(resolved.relative_to(unpacked)))
    return found


def initramfs(unpacked: Path) -> bytes:
    archive = Archive()
    for name in DIRECTORIES:
        archive.directory(name)
    archive.device("dev/console", 5, 1)
    archive.device("dev/null", 1, 3)
    for name, text in FILES.items():
        archive.file(name, text.encode())
    for path in sorted(OVERLAY.rglob("*")):
        if path.is_file():
            mode = 0o755 if os.access(path, os.X_OK) else 0o644
            archive.file(str(path.relative_to(OVERLAY)), path.read_bytes(), mode)
    for name, source in PROGRAMS.items():
        archive.file(name, (unpacked / source).read_bytes(), 0o755)
    for library in sorted(libraries(unpacked)):
        archive.file(library, (unpacked / library).read_bytes(), 0o755)
    archive.link("lib64/ld-linux-x86-64.so.2", f"/{LOADER}")

    busybox = unpacked / "bin/busybox"
    archive.file("bin/busybox", busybox.read_bytes(), 0o755)
    for applet in sorted(run(busybox, "--list-full").split()):
        archive.directory(str(Path(applet).parent))
        archive.link(applet, "/bin/busybox")

    modules = ordered_modules(unpacked)
    for name, source in modules.items():
        archive.file(f"lib/modules/{name}.ko", source.read_bytes())
    archive.file("lib/modules/order", "".join(f"{name}\n" for name in modules).encode())
    return gzip.compress(archive.pack(), 9, mtime=0)


def partition(start: int, size: int, kind: int, bootable: bool) -> bytes:
    chs = b"\xfe\xff\xff"  # "look at the LBA fields"
    lba = (start // SECTOR).to_bytes(4, "little") + (size // SECTOR).to_bytes(4, "little")
    return (b"\x80" if bootable else b"\0") + chs + bytes([kind]) + chs + lba


def write_disk(unpacked: Path, work: Path) -> Path:
    disk, boot = work / "disk.raw", f"{work / 'disk.raw'}@@{BOOT_START}"
    (kernel,) = (unpacked / "boot").glob("vmlinuz-*")
    (work / "initrd").write_bytes(initramfs(unpacked))
    (work / "syslinux.cfg").write_text(
        f"DEFAULT linux\nPROMPT 0\nTIMEOUT 0\nLABEL linux\n LINUX linux\n INITRD initrd\n APPEND {COMMAND_LINE}\n"
    )
    with disk.open("wb") as image:
        image.truncate(DISK_SIZE)
        mbr = Path("/usr/lib/syslinux/mbr/mbr.bin").read_bytes()
        image.write(mbr.ljust(440, b"\0")[:440] + b"HOLD\0\0")
        image.write(partition(BOOT_START, BOOT_SIZE, 0x0C, bootable=True))
        image.write(partition(PERSIST_START, PERSIST_SIZE, 0x83, bootable=False))
        image.write(b"\0" * 32 + b"\x55\xaa")
    sectors = str(BOOT_SIZE // SECTOR)
    run("mformat", "-i", boot, "-T", sectors, "-h", "64", "-s", "32", "-H", str(BOOT_START // SECTOR),
        "-N", "484f4c44", "-v", "BOOT", "::")  # fmt: skip
    run("mcopy", "-i", boot, kernel, "::linux")
    run("mcopy", "-i", boot, work / "initrd", work / "syslinux.cfg", "::")
    run("syslinux", "--install", "-t", str(BOOT_START), disk)
    run("mke2fs", "-q", "-F", "-t", "ext4", "-L", "holdfast", "-U", "486f6c64-6661-7374-0000-000000000001",
        "-E", f"offset={PERSIST_START},hash_seed=486f6c64-6661-7374-0000-000000000002,lazy_itable_init=0,root_owner=0:0",
        "-m", "0", disk, f"{PERSIST_SIZE // 1024}k")  # fmt: skip
    return disk


def build(output: Path) -> bool:
    """Build OUTPUT unless it is there and current; say whether anything was done."""
    versions = package_versions()
    digest = inputs_digest(versions)
    stamp = output.with_name(output.name + ".inputs")
    if output.exists() and stamp.exists() and stamp.read_text() == f"{digest}\n":
        return False
    output.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    try:
        disk = write_disk(unpack_packages(versions, work), work)
        run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c", disk, work / "image")
        stamp.unlink(missing_ok=True)
        (work / "image").replace(output)
        stamp.write_text(f"{digest}\n")
    finally:
        shutil.rmtree(work)
    return True


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        sys.stderr.write("usage: build.py OUTPUT.qcow2\n")
        return 64
    output = Path(arguments[0]).absolute()
    try:
        built = build(output)
    except (BuildError, FileNotFoundError) as error:
        sys.stderr.write(f"{output.name}: {error} (the build host needs the packages listed beside build.py)\n")
        return 1
    sys.stderr.write(f"{output}: {'built' if built else 'is current'}, {output.stat().st_size / 1e6:.1f} MB\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
