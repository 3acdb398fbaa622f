from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from agent.errors import BadInput
from agent.source.scalars import meaning
from agent.source.text import Unreadable
from agent.source.yaml import DEEPEST, load_mapping, parse, places


def value_of(text: str) -> Any:
    [document] = parse(text.encode())
    assert document.faults == ()
    return document.value


def faults_of(text: str) -> list[str]:
    [document] = parse(text.encode())
    return [f"{fault.line}:{fault.column} {fault.message}" for fault in document.faults]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("~", None),
        ("null", None),
        ("true", True),
        ("False", False),
        ("0", 0),
        ("-7", -7),
        ("+7", 7),
        ("0x1F", 31),
        ("0o17", 15),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        ("-.5", -0.5),
    ],
)
def test_a_plain_word_means_what_the_core_schema_says(text: str, value: object) -> None:
    assert meaning(text) == value
    assert type(meaning(text)) is type(value)


@pytest.mark.parametrize(
    "text",
    [
        *("no", "yes", "on", "off", "y", "N", "0755", "-012", "08", "2222:22", "190:20:30", "tRUE"),
        *("1_000", "0b1", "2024-01-01", "1.2.3", ".inf", "-.INF", ".nan", "1e999", "=", "<<", "0x"),
        *("1e", ".", "٣"),
        "1" * 30,
        "0x" + "f" * 30,
        "1 ",
    ],
)
def test_a_plain_word_that_is_read_in_several_ways_stays_text(text: str) -> None:
    assert meaning(text) == text


def test_quoted_words_are_text_always() -> None:
    assert value_of('["1", \'true\', "", \'~\', "null"]') == ["1", "true", "", "~", "null"]


def test_block_text_is_kept_to_the_last_newline() -> None:
    assert value_of("a: |\n  x\n   y\n\n  z\nb: >-\n  p\n  q\n") == {
        "a": "x\n y\n\nz\n",
        "b": "p q",
    }


def test_documents_of_a_stream_are_read_each_with_its_place() -> None:
    found = parse(b"# first\na: 1\n---\nb: 2\n---\n# nothing\n---\n- c\n...\n")
    assert [(one.index, one.line, one.column, one.value) for one in found] == [
        (0, 2, 1, {"a": 1}),
        (1, 4, 1, {"b": 2}),
        (2, 7, 1, None),
        (3, 8, 1, ["c"]),
    ]


def test_a_key_that_is_given_twice_names_both_places() -> None:
    assert faults_of("a: 1\nb:\n  c: 1\n  c: 2\n") == [
        "4:3 key `c` is given twice, first at 3:3 (keep one)"
    ]


def test_a_key_that_is_given_twice_has_no_value() -> None:
    [document] = parse(b"name: web\nkind: vm\nname: db\n")
    assert document.value == {"name": None, "kind": "vm"}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("1: a", "1:1 key `1` is no text (put it in quotes)"),
        ("a: {true: b}", "1:5 key `true` is no text (put it in quotes)"),
        ("? [a]\n: b", "1:3 key a list is no text (put it in quotes)"),
        ("~: b", "1:1 key `~` is no text (put it in quotes)"),
        ("a: !!str 5", "1:4 tag `!!str` is not supported (remove it)"),
        ("a: !x 5", "1:4 tag `!x` is not supported (remove it)"),
        ("a: ! 5", "1:4 tag `!` is not supported (remove it)"),
        (
            "a: !!python/object:os.system x",
            "1:4 tag `!!python/object:os.system` is not supported (remove it)",
        ),
        (
            "a: &x {b: 1}\nc:\n  <<: *x",
            "3:3 merge keys (`<<`) are not supported (write the keys out)",
        ),
        ("a: *x", "1:4 alias `x` has no anchor before it (write the value out)"),
        ("a: 1\nb:\nc: 2", "2:1 key `b` has no value (write one, or remove the key)"),
        ("a: [1, ~]", "1:8 a list item has no value (write one, or remove the item)"),
        ('a: "\\0"', "1:4 the text has a control character in it (remove it)"),
        ('a: "\\e[2J"', "1:4 the text has a control character in it (remove it)"),
    ],
)
def test_what_documents_do_not_need_is_a_fault_at_its_place(text: str, fault: str) -> None:
    assert fault in faults_of(text)


def test_an_alias_stands_for_its_anchor() -> None:
    assert value_of("a: &x [1, 2]\nb: *x\nc: &y text\nd: *y\n") == {
        "a": [1, 2],
        "b": [1, 2],
        "c": "text",
        "d": "text",
    }


