"""What a wheel holds beside the code: the commit it was built from, and the manual, where `make man` has made one."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Hook(BuildHookInterface[Any]):
    """Called by hatchling for every wheel; one that is editable has a checkout beside it, and gets nothing."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        self._made = TemporaryDirectory()
        if commit := os.environ.get("HOLDFAST_BUILD") or self._commit():
            path = Path(self._made.name, "build.txt")
            path.write_text(f"{commit}\n")
            build_data["force_include"][str(path)] = "agent/build.txt"
        for page in Path(self.root, "build/man").glob("*.1"):
            build_data["shared_data"][str(page)] = f"share/man/man1/{page.name}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if version != "editable":
            self._made.cleanup()

    def _commit(self) -> str:
        """The commit that is checked out here, with a `+` where files differ from it; nothing outside a checkout."""
        if not Path(self.root, ".git").exists():
            return ""
        told = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+"],
            cwd=self.root,
            capture_output=True,
            text=True,
            check=False,
        )
        return told.stdout.strip()
