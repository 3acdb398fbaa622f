"""Which migrations there are, and which of them a database has had. It refuses to apply them: `state.migrations` does,
and an agent imports that, with sqlite-utils, only for a database that lacks one."""

from __future__ import annotations

import sqlite3

SET = "holdfast"
KNOWN = ("m0001_first", "m0002_runs", "m0003_health")
"""Their names in `state.migrations`, oldest first."""


def applied(connection: sqlite3.Connection) -> list[str]:
    """The names of those that the database has had, also of such that only a later version knows. sqlite-utils keeps
    them there (https://sqlite-utils.datasette.io/en/stable/migrations.html)."""
    there = connection.execute("SELECT 1 FROM sqlite_master WHERE name = '_sqlite_migrations'")
    if there.fetchone() is None:
        return []
    asked = "SELECT name FROM _sqlite_migrations WHERE migration_set = ? ORDER BY rowid"
    return [name for (name,) in connection.execute(asked, [SET])]
