"""Text from elsewhere for a terminal: what would act on it is shown, whole and in pieces."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from agent.cli.text import Harmless, harmless, in_line


def in_pieces(*pieces: bytes) -> str:
    shown = Harmless()
    return "".join(map(shown.text, pieces)) + shown.end()


def test_what_would_act_on_a_terminal_is_shown() -> None:
    assert harmless("a\rb\x1b[2J\x9b\u202e\tc\n") == "a\\rb\\x1b[2J\\x9b\\u202e\tc\n"


@given(st.text())
def test_it_is_the_same_whichever_stands_beside_it(text: str) -> None:
    """Sabotage: pass what is not ASCII through."""
    assert harmless(text) == "".join(map(harmless, text))
    assert all(one.isprintable() or one in "\n\t" for one in harmless(text))
    assert in_line(text).isprintable()


def test_no_text_forges_a_line() -> None:
    assert in_line("a\nb\tc\x1b") == "a\\nb\\tc\\x1b"


def test_a_line_end_or_a_character_in_two_pieces_is_one() -> None:
    assert in_pieces(b"a\r", b"\nb") == "a\nb"
    assert in_pieces("é".encode()[:1], "é".encode()[1:]) == "é"
    assert in_pieces(b"a\r", b"b\r") == "a\\rb\\r"
    assert in_pieces("é".encode()[:1]) == "\ufffd"


@given(st.binary(max_size=40), st.lists(st.integers(0, 40)))
def test_where_bytes_are_parted_makes_no_difference(content: bytes, cuts: list[int]) -> None:
    """Sabotage: decode each piece by itself."""
    at = [0, *sorted(cuts), len(content)]
    pieces = [content[one:other] for one, other in pairwise(at)]
    assert in_pieces(*pieces) == in_pieces(content)
