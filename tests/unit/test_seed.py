"""The seed carries user-data untouched, lets no value out of its quotes, and is on disk whole or not at all."""

from __future__ import annotations

import email
import os
import stat
import subprocess
import sys
from email.message import Message
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pycdlib import PyCdlib
from ruamel.yaml import YAML

from agent.errors import BadInput
from agent.guest.seed import LABEL, HostKey, Seed, files, write

HOST_KEY = HostKey(
    private="-----BEGIN OPENSSH PRIVATE KEY-----\nbm90IGEga2V5\n-----END OPENSSH PRIVATE KEY-----\n",
    public="ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHost",
)

text = st.text(st.characters(exclude_categories=["Cs"]))
hostile = text | st.sampled_from(
    [
        '"', "'", "\\", "\\n", "a\nb: c", "a: b # c", "{", "]", "$(touch x)", "`id`", "'; touch x; '", "${HOME}", "%s",
        "\x00", "\x7f", "\x85", "\u2028", "\ufeff", "\U0001f600", "--holdfast-", "\r\n--x--", "!!python/object:x",
    ]
)  # fmt: skip


def a_seed(
    *,
    user_data: str | None = None,
    hostname: str = "web",
    login: str = "debian",
    authorized_key: str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIUser holdfast",
    instance_id: str = "6f1c4f0e-0000-4000-8000-000000000001",
    host_key: HostKey = HOST_KEY,
) -> Seed:
    return Seed(instance_id, hostname, login, authorized_key, host_key, user_data)


def read_back(path: Path, *, names: str) -> dict[str, bytes]:
    """The files of the image at `path` by the names that Rock Ridge or Joliet gives them."""
    disc = PyCdlib()
    disc.open(str(path))
    found = {}
    for child in disc.list_children(**{names: "/"}):
        if child.is_dir():
            continue
        name = (
            child.rock_ridge.name().decode()
            if names == "rr_path"
            else child.file_identifier().decode("utf-16_be")
        )
        content = BytesIO()
        disc.get_file_from_iso_fp(content, **{names: f"/{name}"})
        found[name] = content.getvalue()
    disc.close()
    return found


def parts_of(seed: Seed) -> tuple[Message, Message]:
    message = email.message_from_bytes(files(seed)["vendor-data"])
    parts = [part for part in message.walk() if not part.is_multipart()]
    assert [part.get_content_type() for part in parts] == [
        "text/cloud-config",
        "text/x-shellscript",
    ]
    return parts[0], parts[1]


def cloud_config_of(seed: Seed) -> Any:
    body = parts_of(seed)[0].get_payload()
    assert isinstance(body, str)
    assert body.startswith("#cloud-config\n")
    return YAML(typ="safe").load(body)


def script_of(seed: Seed) -> bytes:
    script = parts_of(seed)[1].get_payload(decode=True)
    assert isinstance(script, bytes)
    return script


@pytest.mark.parametrize("names", ["rr_path", "joliet_path"])
def test_the_image_holds_the_files_under_the_names_that_cloud_init_looks_for(
    tmp_path: Path, names: str
) -> None:
    seed = a_seed(user_data="#!/bin/sh\ntrue\n")
    write(seed, tmp_path / "seed.iso")
    assert read_back(tmp_path / "seed.iso", names=names) == files(seed)


def test_the_volume_is_labelled_as_a_nocloud_seed(tmp_path: Path) -> None:
    write(a_seed(), tmp_path / "seed.iso")
    with (tmp_path / "seed.iso").open("rb") as image:
        image.seek(16 * 2048 + 40)
        assert image.read(32) == LABEL.encode().ljust(32)
    assert LABEL == "CIDATA"


@given(user_data=hostile)
@example(user_data="")
@example(user_data="#!/bin/sh\r\n\ttrue")
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50
)
def test_user_data_reaches_the_guest_byte_for_byte(tmp_path: Path, user_data: str) -> None:
    write(a_seed(user_data=user_data), tmp_path / "seed.iso")
    assert read_back(tmp_path / "seed.iso", names="rr_path")["user-data"] == user_data.encode()


def test_no_user_data_is_an_empty_cloud_config() -> None:
    user_data = files(a_seed(user_data=None))["user-data"]
    assert user_data.startswith(b"#cloud-config\n")
    assert YAML(typ="safe").load(user_data) == {}


