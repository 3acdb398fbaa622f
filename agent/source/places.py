"""Where in its text each value of a document stands."""

from __future__ import annotations

from state.spec.complaints import Path


class Places:
    """Where the values and keys of one document stand, and how its scalars are spelled."""

    def __init__(self) -> None:
        self.values: dict[Path, tuple[int, int]] = {}
        self.keys: dict[Path, tuple[int, int]] = {}
        self.spelled: dict[Path, str] = {}

    def find(self, path: Path, *, at_key: bool = False) -> tuple[int, int]:
        """Line and column of the value at `path`, or of its key; else of the nearest value above that there is."""
        if at_key and path in self.keys:
            return self.keys[path]
        while path not in self.values and path:
            path = path[:-1]
        return self.values.get(path, (1, 1))
