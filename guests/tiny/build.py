"""Build the tiny test guest: one disk for BIOS and UEFI out of Debian packages, without root and without loop devices.

The disk holds an MBR with syslinux, a FAT partition with kernel and initramfs, and an ext4 partition that the guest
mounts on /persist. UEFI firmware starts systemd-boot, where it looks for a loader on any FAT partition. Everything else
that the guest needs is in the initramfs: busybox, dropbear, sftp-server, a handful of modules and the files below
`root/`. Nothing of the build host gets into the image.
"""

from __future__ import annotations

import gzip
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path

from guests.apt import kernel_package, package_versions
from guests.image import (
    EPOCH,
    FAT32_LBA,
    LINUX,
    MIB,
    SECTOR,
    BuildError,
    inputs_digest,
    main,
    master_boot_record,
    partition,
    publish,
    run,
    tree,
)
from guests.tiny.cpio import Archive

HERE = Path(__file__).resolve().parent
OVERLAY = HERE / "root"

KERNEL = "linux-image-cloud-amd64"  # a metapackage: it names the real one
PACKAGES = (
    "busybox-static",
    "dropbear-bin",
    "openssh-sftp-server",
    "systemd-boot-efi",
    "libc6",
    "libcrypt1",
    "libgmp10",
    "libtomcrypt1",
    "libtommath1",
    "zlib1g",
)
# Loaded in this order, each after what it depends on.
MODULES = (
    "virtio_pci",
    "virtio_blk",
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
# And these where no virtio disk has the seed, or where UEFI has started it.
LATER_MODULES = ("sr_mod", "ata_piix", "virtio_scsi", "sd_mod")
UEFI_MODULES = ("efivarfs",)
PROGRAMS = {  # where the guest has it -> where its package has it
    "usr/sbin/dropbear": "usr/sbin/dropbear",
    "usr/bin/dropbearconvert": "usr/bin/dropbearconvert",
    "usr/lib/sftp-server": "usr/lib/openssh/sftp-server",  # the path that dropbear is built with
}
LIBRARY_DIRS = ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu")
LOADER = "lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"
DIRECTORIES = (
    *(
        "bin",
        "dev",
        "etc",
        "etc/dropbear",
        "home",
        "lib",
        "lib64",
        "mnt",
        "persist",
        "proc",
        "root",
        "run",
        "sbin",
    ),
    *("sys", "tmp", "usr", "usr/bin", "usr/lib", "usr/sbin", "var", "var/log"),
)
FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
    "etc/group": "root:x:0:\n",
    "etc/shells": "/bin/sh\n",
    "etc/hosts": "127.0.0.1 localhost\n",
    "etc/profile": "export PATH=/usr/sbin:/usr/bin:/sbin:/bin\nexport PS1='\\u@\\h:\\w\\$ '\n",
}
# Most of an emulated boot is spent on code that runs once: what the guest can do without is left out.
UNUSED = (
    "crypto_kdf108_init",  # tests itself
    "cubictcp_register",
    "init_blk_tracer",
    "init_encrypted",
    "init_ima",
    "init_kprobe_trace",
    "init_sel_fs",
    "load_system_certificate_list",
)
COMMAND_LINE = (
    "console=ttyS0 loglevel=6 panic=1 no_timer_check tsc=reliable mitigations=off acpi=noirq pci=nomsi nokaslr"
    " noreplace-smp init_on_alloc=0 cryptomgr.notests edd=off audit=0 ipv6.disable=1 lsm="
    f" initcall_blacklist={','.join(UNUSED)}"
)
LOADER_FILES = {  # of syslinux and of systemd-boot
    "syslinux.cfg": f"""DEFAULT linux
PROMPT 0
TIMEOUT 0
LABEL linux
 LINUX linux
 INITRD initrd
 APPEND {COMMAND_LINE}
""",
    "loader/loader.conf": "timeout 0\n",
    "loader/entries/linux.conf": f"linux /linux\ninitrd /initrd\noptions {COMMAND_LINE}\n",
}
UEFI_LOADER = "EFI/BOOT/BOOTX64.EFI"  # where the firmware looks on a disk that it does not know

BOOT_START, BOOT_SIZE = 1 * MIB, 30 * MIB
PERSIST_START, PERSIST_SIZE = 31 * MIB, 32 * MIB
DISK_SIZE = 64 * MIB
FILE_SYSTEM_ID = "486f6c64-6661-7374-0000-000000000001"


def unpack_packages(versions: dict[str, str], work: Path) -> Path:
    downloads, unpacked = work / "debs", work / "unpacked"
    downloads.mkdir()
    unpacked.mkdir()
    run(
        "apt-get",
        "download",
        "-q",
        *(f"{name}={version}" for name, version in versions.items()),
        cwd=downloads,
    )
    for package in sorted(downloads.glob("*.deb")):
        run("dpkg-deb", "-x", package, unpacked)
    return unpacked


