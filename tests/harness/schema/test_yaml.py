"""YAML says what it shows: scalars of version 1.2, and every error of the reader is a refusal."""

import pytest

from harness.schema import reading
from harness.schema.reading import ConfigError, parse_yaml

pytestmark = pytest.mark.usefixtures("little_memory")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on", "on"),
        ("no", "no"),
        ("true", True),
        ("010", 10),
        ("0o10", 8),
        ("0x10", 16),
        ("1_000", 1000),
        ("1:30", "1:30"),
        ("2026-11-28", "2026-11-28"),
        ("1e-4", 1e-4),
        (".5", 0.5),
        ("-3", -3),
        ("~", None),
        ("", None),
        ("'010'", "010"),
    ],
)
def test_a_scalar_is_what_it_shows(text, value):
    found = parse_yaml(f"[{text}]")[0] if text else parse_yaml("a: ")["a"]
    assert (type(found), found) == (type(value), value)


def test_words_of_switches_are_names_as_keys_too():
    assert parse_yaml("{off: {}, on: 1}") == {"off": {}, "on": 1}


def test_a_block_can_be_merged_into_another():
    text = "a: &base {b: 1, c: 2}\nd: {<<: *base, c: 3}"
    assert parse_yaml(text)["d"] == {"b": 1, "c": 3}


def test_a_merge_is_counted_and_ordered_as_the_blocks_that_it_stands_for():
    text = "a: &a {x: 1, 2: a}\nb: &b {x: 2, y: 3}\nc: {<<: [*a, *b], y: 4}\nd: {<<: {1: x}}"
    assert parse_yaml(text)["c"] == {"x": 1, "2": "a", "y": 4}
    assert parse_yaml(text)["d"] == {"1": "x"}


def test_keys_are_text_whatever_they_look_like():
    text = "{1: a, ~: b, true: c, 1.50: d, 0x10: e, '': f}"
    keys = {"1": "a", "~": "b", "true": "c", "1.50": "d", "0x10": "e", "": "f"}
    assert parse_yaml(text) == keys


NINE = [f"[{', '.join([f'*a{n - 1}' if n else 'x'] * 9)}]" for n in range(9)]
BOMB = "\n".join(f"a{n}: &a{n} {each}" for n, each in enumerate(NINE))
MERGES = "\n".join(
    [
        "a0: &a0 {x: 1}",
        *(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, 9)),
    ]
)
REFUSED = {
    "an integer that is none": ("a: !!int x", r"'x' is no .*int \(line 1\)"),
    "no number at all": ("\na: !!float ''", r"'' is no .*float \(line 2\)"),
    "a truth that is none": ("!!bool x", "'x' is no .*bool"),
    "a mapping that is none": ("!!map x", "'x' is no mapping"),
    "more digits than Python reads": ("9" * 5000, r"'9{40}' is no .*int"),
    "lists without end": ("[" * 5000, r"at most 64 blocks and lists deep \(line 1\)"),
    "blocks without end": (":\n ".join("a" for _ in range(99)), "."),
    "an alias of nothing": ("a: *b", "line 1, column 4"),
    "a block that is not closed": ("{a: 1", "line 1"),
    "a date": ("!!timestamp 2026-01-01", "could not determine a constructor"),
    "a set": ("!!set {a, b}", "could not determine a constructor"),
    "an anchor within itself": ("a: &x\n- *x", r"'x' must not hold itself \(line 2\)"),
    "a bomb of aliases": (BOMB, r"at most 1,000 keys and values \(line 4\)"),
    "a bomb of merges": (MERGES, r"at most 1,000 keys and values"),
    "a long list": ("[" + "0," * 1_001 + "]", "at most 1,000 keys and values"),
    "half a character": ('"\\ud800"', "characters that no text has"),
    "no character": ('"\\U00110000"', "."),
    "the end of a text": ('{"a\\0b": 1}', "characters that no text has"),
    "an escape sequence": ('"\\e[2J"', "characters that no text has"),
    "a merge of a number": ("{<<: 3}", "line 1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_reader_cannot_take_is_refused_with_its_place(name, monkeypatch):
    monkeypatch.setattr(reading, "MAX_NODES", 1_000)
    text, message = REFUSED[name]
    with pytest.raises(ConfigError, match=f"not valid YAML: .*{message}"):
        parse_yaml(text)


def test_a_key_that_is_no_text_or_stands_twice_is_refused():
    with pytest.raises(ConfigError, match=r"must be text, but is a block \(line 1\)"):
        parse_yaml("? [a]\n: 1")
    with pytest.raises(ConfigError, match="'1' stands twice"):
        parse_yaml("{1: a, 0: b, '1': c}")
