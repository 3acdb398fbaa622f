"""What is wrong with a document is said at its place, with what to write instead."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from agent.source.documents import File, Reading, read_documents
from agent.source.yaml import Value
from state.spec.images import ImagesDocument
from state.spec.vm import VmDocument
from tests.trees import MAP, NoFiles, vm

FILE = File("vms/web.yaml", "vms/web.yaml")


def read(text: str, header: Mapping[str, Value] | None = None) -> list[Reading]:
    return list(read_documents(File(FILE.path, FILE.shown, header), text.encode(), NoFiles()))


def problems(text: str) -> list[str]:
    return [str(problem) for reading in read(text) for problem in reading.problems]


def vm_of(text: str) -> VmDocument:
    [reading] = read(text)
    assert reading.problems == ()
    assert isinstance(reading.document, VmDocument)
    return reading.document


def test_a_document_with_every_field_is_read() -> None:
    document = vm_of(
        vm(
            "web",
            "labels: {tier: edge, team/owner: 'web & co'}",
            "hosts: ['web-*', db1]",
            "image: debian-12",
            "size: small",
            "cpus: 2",
            "memory: 1GiB",
            "disk: 8GiB",
            "ports:",
            "  - {host: 8080, guest: 80}",
            "  - {host: 8080, guest: 81, address: 127.0.0.2}",
            "network: {egress: false}",
            "user_data: |",
            "  #cloud-config",
            "power: paused",
            "restart: on_failure",
            "health: {http: {port: 80, path: /ok, status: 204}, interval: 5s, failures: 2}",
            "depends_on: [db, cache]",
            "suspend: true",
            "protect: true",
            "stop_timeout: 90s",
        )
    )
    assert document.memory == 1 << 30
    assert document.ports[1].address == "127.0.0.2"
    assert document.network.egress is False
    assert document.user_data == "#cloud-config\n"
    assert document.health is not None
    assert document.health.http is not None
    assert (document.health.http.status, document.health.interval) == (204, 5.0)
    assert document.depends_on == ("db", "cache")
    assert document.stop_timeout == 90.0


def test_what_is_left_out_has_the_defaults_of_the_contract() -> None:
    document = vm_of(vm("web"))
    assert (document.power, document.restart, document.stop_timeout) == ("running", "always", 30.0)
    assert (document.network.egress, document.suspend, document.protect) == (True, False, False)
    assert (document.hosts, document.ports, document.labels) == (("*",), (), {})
    assert (document.cpus, document.memory, document.disk, document.image) == (None,) * 4


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("memry: 1GiB", "4:1: unknown key `memry` (did you mean `memory`?)"),
        ("dependsOn: [a]", "4:1: unknown key `dependsOn` (did you mean `depends_on`?)"),
        ("ports: [{host: 1}]", "4:9: key `guest` is missing"),
        ("ports: [{hst: 1, guest: 2, host: 3}]", "4:10: unknown key `hst` (did you mean `host`?)"),
        ("network: {egres: no}", "4:11: unknown key `egres` (did you mean `egress`?)"),
        ("cpus: '2'", '4:7: `cpus`: `"2"` is no whole number (write digits only'),
        ("cpus: 08", "4:7: `cpus`: `08` is no whole number (write digits only"),
        ("cpus: 1e1", "4:7: `cpus`: `1e1` is no whole number"),
        ("cpus: 2.0", "4:7: `cpus`: `2.0` is no whole number"),
        ("cpus: true", "4:7: `cpus`: `true` is no whole number"),
        ("cpus: 0", "4:7: `cpus`: `0` is too little (at least 1)"),
        ("cpus: 256", "4:7: `cpus`: `256` is too much (at most 255)"),
        ("memory: 0MiB", "4:9: `memory`: 0B is out of range (from 16MiB to 16TiB)"),
        ("memory: 15MiB", "4:9: `memory`: 15MiB is out of range"),
        ("memory: 17TiB", "4:9: `memory`: 17TiB is out of range"),
        ("memory: 512", "4:9: `memory`: `512` is no size"),
        ("disk: 65TiB", "4:7: `disk`: 65TiB is out of range"),
        ("ports: [{host: 2222:22, guest: 22}]", "4:16: `host`: `2222:22` is no whole number"),
        ("ports: [{host: 0, guest: 22}]", "4:16: `host`: `0` is too little (at least 1)"),
        ("ports: [{host: 65536, guest: 22}]", "4:16: `host`: `65536` is too much (at most 65535)"),
        ("ports: [{host: -1, guest: 22}]", "4:16: `host`: `-1` is too little (at least 1)"),
        ("ports: [{host: 1, guest: true}]", "4:26: `guest`: `true` is no whole number"),
        ("ports: {host: 1, guest: 2}", "4:8: `ports`: a mapping is no list"),
        ("ports: [80]", "4:9: `ports`: `80` is no mapping"),
        (
            "ports: [{host: 1, guest: 2, address: localhost}]",
            "4:38: `address`: `localhost` is no IPv4",
        ),
        (
            "ports: [{host: 1, guest: 2, address: '::1'}]",
            "4:38: `address`: `::1` is no IPv4 address",
        ),
        ("ports: [{host: 1, guest: 2, address: 127.1}]", "4:38: `address`: `127.1` is no text"),
        (
            "ports: [{host: 1, guest: 2, address: 127.0.0.01}]",
            "4:38: `address`: `127.0.0.01` is no IPv4",
        ),
        (
            "ports: [{host: 1, guest: 2}, {host: 1, guest: 3}]",
            "4:30: host port 127.0.0.1:1 is given twice",
        ),
        (
            "ports: [{host: 1, guest: 2}, {host: 1, guest: 3, address: 0.0.0.0}]",
            "4:30: host port 127.0.0.1:1 is given twice",
        ),
        (
            "power: on",
            "4:8: `power`: `on` is not one of its values (write running, stopped or paused)",
        ),
        (
            "power: true",
            "4:8: `power`: `true` is not one of its values (write running, stopped or paused,",
        ),
        ("suspend: yes", "4:10: `suspend`: `yes` is neither true nor false"),
        ("suspend: 1", "4:10: `suspend`: `1` is neither true nor false"),
        ("network: false", "4:10: `network`: `false` is no mapping"),
        ("labels: {a b: x}", "4:10: `a b`: `a b` is no label key"),
        ("labels: {a: 1.10}", "4:13: `a`: `1.10` is no text (put it in quotes)"),
        ("labels: {a: 'x\u202ey'}", "4:13: `a`: `x\\u202ey` is no label value"),
        ("image: -x", "4:8: `image`: `-x` is no label"),
        ("image: 12", "4:8: `image`: `12` is no text (put it in quotes)"),
        ("image: 'a\u200bb'", "4:8: `image`: `a\\u200bb` is no label"),
        ("hosts: []", "4:8: `hosts`: it is too short (at least 1)"),
        ("hosts: web", "4:8: `hosts`: `web` is no list"),
        ("hosts: ['a b']", "4:9: `hosts`: `a b` is no pattern for host names"),
        ("stop_timeout: 30", "4:15: `stop_timeout`: `30` is no time"),
        ("stop_timeout: 2d", "4:15: `stop_timeout`: 2d is out of range (from 0s to 1d)"),
        ("depends_on: [web]", "4:14: a vm cannot wait for itself"),
        ("depends_on: [a, a]", "4:17: `a` is listed twice"),
        ("depends_on: [A]", "4:14: `depends_on`: `A` is no name"),
        ("health: {interval: 5s}", "4:9: `health` says nothing to check"),
        ("health: {tcp: 1, ssh: true}", "4:23: `ssh` stands beside `tcp`"),
        ("health: {ssh: false}", "4:15: `ssh`: `false` is not one of its values"),
        ("health: {http: {port: 1, path: 'a b'}}", "4:32: `path`: `a b` is no path"),
        ("health: {tcp: 1, interval: 0s}", "4:28: `interval`: 0s is out of range"),
        ("memory:", "4:1: key `memory` has no value (write one, or remove the key)"),
        ("image: ~", "4:1: key `image` has no value"),
        ("name: db", "4:1: key `name` is given twice, first at 3:1 (keep one)"),
    ],
)
def test_what_is_wrong_is_said_at_its_place_with_what_to_write(line: str, problem: str) -> None:
    [found] = problems(vm("web", line))
    assert found.startswith(f"vms/web.yaml:{problem}")


def test_everything_wrong_with_a_document_is_told_and_concerns_its_name() -> None:
    [reading] = read(vm("web", "memry: 1GiB", "cpus: 0", "power: off"))
    assert [(one.line, one.column, one.name, one.kind) for one in reading.problems] == [
        (4, 1, "web", "vm"),
        (5, 7, "web", "vm"),
        (6, 8, "web", "vm"),
    ]


def test_of_very_many_errors_only_the_first_are_told() -> None:
    [reading] = read(vm("web", *(f"key{n}: 1" for n in range(5_000))))
    assert len(reading.problems) == 20


def test_user_data_is_given_in_one_way_and_bounded() -> None:
    assert problems(vm("web", "user_data: x", "user_data_file: y")) == [
        "vms/web.yaml:5:17: `user_data_file` stands beside `user_data` (keep one)"
    ]
    assert problems(vm("web", "user_data_file: y")) == [
        "vms/web.yaml:4:17: `user_data_file`: `y` cannot be used: there is no such file"
    ]
    too_much = VmDocument.model_validate
    with pytest.raises(ValueError, match="`user_data` is larger than 1MiB"):
        too_much(
            {"api": "holdfast/v1", "kind": "vm", "name": "web", "user_data": "é" * (1 << 19) + "x"}
        )


@pytest.mark.parametrize(
    "name",
    [
        *(
            "Web",
            "web_1",
            "-web",
            "web-",
            "web.db",
            "a/b",
            "..",
            ".",
            "a,b",
            "a=b",
            "a b",
            "wéb",
            "",
        ),
        *("web\\n", "we\\u202eb", "we\\u200bb", "a" * 64, "a" * 5000),
    ],
)
def test_a_name_that_is_no_label_may_stand_for_any_name(name: str) -> None:
    [reading] = read(f'api: holdfast/v1\nkind: vm\nname: "{name}"\n')
    assert reading.name is None
    assert reading.may_own_any_name
    assert "is no name (write 1 to 63 of a-z, 0-9 and `-`" in reading.problems[0].message
    assert reading.problems[0].message.isprintable()


@pytest.mark.parametrize(
    ("text", "name", "any_name", "problem"),
    [
        ("kind: vm\nname: web", "web", False, "key `api` is missing (begin with"),
        ("api: v1\nkind: vm\nname: web", "web", False, "api `v1` is not known to this version"),
        (
            "api: holdfast/v1\nname: web",
            "web",
            False,
            "key `kind` is missing (known: vm, job, images)",
        ),
        (
            "api: holdfast/v1\nkind: vms\nname: web",
            "web",
            False,
            "kind `vms` is not known (did you mean `vm`?)",
        ),
        (
            "api: holdfast/v1\nkind: [vm]\nname: web",
            "web",
            False,
            "kind a list is no text (known: vm, job, images)",
        ),
        ("api: holdfast/v1\nkind: vm", None, True, "key `name` is missing"),
        ("api: holdfast/v1\nkind: vm\nname: 5", None, True, "`name`: `5` is no text"),
        (
            "kind: vm\nkind: images\nname: web\napi: holdfast/v1",
            "web",
            False,
            "key `kind` is given twice",
        ),
        ("name: a\nname: b\nkind: vm\napi: holdfast/v1", None, True, "key `name` is given twice"),
        ("- web", None, True, "a list is no document"),
        ("web", None, True, "`web` is no document"),
        ("services: {web: {image: x}}", None, True, "or name the file in .holdfastignore"),
        ("api: holdfast/v1\nkind: images", None, False, "key `name` is missing"),
        ("api: holdfast/v1\nkind: job\nname: t", "t", False, "key `script` is missing"),
        ("api: holdfast/v1\nkind: job\nscript: x", None, True, "key `name` is missing"),
        ("a: [", None, True, "this is not YAML"),
    ],
)
def test_a_broken_document_says_which_names_it_may_own(
    text: str, name: str | None, any_name: bool, problem: str
) -> None:
    [reading] = read(text)
    assert reading.document is None
    assert (reading.name, reading.may_own_any_name) == (name, any_name)
    assert problem in reading.problems[0].message


def test_a_problem_names_vms_and_jobs_only() -> None:
    [images] = read("api: holdfast/v1\nkind: images\nname: default\nx: 1")
    [job] = read("api: holdfast/v1\nkind: job\nname: tests")
    assert images.problems[0].name is None
    assert job.problems[0].name == "tests"
    assert (images.problems[0].kind, job.problems[0].kind) == ("images", "job")


def test_one_broken_document_leaves_the_others_of_its_file() -> None:
    found = read("\n---\n".join([vm("a"), vm("b", "cpus: x"), MAP, vm("c")]))
    assert [reading.name for reading in found if reading.document] == ["a", "default", "c"]
    assert [problem.name for reading in found for problem in reading.problems] == ["b"]


def test_a_document_starts_at_its_first_key() -> None:
    found = read("# a file\n---\n" + vm("a") + "---\n\n" + vm("b"))
    assert [str(reading.ref) for reading in found] == ["vms/web.yaml:3", "vms/web.yaml:8"]


def test_a_file_that_is_no_yaml_hides_every_document_in_it() -> None:
    [reading] = read(vm("a") + "---\n" + vm("b") + "x: [\n")
    assert reading.document is None
    assert reading.may_own_any_name


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("images: {a: {}}", "4:13: key `source` is missing (write a URL or a path)"),
        ("images: {a: {source: x, sha256: zz}}", "4:33: `sha256`: `zz` is no sha256"),
        (
            "images: {a: {source: x, formt: raw}}",
            "4:25: unknown key `formt` (did you mean `format`?)",
        ),
        (
            "images: {a: {source: x, format: vmdk}}",
            "4:33: `format`: `vmdk` is not one of its values (write",
        ),
        (
            "images: {a: {source: x, decompress: true}}",
            "4:37: `decompress`: `true` is not one of its",
        ),
        ("images: {a: {source: x, seed_bus: sata}}", "4:35: `seed_bus`: `sata` is not one of its"),
        ("images: {a: {source: x, ssh_user: 'a b'}}", "4:35: `ssh_user`: `a b` is no user name"),
        ("images: {a: {source: x, boot_timeout: 0s}}", "4:39: `boot_timeout`: 0s is out of range"),
        (
            "images: {a: {source: x, defaults: {mem: 1}}}",
            "4:36: unknown key `mem` (did you mean `memory`?)",
        ),
        (
            "images: {a: {source: x, max_size: 65TiB}}",
            "4:35: `max_size`: 65TiB is out of range (from 1MiB",
        ),
        ("images: {a: {source: x, max_size: 10}}", "4:35: `max_size`: `10` is no size"),
        (
            "sizes: {small: {cpus: 1, cpu: 1}}",
            "4:31: `cpu` stands beside `cpus` (keep one)",
        ),
        ("sizes: {small: {ram_mb: 512MiB}}", "4:25: `ram_mb`: `512MiB` is no whole number"),
        ("images: {a b: {source: x}}", "4:10: `a b`: `a b` is no label"),
        ("images: {24.04: {source: x}}", "4:10: key `24.04` is no text (put it in quotes)"),
        ("sizes: {small: {memory: 1G}}", "4:25: `memory`: `1G` is no size"),
        ("aliases: {a: [b]}", "4:14: `a`: a list is no text (write text)"),
        (
            "images: {a: {source: x}}\naliases: {a: b}",
            "5:14: `a` is an image already (rename the alias)",
        ),
    ],
)
def test_what_is_wrong_with_an_image_map_is_said_at_its_place(line: str, problem: str) -> None:
    [found] = problems(f"api: holdfast/v1\nkind: images\nname: default\n{line}\n")
    assert found.startswith(f"vms/web.yaml:{problem}")


def test_only_one_digest_is_pinned() -> None:
    text = f"images: {{a: {{source: x, sha256: '{'1' * 64}', sha512: '{'1' * 128}'}}}}"
    [found] = problems(f"api: holdfast/v1\nkind: images\nname: default\n{text}\n")
    assert "`sha512` stands beside `sha256` (keep one)" in found


def test_a_digest_is_lower_case_whatever_the_map_writes() -> None:
    [reading] = read(MAP.replace("1" * 64, "AB" * 32))
    assert isinstance(reading.document, ImagesDocument)
    assert reading.document.images["debian-12"].digest == "sha256:" + "ab" * 32


def test_a_header_that_is_known_may_be_left_out() -> None:
    [reading] = read(
        "default_label: a\n", {"api": "holdfast/v1", "kind": "images", "name": "images-file"}
    )
    assert isinstance(reading.document, ImagesDocument)
    assert reading.document.default_label == "a"
