import pytest

from analysis.dilemma import compute_dilemma, draw_dilemma
from analysis.frontier import compute_frontier, draw_frontier


def test_the_front_is_taken_over_the_means(make_row, load):
    rows = [
        make_row(latent_dim=4, rfid=4.0, gfid=2.0),
        make_row(latent_dim=16, rfid=2.0, gfid=1.0),
        make_row(latent_dim=16, rfid=2.0, gfid=5.0, seed=1),
        make_row(latent_dim=64, rfid=3.0, gfid=4.0),
    ]
    data = compute_frontier(load(rows))
    assert data.points["on_front"].tolist() == [True, True, False]
    assert data.front()["latent_dim"].tolist() == [16, 4]


def test_dilemma_keeps_points_without_psnr_and_orders_sizes_by_parameters(make_row, load):
    rows = [make_row(generator_size="L", generator_params=9e5, psnr=None, rfid=None), make_row()]
    data = compute_dilemma(load(rows))
    assert data.sizes() == ["S", "L"]
    assert data.points["psnr"].isna().tolist() == [False, True]


def test_the_frontier_figure_names_axes_lines_and_points(dilemma_rows, load):
    figure = draw_frontier(compute_frontier(load(dilemma_rows)))
    axes = figure.axes[0]
    assert "in-domain Fréchet distance" in axes.get_xlabel()
    assert "FID" not in axes.get_xlabel() + axes.get_ylabel() + axes.get_title()
    assert (axes.get_xscale(), axes.get_yscale()) == ("linear", "log")
    words = [text.get_text() for text in axes.texts]
    assert words.count("d=16") == 4
    assert "better" in words
    keys = [text.get_text() for text in figure.legends[0].get_texts()]
    assert {"none", "vf", "S", "M", "Pareto front"} <= set(keys)
    assert "mean ± standard error over 2 seeds" in figure.get_supxlabel()
    assert figure.get_size_inches().tolist() == [6.5, 4.5]


def test_the_footnote_says_where_seeds_share_a_tokenizer(make_row, load):
    rows = [make_row(generator_seed=seed, gfid=3.0 + seed) for seed in range(3)]
    footnote = draw_frontier(compute_frontier(load(rows))).get_supxlabel()
    assert "mean ± standard error over 3 seeds (reconstruction: 1 tokenizer)" in footnote


def test_a_long_alignment_name_is_broken_in_the_legend(make_row, load):
    vf = {"alignment": "vf", "rfid": 1.0}
    rows = [make_row(alignment_encoder=name, **vf) for name in ("mae", "vit_large_dinov2.lvd142m")]
    figure = draw_frontier(compute_frontier(load(rows)))
    keys = [text.get_text() for text in figure.legends[0].get_texts()]
    assert {"vf mae", "vf vit_large_\ndinov2.lvd142m"} <= set(keys)


def test_labels_stay_inside_the_figure(dilemma_rows, load):
    figure = draw_frontier(compute_frontier(load(dilemma_rows)))
    figure.draw_without_rendering()
    for text in figure.axes[0].texts:
        box = text.get_window_extent()
        assert figure.bbox.x0 <= box.x0 <= box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 <= box.y1 <= figure.bbox.y1


def test_the_dilemma_figure_has_a_column_of_panels_per_size(dilemma_rows, load):
    figure = draw_dilemma(compute_dilemma(load(dilemma_rows)))
    assert [axes.get_title() for axes in figure.axes] == ["generator S", "generator M", "", ""]
    assert figure.axes[0].get_yscale() == "log"


def test_figures_without_points_are_refused(make_row, load):
    table = load([make_row(status="failed", gfid=None)])
    with pytest.raises(ValueError, match="at least one point"):
        draw_frontier(compute_frontier(table))
    with pytest.raises(ValueError, match="at least one point"):
        draw_dilemma(compute_dilemma(table))
