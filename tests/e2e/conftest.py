"""Sites on the two guests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.site import Site, image_path, site


@pytest.fixture
def tiny() -> Iterator[Site]:
    """A site whose default image is the tiny guest."""
    with site(image_path("HOLDFAST_TINY_IMAGE", "tiny.qcow2"), "tiny") as made:
        yield made


@pytest.fixture
def debian() -> Iterator[Site]:
    """A site whose default image is Debian with the real cloud-init."""
    with site(image_path("HOLDFAST_DEBIAN_IMAGE", "debian.qcow2"), "debian") as made:
        yield made
