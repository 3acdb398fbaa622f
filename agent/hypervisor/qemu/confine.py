"""Says with what little a QEMU process starts: its user, groups, capabilities and limits. Pure.

What a guest may break out into is this process, since TCG is no security boundary (docs/system/security.rst of QEMU).
So util-linux does, before QEMU's first instruction, what QEMU's own `-runas` cannot do together with a full sandbox:

    setpriv   user and group of the machine, no supplementary groups, no capabilities for ever, no new privileges
    prlimit   no core dumps, and ends to descriptors, threads, locked memory and the size of a file
"""

from __future__ import annotations

from dataclasses import dataclass

LOCKED_MEMORY = 64 << 10
"""Bytes: a few rings of io_uring on kernels that count them."""

DESCRIPTORS = 4096
"""Open files: about one for each connection of the guest."""

THREADS = 512
"""Tasks of one machine's user: processors, up to 64 block workers, and room."""

SMALLEST_FILE_LIMIT = 256 << 20
LARGEST_FILE_LIMIT = 16 << 30


@dataclass(frozen=True, slots=True)
class Confinement:
    """Under what one machine runs. `run_as`: uid and gid, None to stay who we are; `from_root`: whether that is root,
    who has capabilities to lose. `groups`: the supplementary ones, for a device that only they may open. `disk`: bytes
    of its largest disk, which say how large a file of it may become. `open_files`: how many."""

    run_as: int | None
    from_root: bool
    groups: tuple[int, ...]
    disk: int
    open_files: int = DESCRIPTORS

    def wrap(self, command: list[str]) -> list[str]:
        """`command` behind the programs that bring this about; each replaces itself with the next, so that the process
        that is started is the one that runs QEMU."""
        return [*self.privileges(), *self._limits(), *command]

    def privileges(self) -> list[str]:
        """The words that give up privileges, before a command."""
        words = ["setpriv"]
        if self.run_as is not None:
            words += [f"--reuid={int(self.run_as)}", f"--regid={int(self.run_as)}"]
            listed = ",".join(str(int(group)) for group in self.groups)
            words.append(f"--groups={listed}" if listed else "--clear-groups")
        if self.from_root:
            words += ["--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all"]
        return [*words, "--no-new-privs", "--"]

    def _limits(self) -> list[str]:
        limits = ["prlimit", "--core=0:0", f"--memlock={LOCKED_MEMORY}:{LOCKED_MEMORY}"]
        limits.append(f"--nofile={self.open_files}:{self.open_files}")
        if self.run_as is None:
            # The agent could not raise a hard limit again for a disk that grows; and its own user has other threads.
            limits.append(f"--fsize={file_size_limit(self.disk)}:")
        else:
            limits.append(f"--fsize={file_size_limit(self.disk)}:{most_file_size(self.disk)}")
            limits.append(f"--nproc={THREADS}:{THREADS}")
        return [*limits, "--"]


def file_size_limit(disk: int) -> int:
    """Bytes that no file may exceed where the largest is a qcow2 of `disk` bytes, whose tables are less than a
    thousandth of it.

    It is the second line against a guest that floods its serial log: the first cuts the log, as long as an agent runs.
    """
    return max(SMALLEST_FILE_LIMIT, disk + disk // 32)


def most_file_size(disk: int) -> int:
    """The limit up to which that one may be raised for a disk that grows. Ample: not every root may raise it further
    for another process."""
    return max(LARGEST_FILE_LIMIT, 4 * disk)
