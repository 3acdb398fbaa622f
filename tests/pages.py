"""The Markdown of this repository as its tests take it: links, blocks of commands, and a shell to run those in.

A page that says so (`RUN`) is run as it stands, in a directory that is made for it. The tiny guest lies there as
`tiny.qcow2`, and what an agent makes has to lie in `state`. A `yaml` block that begins with `# FILE` is written to that
file; each `$` line of a `console` block is given to one shell, whose home the directory is. A command has to succeed,
unless the next one is `echo $?`. What the page shows below it must be printed, in that order; `…` stands for lines that
are left out. Blocks of another kind are not run.

`python -m tests.pages PAGE` prints what a page's commands print, for whoever writes one.
"""

from __future__ import annotations

import os
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RUN = "*The commands of this page are run as they stand by `make docs`.*"
PROGRAM = [sys.executable, "-m", "agent"]
_OPERATORS = "();<>|&"


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: what follows its fence, and its lines."""

    kind: str
    text: str

    @property
    def session(self) -> list[tuple[str, list[str]]]:
        """Each command of a `console` block, which begins with its prompt, and the output that is shown below it."""
        found: list[tuple[str, list[str]]] = []
        prompt = self.text[:2]
        for line in self.text.splitlines():
            if line.startswith(prompt):
                found.append((line[2:], []))
            elif found and line.startswith("> "):
                command, shown = found.pop()
                found.append((f"{command}\n{line[2:]}", shown))
            else:
                found[-1][1].append(line)
        return found

    @property
    def calls(self) -> list[list[str]]:
        """The words of every call of the program, the program's own name left out."""
        lines = self.text.replace("\\\n", " ").splitlines()
        if self.kind == "console":
            lines = [command for command, _ in self.session]
        return [call for line in lines for call in _calls(line)]


def pages() -> list[Path]:
    """Every page that is kept here."""
    found = (path.relative_to(ROOT) for path in ROOT.rglob("*.md"))
    return sorted(path for path in found if not path.parts[0].startswith((".", "build")))


def read(page: Path | str) -> str:
    return (ROOT / page).read_text()


