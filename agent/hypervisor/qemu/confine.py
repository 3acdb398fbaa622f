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

SMALLEST_FILE_LIMIT = 16 << 30


@dataclass(frozen=True, slots=True)
class Confinement:
    """Under what one machine runs. `run_as`: uid and gid, None to stay who we are; `from_root`: whether that is root,
    who has capabilities to lose. `groups`: the supplementary ones, for a device that only they may open. `file_size`:
    bytes that no file of it may exceed. `open_files`: how many."""

    run_as: int | None
    from_root: bool
    groups: tuple[int, ...]
    file_size: int
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
            limits.append(f"--fsize={self.file_size}:")
        else:
            limits.append(f"--fsize={self.file_size}:{self.file_size}")
            limits.append(f"--nproc={THREADS}:{THREADS}")
        return [*limits, "--"]


def file_size_limit(disk: int) -> int:
    """Bytes that no file may exceed where the largest is a qcow2 of `disk` bytes. Ample: its tables are less than a
    thousandth of it, but it may grow while it is in use, and not every root may raise the limit of another process.

    It is the second line against a guest that floods its serial log; the first cuts the log.
    """
    return max(SMALLEST_FILE_LIMIT, 4 * disk)