@given(instance_id=hostile, hostname=hostile, login=hostile, authorized_key=hostile)
@settings(deadline=None)
def test_no_value_gets_out_of_the_yaml_of_meta_data(
    instance_id: str, hostname: str, login: str, authorized_key: str
) -> None:
    seed = a_seed(
        instance_id=instance_id, hostname=hostname, login=login, authorized_key=authorized_key
    )
    assert YAML(typ="safe").load(files(seed)["meta-data"]) == {
        "instance-id": instance_id,
        "local-hostname": hostname,
        "public-keys": [authorized_key],
        "holdfast": {"login": login},
    }


@given(login=hostile.filter(lambda login: login != "root"), private=hostile, public=hostile)
@settings(deadline=None)
def test_no_value_gets_out_of_the_yaml_of_vendor_data(
    login: str, private: str, public: str
) -> None:
    assert cloud_config_of(a_seed(login=login, host_key=HostKey(private, public))) == {
        "user": {"name": login},
        "ssh_pwauth": False,
        "ssh_deletekeys": True,
        "ssh_keys": {"ed25519_private": private, "ed25519_public": public},
    }


@given(values=st.tuples(*[hostile.map(lambda value: value.replace("\x00", "")) for _ in range(4)]))
@settings(deadline=None, max_examples=30)
def test_no_value_gets_out_of_the_shell_of_the_script(values: tuple[str, str, str, str]) -> None:
    login, authorized_key, private, public = values
    script = script_of(
        a_seed(login=login, authorized_key=authorized_key, host_key=HostKey(private, public))
    )
    assignments = script[: script.index(b"\n# Whatever user-data says")]
    said = subprocess.run(
        ["sh"],
        input=assignments
        + b'\nprintf \'%s\\0\' "$login" "$authorized_key" "$host_key" "$host_key_public"',
        capture_output=True,
        check=True,
    )
    assert said.stdout.decode().split("\0")[:-1] == [
        login,
        authorized_key,
        private.rstrip("\n"),
        public,
    ]
    assert said.stderr == b""


def test_root_is_let_in_without_becoming_the_default_user() -> None:
    config = cloud_config_of(a_seed(login="root"))
    assert config["disable_root"] is False
    assert "user" not in config


def test_the_same_seed_makes_the_same_files() -> None:
    assert files(a_seed()) == files(a_seed())


def test_text_that_is_not_unicode_is_refused_with_the_name_of_the_machine() -> None:
    with pytest.raises(BadInput, match="web"):
        files(a_seed(user_data="\ud800"))


def test_the_private_key_is_not_in_the_repr_of_a_seed() -> None:
    assert "PRIVATE" not in repr(a_seed())


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_the_image_is_for_its_owner_alone(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write(a_seed(), tmp_path / "seed.iso")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "seed.iso").stat().st_mode) == 0o600


def test_a_seed_that_is_there_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "seed.iso"
    path.write_bytes(b"x" * 1_000_000)
    path.chmod(0o644)
    write(a_seed(user_data="new"), path)
    assert read_back(path, names="rr_path")["user-data"] == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["seed.iso"]


def test_a_symbolic_link_in_the_place_of_the_seed_is_replaced_and_not_followed(
    tmp_path: Path,
) -> None:
    target = tmp_path / "target"
    target.write_text("precious")
    (tmp_path / "seed.iso").symlink_to(target)
    write(a_seed(), tmp_path / "seed.iso")
    assert target.read_text() == "precious"
    assert not (tmp_path / "seed.iso").is_symlink()


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "seed.iso").mkdir()
    with pytest.raises(IsADirectoryError):
        write(a_seed(), tmp_path / "seed.iso")
    assert os.listdir(tmp_path) == ["seed.iso"]


def test_a_full_disk_leaves_the_old_seed(tmp_path: Path) -> None:
    path = tmp_path / "seed.iso"
    write(a_seed(user_data="old"), path)
    filled = subprocess.run(
        ["prlimit", "--fsize=4096", sys.executable, "-c", FILL.format(path=str(path))],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert "File too large" in filled.stderr
    assert read_back(path, names="rr_path")["user-data"] == b"old"
    assert os.listdir(tmp_path) == ["seed.iso"]


FILL = """
from pathlib import Path
from agent.guest.seed import HostKey, Seed, write
write(Seed("i", "web", "debian", "k", HostKey("p", "q"), "new"), Path({path!r}))
"""
