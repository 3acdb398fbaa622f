"""What holds for every job document. Each property names the sabotage that it catches."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping
from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from state.spec.guestpaths import MOST_WILDCARDS, GuestPath, GuestPattern
from state.spec.resolved_job import Attachment, JobSpec
from tests.spelling import labels, names, spelled, words
from tests.trees import job, load, scratch, tree

variables = st.from_regex(r"[A-Z_][A-Z0-9_]{0,7}", fullmatch=True)
components = st.from_regex(r"[a-z0-9 ,=é_-]{1,8}", fullmatch=True)
paths = st.lists(components, min_size=1, max_size=3).map(lambda parts: "/" + "/".join(parts))
patterns = st.lists(
    st.sampled_from(["**", "*", "?", "*.xml", "[a-z]*", "[!0-9]", "root", "out"]),
    min_size=1,
    max_size=4,
).map(lambda parts: "/" + "/".join(parts))
# Never what `CHANGED` says in other words.
times = st.integers(1, 86_399).filter(lambda seconds: seconds != 61 * 60).map("{}s".format)
BESIDE: Mapping[str, str | bytes] = {
    "in.json": "{}",
    "sub/data.bin": b"\xff\0",
    "run": "#!/bin/sh\ntrue\n",
}
entries = st.fixed_dictionaries(
    {"path": paths, "source": st.sampled_from(["in.json", "sub/data.bin", "./in.json"])},
    optional={"mode": st.sampled_from(["0644", "755", "0600"])},
)


def _apart(files: list[dict[str, str]]) -> bool:
    found = [file["path"] + "/" for file in files]
    return not any(
        one.startswith(other)
        for at, one in enumerate(found)
        for other in found[:at] + found[at + 1 :]
    )


def _possible(document: dict[str, Any]) -> bool:
    depths = [one.split("/").count("**") for one in document.get("artifacts", [])]
    return max(depths, default=0) <= 2


@st.composite
def job_documents(draw: st.DrawFn) -> dict[str, Any]:
    document: dict[str, Any] = draw(
        st.fixed_dictionaries(
            {"api": st.just("holdfast/v1"), "kind": st.just("job"), "name": names},
            optional={
                "labels": labels,
                "hosts": st.sampled_from([["*"], ["he*", "x"]]),
                "runs_on": st.sampled_from(["debian-12", "debian"]),
                "size": st.just("small"),
                "env": st.dictionaries(variables, words, max_size=4),
                "files": st.lists(entries, max_size=3).filter(_apart),
                "artifacts": st.lists(patterns, max_size=3, unique=True),
                "timeouts": st.fixed_dictionaries(
                    {}, optional={"boot": times, "silence": times, "total": times}
                ),
                "retries": st.fixed_dictionaries(
                    {},
                    optional={
                        key: st.integers(0, 10)
                        for key in ("infrastructure", "interrupted", "script")
                    },
                ),
                "keep_on_failure": times,
                "priority": st.integers(-1000, 1000),
            },
        ).filter(_possible)
    )
    if env := document.get("env"):
        document["secrets"] = draw(st.lists(st.sampled_from(sorted(env)), unique=True))
    if draw(st.booleans()):
        document["script"] = draw(words.map(lambda text: f"#!/bin/sh\n{text}\n"))
    else:
        document["script_file"] = "run"
    return document


def spec_of(text: str) -> JobSpec:
    with scratch() as root:
        desired = load(tree(root, {"x.yaml": text.encode(), **BESIDE}))
    assert desired.problems == (), (text, desired.problems)
    [wanted] = desired.jobs.values()
    return wanted.spec


@given(job_documents(), st.randoms(use_true_random=False))
def test_how_a_job_is_written_is_no_part_of_its_digest(
    document: Mapping[str, Any], chance: random.Random
) -> None:
    """Catches: a list whose order means nothing kept in the order of the document."""
    shuffled = dict(document)
    for key in ("files", "artifacts", "secrets"):
        if key in shuffled:
            shuffled[key] = chance.sample(shuffled[key], len(shuffled[key]))
    assert spec_of(spelled(shuffled, chance)).digest == spec_of(json.dumps(document)).digest


@given(job_documents())
def test_a_job_survives_its_canonical_form(document: Mapping[str, Any]) -> None:
    """Catches: a field that the canonical form leaves out or brings back as another type."""
    spec = spec_of(json.dumps(document))
    again = JobSpec.from_canonical(spec.canonical())
    assert again == spec
    assert again.digest == spec.digest
    assert again.canonical() == spec.canonical()


CHANGED: Mapping[str, Any] = {
    "labels": {"changed": "yes"},
    "runs_on": "other",
    "size": "large",
    "env": {"CHANGED": "yes", "TOKEN": "xyz"},
    "files": [{"path": "/changed", "source": "in.json", "mode": "4755"}],
    "artifacts": ["/changed/**"],
    "timeouts": {"boot": "61m"},
    "retries": {"infrastructure": 1, "interrupted": 9, "script": 9},
    "keep_on_failure": "1d",
    "priority": 999,
}
MORE = """\
api: holdfast/v1
kind: images
name: more
sizes: {large: {cpus: 7}}
images: {other: {source: "https://images.example/other.qcow2"}}
"""


@given(job_documents(), st.sampled_from(sorted(CHANGED)))
def test_a_change_of_a_jobs_own_key_is_another_job(document: dict[str, Any], key: str) -> None:
    """Catches: a key that is read and then forgotten while resolving, or left out of the digest."""
    assume(document.get(key) != CHANGED[key])
    assume(key != "env" or not document.get("secrets"))
    with scratch() as root:
        tree(root, {"more.yaml": MORE, "x.yaml": json.dumps(document), **BESIDE})
        [before] = load(root).jobs.values()
        tree(root, {"x.yaml": json.dumps({**document, key: CHANGED[key]})})
        desired = load(root)
        assert desired.problems == ()
        [after] = desired.jobs.values()
    assert before.spec.digest != after.spec.digest


@given(job_documents(), st.sampled_from(["run", "in.json", "sub/data.bin"]))
def test_other_bytes_of_a_file_are_another_job_exactly_where_it_is_named(
    document: dict[str, Any], changed: str
) -> None:
    """Catches: a digest of names or sizes in place of content."""
    sources = {file["source"].removeprefix("./") for file in document.get("files", ())}
    named = changed in {document.get("script_file"), *sources}
    with scratch() as root:
        tree(root, {"x.yaml": json.dumps(document), **BESIDE})
        [before] = load(root).jobs.values()
        data = (root / changed).read_bytes()
        tree(root, {changed: data[:-1] + bytes([data[-1] ^ 1])})
        [after] = load(root).jobs.values()
    assert (before.spec.digest != after.spec.digest) == named


@given(job_documents(), st.sampled_from(["", "deeper/"]))
def test_where_a_job_and_its_files_lie_is_no_part_of_what_it_is(
    document: dict[str, Any], folder: str
) -> None:
    """Catches: the path of an attachment in the digest, so that a moved directory runs every job again."""
    here: dict[str, str | bytes] = {"x.yaml": json.dumps(document), **BESIDE}
    with scratch() as root:
        [before] = load(tree(root / "1", here)).jobs.values()
        [after] = load(
            tree(root / "2", {f"{folder}ci/{path}": data for path, data in here.items()})
        ).jobs.values()
    assert before.spec.digest == after.spec.digest
    for attachment in _attachments(after.spec):
        assert attachment.path.startswith(f"{folder}ci/")


def _attachments(spec: JobSpec) -> list[Attachment]:
    script = [spec.script] if isinstance(spec.script, Attachment) else []
    return [*script, *(file.content for file in spec.files)]


# Paths in a guest

guest_path: TypeAdapter[str] = TypeAdapter(GuestPath)
guest_pattern: TypeAdapter[str] = TypeAdapter(GuestPattern)
odd_paths = st.one_of(
    st.text(max_size=30), st.text("/.*?[]!a-b\\\0^", max_size=20).map("/".__add__)
)


@given(odd_paths)
def test_a_path_in_a_guest_is_exactly_one_place(text: str) -> None:
    """Catches: a check of the beginning only, `..` that is looked for as text, a NUL that passes."""
    try:
        guest_path.validate_python(text)
    except ValidationError:
        return
    assert text.startswith("/")
    assert text.isprintable()
    assert not {"", ".", ".."} & set(text[1:].split("/"))


@given(odd_paths)
def test_a_pattern_is_small_and_means_one_thing(text: str) -> None:
    """Catches: a set that is not closed, `**` within a component, wildcards without end."""
    try:
        guest_pattern.validate_python(text)
    except ValidationError:
        return
    guest_path.validate_python(text)
    wildcards = re.findall(r"\*\*|\*|\?|\[!?[^]]+\]", text)
    assert len(wildcards) <= MOST_WILDCARDS
    rest = re.sub(r"(?<=/)\*\*(?=/|$)|\[!?[^]\[!^\\*?-][^]\[\\*?]*\]", "", text)
    assert "**" not in rest
    assert not set("[]\\") & set(rest)


def test_a_job_is_what_the_helper_writes() -> None:
    assert spec_of(job()).script == "make test"