@pytest.mark.parametrize(
    ("text", "place", "what"),
    [
        ("a: [1, 2\nb: 3", (2, 2), "not YAML"),
        ("a: b: c", (1, 5), "not YAML"),
        ("a:\n\tb: 1", (2, 1), "not YAML"),
        ('a: "x', (1, 6), "not YAML"),
        ("a: &x [*x]", (1, 8), "alias `x` stands inside what it stands for"),
        ("[" * (DEEPEST + 1), (1, DEEPEST + 1), "nested deeper"),
        ("%YAML 3.0\n---\na: 1", (1, 1), "incompatible"),
        ("a: 1\nb: \x07", (2, 4), r"the character \x07 is not allowed"),
        ("a: \u2028b", (1, 4), r"the character \u2028 is not allowed"),
    ],
)
def test_what_cannot_be_read_at_all_says_where_and_why(
    text: str, place: tuple[int, int], what: str
) -> None:
    with pytest.raises(Unreadable) as error:
        parse(text.encode())
    assert (error.value.line, error.value.column) == place
    assert what in str(error.value)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        ("a: 1".encode("utf-16"), "UTF-16"),
        ("a: 1".encode("utf-16-be"), r"\x00 is not allowed"),
        ("a: 1".encode("utf-32"), "UTF-16"),
        ("ä: 1".encode("latin-1"), "not UTF-8"),
        (b"a" * ((1 << 20) + 1), "larger than 1MiB"),
    ],
)
def test_other_encodings_and_huge_files_are_refused(data: bytes, what: str) -> None:
    with pytest.raises(Unreadable, match=what.replace("\\", "\\\\")):
        parse(data)


def test_a_byte_order_mark_and_dos_line_ends_are_fine() -> None:
    [document] = parse(b"\xef\xbb\xbfa: 1\r\nb:\r\n  - c\r\n")
    assert document.value == {"a": 1, "b": ["c"]}


def test_places_find_values_keys_and_the_nearest_value_above() -> None:
    text = b"x: 1\n---\na:\n  - {b: 0755, c: 'q'}\n"
    found = places(text)[1]
    assert found.find(("a", 0, "b")) == (4, 9)
    assert found.find(("a", 0, "b"), at_key=True) == (4, 6)
    assert found.find(("a", 0, "missing", "deeper")) == (4, 5)
    assert found.find(("nothing",)) == (3, 1)
    assert found.spelled["a", 0, "b"] == "0755"
    assert found.spelled["a", 0, "c"] == '"q"'


def test_unquoted_text_in_brackets_may_hold_colons() -> None:
    text = "a: {b: https://images.example/x.qcow2, c: 2222:22}\n"
    assert value_of(text) == {"a": {"b": "https://images.example/x.qcow2", "c": "2222:22"}}
    assert places(text.encode())[0].find(("a", "c")) == (1, 43)


def test_columns_count_characters() -> None:
    assert places("a: [é, 𝄞, x]\n".encode())[0].find(("a", 2)) == (1, 11)


def test_a_configuration_file_is_one_mapping() -> None:
    assert load_mapping(b"state: /s\ninterval: 5\n", "c.yaml") == {"state": "/s", "interval": 5}
    assert load_mapping(b"# nothing\n", "c.yaml") == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a: [\n", "c.yaml:2:1: this is not YAML"),
        (b"a: 1\na: 2", "c.yaml:2:1: key `a` is given twice"),
        (b"- a", "c.yaml: the file is not one mapping"),
        (b"a: 1\n---\nb: 1", "c.yaml: the file is not one mapping"),
    ],
)
def test_a_configuration_file_that_is_none_says_where(text: bytes, message: str) -> None:
    with pytest.raises(BadInput) as error:
        load_mapping(text, "c.yaml")
    assert str(error.value).startswith(message)


def test_the_parser_without_the_c_extension_gives_the_same_documents() -> None:
    program = """
import sys
for name in ("_ruamel_yaml", "_ruamel_yaml_clibz", "ruamel.yaml.clib"):
    sys.modules[name] = None
from agent.source import yaml
assert yaml.CParser is None
text = b"# c\\na: [1, 'x', {b: no}]\\nc: |\\n  t\\n---\\nd: &x 1\\ne: *x\\nd: 2\\n"
for one in yaml.parse(text):
    print(one.index, one.line, one.column, one.value, [str(fault) for fault in one.faults])
try:
    yaml.parse(b"a: [1")
except yaml.Unreadable as error:
    print("unreadable", error.line)
"""
    slow = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    ).stdout
    fast = "".join(
        f"{one.index} {one.line} {one.column} {one.value} {[str(fault) for fault in one.faults]}\n"
        for one in parse(b"# c\na: [1, 'x', {b: no}]\nc: |\n  t\n---\nd: &x 1\ne: *x\nd: 2\n")
    )
    assert slow == fast + "unreadable 1\n"
