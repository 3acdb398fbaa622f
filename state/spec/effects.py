"""What a change of each field of a spec costs: a new instance, a live update, a new run, or nothing."""

from __future__ import annotations

from enum import StrEnum


class Effect(StrEnum):
    """The one effect that a field has when its value changes."""

    REPLACE = "replace"
    """The instance is destroyed and a new one, with a new uid and a fresh disk, takes its place."""
    LIVE = "live"
    """Applied to the running instance, or at its next start where that is what the field means."""
    RUN = "run"
    """The job is run again; a run of the old spec that has not ended is given up."""
    NONE = "none"
    """Only a way to say something else, or to say where a document applies."""


VM_EFFECTS: dict[str, Effect] = {
    "api": Effect.NONE,
    "kind": Effect.NONE,
    "name": Effect.NONE,
    "labels": Effect.LIVE,
    "hosts": Effect.NONE,
    "image": Effect.REPLACE,
    "size": Effect.NONE,
    "cpus": Effect.REPLACE,
    "memory": Effect.REPLACE,
    "disk": Effect.LIVE,
    "ports": Effect.LIVE,
    "network": Effect.REPLACE,
    "user_data": Effect.REPLACE,
    "user_data_file": Effect.NONE,
    "power": Effect.LIVE,
    "restart": Effect.LIVE,
    "health": Effect.LIVE,
    "depends_on": Effect.LIVE,
    "suspend": Effect.LIVE,
    "protect": Effect.LIVE,
    "stop_timeout": Effect.LIVE,
}
"""For each key of a vm document. `size` and `user_data_file` act through what they stand for."""

JOB_EFFECTS: dict[str, Effect] = {
    "api": Effect.NONE,
    "kind": Effect.NONE,
    "name": Effect.NONE,
    "labels": Effect.RUN,
    "hosts": Effect.NONE,
    "runs_on": Effect.RUN,
    "size": Effect.NONE,
    "script": Effect.RUN,
    "script_file": Effect.NONE,
    "env": Effect.RUN,
    "secrets": Effect.RUN,
    "files": Effect.RUN,
    "artifacts": Effect.RUN,
    "timeouts": Effect.RUN,
    "retries": Effect.RUN,
    "keep_on_failure": Effect.RUN,
    "priority": Effect.RUN,
}
"""For each key of a job document. `size` and `script_file` act through what they stand for: other cpus, memory or disk
are a new run, and so are other bytes of a file, but not another place for the same ones."""

IMAGE_EFFECTS: dict[str, Effect] = {
    "label": Effect.NONE,
    "source": Effect.REPLACE,
    "digest": Effect.REPLACE,
    "decompress": Effect.REPLACE,
    "format": Effect.REPLACE,
    "nocloud": Effect.REPLACE,
    "seed_bus": Effect.REPLACE,
    "firmware": Effect.REPLACE,
    "machine": Effect.REPLACE,
    "ssh_user": Effect.REPLACE,
    "boot_timeout": Effect.LIVE,
    "max_size": Effect.NONE,
}
"""For each field of the image that a vm's label resolved to. A `source` that moved is no change while the digest that
the image map pins stays the same."""
