"""A run's log: what the guest's serial console says until the script begins, then what the script says.

    [holdfast] attempt 1 begins ...
    <the console>
    [holdfast] the script begins
    <the script's output>
    [holdfast] exit code 0

What is in it depends on what the sources say and on nothing else: not on the pieces in which it comes, and not on where
this process was killed in between. The same bytes may be cut off and written anew, so a reader keeps its position and
waits. It is stored as it came; whoever shows it makes it harmless. Lines of holdfast's own begin with `[holdfast] `; a
script may print such lines too.

One that grows too long keeps its head, and the end of the script's output. Secrets are hidden (see `masking`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from agent.jobs.masking import SHORTEST, Masker, Seam
from agent.jobs.progress import LARGEST, MARK, Progress, RecordedLog, Stage
from state.work import Look

CAP = 64 << 20
"""Bytes of an attempt's head in the log."""
TAIL = 1 << 20
"""Bytes of the end of an output that does not fit."""
PIECE = 256 << 10
PATIENCE = 0.5
"""Seconds after which an unfinished line is written."""
_LONG_LINE = 64 << 10


class Transcript:
    """The log of one run, written by this process alone. A caller that was killed opens it again, and goes on from the
    offsets that it then says; it calls again what it does not know to have been done. Every method that writes raises
    RetryLater when the host's disk cannot be written, and may be called again then.

    `cap` and `tail` are bytes. `now` is in seconds of any clock that only goes forward.
    """

    def __init__(
        self, log: Path, secrets: Sequence[str] = (), *, cap: int = CAP, tail: int = TAIL
    ) -> None:
        self._log = RecordedLog(log)
        self._masker = Masker(secrets)
        self._cap, self._tail = cap, tail
        self._pending = b""
        self._waits: float | None = None
        """Since when the first byte of `_pending` waits."""
        self._size = 0

    def close(self) -> None:
        """Let go of the file. What waits for the end of its line is read again by the next one."""
        self._log.close()

    @property
    def attempt(self) -> int:
        """The last attempt that it knows of; 0 before the first."""
        return self._at.attempt

    @property
    def stage(self) -> Stage:
        """What belongs into it next."""
        return self._at.stage

    @property
    def offset(self) -> int:
        """The first byte that it needs of the console, or of the script's output."""
        return self._at.offset + len(self._pending)

    @property
    def wanted(self) -> int:
        """How many bytes of the script's output it takes at once; 0 when it only counts them."""
        return 0 if self._at.full else PIECE

    @property
    def _at(self) -> Progress:
        return self._log.progress

    # An attempt, from its beginning to its end; each of these does nothing when it has been done

    def attempt_begins(self, number: int, said: str) -> None:
        """Begin the log of an attempt; attempts count from 1."""
        if number <= self._at.attempt:
            return
        self._pending, self._waits = b"", None
        lines = [said]
        if self._masker.unmasked:
            lines.append(
                f"{self._masker.unmasked} of the secrets are shorter than {SHORTEST} characters and"
                " are not hidden"
            )
        at = Progress(attempt=number, stage=Stage.CONSOLE, since=self._at.length)
        self._log.append(self._marked(*lines), at)

    def console(self, data: bytes, now: float) -> None:
        """Take what the console says from `offset` on."""
        if self._at.stage is not Stage.CONSOLE:
            return
        if not self._at.full:
            self._feed(data, now)
        elif data:
            self._drop(len(data))

    def console_cut(self, said: str) -> None:
        """The console is shorter than `offset`: what it says next, it says at its new beginning."""
        if self._at.stage is not Stage.CONSOLE:
            return
        self._flush()
        text = b"" if self._at.full else self._marked(said)
        self._log.append(text, replace(self._at, offset=0, seam=Seam()))

    def script_begins(self, said: str) -> None:
        """Nothing more of the console is wanted, but the output of the script."""
        if self._at.stage is not Stage.CONSOLE:
            return
        self._flush()
        lines = [said]
        if self._at.dropped:
            lines.insert(0, f"{self._at.dropped} bytes of the console were dropped here")
        at = Progress(self._at.attempt, Stage.OUTPUT, since=self._at.since)
        self._log.append(self._marked(*lines), at)

    def output(self, look: Look, now: float, *, final: bool = False) -> bool:
        """Take what a look at `offset` found; whether that was all of a script that has ended, or of one that is given
        up (`final`). Until then the caller looks again, at the new `offset`."""
        if self._at.stage not in (Stage.OUTPUT, Stage.TAIL):
            return True
        self._size = min(max(self._size, look.size), LARGEST)
        if self._at.final is None and (final or look.exit_code is not None):
            size = min(max(0, look.size), LARGEST)
            self._log.append(b"", replace(self._at, final=size))
        end = self._at.final
        if not self._at.full:
            self._feed(look.data if end is None else look.data[: max(0, end - self.offset)], now)
        if end is None:
            return False
        if not self._at.full and self.offset >= end:
            self._flush()
        if self._at.full:
            self._begin_tail(end)
        return self.offset >= end

    def ends(self, said: str) -> None:
        """End the log of the attempt."""
        if self._at.stage is Stage.ENDED:
            return
        self._flush()
        lines = [said]
        if self._at.stage is Stage.OUTPUT and self._at.full and self._size > self._at.offset:
            lines.insert(0, f"{self._size - self._at.offset} bytes of output were dropped here")
        if self._at.dropped:
            lines.insert(0, f"{self._at.dropped} bytes of the console were dropped here")
        self._log.append(self._marked(*lines), replace(self._at, stage=Stage.ENDED))

    def tick(self, now: float) -> None:
        """Write an unfinished line that has waited long enough, but for what may be the beginning of a secret."""
        if self._pending and self._waits is not None and now - self._waits >= PATIENCE:
            self._write(self._masker.decided(self._pending))

    # Pieces

    def _feed(self, data: bytes, now: float) -> None:
        if data and (not self._pending or self._waits is None):
            self._waits = now
        before = len(self._pending)
        self._pending += data
        whole = self._pending.rfind(b"\n", max(0, before - self._masker.reach)) + 1
        if len(self._pending) - whole > _LONG_LINE:
            whole = len(self._pending)
        written = self._at.offset
        self._write(min(whole, self._masker.decided(self._pending)))
        if self._at.offset > written:
            self._waits = now
        self.tick(now)

    def _flush(self) -> None:
        """Write all that waits: nothing comes after it."""
        self._write(len(self._pending))

    def _write(self, upto: int) -> None:
        """Write the first bytes of what waits, as far as there is room for them."""
        at = self._at
        if upto <= at.skip:
            return
        taken = self._masker.take(
            self._pending, upto, at.seam, skip=at.skip, room=self._room(at.stage)
        )
        offset = at.offset + taken.length
        after = replace(at, offset=offset, seam=taken.seam, skip=0, full=taken.full)
        left = self._pending[taken.length :]
        if taken.full:
            if at.stage is Stage.CONSOLE:
                after = replace(after, offset=offset + len(left), dropped=len(left))
            left = b""
        self._log.append(taken.text, after)
        self._pending = left

    def _room(self, stage: Stage) -> int | None:
        """Bytes that the present source may still add; the console leaves half of all for the script."""
        if stage is Stage.TAIL:
            return None
        cap = self._cap // 2 if stage is Stage.CONSOLE else self._cap
        return max(0, cap - (self._at.length - self._at.since))

    def _drop(self, count: int) -> None:
        at = self._at
        dropped = replace(at, offset=at.offset + count, dropped=at.dropped + count)
        self._log.append(b"", dropped)

    def _begin_tail(self, end: int) -> None:
        """Go on with the last bytes of the output, and look at as many before them as decide what is hidden of them."""
        head = self._at.offset
        tail = max(head, end - self._tail)
        start = max(head, tail - self._masker.reach)
        text = b""
        if tail > head:
            text = self._marked(
                f"{tail - head} bytes of output were dropped here; its last {end - tail} follow"
            )
        at = replace(self._at, stage=Stage.TAIL, full=False, offset=start, skip=tail - start)
        self._log.append(text, replace(at, seam=Seam()))

    def _marked(self, *lines: str) -> bytes:
        """Lines of holdfast's own, on lines of their own."""
        said = "".join(f"{MARK}{' '.join(line.split())}\n" for line in lines)
        text = said.encode("utf-8", "surrogateescape")
        return b"\n" * (not self._at.line_over) + self._masker.take(text, len(text), Seam()).text
