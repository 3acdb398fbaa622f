"""What an agent answers over HTTP, asked as a stranger would."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_commands import BROKEN, Call, caller, plant

LATE = 60.0


class Site:
    """One agent over a host in memory, asked at a port."""

    def __init__(self, root: Path, port: int) -> None:
        self.root, self.tree, self.port = root, root / "tree", port

    @property
    def token(self) -> str:
        return (self.root / "state" / "token").read_text().strip()

    def post(self, path: str, **headers: str) -> tuple[int, dict[str, Any]]:
        """Status and answer of a change that is asked for with the token, unless `headers` say otherwise."""
        said = {"Authorization": f"Bearer {self.token}"} | headers
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=LATE)) as line:
            line.request("POST", path, headers={key: one for key, one in said.items() if one})
            answer = line.getresponse()
            assert (answer.status == 401) == (answer.headers["WWW-Authenticate"] == "Bearer")
            return answer.status, json.loads(answer.read())

    def get(self, path: str) -> tuple[int, str, bytes]:
        """Status, content type, body."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=LATE)) as line:
            line.request("GET", path)
            answer = line.getresponse()
            return answer.status, answer.headers["Content-Type"], answer.read()

    def json(self, path: str) -> tuple[int, dict[str, Any]]:
        status, kind, body = self.get(path)
        assert kind.startswith("application/json")
        return status, json.loads(body)

    def until(self, condition: Callable[[], Any], what: str) -> None:
        waiting, end = threading.Event(), time.monotonic() + LATE
        while True:
            with suppress(ConnectionError):
                if condition():
                    return
            assert time.monotonic() < end, what
            waiting.wait(0.05)


@contextmanager
def agent(root: Path, port: int, *words: str) -> Iterator[Site]:
    made = Site(root, port)
    command = [
        sys.executable, "-m", "agent", "run", "--state", str(root / "state"), "--desired",
        str(made.tree), "--hypervisor", "memory", "--listen", f"127.0.0.1:{port}",
        "--metrics-interval", "0.2", *words,
    ]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            made.until(lambda: made.get("/healthz")[0] == 200, "the loop has looked")
            yield made
        finally:
            process.send_signal(signal.SIGTERM)
    assert process.returncode == 0


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return plant(tmp_path)


@pytest.mark.usefixtures("tree")
def test_a_host_is_told_of_while_it_lives(tmp_path: Path, free_ports: list[int]) -> None:
    with agent(tmp_path, free_ports[0]) as site:
        site.until(lambda: site.json("/readyz") == (200, {"ok": True, "unready": []}), "ready")
        assert site.json("/healthz") == (200, {"ok": True, "why": ""})
        [item] = site.json("/api/v1/status")[1]["items"]
        assert (item["name"], item["phase"], item["ready"]) == ("web", "running", True)
        site.until(lambda: b"holdfast_vm_cpu_seconds_total" in site.get("/metrics")[2], "measured")
        status, kind, text = site.get("/metrics")
        assert (status, kind.split(";")[0]) == (200, "text/plain")
        assert b'holdfast_vm_ready{name="web"} 1.0\n' in text
        assert b'holdfast_vm_ready_seconds_count{check="ssh"} 1.0\n' in text
        # What keeps it from being as the documents say is named.
        (site.tree / "db.yaml").write_text(BROKEN)
        site.until(lambda: site.json("/readyz")[0] == 503, "it is not as it should be")
        [held] = site.json("/readyz")[1]["unready"]
        assert (held["name"], held["reason"]) == ("db", "Held")
        assert "memry" in held["message"]
        everything_is_answered(site)


@pytest.mark.usefixtures("tree")
def test_what_is_not_begun_keeps_a_host_from_being_as_documents_say(
    tmp_path: Path, free_ports: list[int]
) -> None:
    """Sabotage: ask of what is there alone."""
    with agent(tmp_path, free_ports[0]) as site:
        site.until(lambda: site.json("/readyz")[0] == 200, "ready")
        assert site.post("/api/v1/suspend")[0] == 200
        (site.tree / "db.yaml").write_text("api: holdfast/v1\nkind: vm\nname: db\nmemory: 1GiB\n")
        site.until(
            lambda: [one["name"] for one in site.json("/readyz")[1]["unready"]] == ["db"],
            "it waits",
        )
        assert site.post("/api/v1/resume")[0] == 200
        site.until(lambda: site.json("/readyz")[0] == 200, "it is there")


