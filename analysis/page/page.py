"""The page of a report: one HTML file that holds everything it shows.

Its parts lie in `html/`: the frame, the style, and the scripts of the plot and the table. All
text of a sweep is escaped, scripts take it from JSON and write it as text, and the page's own
policy forbids any other script and every request.
"""

import base64
import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import groupby
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pandas as pd

from analysis.cells.cells import describe_seeds
from analysis.figures.saving import WIDE
from analysis.group import GroupAnalysis, Omission
from analysis.page.data import build_data, dump_data
from analysis.page.markup import Html, join, tag, void_tag
from analysis.page.pictures import Album, Picture
from analysis.table.columns import SEED_COLUMNS
from analysis.table.protocols import format_value
from analysis.words.caveats import say_caveats
from analysis.words.provenance import Provenance

SCRIPTS = ("plot.js", "filters.js", "details.js", "table.js", "state.js", "main.js")
SLOT = re.compile(r"<!--slot:(\w+)-->")
MAX_FAILED = 100
"""Rows that are not done which are listed one by one, count."""
MEDIA = {".svg": "svg+xml", ".png": "png"}
"""Formats in which the page holds a figure: the smaller file."""
MAX_PAGE_BYTE = 4_900_000
"""A page with pictures, bytes."""
FOLD_FROM = 12
"""Items from which on a list is folded, count."""


@dataclass(frozen=True, kw_only=True)
class ShownFigure:
    """A figure in the page."""

    caption: str
    files: list[Path]


@dataclass(frozen=True, kw_only=True)
class PageContent:
    """Content of a page."""

    title: str
    folder: Path
    """Folder of the page, from where its links lead to the figures' files."""
    table: pd.DataFrame
    groups: list[GroupAnalysis]
    words: list[list[str]]
    """Lines of the summary, a list a group."""
    figures: list[ShownFigure]
    album: Album
    provenance: Provenance
    omissions: list[Omission]


def render_page(content: PageContent) -> str:
    """Writes the page: HTML that needs neither network nor server."""
    script = f"(() => {{\n'use strict';\n{''.join(map(_read_part, SCRIPTS))}}})();\n"
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    # What a reader sees first: what is compared, or the best cell of the one protocol.
    lines = (line for words in content.words for line in words)
    sentence = next((line for line in lines if not line.startswith("- ")), "")
    parts = {
        "title": join(content.title),
        "policy": Html(
            "default-src 'none'; img-src data:; style-src 'unsafe-inline';"
            f" script-src 'sha256-{digest}'"
        ),
        "style": Html(_read_part("report.css")),
        "subtitle": _write_subtitle(content),
        "sentence": join(sentence),
        "summary": join(map(_write_group, content.groups, content.words)),
        "figures": _write_figures(content.figures, content.folder),
        "pictures": _write_pictures(content.album, content.table),
        "failed": _write_failed(content.table),
        "cost": _write_cost(content.provenance),
        "provenance": _write_facts(content.provenance.facts, content.folder),
        "omitted": _write_omissions(content.omissions),
        "data": Html(dump_data({"title": content.title, **build_data(content.groups)})),
        "script": Html(script),
    }
    return SLOT.sub(lambda match: parts[match[1]], _read_part("report.html"))


def _read_part(name: str) -> str:
    return (resources.files("analysis") / "html" / name).read_text(encoding="utf-8")


def _write_subtitle(content: PageContent) -> Html:
    table = content.table
    counts = table["status"].value_counts()
    states = ", ".join(f"{count:,} {status}" for status, count in counts.items())
    about = [f"{len(table):,} row{'s' if len(table) != 1 else ''}: {states}"]
    for column, unit in (("dataset", ""), ("resolution", " px"), ("distance_name", "")):
        known = [format_value(value) for value in table[column].dropna().unique()]
        about += [f"{', '.join(known[:3])}{unit}"] if known else []
    words = join(" · ".join(about))
    if "pending" not in counts:
        return words
    box = void_tag("input", type="checkbox", id="reload")
    return join(words, " · ", tag("label", box, " reload every minute"))


def _write_group(group: GroupAnalysis, lines: list[str]) -> Html:
    """The caveats, what is best, and in a fold all else that the numbers say."""
    caveats = [note.partition(": ") for note in say_caveats(group.cells)]
    items = [tag("li", tag("b", f"{about}: "), text) for about, _, text in caveats]
    heading = [tag("h3", group.name)] if group.name else []
    boxed = [tag("ul", items, class_="caveats")] if items else []
    return tag("div", heading, boxed, _write_lines([*lines, *group.findings]), class_="group")


