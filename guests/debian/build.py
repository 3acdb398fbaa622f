"""Build the Debian test guest: what a cloud image of Debian is made of, with the real cloud-init, as one qcow2.

An MBR with GRUB in the gap behind it, and one ext4 partition, the last, so that cloud-init can grow it with the disk.
mmdebstrap fills a directory from the Debian sources of the build host, and mke2fs makes the file system of it: no loop
device, no mount. It takes root, for the owners of the files. It has no SSH host keys: those come with the seed.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from guests.apt import kernel_package, package_versions
from guests.image import (
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

HERE = Path(__file__).resolve().parent
OVERLAY = HERE / "root"

KERNEL = "linux-image-cloud-amd64"
PACKAGES = (
    "cloud-init",
    "cloud-guest-utils",  # growpart
    "dbus",
    "e2fsprogs",
    "iproute2",
    "netbase",
    "openssh-server",
    "sudo",
    "systemd-sysv",
    "udev",
)
WATCHED = ("libc6", "python3-minimal", "systemd")
"""Not asked for by name, but a new version of them is a new image."""
EXCLUDED = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")
ENABLED = ("systemd-networkd.service",)
# Under emulation each of these costs a boot some tenths of a second to seconds, and no test looks at any.
MASKED = (
    *(
        "apt-daily.timer",
        "apt-daily-upgrade.timer",
        "dpkg-db-backup.timer",
        "e2scrub_all.timer",
        "e2scrub_reap.service",
    ),
    *("fstrim.timer", "getty@tty1.service", "systemd-binfmt.service", "systemd-pstore.service"),
    *("systemd-update-utmp.service", "systemd-update-utmp-runlevel.service"),
    *(
        "dev-hugepages.mount",
        "dev-mqueue.mount",
        "proc-sys-fs-binfmt_misc.automount",
        "proc-sys-fs-binfmt_misc.mount",
    ),
    *("sys-fs-fuse-connections.mount", "sys-kernel-config.mount", "sys-kernel-debug.mount"),
    *(
        "sys-kernel-tracing.mount",
        "modprobe@configfs.service",
        "modprobe@dm_mod.service",
        "modprobe@drm.service",
    ),
    *("modprobe@efi_pstore.service", "modprobe@fuse.service", "modprobe@loop.service"),
)

ROOT_LABEL = "cloudimg"
# no_timer_check and tsc=reliable leave out calibrations that only cost time on an emulated machine.
QUICKER = "no_timer_check tsc=reliable mitigations=off apparmor=0 audit=0"
COMMAND_LINE = f"root=LABEL={ROOT_LABEL} rw console=ttyS0 {QUICKER}"
GRUB = Path("/usr/lib/grub/i386-pc")
GRUB_CONFIG = f"""set root=(hd0,msdos1)
linux /vmlinuz {COMMAND_LINE}
initrd /initrd.img
boot
"""
PARTITION_START = 1 * MIB
DISK_SIZE = 2048 * MIB


def debian_sources() -> str:
    """The Debian archives that the build host itself uses, updates and security included, one a line."""
    form = "deb $(REPO_URI) $(RELEASE) $(COMPONENT)"
    sources = run(
        "apt-get", "indextargets", "--format", form, "Origin: Debian", "Identifier: Packages"
    )
    if not sources:
        raise BuildError("apt has no lists of Debian packages here (on Debian, run apt-get update)")
    return sources


def bootstrap(work: Path, more: Sequence[str]) -> Path:
    root, sources = work / "root", work / "sources.list"
    sources.write_text(debian_sources())
    # The initramfs is made while the kernel is installed: its settings have to be there by then.
    initramfs = OVERLAY / "etc/initramfs-tools"
    run(
        "mmdebstrap", "--mode=root", "--variant=minbase", f"--include={','.join((KERNEL, *PACKAGES, *more))}",
        '--aptopt=APT::Install-Recommends "false"',
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in EXCLUDED),
        f'--essential-hook=mkdir -p "$1/etc/initramfs-tools" && cp -r "{initramfs}/." "$1/etc/initramfs-tools/"',
        "", root, sources,
    )  # fmt: skip
    return root


def configure(root: Path) -> None:
    for name, path in tree(OVERLAY):
        target = root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        shutil.copyfile(path, target)
        target.chmod(0o755 if os.access(path, os.X_OK) else 0o644)
    for key in (root / "etc/ssh").glob("ssh_host_*"):
        key.unlink()
    (root / "etc/machine-id").write_text("")
    run("chroot", root, "systemctl", "enable", *ENABLED)
    run("chroot", root, "systemctl", "mask", *MASKED)


def write_disk(work: Path, more: Sequence[str]) -> Path:
    root, disk, core = bootstrap(work, more), work / "disk.raw", work / "core.img"
    configure(root)
    (work / "grub.cfg").write_text(GRUB_CONFIG)
    run(
        "grub-mkimage", "-O", "i386-pc", "-p", "(hd0,msdos1)/boot/grub", "-c", work / "grub.cfg", "-o", core,
        "biosdisk", "part_msdos", "ext2", "linux",
    )  # fmt: skip
    if core.stat().st_size > PARTITION_START - SECTOR:
        raise BuildError("GRUB does not fit in front of the first partition")
    size = DISK_SIZE - PARTITION_START
    with disk.open("wb") as image:
        image.truncate(DISK_SIZE)
        boot_code = (GRUB / "boot.img").read_bytes()
        image.write(
            master_boot_record(boot_code, partition(PARTITION_START, size, LINUX, bootable=True))
        )
        image.write(core.read_bytes())  # boot.img loads what begins in the sector after it
    run(
        "mke2fs", "-q", "-F", "-t", "ext4", "-L", ROOT_LABEL, "-m", "1", "-d", root,
        "-O", "^metadata_csum_seed,^orphan_file",  # GRUB of Debian 12 reads neither
        "-E", f"offset={PARTITION_START}", disk, f"{size // 1024}k",
    )  # fmt: skip
    return disk


def build(output: Path, *more: str) -> bool:
    """Build OUTPUT, with `more` packages, unless it is there and current; say whether anything was done."""
    versions = package_versions((kernel_package(KERNEL), *PACKAGES, *WATCHED, *more))
    if os.geteuid() != 0:
        raise BuildError("mmdebstrap needs root here")
    return publish(
        output, inputs_digest(HERE, versions), lambda work: write_disk(work, more), compress=True
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], build, more="PACKAGE"))