def everything_is_answered(site: Site) -> None:
    """Each in its shape, and refusals in one sentence."""
    status, kind, page = site.get("/")
    assert (status, kind) == (200, "text/html; charset=utf-8")
    assert b'<script src="/page.js"' in page
    for part in ("/page.js", "/pieces.js", "/charts.js", "/hands.js", "/page.css"):
        assert site.get(part)[0] == 200
    paths = site.json("/api/v1/openapi.json")[1]["paths"]
    assert "/api/v1/status" in paths
    events = site.json("/api/v1/events?last=2")[1]["events"]
    assert [one["id"] for one in events] == sorted(one["id"] for one in events)
    after = site.json(f"/api/v1/events?after={events[0]['id']}")[1]["events"]
    assert after[0] == events[1]
    assert {one["name"] for one in site.json("/api/v1/events?name=web")[1]["events"]} == {"web"}
    site.until(lambda: site.json("/api/v1/metrics/web?since=1m")[1]["samples"], "samples")
    [(uid, used)] = site.json("/api/v1/usage")[1]["usage"].items()
    assert used["uid"] == uid
    for path, status, why in (
        ("/api/v1/logs/nobody?log=console", 404, "there is no VM `nobody` here"),
        ("/api/v1/logs/web", 404, "there is no job `web` that has run here"),
        ("/api/v1/logs/web?log=../..", 400, "`log` is one of log, console, qemu"),
        ("/api/v1/logs/web?log=console&offset=-1", 400, "`offset` is a whole number"),
        ("/api/v1/metrics/web?since=yesterday", 400, "`yesterday` is no time"),
        ("/api/v1/nothing", 404, "GET /api/v1/nothing: Not Found"),
    ):
        found, told = site.json(path)
        assert (found, path) == (status, path)
        assert told["error"].startswith(why)


@pytest.mark.usefixtures("tree")
def test_who_has_the_token_can_ask_for_what_the_commands_can(
    tmp_path: Path, free_ports: list[int]
) -> None:
    """Sabotage: ask for no token."""
    (tmp_path / "tree" / "job.yaml").write_text(
        "api: holdfast/v1\nkind: job\nname: hello\nscript: 'true'\n"
    )
    with agent(tmp_path, free_ports[0]) as site:
        site.until(lambda: site.json("/readyz")[0] == 200, "ready")
        status, refused = site.post("/api/v1/suspend", Authorization="")
        assert (status, refused["error"]) == (401, "a change takes the agent's token")
        assert site.post("/api/v1/suspend", Origin="http://evil.example")[0] == 403
        assert site.post("/api/v1/suspend", Host="evil.example")[0] == 421
        assert site.json("/api/v1/status")[1]["agent"]["suspended_at"] is None
        assert site.post("/api/v1/token") == (200, {"ok": True})
        for path, answer in (
            ("suspend", {"changed": True}), ("suspend", {"changed": False}),
            ("resume", {"changed": True}), ("prune?dry_run=true", {"images": []}),
            ("reconcile", {"source": str(site.tree), "commit": None, "error": None}),
        ):  # fmt: skip
            assert site.post(f"/api/v1/{path}") == (200, answer)
        assert site.post("/api/v1/jobs/hello/rerun")[1]["number"] == 2
        for path, status, why in (
            ("approve", 409, "approving: nothing waits for it"),
            ("jobs/none/cancel", 404, "there is no run of a job `none` here"),
            ("prune?dry_run=perhaps", 409, "removing images: `dry_run` is true or false"),
            ("nothing", 404, "POST /api/v1/nothing: Not Found"),
        ):
            found, told = site.post(f"/api/v1/{path}")
            assert (found, told["error"]) == (status, why)


@pytest.mark.usefixtures("tree")
def test_a_page_of_somebody_else_cannot_ask_for_its_reader(
    tmp_path: Path, free_ports: list[int]
) -> None:
    """Sabotage: answer to any name. A page whose name is pointed here then reads all that its reader may."""
    with agent(tmp_path, free_ports[0]) as site:
        for host, status in (
            ("evil.example", 421), ("localhost.evil.example:80", 421), ("", 421), ("[", 400),
            (f"localhost:{site.port}", 200), ("127.0.0.1", 200), (f"[::1]:{site.port}", 200),
            (socket.gethostname().upper(), 200),
        ):  # fmt: skip
            with closing(http.client.HTTPConnection("127.0.0.1", site.port, timeout=LATE)) as line:
                line.request("GET", "/api/v1/status", headers={"Host": host})
                answer = line.getresponse()
                assert (host, answer.status) == (host, status)
                assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
                assert "Access-Control-Allow-Origin" not in answer.headers