def _write_lines(lines: Sequence[str]) -> Html:
    """Sentences as paragraphs; a list, after a hyphen each, in a fold under its heading."""
    parts: list[Html] = []
    cards: list[Html] = []
    heading = ""
    for is_item, run in groupby(lines, key=lambda line: line.startswith("- ")):
        texts = list(run)
        if is_item:
            parts.pop()
            cards.append(_write_card(heading, [text.removeprefix("- ") for text in texts]))
        else:
            parts += [tag("p", text) for text in texts]
            heading = texts[-1]
    return join(parts, tag("div", cards, class_="cards"))


def _write_card(heading: str, texts: list[str]) -> Html:
    name, _, note = heading.rstrip(":").partition(" (")
    notes = [tag("p", note.removesuffix(")"), class_="note")] if note else []
    items = tag("ul", [tag("li", text.replace(" -> ", " → ")) for text in texts])
    return tag("details", tag("summary", name), notes, items, open=len(texts) < FOLD_FROM)


def _write_figures(figures: Sequence[ShownFigure], folder: Path) -> Html:
    if not figures:
        return tag("p", "No figure can be drawn from this table.", class_="empty")
    return tag("div", [_write_figure(figure, folder) for figure in figures], class_="figures")


def _write_figure(figure: ShownFigure, folder: Path) -> Html:
    narrow = [file for file in figure.files if not file.stem.endswith(WIDE)]
    file = min(
        (each for each in narrow if each.suffix in MEDIA), key=lambda each: each.stat().st_size
    )
    media = MEDIA[file.suffix]
    encoded = base64.b64encode(file.read_bytes()).decode("ascii")
    image = void_tag("img", src=f"data:image/{media};base64,{encoded}", alt=figure.caption)
    links = [(" ", tag("a", _name_file(file), href=_link(file, folder))) for file in figure.files]
    caption = tag("figcaption", figure.caption, tag("small", map(join, links)))
    return tag("figure", tag("div", image, class_="paper"), caption)


def _name_file(file: Path) -> str:
    wide = ", two columns" if file.stem.endswith(WIDE) else ""
    return f"{file.suffix[1:].upper()}{wide}"


def _link(file: Path, folder: Path) -> str:
    """The way from the page to a file; both may move together."""
    return quote(Path(os.path.relpath(file, folder)).as_posix())


def _write_pictures(album: Album, table: pd.DataFrame) -> Html:
    if not album.pictures:
        reasons = "; ".join(album.notes) or "the results folder has no grids"
        return tag("p", f"No pictures: {reasons}.", class_="empty")
    last = table.dropna(subset="trial_id").drop_duplicates("trial_id", keep="last")
    trials = {str(row["trial_id"]): row for _, row in last.iterrows()}
    captions = _caption_rows(table)
    entries = [
        _write_trial(trial_id, trials[trial_id], list(pictures), captions)
        for trial_id, pictures in groupby(album.pictures, key=lambda picture: picture.trial_id)
    ]
    notes = [tag("p", f"{'; '.join(album.notes)}.", class_="note")] if album.notes else []
    return join(notes, tag("div", entries, class_="trials"))


def _write_trial(
    trial_id: str, row: pd.Series, pictures: list[Picture], captions: dict[str, str]
) -> Html:
    about = _describe_trial(row)
    shown = []
    for picture in pictures:
        text = captions.get(picture.row_id, picture.kind)
        if text.startswith("reconstructions"):
            text += ": rows of originals, each above the row of its reconstructions"
        look = {"width": picture.width, "height": picture.height, "decoding": "async"}
        image = void_tag("img", src=picture.uri, alt=f"{text}: {about}", **look)
        button = tag("button", image, type="button", class_="zoom")
        about_picture = {"data_trial": trial_id, "data_row": picture.row_id}
        shown.append(tag("figure", button, tag("figcaption", text), **about_picture))
    return tag("article", tag("h3", about), tag("div", shown, class_="pair"), class_="trial")


def _caption_rows(table: pd.DataFrame) -> dict[str, str]:
    rows = table[["row_id", "guidance", "generator_images"]].itertuples(index=False, name=None)
    return {
        str(row_id): ", ".join(
            [
                "samples",
                *([f"guidance {guidance}"] if isinstance(guidance, str) else []),
                *([f"after {images:,.0f} training images"] if np.isfinite(images) else []),
            ]
        )
        for row_id, guidance, images in rows
    }


