"""The agent's own log, on standard error: one line an event, for people on a terminal and as JSON under a service.

Each line that a pass of the loop brought about has its `pass_id`: that of looking and deciding, of every step, of every
fetch, and of asking a guest whether it is ready, whoever logs it. What no pass brought about has none: an agent that
starts or leaves, a person's wish, a sweep of the metrics.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from agent.logger import structlog
from state.history import Event
from state.spec.words import excerpt


def configure() -> None:
    """Set it up, once for a process."""
    # What a monitor meets is told by whoever asked it; qemu.qmp calls a connection that breaks off a bug of its own.
    logging.getLogger("qemu").setLevel(logging.CRITICAL + 1)
    logging.basicConfig(handlers=[_Libraries()], level=logging.WARNING, force=True)
    people = sys.stderr.isatty()
    renderer: Any = (
        structlog.dev.ConsoleRenderer(pad_event_to=24)
        if people
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S" if people else "iso", utc=not people),
            renderer,
        ],
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
    )


class _Libraries(logging.Handler):
    """What libraries log, a line each as everything else, and without where in them it was."""

    def emit(self, record: logging.LogRecord) -> None:
        met = record.exc_info[1] if record.exc_info else None
        if met is not None and type(met).__module__.startswith("aiohttp.http"):
            return  # somebody sent what is no HTTP, and was told so
        said = "".join(record.getMessage().splitlines()[:1]) + (f": {met!r}" if met else "")
        structlog.get_logger().log(
            record.levelno, "Library", message=excerpt(said), library=record.name
        )


@contextmanager
def of_pass(id: str) -> Iterator[None]:
    """Whatever is logged in the block, and in tasks that are begun there, belongs to that pass of the loop."""
    with structlog.contextvars.bound_contextvars(pass_id=id):
        yield


def say(word: str, message: str, **fields: object) -> None:
    """Log what concerns the agent as a whole, in the form of an event."""
    said = {key: value for key, value in fields.items() if value is not None}
    structlog.get_logger().info(word, message=message, **said)


_BAD = frozenset(
    {
        "AbsenceUnproven", "BootTimeout", "Bug", "Crashed", "IOError", "ImageUnavailable",
        "InvalidDocument", "NoCapacity", "NoFreePort", "NotEnoughDisk", "NotEnoughMemory", "Panicked",
        "PortTaken", "Reaped", "RunError", "RunInterrupted", "RunTimeout", "SourceUnreadable",
        "Unhealthy", "Unknown", "Unresponsive",
    }
)  # fmt: skip
"""Reasons that somebody should look at, beside those that end in `Failed`."""


def event_logger() -> Callable[[Event], None]:
    """Logs every event of the ledger: a fixed word, and what belongs to it as fields."""
    log = structlog.get_logger()

    def tell(event: Event) -> None:
        fields = {"name": event.name, "uid": event.uid, "pass_id": event.pass_id or None}
        bad = event.reason.endswith("Failed") or event.reason in _BAD
        level = logging.WARNING if bad else logging.INFO
        said = {key: value for key, value in fields.items() if value is not None}
        log.log(level, event.reason, message=event.message, **said)

    return tell
