"""The guests that other tests rely on do what `guests/README.md` says, booted from the seeds that holdfast writes.

These tests speak to QEMU and to the guests by themselves: a fault of the agent cannot hide one of an image.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any, Literal

import paramiko
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agent.guest.seed import HostKey, Seed, write

ROOT = Path(__file__).resolve().parents[2]
Bus = Literal["ide", "scsi", "virtio"]
SEED_DEVICES: dict[Bus, list[str]] = {
    "ide": ["-device", "ide-cd,drive=seed"],
    "scsi": ["-device", "virtio-scsi-pci", "-device", "scsi-cd,drive=seed"],
    "virtio": ["-device", "virtio-blk-pci,drive=seed"],
}


@dataclass(frozen=True)
class Pair:
    """An ed25519 key, private as OpenSSH PEM and public as one line."""

    private: str
    public: str

    @staticmethod
    def new() -> Pair:
        key = Ed25519PrivateKey.generate()
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        )
        public = key.public_key().public_bytes(
            serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        )
        return Pair(private.decode(), public.decode())


@dataclass(frozen=True)
class Machine:
    """What is booted: an image, a seed on a bus, and the pair that may log in."""

    directory: Path
    image: Path
    client: Pair
    seed: Seed
    memory: str
    bus: Bus = "ide"
    board: str = "pc"
    translated: int = 32
    """MiB for translated code: cloud-init's Python does not fit into little."""
    extra: tuple[str, ...] = ()

    @property
    def disk(self) -> Path:
        return self.directory / "disk.qcow2"

    def prepare(self) -> None:
        """A fresh overlay; the seed is written by `booted`."""
        subprocess.run(
            ["qemu-img", "create", "-q", "-f", "qcow2", "-b", self.image, "-F", "qcow2", self.disk],
            check=True,
        )


class Running:
    """A QEMU, its console, its monitor and SSH into its guest."""

    def __init__(
        self, machine: Machine, process: subprocess.Popen[bytes], port: int, started: float
    ) -> None:
        self.machine, self.process, self.port, self.started = machine, process, port, started

    def console(self) -> str:
        return (self.machine.directory / "console.log").read_text(errors="replace")

    def wait_for_console(self, line: str, *, seconds: float) -> None:
        self.until(lambda: line in self.console(), seconds, f"{line!r} on the console")

    def until(self, true: Callable[[], bool], seconds: float, what: str) -> None:
        end = time.monotonic() + seconds
        while not true():
            assert self.process.poll() is None, f"QEMU ended before {what}"
            assert time.monotonic() < end, (
                f"no {what} within {seconds} s:\n{self.console()[-3000:]}"
            )
            time.sleep(0.05)

    def greeted(self) -> bool:
        # A connection from before the guest's network gets its answer only with a late retransmission: ask anew.
        with (
            suppress(OSError),
            socket.create_connection(("127.0.0.1", self.port), timeout=1) as link,
        ):
            link.settimeout(1)
            return link.recv(4) == b"SSH-"
        return False

    def login(self, *, seconds: float) -> paramiko.SSHClient:
        """SSH with the pinned host key; whoever may not log in yet is tried again until the time is over."""
        end = time.monotonic() + seconds
        self.until(self.greeted, seconds, "an SSH banner")
        seed = self.machine.seed
        while True:
            client = paramiko.SSHClient()
            client.set_missing_host_key_policy(paramiko.RejectPolicy())
            kind, blob = seed.host_key.public.split()[:2]
            entry = paramiko.hostkeys.HostKeyEntry.from_line(
                f"[127.0.0.1]:{self.port} {kind} {blob}"
            )
            assert entry is not None
            assert entry.key is not None
            client.get_host_keys().add(f"[127.0.0.1]:{self.port}", kind, entry.key)
            key = paramiko.Ed25519Key.from_private_key(as_file(self.machine.client.private))
            try:
                client.connect(
                    "127.0.0.1", self.port, seed.login, pkey=key, timeout=5, banner_timeout=30, auth_timeout=30,
                    allow_agent=False, look_for_keys=False,
                )  # fmt: skip
            except (paramiko.SSHException, OSError, EOFError):  # EOF: sshd restarted just then
                client.close()
                if time.monotonic() > end:
                    raise
                time.sleep(0.5)
            else:
                return client

    def qmp(self, command: str) -> Any:
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(5)
            link.connect(str(self.machine.directory / "qmp"))
            with link.makefile("rw") as lines:
                lines.readline()
                answers: list[Any] = []
                for name in ("qmp_capabilities", command):
                    lines.write(json.dumps({"execute": name}) + "\n")
                    lines.flush()
                    answers.append(next(a for a in map(json.loads, lines) if "event" not in a))
        return answers[-1]["return"]

    def ends(self, *, seconds: float) -> int:
        return self.process.wait(seconds)


