"""Pages that say that they are run as they stand are: what they show is what their commands print."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pages import RUN, missing, pages, place, played, read

RUNNABLE = [page for page in pages() if RUN in read(page)]

pytestmark = [pytest.mark.docs, pytest.mark.qemu, pytest.mark.guest, pytest.mark.timeout(600)]


@pytest.mark.parametrize("page", RUNNABLE, ids=str)
def test_a_page_is_what_happens(page: Path) -> None:
    """Sabotage: change a figure, a word or a flag of a page."""
    wrong = []
    with place() as root:
        commands = [*played(read(page), root)]
    for (command, shown, status, said), then in zip(commands, [*commands[1:], None], strict=True):
        told = then is not None and then[0] == "echo $?"
        if (line := missing(shown, said)) is not None:
            wrong.append(f"$ {command}\nsaid {said}, and not {line}")
        if status and not told:
            wrong.append(f"$ {command}\nended with {status}: {said}")
    assert not wrong, "\n".join(wrong)


def test_some_pages_are_run() -> None:
    assert len(RUNNABLE) > 1
