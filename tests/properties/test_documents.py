"""What holds for every text and every tree, whoever wrote it. Each property names the sabotage that it catches."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st

from agent.errors import BadInput
from agent.source.directory import DirectorySource
from agent.source.documents import File, Reading, read_documents
from agent.source.yaml import parse
from state.desired import Desired
from state.ids import Name
from state.spec.resolved import VmSpec, changes
from tests.spelling import labels, names, spelled, words
from tests.trees import HOST, MAP, NOW, NoFiles, job, load, scratch, tree, vm, write

# Texts

BROKEN = [
    "[",
    "kind: vm\nname: b\n",
    vm("a", "cpus: 0"),
    vm("a", "hosts: [there]", "cpus: 0"),
    job("a", "priority: x"),
    "- a",
    "",
    "# nothing",
]

SNIPPETS = [
    *(
        "api: holdfast/v1",
        "kind: vm",
        "name: web",
        "name: db",
        "---",
        "- ",
        "? ",
        ": ",
        "\n",
        "\n  ",
        "#",
    ),
    *(
        "&a ",
        "*a",
        "<<: *a",
        "!!str ",
        "{",
        "}",
        "[",
        "]",
        ",",
        "|",
        ">",
        '"',
        "'",
        "%YAML 1.1",
        "...",
        "\t",
    ),
    *(
        "ports: [{host: 80, guest: 80}]",
        "cpus: 2",
        "memory: 1GiB",
        "hosts: [x]",
        "\0",
        "\ufeff",
        "\u2028",
    ),
    *(
        "user_data_file: web.yaml",
        "image: debian-12",
        "kind: images",
        "kind: job",
        "script: |",
        "script_file: web.yaml",
        "files: [{path: /a, source: web.yaml}]",
        "artifacts: [/a/**/*]",
        "é",
        "\r",
        "~",
        "null",
    ),
]
yaml_like = st.lists(st.sampled_from(SNIPPETS), max_size=40).map(
    lambda parts: "".join(parts).encode()
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A good file with a few bytes cut, changed or put in."""
    data = bytearray(
        "---\n".join(
            [vm("db", "cpus: 2", "labels: {a: b}"), vm("x"), job("t", "env: {A: b}"), MAP]
        ).encode()
    )
    for _ in range(draw(st.integers(1, 5))):
        at = draw(st.integers(0, len(data)))
        cut = draw(st.integers(0, 10))
        data[at : at + cut] = draw(st.binary(max_size=5))
    return bytes(data)


hostile = st.one_of(
    st.binary(max_size=200), st.text(max_size=200).map(str.encode), yaml_like, damaged()
)


@given(hostile)
def test_no_content_of_a_file_raises_or_touches_the_names_of_others(data: bytes) -> None:
    """Catches: an exception of a parser or a shape that is not caught; a problem that drops every vm."""
    with scratch() as root:
        tree(root, {"web.yaml": vm("web"), "other.yaml": data})
        desired = load(root)
    held = {problem.name for problem in desired.problems}
    assert "web" in desired.vms or "web" in held
    assert not held & {*desired.vms, *desired.jobs}
    if b"web" not in data and b"80" not in data and b"kind: i" not in data:
        assert "web" in desired.vms
    for problem in desired.problems:
        assert str(problem).isprintable()
        json.dumps(problem.message).encode()


@given(
    st.one_of(
        hostile, st.lists(st.sampled_from(BROKEN), max_size=5).map("\n---\n".join).map(str.encode)
    )
)
def test_what_is_wrong_with_a_document_is_told_within_its_lines(data: bytes) -> None:
    """Catches: a place that counts from 0, or that is another document's."""
    end = data.count(b"\n") + data.count(b"\r") + 2
    found = read_documents(File("x", "x"), data, NoFiles())
    for reading, after in itertools.zip_longest(found, found[1:]):
        assert (reading.document is None) == bool(reading.problems)
        assert 1 <= reading.ref.line < end
        for problem in reading.problems:
            assert problem.column >= 1
            assert reading.ref.line <= problem.line <= (after.ref.line - 1 if after else end)


