"""Every kind of document that this version reads, and the shape of each."""

from __future__ import annotations

from collections.abc import Mapping

from state.spec.document import Document
from state.spec.images import ImagesDocument
from state.spec.job import JobDocument
from state.spec.vm import VmDocument

KINDS: Mapping[str, type[Document]] = {
    "vm": VmDocument,
    "job": JobDocument,
    "images": ImagesDocument,
}

OWNERS = frozenset({"vm", "job"})
"""Kinds whose documents own something that runs under their name. They share one set of names, since who asks for the
status or the log of a name says no kind."""
