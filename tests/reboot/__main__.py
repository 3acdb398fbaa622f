"""`python -m tests.reboot IMAGE GUEST`: an agent inside a VM, as the service that `install-service` makes of it under a
Debian's systemd, and its own VMs inside that. The agent is restarted, the outer VM rebooted in order, and then its
power cut. Status 1 if anything of the inner ones is not as it was, or was not told what was coming.

The outer VM is kept by holdfast too. Everything is emulated, twice over within. GUEST `still` is a boot sector that
only heeds its power button; `tiny` is the tiny guest, whose disk is looked at, too, and whose boots take many minutes.
"""

from __future__ import annotations

import io
import json
import os
import shlex
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agent.parting import WHY
from tests.bootsectors import write_disk
from tests.e2e.site import ROOT, Site, image_path, site

DEADLINE = 3600.0
STATE = "/var/lib/holdfast"
LAST_WORDS = (
    "journalctl --unit holdfast --unit holdfast-guests --lines 60 --output short-iso;"
    f" tail -n 20 {STATE}/instances/*/console.log; uptime"
)
BOOT_ID = "cat /proc/sys/kernel/random/boot_id"
HOST = "cpus: 2\ndisk: 8GiB"
GUESTS = {
    "still": "{source: /srv/images/still.img, format: raw, nocloud: false}",
    "tiny": "{source: /srv/images/tiny.qcow2, ssh_user: tiny, boot_timeout: 40m}",
}
"""The image of each guest, as a document of images says it."""
IMAGES = """\
api: holdfast/v1
kind: images
name: default
default_label: inner
images:
  inner: {}
"""
WEB = "{api: holdfast/v1, kind: vm, name: web, memory: 96MiB}\n"
PROGRAM = """\
#!/usr/bin/python3
import sys
sys.path.insert(0, "/srv/holdfast")
from agent.cli import main
main()
"""
INSTALL = (
    f"chmod 755 /usr/local/bin/holdfast && holdfast install-service --state {STATE}"
    " --desired /srv/desired --image-root /srv/images --accel tcg && systemctl daemon-reload"
    " && systemctl enable --now --quiet holdfast holdfast-guests"
)


def packed(packages: Path, guest: str) -> bytes:
    """What the outer VM is given, as tar(1) unpacks it at its root."""
    into = io.BytesIO()
    with tarfile.open(fileobj=into, mode="w:gz", compresslevel=1) as archive:
        archive.add(packages, "srv/holdfast")
        for name in ("agent", "state"):
            archive.add(ROOT / name, f"srv/holdfast/{name}")
        with tempfile.TemporaryDirectory() as directory:
            image = Path(directory, "still.img")
            write_disk(image, "obedient", 1 << 20)
            if guest == "tiny":
                image = image_path("HOLDFAST_TINY_IMAGE", "tiny.qcow2")
            archive.add(image, f"srv/images/{image.name}")
        texts = {
            "srv/desired/images.yaml": IMAGES.format(GUESTS[guest]), "srv/desired/web.yaml": WEB,
            "usr/local/bin/holdfast": PROGRAM,
        }  # fmt: skip
        for path, text in texts.items():
            member = tarfile.TarInfo(path)
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return into.getvalue()


class Host:
    """The outer VM, and what its agent says."""

    def __init__(self, place: Site) -> None:
        self._place = place

    def run(self, command: str, stdin: bytes = b"") -> str:
        told = self._place.call(
            "ssh", "host", "--", f"sudo sh -c {shlex.quote(command)}", stdin=stdin
        )
        assert told.returncode == 0, told
        return told.stdout.decode()

    def holdfast(self, words: str) -> str:
        return self.run(f"holdfast {words}")

    def items(self) -> dict[str, dict[str, Any]]:
        return {one["name"]: one for one in json.loads(self.holdfast("status -o json"))["items"]}

    def until(self, command: str, what: str) -> None:
        """Wait until it succeeds there, looking seldom: whoever looks takes the processor from what is waited for."""
        words = ("ssh", "host", "--", f"sudo sh -c {shlex.quote(command)}")
        self._place.until(
            lambda: self._place.call(*words).returncode == 0, what, DEADLINE, every=20.0
        )

    def ready(self, name: str) -> dict[str, dict[str, Any]]:
        """Wait until it is ready, the only one there; the items of all names."""
        self.until("""holdfast status -o json | grep -q '"ready": true'""", name)
        return self.items()


@contextmanager
def telling(place: Site) -> Iterator[None]:
    """Where something does not come, what the agent and the guest inside have said."""
    try:
        yield
    except AssertionError:
        words = ("ssh", "host", "--", f"sudo sh -c {shlex.quote(LAST_WORDS)}")
        print(place.call(*words).stdout.decode(errors="replace"), flush=True)
        raise


