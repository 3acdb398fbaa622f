"""The same life on a real cloud image with the real cloud-init: one machine, two boots, and all that they prove."""

from __future__ import annotations

import pytest

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
