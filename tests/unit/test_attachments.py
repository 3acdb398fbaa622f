"""The files that a job names: never from outside its tree, of bounded size, and handed over only as they were."""

from __future__ import annotations

import hashlib
import os
import socket
from pathlib import Path

import pytest

from agent.errors import SourceChanged
from agent.source.directory import DirectorySource
from state.desired import Desired
from state.ids import Digest, Name
from state.spec.job import ATTACHMENT_LIMIT, ATTACHMENTS_LIMIT
from state.spec.resolved_job import Attachment
from tests.trees import HOST, NOW, job, load, messages, tree, vm, write

RUN = job(script="script_file: run")
SECRET = "root:$6$very-secret:19000:0:99999:7:::"  # noqa: S105


def digest(data: bytes) -> Digest:
    return Digest("sha256:" + hashlib.sha256(data).hexdigest())


def script_of(desired: Desired) -> Attachment:
    assert messages(desired) == []
    script = desired.jobs[Name("tests")].spec.script
    assert isinstance(script, Attachment)
    return script


def refusal(root: Path) -> str:
    """What is wrong with the only job of a tree, at the key that names its script."""
    desired = load(root)
    assert desired.jobs == {}
    [problem] = [one for one in desired.problems if one.name == "tests"]
    assert (problem.line, problem.column, problem.kind) == (4, 14, "job")
    assert "secret" not in repr(desired)
    return problem.message.partition("cannot be used: ")[2]


def test_a_binary_and_a_text_are_known_by_their_bytes(tmp_path: Path) -> None:
    for data in (b"\x7fELF\0\xff", "#!/bin/sh\r\n\ufeffé".encode(), b" "):
        root = tree(tmp_path, {"ci/t.yaml": RUN, "ci/run": data})
        assert script_of(load(root)) == Attachment("ci/run", digest(data), len(data))


def test_a_file_of_the_largest_size_is_taken_and_one_more_byte_is_not(tmp_path: Path) -> None:
    root = tree(tmp_path, {"t.yaml": RUN, "run": ""})
    os.truncate(root / "run", ATTACHMENT_LIMIT)
    script = script_of(load(root))
    assert script.size == ATTACHMENT_LIMIT
    source = DirectorySource(root, host=HOST)
    assert len(source.attachment("run", script.digest)) == ATTACHMENT_LIMIT
    os.truncate(root / "run", ATTACHMENT_LIMIT + 1)
    assert refusal(root) == "it is larger than 64MiB (put it into the image)"
    with pytest.raises(SourceChanged):
        source.attachment("run", script.digest)


def test_an_empty_script_is_none_but_an_empty_file_is_one(tmp_path: Path) -> None:
    root = tree(tmp_path, {"t.yaml": RUN, "run": ""})
    assert refusal(root) == "it is empty (write the script into it)"
    write(root, {"t.yaml": job("tests", "files: [{path: /a, source: run}]")})
    [wanted] = load(root).jobs.values()
    assert wanted.spec.files[0].content.size == 0


def test_a_missing_file_is_told_for_each_key_that_names_it(tmp_path: Path) -> None:
    files = "files: [{path: /a, source: gone}, {path: /b, source: here}, {path: /c, source: x}]"
    text = job("tests", files, script="script_file: run")
    assert messages(load(tree(tmp_path, {"t.yaml": text, "here": "x"}))) == [
        "t.yaml:4:14: `script_file`: `run` cannot be used: there is no such file",
        "t.yaml:5:28: `source`: `gone` cannot be used: there is no such file",
        "t.yaml:5:80: `source`: `x` cannot be used: there is no such file",
    ]


def test_of_very_many_missing_files_only_the_first_are_told(tmp_path: Path) -> None:
    entries = ", ".join(f"{{path: /{n}, source: u{n}}}" for n in range(255))
    desired = load(tree(tmp_path, {"t.yaml": job("tests", f"files: [{entries}]")}))
    assert len(desired.problems) == 20


def test_all_files_of_a_job_together_are_bounded(tmp_path: Path) -> None:
    most = ATTACHMENTS_LIMIT // ATTACHMENT_LIMIT
    root = tree(tmp_path, {"large": "", "t.yaml": ""})
    os.truncate(root / "large", ATTACHMENT_LIMIT)
    entries = [f"  - {{path: /{n}, source: large}}\n" for n in range(most)]
    write(root, {"t.yaml": job("tests", "files:\n" + "".join(entries))})
    assert messages(load(root)) == []
    write(
        root, {"t.yaml": job("tests", "files:\n" + "".join(entries), script="script_file: large")}
    )
    [message] = messages(load(root))
    assert message.endswith(
        "with this one its files are more than 1GiB in all (put them into the image)"
    )


