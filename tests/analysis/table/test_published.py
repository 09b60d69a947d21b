import pandas as pd
import pytest

from analysis.table.published import load_published, select_published
from analysis.table.reading import check_table

IMAGENET = {
    "dataset": "imagenet",
    "resolution": 256,
    "distance_name": "FID",
    "num_images": 10_000,
    "num_reconstructions": 50_000,
}


def _rows(make_row, **values):
    return check_table(pd.DataFrame([make_row(**(IMAGENET | values))]))


def test_every_published_number_has_a_source():
    table = load_published()
    assert len(table) > 150
    assert table["source"].notna().all()


def test_guidance_and_sample_sizes_are_read_from_the_sources():
    table = load_published().set_index("source")
    ours = table[(table["gfid"] == 1.35) & (table.index == "arXiv 2501.01423v3 Table 3")].iloc[0]
    assert (ours["guidance_scale"], ours["num_images"]) == (6.7, 50_000)
    second = table.loc["arXiv 2501.01423v3 Table 2"]
    assert (second["num_images"] == 10_000).all()
    assert (second["guidance_scale"] == 1).all()
    assert second["guidance_inferred"].all()


def test_like_protocols_show_table_2_as_lines_over_the_latent_dims(make_row):
    overlay = select_published(_rows(make_row))
    assert set(overlay.points["source"]) == {"arXiv 2501.01423v3 Table 2"}
    lines = dict(overlay.lines())
    assert len(lines) == 9
    dino = lines["published: DINOv2, B"]
    assert dino["gfid"].tolist() == [15.79, 15.82, 24.00]


def test_fifty_thousand_samples_show_table_3(make_row):
    overlay = select_published(_rows(make_row, num_images=50_000))
    assert sorted(overlay.points["gfid"]) == [2.17, 5.14]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"dataset": "digits"}, "data set ImageNet, the figure's is digits"),
        ({"dataset": "imagenet-100"}, "the figure's is imagenet-100"),
        ({"resolution": 64}, "256 px, the figure's is 64 px"),
        ({"distance_name": "in-domain Fréchet distance"}, "the figure's distance is in-domain"),
        ({"num_reconstructions": 5000}, "50,000 reconstructions, the figure has 5000"),
        ({"guidance": "cfg 2", "guidance_scale": 2.0}, "guided"),
        ({"num_images": 5000}, "10,000 samples, the figure has 5000"),
    ],
)
def test_unlike_protocols_show_nothing_and_say_why(make_row, values, reason):
    overlay = select_published(_rows(make_row, **values))
    assert overlay.points.empty
    assert overlay.left_out["reason"].str.contains(reason, regex=False).any()


def test_what_is_shown_and_what_is_left_out_is_everything(make_row):
    overlay = select_published(_rows(make_row))
    assert len(overlay.points) + overlay.left_out["count"].sum() == len(load_published())


def test_no_rows_show_nothing(make_row):
    assert select_published(_rows(make_row).iloc[:0]).points.empty