@given(st.data())
def test_half_of_a_file_never_means_that_the_other_half_is_not_wanted(data: st.DataObject) -> None:
    """Catches: a file that cannot be parsed counted as one without documents; an Absence that believes at once."""
    whole = (
        vm("a", "cpus: 2")
        + "---\n"
        + vm("b", "user_data: |", "  #cloud-config", "  x: y")
        + "---\n"
        + job("c", "priority: 5")
    ).encode()
    half = whole[: data.draw(st.integers(0, len(whole) - 1))]
    with scratch() as root:
        tree(root, {"two.yaml": whole, "web.yaml": vm("web")})
        source = DirectorySource(root, host=HOST)
        whole_one = source.load(NOW)
        assert sorted([*whole_one.vms, *whole_one.jobs]) == ["a", "b", "c", "web"]
        write(root, {"two.yaml": half})
        at_once, later = source.load(NOW), source.load(NOW + 60)
    for name in ("a", "b", "c", "web"):
        assert is_kept(name, at_once)
    for name in names_that_may_be_in(half) | {"web"}:
        assert is_kept(name, later)


def names_that_may_be_in(text: bytes) -> set[str]:
    """All where the text does not say, else those that it says."""
    try:
        values = [one.value for one in parse(text) if one.value is not None]
    except BadInput:
        return {"a", "b", "c"}
    if not all(isinstance(value, dict) for value in values):
        return {"a", "b", "c"}
    return {str(value.get("name")) for value in values if isinstance(value, dict)} & {"a", "b", "c"}


def is_kept(name: str, desired: Desired) -> bool:
    held = {problem.name for problem in desired.problems}
    return name in {*desired.vms, *desired.jobs} or name in held or desired.unproven is not None


# Specs

forwards = st.fixed_dictionaries(
    {"host": st.integers(1, 65535), "guest": st.integers(1, 65535)},
    optional={"address": st.sampled_from(["127.0.0.1", "127.0.0.2", "0.0.0.0"])},
)


def _apart(ports: Sequence[Mapping[str, Any]]) -> bool:
    return len({port["host"] for port in ports}) == len(ports)


vm_documents = st.fixed_dictionaries(
    {"api": st.just("holdfast/v1"), "kind": st.just("vm"), "name": names},
    optional={
        "labels": labels,
        "hosts": st.sampled_from([["*"], ["he*", "x"]]),
        "image": st.sampled_from(["debian-12", "debian"]),
        "size": st.just("small"),
        "cpus": st.integers(1, 255),
        "memory": st.integers(16, 4096).map("{}MiB".format),
        "disk": st.integers(1, 64).map("{}GiB".format),
        "ports": st.lists(forwards, max_size=4).filter(_apart),
        "network": st.fixed_dictionaries({}, optional={"egress": st.booleans()}),
        "user_data": words.map(lambda text: f"#cloud-config\n{text}\n"),
        "power": st.sampled_from(["running", "stopped", "paused"]),
        "restart": st.sampled_from(["always", "on_failure", "never"]),
        "suspend": st.booleans(),
        "protect": st.booleans(),
        "stop_timeout": st.integers(0, 3600).map("{}s".format),
    },
)


def spec_of(text: str) -> VmSpec:
    with scratch() as root:
        desired = load(tree(root, {"x.yaml": text.encode()}))
    assert desired.problems == (), (text, desired.problems)
    [wanted] = desired.vms.values()
    return wanted.spec


@given(vm_documents, st.randoms(use_true_random=False))
def test_how_a_document_is_written_is_no_part_of_its_digest(
    document: Mapping[str, Any], chance: random.Random
) -> None:
    """Catches: a digest of the text, or of a mapping in the order of its keys."""
    assert spec_of(spelled(document, chance)).digest == spec_of(json.dumps(document)).digest


@given(vm_documents)
def test_a_spec_survives_its_canonical_form(document: Mapping[str, Any]) -> None:
    """Catches: a field that the canonical form leaves out or brings back as another type."""
    spec = spec_of(json.dumps(document))
    again = VmSpec.from_canonical(spec.canonical())
    assert again == spec
    assert again.digest == spec.digest
    assert changes(spec, again) == ()


@given(vm_documents, vm_documents)
def test_specs_differ_exactly_when_a_change_can_be_named(
    one: Mapping[str, Any], other: Mapping[str, Any]
) -> None:
    """Catches: a field of the spec that no change is ever reported for."""
    before = spec_of(json.dumps(one))
    for key in other.keys() - {"api", "kind", "name"}:
        after = spec_of(json.dumps({**one, key: other[key]}))
        assert (before.digest == after.digest) == (changes(before, after) == ())


