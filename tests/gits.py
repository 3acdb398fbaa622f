"""Real git repositories for tests: a bare one to fetch from, and commits put into it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

_WHO = {
    "GIT_AUTHOR_NAME": "A", "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "C", "GIT_COMMITTER_EMAIL": "c@example.org",
}  # fmt: skip


def git(directory: Path, *words: str, stdin: bytes = b"") -> str:
    """What git prints, run by whoever writes to a repository; nobody's own configuration counts."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(
        ["git", "-C", directory, *words],
        input=stdin,
        capture_output=True,
        env={**variables, **_WHO, "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull},
    )
    assert done.returncode == 0, (words, done.stderr.decode())
    return done.stdout.decode().strip()


class Repository:
    """A bare repository, and a work tree whose commits are pushed to its branch `main`."""

    def __init__(self, root: Path) -> None:
        self.bare = root / "origin.git"
        self.work = root / "work"
        self.work.mkdir(parents=True)
        git(root, "init", "-q", "--bare", "-b", "main", str(self.bare))
        git(root, "init", "-q", "-b", "main", str(self.work))
        git(self.work, "remote", "add", "origin", str(self.bare))
        git(self.work, "config", "commit.gpgSign", "false")

    @property
    def url(self) -> str:
        return self.bare.as_uri()

    def write(self, files: Mapping[str, str | bytes | None]) -> None:
        """Write files of the work tree; None removes one."""
        for path, content in files.items():
            target = self.work / path
            if content is None:
                target.unlink()
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content.encode() if isinstance(content, str) else content)

    def commit(self, files: Mapping[str, str | bytes | None], *words: str) -> str:
        """Commit and push these changes; the id of the commit."""
        made = self.commit_only(files, *words)
        git(self.work, "push", "-q", "-f", "origin", "HEAD:main")
        return made

    def commit_only(self, files: Mapping[str, str | bytes | None], *words: str) -> str:
        """Commit these changes; nobody sees it yet."""
        self.write(files)
        git(self.work, "add", "-A")
        git(self.work, "commit", "-q", "--allow-empty", "-m", "a change", *words)
        return self.head

    @property
    def head(self) -> str:
        return git(self.work, "rev-parse", "HEAD")

    def vanish(self) -> None:
        """There is no such repository any more."""
        shutil.rmtree(self.bare)
