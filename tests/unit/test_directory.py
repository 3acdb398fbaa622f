"""What a directory says, and what it leaves unsaid."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.source.directory import DirectorySource
from state.desired import Desired
from state.ids import Name
from tests.trees import HOST, MAP, NOW, load, messages, tree, vm, write


def spec_digests(desired: Desired) -> dict[str, str]:
    return {name: wanted.spec.digest for name, wanted in desired.vms.items()}


def test_each_vm_document_of_the_tree_is_wanted_with_its_place(tmp_path: Path) -> None:
    desired = load(
        tree(
            tmp_path,
            {"vms/web.yaml": vm("web"), "a/b/c.yml": "# two\n" + vm("db") + "---\n" + vm("x")},
        )
    )
    assert desired.problems == ()
    assert desired.unproven is None
    assert {name: str(wanted.source) for name, wanted in desired.vms.items()} == {
        "web": "vms/web.yaml:1",
        "db": "a/b/c.yml:2",
        "x": "a/b/c.yml:6",
    }


def test_a_spec_is_whole(tmp_path: Path) -> None:
    desired = load(
        tree(
            tmp_path,
            {
                "web.yaml": vm(
                    "web",
                    "size: small",
                    "labels: {b: y, a: x}",
                    "ports: [{host: 81, guest: 1}, {host: 80, guest: 2}]",
                    "user_data_file: web.cfg",
                ),
                "web.cfg": "#cloud-config\n",
            },
        )
    )
    spec = desired.vms[Name("web")].spec
    assert (spec.image.label, spec.image.source) == (
        "debian-12",
        "https://images.example/debian-12.qcow2",
    )
    assert (spec.cpus, spec.memory, spec.disk) == (2, 1 << 30, 4 << 30)
    assert spec.labels == (("a", "x"), ("b", "y"))
    assert [(port.host, port.guest) for port in spec.ports] == [(80, 2), (81, 1)]
    assert spec.user_data == "#cloud-config\n"


@pytest.mark.parametrize(
    "name",
    [
        *("web.yaml~", "#web.yaml#", ".web.yaml", ".web.yaml.swp", "web.yaml.bak", "web.yaml.swp"),
        *("4913", "web.json", ".git/web.yaml", "x/.hidden/web.yaml", "README", ".#web.yaml"),
    ],
)
def test_what_editors_and_others_leave_in_a_tree_is_passed_over(tmp_path: Path, name: str) -> None:
    desired = load(tree(tmp_path, {name: "a: [", "db.yaml": vm("db")}))
    assert (list(desired.vms), desired.problems, desired.advice) == (["db"], (), ())
    assert desired.unproven is None


def test_ignore_files_count_as_those_of_git_do(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            ".holdfastignore": "# not ours\ncloud/\n*.tmp.yaml\n!keep.tmp.yaml\n/top.yaml\n",
            "cloud/init.yaml": "#cloud-config\npackages: []\n",
            "a.tmp.yaml": "a: [",
            "keep.tmp.yaml": vm("kept"),
            "top.yaml": "a: [",
            "sub/top.yaml": vm("sub"),
            "sub/.holdfastignore": "deep.yaml\n!a.tmp.yaml\n",
            "sub/deep.yaml": "a: [",
            "sub/a.tmp.yaml": vm("again"),
        },
    )
    desired = load(root)
    assert messages(desired) == []
    assert sorted(desired.vms) == ["again", "kept", "sub"]


@pytest.mark.parametrize("content", ["!\n", "[z-a]\n", "*a*b*c*d*e\n", "x" * 600 + "\n", b"\xff\n"])
def test_an_ignore_file_that_cannot_be_used_proves_no_absence(
    tmp_path: Path, content: str | bytes
) -> None:
    root = tree(
        tmp_path, {"sub/.holdfastignore": content, "sub/web.yaml": vm("web"), "db.yaml": vm("db")}
    )
    desired = load(root)
    assert list(desired.vms) == ["db"]
    assert messages(desired)[0].startswith(
        "sub/.holdfastignore:1:1: the ignore file cannot be used"
    )
    assert desired.unproven is not None


def test_a_directory_that_is_named_like_a_document_is_one(tmp_path: Path) -> None:
    assert list(load(tree(tmp_path, {"web.yaml/web.yaml": vm("web")})).vms) == ["web"]


def test_a_missing_tree_proves_no_absence(tmp_path: Path) -> None:
    desired = load(tmp_path / "nowhere")
    assert desired.unproven is not None
    why = "the directory cannot be read: No such file or directory"
    assert desired.source.error == f"{tmp_path}/nowhere: {why}"
    assert messages(desired) == []


def test_a_tree_that_is_a_file_proves_no_absence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text(vm())
    desired = load(tmp_path / "file")
    assert desired.unproven is not None
    assert desired.source.error == f"{tmp_path}/file: the directory cannot be read: Not a directory"


@pytest.mark.parametrize("files", [{}, {"README": "x"}, {"c.yaml": "# nothing\n---\n"}])
def test_an_emptied_tree_proves_no_absence(tmp_path: Path, files: dict[str, str]) -> None:
    desired = load(write(tmp_path, files))
    assert desired.vms == {}
    assert desired.unproven is not None
    assert "has no documents" in desired.unproven


def test_a_tree_that_has_only_an_image_map_left_does_prove_absence(tmp_path: Path) -> None:
    assert load(tree(tmp_path, {})).unproven is None


def test_a_file_that_cannot_be_parsed_might_own_any_name(tmp_path: Path) -> None:
    desired = load(tree(tmp_path, {"a.yaml": "a: 1\nb: [\n", "web.yaml": vm("web")}))
    assert list(desired.vms) == ["web"]
    assert desired.problems[0].name is None
    assert desired.unproven == "a.yaml:3:1 cannot be read and might own any name"


def test_several_reasons_are_counted(tmp_path: Path) -> None:
    desired = load(tree(tmp_path, {"a.yaml": "[", "b.yaml": "[", "c.yaml": "- x"}))
    assert desired.unproven is not None
    assert desired.unproven.endswith("might own any name, and 2 more like it")


def test_a_document_that_fails_holds_its_own_name_only(tmp_path: Path) -> None:
    desired = load(tree(tmp_path, {"a.yaml": vm("a", "cpus: x"), "b.yaml": vm("b")}))
    assert list(desired.vms) == ["b"]
    assert [problem.name for problem in desired.problems] == ["a"]
    assert desired.unproven is None


def test_the_same_name_twice_is_held_and_each_document_names_the_other(tmp_path: Path) -> None:
    desired = load(
        tree(tmp_path, {"a.yaml": vm("web"), "b.yaml": vm("x") + "---\n" + vm("web", "cpus: 2")})
    )
    assert list(desired.vms) == ["x"]
    assert messages(desired) == [
        "a.yaml:3:7: vm `web` is also in b.yaml:5 (keep one)",
        "b.yaml:7:7: vm `web` is also in a.yaml:1 (keep one)",
    ]
    assert {problem.name for problem in desired.problems} == {"web"}
    assert desired.unproven is None


def test_a_broken_double_holds_the_name_as_well(tmp_path: Path) -> None:
    desired = load(tree(tmp_path, {"a.yaml": vm("web"), "b.yaml": "kind: vm\nname: web\n"}))
    assert desired.vms == {}
    assert {problem.name for problem in desired.problems} == {"web"}


def test_a_document_of_a_kind_that_is_not_clear_holds_the_name_that_it_gives(
    tmp_path: Path,
) -> None:
    desired = load(
        tree(tmp_path, {"a.yaml": vm("web"), "b.yaml": "api: holdfast/v1\nkind: vmm\nname: web\n"})
    )
    assert desired.vms == {}
    assert [problem.name for problem in desired.problems] == ["web"]


def test_an_image_map_may_bear_the_name_of_a_vm(tmp_path: Path) -> None:
    desired = load(tree(tmp_path, {"a.yaml": vm("default"), "b.yaml": vm("t")}))
    assert sorted(desired.vms) == ["default", "t"]
    assert messages(desired) == []


def test_two_documents_that_want_one_port_are_both_held(tmp_path: Path) -> None:
    desired = load(
        tree(
            tmp_path,
            {
                "a.yaml": vm("a", "ports: [{host: 80, guest: 1}]"),
                "b.yaml": vm("b", "ports:", "  - {host: 90, guest: 1}", "  - {host: 80, guest: 2}"),
                "c.yaml": vm("c", "ports: [{host: 80, guest: 1, address: 127.0.0.2}]"),
            },
        )
    )
    assert list(desired.vms) == ["c"]
    assert [(str(problem), problem.name) for problem in desired.problems] == [
        (
            "a.yaml:4:9: host port 127.0.0.1:80 is also wanted by `b` in b.yaml:1, on 127.0.0.1"
            " (give one of them another port)",
            "a",
        ),
        (
            "b.yaml:6:5: host port 127.0.0.1:80 is also wanted by `a` in a.yaml:1, on 127.0.0.1"
            " (give one of them another port)",
            "b",
        ),
    ]


def test_a_port_on_every_address_overlaps_that_port_on_each(tmp_path: Path) -> None:
    desired = load(
        tree(
            tmp_path,
            {
                "a.yaml": vm("a", "ports: [{host: 80, guest: 1, address: 0.0.0.0}]"),
                "b.yaml": vm("b", "ports: [{host: 80, guest: 1, address: 127.0.0.2}]"),
                "c.yaml": vm("c", "ports: [{host: 80, guest: 1, address: 127.0.0.3}]"),
            },
        )
    )
    assert desired.vms == {}
    assert [problem.name for problem in desired.problems] == ["a", "b", "c"]
    assert "also wanted by `a`" in desired.problems[2].message


def test_a_document_for_other_hosts_is_as_if_absent_but_still_checked(tmp_path: Path) -> None:
    desired = load(
        tree(
            tmp_path,
            {
                "a.yaml": vm("a", "hosts: [there]", "ports: [{host: 80, guest: 1}]"),
                "b.yaml": vm("b", "hosts: [there, 'he*']", "ports: [{host: 80, guest: 1}]"),
                "c.yaml": vm("c", "hosts: ['HERE']"),
                "d.yaml": vm("b", "hosts: [there]"),
                "e.yaml": vm("b", "hosts: [there]", "cpus: 0"),
            },
        )
    )
    assert list(desired.vms) == ["b"]
    assert messages(desired) == ["e.yaml:5:7: `cpus`: `0` is too little (at least 1)"]
    assert desired.unproven is None


def test_an_image_map_for_other_hosts_is_none_here(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "here.yaml": MAP + "hosts: [here]\n",
            "there.yaml": MAP.replace("name: default", "name: there") + "hosts: [there]\n",
            "web.yaml": vm("web"),
        },
    )
    assert (list(load(root).vms), messages(load(root))) == (["web"], [])


def test_images_without_a_digest_are_advised_against(tmp_path: Path) -> None:
    text = MAP.replace(f'sha256: "{"1" * 64}"', "format: raw")
    desired = load(write(tmp_path, {"images.yaml": text, "web.yaml": vm("web")}))
    assert [(str(advice.where), advice.message) for advice in desired.advice] == [
        ("images.yaml:8", "image `debian-12` has no sha256: nothing proves what is downloaded")
    ]


def test_labels_and_sizes_that_are_unknown_hold_the_vms_that_ask_for_them(tmp_path: Path) -> None:
    desired = load(
        tree(
            tmp_path,
            {
                "a.yaml": vm("a", "image: debian-21"),
                "b.yaml": vm("b", "size: smal"),
                "c.yaml": vm("c"),
            },
        )
    )
    assert list(desired.vms) == ["c"]
    assert messages(desired) == [
        "a.yaml:4:8: unknown image `debian-21` (did you mean `debian-12`?)",
        "b.yaml:4:7: unknown size `smal` (did you mean `small`?)",
    ]


def test_without_any_image_map_every_vm_is_held(tmp_path: Path) -> None:
    desired = load(write(tmp_path, {"a.yaml": vm("a"), "b.yaml": vm("b", "image: x")}))
    assert messages(desired) == [
        "a.yaml:1:1: `image` is missing, and no image map has a default (write `image:`, or"
        " `default_label:` in an images document)",
        "b.yaml:4:8: unknown image `x` (no image map has any: write `images:` in a document of"
        " `kind: images`)",
    ]


def test_a_broken_image_map_holds_what_depends_on_it_and_is_named_there(tmp_path: Path) -> None:
    desired = load(
        write(tmp_path, {"images.yaml": MAP + "x: 1\n", "web.yaml": vm("web", "image: debian-12")})
    )
    assert messages(desired) == [
        "images.yaml:12:1: unknown key `x` (known: api, kind, name, hosts, default_label, aliases,"
        " sizes, images)",
        "web.yaml:4:8: unknown image `debian-12` (no image map has any: write `images:` in a"
        " document of `kind: images`); it may be in images.yaml, which has a problem of its own",
    ]
    assert [problem.name for problem in desired.problems] == [None, "web"]
    assert desired.unproven is None


def test_an_image_that_two_maps_define_is_wrong_in_both_and_holds_its_vms(tmp_path: Path) -> None:
    other = "api: holdfast/v1\nkind: images\nname: other\nimages: {debian-12: {source: 'https://x/y'}}\n"
    desired = load(tree(tmp_path, {"other.yaml": other, "web.yaml": vm("web", "image: debian-12")}))
    assert desired.vms == {}
    both = "`debian-12` is defined in several image maps: images.yaml:1 and other.yaml:1 (keep one)"
    assert [message for message in messages(desired) if both in message] == [
        f"images.yaml:8:3: {both}",
        f"other.yaml:4:10: {both}",
    ]
    assert messages(desired)[-1] == (
        "web.yaml:4:8: image `debian-12` is defined in several image maps: images.yaml:1 and"
        " other.yaml:1"
    )
    assert desired.unproven is None


def test_an_image_map_outside_the_tree_needs_no_header(tmp_path: Path) -> None:
    root = write(tmp_path / "tree", {"web.yaml": vm("web")})
    header, body = MAP.split("default_label", 1)
    assert header.count("\n") == 3
    outside = write(tmp_path / "etc", {"images.yaml": "default_label" + body}) / "images.yaml"
    desired = load(root, images_file=outside)
    assert (list(desired.vms), messages(desired)) == (["web"], [])


def test_an_image_map_outside_the_tree_that_is_missing_holds_what_depends_on_it(
    tmp_path: Path,
) -> None:
    root = write(tmp_path / "tree", {"web.yaml": vm("web", "image: x")})
    desired = load(root, images_file=tmp_path / "no.yaml")
    assert messages(desired)[0].endswith("no.yaml: the file cannot be used: there is no such file")
    assert "it may be in " in messages(desired)[1]
    assert [problem.name for problem in desired.problems] == [None, "web"]
    assert desired.unproven is None


def test_moving_a_document_to_another_file_changes_nothing_about_it(tmp_path: Path) -> None:
    root = tree(tmp_path, {"a.yaml": vm("web", "cpus: 2")})
    source = DirectorySource(root, host=HOST)
    before = source.load(NOW)
    (root / "b").mkdir()
    (root / "a.yaml").rename(root / "b" / "c.yml")
    after = source.load(NOW)
    assert spec_digests(before) == spec_digests(after)
    assert str(after.vms[Name("web")].source) == "b/c.yml:1"


def test_comments_order_and_quoting_are_no_change(tmp_path: Path) -> None:
    one = tree(
        tmp_path / "1", {"a.yaml": vm("web", "cpus: 2", "memory: 1GiB", "labels: {a: x, b: y}")}
    )
    other = tree(
        tmp_path / "2",
        {
            "a.yaml": "# hello\n'labels':\n  b: \"y\"\n  a: x\nmemory: '1024MiB'\n"
            "cpus: 2   # two\nkind: vm\nname: web\napi: holdfast/v1\nhosts: [he*]\n"
        },
    )
    assert spec_digests(load(one)) == spec_digests(load(other))
