"""`python -m tests.reboot IMAGE`: an agent inside a VM, as a service of Debian, and its own VMs inside that; then the
power of the outer VM is cut and it boots again. Status 1 if anything of the inner ones is not as it was.

The outer VM is kept by holdfast too. Everything is emulated, twice over within: it takes minutes.
"""

from __future__ import annotations

import io
import json
import os
import shlex
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.e2e.site import ROOT, Site, image_path, site

DEADLINE = 3600.0
STATE = "/var/lib/holdfast"
HOST = "cpus: 2\ndisk: 8GiB"
INNER = {
    "images.yaml": """\
api: holdfast/v1
kind: images
name: default
default_label: tiny
images:
  tiny: {source: /srv/images/tiny.qcow2, ssh_user: tiny, boot_timeout: 40m}
""",
    "web.yaml": "{api: holdfast/v1, kind: vm, name: web, memory: 96MiB}\n",
}
UNIT = f"""\
[Unit]
Description=holdfast
[Service]
Environment=PYTHONPATH=/srv/holdfast
ExecStart=/usr/bin/python3 -m agent run --state {STATE} --desired /srv/desired --image-root /srv/images --accel tcg
KillMode=process
Restart=always
[Install]
WantedBy=multi-user.target
"""


def packed(packages: Path, tiny: Path) -> bytes:
    """What the outer VM is given, as tar(1) unpacks it at its root."""
    into = io.BytesIO()
    with tarfile.open(fileobj=into, mode="w:gz", compresslevel=1) as archive:
        archive.add(packages, "srv/holdfast")
        for name in ("agent", "state"):
            archive.add(ROOT / name, f"srv/holdfast/{name}")
        archive.add(tiny, "srv/images/tiny.qcow2")
        texts = {f"srv/desired/{name}": text for name, text in INNER.items()}
        texts["etc/systemd/system/holdfast.service"] = UNIT
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
        where = f"PYTHONPATH=/srv/holdfast HOLDFAST_STATE={STATE}"
        return self.run(f"cd / && {where} python3 -m agent {words}")

    def items(self) -> dict[str, dict[str, Any]]:
        return {one["name"]: one for one in json.loads(self.holdfast("status -o json"))["items"]}

    def until(self, command: str, what: str) -> None:
        """Wait until it succeeds there, looking seldom: whoever looks takes the processor from what is waited for."""
        words = ("ssh", "host", "--", f"sudo sh -c {shlex.quote(command)}")
        self._place.until(
            lambda: self._place.call(*words).returncode == 0, what, DEADLINE, every=10.0
        )

    def ready(self, name: str) -> dict[str, dict[str, Any]]:
        """Wait until it has become ready since the host was booted; the items of all names."""
        log = "journalctl --boot --unit holdfast --output cat"
        self.until(f"""{log} | grep '"name": "{name}"' | grep -q '"event": "Ready"'""", name)
        return self.items()


def check(place: Site, packages: Path) -> list[str]:
    """What is not as it should be."""
    host, began = Host(place), time.monotonic()

    def say(what: str) -> None:
        print(f"{time.monotonic() - began:5.0f} s  {what}", flush=True)

    place.vm("host", memory="3GiB", more=HOST)
    with place.agent():
        before = place.ready("host")
        say("the outer VM is ready")
        host.run(
            "tar xzf - -C /", packed(packages, image_path("HOLDFAST_TINY_IMAGE", "tiny.qcow2"))
        )
        host.run("systemctl daemon-reload && systemctl enable --now --quiet holdfast")
        say("an agent runs in it")
        first = host.ready("web")["web"]
        say("its VM is ready")
        host.holdfast("ssh web -- 'echo kept >/persist/mark && sync'")
        say("now the power is cut")
        boot = host.run("cat /proc/sys/kernel/random/boot_id")
        place.kill(before["pid"])
        place.until(lambda: place.item("host").get("restarts") == 1, "it is started again")
        place.ready("host")
        say("the outer VM has booted again")
        second = host.ready("web")["web"]
        say("its VM is ready again")
        events = host.holdfast("events")
        wrong = [
            f"{key} of web was {first[key]} and is {second[key]}"
            for key in ("uid", "ssh", "generation")
            if first[key] != second[key]
        ]
        if host.run("cat /proc/sys/kernel/random/boot_id") == boot:
            wrong.append("it was not booted again")
        if (kept := host.holdfast("ssh web -- cat /persist/mark")) != "kept\n":
            wrong.append(f"what was written to web's disk is {kept!r}")
        running = host.run("pgrep -c qemu-system || true").strip()
        if running != "1":
            wrong.append(f"{running} QEMUs run in it")
        if wrong:
            wrong.append(events)
        host.run("systemctl stop holdfast")
    return wrong


def main() -> int:
    """Print what came of it."""
    with tempfile.TemporaryDirectory() as directory:
        lock = ROOT / "requirements/runtime.lock"
        subprocess.run(
            [ROOT / ".tools/bin/uv", "pip", "install", "--quiet", "--require-hashes", "-r", lock,
             "--target", directory, "--python-version", "3.11", "--python", sys.executable],
            check=True, env={**os.environ, "UV_NO_PROGRESS": "1"},
        )  # fmt: skip
        with site(Path(sys.argv[1]).resolve(), "debian") as place:
            wrong = check(place, Path(directory))
    for one in wrong:
        print(f"violation: {one}")
    print(f"a host lost its power and came back: {len(wrong)} violations")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
