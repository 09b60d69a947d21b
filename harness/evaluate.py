"""`python -m harness.evaluate`: score what was not trained here, under a sweep file's protocol.

    evaluate images SWEEP --name N --samples DIR_OR_NPZ     images that somebody else made
    evaluate tokenizer SWEEP                                tokenizers from checkpoints
    evaluate generator SWEEP                                tokenizers and generators from them

The sweep file says with which data, extractor, reference and numbers; rows have the columns of a
sweep, so that a published model or one's own gets its point on the frontier.
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.commands.given_images import GivenImages, evaluate_images
from harness.commands.options import add_options, check_options
from harness.commands.running import exit_code
from harness.config.sweep import Point, Sweep, load_sweep
from harness.plan.plan import make_plan
from harness.run import run_sweep
from harness.schema.reading import ConfigError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code.

    0: all rows are done. 1: some rows failed, each is named. 2: the request is wrong.
    """
    options = _parse(arguments)
    return exit_code(lambda: _evaluate(options))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
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
        kind = kinds.add_parser(name, help=text)
        kind.add_argument("--dry-run", action="store_true", help="print the plan, start nothing")
        kind.set_defaults(only=None)
    for kind in kinds.choices.values():
        kind.add_argument(
            "sweep", type=Path, help="a sweep file: data, extractor, reference, numbers of images"
        )
        add_options(kind)
    options = parser.parse_args(arguments)
    check_options(kinds.choices[options.what], options)
    return options


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
        "--on-unreadable",
        choices=("stop", "skip"),
        default="stop",
        help="what an unreadable image file does: stop, or be left out, counted and listed",
    )


def _evaluate(options: argparse.Namespace) -> int:
    sweep = load_sweep(options.sweep, options.settings)
    if options.what == "images":
        given = GivenImages(
            name=options.name,
            samples=options.samples,
            reference=options.reference,
            reconstructions=options.reconstructions,
            originals=options.originals,
            columns=tuple(options.columns),
            as_declared=options.as_declared,
            on_unreadable=options.on_unreadable,
        )
        return evaluate_images(options, sweep, given)
    return run_sweep(options, _from_files(sweep, with_generator=options.what == "generator"))


def _from_files(sweep: Sweep, *, with_generator: bool) -> Sweep:
    """The sweep whose networks all come from files; without generators, each tokenizer once.

    Raises:
        ConfigError: A network would be trained, or there is no generator.
    """
    points: dict[str, Point] = {}
    for point in sweep.points:
        if not with_generator:
            point = dataclasses.replace(
                point, trial=dataclasses.replace(point.trial, generator=None)
            )
        elif point.trial.generator is None:
            raise ConfigError(
                "must be a block, but the trial has none; use `evaluate tokenizer`",
                path="trial.generator",
                source=sweep.source,
            )
        points.setdefault(point.trial_id, point)
    file = dataclasses.replace(sweep.file, name=f"{sweep.file.name}-evaluated")
    evaluated = dataclasses.replace(sweep, file=file, points=tuple(points.values()))
    for stage in make_plan(evaluated).stages:
        if stage.kind in ("tokenizer", "generator") and not stage.config.checkpoint:
            raise ConfigError(
                f"must name the file of a trained {stage.kind}, but {stage.label!r} would be "
                "trained, and nothing is trained here; set it, or use harness.run",
                path=f"trial.{stage.kind}.checkpoint",
                source=sweep.source,
            )
    return evaluated


if __name__ == "__main__":
    sys.exit(main())
