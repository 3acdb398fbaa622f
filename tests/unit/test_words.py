from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from state.spec.words import did_you_mean, excerpt, listed, printable, quoted


def test_a_long_text_is_cut_so_that_it_cannot_flood_a_log() -> None:
    assert len(quoted("x" * 100_000)) < 70


@pytest.mark.parametrize(
    "text", ["a\nb", "\x1b[2J", "a\u202eb", "a\u200bb", "\ud800", "\x00", "a\rb"]
)
def test_a_quoted_text_has_nothing_in_it_that_acts_on_a_terminal(text: str) -> None:
    assert quoted(text).isprintable()
    assert printable(text).isprintable()


@given(st.text())
def test_an_excerpt_is_one_short_line_whatever_was_said(text: str) -> None:
    assert excerpt(text).isprintable()
    assert len(excerpt(text, 20)) <= 20


def test_an_excerpt_says_where_it_was_cut() -> None:
    assert excerpt("a\n b") == "a b"
    assert excerpt("\x1b" * 20, 20) == "\\x1b" * 4 + "\\x1…"
    assert excerpt("x" * 30, 20) == "x" * 19 + "…"


@pytest.mark.parametrize(
    ("value", "text"),
    [(True, "`true`"), (None, "`null`"), (7, "`7`"), ({}, "a mapping"), ([], "a list")],
)
def test_values_are_quoted_as_yaml_spells_them(value: object, text: str) -> None:
    assert quoted(value) == text


def test_the_likeliest_word_is_offered_whatever_its_spelling() -> None:
    known = [
        "memory",
        "depends_on",
        "user_data",
        "image",
        "labels",
        "ports",
        "power",
        "restart",
        "x",
    ]
    assert did_you_mean("memry", known) == " (did you mean `memory`?)"
    assert did_you_mean("dependsOn", known) == " (did you mean `depends_on`?)"
    assert did_you_mean("user-data", known) == " (did you mean `user_data`?)"
    assert did_you_mean("zzzzzz", known) == ""


def test_few_words_are_listed_where_none_is_likely() -> None:
    assert did_you_mean("zzz", ["vm", "images"]) == " (known: vm, images)"


def test_no_word_is_looked_for_among_very_many() -> None:
    assert did_you_mean("label-7", [f"label-{n}" for n in range(10_000)]) == ""


def test_words_are_listed_as_in_a_sentence() -> None:
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"]) == "a, b or c"
    assert listed(["a", "b"], "and") == "a and b"
