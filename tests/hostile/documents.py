"""Documents that are written to break, stall or deceive their reader, each with what its file must come to.

`BOMBS` cannot be read: nothing in them is believed. `TRAPS` can be read, and hold the name that they give. `TREES` do
things to a directory that content alone cannot do.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path

HEAD = "api: holdfast/v1\nkind: vm\nname: evil\n"
JOB = "api: holdfast/v1\nkind: job\nname: evil\nscript: x\n"


def alias_bomb(levels: int = 12, width: int = 10) -> str:
    """A billion laughs: each level holds the one before it ten times."""
    lines = ["l0: &l0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [
        f"l{level}: &l{level} [{', '.join([f'*l{level - 1}'] * width)}]"
        for level in range(1, levels)
    ]
    return HEAD + "\n".join(lines) + "\n"


def merge_bomb(levels: int = 12) -> str:
    """A billion laughs through merge keys, which explode while a loader reads them."""
    lines = ["l0: &l0 {a: x, b: x, c: x}"]
    lines += [
        f"l{level}: &l{level} {{<<: [{', '.join([f'*l{level - 1}'] * 9)}]}}"
        for level in range(1, levels)
    ]
    return HEAD + "\n".join(lines) + "\n"


BOMBS: Mapping[str, bytes] = {
    "a billion laughs": alias_bomb().encode(),
    "a billion laughs through merge keys": merge_bomb().encode(),
    "many aliases of one large text": (
        HEAD + f"a: &a '{'x' * 100_000}'\nb: [{', '.join(['*a'] * 5_000)}]\n"
    ).encode(),
    "an alias that holds itself": b"a: &a {b: *a}\n",
    "brackets to the end": HEAD.encode() + b"a: " + b"[" * 1_000_000,
    "braces to the end": HEAD.encode() + b"a: " + b"{a: " * 250_000,
    "lists in lists by dashes": b"- " * 500_000,
    "questions to the end": b"? " * 500_000,
    "anchors to the end": b"&a " * 300_000,
    "five megabytes": HEAD.encode() + b"# " + b"x" * 5_000_000,
    "ninety thousand small mappings": b"- {a: b}\n" * 90_000,
    "a hundred thousand documents": b"--- a\n" * 100_000,
    "a quote that never ends": HEAD.encode() + b'a: "' + b"x" * 1_000_000,
    "UTF-16 with a mark": HEAD.encode("utf-16"),
    "UTF-16 without a mark": HEAD.encode("utf-16-le"),
    "UTF-32": HEAD.encode("utf-32"),
    "Latin-1": (HEAD + "labels: {a: é}\n").encode("latin-1"),
    "a NUL": HEAD.encode() + b"labels: {a: x\0y}\n",
    "an escape sequence": HEAD.encode() + b"labels: {a: '\x1b[2J'}\n",
    "a line break that no editor shows": HEAD.encode() + "# a\u2028cpus: 2\n".encode(),
    "a mark in the middle": HEAD.encode() + "labels: {a: \ufeff}\n".encode(),
    "half a character": HEAD.encode() + b"labels: {a: '\xc3'}\n",
    "an overlong NUL": HEAD.encode() + b"labels: {a: '\xc0\x80'}\n",
    "random bytes": bytes(range(256)) * 16,
    "half of a file": (HEAD + "labels: {a: [").encode(),
    "another program's file": b"\x7fELF" + bytes(4096),
}

TRAPS: Mapping[str, str] = {
    "a key given twice": HEAD + "memory: 1GiB\nmemory: 64GiB\n",
    "a merge key": HEAD + "a: &a {cpus: 2}\n<<: *a\n",
    "a tag that makes an object": HEAD + "labels: !!python/object/apply:os.system ['id']\n",
    "a tag that makes text": HEAD + "labels: {a: !!str 5}\n",
    "a tag that makes bytes": HEAD + "user_data: !!binary aGVsbG8=\n",
    "a time of the day as a port": HEAD + "ports:\n  - host: 2222:22\n    guest: 22\n",
    "an octal port": HEAD + "ports: [{host: 0755, guest: 22}]\n",
    "a boolean as a number": HEAD + "cpus: yes\n",
    "a truth as a number": HEAD + "cpus: true\n",
    "a huge number": HEAD + f"cpus: {'9' * 100_000}\n",
    "infinity": HEAD + "cpus: .inf\n",
    "an option in an address": HEAD
    + "ports: [{host: 80, guest: 80, address: '127.0.0.1,guestfwd=tcp:10.0.2.100:80-cmd:id'}]\n",
    "an option in a label": HEAD + "image: 'debian,readonly=off'\n",
    "a path in a label": HEAD + "image: ../../etc/shadow\n",
    "user data from outside": HEAD + "user_data_file: ../../../../../../etc/passwd\n",
    "user data from the root": HEAD + "user_data_file: /etc/passwd\n",
    "user data from a device": HEAD + "user_data_file: /dev/zero\n",
    "an invisible label": HEAD + "labels: {a: 'x\u200by'}\n",
    "a reversed label": HEAD + "labels: {a: 'x\u202ey'}\n",
    "many unknown keys": HEAD + "".join(f"key{n}: 1\n" for n in range(20_000)),
    "many labels": HEAD + "labels: {" + ", ".join(f"k{n}: v" for n in range(20_000)) + "}\n",
    "many ports": HEAD
    + "ports: ["
    + ", ".join("{host: 1, guest: 1}" for _ in range(10_000))
    + "]\n",
    "nothing": HEAD + "memory:\n",
    "an assignment as a variable": JOB + "env: {'PATH=/tmp': x}\n",
    "a command as a variable": JOB + "env: {'A$(id)': x}\n",
    "a function as a variable": JOB + "env: {'BASH_FUNC_ls%%': '() { id; }'}\n",
    "a NUL in a variable": JOB + 'env: {A: "x\\0y"}\n',
    "more environment than a program can be given": JOB
    + f"env: {{A0: &a {'x' * 100_000}, {', '.join(f'A{n}: *a' for n in range(1, 200))}}}\n",
    "a NUL in a path": JOB + 'files: [{path: "/root/a\\0b", source: evil.yaml}]\n',
    "a path that climbs": JOB + "files: [{path: /root/../etc/shadow, source: evil.yaml}]\n",
    "a path that is an option": JOB + "files: [{path: -rf, source: evil.yaml}]\n",
    "a very deep path": JOB + f"files: [{{path: {'/a' * 100_000}, source: evil.yaml}}]\n",
    "many deep paths": JOB
    + "files: ["
    + ", ".join(f"{{path: {'/a' * 2000}, source: u}}" for _ in range(255))
    + "]\n",
    "very many files": JOB
    + f"files: [{', '.join(f'{{path: /{n}, source: u{n}}}' for n in range(10_000))}]\n",
    "many files that are not there": JOB
    + f"files: [{', '.join(f'{{path: /{n}, source: u{n}}}' for n in range(255))}]\n",
    "a pattern that takes for ever": JOB + f"artifacts: [/{'*a' * 200}]\n",
    "a pattern that descends for ever": JOB + f"artifacts: [/{'**/' * 200}x]\n",
    "a pattern of open brackets": JOB + f"artifacts: ['/{'[' * 250}']\n",
    "a pattern that climbs": JOB + "artifacts: [/root/**/../../etc/shadow]\n",
    "a number as a mode": JOB + "files: [{path: /a, source: evil.yaml, mode: 0o644}]\n",
    "a script from outside": JOB.replace("script: x", "script_file: ../../../../../../etc/passwd"),
    "a script from the root": JOB.replace("script: x", "script_file: /etc/passwd"),
    "a script from a device": JOB.replace("script: x", "script_file: /dev/zero"),
    "a file from outside": JOB + "files: [{path: /a, source: ../../../../../../etc/passwd}]\n",
    "no kind of job": JOB.replace("kind: job", "kind: jbo"),
}

NAMES = [
    *(
        "../evil",
        "/evil",
        ".",
        "..",
        "evil/../../x",
        "-rf",
        "evil,process=x",
        "evil=x",
        "evil\\0",
        "EVIL",
    ),
    *(
        "evil\\n",
        "e\\u202evil",
        "e\\u200bvil",
        "évil",
        "evil ",
        " evil",
        "",
        "e" * 64,
        "e" * 5000,
        "\uff45vil",
    ),
]
"""Names that climb, inject, hide or are too long; as they stand between double quotes."""


def _fifo(root: Path) -> None:
    os.mkfifo(root / "evil.yaml")


def _socket(root: Path) -> None:
    here = os.getcwd()
    os.chdir(root)
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("evil.yaml")
    finally:
        os.chdir(here)


def _device(root: Path) -> None:
    (root / "evil.yaml").symlink_to("/dev/zero")


def _link_out(root: Path) -> None:
    (root / "evil.yaml").symlink_to("/etc/passwd")


def _folder_out(root: Path) -> None:
    (root / "evil").symlink_to("/etc")


def _link_up(root: Path) -> None:
    (root / "evil.yaml").symlink_to("../..")


def _circle(root: Path) -> None:
    (root / "evil.yaml").symlink_to("evil2.yaml")
    (root / "evil2.yaml").symlink_to("evil.yaml")


def _itself(root: Path) -> None:
    (root / "evil").symlink_to(".")


def _deep(root: Path) -> None:
    here = os.open(root, os.O_RDONLY)
    for _ in range(600):  # deeper than a path may be long
        os.mkdir("evil-evil", dir_fd=here)
        below = os.open("evil-evil", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)


def _fifo_ignored(root: Path) -> None:
    (root / "evil").mkdir()
    os.mkfifo(root / "evil" / ".holdfastignore")


def _slow_pattern(root: Path) -> None:
    (root / "evil").mkdir()
    (root / "evil" / ".holdfastignore").write_text("*a" * 40 + "b\n")
    (root / "evil" / ("a" * 200 + ".yaml")).write_text(HEAD)


TREES: Mapping[str, Callable[[Path], None]] = {
    "a FIFO": _fifo,
    "a socket": _socket,
    "a link to an endless device": _device,
    "a link to a file outside": _link_out,
    "a link to a directory outside": _folder_out,
    "a link to a directory above": _link_up,
    "links in a circle": _circle,
    "a link to its own directory": _itself,
    "directories without end": _deep,
    "a FIFO as ignore file": _fifo_ignored,
    "a pattern that takes for ever": _slow_pattern,
}