@pytest.mark.timeout(10)
def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    root = tree(tmp_path, {"t.yaml": RUN})
    os.mkfifo(root / "run")
    assert refusal(root) == "it is no regular file"
    (root / "run").unlink()
    (root / "run").mkdir()
    assert refusal(root) == "it is no regular file"
    (root / "run").rmdir()
    here = os.getcwd()
    os.chdir(root)
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("run")
    finally:
        os.chdir(here)
    assert refusal(root).startswith("it cannot be read: ")


@pytest.mark.timeout(10)
@pytest.mark.parametrize("target", ["/dev/zero", "/etc/passwd", "../outside", "..", "run"])
def test_a_link_that_leads_outside_or_nowhere_is_not_followed(tmp_path: Path, target: str) -> None:
    write(tmp_path, {"outside": SECRET})
    root = tree(tmp_path / "tree", {"t.yaml": RUN})
    (root / "run").symlink_to(target)
    assert "leads outside the tree" in refusal(root) or target == "run"


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "up/outside", "..", ".git/config"])
def test_a_file_outside_is_refused_and_not_quoted(tmp_path: Path, name: str) -> None:
    write(tmp_path, {"outside": SECRET})
    root = tree(
        tmp_path / "tree", {"t.yaml": job(script=f"script_file: {name}"), ".git/config": SECRET}
    )
    (root / "up").symlink_to("..")
    assert refusal(root)


def test_a_link_within_the_tree_is_another_name(tmp_path: Path) -> None:
    root = tree(tmp_path, {"ci/t.yaml": RUN, "bin/run": "x"})
    (root / "ci" / "run").symlink_to("../bin/run")
    assert script_of(load(root)).digest == digest(b"x")
    (root / "bin" / "run").write_text("y")
    assert script_of(load(root)).digest == digest(b"y")


def test_a_changed_file_is_a_changed_job_and_a_missing_one_holds_it(tmp_path: Path) -> None:
    root = tree(tmp_path, {"t.yaml": RUN, "run": "one"})
    source = DirectorySource(root, host=HOST)
    before = source.load(NOW)
    assert source.load(NOW) is before
    write(root, {"run": "two"})
    assert script_of(source.load(NOW)).digest == digest(b"two")
    (root / "run").unlink()
    held = source.load(NOW)
    assert [problem.name for problem in held.problems] == ["tests"]
    assert source.load(NOW) is held
    write(root, {"run": "three"})
    assert script_of(source.load(NOW)).digest == digest(b"three")


# Handing over


def test_the_bytes_are_those_of_the_digest(tmp_path: Path) -> None:
    root = tree(tmp_path, {"ci/t.yaml": RUN, "ci/run": b"#!\0\xff"})
    source = DirectorySource(root, host=HOST)
    script = script_of(source.load(NOW))
    assert source.attachment(script.path, script.digest) == b"#!\0\xff"


@pytest.mark.timeout(10)
def test_a_file_that_is_not_the_one_that_was_read_is_not_handed_over(tmp_path: Path) -> None:
    """Catches: reading a file by its path alone once it was found good."""
    write(tmp_path, {"outside": "one"})
    root = tree(tmp_path / "tree", {"t.yaml": RUN, "run": "one"})
    source = DirectorySource(root, host=HOST)
    script = script_of(source.load(NOW))

    def why() -> str:
        with pytest.raises(SourceChanged) as error:
            source.attachment(script.path, script.digest)
        assert error.value.hint == "the next look tells what is wanted now"
        return error.value.message

    write(root, {"run": "two"})
    assert why() == "reading run for a job: it has changed"
    (root / "run").unlink()
    assert why() == "reading run for a job: there is no such file"
    (root / "run").symlink_to(tmp_path / "outside")
    assert "it leads outside the tree" in why()
    (root / "run").unlink()
    os.mkfifo(root / "run")
    assert why() == "reading run for a job: it is no regular file"


def test_a_release_that_was_switched_is_not_mixed_with_the_one_before(tmp_path: Path) -> None:
    for release, data in (("1", "one"), ("2", "two")):
        tree(tmp_path / "releases" / release, {"t.yaml": RUN, "run": data})
    current = tmp_path / "current"
    current.symlink_to("releases/1")
    source = DirectorySource(current, host=HOST)
    one = script_of(source.load(NOW))
    current.unlink()
    current.symlink_to("releases/2")
    assert source.attachment("run", one.digest) == b"one"
    two = script_of(source.load(NOW))
    assert source.attachment("run", two.digest) == b"two"
    with pytest.raises(SourceChanged):
        source.attachment("run", one.digest)


def test_a_job_and_a_vm_may_name_one_file(tmp_path: Path) -> None:
    files = {"t.yaml": RUN, "web.yaml": vm("web", "user_data_file: run"), "run": "#!/bin/sh\n"}
    desired = load(tree(tmp_path, files))
    assert script_of(desired).digest == digest(b"#!/bin/sh\n")
    assert desired.vms[Name("web")].spec.user_data == "#!/bin/sh\n"
