"""What a document asks for that is not done yet is said aloud."""

from __future__ import annotations

from pathlib import Path

from agent.source.directory import DirectorySource

IMAGES = """\
api: holdfast/v1
kind: images
name: default
default_label: x
images:
  x: {source: "https://images.example/x.qcow2", sha256: "%s"}
"""


def test_fields_that_are_only_checked_are_named_in_the_advice(tmp_path: Path) -> None:
    (tmp_path / "images.yaml").write_text(IMAGES % ("1" * 64))
    head = "api: holdfast/v1\nkind: vm\n"
    (tmp_path / "db.yaml").write_text(f"{head}name: db\nhealth: {{tcp: 80}}\n")
    (tmp_path / "web.yaml").write_text(f"{head}name: web\ndepends_on: [db]\n")
    source = DirectorySource(tmp_path, host="here")
    for _ in range(2):  # also when nothing has changed since the last look
        found = source.load(0.0)
        said = {(one.where.file, one.message.split("`")[1]) for one in found.advice}
        assert said == {("db.yaml", "health"), ("web.yaml", "depends_on")}
        assert set(found.vms) == {"db", "web"}
