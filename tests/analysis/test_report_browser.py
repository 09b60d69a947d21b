"""The page in a headless Chromium, as a reader uses it on a desk and on a phone."""

import os
import shutil
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from analysis.report import write_report
from analysis.table.columns import REQUIRED_COLUMNS

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
SIZES = {"desktop": {"width": 1280, "height": 800}, "phone": {"width": 390, "height": 844}}


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def page_file(make_row, tmp_path_factory):
    """A sweep with a picture of each trial, one failed row, and two guidance settings."""
    folder = tmp_path_factory.mktemp("sweep")
    rows = [
        make_row(
            alignment=alignment,
            latent_dim=dim,
            generator_size=size,
            seed=seed,
            gfid=gfid * factor * (1 + 0.02 * seed),
            rfid=rfid * (1.1 if alignment == "vf" else 1.0) * (1 + 0.02 * seed),
            psnr=20.0 + dim,
        )
        for alignment in ("none", "vf")
        for dim, gfid, rfid in ((4, 3.0, 4.0), (16, 30.0, 2.0), (64, 400.0, 1.0))
        for size, factor in (("S", 1.0), ("M", 0.5 if alignment == "vf" else 0.7))
        for seed in (0, 1)
    ]
    guided = [
        row
        | {"guidance": "cfg 2.0", "guidance_scale": 2.0, "protocol_hash": "cfg"}
        | {"row_id": f"{row['row_id']}-cfg", "gfid": row["gfid"] / 2}
        for row in rows[:8]
    ]
    failed = rows[0] | {"row_id": "f", "trial_id": "f", "status": "failed", "gfid": None}
    table = pd.DataFrame([*rows, *guided, failed], columns=list(REQUIRED_COLUMNS))
    table.to_parquet(folder / "table.parquet")
    (folder / "grids").mkdir()
    for trial in table["trial_id"].unique():
        black = np.zeros((32, 40), dtype=np.uint8)
        Image.fromarray(black).save(folder / "grids" / f"{trial}_samples.png")
    write_report([folder])
    return folder / "report.html"


@pytest.fixture
def open_page(browser, page_file):
    """Opens the page at a size; fails the test on any error or request of the page."""
    contexts, faults = [], []

    def open_at(name, **options):
        context = browser.new_context(viewport=SIZES[name], has_touch=name == "phone", **options)
        context.set_default_timeout(10_000)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text))
        page.on("request", lambda request: _note_request(request.url, faults))
        page.goto(page_file.as_uri())
        return page

    yield open_at
    for context in contexts:
        context.close()
    assert faults == []


def _note_request(url, faults):
    if not url.startswith(("file:", "data:")):
        faults.append(f"request of {url}")


def test_hover_shows_configuration_metrics_and_samples(open_page):
    page = open_page("desktop")
    assert page.locator(".point").count() == 12
    point = page.locator('.point[aria-label^="vf, M, d=16"]')
    point.hover()
    text = page.locator("#details").inner_text()
    assert "vf, M, d=16" in text
    assert "generation\t15.15 ± 0.15" in text
    assert page.locator("#shots img").count() == 1
    page.locator("#shots button").nth(1).click()
    assert page.locator("#shots img").get_attribute("alt").endswith("seed 1")


def test_a_click_keeps_a_point_while_others_are_looked_at(open_page):
    page = open_page("desktop")
    heading = page.locator("#details h3")
    page.locator('.point[aria-label^="none, S, d=4"]').click()
    page.locator('.point[aria-label^="vf, M, d=64"]').hover()
    assert heading.inner_text() == "vf, M, d=64"
    page.mouse.move(5, 5)
    assert heading.inner_text() == "none, S, d=4"
    page.keyboard.press("Escape")
    assert heading.inner_text() == "A point"


def test_filters_hide_points_and_rows_alike(open_page):
    page = open_page("desktop")
    page.locator('[data-axis="alignment"][data-value="none"]').uncheck()
    assert page.locator(".point").count() == page.locator("#table tbody tr").count() == 6
    page.locator('[data-axis="latent_dim"][data-value="64"]').uncheck()
    assert page.locator(".point").count() == 4
    page.locator("#reset").click()
    assert page.locator(".point").count() == 12


def test_protocols_are_chosen_one_at_a_time(open_page):
    page = open_page("desktop")
    assert page.locator("#protocol option").count() == 2
    page.locator("#protocol").select_option(index=1)
    assert page.locator(".point").count() == 4
    page.locator("#mode").select_option("rows")
    assert page.locator(".point").count() == 8


def test_the_keyboard_reaches_every_point(open_page):
    page = open_page("desktop")
    page.locator('.point[tabindex="0"]').focus()
    first = page.locator("#details h3").inner_text()
    seen = {first}
    for _ in range(11):
        page.keyboard.press("ArrowRight")
        seen.add(page.locator("#details h3").inner_text())
    assert len(seen) == 12
    page.keyboard.press("Enter")
    assert "Kept" in page.locator("#details").inner_text()


def test_a_heading_sorts_the_table(open_page):
    page = open_page("desktop")
    page.locator('#table [data-key="psnr"]').click()
    page.locator('#table [data-key="psnr"]').click()
    assert page.locator('th[aria-sort="descending"]').inner_text().startswith("PSNR")
    dims = page.locator("#table tbody tr td:nth-child(3)").all_inner_texts()
    assert dims == ["64"] * 4 + ["16"] * 4 + ["4"] * 4


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_the_page_never_scrolls_sideways(open_page, size, scheme):
    page = open_page(size, color_scheme=scheme, reduced_motion="reduce")
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width == SIZES[size]["width"]


def test_a_tap_on_a_phone_shows_a_point(open_page):
    page = open_page("phone")
    page.locator('.point[aria-label^="vf, M, d=64"]').tap()
    assert "vf, M, d=64" in page.locator("#details").inner_text()
    assert page.locator("#shots img").count() == 1
