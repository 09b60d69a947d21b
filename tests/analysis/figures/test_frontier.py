import numpy as np
import pandas as pd
import pytest

from analysis.cells.cells import compute_cells
from analysis.figures.dilemma import draw_dilemma
from analysis.figures.frontier import compute_frontier, draw_frontier
from analysis.figures.panels import Panel, draw_panels
from analysis.table.published import select_published


def _generated(table):
    return compute_cells(table, needs=("gfid",))


def _draw(table):
    cells = compute_frontier(table)
    return draw_frontier(cells, select_published(cells.rows))


def _footnote(figure):
    return figure.get_supxlabel().replace("\n", " ")


def test_the_front_is_taken_over_the_means(make_row, load):
    rows = [
        make_row(latent_dim=4, rfid=4.0, gfid=2.0),
        make_row(latent_dim=16, rfid=2.0, gfid=1.0),
        make_row(latent_dim=16, rfid=2.0, gfid=5.0, seed=1),
        make_row(latent_dim=64, rfid=3.0, gfid=4.0),
    ]
    data = compute_frontier(load(rows))
    assert data.points["on_front"].tolist() == [True, True, False]
    front = _draw(load(rows)).axes[0].lines[-2]
    assert list(np.asarray(front.get_xdata())) == [2.0, 4.0]


def test_dilemma_keeps_points_without_psnr_and_orders_sizes_by_parameters(make_row, load):
    rows = [make_row(generator_size="L", generator_params=9e5, psnr=None, rfid=None), make_row()]
    data = _generated(load(rows))
    titles = [axes.get_title(loc="left") for axes in draw_dilemma(data).axes]
    assert titles == ["generator S", "generator L", "", ""]
    assert data.points["psnr"].isna().tolist() == [False, True]


def test_the_frontier_figure_names_axes_lines_and_points(dilemma_rows, load):
    figure = _draw(load(dilemma_rows))
    axes = figure.axes[0]
    assert "in-domain Fréchet distance" in axes.get_xlabel()
    assert "FID" not in axes.get_xlabel() + axes.get_ylabel()
    assert (axes.get_xscale(), axes.get_yscale()) == ("linear", "log")
    words = [text.get_text() for text in axes.texts]
    assert words.count("d=16") == 4
    assert "better" in words
    keys = [text.get_text() for text in figure.legends[0].get_texts()]
    assert {"none", "vf", "S", "M", "Pareto front"} <= set(keys)
    assert "mean ± standard error over 2 seeds" in _footnote(figure)
    assert figure.get_size_inches()[0] == 3.25


def test_the_footnote_says_where_seeds_share_a_tokenizer(make_row, load):
    rows = [make_row(generator_seed=seed, gfid=3.0 + seed) for seed in range(3)]
    footnote = _footnote(_draw(load(rows)))
    assert "mean ± standard error over 3 seeds (reconstruction: 1 tokenizer)" in footnote


def test_a_long_alignment_name_is_broken_in_the_legend(make_row, load):
    vf = {"alignment": "vf", "rfid": 1.0}
    rows = [make_row(alignment_encoder=name, **vf) for name in ("mae", "vit_large_dinov2.lvd142m")]
    figure = _draw(load(rows))
    keys = [text.get_text() for text in figure.legends[0].get_texts()]
    assert {"vf mae", "vf vit_large_\ndinov2.lvd142m"} <= set(keys)


def test_labels_stay_inside_the_figure(dilemma_rows, load):
    figure = _draw(load(dilemma_rows))
    figure.draw_without_rendering()
    for text in figure.axes[0].texts:
        box = text.get_window_extent()
        assert figure.bbox.x0 <= box.x0 <= box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 <= box.y1 <= figure.bbox.y1


def test_the_dilemma_figure_has_a_column_of_panels_per_size(dilemma_rows, load):
    figure = draw_dilemma(_generated(load(dilemma_rows)))
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["generator S", "generator M", "", ""]
    assert figure.axes[0].get_yscale() == "log"


def test_figures_without_points_are_refused(make_row, load):
    table = load([make_row(status="failed", gfid=None)])
    with pytest.raises(ValueError, match="at least one point"):
        _draw(table)
    with pytest.raises(ValueError, match="at least one point"):
        draw_dilemma(_generated(table))


def test_published_points_of_a_like_protocol_are_drawn_hollow_and_named(make_row, load):
    like = {"dataset": "imagenet", "resolution": 256, "distance_name": "FID"}
    rows = [make_row(num_images=10_000, num_reconstructions=50_000, **like)]
    figure = _draw(load(rows))
    keys = [text.get_text() for text in figure.legends[0].get_texts()]
    assert sum(key.startswith("published:") for key in keys) == 9
    assert "published: arXiv 2501.01423v3 Table 2" in _footnote(figure)
    other = _draw(load([make_row()]))
    assert "published" not in _footnote(other)


def test_many_points_carry_no_labels(make_row, load):
    rows = [make_row(latent_dim=d, rfid=d, gfid=1 / d) for d in range(1, 71)]
    texts = _draw(load(rows)).axes[0].texts
    assert [text.get_text() for text in texts] == ["better"]


def test_many_sizes_stand_below_each_other_in_one_column(make_row, load):
    rows = [
        make_row(generator_size=s, generator_params=p)
        for s, p in zip("SMLX", (1, 2, 3, 4), strict=True)
    ]
    cells = _generated(load(rows))
    for width, shape in ((3.25, (4, 2)), (6.75, (2, 4))):
        figure = draw_dilemma(cells, width)
        grid = figure.axes[0].get_gridspec()
        assert grid is not None
        assert (figure.get_size_inches()[0], grid.get_geometry()) == (width, shape)


def test_the_frontier_by_psnr_prefers_more_of_it(make_row, load):
    rows = [
        make_row(latent_dim=4, psnr=20.0, gfid=1.0),
        make_row(latent_dim=16, psnr=25.0, gfid=2.0),
        make_row(latent_dim=64, psnr=24.0, gfid=3.0),
        make_row(latent_dim=8, psnr=None, gfid=0.5),
    ]
    cells = compute_frontier(load(rows))
    figure = draw_frontier(cells, select_published(cells.rows), across="psnr")
    axes = figure.axes[0]
    assert "PSNR (dB)" in axes.get_xlabel()
    assert list(np.asarray(axes.lines[-2].get_xdata())) == [20.0, 25.0]


def test_the_lowest_panel_of_each_column_has_numbers_where_the_last_row_is_not_full():
    points = pd.DataFrame({"x": [1.0, 2.0] * 3, "y": [1.0, 2.0] * 3, "line": "a", "mark": ""})
    points["panel"] = [name for name in "abc" for _ in range(2)]
    panels = [Panel(x="x", y="y", only=name) for name in "abc"]
    _, grid, _ = draw_panels(
        points, panels, 3.0, lines=("line", "mark"), panel_by="panel", num_columns=2, share_x=True
    )
    shown = [axes.xaxis.get_tick_params()["labelbottom"] for axes in grid.flat[:3]]
    assert shown == [False, True, True]
