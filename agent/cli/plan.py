"""`holdfast plan`: what `run` would do, and why; the same planner over the same observation."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.cli.options import option, output_option, state_option
from agent.cli.reading import open_reader
from agent.cli.settings import said_settings, source_options
from agent.cli.text import in_line
from agent.cli.typed import typed
from agent.cli.wanted import wanted
from agent.config import Settings
from agent.errors import BadUsage
from agent.paths import StatePaths
from state.records import ACCELERATOR_KEY, SETTINGS_KEY

if TYPE_CHECKING:
    from agent.planned import Plan
    from agent.steps import Step
    from state.desired import Desired
    from state.observed import Observed
    from state.records import Reader

EXIT_CHANGES = 2


@click.command()
@option(
    "--from",
    "base",
    envvar=None,
    metavar="REV",
    help="What a host that is as this revision of the repository says would do.",
)
@option("--to", "to", envvar=None, metavar="REV", help="The revision to plan; default: HEAD.")
@source_options
@output_option
@state_option
def plan(state: StatePaths, output: str, base: str | None, to: str | None, **options: Any) -> int:
    """What `run` would do, and why. Exit status: 0 nothing, 2 changes, also such as have to wait, 1 error, also in a
    document.

    Without options for the source, those of the agent that last ran on the state directory are taken.

    `plan --git . --from main --to HEAD` says what a merge would do to a host: it looks at that repository alone, at no
    state directory and no QEMU."""
    if base is None and to is None:
        decided, desired = decide(state, said_settings(state, options))
    else:
        decided, desired, waits = compare(said_settings(state, options), base, to or "HEAD")
        if waits:
            click.echo(in_line(f"holdfast: {waits}"), err=True)
    if output == "json":
        click.echo(json.dumps(as_json(decided, desired), indent=1))
    else:
        _print(decided, desired)
        _tell_of_agent(state, desired)
    if desired.source.error or desired.source.refused or desired.problems:
        return 1
    return EXIT_CHANGES if decided.fetches or any(map(_is_open, decided.steps)) else 0


def _tell_of_agent(state: StatePaths, desired: Desired) -> None:
    """Whose look at a repository this is, where it is an agent's, which asks now and then."""
    from agent.statedir import holder

    source = desired.source
    if source.kind == "git" and source.commit is not None and holder(state) is not None:
        known = f"planned at commit {source.commit[:12]}, as the agent last fetched it"
        click.echo(f"{known} (`holdfast reconcile` has it ask now)", err=True)


def _is_open(step: Step) -> bool:
    """Whether something is to be done for the name, be it now or once it can be."""
    return step.action == "wait" or (step.acts and step.action != "adopt")


def decide(state: StatePaths, said: Settings) -> tuple[Plan, Desired]:
    """The plan of this moment; nothing is changed by making it."""
    from agent.cli.compose import clock_of, open_backend, policy_of
    from agent.plan import plan as plan_of
    from agent.statedir import holder

    reader = open_reader(state) if state.database.exists() else None
    try:
        settings = said.or_else(Settings.from_json(reader.meta(SETTINGS_KEY) if reader else None))
        state_id = state.identity.read_text().strip() if state.identity.exists() else _NO_STATE
        backend = open_backend(state, settings, state_id)
        now = clock_of(backend)()
        agent_lives = holder(state) is not None
        desired = wanted(settings, state, reader, now.wall)
        observed = _observe(reader, backend, desired, agent_lives)
        accelerator = _accelerator(reader, settings)
        return plan_of(desired, observed, policy_of(settings, state_id, accelerator), now), desired
    finally:
        if reader is not None:
            reader.close()


def compare(settings: Settings, base: str | None, to: str) -> tuple[Plan, Desired, str]:
    """What a revision would do to a host that is as another one says, and what it would wait for there, in words; empty
    where for nothing. Raises BadUsage."""
    from agent.cli.compose import origin_of, policy_of
    from agent.imagined import imagined
    from agent.plan import plan as plan_of
    from agent.restraint import restrained
    from agent.source.git.revision import Revisions
    from state.clock import Moment

    origin = origin_of(settings)
    if base is None or origin is None or not origin.url.startswith("/"):
        raise BadUsage(
            "--from and --to compare two revisions of a repository on this host",
            hint="say --git PATH --from REV [--to REV]",
        )
    revisions = Revisions(Path(origin.url), origin.below)
    before, after = (
        revisions.wanted(
            one,
            host=settings.host_name(),
            images_file=settings.images,
            image_roots=settings.image_root,
        )
        for one in (base, to)
    )
    unbounded = replace(
        policy_of(replace(settings, hypervisor="memory"), _NO_STATE, settings.accel or "tcg"),
        max_concurrency=len(after.jobs) or 1,
    )
    now = Moment(0.0, 0.0, "")
    host = imagined(before, after, unbounded, now)
    decided = plan_of(after, host, replace(unbounded, max_destroy=len(before.vms)), now)
    fence = restrained(decided.steps, after, host, unbounded)[1]
    number = len(fence.uids) if fence is not None else 0
    waits = f"a host would destroy {number} VMs at once only after `holdfast approve`"
    return decided, after, waits if fence is not None else ""