class Trial:
    """What happens to the outer VM, and what is wrong with what came of it."""

    def __init__(self, place: Site, guest: str) -> None:
        self.host, self.wrong = Host(place), list[str]()
        self._place, self._guest, self._began = place, guest, time.monotonic()

    def say(self, what: str) -> None:
        print(f"{time.monotonic() - self._began:5.0f} s  {what}", flush=True)

    def expect(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self.say(f"violation: {otherwise}")
            self.wrong.append(otherwise)

    def begin(self, packages: Path) -> dict[str, Any]:
        """An agent as a service; its VM once that is ready."""
        self.host.run("tar xzf - -C /", packed(packages, self._guest))
        self.host.run(INSTALL)
        self.say("an agent runs in it, and has said that it is ready")
        state = self.host.run("systemctl is-active holdfast").strip()
        self.expect(state == "active", f"systemd calls it {state}")
        web = self.host.ready("web")["web"]
        self.say("its VM is ready")
        if self._guest == "tiny":
            self.host.holdfast("ssh web -- 'echo kept >/persist/mark && sync'")
        return web

    def restarted(self, web: dict[str, Any]) -> None:
        """The agent is another process, the VM the same."""
        agent = self.host.run("systemctl show -P MainPID holdfast")
        self.host.run("systemctl restart holdfast")
        self.expect(self.host.run("systemctl show -P MainPID holdfast") != agent, "no restart")
        now = self.host.items()["web"]
        self.expect(now["pid"] == web["pid"], f"a restart made pid {web['pid']} {now['pid']}")
        self.say("the agent was restarted")

    def booted(self, first: dict[str, Any], how: Callable[[], None]) -> None:
        """The outer VM is booted again by `how`, and the inner one comes back as it was."""
        boot = self.host.run(BOOT_ID)
        how()
        self.until_booted(boot)
        self.say("the outer VM has booted again")
        second = self.host.ready("web")["web"]
        self.say("its VM is ready again")
        for key in ("uid", "ssh", "generation"):
            said = f"{key} of web was {first[key]} and is {second[key]}"
            self.expect(first[key] == second[key], said)
        if self._guest == "tiny":
            kept = self.host.holdfast("ssh web -- cat /persist/mark")
            self.expect(kept == "kept\n", f"what was written to web's disk is {kept!r}")
        running = self.host.run("pgrep -c qemu-system || true").strip()
        self.expect(running == "1", f"{running} QEMUs run in it")

    def until_booted(self, before: str) -> None:
        def again() -> bool:
            words = ("ssh", "host", "--", BOOT_ID)
            told = self._place.call(*words)
            return told.returncode == 0 and told.stdout.decode() not in ("", before)

        self._place.until(again, "the outer VM has booted again", DEADLINE, every=5.0)

    def reboot(self) -> None:
        """As an operator does it."""
        self.say("now it is rebooted")
        self.host.run("systemd-run --quiet --on-active=2 systemctl reboot")

    def cut(self) -> None:
        """As a power cut does it."""
        self.say("now the power is cut")
        self._place.kill(self._place.item("host")["pid"])


def check(place: Site, packages: Path, guest: str) -> list[str]:
    """What is not as it should be."""
    trial = Trial(place, guest)
    place.vm("host", memory="3GiB", more=HOST)
    with place.agent(), telling(place):
        place.ready("host")
        trial.say("the outer VM is ready")
        web = trial.begin(packages)
        trial.restarted(web)
        trial.booted(web, trial.reboot)
        events = trial.host.holdfast("events")
        trial.expect(WHY in events, "a reboot ended the VM without a word to it")
        trial.booted(web, trial.cut)
        events = trial.host.holdfast("events")
        trial.expect(events.count(WHY) == 1, "a power cut is no reboot")
        if trial.wrong:
            trial.wrong.append(events)
        trial.host.run("systemctl stop holdfast-guests")
        running = trial.host.run("pgrep -c qemu-system || true").strip()
        trial.expect(running == "0", f"{running} QEMUs run after holdfast-guests was stopped")
    return trial.wrong


def main() -> int:
    """Print what came of it."""
    # What is begun is taken away also where somebody has enough of it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    outer, guest = sys.argv[1:]
    with tempfile.TemporaryDirectory() as directory:
        lock = ROOT / "requirements/runtime.lock"
        subprocess.run(
            [ROOT / ".tools/bin/uv", "pip", "install", "--quiet", "--require-hashes", "-r", lock,
             "--target", directory, "--python-version", "3.11", "--python", sys.executable],
            check=True, env={**os.environ, "UV_NO_PROGRESS": "1"},
        )  # fmt: skip
        with site(Path(outer).resolve(), "debian") as place:
            wrong = check(place, Path(directory), guest)
    for one in wrong:
        print(f"violation: {one}")
    print(f"an agent was restarted, its host rebooted and cut off: {len(wrong)} violations")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