def modinfo(module: Path, key: str) -> str:
    found = re.search(rb"\0" + key.encode() + rb"=([^\0]*)\0", module.read_bytes())
    return found.group(1).decode() if found else ""


def ordered_modules(unpacked: Path, wanted: Iterable[str]) -> dict[str, Path]:
    """The modules and what they depend on, dependencies first; those built into the kernel are left out."""
    (tree,) = (unpacked / "lib/modules").iterdir()
    available = {path.stem.replace("-", "_"): path for path in tree.rglob("*.ko")}
    builtin = {
        Path(line).stem.replace("-", "_") for line in (tree / "modules.builtin").read_text().split()
    }
    ordered: dict[str, Path] = {}

    def add(name: str) -> None:
        if name in ordered or name in builtin:
            return
        if name not in available:
            raise BuildError(f"the kernel has no module {name}")
        for dependency in filter(None, modinfo(available[name], "depends").split(",")):
            add(dependency.replace("-", "_"))
        ordered[name] = available[name]

    for name in wanted:
        add(name.replace("-", "_"))
    return ordered


def unsigned(module: bytes) -> bytes:
    """Without the signature at its end, which an emulated processor takes long to verify and nobody here demands."""
    marker = b"~Module signature appended~\n"
    if not module.endswith(marker):
        return module
    # struct module_signature of the kernel: twelve bytes, the last four the length of what stands before them.
    size = int.from_bytes(module[-len(marker) - 4 : -len(marker)], "big")
    return module[: -len(marker) - 12 - size]


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
    for name, path in tree(OVERLAY):
        archive.file(name, path.read_bytes(), 0o755 if os.access(path, os.X_OK) else 0o644)
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

    packed: set[str] = set()
    for when, wanted in (("first", MODULES), ("later", LATER_MODULES), ("uefi", UEFI_MODULES)):
        modules = ordered_modules(unpacked, wanted)
        order = [name for name in modules if name not in packed]
        for name in order:
            archive.file(f"lib/modules/{name}.ko", unsigned(modules[name].read_bytes()))
        archive.file(f"lib/modules/{when}", "".join(f"{name}\n" for name in order).encode())
        packed |= set(order)
    return gzip.compress(archive.pack(), 9, mtime=0)


def boot_files(unpacked: Path, work: Path) -> Path:
    """A directory with all that the boot partition holds, but for what `syslinux --install` puts there itself."""
    root = work / "boot"
    (kernel,) = (unpacked / "boot").glob("vmlinuz-*")
    contents = {
        "linux": kernel.read_bytes(),
        "initrd": initramfs(unpacked),
        UEFI_LOADER: (unpacked / "usr/lib/systemd/boot/efi/systemd-bootx64.efi").read_bytes(),
        **{name: text.encode() for name, text in LOADER_FILES.items()},
    }
    for name, content in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    for path in root.rglob("*"):
        os.utime(path, (EPOCH, EPOCH))
    return root


def write_disk(unpacked: Path, work: Path) -> Path:
    disk, boot = work / "disk.raw", f"{work / 'disk.raw'}@@{BOOT_START}"
    with disk.open("wb") as image:
        image.truncate(DISK_SIZE)
        mbr = Path("/usr/lib/syslinux/mbr/mbr.bin").read_bytes()
        boot_partition = partition(BOOT_START, BOOT_SIZE, FAT32_LBA, bootable=True)
        image.write(
            master_boot_record(mbr, boot_partition, partition(PERSIST_START, PERSIST_SIZE, LINUX))
        )
    sectors = str(BOOT_SIZE // SECTOR)
    run("mformat", "-i", boot, "-T", sectors, "-h", "64", "-s", "32", "-H", str(BOOT_START // SECTOR),
        "-N", "484f4c44", "-v", "BOOT", "::")  # fmt: skip
    run("mcopy", "-s", "-m", "-i", boot, *sorted(boot_files(unpacked, work).iterdir()), "::")
    run("syslinux", "--install", "-t", str(BOOT_START), disk)
    run(
        "mke2fs", "-q", "-F", "-t", "ext4", "-L", "holdfast", "-U", FILE_SYSTEM_ID, "-m", "0",
        "-E", f"offset={PERSIST_START},hash_seed={FILE_SYSTEM_ID},lazy_itable_init=0,root_owner=0:0",
        disk, f"{PERSIST_SIZE // 1024}k",
    )  # fmt: skip
    return disk


def build(output: Path) -> bool:
    """Build OUTPUT unless it is there and current; say whether anything was done."""
    versions = package_versions((kernel_package(KERNEL), *PACKAGES))
    return publish(
        output,
        inputs_digest(HERE, versions),
        lambda work: write_disk(unpack_packages(versions, work), work),
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], build))
