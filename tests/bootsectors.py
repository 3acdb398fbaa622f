"""Guests of a few bytes: boot sectors that idle, power off, panic, reset, obey, chatter or write.

Each is 16-bit code at 0x7c00, with its listing in the syntax of the GNU assembler. The ports are those of QEMU's `pc`:
0x600 is PM1a, whose status, enable and control registers lie at +0, +2 and +4 once the firmware has set them up;
0x505 is pvpanic, 0xcf9 the reset register of PIIX3, 0x3f8 the first serial line.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

Kind = Literal["idle", "off", "panic", "reset", "obedient", "chatter", "writer"]

_CODE: dict[Kind, str] = {
    # sti; 1: hlt; jmp 1b
    "idle": "fbf4ebfd",
    # mov $0x604,%dx; mov $0x2000,%ax; out %ax,%dx; hlt
    "off": "ba0406b80020eff4",
    # mov $0x505,%dx; mov $1,%al; out %al,%dx; 1: hlt; jmp 1b
    "panic": "ba0505b001eef4ebfd",
    # mov $0xcf9,%dx; mov $6,%al; out %al,%dx; hlt
    "reset": "baf90cb006eef4",
    # Enables the power button's event, says `R` on the serial line, and powers off when the button was pressed:
    # mov $0x602,%dx; mov $0x100,%ax; out %ax,%dx; mov $0x3f8,%dx; mov $'R',%al; out %al,%dx; sti
    # 1: hlt; mov $0x600,%dx; in %dx,%ax; test $1,%ah; jz 1b; mov $0x604,%dx; mov $0x2000,%ax; out %ax,%dx; hlt
    "obedient": "ba0206b80001efbaf803b052eefbf4ba0006edf6c40174f6ba0406b80020eff4",
    # mov $0x3f8,%dx; mov $'!',%al; 1: out %al,%dx; jmp 1b
    "chatter": "baf803b021eeebfd",
    # Writes 32 KiB after 32 KiB from sector 128 on, for ever (INT 13h, function 43h):
    # xor %ax,%ax; mov %ax,%ds; 1: mov $packet,%si; mov $0x43,%ah; mov $0,%al; mov $0x80,%dl; int $0x13
    # addl $64,lba; jmp 1b; .balign 4; packet: .byte 16,0; .word 64,0,0x1000; lba: .long 128,0
    "writer": "31c08ed8be187cb443b000b280cd13668306207c40ebed9010004000000000108000000000000000",
}


def write_disk(path: Path, kind: Kind, size: int) -> None:
    """A raw disk of `size` bytes whose firmware starts such a guest; read-only, as in an image store."""
    with path.open("xb") as file:
        file.write(bytes.fromhex(_CODE[kind]).ljust(510, b"\0") + b"\x55\xaa")
        file.truncate(size)
    path.chmod(0o444)
