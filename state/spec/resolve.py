"""From what a document says to what is wanted: its label leads to an image, its size and the defaults apply.

Pure: the image maps are one map already, and files have been read.
"""

from __future__ import annotations

from state.spec.imagemap import ImageMap
from state.spec.resolved import Forward, VmSpec
from state.spec.vm import MIB, VmDocument

DEFAULT_CPUS = 1
DEFAULT_MEMORY = 512 * MIB


def resolve_vm(document: VmDocument, images: ImageMap, user_data: str | None = None) -> VmSpec:
    """The whole spec: a document's own key comes before its size preset, that before the image's defaults, and those
    before what is built in. `user_data` is the content of `user_data_file`. Raises Unresolved."""
    image = images.image(document.image)
    preset = images.size(document.size)
    sources = (document, preset, image.defaults)
    return VmSpec(
        name=document.name,
        image=image.spec,
        cpus=next((one.cpus for one in sources if one.cpus is not None), DEFAULT_CPUS),
        memory=next((one.memory for one in sources if one.memory is not None), DEFAULT_MEMORY),
        disk=next((one.disk for one in sources if one.disk is not None), None),
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
    )
