"""From what a document says to what is wanted: its label leads to an image, its size and the defaults apply.

Pure: the image maps are one map already, and files have been read.
"""

from __future__ import annotations

from collections.abc import Mapping

from state.spec.imagemap import ImageMap, Unresolved
from state.spec.images import Resources
from state.spec.job import JobDocument
from state.spec.resolved import Check, Forward, HealthSpec, ImageSpec, VmSpec
from state.spec.resolved_job import Attachment, JobFile, JobSpec, Retries
from state.spec.vm import MIB, Health, VmDocument
from state.spec.words import quoted

DEFAULT_CPUS = 1
DEFAULT_MEMORY = 512 * MIB


def resolve_vm(document: VmDocument, images: ImageMap, user_data: str | None = None) -> VmSpec:
    """The whole spec: a document's own key comes before its size preset, that before the image's defaults, and those
    before what is built in. `user_data` is the content of `user_data_file`. Raises Unresolved."""
    image = images.image(document.image)
    own = (document.cpus, document.memory, document.disk)
    cpus, memory, disk = _sized(own, images.size(document.size).resources, image.defaults.resources)
    return VmSpec(
        name=document.name,
        image=image.spec,
        cpus=cpus,
        memory=memory,
        disk=disk,
        labels=tuple(sorted(document.labels.items())),
        ports=tuple(
            sorted(
                (Forward(port.host, port.guest, port.address) for port in document.ports),
                key=lambda forward: (forward.host, forward.address),
            )
        ),
        egress=document.network.egress,
        user_data=user_data if document.user_data is None else document.user_data,
        power=document.power,
        restart=document.restart,
        suspend=document.suspend,
        protect=document.protect,
        stop_timeout=document.stop_timeout,
        health=_health(document, image.spec),
        depends_on=tuple(sorted(document.depends_on)),
    )


def _health(document: VmDocument, image: ImageSpec) -> HealthSpec | None:
    """The check of a document. Raises Unresolved where nothing leads to what it would ask."""
    health = document.health
    if health is None:
        return None
    check, port, path, status = _asked(health)
    forwarded = any(forward.guest == port for forward in document.ports)
    if not image.nocloud and not forwarded:
        raise Unresolved(
            f"image {quoted(image.label)} has `nocloud: false`, so that nobody can log in to"
            f" check {'it' if port is None else f'port {port}'} (check a port that `ports` forwards)",
            ("health",),
        )
    return HealthSpec(
        check=check,
        interval=health.interval,
        timeout=health.timeout,
        failures=health.failures,
        start_period=health.start_period,
        port=port,
        path=path,
        status=status,
    )


def _asked(health: Health) -> tuple[Check, int | None, str, int]:
    if (http := health.http) is not None:
        return "http", http.port, http.path, http.status
    return ("ssh" if health.tcp is None else "tcp"), health.tcp, "/", 200


def resolve_job(
    document: JobDocument, images: ImageMap, attachments: Mapping[str, Attachment]
) -> JobSpec:
    """The whole spec: the size preset comes before the image's defaults, and those before what is built in.
    `attachments` are the files that the document names, by how it names them. Raises Unresolved."""
    image = images.image(document.runs_on, key="runs_on")
    if not image.spec.nocloud:
        raise Unresolved(
            f"image {quoted(image.spec.label)} has `nocloud: false`, so that nobody could log in to"
            " run the script (name another)",
            ("runs_on",),
        )
    cpus, memory, disk = _sized(images.size(document.size).resources, image.defaults.resources)
    retries, timeouts = document.retries, document.timeouts
    return JobSpec(
        name=document.name,
        runs_on=document.runs_on or str(images.default_label),
        image=image.spec,
        cpus=cpus,
        memory=memory,
        disk=disk,
        script=attachments[document.script_file or ""]
        if document.script is None
        else document.script,
        labels=tuple(sorted(document.labels.items())),
        env=tuple(sorted(document.env.items())),
        secrets=tuple(sorted(document.secrets)),
        files=tuple(
            JobFile(file.path, attachments[file.source], int(file.mode, 8))
            for file in sorted(document.files, key=lambda file: file.path)
        ),
        artifacts=tuple(sorted(document.artifacts)),
        boot=image.spec.boot_timeout if timeouts.boot is None else timeouts.boot,
        silence=timeouts.silence,
        total=timeouts.total,
        retries=Retries(retries.infrastructure, retries.interrupted, retries.script),
        keep_on_failure=document.keep_on_failure,
        priority=document.priority,
    )


def _sized(*sources: Resources) -> tuple[int, int, int | None]:
    """Processors, memory and disk, each from the first source that says it; the disk None where none does."""
    cpus, memory, disk = (
        next((one for one in said if one is not None), None) for said in zip(*sources, strict=True)
    )
    return cpus or DEFAULT_CPUS, memory or DEFAULT_MEMORY, disk
