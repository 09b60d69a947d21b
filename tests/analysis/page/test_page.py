import json
import re
from html.parser import HTMLParser
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from analysis.group import analyse_group
from analysis.page.markup import Html, tag, void_tag
from analysis.page.page import PageContent, render_page
from analysis.page.pictures import Album, collect_pictures
from analysis.report import write_report
from analysis.table.columns import REQUIRED_COLUMNS
from analysis.table.protocols import split_by_protocol
from analysis.table.reading import check_table
from analysis.words.provenance import trace_table
from analysis.words.summary import say_results

EVIL = "<script>alert(1)</script>"


class Elements(HTMLParser):
    """Collects elements and their attributes."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def parse(page):
    parser = Elements()
    parser.feed(page)
    return parser.found


def write_page(tmp_path, rows, **extra):
    """The page without its figures, which take longest."""
    table = check_table(pd.DataFrame(rows, columns=list(REQUIRED_COLUMNS)).assign(**extra))
    groups = [analyse_group(name, rows) for name, rows in split_by_protocol(table).items()]
    content = PageContent(
        title="sweep",
        folder=tmp_path,
        table=table,
        groups=groups,
        words=[say_results(group.cells) for group in groups],
        figures=[],
        album=Album(pictures=[], notes=[]),
        provenance=trace_table(table, [tmp_path]),
        omissions=[],
    )
    return render_page(content)


def test_text_is_escaped_unless_it_is_html():
    assert tag("p", EVIL, Html("<b>")) == "<p>&lt;script&gt;alert(1)&lt;/script&gt;<b></p>"
    assert void_tag("img", alt='"x"', class_="a", hidden=True, title=False) == (
        '<img alt="&quot;x&quot;" class="a" hidden>'
    )


def test_names_of_a_sweep_are_text_wherever_they_stand(make_row, tmp_path):
    evil = {"dataset": EVIL, "generator_size": EVIL, "extractor": EVIL, "distance_name": EVIL}
    failed = make_row(**evil, seed=1, status="failed", error=f"{EVIL}\n{EVIL}", row_id=EVIL)
    (tmp_path / "manifest.json").write_text(json.dumps({"command": EVIL, "stages": EVIL}))
    page = write_page(tmp_path, [make_row(**evil), failed])
    assert page.count("<script") == 2
    assert EVIL not in page


def test_the_page_needs_nothing_from_elsewhere(dilemma_rows, tmp_path):
    table = pd.DataFrame(dilemma_rows, columns=list(REQUIRED_COLUMNS))
    table.to_parquet(tmp_path / "table.parquet")
    write_report([tmp_path])
    page = (tmp_path / "report.html").read_text()
    elements = parse(page)
    assert all(attrs.get("alt") for name, attrs in elements if "src" in attrs)
    sources = [attrs["src"] for _, attrs in elements if "src" in attrs]
    assert all(source.startswith("data:") for source in sources)
    links = [attrs["href"] for _, attrs in elements if "href" in attrs]
    files = [link for link in links if not link.startswith("#")]
    assert len(files) == 20
    assert all((tmp_path / unquote(link)).is_file() for link in files)
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest", page)
    assert sum("src" in attrs for _, attrs in elements) == 4
    policy = next(attrs["content"] for _, attrs in elements if "http-equiv" in attrs)
    assert policy.startswith("default-src 'none'")


def test_every_section_is_linked(dilemma_rows, tmp_path):
    elements = parse(write_page(tmp_path, dilemma_rows))
    sections = {attrs["id"] for name, attrs in elements if name == "section"}
    assert sections == {attrs["href"][1:] for name, attrs in elements if name == "a"}


def test_failed_rows_stand_with_their_errors(make_row, tmp_path):
    error = "RuntimeError: no memory\n  at step 3"
    failed = make_row(seed=1, status="diverged", error=error, gfid=None)
    page = write_page(tmp_path, [make_row(), failed])
    assert "1 diverged" in page
    assert "<summary>RuntimeError: no memory</summary>" in page


def test_caveats_follow_from_the_numbers(make_row, tmp_path):
    page = write_page(tmp_path, [make_row()], rank_deficient="yes")
    for text in ("no difference is established", "no FID", "2,000 samples", "rank deficient"):
        assert text in page


def test_cost_counts_a_shared_stage_once(make_row, tmp_path):
    stage = {"kind": "tokenizer", "key": "k", "cost": {"wall_s": 60.0, "estimated_flops": 1e12}}
    manifest = {"command": "python -m harness.run x.yaml", "stages": [stage, stage]}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    page = write_page(tmp_path, [make_row()])
    assert "python -m harness.run x.yaml" in page
    assert "60 s</td>" in page
    assert "120 s" not in page


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_a_broken_manifest_does_not_stop_the_page(make_row, tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    assert "Commands and versions" in write_page(tmp_path, [make_row()])


def test_pictures_stop_at_the_limit_with_whole_trials(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    records = []
    for trial in ("a", "b"):
        for kind in ("samples", "reconstructions"):
            file = tmp_path / f"{trial}_{kind}.png"
            Image.fromarray(noise).save(file)
            records.append((trial, kind, file.name, "", file))
    grids = pd.DataFrame(records, columns=["trial_id", "kind", "path", "row_id", "file"])
    album = collect_pictures(grids, ["b", "a"], budget_byte=30_000)
    assert [(p.trial_id, p.kind) for p in album.pictures] == [
        ("b", "samples"),
        ("b", "reconstructions"),
    ]
    assert album.notes == ["1 of 2 trials have no pictures here: the page is full"]


def test_large_grids_are_scaled_and_broken_ones_told(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (900, 1800, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "big.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    grids = pd.DataFrame(
        [
            {"trial_id": "a", "kind": name, "path": name, "row_id": ""}
            | {"file": tmp_path / f"{name}.png"}
            for name in ("big", "broken")
        ]
    )
    album = collect_pictures(grids, ["a"])
    assert [(p.width, p.height) for p in album.pictures] == [(640, 320)]
    assert "scaled down to 640 pixels" in album.notes[0]
    assert album.notes[1] == "no readable PNG: broken"
