"""The same life on a real cloud image with the real cloud-init: one machine, two boots, and all that they prove; and a
job there."""

from __future__ import annotations

import pytest

from state.runs import RunPhase
from tests.e2e.jobs import Jobs
from tests.e2e.site import Site
from tests.e2e.test_life import ends, lives

pytestmark = [pytest.mark.debian, pytest.mark.qemu, pytest.mark.timeout(1500)]

OWN_USERS = """\
disk: 5GiB
user_data: |
  #cloud-config
  users:
    - name: alice
  write_files:
    - path: /var/tmp/told
      content: by cloud-init
"""


def test_a_cloud_image_obeys_user_data_grows_survives_its_qemu_and_ends_as_the_tiny_guest_does(
    debian: Site,
) -> None:
    with debian.agent():
        before = lives(debian, memory="1GiB", more=OWN_USERS)
        user, told, size = debian.ssh(
            "web", "id -un alice; cat /var/tmp/told; echo; df -k --output=size / | tail -n 1"
        ).split("\n", 2)
        assert (user, told) == ("alice", "by cloud-init")
        assert int(size) > 4_500_000, "its root file system has grown with its disk"

        debian.ssh("web", "echo kept > ~/mark && sync")
        debian.kill(before["pid"])
        after = debian.ready("web", restarts=1)
        assert after["uid"] == before["uid"]
        assert debian.ssh("web", "cat ~/mark") == "kept\n"
        ends(debian, after)


def test_a_job_runs_on_a_cloud_image_with_cloud_init(debian: Site) -> None:
    """As a login that is not root, in the home that cloud-init made, with what was put there."""
    debian.write("input.txt", "from the host\n")
    debian.write(
        "tests.yaml",
        """\
api: holdfast/v1
kind: job
name: tests
env: {GREETING: "hello, world"}
files: [{path: /home/debian/in/input.txt, source: input.txt, mode: "0600"}]
artifacts: ["/home/debian/report/*.txt"]
timeouts: {boot: 10m}
script: |
  #!/bin/bash
  echo "$GREETING, as $(id -un) in $PWD"
  cloud-init --version 2>&1 | cut -d' ' -f1
  mkdir report && cat in/input.txt >report/copy.txt
  exit 5
""",
    )
    jobs = Jobs(debian, images=False)
    with debian.agent():
        run = jobs.ended("tests", RunPhase.FAILED, "ScriptFailed", 5)
        said = jobs.log("tests").splitlines()
    begun = said.index("[holdfast] the script begins")
    assert said[begun + 1].startswith("hello, world, as debian in /home/debian")
    assert "cloud-init" in said[begun + 2]
    [artifact] = run.artifacts
    kept = debian.paths.run(run.id).artifacts / artifact.file
    assert kept.read_text() == "from the host\n"
