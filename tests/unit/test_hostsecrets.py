"""A secret of the host goes to the jobs that the operator lists, or it is said in one sentence why it does not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.errors import BadInput
from agent.source.hostsecrets import HostSecrets
from state.ids import Name

ENVIRONMENT = {"NPM_TOKEN": "of the environment", "EMPTY": ""}


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    (tmp_path / "token").write_text("of a file\n")
    os.mkfifo(tmp_path / "pipe")
    path = tmp_path / "secrets.yaml"
    path.write_text(
        f"""\
TOKEN: {{file: {tmp_path}/token, jobs: ["deploy-*", release]}}
NPM: {{environment: NPM_TOKEN, jobs: ["*"]}}
GONE: {{file: {tmp_path}/gone, jobs: ["*"]}}
PIPE: {{file: {tmp_path}/pipe, jobs: ["*"]}}
UNSET: {{environment: NOBODY_SAID_IT, jobs: ["*"]}}
EMPTY: {{environment: EMPTY, jobs: ["*"]}}
RELATIVE: {{file: token, jobs: ["*"]}}
BOTH: {{file: {tmp_path}/token, environment: NPM_TOKEN, jobs: ["*"]}}
NOBODYS: {{environment: NPM_TOKEN, jobs: []}}
"""
    )
    path.chmod(0o600)
    return path


def given(listed: Path, job: str, *names: str) -> dict[str, str]:
    return dict(HostSecrets(listed, ENVIRONMENT)(Name(job), names))


def test_a_job_has_what_it_is_allowed_and_asks_for(listed: Path) -> None:
    assert given(listed, "deploy-web", "TOKEN", "NPM") == {
        "TOKEN": "of a file",
        "NPM": "of the environment",
    }
    assert given(listed, "release", "TOKEN") == {"TOKEN": "of a file"}


@pytest.mark.parametrize(
    ("job", "name", "words"),
    [
        ("web", "TOKEN", "giving the secret `TOKEN` to web: .* does not allow it to this job"),
        ("Xdeploy-web", "TOKEN", "does not allow"),
        ("web", "TOKN", "does not list it"),
        ("web", "GONE", "gone: No such file"),
        ("web", "PIPE", "no regular file"),
        ("web", "UNSET", "environment has no `NOBODY_SAID_IT`"),
        ("web", "EMPTY", "its value is empty"),
        ("web", "RELATIVE", "absolute path"),
        ("web", "BOTH", "is no secret"),
        ("web", "NOBODYS", "is for no job"),
    ],
)
def test_what_it_may_not_have_is_said_in_a_sentence(
    listed: Path, job: str, name: str, words: str
) -> None:
    """Sabotage: look for the job's name in the patterns with `in`; take a missing variable for an empty one."""
    with pytest.raises(BadInput, match=words) as refused:
        given(listed, job, name)
    assert "of a file" not in str(refused.value)
    assert "of the environment" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_list_that_others_may_write_to_gives_nothing(listed: Path) -> None:
    """Who could write to it could have any file that the agent can read sent to a guest."""
    listed.chmod(0o620)
    with pytest.raises(BadInput, match="others may write to it"):
        given(listed, "web", "NPM")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_list_that_belongs_to_somebody_else_gives_nothing(listed: Path) -> None:
    os.chown(listed, 60_999, 60_999)
    with pytest.raises(BadInput, match="others may write to it"):
        given(listed, "web", "NPM")