@given(
    vm_documents,
    st.sampled_from(["cpus", "memory", "disk", "ports", "labels", "user_data", "power"]),
)
def test_a_change_of_a_documents_own_key_is_a_change_of_its_spec(
    document: Mapping[str, Any], key: str
) -> None:
    """Catches: a key that is read and then forgotten while resolving."""
    others = {
        "cpus": 77,
        "memory": "5GiB",
        "disk": "99GiB",
        "ports": [{"host": 1, "guest": 1, "address": "127.9.9.9"}],
        "labels": {"changed": "yes"},
        "user_data": "changed",
        "power": "paused" if document.get("power") != "paused" else "running",
    }
    assume(document.get(key) != others[key])
    before = spec_of(json.dumps(document))
    after = spec_of(json.dumps({**document, key: others[key]}))
    assert before.digest != after.digest
    assert [change.field for change in changes(before, after)] == [key]


# Trees

GOOD = [
    *(vm("a"), vm("b"), vm("c", "image: debian"), vm("a", "hosts: [there]"), vm("b", "cpus: 3")),
    *(job("a"), job("e", "size: small"), job("e", "hosts: [there]")),
]
LINKED = [
    vm("a", "ports: [{host: 80, guest: 1}]"),
    vm("b", "ports: [{host: 80, guest: 1, address: 0.0.0.0}]"),
    vm("c", "user_data_file: u"),
    vm("d", "image: other"),
    job("f", "runs_on: other"),
    job("c", script="script_file: u"),
    job("g", "files: [{path: /u, source: u}]"),
]
MAPS = [
    MAP,
    MAP.replace("name: default", "name: second"),
    MAP.replace("1" * 64, "2" * 64),
    MAP + "x: 1\n",
    "api: holdfast/v1\nkind: images\nname: third\nimages: {other: {source: x.qcow2}}\n",
]
FILES = ["a.yaml", "b.yaml", "sub/c.yml", "sub/d.yaml", "u", "sub/u", ".holdfastignore"]
contents = st.one_of(
    st.sampled_from([*BROKEN, *GOOD, *LINKED, *MAPS]),
    st.lists(st.sampled_from([*GOOD, *LINKED, *MAPS, *BROKEN[1:4]]), max_size=3).map("---\n".join),
)
ignores = st.sampled_from(["", "sub/\n", "a.yaml\n", "*.yml\n!a.yaml\n", "!\n"])


@st.composite
def edits(draw: st.DrawFn) -> tuple[str, str, str]:
    what = draw(st.sampled_from(["write", "write", "write", "remove", "move"]))
    path = draw(st.sampled_from(FILES))
    if what == "move":
        return what, path, draw(st.sampled_from(FILES))
    return what, path, draw(ignores if path == ".holdfastignore" else contents)


def edit(root: Path, what: str, path: str, argument: str) -> None:
    target = root / path
    if what == "write":
        write(root, {path: argument})
    elif what == "remove":
        target.unlink(missing_ok=True)
    elif target.exists() and path != argument:
        (root / argument).parent.mkdir(exist_ok=True)
        target.replace(root / argument)


def said(desired: Desired) -> tuple[object, ...]:
    return (
        {name: (wanted.spec, wanted.source) for name, wanted in desired.vms.items()},
        {name: (wanted.spec, wanted.source) for name, wanted in desired.jobs.items()},
        desired.problems,
        desired.advice,
        desired.unproven,
        desired.source,
    )


@given(st.lists(edits(), max_size=12))
def test_a_source_that_saw_every_edit_says_what_a_new_one_says(
    changes: list[tuple[str, str, str]],
) -> None:
    """Catches: a cache that keeps what it must read again, or a resolved spec that outlives its image map."""
    with scratch() as root:
        tree(root, {"keep.yaml": vm("keep")})
        source = DirectorySource(root, host=HOST)
        for step, change in enumerate(changes):
            edit(root, *change)
            now = NOW + 1000 * step
            source.load(now)
            assert said(source.load(now + 500)) == said(load(root))


