"""What a job document may say, what is wrong with one, and what it comes to on a host."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from pydantic import ValidationError

from agent.source.documents import File, Reading, read_documents
from state.desired import WantedJob
from state.ids import Digest, Name
from state.spec.job import ENVIRONMENT_LIMIT, SCRIPT_LIMIT, VARIABLE_LIMIT, JobDocument
from state.spec.resolved_job import Attachment, JobFile, JobSpec, Retries
from tests.trees import MAP, NoFiles, job, load, messages, tree, vm, write


class OneFile(NoFiles):
    """Whatever is asked for is there, and is the same."""

    def attachment(self, relative: str) -> Attachment:
        return Attachment(relative, digest("x"), 1)


def digest(text: str) -> Digest:
    return Digest("sha256:" + hashlib.sha256(text.encode()).hexdigest())


def read(text: str) -> list[Reading]:
    return list(read_documents(File("ci/t.yaml", "ci/t.yaml"), text.encode(), OneFile()))


def problems(text: str) -> list[str]:
    return [str(problem) for reading in read(text) for problem in reading.problems]


def job_of(root: Path, name: str = "tests") -> JobSpec:
    desired = load(root)
    assert messages(desired) == []
    found: WantedJob = desired.jobs[Name(name)]
    return found.spec


FULL = job(
    "tests",
    "labels: {team: core}",
    "runs_on: debian",
    "size: small",
    "env: {TOKEN: s3cret, CI: 'true'}",
    "secrets: [TOKEN]",
    "files:",
    "  - {path: /root/tool, source: ../bin/tool, mode: '0755'}",
    "  - {path: /root/a b.json, source: in.json}",
    "artifacts: ['/root/report/*.xml', '/var/log/**/[!a-c]?.log']",
    "timeouts: {boot: 2m, silence: 90s, total: 2h}",
    "retries: {infrastructure: 0, interrupted: 1, script: 10}",
    "keep_on_failure: 1h",
    "priority: -5",
    script="script_file: run.sh",
)


def test_a_spec_is_whole(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {"ci/t.yaml": FULL, "ci/run.sh": "#!/bin/sh", "ci/in.json": "{}", "bin/tool": b"\x7fELF\0"},
    )
    desired = load(root)
    assert str(desired.jobs[Name("tests")].source) == "ci/t.yaml:1"
    assert desired.vms == {}
    spec = job_of(root)
    assert (spec.runs_on, spec.image.label) == ("debian", "debian-12")
    assert (spec.cpus, spec.memory, spec.disk) == (2, 1 << 30, 4 << 30)
    assert spec.script == Attachment("ci/run.sh", digest("#!/bin/sh"), 9)
    assert spec.labels == (("team", "core"),)
    assert spec.env == (("CI", "true"), ("TOKEN", "s3cret"))
    assert spec.secrets == ("TOKEN",)
    assert spec.files == (
        JobFile("/root/a b.json", Attachment("ci/in.json", digest("{}"), 2)),
        JobFile("/root/tool", Attachment("bin/tool", digest("\x7fELF\0"), 5), 0o755),
    )
    assert spec.artifacts == ("/root/report/*.xml", "/var/log/**/[!a-c]?.log")
    assert (spec.boot, spec.silence, spec.total) == (120.0, 90.0, 7200.0)
    assert spec.retries == Retries(infrastructure=0, interrupted=1, script=10)
    assert (spec.keep_on_failure, spec.priority) == (3600.0, -5)


def test_what_is_left_out_has_the_defaults_of_the_contract(tmp_path: Path) -> None:
    spec = job_of(tree(tmp_path, {"t.yaml": job()}))
    assert (spec.runs_on, spec.script) == ("debian-12", "make test")
    assert (spec.cpus, spec.memory, spec.disk) == (1, 768 << 20, 4 << 30)
    assert (spec.boot, spec.silence, spec.total) == (300.0, 600.0, 3600.0)
    assert spec.retries == Retries(infrastructure=2, interrupted=0, script=0)
    assert (spec.keep_on_failure, spec.priority) == (0.0, 0)
    assert (spec.labels, spec.env, spec.secrets, spec.files, spec.artifacts) == ((),) * 5


def test_without_a_time_of_its_own_a_boot_has_that_of_its_image(tmp_path: Path) -> None:
    slow = MAP + "    boot_timeout: 20m\n"
    files = {"images.yaml": slow, "a.yaml": job("a"), "b.yaml": job("b", "timeouts: {boot: 1m}")}
    root = write(tmp_path, files)
    assert (job_of(root, "a").boot, job_of(root, "b").boot) == (1200.0, 60.0)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("image: debian-12", "5:1: unknown key `image`"),
        ("env: {A=B: x}", "5:7: `A=B`: `A=B` is no name of a variable (write letters, digits"),
        ("env: {1A: x}", "5:7: `1A`: `1A` is no name of a variable"),
        ("env: {A-B: x}", "5:7: `A-B`: `A-B` is no name of a variable"),
        ("env: {'A;id': x}", "5:7: `A;id`: `A;id` is no name of a variable"),
        ("env: {'': x}", "5:7: ``: `` is no name of a variable"),
        ("env: {CI: true}", "5:11: `CI`: `true` is no text (put it in quotes)"),
        ("env: {N: 0x10}", "5:10: `N`: `0x10` is no text (put it in quotes)"),
        ('env: {A: "x\\0y"}', "5:10: the text has a control character in it"),
        ("env: [A]", "5:6: `env`: a list is no mapping"),
        ("secrets: [no-name]", "5:11: `secrets`: `no-name` is no name of a variable"),
        ("secrets: [A, A]\nenv: {A: x}", "5:14: `A` is listed twice (remove one)"),
        ("files: [{path: /a}]", "5:9: key `source` is missing"),
        ("files: [{path: a, source: x}]", "5:16: `path`: `a` is no path of a file in the guest"),
        ("files: [{path: /a/../b, source: x}]", "5:16: `path`: `/a/../b` is no path of a file"),
        ("files: [{path: /a/./b, source: x}]", "5:16: `path`: `/a/./b` is no path of a file"),
        ("files: [{path: /a//b, source: x}]", "5:16: `path`: `/a//b` is no path of a file"),
        ("files: [{path: /a/, source: x}]", "5:16: `path`: `/a/` is no path of a file"),
        ("files: [{path: /, source: x}]", "5:16: `path`: `/` is no path of a file"),
        ('files: [{path: "/a\\0b", source: x}]', "5:16: the text has a control character in it"),
        ('files: [{path: "/a\\nb", source: x}]', "5:16: `path`: `/a\\nb` is no path of a file"),
        ('files: [{path: "/a\\u202eb", source: x}]', "5:16: `path`: `/a\\u202eb` is no path"),
        (f"files: [{{path: /{'x' * 256}, source: x}}]", "5:16: `path`: `/xxxxx"),
        (f"files: [{{path: {'/xx' * 1366}, source: x}}]", "5:16: `path`: `/xx/xx"),
        (
            "files: [{path: /a, source: x}, {path: /b, source: x}, {path: /a, source: y}]",
            "5:62: `/a` is given twice (remove one)",
        ),
        (
            "files: [{path: /a/b/c, source: x}, {path: /a-, source: x}, {path: /a/b, source: y}]",
            "5:67: `/a/b/c` lies below `/a/b`, which is a file too (rename one)",
        ),
        (
            "files: [{path: /a, source: x, mode: 420}]",
            "5:37: `mode`: `420` is no text (put it in q",
        ),
        ("files: [{path: /a, source: x, mode: 0o644}]", "5:37: `mode`: `0o644` is no text (put it"),
        (
            "files: [{path: /a, source: x, mode: '0o644'}]",
            '5:37: `mode`: `0o644` is no file mode (write its octal digits in quotes, like "0644")',
        ),
        ("files: [{path: /a, source: x, mode: '0888'}]", "5:37: `mode`: `0888` is no file mode"),
        ("files: [{path: /a, source: x, mode: '77777'}]", "5:37: `mode`: `77777` is no file mode"),
        ("files: [{path: /a, source: x, mode: u+x}]", "5:37: `mode`: `u+x` is no file mode"),
        ("artifacts: [root/*]", "5:13: `artifacts`: `root/*` is no pattern for files in the guest"),
        ("artifacts: [/root/../*]", "5:13: `artifacts`: `/root/../*` is no pattern"),
        ("artifacts: [/root/]", "5:13: `artifacts`: `/root/` is no pattern"),
        ("artifacts: [/a**]", "5:13: `artifacts`: `/a**` has `**` beside other characters"),
        ("artifacts: [/***]", "5:13: `artifacts`: `/***` has `**` beside other characters"),
        ("artifacts: ['/[a']", "5:13: `artifacts`: `[a` is not clear in a pattern"),
        ("artifacts: ['/[]']", "5:13: `artifacts`: `[]` is not clear in a pattern"),
        ("artifacts: ['/[!]']", "5:13: `artifacts`: `[!]` is not clear in a pattern"),
        ("artifacts: ['/[^a]']", "5:13: `artifacts`: `[^a]` is not clear in a pattern"),
        ("artifacts: ['/[z-a]']", "5:13: `artifacts`: `[z-a]` is not clear in a pattern"),
        ("artifacts: ['/x[[:alpha:]]']", "5:13: `artifacts`: `[[:alpha:]]` is not clear"),
        ("artifacts: ['/a\\b']", "5:13: `artifacts`: `\\b` is not clear in a pattern"),
        (
            f"artifacts: ['/{'*a' * 17}']",
            f"5:13: `artifacts`: `/{'*a' * 17}` has too many wildcards",
        ),
        ("artifacts: ['/**/a/**/b/**']", "5:13: `artifacts`: `/**/a/**/b/**` has too many wildca"),
        (f"artifacts: ['/{'x/' * 512}x']", "5:13: `artifacts`: `/x/x"),
        ("artifacts: [/a, /a]", "5:17: `/a` is listed twice (remove one)"),
        ("timeouts: {boot: 0s}", "5:18: `boot`: 0s is out of range (from 1s to 1d)"),
        ("timeouts: {silence: 8d}", "5:21: `silence`: 8d is out of range (from 1s to 7d)"),
        ("timeouts: {total: 60}", "5:19: `total`: `60` is no time"),
        ("timeouts: {totl: 1h}", "5:12: unknown key `totl` (did you mean `total`?)"),
        ("timeouts: 1h", "5:11: `timeouts`: `1h` is no mapping"),
        ("retries: {script: 11}", "5:19: `script`: `11` is too much (at most 10)"),
        ("retries: {infrastructure: -1}", "5:27: `infrastructure`: `-1` is too little (at least 0"),
        ("retries: 3", "5:10: `retries`: `3` is no mapping"),
        ("keep_on_failure: 2d", "5:18: `keep_on_failure`: 2d is out of range (from 0s to 1d)"),
        ("priority: 1001", "5:11: `priority`: `1001` is too much (at most 1000)"),
        ("priority: high", "5:11: `priority`: `high` is no whole number"),
        ("runs_on: -x", "5:10: `runs_on`: `-x` is no label"),
        ("script_file: x", "5:14: `script_file` stands beside `script` (keep one)"),
    ],
)
def test_what_is_wrong_is_said_at_its_place_with_what_to_write(line: str, problem: str) -> None:
    [found] = problems(job("t", line))
    assert found.startswith(f"ci/t.yaml:{problem}")
    assert found.isprintable()


@pytest.mark.parametrize(("script", "place"), [("priority: 1", "1:1"), ("script: ''", "4:9")])
def test_a_job_has_a_script(script: str, place: str) -> None:
    [found] = problems(job("t", script=script))
    assert found.startswith(f"ci/t.yaml:{place}: ")
    assert "key `script` is missing" in found or "`script`: it is too short" in found


@pytest.mark.parametrize("mode", ["0644", "'0644'", "'644'", '"4755"'])
def test_a_mode_is_octal_however_it_is_quoted(tmp_path: Path, mode: str) -> None:
    text = job("tests", f"files: [{{path: /a, source: x, mode: {mode}}}]")
    spec = job_of(tree(tmp_path, {"t.yaml": text, "x": "x"}))
    assert spec.files[0].mode == int(mode.strip("'\""), 8)


def test_what_a_document_brings_into_a_guest_is_bounded() -> None:
    def refusal(**fields: object) -> str:
        header = {"api": "holdfast/v1", "kind": "job", "name": "t", "script": "x"}
        with pytest.raises(ValidationError) as error:
            JobDocument.model_validate(header | fields)
        return str(error.value)

    assert "larger than 1MiB" in refusal(script="é" * (SCRIPT_LIMIT // 2) + "x")
    assert "`A` is more than" in refusal(env={"A": "x" * (VARIABLE_LIMIT - 1)})
    many = {f"A{n}": "x" * 100_000 for n in range(ENVIRONMENT_LIMIT // 100_000 + 1)}
    assert "`A10` is more than" in refusal(env=many)
    entries = [{"path": f"/{n}", "source": "x"} for n in range(256)]
    assert "at most 255" in refusal(files=entries)
    assert "at most 64" in refusal(artifacts=[f"/{n}" for n in range(65)])
    JobDocument.model_validate(
        {"api": "holdfast/v1", "kind": "job", "name": "t", "script": "x", "files": entries[:255]}
    )


def test_a_nul_is_refused_by_the_shape_itself() -> None:
    header = {"api": "holdfast/v1", "kind": "job", "name": "t"}
    for fields in ({"script": "a\0b"}, {"script": "x", "env": {"A": "a\0b"}}):
        with pytest.raises(ValueError, match="NUL"):
            JobDocument.model_validate(header | fields)


# Beside other documents


def test_a_vm_and_a_job_of_one_name_are_both_held(tmp_path: Path) -> None:
    files = {"a.yaml": vm("t"), "b.yaml": job("t"), "c.yaml": job("u"), "d.yaml": job("default")}
    desired = load(tree(tmp_path, files))
    assert (list(desired.vms), sorted(desired.jobs)) == ([], ["default", "u"])
    assert messages(desired) == [
        "a.yaml:3:7: vm `t` is also in b.yaml:1 (a vm and a job cannot have one name: rename one)",
        "b.yaml:3:7: job `t` is also in a.yaml:1 (a vm and a job cannot have one name: rename one)",
    ]
    assert {problem.name for problem in desired.problems} == {"t"}
    assert desired.unproven is None


@pytest.mark.parametrize("text", ["kind: job\nname: t\n", job("t", "priority: x")])
def test_a_broken_job_of_a_vms_name_holds_it_as_well(tmp_path: Path, text: str) -> None:
    desired = load(tree(tmp_path, {"a.yaml": vm("t"), "b.yaml": text}))
    assert (desired.vms, desired.jobs) == ({}, {})
    assert {problem.name for problem in desired.problems} == {"t"}


def test_a_document_of_a_kind_that_is_not_clear_holds_the_job_of_its_name(tmp_path: Path) -> None:
    """Catches: a job that is both wanted and held."""
    files = {"a.yaml": job("t"), "b.yaml": job("t").replace("kind: job", "kind: jbo")}
    desired = load(tree(tmp_path, files))
    assert desired.jobs == {}
    assert messages(desired) == ["b.yaml:2:7: kind `jbo` is not known (did you mean `job`?)"]
    assert desired.problems[0].name == "t"


def test_the_same_job_twice_is_held(tmp_path: Path) -> None:
    desired = load(tree(tmp_path, {"a.yaml": job("t"), "b.yaml": job("t")}))
    assert desired.jobs == {}
    assert messages(desired) == [
        "a.yaml:3:7: job `t` is also in b.yaml:1 (keep one)",
        "b.yaml:3:7: job `t` is also in a.yaml:1 (keep one)",
    ]


def test_a_broken_job_holds_its_own_name_only(tmp_path: Path) -> None:
    files = {"a.yaml": job("a", "priority: x"), "b.yaml": job("b"), "web.yaml": vm("web")}
    desired = load(tree(tmp_path, files))
    assert (list(desired.jobs), list(desired.vms)) == (["b"], ["web"])
    assert [(problem.name, problem.kind) for problem in desired.problems] == [("a", "job")]
    assert desired.unproven is None


def test_a_job_whose_name_cannot_be_read_may_own_any(tmp_path: Path) -> None:
    desired = load(tree(tmp_path, {"a.yaml": job("A"), "web.yaml": vm("web")}))
    assert desired.unproven == "a.yaml:3:7 cannot be read and might own any name"


def test_a_job_for_other_hosts_is_none_here(tmp_path: Path) -> None:
    files = {
        "a.yaml": job("a", "hosts: [there]"),
        "b.yaml": job("a", "hosts: ['he*']", "priority: 7"),
    }
    desired = load(tree(tmp_path, files))
    assert messages(desired) == []
    assert [one.spec.priority for one in desired.jobs.values()] == [7]


def test_labels_and_sizes_that_are_unknown_hold_the_jobs_that_ask_for_them(tmp_path: Path) -> None:
    files = {"a.yaml": job("a", "runs_on: debian-21"), "b.yaml": job("b", "size: smal")}
    desired = load(tree(tmp_path, files))
    assert messages(desired) == [
        "a.yaml:5:10: unknown image `debian-21` (did you mean `debian-12`?)",
        "b.yaml:5:7: unknown size `smal` (did you mean `small`?)",
    ]
    assert [problem.name for problem in desired.problems] == ["a", "b"]


def test_without_any_image_map_every_job_is_held(tmp_path: Path) -> None:
    desired = load(write(tmp_path, {"a.yaml": job("a"), "b.yaml": job("b", "runs_on: x")}))
    assert messages(desired) == [
        "a.yaml:1:1: `runs_on` is missing, and no image map has a default (write `runs_on:`, or"
        " `default_label:` in an images document)",
        "b.yaml:5:10: unknown image `x` (no image map has any: write `images:` in a document of"
        " `kind: images`)",
    ]


def test_an_image_that_nobody_can_log_in_to_runs_no_job(tmp_path: Path) -> None:
    root = write(
        tmp_path, {"images.yaml": MAP + "    nocloud: false\n", "a.yaml": job("a"), "w.yaml": vm()}
    )
    desired = load(root)
    assert list(desired.vms) == ["web"]
    assert messages(desired) == [
        "a.yaml:1:1: image `debian-12` has `nocloud: false`, so that nobody could log in to run the"
        " script (name another)"
    ]


def test_images_without_a_digest_are_advised_against_for_jobs_too(tmp_path: Path) -> None:
    text = MAP.replace(f'sha256: "{"1" * 64}"', "format: raw")
    desired = load(write(tmp_path, {"images.yaml": text, "t.yaml": job()}))
    assert list(desired.jobs) == ["tests"]
    assert [str(advice.where) for advice in desired.advice] == ["images.yaml:8"]


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        ("debian: debian-12}", "debian: debian-12, deb: debian-12}\ndefault_label: deb", True),
        ("https://images.example/", "https://mirror.example/", True),
        ('sha256: "1', 'sha256: "2', False),
        ("memory: 768MiB", "memory: 640MiB", False),
    ],
)
def test_what_the_image_map_changes_is_another_job_where_it_is_another_machine(
    tmp_path: Path, before: str, after: str, same: bool
) -> None:
    """Catches: a mirror that moved, or an alias that got another name, which runs every job again."""
    text = MAP.replace(before, after)
    if "default_label" in after:
        text = text.replace("default_label: debian-12\n", "")
    one = job_of(write(tmp_path / "1", {"images.yaml": MAP, "t.yaml": job()}))
    other = job_of(write(tmp_path / "2", {"images.yaml": text, "t.yaml": job()}))
    assert one != other
    assert (one.digest == other.digest) == same
