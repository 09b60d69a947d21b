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

    def open_at(name, address="", **options):
        context = browser.new_context(viewport=SIZES[name], has_touch=name == "phone", **options)
        context.set_default_timeout(10_000)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text))
        page.on("request", lambda request: _note_request(request.url, faults))
        page.goto(f"{page_file.as_uri()}{address}")
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
    assert page.locator("#details img").count() == 1
    page.locator("#details .tabs button").nth(1).click()
    assert page.locator("#details img").get_attribute("alt").endswith("seed 1")


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


def test_a_heading_sorts_the_table_best_first_and_then_the_other_way(open_page):
    page = open_page("desktop")
    assert page.locator("th[aria-sort]").inner_text() == "generation ▲"
    heading = page.locator('#table [data-key="psnr"]')
    heading.click()
    assert page.locator('th[aria-sort="descending"]').inner_text() == "PSNR (dB) ▼"
    best_first = ["64"] * 4 + ["16"] * 4 + ["4"] * 4
    assert page.locator("#table tbody tr td:nth-child(2)").all_inner_texts() == best_first
    heading.click()
    assert page.locator('th[aria-sort="ascending"]').inner_text() == "PSNR (dB) ▲"


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
    assert page.locator("#details img").count() == 1


def test_the_first_screen_of_a_phone_holds_the_plot(open_page):
    plot = open_page("phone").locator("#plot").bounding_box()
    assert plot["y"] + plot["height"] <= SIZES["phone"]["height"]


def test_points_carry_their_names_and_lines_differ_in_their_dashes(open_page):
    page = open_page("desktop")
    names = page.locator("#plot .label").all_text_contents()
    assert {"none, S, d=4", "vf, M, d=4"} <= set(names)
    boxes = page.evaluate(
        "[...document.querySelectorAll('#plot .label')].map((each) => {"
        " const { left, right, top, bottom } = each.getBoundingClientRect();"
        " return [left, right, top, bottom]; })"
    )
    for position, (left, right, top, bottom) in enumerate(boxes):
        for other in boxes[position + 1 :]:
            covers = left < other[1] - 1 and other[0] < right - 1
            assert not (covers and top < other[3] - 3 and other[2] < bottom - 3)
    dashes = page.evaluate(
        "[...document.querySelectorAll('#plot .series')].map("
        "(each) => [each.style.stroke, each.getAttribute('stroke-dasharray')].join())"
    )
    assert len(dashes) == 4
    assert len(set(dashes)) == len({each.split(",")[1] for each in dashes}) == 2


def test_two_rows_are_compared_side_by_side(open_page):
    page = open_page("desktop")
    rows = page.locator("#table tbody tr")
    rows.nth(0).click()
    assert page.locator("#kept img").count() == 1
    rows.nth(1).locator(".keep").press("Enter")
    assert page.locator("#kept .card h3").all_inner_texts() == ["vf, M, d=4", "none, M, d=4"]
    assert "alignment\tvf\tnone" in page.locator("#kept tr.differs").all_inner_texts()
    assert page.locator("#table tr.kept").count() == page.locator(".point.kept").count() == 2
    rows.nth(2).click()
    headings = page.locator("#kept .card h3").all_inner_texts()
    assert headings == ["none, M, d=4", "none, S, d=4"]
    page.keyboard.press("Escape")
    assert page.locator("#kept").is_hidden()


def test_a_picture_is_enlarged_and_put_away(open_page):
    page = open_page("desktop")
    page.locator("#table tbody tr").first.click()
    small = page.locator("#kept img").first.bounding_box()
    page.locator("#kept .zoom").first.press("Enter")
    large = page.locator("#enlarged img").bounding_box()
    assert large["width"] > 1.5 * small["width"]
    page.keyboard.press("Escape")
    assert not page.locator("#enlarged").is_visible()
    assert page.locator("#kept").is_visible()


