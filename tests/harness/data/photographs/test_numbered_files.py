"""Absent files are told by the numbers of those that are there."""

from pathlib import Path

import pytest

from harness.data.photographs.numbered_files import absent_of_patterns, missing_of_total


@pytest.mark.parametrize(
    ("present", "absent"),
    [
        (["a-00000-of-00003.parquet", "a-00002-of-00003.parquet"], ["a-00001-of-00003.parquet"]),
        (["a-00000-of-00001.parquet", "b-00000-of-00001.parquet"], []),
        (["a-1-of-3.tar", "a-3-of-3.tar"], ["a-2-of-3.tar"]),
        (
            ["a-9-of-11.tar", "a-10-of-11.tar", *(f"a-{n}-of-11.tar" for n in range(8))],
            ["a-8-of-11.tar"],
        ),
        (["a-00001-of-00002-0123456789abcdef.parquet"], ["a-00000-of-00002-*.parquet"]),
        (["a-00000-of-00001.tar", "a-00000-of-00002.tar"], ["a-00001-of-00002.tar"]),
        (["a-0000.tar", "a.parquet"], []),
    ],
)
def test_names_with_a_total_tell_what_is_absent(present, absent):
    assert missing_of_total([Path(name) for name in present]) == [Path(name) for name in absent]


def test_only_what_a_pattern_would_find_is_absent(tmp_path):
    for number in (0, 1, 3, 12):
        (tmp_path / f"a-{number:05d}-of-00020.tar").touch()
    found = absent_of_patterns(tmp_path, ["a-0000[0-3]*.tar", "a-00012-of-*"])
    assert found == [tmp_path / "a-00002-of-00020.tar"]
    assert absent_of_patterns(tmp_path, ["a-00000-of-00020.tar"]) == []