def as_file(text: str) -> StringIO:
    return StringIO(text)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def booted(machine: Machine) -> Iterator[Running]:
    directory, port = machine.directory, free_port()
    write(machine.seed, directory / "seed.iso")
    if not machine.disk.exists():
        machine.prepare()
    (directory / "console.log").unlink(missing_ok=True)
    overlay = {
        "driver": "qcow2", "node-name": "root", "file": {"driver": "file", "filename": str(machine.disk)},
    }  # fmt: skip
    seed = {
        "driver": "file",
        "node-name": "seed",
        "read-only": True,
        "filename": str(directory / "seed.iso"),
    }
    command = [
        "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-machine", machine.board,
        "-accel", f"tcg,tb-size={machine.translated}", "-m", machine.memory,
        "-blockdev", json.dumps(overlay), "-device", "virtio-blk-pci,drive=root",
        "-blockdev", json.dumps(seed), *SEED_DEVICES[machine.bus],
        "-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:{port}-:22", "-device", "virtio-net-pci,netdev=net,romfile=",
        "-serial", f"file:{directory / 'console.log'}",
        "-qmp", f"unix:{directory / 'qmp'},server=on,wait=off",
        *machine.extra,
    ]  # fmt: skip
    (directory / "console.log").touch()
    started = time.monotonic()
    with (directory / "qemu.log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield Running(machine, process, port, started)
    finally:
        process.kill()
        process.wait()


def run(client: paramiko.SSHClient, command: str, *, seconds: float = 60) -> str:
    """The output of a command that has to succeed."""
    _, stdout, stderr = client.exec_command(command, timeout=seconds)
    said, wrong = stdout.read().decode(), stderr.read().decode()
    assert stdout.channel.recv_exit_status() == 0, wrong
    return said


def image(variable: str, default: str, target: str) -> Path:
    path = Path(os.environ.get(variable, ROOT / default))
    if not path.exists():
        pytest.fail(
            f"{path} is not there: build it with `make {target}`, or name another one in {variable}"
        )
    return path.resolve()


def a_machine(
    directory: Path, base: Path, memory: str, login: str, user_data: str | None = None
) -> Machine:
    client, host = Pair.new(), Pair.new()
    seed = Seed(
        instance_id=f"instance-{directory.name}",
        hostname="guest-under-test",
        login=login,
        authorized_key=f"{client.public} holdfast",
        host_key=HostKey(host.private, host.public),
        user_data=user_data,
    )
    return Machine(directory, base, client, seed, memory)


@pytest.fixture
def tiny(tmp_path: Path) -> Machine:
    return a_machine(
        tmp_path, image("HOLDFAST_TINY_IMAGE", ".cache/guests/tiny.qcow2", "guest"), "96M", "root"
    )


@pytest.fixture
def debian(tmp_path: Path) -> Machine:
    base = image("HOLDFAST_DEBIAN_IMAGE", ".cache/guests/debian.qcow2", "guest-debian")
    return replace(a_machine(tmp_path, base, "512M", "debian"), translated=128)


def copies_a_file_there_and_back(client: paramiko.SSHClient) -> None:
    content = os.urandom(200_000)
    with client.open_sftp() as sftp:
        sftp.putfo(BytesIO(content), "/tmp/there")
        back = BytesIO()
        sftp.getfo("/tmp/there", back)
        # dropbear 2022.83 would take its end for that of a channel that is opened just then, and close both.
        channel = sftp.get_channel()
        assert channel is not None
        channel.shutdown_write()
        assert channel.recv_exit_status() == 0
    assert back.getvalue() == content


pytestmark = pytest.mark.timeout(120)


@pytest.mark.guest
def test_tiny_lets_the_login_of_the_seed_in_nobody_else_and_ends_at_the_power_button(
    tiny: Machine,
) -> None:
    with booted(tiny) as vm, vm.login(seconds=60) as client:
        assert run(client, "whoami; hostname") == "root\nguest-under-test\n"
        copies_a_file_there_and_back(client)
        refuses_another_key_and_passwords(vm)
        assert vm.qmp("system_powerdown") == {}
        assert vm.ends(seconds=3) == 0
        assert "holdfast-guest: ready" in vm.console()
        assert "Linux version" in vm.console()


def refuses_another_key_and_passwords(vm: Running) -> None:
    with paramiko.Transport(("127.0.0.1", vm.port)) as transport:
        transport.start_client(timeout=30)
        assert transport.get_remote_server_key().get_name() == "ssh-ed25519"
        stranger = paramiko.Ed25519Key.from_private_key(as_file(Pair.new().private))
        with pytest.raises(paramiko.AuthenticationException):
            transport.auth_publickey("root", stranger)
        with pytest.raises(paramiko.BadAuthenticationType):
            transport.auth_password("root", "")


@pytest.mark.guest
@pytest.mark.parametrize(
    ("board", "bus", "panic"),
    [
        ("pc", "scsi", None),
        ("pc", "virtio", "pvpanic"),
        ("q35", "scsi", None),
        ("q35", "virtio", "pvpanic-pci"),
    ],
)
def test_tiny_finds_its_seed_on_every_bus_and_reports_its_panic(
    tiny: Machine, board: str, bus: Bus, panic: str | None
) -> None:
    extra = ("-device", panic, "-action", "panic=exit-failure") if panic else ()
    machine = replace(tiny, board=board, bus=bus, extra=extra)
    with booted(machine) as vm, vm.login(seconds=60) as client:
        assert run(client, "hostname") == "guest-under-test\n"
        if panic:
            client.exec_command("echo c >/proc/sysrq-trigger")
            assert vm.ends(seconds=10) == 1


@pytest.mark.guest
def test_tiny_keeps_what_was_written_to_persist_when_qemu_is_killed(tiny: Machine) -> None:
    script = "#!/bin/sh\necho once >>/persist/user-data\n"
    machine = replace(tiny, seed=replace(tiny.seed, user_data=script))
    with booted(machine) as vm, vm.login(seconds=60) as client:
        vm.wait_for_console("holdfast-guest: user-data ended with 0", seconds=30)
        run(client, "echo precious >/persist/kept")
    with booted(machine) as vm, vm.login(seconds=60) as client:
        assert run(client, "cat /persist/kept") == "precious\n"
        assert run(client, "cat /persist/user-data") == "once\n", (
            "user-data ran again for the same instance-id"
        )
    later = replace(machine, seed=replace(machine.seed, instance_id="another"))
    with booted(later) as vm:
        vm.wait_for_console("holdfast-guest: user-data ended with 0", seconds=60)


@pytest.mark.guest
def test_tiny_reboots_and_powers_off_at_the_word_of_its_login(tiny: Machine) -> None:
    """With a balloon and a random device, for which it has drivers."""
    devices = ("-device", "virtio-balloon-pci", "-device", "virtio-rng-pci")
    seed = replace(tiny.seed, login="debian")
    with booted(replace(tiny, seed=seed, extra=devices)) as vm:
        with vm.login(seconds=60) as client:
            assert run(client, "whoami") == "debian\n"
            copies_a_file_there_and_back(client)
            drivers = "/sys/bus/virtio/drivers/virtio_balloon /sys/bus/virtio/drivers/virtio_rng"
            assert run(client, f"ls {drivers}").count("virtio") >= 4  # two headings, two devices
            assert vm.qmp("query-balloon")["actual"] == 96 << 20
            run(client, "reboot")
        vm.until(lambda: vm.console().count("holdfast-guest: ready") == 2, 60, "a second boot")
        with vm.login(seconds=60) as client:
            run(client, "poweroff")
        assert vm.ends(seconds=10) == 0


CASES: dict[str, tuple[str, Bus, str, str | None]] = {
    "nothing": ("pc", "ide", "debian", None),
    "script for root on q35 scsi": ("q35", "scsi", "root", "#!/bin/sh\ntouch /run/user-data-ran\n"),
    "mime without default user on virtio": (
        "pc",
        "virtio",
        "debian",
        'Content-Type: multipart/mixed; boundary="x"\nMIME-Version: 1.0\n\n'
        "--x\nContent-Type: text/cloud-config\n\n#cloud-config\nusers: [{name: alice}]\n"
        "--x\nContent-Type: text/x-shellscript\n\n#!/bin/sh\ntouch /run/user-data-ran\n--x--\n",
    ),
    "its own default user and host keys": (
        "pc",
        "ide",
        "debian",
        "#cloud-config\nuser: {name: alice}\nallow_public_ssh_keys: false\nssh_keys: {}\n"
        "runcmd:\n  - touch /run/user-data-ran\n",
    ),
}
"""Where the seed is, who logs in, and what user-data says. Each boot takes a minute, so each tries one of every kind; a
plain `users:` is tried by `test_debian.py`."""


@pytest.mark.debian
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("board", "bus", "login", "user_data"), CASES.values(), ids=CASES.keys())
def test_debian_finds_its_seed_lets_the_login_in_and_grows_whatever_user_data_says(
    debian: Machine, board: str, bus: Bus, login: str, user_data: str | None
) -> None:
    debian.prepare()
    subprocess.run(["qemu-img", "resize", "-q", debian.disk, "5G"], check=True)
    seed = replace(debian.seed, login=login, user_data=user_data)
    with booted(replace(debian, seed=seed, board=board, bus=bus)) as vm:
        with vm.login(seconds=600) as client:
            print(f"SSH after {time.monotonic() - vm.started:.1f} s")
            assert run(client, "whoami; hostname") == f"{login}\nguest-under-test\n"
            run(client, "cloud-init status --wait || true", seconds=400)
            assert int(run(client, "df -k --output=size / | tail -n 1")) > 4_500_000
            copies_a_file_there_and_back(client)
            assert run(client, "ls /etc/ssh/ssh_host_*").split() == [
                "/etc/ssh/ssh_host_ed25519_key",
                "/etc/ssh/ssh_host_ed25519_key.pub",
            ]
            if user_data is not None:
                run(client, "test -e /run/user-data-ran")
            with paramiko.Transport(("127.0.0.1", vm.port)) as transport:
                transport.start_client(timeout=60)
                with pytest.raises(paramiko.BadAuthenticationType):
                    transport.auth_password(login, "")
            vm.qmp("system_powerdown")
        assert vm.ends(seconds=120) == 0
