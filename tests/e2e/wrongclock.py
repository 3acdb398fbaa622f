"""A wall clock that is wrong: a library that is loaded before the C library and adds to what the kernel says of it.

Every program that is started behind it reads that clock, SQLite and git too. Clocks that only count stay right.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

_LIBRARY = """\
        .globl  clock_gettime, gettimeofday, time
        .type   clock_gettime, @function
        .type   gettimeofday, @function
        .type   time, @function
clock_gettime:
        mov     $228, %eax              # clock_gettime(clock, seconds and nanoseconds)
        syscall
        test    %edi, %edi              # CLOCK_REALTIME
        jz      1f
        cmp     $5, %edi                # CLOCK_REALTIME_COARSE
        je      1f
        ret
gettimeofday:
        mov     $96, %eax               # gettimeofday(seconds and microseconds, timezone)
        mov     %rdi, %r8
        syscall
        mov     %r8, %rsi
1:      movabs  $OFFSET, %rdx
        add     %rdx, (%rsi)
        ret
time:   mov     %rdi, %r8
        xor     %edi, %edi
        mov     $201, %eax              # time(seconds)
        syscall
        movabs  $OFFSET, %rdx
        add     %rdx, %rax
        test    %r8, %r8
        jz      2f
        mov     %rax, (%r8)
2:      ret
        .section .note.GNU-stack
"""


def wrong_clock(directory: Path, offset: int) -> list[str]:
    """What a program is started behind whose wall clock is wrong by so many seconds."""
    source, made, library = (directory / f"clock.{end}" for end in ("s", "o", "so"))
    source.write_text(_LIBRARY.replace("OFFSET", str(offset)))
    subprocess.run(["as", "-o", made, source], check=True)
    subprocess.run(["ld", "-shared", "-o", library, made], check=True)
    return ["env", f"LD_PRELOAD={library}"]