@pytest.mark.usefixtures("tree")
def test_what_changes_is_told_as_it_changes(tmp_path: Path, free_ports: list[int]) -> None:
    with agent(tmp_path, free_ports[0]) as site:
        site.until(lambda: site.json("/readyz")[0] == 200, "ready")
        with listening(site) as heard:
            kind, first = next(heard)
            assert (kind, [one["name"] for one in first["items"]]) == ("status", ["web"])
            known = [next(heard) for _ in site.json("/api/v1/events")[1]["events"]]
            assert {kind for kind, _ in known} == {"event"}
            (site.tree / "db.yaml").write_text("api: holdfast/v1\nkind: vm\nname: db\n")
            told: list[tuple[str, dict[str, Any]]] = [("", {})]
            while not any(one["name"] == "db" and one["ready"] for one in items(told[-1])):
                told.append(next(heard))
            # What is as it was is not told again.
            assert [one["name"] for one in items(told[-1])] == ["db"]
            (site.tree / "db.yaml").unlink()
            while ["vm", "db"] not in told[-1][1].get("gone", []):
                told.append(next(heard))
            last = max(what["id"] for kind, what in [*known, *told] if kind == "event")
        # A connection that broke goes on from the last event that was heard.
        with listening(site, last_event=last) as heard:
            assert next(heard)[0] == "status"
            (site.tree / "db.yaml").write_text("api: holdfast/v1\nkind: vm\nname: db\n")
            assert next(what["id"] for kind, what in heard if kind == "event") > last


@pytest.mark.usefixtures("tree")
def test_its_description_is_true(tmp_path: Path, free_ports: list[int]) -> None:
    """Schemathesis asks for everything but the stream, which has no end, with values as described and with others, and
    for changes with the token and without."""
    with agent(tmp_path, free_ports[0]) as site:
        site.until(lambda: site.json("/api/v1/usage")[1]["usage"], "measured")
        where = f"http://127.0.0.1:{site.port}/api/v1/openapi.json"
        words = [
            "run",
            where,
            "--exclude-path",
            "/api/v1/stream",
            "--max-examples",
            "20",
            "--seed",
            "1",
            "--header",
            f"Authorization: Bearer {site.token}",
        ]
        done = subprocess.run(
            [Path(sys.executable).with_name("schemathesis"), *words, "--no-color"],
            capture_output=True, text=True, check=False, cwd=tmp_path,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        assert "Tested: 17" in done.stdout


def items(told: tuple[str, dict[str, Any]]) -> list[dict[str, Any]]:
    kind, what = told
    return what.get("items", []) if kind == "change" else []


@contextmanager
def listening(
    site: Site, last_event: int | None = None
) -> Iterator[Iterator[tuple[str, dict[str, Any]]]]:
    """The messages of the stream: kind, and what it says."""
    headers = {} if last_event is None else {"Last-Event-ID": str(last_event)}
    with closing(http.client.HTTPConnection("127.0.0.1", site.port, timeout=LATE)) as line:
        line.request("GET", "/api/v1/stream", headers=headers)
        answer = line.getresponse()
        assert answer.headers["Content-Type"] == "text/event-stream"

        def messages() -> Iterator[tuple[str, dict[str, Any]]]:
            kind = ""
            for raw in answer:
                name, _, value = raw.decode().rstrip("\n").partition(": ")
                if name == "event":
                    kind = value
                elif name == "data":
                    yield kind, json.loads(value)

        yield messages()


@pytest.mark.parametrize(
    ("address", "status", "said"),
    [
        ("8080", 64, "'8080' is no address to listen on (write ADDR:PORT, like 127.0.0.1:8080)"),
        ("127.0.0.1:http", 64, "no address to listen on"),
        ("127.0.0.1:65536", 64, "no address to listen on"),
        ("203.0.113.1:80", 1, "listening on 203.0.113.1:80: "),
    ],
)
def test_where_nobody_can_listen_that_is_said(
    tmp_path: Path, tree: Path, address: str, status: int, said: str
) -> None:
    holdfast: Call = caller(tmp_path)
    done = holdfast(f"run --once --hypervisor memory --desired {tree} --listen {address}")
    assert done.returncode == status
    assert said in done.stderr


def test_one_address_is_one_agents(tmp_path: Path, tree: Path, free_ports: list[int]) -> None:
    with agent(tmp_path, free_ports[0]):
        other = f"--state {tmp_path}/other --listen 127.0.0.1:{free_ports[0]}"
        done = caller(tmp_path)(f"run --once --hypervisor memory --desired {tree} {other}")
    assert done.returncode == 1
    assert "Address already in use (choose another with --listen)" in done.stderr
