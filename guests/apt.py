"""What apt would install now. Each question costs it half a second, so that few are asked.

No image is made of this file, but of its answers: a change of it makes none anew.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from guests.image import BuildError, run


def kernel_package(metapackage: str) -> str:
    """The versioned kernel package behind a metapackage such as linux-image-cloud-amd64."""
    found = re.search(r"Depends: (linux-image-\d\S+)", run("apt-cache", "depends", metapackage))
    if found is None:
        raise BuildError(
            f"apt does not know which kernel {metapackage} stands for (run apt-get update)"
        )
    return found.group(1)


def package_versions(names: Sequence[str]) -> dict[str, str]:
    """The versions of Debian packages that apt would install now."""
    told = run("apt-cache", "policy", *names)
    found = dict(re.findall(r"^(\S+):\n  Installed: .*\n  Candidate: (\S+)$", told, re.MULTILINE))
    for name in names:
        if found.get(name, "(none)") == "(none)":
            raise BuildError(f"apt has no candidate for {name} (run apt-get update)")
    return {name: found[name] for name in names}
