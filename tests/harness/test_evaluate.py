"""`python -m harness.evaluate`: rows of what was not trained here, under a sweep's protocol."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from analysis.report import write_figures
from harness.commands.given_networks import from_checkpoints
from harness.data import open_dataset
from harness.data.image_sets import NpzImages, open_image_set
from harness.evaluate import main
from harness.plan.plan import make_plan
from harness.stages.given_pairs import pairing
from harness.stages.tokenizer.stage import build_tokenizer
from harness.storage.artifacts import Store

from .conftest import Ended


@pytest.fixture
def evaluate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Ended]:
    """Runs the command in this process, inline, from an empty folder."""
    folder = tmp_path / "evaluated"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def run(*arguments: str) -> Ended:
        capsys.readouterr()
        try:
            code = main([*arguments, "--executor", "inline"])
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        captured = capsys.readouterr()
        return Ended(code, captured.out, captured.err)

    return run


@pytest.fixture
def sweep(write, tree) -> str:
    return str(write(tree))


@pytest.fixture
def digits(load) -> np.ndarray:
    """The evaluation images, as an ADM archive holds them."""
    dataset = open_dataset(load().points[0].trial.data)
    return dataset.images("eval", np.arange(60)).permute(0, 2, 3, 1).numpy()


def as_folder(folder: Path, images: np.ndarray) -> str:
    folder.mkdir()
    for number, pixels in enumerate(images):
        Image.fromarray(pixels).save(folder / f"{number:05}.png")
    return str(folder)


def rows(name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(Path(f"results/{name}/table.csv").read_text().splitlines()))


def test_a_folder_and_an_archive_of_the_same_images_score_the_same(
    evaluate, sweep, digits, tmp_path
):
    np.savez(tmp_path / "samples.npz", arr_0=digits)
    folder = as_folder(tmp_path / "samples", digits)
    for place in (folder, str(tmp_path / "samples.npz")):
        ended = evaluate("images", sweep, "--name", "mine", "--samples", place)
        assert ended.code == 0, ended.err
    first, second = rows("mine")
    for metric in ("gfid", "kid", "precision", "recall", "inception_score", "sfid"):
        assert first[metric] == second[metric]
    assert (first["provenance"], first["num_images"], first["guidance"]) == (
        "given",
        "60",
        "unknown",
    )
    assert Path(f"results/mine/grids/{first['trial_id']}_samples.png").is_file()


def test_reconstructions_without_an_error_are_perfect(evaluate, sweep):
    ended = evaluate("images", sweep, "--name", "self",
                     "--reconstructions", "eval", "--originals", "eval")  # fmt: skip
    assert ended.code == 0, ended.err
    (row,) = rows("self")
    assert float(row["rfid"]) == pytest.approx(0, abs=1e-8)
    assert (row["ssim"], row["psnr"]) == ("1.0", "")


def test_samples_that_are_the_reference_itself_are_refused(evaluate, sweep, digits, tmp_path):
    for own in (["eval", "--reference", "eval"], ["train"]):
        ended = evaluate("images", sweep, "--name", "self", "--samples", *own)
        assert ended.code == 2
        assert "--samples: must be other images than those" in ended.err
    assert not any(Path().iterdir())
    # The same images in another place are found when they are compared.
    np.savez(tmp_path / "copy.npz", arr_0=digits)
    folder = as_folder(tmp_path / "set", digits[::-1])
    given = ("--samples", f"{tmp_path}/copy.npz", "--reference", folder)
    ended = evaluate("images", sweep, "--name", "copied", *given)
    assert ended.code == 1
    assert "but are the same, at distance 0" in ended.err


def test_a_reference_that_does_not_vary_is_refused(evaluate, sweep, digits, tmp_path):
    one = as_folder(tmp_path / "one", np.repeat(digits[:1], 30, axis=0))
    given = ("--samples", "eval", "--reference", one)
    ended = evaluate("images", sweep, "--name", "same", *given)
    assert ended.code == 1
    assert "all have the same features" in ended.err


@pytest.mark.reports
def test_declared_samples_stand_beside_the_rows_of_the_sweep(
    evaluate, command, write, tree, digits, tmp_path
):
    del tree["trial"]["evaluation"]["num_reconstructions"]
    sweep = str(write(tree))
    assert command(Path(sweep)).code == 0
    (own,) = rows("small")
    np.savez(tmp_path / "samples.npz", arr_0=digits[:40])
    ended = evaluate("images", sweep, "--name", "theirs", "--as-declared",
                     "--samples", f"{tmp_path}/samples.npz",
                     "--reconstructions", "eval", "--originals", "eval",
                     "--column", "latent_dim=32", "--column", "alignment=none",
                     "--column", "generator_size=XL")  # fmt: skip
    assert ended.code == 0, ended.err
    (row,) = rows("theirs")
    assert row["protocol_hash"] == own["protocol_hash"]
    assert row["reconstruction_protocol_hash"] == own["reconstruction_protocol_hash"]
    assert (row["latent_dim"], row["generator_size"]) == ("32", "XL")
    # The sweep's own SSIM sees unrounded images, which given ones are not.
    assert row["ssim"] == ""
    assert write_figures(Path("results/theirs"))


def test_originals_of_many_sizes_are_cropped_as_the_sweeps(evaluate, sweep, digits, tmp_path):
    np.savez(tmp_path / "made.npz", arr_0=digits[:20])
    originals = tmp_path / "val"
    originals.mkdir()
    for number, pixels in enumerate(digits[:20]):
        scale = 1 + number % 3
        large = Image.fromarray(pixels.repeat(scale, 0).repeat(scale, 1))
        large.save(originals / f"img_{number}.png")
    ended = evaluate("images", sweep, "--name", "p", "--reconstructions", f"{tmp_path}/made.npz",
                     "--originals", f"{originals}")  # fmt: skip
    assert ended.code == 0, ended.err
    (row,) = rows("p")
    assert float(row["ssim"]) > 0.99


def test_originals_of_another_split_cannot_be_declared(evaluate, sweep):
    ended = evaluate("images", sweep, "--name", "wrong", "--as-declared",
                     "--reconstructions", "train", "--originals", "train")  # fmt: skip
    assert ended.code == 2
    assert "give --originals eval" in ended.err


def test_images_of_another_size_are_refused(evaluate, sweep, digits, tmp_path):
    np.savez(tmp_path / "large.npz", arr_0=digits.repeat(2, 1).repeat(2, 2))
    ended = evaluate("images", sweep, "--name", "l", "--samples", f"{tmp_path}/large.npz")
    assert ended.code == 2
    assert "must have 16x16 pixels" in ended.err


def test_unreadable_references_are_told_as_wrong_requests(evaluate, sweep, tmp_path):
    (tmp_path / "broken.npz").write_bytes(b"no archive")
    request = ("images", sweep, "--name", "b", "--samples", "eval")
    ended = evaluate(*request, "--reference", f"{tmp_path}/broken.npz")
    assert ended.code == 2
    assert "broken.npz" in ended.err


def test_two_unknown_ways_of_sampling_are_not_one_protocol(evaluate, sweep, digits, tmp_path):
    for name, part in (("a", digits[:40]), ("b", digits[20:])):
        np.savez(tmp_path / f"{name}.npz", arr_0=part)
        evaluate("images", sweep, "--name", "u", "--samples", f"{tmp_path}/{name}.npz")
    first, second = rows("u")
    assert first["protocol_hash"] != second["protocol_hash"]


def test_undeclared_samples_have_a_protocol_of_their_own(evaluate, sweep):
    evaluate("images", sweep, "--name", "u", "--samples", "eval")
    fields = json.loads(rows("u")[0]["protocol"])
    assert fields["made"].startswith("unknown, images ")
    assert fields["num_images"] == 360


def test_statistics_of_other_programs_serve_as_the_reference(evaluate, sweep, tmp_path):
    dim = 16
    np.savez(tmp_path / "stats.npz", mu=np.zeros(dim), sigma=np.eye(dim))
    request = ("images", sweep, "--name", "s", "--samples", "eval")
    ended = evaluate(*request, "--reference", str(tmp_path / "stats.npz"))
    assert ended.code == 2
    assert "trial.evaluation.reference.path: " in ended.err
    assert "inception-v3-compat" in ended.err


def test_an_unreadable_image_stops_or_is_skipped_and_counted(evaluate, sweep, digits, tmp_path):
    folder = as_folder(tmp_path / "samples", digits)
    Path(folder, "00003.png").write_bytes(b"no image")
    request = ("images", sweep, "--name", "bad", "--samples", folder)
    stopped = evaluate(*request)
    assert stopped.code != 0
    assert "00003.png" in stopped.err + stopped.out
    skipping = evaluate(*request, "--on-unreadable", "skip")
    assert skipping.code == 0, skipping.err
    assert "skipped: " in skipping.out
    (scored,) = (row for row in rows("bad") if row["status"] == "done")
    assert (scored["num_images"], scored["num_skipped"]) == ("59", "1")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "nothing to score"),
        (("--samples", "nowhere"), "'nowhere' is none of them"),
        (("--reconstructions", "eval"), "go together"),
        (("--reference", "eval", "--reconstructions", "eval", "--originals", "eval"), "--samples"),
        (("--samples", "eval", "--column", "gfid=1"), "describing column"),
        (("--samples", "eval", "--column", "latent_dim=much"), "must be a whole number"),
    ],
)
def test_wrong_requests_are_refused_with_the_way_to_mend_them(evaluate, sweep, arguments, message):
    ended = evaluate("images", sweep, "--name", "wrong", *arguments)
    assert ended.code == 2
    assert message in ended.err


def test_a_tokenizer_from_a_file_gets_a_row_without_a_generator(evaluate, load, sweep, tmp_path):
    stages = {stage.kind: stage for stage in make_plan(load()).stages}
    torch.manual_seed(0)
    weights = build_tokenizer(stages["tokenizer"].config).state_dict()
    torch.save({"state_dict": weights}, tmp_path / "vavae.pt")
    given = f"--set=tokenizer.checkpoint={tmp_path / 'vavae.pt'}"
    ended = evaluate("tokenizer", sweep, given)
    assert ended.code == 0, ended.err
    (row,) = rows("small-evaluated")
    assert (row["status"], row["gfid"], row["generator"]) == ("done", "", "")
    assert float(row["rfid"]) > 0
    kinds = {path.parent.name for path in Store(Path("artifacts")).root.glob("*/*/")}
    assert kinds == {"encoder", "tokenizer", "reconstruction"}


@pytest.mark.parametrize("what", ["tokenizer", "generator"])
def test_what_would_be_trained_is_refused(evaluate, sweep, what):
    ended = evaluate(what, sweep)
    assert ended.code == 2
    assert "nothing is trained here" in ended.err


def test_tokenizers_alone_have_no_axis_of_their_generators(load, tmp_path):
    (tmp_path / "given.safetensors").write_bytes(b"what stands for weights")
    sweep = load(
        "grid={tokenizer.latent_dim: [2, 3], generator.size: [pico, nano]}",
        f"tokenizer.checkpoint={tmp_path}/given.safetensors",
    )
    evaluated = from_checkpoints(sweep, with_generator=False)
    assert [point.axes for point in evaluated.points] == [
        {"tokenizer.latent_dim": 2}, {"tokenizer.latent_dim": 3},
    ]  # fmt: skip
    assert [axis.name for axis in evaluated.axes] == ["tokenizer.latent_dim"]


BAD_COLUMNS = ["seed=9223372036854775808", "seed=true", "seed=[", "train_flops=.nan",
               "train_flops=1e999", "tokenizer=\udcff"]  # fmt: skip


@pytest.mark.parametrize("column", BAD_COLUMNS)
def test_a_column_that_the_table_cannot_hold_is_refused_before_anything_is_written(
    evaluate, sweep, column
):
    ended = evaluate("images", sweep, "--name", "x", "--samples", "eval", "--column", column)
    assert ended.code == 2
    assert f"--column {column.partition('=')[0]}: " in ended.err
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ('{"row_id": "a", "seed": 9223372036854775808}', "seed is 9223372036854775808"),
        ('{"row_id": "a", "gfid": "low"}', "gfid is 'low'"),
        ("[" * 100_000, "it is damaged"),
        ('{"row_id": "a", "schema_version": 99}', "schema_version of at most 3"),
    ],
)
def test_a_row_that_the_table_cannot_hold_is_named_before_anything_is_computed(
    evaluate, sweep, content, why
):
    path = Path("results/x/rows/a.json")
    path.parent.mkdir(parents=True)
    path.write_text(content)
    ended = evaluate("images", sweep, "--name", "x", "--samples", "eval")
    assert ended.code == 2
    assert str(path) in ended.err
    assert why in ended.err
    assert not Path("artifacts").exists()


def test_what_can_be_known_of_given_images_is_told_before_anything_starts(
    evaluate, sweep, digits, tmp_path
):
    ten, large = as_folder(tmp_path / "ten", digits[:10]), tmp_path / "large"
    as_folder(large, digits[:10].repeat(2, 1).repeat(2, 2))
    np.savez(tmp_path / "nine.npz", arr_0=digits[:9])
    (tmp_path / "link").symlink_to(ten)
    mixed = as_folder(tmp_path / "mixed", digits[:3])
    Image.fromarray(digits[0][:9]).save(tmp_path / "mixed/short.png")
    pairs = ("--originals", ten, "--reconstructions")
    for given, says in (
        (("--samples", str(large)), "16x16 pixels as the sweep's data set, but have 32x32"),
        (("--samples", ten, "--reference", f"{tmp_path}/link"), "must be other images than those"),
        ((*pairs, f"{tmp_path}/nine.npz"), "has 10 images and 'nine' 9"),
        ((*pairs, str(large)), "as the sweep's data set, but have 32x32"),
        (("--samples", mixed), "--crop of evaluate"),
    ):
        ended = evaluate("images", sweep, "--name", "given", *given)
        assert ended.code == 2
        assert says in ended.err
        assert not any(Path().iterdir())
    # The remedy, typed.
    assert (
        evaluate("images", sweep, "--name", "g", "--samples", mixed, "--crop", "adm_center").code
        == 0
    )


def test_files_that_are_left_out_by_their_names_are_counted(evaluate, sweep, digits, tmp_path):
    folder = as_folder(tmp_path / "set", digits[:12])
    (tmp_path / "set/extra.heic").write_bytes(b"x")
    given = ("--samples", folder, "--on-unreadable", "skip")
    ended = evaluate("images", sweep, "--name", "skips", *given)
    assert ended.code == 0
    (row,) = rows("skips")
    assert (row["num_images"], row["num_skipped"]) == ("12", "1")
    assert "extra.heic' is no image by its name" in ended.out


def test_pairs_in_another_order_are_told_although_some_are_right(digits, tmp_path):
    order = np.r_[0, 1, 2:20]
    order[2:] = np.roll(order[2:], 5)
    for name, images in (("made", digits[:20]), ("kept", digits[order])):
        np.savez(tmp_path / f"{name}.npz", arr_0=images)
    sets = [open_image_set(NpzImages(path=f"{tmp_path}/{name}.npz")) for name in ("made", "kept")]
    with pytest.warns(UserWarning, match="seem to be in different orders"):
        pairing(*sets)
