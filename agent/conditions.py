"""Three answers about every name, for programs that wait for it: is it as it is wanted, is something being done about
it, must somebody do something. Pure.

The words are those of Kubernetes' API conventions and of Flux: Ready, Reconciling, Stalled. Of the last two at most one
holds; a VM can be Ready and Stalled at once, when it serves while what its document asks for cannot be done.
"""

from __future__ import annotations

from typing import Any

from state.clock import stamp
from state.history import Finding

_AT_REST = frozenset(
    {"Ready", "Running", "Stopped", "Paused", "GuestPoweredOff", "Succeeded", "Unknown"}
)
"""Reasons of what is as it is wanted, or of what nobody has looked at."""
_UNDER_WAY = frozenset(
    {
        "BackOff", "Booting", "Cancelling", "Capacity", "Connecting", "DependsOn", "FetchingImage", "InProgress",
        "JustGone", "Queued", "Retrying",
    }
)  # fmt: skip
"""Reasons of what comes to an end by itself, or is tried again."""


def conditions(
    item: dict[str, Any], finding: Finding | None, commit: str | None
) -> list[dict[str, Any]]:
    """The conditions of an item of `status`. `finding` is what the last pass said of it; `commit` the one that is
    followed, for an item that does not tell its own."""
    reason, message = str(item["reason"]), str(item["message"])
    is_job = item["kind"] == "job"
    ready = item["phase"] == "succeeded" if is_job else bool(item["ready"])
    # What is said of the item is newer than the pass, where they differ.
    said = finding is not None and finding.reason == reason
    acting = finding is not None and finding.scope == "acting" and said
    moving = acting or reason in _UNDER_WAY
    moving |= item["phase"] in (
        ("queued", "booting", "running") if is_job else ("starting", "stopping")
    )
    stalled = not moving and reason not in _AT_REST and not (is_job and ready)
    since = stamp(finding.since) if finding is not None and said else None
    at = (item["source"] or {}).get("commit") or commit
    return [
        {
            "type": kind,
            "status": status,
            "reason": reason,
            "message": message,
            "since": since,
            "commit": at,
        }
        for kind, status in (("Ready", ready), ("Reconciling", moving), ("Stalled", stalled))
    ]
