"""A repository behind https with a credential helper, and behind ssh: real git at both ends."""

from __future__ import annotations

import base64
import http.server
import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import paramiko
import pytest

from agent.paths import StatePaths
from agent.source.git import command
from agent.source.git.clone import Clone
from agent.source.git.origin import origin
from agent.source.git.statusref import StatusRef
from tests.certificates import certified
from tests.gits import Repository, git

PASSWORD = "correct-horse-battery"  # noqa: S105 - of a server that lives for a test
REF = "refs/holdfast/status/here"


class Handler(http.server.BaseHTTPRequestHandler):
    """git-http-backend(1), to whoever knows the password."""

    root: Path

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers["Content-Length"])))

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self, body: bytes) -> None:
        wanted = "Basic " + base64.b64encode(f"agent:{PASSWORD}".encode()).decode()
        if self.headers.get("Authorization") != wanted:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="test"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        path, _, query = self.path.partition("?")
        variables = {
            "GIT_PROJECT_ROOT": str(self.root), "GIT_HTTP_EXPORT_ALL": "1", "PATH_INFO": path,
            "QUERY_STRING": query, "REQUEST_METHOD": self.command, "REMOTE_USER": "agent",
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }  # fmt: skip
        told = subprocess.run(
            ["git", "http-backend"], input=body, env=os.environ | variables, stdout=subprocess.PIPE
        ).stdout
        head, _, content = told.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().splitlines())
        self.send_response(int(fields.pop("Status", "200").split()[0]))
        for name, value in fields.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def served(root: Path, certificate: Path, how: type[Handler] = Handler) -> Iterator[str]:
    """Where what lies in `root` is served."""
    handler = type("Bound", (how,), {"root": root})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def strange_host() -> Iterator[int]:
    """The port of an ssh server whose key nobody knows."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        transports: list[paramiko.Transport] = []

        def serve() -> None:
            transports.append(paramiko.Transport(listening.accept()[0]))
            transports[0].add_server_key(paramiko.ECDSAKey.generate())
            transports[0].start_server(threading.Event(), paramiko.ServerInterface())

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            thread.join()
            for one in transports:
                one.close()


def whole(paths: StatePaths) -> bytes:
    """Everything that was written below a state directory."""
    return b"".join(path.read_bytes() for path in paths.root.rglob("*") if path.is_file())


def test_https_with_a_credential_helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = Repository(tmp_path)
    commit = repository.commit({"README": "x"})
    git(repository.bare, "config", "http.receivepack", "true")
    paths = StatePaths(tmp_path / "state")
    paths.root.mkdir()
    certificate = certified(tmp_path)
    with served(tmp_path, certificate) as url:
        clone = Clone(paths, origin(f"{url}/origin.git", "main", None))
        clone.fetch()
        assert clone.standing.error is not None
        assert "certificate" in clone.standing.error, "it is not trusted"
        monkeypatch.setenv("GIT_SSL_CAINFO", str(certificate))
        monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
        clone.fetch()
        assert clone.standing.error is not None
        assert "Username" in clone.standing.error, "nobody can be asked"
        helper = tmp_path / "helper"
        helper.write_text(f"#!/bin/sh\necho username=agent\necho password={PASSWORD}\n")
        helper.chmod(0o755)
        config = tmp_path / "gitconfig"
        config.write_text(f"[credential]\n\thelper = {helper}\n")
        monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
        clone.fetch()
        assert clone.standing.commit == commit
        pushed = StatusRef(paths, clone.origin, REF, "here").publish({"status.json": b"{}"}, 1.0)
        assert git(repository.bare, "rev-parse", REF) == pushed
    assert PASSWORD.encode() not in whole(paths)


def test_a_server_that_falls_silent_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sabotage: leave out either setting. git then waits as long as it may wait at all."""
    certificate = certified(tmp_path)
    monkeypatch.setenv("GIT_SSL_CAINFO", str(certificate))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    assert command._OVER_THE_NETWORK["http.lowSpeedTime"] == str(command.SILENCE)
    monkeypatch.setitem(command._OVER_THE_NETWORK, "http.lowSpeedTime", "1")
    monkeypatch.setattr(command, "NETWORK_TIMEOUT", 30.0)
    paths = StatePaths(tmp_path / "state")
    paths.root.mkdir()
    silent = threading.Event()

    class Silent(Handler):
        def do_GET(self) -> None:
            silent.wait(60)

    with served(tmp_path, certificate, Silent) as url:
        clone = Clone(paths, origin(f"{url}/x.git", "main", None))
        clone.fetch()
        silent.set()
    assert "too slow" in (clone.standing.error or "")


def test_ssh_asks_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that somebody started on their desktop has a program to ask with. Sabotage: let ssh use it. Whoever sits
    there is asked twice a minute, and may let a stranger's host key pass."""
    asked, ask = tmp_path / "asked", tmp_path / "ask"
    ask.write_text(f"#!/bin/sh\ntouch {asked}\necho no\n")
    ask.chmod(0o755)
    for name, value in {"SSH_ASKPASS": str(ask), "DISPLAY": ":0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(
        "GIT_SSH_COMMAND",
        f"ssh -F none -o StrictHostKeyChecking=ask -o UserKnownHostsFile={tmp_path / 'known'}",
    )
    paths = StatePaths(tmp_path / "state")
    paths.root.mkdir()
    with strange_host() as port:
        clone = Clone(paths, origin(f"ssh://me@127.0.0.1:{port}/x.git", "main", None))
        clone.fetch()
    assert "Host key verification failed" in (clone.standing.error or "")
    assert not asked.exists()


def test_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ssh(1) does at its other end is to run the command that it is given."""
    repository = Repository(tmp_path)
    commit = repository.commit({"README": "x"})
    paths = StatePaths(tmp_path / "state")
    paths.root.mkdir()
    script = tmp_path / "ssh"
    script.write_text('#!/bin/sh\nfor last; do :; done\nexec sh -c "$last"\n')
    script.chmod(0o755)
    monkeypatch.setenv("GIT_SSH", str(script))
    for url in (f"ssh://git@127.0.0.1{repository.bare}", f"git@127.0.0.1:{repository.bare}"):
        clone = Clone(paths, origin(url, None, None))
        clone.fetch()
        assert (clone.standing.error, clone.standing.commit) == (None, commit)
