"""Every kind of document that this version reads, and the shape of each."""

from __future__ import annotations

from collections.abc import Mapping

from state.spec.document import Document
from state.spec.images import ImagesDocument
from state.spec.vm import VmDocument

KINDS: Mapping[str, type[Document]] = {"vm": VmDocument, "images": ImagesDocument}

NOT_YET = frozenset({"job"})
"""Kinds of the contract that this version does not read."""
