"""`python -m harness.evaluate`: score what was not trained here, under a sweep file's protocol.

    evaluate images SWEEP --name N --samples DIR_OR_NPZ     images that somebody else made
    evaluate tokenizer SWEEP                                tokenizers from checkpoints
    evaluate generator SWEEP                                tokenizers and generators from them

The sweep file says with which data, extractor, reference and numbers; rows have the columns of a
sweep, so that a published model or one's own gets its point on the frontier.
"""

import argparse
import sys
from collections.abc import Sequence

from harness.commands.exit_codes import exit_code
from harness.commands.options import RunOptions, add_run_options, read_into


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code.

    0: all rows are done. 1: some rows failed, each is named. 2: the request is wrong.
    """
    parser, kinds = _parsers()
    asked = parser.parse_args(arguments)
    options = RunOptions.of(asked, kinds[asked.what])
    return exit_code(lambda: _evaluate(asked, options))


def _parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The parser, and that of each kind of evaluation by its name."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.evaluate",
        description="Score what was not trained here, under the protocol of a sweep file: rows "
        "have the columns of a sweep and may stand beside its rows.",
        epilog="exit codes: 0 all rows done, 1 some rows failed, 2 the request is wrong",
    )
    kinds = parser.add_subparsers(dest="what", required=True)
    images = kinds.add_parser("images", help="images from folders or .npz archives")
    _add_images_options(images)
    for name, text in (
        ("tokenizer", "tokenizers from checkpoints: reconstruction metrics, no generator"),
        ("generator", "generators and their tokenizers from checkpoints: samples and all metrics"),
    ):
        kinds.add_parser(name, help=text)
    for name, kind in kinds.choices.items():
        file = "a sweep file: data, extractor, reference, numbers of images"
        add_run_options(kind, sweep=file, dry_run=name != "images")
    return parser, dict(kinds.choices)


def _add_images_options(parser: argparse.ArgumentParser) -> None:
    images = "a folder of images, an .npz with `arr_0`, or `train` or `eval` of the sweep's data"
    parser.add_argument("--name", required=True, help="name of the row and of its results folder")
    parser.add_argument("--samples", metavar="IMAGES", help=f"generated images: {images}")
    parser.add_argument(
        "--reference",
        metavar="IMAGES",
        help="what samples are held to instead of the sweep's reference: images as above, or "
        "statistics (.npz of ADM or pytorch-fid, .pt of torch-fidelity, .safetensors)",
    )
    parser.add_argument("--reconstructions", metavar="IMAGES", help="reconstructed images")
    parser.add_argument(
        "--originals", metavar="IMAGES", help="what they are reconstructions of, in the same order"
    )
    parser.add_argument(
        "--column",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        dest="columns",
        help="what the row is of, for example latent_dim=32, alignment=vf or generator_size=XL; "
        "may be given several times",
    )
    parser.add_argument(
        "--as-declared",
        action="store_true",
        help="the images were made as the sweep file's evaluation says (sampler, guidance, label "
        "policy; split, crop and posterior of reconstructions): the row then has the protocol of "
        "the sweep's rows; without it how they were made counts as unknown",
    )
    parser.add_argument(
        "--crop",
        choices=("adm_center", "resize_center", "opencv_crop"),
        help="how images in folders are cropped to the sweep's size; without it originals of other "
        "sizes are cropped as the sweep's reconstructions, and other images not at all",
    )
    parser.add_argument(
        "--on-unreadable",
        choices=("stop", "skip"),
        default="stop",
        help="what an unreadable image file does, or one that is no image: stop, or be left out, "
        "counted and listed",
    )


def _evaluate(asked: argparse.Namespace, options: RunOptions) -> int:
    # After the command line was read: PyTorch takes seconds, and `--help` does not need it.
    from harness.commands.given_images import GivenImages, evaluate_images
    from harness.commands.given_networks import from_checkpoints
    from harness.commands.run_sweep import run_sweep
    from harness.config.sweep import load_sweep

    sweep = load_sweep(options.sweep, options.settings)
    if asked.what == "images":
        return evaluate_images(options, sweep, read_into(GivenImages, asked))
    return run_sweep(options, from_checkpoints(sweep, with_generator=asked.what == "generator"))


if __name__ == "__main__":
    sys.exit(main())
