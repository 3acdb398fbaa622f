"""The same life on a real cloud image with the real cloud-init."""

from __future__ import annotations

import pytest

from tests.e2e.site import Site
from tests.e2e.test_life import lives_and_ends

pytestmark = [pytest.mark.debian, pytest.mark.qemu, pytest.mark.timeout(900)]

OWN_USERS = """\
user_data: |
  #cloud-config
  users:
    - name: alice
  write_files:
    - path: /var/tmp/told
      content: by cloud-init
"""


def test_a_cloud_image_lives_and_ends_as_the_tiny_guest_does(debian: Site) -> None:
    with debian.agent():
        lives_and_ends(debian, memory="1GiB")


def test_user_data_with_its_own_users_is_obeyed_and_we_still_get_in(debian: Site) -> None:
    debian.vm("web", memory="1GiB", more=OWN_USERS)
    with debian.agent():
        before = debian.ready("web")
        told = debian.ssh("web", "id -un alice; cat /var/tmp/told").split("\n")
        assert told == ["alice", "by cloud-init"]
        debian.ssh("web", "echo kept > ~/mark && sync")
        debian.kill(before["pid"])
        after = debian.ready("web", restarts=1)
        assert after["uid"] == before["uid"]
        assert debian.ssh("web", "cat ~/mark") == "kept\n"
