"""Where images may come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.source.directory import DirectorySource
from state.ids import Name
from tests.trees import HOST, MAP, NOW, load, messages, tree, vm, write


def image_map(source: str, key: str = "source") -> str:
    header = "api: holdfast/v1\nkind: images\nname: default\ndefault_label: a\n"
    return header + f"images:\n  a:\n    {key}: '{source}'\n    sha256: '{'1' * 64}'\n"


def source_of(root: Path, **options: object) -> str:
    desired = load(root, **options)
    assert messages(desired) == []
    return desired.vms[Name("web")].spec.image.source


@pytest.mark.parametrize(
    "url", ["https://images.example/a%20b.qcow2", "http://10.0.0.1:8080/x?y=1"]
)
def test_a_url_is_taken_as_it_is(tmp_path: Path, url: str) -> None:
    assert source_of(write(tmp_path, {"m.yaml": image_map(url), "web.yaml": vm()})) == url


@pytest.mark.parametrize(
    "source", ["../disks/a b.qcow2", "./../disks/a b.qcow2", "{root}/disks/a b.qcow2"]
)
@pytest.mark.parametrize("key", ["source", "local_path"])
def test_a_path_of_the_tree_is_relative_to_its_map(tmp_path: Path, source: str, key: str) -> None:
    text = image_map(source.format(root=tmp_path).replace("a b", "a-b"), key)
    root = write(tmp_path, {"maps/m.yaml": text, "web.yaml": vm(), "disks/a-b.qcow2": "x"})
    assert source_of(root) == f"file://{tmp_path}/disks/a-b.qcow2"


def test_a_file_url_is_a_path(tmp_path: Path) -> None:
    text = image_map(f"file://{tmp_path}/a%20b.qcow2")
    root = write(tmp_path, {"m.yaml": text, "web.yaml": vm(), "a b.qcow2": "x"})
    assert source_of(root) == f"file://{tmp_path}/a%20b.qcow2"


def test_a_link_of_the_tree_stands_for_what_it_leads_to(tmp_path: Path) -> None:
    root = write(tmp_path, {"m.yaml": image_map("now.qcow2"), "web.yaml": vm(), "v2.qcow2": "x"})
    (root / "now.qcow2").symlink_to("v2.qcow2")
    assert source_of(root) == f"file://{tmp_path}/v2.qcow2"


def test_an_image_root_lets_local_images_lie_there(tmp_path: Path) -> None:
    disks = write(tmp_path / "disks", {"a.qcow2": "x"})
    root = write(tmp_path / "tree", {"m.yaml": image_map(f"{disks}/a.qcow2"), "web.yaml": vm()})
    assert load(root).vms == {}
    assert source_of(root, image_roots=[disks]) == f"file://{disks}/a.qcow2"


def test_the_map_outside_the_tree_may_name_images_beside_it_and_the_tree_may_not(
    tmp_path: Path,
) -> None:
    etc = write(tmp_path / "etc", {"m.yaml": image_map("a.qcow2"), "a.qcow2": "x"})
    root = write(tmp_path / "tree", {"web.yaml": vm()})
    assert source_of(root, images_file=etc / "m.yaml") == f"file://{etc}/a.qcow2"
    write(
        root, {"m.yaml": image_map(f"{etc}/a.qcow2").replace("a:", "b:").replace("default_l", "#")}
    )
    assert "lies outside the directories" in messages(load(root, images_file=etc / "m.yaml"))[0]


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("/etc/shadow", "lies outside the directories that images may come from"),
        ("../../x.qcow2", "lies outside the directories"),
        ("not-yaml.qcow2", "lies outside the directories"),
        ("file:///etc/shadow", "lies outside the directories"),
        ("file://localhost/etc/shadow", "lies outside the directories"),
        ("file:///%65tc/shadow", "lies outside the directories"),
        ("file://elsewhere/x", "is no file URL of this host"),
        ("file:x.qcow2", "is no absolute file URL"),
        (".git/config", "lies in .git"),
        ("ftp://x/y", "has the scheme `ftp`, which is not supported"),
        ("data:text/plain,x", "has the scheme `data`, which is not supported"),
        ("nbd://x/y", "has the scheme `nbd`"),
        ("json:{}", "has the scheme `json`"),
        ("fat:rw:/etc", "has the scheme `fat`"),
        ("https://me:pw@x/y", "has a user name or password in it"),
        ("https://me@x/y", "has a user name or password in it"),
        ("https:///y", "names no host"),
        ("https://x:99999/y", "is no URL"),
        ("https://[::1/y", "is no URL"),
        ("https://x/a b", "has characters that no URL has"),
    ],
)
def test_a_source_from_elsewhere_is_refused_and_holds_the_vms_that_need_it(
    tmp_path: Path, source: str, why: str
) -> None:
    root = write(tmp_path / "tree", {"m.yaml": image_map(source), "web.yaml": vm()})
    (root / "not-yaml.qcow2").symlink_to("/etc/shadow")
    desired = load(root)
    assert desired.vms == {}
    [of_map, of_vm] = desired.problems
    assert (of_map.file, of_map.line, of_map.column, of_map.name) == ("m.yaml", 7, 13, None)
    assert f"image `a` has a source that {why}" in of_map.message
    assert of_vm.name == "web"
    assert f"has a source that {why}" in of_vm.message
    assert desired.unproven is None


def test_a_source_that_leaves_the_tree_later_is_noticed_though_no_document_changed(
    tmp_path: Path,
) -> None:
    root = tree(tmp_path / "tree", {"m.yaml": image_map("now").replace("default\n", "other\n", 1)})
    write(
        root,
        {"images.yaml": MAP.replace("default_label: debian-12\n", ""), "web.yaml": vm(), "v": ""},
    )
    (root / "now").symlink_to("v")
    source = DirectorySource(root, host=HOST)
    assert list(source.load(NOW).vms) == ["web"]
    (root / "now").unlink()
    (root / "now").symlink_to("/etc/shadow")
    assert list(source.load(NOW).vms) == []