def blocks(text: str) -> list[Block]:
    found = re.findall(r"^ *```([^\n]*)\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE)
    return [Block(kind.strip(), body) for kind, body in found]


def prose(text: str) -> str:
    """What is left of a page without its blocks."""
    return re.sub(r"^ *```.*?^ *```$", "", text, flags=re.DOTALL | re.MULTILINE)


def links(text: str) -> list[str]:
    """Where a page leads to within this repository; images count."""
    plain = re.sub(r"`[^`\n]*`", lambda code: code[0] if code[0].endswith("](") else "`code`", text)
    found = re.findall(r"\]\(([^)\s]+)\)", prose(plain))
    return [target for target in found if not re.match(r"[a-z]+:", target)]


def anchors(text: str) -> set[str]:
    """What a page's headings are called in links, as GitHub names them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.*)$", prose(text), re.MULTILINE):
        shown = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        name = re.sub(r"[^\w\- ]", "", shown).replace(" ", "-")
        again = sum(re.fullmatch(rf"{re.escape(name)}(-\d+)?", one) is not None for one in found)
        found.add(f"{name}-{again}" if again else name)
    return found


def comparable(line: str) -> str:
    """A line without what differs from run to run: numbers, digests, widths of columns, how the program is called."""
    line = line.replace(".venv/bin/holdfast", "holdfast")
    line = re.sub(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "ID", line)
    line = re.sub(r"\b(?=[a-f]*\d)[0-9a-f]{7,64}\b", "ID", line)
    return re.sub(r"\s+", " ", re.sub(r"\d+(\.\d+)?[smh]?", "N", line)).strip()


def missing(shown: list[str], said: list[str]) -> str | None:
    """The first line that is shown and was not said after those above it."""
    rest = iter([comparable(line) for line in said])
    for line in shown:
        if line.strip() != "…" and comparable(line) not in rest:
            return line
    return None


class Shell:
    """One shell that runs commands one after the other, as a person types them."""

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self._directory = directory
        self._process = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=directory,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def call(self, command: str) -> tuple[int, list[str]]:
        """The status of a command, and what it printed on either stream."""
        process, mark = self._process, secrets.token_hex(8)
        assert process.stdin is not None
        assert process.stdout is not None
        ending = f"status=$?; echo; echo {mark} $status; (exit $status)"
        process.stdin.write(f"{{ {command}\n}} </dev/null; {ending}\n")
        process.stdin.flush()
        said: list[str] = []
        for line in process.stdout:
            if line.startswith(f"{mark} "):
                return int(line.split()[1]), said if said[-1] else said[:-1]
            said.append(line.rstrip("\n"))
        raise AssertionError(f"the shell ended after {command}: {said}")

    def close(self) -> None:
        """End it, also in the midst of a command."""
        with self._process:
            self._process.kill()


@contextmanager
def place() -> Iterator[Path]:
    """A directory for one page, with the tiny guest in it; what an agent has made there goes with it."""
    root = Path(tempfile.mkdtemp(prefix="hf-"))
    try:
        image = os.environ.get("HOLDFAST_TINY_IMAGE") or ROOT / ".cache/guests/tiny.qcow2"
        shutil.copy(image, root / "tiny.qcow2")
        yield root
    finally:
        down = [*PROGRAM, "down", "--yes", "--volumes", "--state", str(root / "state")]
        subprocess.run(down, check=True, capture_output=True)
        shutil.rmtree(root)


def environment(root: Path) -> dict[str, str]:
    """That of a person who has just come, at home in `root`, with the program on the path."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("GIT_", "HOLDFAST_", "XDG_", "SSH_"))
    }
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    # No agent of the tests touches the rules of the host.
    return kept | {"PATH": path, "HOME": str(root), "HOLDFAST_LOOPBACK": "open"}


def played(text: str, root: Path) -> Iterator[tuple[str, list[str], int, list[str]]]:
    """Each command of a page, what is shown of it, its status, and what it said."""
    shell = Shell(root, environment(root))
    try:
        for block in blocks(text):
            named = re.match(r"# (\S+\.ya?ml)\n", block.text)
            if block.kind == "yaml" and named:
                file = root / named[1]
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(block.text)
            for command, shown in block.session if block.kind == "console" else ():
                status, said = shell.call(command)
                yield command, shown, status, [line.replace(str(root), "~") for line in said]
    finally:
        shell.close()


def _calls(line: str) -> Iterator[list[str]]:
    """The calls of the program in a line of shell; none in one that is none."""
    if "holdfast " not in line:
        return
    plain = re.sub(
        r"(?<=\s)\d?>>?(&\d|\s*\S+)", "", line
    )  # what goes into files is said beside the words
    lexer = shlex.shlex(plain, posix=True, punctuation_chars=_OPERATORS)
    lexer.whitespace_split = True
    try:
        words = [*lexer]
    except ValueError:
        return  # text with an apostrophe
    command: list[str] = []
    for word in [*words, ";"]:
        if set(word) <= set(_OPERATORS):
            if (called := _call(command)) is not None:
                yield called
            command = []
        else:
            command.append(word)


def _call(command: list[str]) -> list[str] | None:
    """The words after the program's name, which may have an assignment, `sudo` or a container's before it."""
    before = r"[A-Z_]+=.*|sudo|timeout|podman|exec|holdfast|run:|-"
    for at, word in enumerate(command):
        if Path(word).name == "holdfast" and command[at + 1 : at + 2] != ["holdfast"]:
            return command[at + 1 :] or None
        if re.fullmatch(before, word) is None:
            return None
    return None


def main() -> None:
    """Show what a page's commands print."""
    with place() as root:
        for command, _, status, said in played(read(sys.argv[1]), root):
            print(f"$ {command}", *said, sep="\n")
            if status:
                print(f"[status {status}]")


if __name__ == "__main__":
    main()
