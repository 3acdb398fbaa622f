"""The life of VMs on real QEMU as commits of a real repository say, and as no server can change it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.e2e.site import Site
from tests.gits import git

pytestmark = [pytest.mark.qemu, pytest.mark.guest, pytest.mark.timeout(400)]


class Origin:
    """The directory of a site as the work tree of a repository that the site's agents follow."""

    def __init__(self, place: Site, root: Path) -> None:
        self.place = place
        self.bare = root / "origin.git"
        git(root, "init", "-q", "--bare", "-b", "main", str(self.bare))
        git(place.desired, "init", "-q", "-b", "main")
        git(place.desired, "remote", "add", "origin", str(self.bare))
        place.repository = str(self.bare)

    def push(self, *words: str) -> str:
        """Commit what lies there, and push it; the commit."""
        made = self.commit(*words)
        git(self.place.desired, "push", "-q", "-f", "origin", "HEAD:main")
        return made

    def commit(self, *words: str) -> str:
        git(self.place.desired, "add", "-A")
        git(self.place.desired, "commit", "-q", "--allow-empty", "-m", "a change", *words)
        return git(self.place.desired, "rev-parse", "HEAD")

    def follows(self, commit: str) -> None:
        self.place.until(
            lambda: self.place.status()["agent"]["source"]["commit"] == commit, f"{commit} is seen"
        )


def test_commits_make_replace_and_end_vms_and_agents_and_servers_may_die(
    tiny: Site, tmp_path: Path
) -> None:
    origin = Origin(tiny, tmp_path)
    tiny.vm("web")
    tiny.vm("db")
    origin.push()
    with tiny.agent() as agent:
        web, db = tiny.ready("web"), tiny.ready("db")
        tiny.vm("web", memory="160MiB")
        second = origin.push()
        after = tiny.ready("web", generation=2)
        assert after["source"]["commit"] == second
        assert after["ssh"] == web["ssh"]
        assert web["pid"] not in tiny.processes()
        assert tiny.item("db")["pid"] == db["pid"]
        # Nothing is lost with the server, and with the agent beside it.
        aside = Path(f"{origin.bare}.aside")
        origin.bare.rename(aside)
        os.kill(agent.pid, signal.SIGKILL)
        agent.wait(10)
    tiny.kill(after["pid"])
    with tiny.agent():
        tiny.until(lambda: (tiny.item("web").get("pid") or after["pid"]) != after["pid"], "again")
        tiny.ready("web")
        assert tiny.item("db")["pid"] == db["pid"]
        source = tiny.status()["agent"]["source"]
        assert (source["commit"], source["error"] is None) == (second, False)
        aside.rename(origin.bare)
        tiny.delete("db")
        origin.follows(origin.push())
        tiny.until(lambda: not tiny.item("db"), "db is gone")
        assert len(tiny.processes()) == 1


def test_what_is_broken_or_rewritten_or_too_much_touches_no_vm(still: Site, tmp_path: Path) -> None:
    origin = Origin(still, tmp_path)
    for name in ("a", "b", "c", "d"):
        still.vm(name, memory="32MiB", more="stop_timeout: 0s")
    good = origin.push()
    with still.agent():
        still.until(lambda: len(still.processes()) == 4, "all run")
        pids = set(still.processes())
        still.write("a.yaml", "api: holdfast/v1\nkind: vm\nname: a\nmemry: 1GiB\n")
        (still.desired / "b.yaml").rename(still.desired / "moved.yaml")
        origin.follows(origin.push())
        assert [one["file"] for one in still.status()["held"]] == ["a.yaml"]
        assert set(still.processes()) == pids
        git(still.desired, "reset", "-q", "--hard", good)
        git(still.desired, "push", "-q", "-f", "origin", "HEAD:main")
        still.until(lambda: still.status()["agent"]["source"]["refused"], "it is refused")
        assert set(still.processes()) == pids
        assert still.call("approve", good[:12]).returncode == 0
        origin.follows(good)
        for name in ("a", "b", "c", "d"):
            still.delete(name)
        still.write("e.yaml", "api: holdfast/v1\nkind: vm\nname: e\nmemory: 32MiB\n")
        origin.follows(origin.push())
        still.until(lambda: len(still.processes()) == 5, "what is new runs")
        assert pids < set(still.processes())
        wanted = dict.fromkeys("abcd", "ApprovalNeeded")
        still.until(lambda: still.waits() == wanted, "each that is gone waits for a person")
        assert pids < set(still.processes())
        assert still.call("approve").returncode == 0
        still.until(lambda: not pids & set(still.processes()), "they are gone")
