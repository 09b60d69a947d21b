"""YAML says what it shows: scalars of version 1.2, and every error of the reader is a refusal."""

import pytest

from harness.schema.reading import ConfigError, parse_yaml


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


@pytest.mark.parametrize("text", ["!!int x", "[" * 5000, "a: *b", "{a: 1", "!!float {}"])
def test_what_the_reader_cannot_take_is_refused(text):
    with pytest.raises(ConfigError, match="not valid YAML: "):
        parse_yaml(text)