def _describe_trial(row: pd.Series) -> str:
    """A trial in words: its values of the sweep's axes, seeds among them."""
    varied = row[[str(name).startswith("axis.") for name in row.index]].dropna()
    if len(varied):
        names = [str(name).rpartition(".")[2] for name in varied.index]
        pairs = zip(names, map(format_value, varied), strict=True)
        return ", ".join(f"{name} {value}" for name, value in pairs)
    words = [str(value) for value in row[["alignment", "alignment_encoder"]].dropna()]
    texts = [" ".join(words)]
    if np.isfinite(row["latent_dim"]):
        texts.append(f"d={row['latent_dim']:g}")
    if isinstance(row["generator_size"], str):
        texts.append(row["generator_size"])
    if row[list(SEED_COLUMNS)].notna().all():
        texts.append(describe_seeds(row))
    return ", ".join(filter(None, texts))


def _write_failed(table: pd.DataFrame) -> Html:
    failed = table[table["status"] != "done"]
    if failed.empty:
        return tag("p", "None: every row is done.", class_="empty")
    rows = []
    for _, row in failed.head(MAX_FAILED).iterrows():
        status = tag("span", str(row["status"]), class_=f"status {row['status']}")
        cells = (tag("code", str(row["row_id"])), _describe_trial(row), status)
        rows.append(tag("tr", [tag("td", cell) for cell in (*cells, _write_error(row["error"]))]))
    more = []
    if len(failed) > MAX_FAILED:
        text = f"and {len(failed) - MAX_FAILED:,} more rows that are not done: see the table."
        more = [tag("p", text, class_="note")]
    head = tag("tr", [tag("th", text, scope="col") for text in ("row", "trial", "status", "error")])
    body = tag("table", tag("thead", head), tag("tbody", rows))
    about = {"role": "region", "aria_label": "Rows not done"}
    return join(tag("div", body, class_="scroll", tabindex=0, **about), more)


def _write_error(error: object) -> Html:
    """The first line, and the whole text in a fold where there is more."""
    text = error.strip() if isinstance(error, str) else ""
    if not text:
        return join("no error was recorded")
    first = text.splitlines()[0]
    if first == text and len(text) <= 160:
        return join(text)
    return tag("details", tag("summary", first[:160]), tag("pre", text[:4000]))


def _write_cost(provenance: Provenance) -> Html:
    if not provenance.costs:
        return tag("p", "Neither times nor FLOPs are known.", class_="empty")
    rows = [
        _write_cost_row(name, f"{count:,}", seconds, flops)
        for name, count, seconds, flops in provenance.costs
    ]
    known = [[cost[place] for cost in provenance.costs] for place in (2, 3)]
    sums = [sum(filter(np.isfinite, values)) or float("nan") for values in known]
    heads = (("stage", ""), ("number", "number"), ("time", "number"), ("FLOPs", "number"))
    head = tag("tr", [tag("th", text, scope="col", class_=look) for text, look in heads])
    foot = tag("tfoot", _write_cost_row("all", None, sums[0], sums[1]))
    table = tag("table", tag("thead", head), tag("tbody", rows), foot)
    note = tag("p", f"From the {provenance.cost_source}.", class_="note")
    return join(tag("div", table, class_="scroll"), note)


def _write_cost_row(name: str, count: str | None, seconds: float, flops: float) -> Html:
    return tag(
        "tr",
        tag("th", name, scope="row"),
        tag("td", "") if count is None else tag("td", count, class_="number"),
        [
            tag("td", text, class_="number")
            for text in (_format_time(seconds), _format_flops(flops))
        ],
    )


def _write_facts(facts: Sequence[tuple[str, str]], folder: Path) -> Html:
    rows = []
    for name, value in facts:
        shown = tag("code", value) if name == "command" else value
        if name == "earlier table":
            shown = tag("a", Path(value).parent.name, href=_link(Path(value), folder))
        rows.append(join(tag("dt", name), tag("dd", shown)))
    return tag("dl", rows, class_="facts")


def _write_omissions(omissions: Sequence[Omission]) -> Html:
    if not omissions:
        return tag("p", "Nothing.", class_="empty")
    return tag("ul", [tag("li", tag("b", each.what), f": {each.reason}.") for each in omissions])


def _format_time(seconds: float) -> str:
    if not np.isfinite(seconds):
        return "-"
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.4g} h"


def _format_flops(flops: float) -> str:
    return f"{flops:.2e}" if np.isfinite(flops) else "-"