def test_filters_and_kept_points_survive_each_other_and_a_change_of_mode(open_page):
    page = open_page("desktop")
    page.locator("#table tbody tr").first.click()
    page.locator('[data-axis="latent_dim"][data-value="64"]').uncheck()
    assert page.locator("#kept .card h3").inner_text() == "vf, M, d=4"
    page.locator("#table tbody tr").nth(1).click()
    assert page.locator(".point").count() == 8
    page.locator("#mode").select_option("rows")
    assert page.locator(".point").count() == 16
    assert page.locator("#kept .card").count() == 2


def test_the_address_gives_the_same_view_again(open_page):
    page = open_page("desktop")
    assert page.evaluate("location.hash") == ""
    page.locator('[data-axis="alignment"][data-value="none"]').uncheck()
    page.locator("#metric-x").select_option("psnr")
    page.locator("#log-y").uncheck()
    page.locator('#table [data-key="psnr"]').click()
    page.locator("#table tbody tr").nth(2).click()
    page.locator("#results summary").click()
    page.locator('[data-column="label_accuracy"]').uncheck()
    page.locator('nav a[href="#figures"]').click()

    def look(shown):
        texts = [shown.locator(name).inner_text() for name in ("#table", "#kept", "#details")]
        picked = [shown.locator(name).input_value() for name in ("#metric-x", "#metric-y")]
        return texts, picked, shown.locator("#log-y").is_checked(), shown.locator(".point").count()

    other = open_page("desktop", address=page.evaluate("location.hash"))
    assert look(other) == look(page)
    assert look(other)[3] == 6
    assert "class asked for" not in look(other)[0][0]


def test_the_table_has_axes_and_six_columns_and_the_rest_by_choice(open_page):
    page = open_page("desktop")
    headings = page.locator("#table thead th").all_inner_texts()
    assert headings[:4] == ["alignment", "latent dim", "generator size", "seeds"]
    chosen = page.locator("[data-column]:checked").count()
    assert chosen == min(6, page.locator("[data-column]").count())
    assert len(headings) == 4 + chosen
    page.locator("#results summary").click()
    page.locator('[data-column="psnr"]').uncheck()
    assert page.locator('#table [data-key="psnr"]').count() == 0


def test_the_download_holds_what_passes_the_filters_as_it_is_sorted(open_page, tmp_path):
    page = open_page("desktop")
    page.locator('[data-axis="alignment"][data-value="none"]').uncheck()
    page.locator('#table [data-key="psnr"]').click()
    with page.expect_download() as download:
        page.locator("#csv").click()
    download.value.save_as(tmp_path / "rows.csv")
    rows = pd.read_csv(tmp_path / "rows.csv")
    assert len(rows) == 6
    assert set(rows["alignment"]) == {"vf"}
    assert rows["psnr"].tolist() == [84.0, 84.0, 36.0, 36.0, 24.0, 24.0]
    assert rows.loc[rows["latent_dim"] == 16, "gfid"].min() == pytest.approx(15.15)
    assert "gfid_se" in rows.columns


@pytest.mark.parametrize("measured", [True, False])
def test_a_page_of_a_sweep_that_still_runs_reloads_when_asked_to(
    browser, make_row, tmp_path, measured
):
    rows = [make_row(latent_dim=4, gfid=3.0), make_row(latent_dim=16, gfid=2.0)]
    rows[1] |= {"status": "pending", "gfid": None, "rfid": None}
    if not measured:
        rows = rows[1:]
    pd.DataFrame(rows, columns=list(REQUIRED_COLUMNS)).to_parquet(tmp_path / "table.parquet")
    write_report([tmp_path])
    page = browser.new_page()
    page.clock.install()
    page.goto((tmp_path / "report.html").as_uri())
    assert "1 pending" in page.locator(".subtitle").inner_text()
    page.evaluate("window.isOld = true")
    page.clock.run_for(61_000)
    assert page.evaluate("window.isOld === true")
    page.locator("#reload").check()
    with page.expect_navigation():
        page.clock.run_for(61_000)
    assert page.locator("#reload").is_checked()
    page.close()