@given(st.lists(edits(), max_size=12))
def test_every_name_that_a_tree_says_is_wanted_or_held_and_never_both(
    changes: list[tuple[str, str, str]],
) -> None:
    """Catches: a document that is dropped without a problem; the last of two that wins; a problem without a name that
    leaves absence proven."""
    with scratch() as root:
        tree(root, {"keep.yaml": vm("keep")})
        for change in changes:
            edit(root, *change)
        ignored = (root / ".holdfastignore").exists()
        desired = load(root)
        readings: list[Reading] = []
        for path in [*root.glob("**/*.yaml"), *root.glob("**/*.yml")]:
            readings += read_documents(File(path.name, path.name), path.read_bytes(), NoFiles())
    held = {problem.name for problem in desired.problems}
    assert not held & {*desired.vms, *desired.jobs}
    if not ignored:
        here = [one for one in readings if one.hosts is None or one.hosts == ("*",)]
        said_names = [one.name for one in here if one.name and one.kind != "images"]
        assert not set(desired.vms) & set(desired.jobs)
        assert {*said_names} == {
            *desired.vms,
            *desired.jobs,
            *(name for name in held if name is not None),
        }
        assert all(said_names.count(name) == 1 for name in {*desired.vms, *desired.jobs})
        unclear = any(one.problems and not one.name and one.kind != "images" for one in here)
        assert (desired.unproven is not None) == unclear


@given(st.permutations(sorted({*GOOD, *LINKED, *BROKEN[1:5]})))
def test_in_which_files_the_documents_lie_decides_nothing(documents: list[str]) -> None:
    """Catches: the first of two documents that wins."""

    def outcome(root: Path, order: Sequence[str]) -> tuple[object, ...]:
        desired = load(
            tree(root, {f"{n:02}.yaml": text for n, text in enumerate(order)} | {"u": "x"})
        )
        return (
            {name: wanted.spec.digest for name, wanted in desired.vms.items()},
            {name: wanted.spec.digest for name, wanted in desired.jobs.items()},
            {problem.name for problem in desired.problems},
            desired.unproven is None,
        )

    with scratch() as root:
        assert outcome(root / "1", documents) == outcome(root / "2", sorted(documents))


@given(st.lists(contents, max_size=4))
def test_documents_of_other_hosts_change_nothing_here(others: list[str]) -> None:
    """Catches: a name, port or image map of another host's documents that counts here."""
    elsewhere = [
        text.replace("kind:", "hosts: [there]\nkind:") for text in others if "hosts:" not in text
    ]
    assume(all("kind:" in text for text in elsewhere))
    files = {f"x{n}.yaml": text for n, text in enumerate(elsewhere)}
    with scratch() as root:
        alone = load(tree(root / "1", {"web.yaml": vm("a", "ports: [{host: 80, guest: 9}]")}))
        beside_them = load(
            tree(
                root / "2",
                {"web.yaml": vm("a", "ports: [{host: 80, guest: 9}]"), **files, "u": "x"},
            )
        )
    assert {name: wanted.spec.digest for name, wanted in beside_them.vms.items()} == {
        name: wanted.spec.digest for name, wanted in alone.vms.items()
    }
    assert beside_them.jobs == {}
    assert {problem.name for problem in beside_them.problems} <= {None}
    assert beside_them.unproven is None


plain_words = st.one_of(
    st.sampled_from(
        [".nan", ".NaN", ".inf", "-.INF", "1e999", "~", "0x1F", "1_000", "0755", "no", "1:2"]
    ),
    st.text("0123456789.+-_:~einfaxoNU", min_size=1, max_size=6),
)


@given(st.one_of(yaml_like, plain_words.map("a: {}".format).map(str.encode)))
def test_a_value_is_only_what_a_text_can_say(data: bytes) -> None:
    """Catches: a tag or a special float that becomes an object."""

    def check(value: object, depth: int = 0) -> None:
        assert depth < 40
        match value:
            case dict():
                for key, one in value.items():
                    assert type(key) is str
                    check(one, depth + 1)
            case list():
                for one in value:
                    check(one, depth + 1)
            case _:
                assert value is None or type(value) in (str, int, float, bool)
                assert value == value

    try:
        found = parse(data)
    except BadInput:
        return
    for document in found:
        check(document.value)


def test_a_change_of_one_spec_is_seen_though_its_object_was_made_from_another() -> None:
    spec = spec_of(vm("web"))
    assert replace(spec, name=Name("other")).digest != spec.digest
