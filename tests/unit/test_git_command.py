"""What an operator's environment and configuration, a server and a repository may bring a git of ours to do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.source.git.clone import Clone
from agent.source.git.command import Git, GitFailed
from agent.source.git.origin import origin
from agent.source.git.statusref import StatusRef
from tests.gits import git
from tests.unit.test_git_source import Place, names

REF = "refs/holdfast/status/here"


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def program(path: Path, lines: str) -> Path:
    """A shell script to be run."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{lines}\n")
    path.chmod(0o755)
    return path


MISLEADING = {
    "GIT_COMMON_DIR": "elsewhere",
    "GIT_OBJECT_DIRECTORY": "elsewhere",
    "GIT_NAMESPACE": "elsewhere",
    "GIT_TRACE": "elsewhere",
    "GIT_CONFIG_PARAMETERS": "'url.file:///elsewhere.insteadOf=file://'",
}


@pytest.mark.parametrize("name", MISLEADING)
def test_variables_that_lead_git_elsewhere_do_not_count(
    place: Place, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever starts the agent may be a hook of git, which has such. Sabotage: let all through."""
    elsewhere = tmp_path / "elsewhere"
    monkeypatch.setenv(name, MISLEADING[name].replace("elsewhere", str(elsewhere)))
    desired = place.fetched()
    assert (desired.source.error, names(desired)) == (None, ["db", "web"])
    assert names(place.after({"web.yaml": None})) == ["db"]
    assert not elsewhere.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone gives files away")
def test_a_repository_of_another_user_is_refused_with_what_to_do(place: Place) -> None:
    """Sabotage: tell git's first line alone, which says nothing of that."""
    server = Path(place.repository.url.removeprefix("file://"))
    for path in (server, *server.rglob("*")):
        os.lchown(path, 60901, 60901)
    error = place.fetched().source.error
    assert error is not None
    assert "dubious ownership" in error
    assert "`git config --global --add safe.directory PATH`" in error


WAY = (
    "GIT_CONFIG_GLOBAL", "GIT_CONFIG_NOSYSTEM", "GIT_CONFIG_SYSTEM", "GIT_EXEC_PATH", "GIT_SSH",
    "GIT_SSH_COMMAND", "GIT_SSH_VARIANT", "GIT_SSL_CAINFO", "GIT_SSL_CAPATH", "GIT_SSL_CERT",
    "GIT_SSL_KEY",
)  # fmt: skip
AGAINST = ("GIT_SSL_NO_VERIFY", "GIT_ASKPASS", "GIT_PROXY_COMMAND", "GIT_TERMINAL_PROMPT")


def test_an_operator_says_the_way_to_a_server_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sabotage: leave one out, and who needs it cannot fetch; or take one in, and a certificate is not looked at."""
    told = tmp_path / "told"
    script = program(tmp_path / "bin" / "git", f"env >{told}")
    monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")
    for name in (*WAY, *AGAINST):
        monkeypatch.setenv(name, "theirs")

    def theirs() -> list[str]:
        lines = (line.partition("=") for line in told.read_text().splitlines())
        return sorted(name for name, _, value in lines if value == "theirs")

    git = Git(tmp_path)
    git.remote("ls-remote")
    assert theirs() == sorted(WAY)
    git.local("rev-parse")
    assert not {"GIT_CONFIG_GLOBAL", "GIT_CONFIG_NOSYSTEM"} & {*theirs()}


def test_git_speaks_english_whatever_its_operator_speaks(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it says of a full disk is read. Sabotage: leave out either: LANGUAGE counts before LC_ALL, gettext(3)."""
    told = tmp_path / "told"
    theirs = {"LC_ALL": "de_DE.UTF-8", "LC_MESSAGES": "de_DE.UTF-8", "LANGUAGE": "de:fr"}
    for name, value in theirs.items():
        monkeypatch.setenv(name, value)
    clone = Clone(place.paths, origin("ssh://nobody@127.0.0.1/x", "main", None))
    monkeypatch.setenv("GIT_SSH", str(program(tmp_path / "ssh", f"env >{told}; exit 1")))
    clone.fetch()
    lines = told.read_text().splitlines()
    assert {"LC_ALL=C.UTF-8", "LANGUAGE="} <= {*lines}
    with pytest.raises(GitFailed, match="not a git repository"):
        Git(tmp_path / "none").local("rev-parse", "HEAD")


def test_nothing_goes_on_in_a_clone_after_a_fetch(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sabotage: let git tidy up by itself. It does so behind the lock, in a session of its own."""
    place.fetched()
    told = tmp_path / "told"
    leader = "tr '\\0' ' ' </proc/$(cut -d' ' -f6 /proc/self/stat)/cmdline"
    real = git(tmp_path, "--exec-path")
    program(
        tmp_path / "exec" / "git",
        f'case "$*" in *repack*) {leader} >{told};; esac\nexec {real}/git "$@"',
    )
    monkeypatch.setattr("agent.source.git.clone._FEW_PACKS", {"gc.autoPackLimit": "1"})
    monkeypatch.setenv("GIT_EXEC_PATH", str(tmp_path / "exec"))
    place.repository.commit({"web.yaml": None})
    place.fetched()
    assert told.read_text().startswith("flock --shared")


@pytest.mark.parametrize("transport", ["ext", "http", "git"])
def test_no_configuration_opens_a_way_that_is_not_known(
    place: Place, tmp_path: Path, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sabotage: let the operator's configuration say what is allowed. What `ext` names is run, and http is not proven
    to come from whom it should."""
    ran = tmp_path / "ran"
    leads = {"ext": f"ext::touch {ran} ", "http": "http://127.0.0.1:1/", "git": "git://127.0.0.1/"}
    config = tmp_path / "gitconfig"
    config.write_text(
        f'[url "{leads[transport]}"]\n\tinsteadOf = file://\n[protocol "{transport}"]\n\tallow = always\n'
    )
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    source = place.fetched().source
    assert source.error == f"fetching {place.clone.origin}: transport '{transport}' not allowed"
    assert not ran.exists()


def test_a_password_in_a_configuration_gets_into_no_list_of_processes(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "gitconfig"
    config.write_text('[url "https://me:secret@127.0.0.1:1/"]\n\tinsteadOf = file://\n')
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    error = place.fetched().source.error or ""
    assert "uses plaintext credentials" in error
    assert "secret" not in error


@pytest.mark.parametrize("says", ["gpgSign = true", "recurseSubmodules = only"])
def test_what_an_operator_says_of_pushes_of_their_own_does_not_count(
    place: Place, tmp_path: Path, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sabotage: let it. A status that git was told not to push counts as pushed."""
    config = tmp_path / "gitconfig"
    config.write_text(f"[push]\n\t{says}\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    pushed = StatusRef(place.paths, place.clone.origin, REF, "here").publish({"x": b"1"}, 1.0)
    assert git(place.repository.bare, "rev-parse", REF) == pushed


def test_no_hook_is_run_that_somebody_put_into_the_clone(place: Place, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    place.fetched()
    for name in ("reference-transaction", "post-checkout", "post-merge", "pre-auto-gc"):
        program(place.clone.git.directory / "hooks" / name, f"touch {ran}")
    assert names(place.after({"web.yaml": None})) == ["db"]
    assert (place.clone.git.directory / "hooks" / "reference-transaction").exists()
    for at in range(2):
        target = StatusRef(place.paths, place.clone.origin, REF, "here")
        target.publish({"x": f"{at}".encode()}, 1.0)
        for name in ("reference-transaction", "pre-push"):
            program(place.paths.git / "status.git" / "hooks" / name, f"touch {ran}")
    assert not ran.exists()


@pytest.mark.parametrize(
    ("says", "told"),
    [
        (r"fatal: \033[31mno\033[0m \342\200\256such", r"\x1b[31mno\x1b[0m \u202esuch"),
        (r"a greeting\nhint: try again\nfatal: it is away\nhint: or not", "it is away"),
        (
            r"warning: beware\nERROR: \377\376 no such repository",
            "ERROR: \ufffd\ufffd no such repository",
        ),
        (
            r"a greeting\nme@127.0.0.1: Permission denied (publickey).",
            "me@127.0.0.1: Permission denied (publickey).",
        ),
    ],
)
def test_of_what_a_server_says_the_reason_is_told_and_no_terminal_obeys_it(
    place: Place, tmp_path: Path, says: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sabotage: tell it as it came. Who looks at the status has a terminal that does what a server says."""
    script = program(tmp_path / "ssh", f"printf '{says}\\n' >&2\nexit 1")
    monkeypatch.setenv("GIT_SSH", str(script))
    clone = Clone(place.paths, origin("ssh://nobody@127.0.0.1/x", "main", None))
    clone.fetch()
    assert clone.standing.error == f"fetching {clone.origin}: {told}"


def test_a_server_that_says_very_much_is_told_in_short(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = program(tmp_path / "ssh", f"echo 'fatal: {'x' * 5000}' >&2\nexit 1")
    monkeypatch.setenv("GIT_SSH", str(script))
    clone = Clone(place.paths, origin("ssh://nobody@127.0.0.1/x", "main", None))
    clone.fetch()
    assert len(clone.standing.error or "") < 400