_NO_STATE = "00000000-0000-0000-0000-000000000000"


def _observe(reader: Reader | None, backend: Any, desired: Desired, agent_lives: bool) -> Observed:
    from agent.doing import Doing
    from agent.observe import NoRecords, observe
    from state.ids import Name
    from state.observed import RunState, Seen, Verdict, View

    if reader is None:
        return asyncio.run(observe(NoRecords(), backend, desired, Doing()))
    with reader.snapshot():
        doing = Doing()
        if agent_lives:
            for step in reader.steps(open_only=True, last=10_000):
                doing.names[Name(step.name)] = f"{step.action}: {step.because}"
        observed = asyncio.run(observe(reader, backend, desired, doing))
    if not agent_lives:
        return observed

    def as_the_agent_sees(seen: Seen) -> Seen:
        # The monitor talks to one client at a time, and that is the agent: what it last did is what there is.
        paused = json.loads(seen.instance.spec)["power"] == "paused"
        state = RunState.PAUSED if paused else RunState.RUNNING
        if seen.verdict is not Verdict.ALIVE:
            return seen
        return seen._replace(attached=True, view=View(state))

    return replace(observed, instances=tuple(map(as_the_agent_sees, observed.instances)))


def _accelerator(reader: Reader | None, settings: Settings) -> str:
    if settings.accel in ("kvm", "tcg"):
        return settings.accel
    evidence = json.loads((reader.meta(ACCELERATOR_KEY) if reader else None) or "{}")
    return str(evidence.get("choice", "tcg"))


def as_json(decided: Plan, desired: Desired) -> dict[str, Any]:
    """The `plan -o json` shape."""
    return {
        "id": decided.id,
        "steps": [_step(step) for step in decided.shown()],
        "fetch": [
            {"image": image.label, "source": image.source, "digest": image.digest}
            for image in decided.fetches
        ],
        "problems": [
            {
                "name": one.name,
                "file": one.file,
                "line": one.line,
                "column": one.column,
                "message": one.message,
            }
            for one in desired.problems
        ],
        "advice": [str(one.where) + ": " + one.message for one in desired.advice],
        "error": desired.source.error or desired.source.refused,
    }


def _step(step: Step) -> dict[str, Any]:
    source = step.source
    return {
        "action": step.action,
        "kind": step.kind,
        "name": step.name,
        "because": step.because,
        "fields": list(step.fields),
        "source": {"file": source.file, "line": source.line} if source else None,
        "reason": getattr(step, "reason", None),
    }


_SIGNS = {
    "destroy": ("-", "red"), "replace": ("±", "red"), "restart": ("↻", "yellow"),
    "update": ("~", "yellow"), "adopt": ("=", "cyan"), "create": ("+", "green"),
    "run": ("+", "green"), "hold": ("!", "magenta"), "wait": ("…", "yellow"), "keep": (" ", "dim"),
}  # fmt: skip


def _print(decided: Plan, desired: Desired) -> None:
    from agent.steps import CancelRun

    def line(sign: str, colour: str, text: str) -> None:
        click.echo(click.style(f"{sign} ", fg=colour if colour != "dim" else None) + in_line(text))

    ours = {one.message: one.place for one in desired.problems if one.name is None}
    known = {
        str(one): f"{one.place}: see {ours[one.message]}"
        for one in desired.problems
        if one.name is not None and one.message in ours
    }
    for image in decided.fetches:
        copy = image.as_copy()
        first = "" if copy is None else f"{copy.source} or else "
        line("↓", "cyan", f"fetch image {image.label} from {first}{image.source}")
    for step in decided.shown():
        sign, colour = _SIGNS[step.action]
        place = f"  [{step.source}]" if step.source else ""
        lost = " with its disk" if step.action in ("destroy", "replace") else ""
        does = f"{step.action} {step.name}{lost}"
        if isinstance(step, CancelRun):
            does = f"cancel the run of {step.name}"
        because = known.get(step.because, step.because) if step.action == "hold" else step.because
        line(sign, colour, typed(f"{does}: {because}{place}"))
    holds = {step.because for step in decided.steps if step.action == "hold"}
    for problem in desired.problems:
        if str(problem) not in holds:
            line("!", "magenta", known.get(str(problem), str(problem)))
    if desired.unproven is not None and desired.unproven not in holds:
        line("!", "magenta", f"nothing is destroyed: {desired.unproven}")
    for one in desired.advice:
        line("i", "cyan", f"{one.where}: {one.message}")
    for wrong in filter(None, (desired.source.error, desired.source.refused)):
        click.echo(in_line(f"holdfast: {wrong}"), err=True)
    click.echo(f"plan {decided.id}: {_summary(decided)}")


def _summary(decided: Plan) -> str:
    counts = {
        action: n
        for action in _SIGNS
        if (n := sum(step.action == action for step in decided.acting))
    }
    parts = [f"{n} to {action}" for action, n in counts.items()]
    if waiting := sum(step.action == "wait" for step in decided.steps):
        parts.append(f"{waiting} waiting")
    return ", ".join(parts) or "nothing to do"
