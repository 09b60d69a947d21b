"""A latent of two channel groups: times, embedders and guidance of their own, from sweep to row."""

import csv
from pathlib import Path

import pytest
import torch

from harness.config.resources import Resources
from harness.config.tokenizer import TokenizerConfig
from harness.execution.stage_run import run_stage
from harness.plan.plan import make_plan
from harness.schema.reading import ConfigError
from harness.stages.generator.stage import load_generator
from harness.storage.artifacts import Store
from models.latent import ChannelGroup, LatentLayout
from models.objectives.flow import FlowObjective

INDEPENDENT = "generator.flow.group_times=independent"


@pytest.fixture
def two_groups(monkeypatch):
    """Tokenizers whose first channel is texture and whose second is semantics."""

    def layout(self: TokenizerConfig, resolution: int) -> LatentLayout:
        groups = tuple(ChannelGroup(name=name, channels=1) for name in ("texture", "semantic"))
        side = resolution // self.downsample
        return LatentLayout(groups=groups, height=side, width=side)

    monkeypatch.setattr(TokenizerConfig, "layout", layout)


def generator(load, *settings: str):
    return next(s for s in make_plan(load(*settings)).stages if s.kind == "generator")


@pytest.mark.usefixtures("two_groups")
def test_independent_times_and_guidance_per_group_give_rows(command, write, tree):
    trial = tree["trial"]
    # Samples must depend on the labels visibly, after four steps.
    trial["generator"]["training"]["learning_rate"] = 0.05
    trial["generator"] |= {
        "ema": {"decay": 0.0},
        "flow": {"group_times": "independent"},
        "time_groups": ["semantic", "texture"],
    }
    trial["evaluation"]["guidance"] = [
        {"kind": "none"},
        {"kind": "cfg", "scale": {"texture": 1.5, "semantic": 3.0}, "interval_start": 0.1},
    ]
    ended = command(write(tree))
    assert ended.code == 0, ended.err
    plain, guided = csv.DictReader(Path("results/small/table.csv").read_text().splitlines())
    assert [plain["status"], guided["status"]] == ["done", "done"]
    assert (plain["guidance"], plain["guidance_scale"]) == ("none", "1.0")
    assert (guided["guidance"], guided["guidance_scale"]) == ("cfg texture 1.5 semantic 3", "")
    assert plain["gfid"] != guided["gfid"]
    assert plain["generator_key"] == guided["generator_key"]


@pytest.mark.usefixtures("two_groups")
def test_groups_draw_times_of_their_own_and_are_trained_at_them(load, tmp_path, monkeypatch):
    drawn = []
    draw = FlowObjective.draw

    def watched(self, *arguments):
        drawn.append(draw(self, *arguments)["time"])
        return draw(self, *arguments)

    weights = {}
    for settings in ((), (INDEPENDENT,)):
        stage = generator(load, *settings)
        for source in (stage.inputs["latents"].inputs["tokenizer"], stage.inputs["latents"], stage):
            with monkeypatch.context() as patch:
                patch.setattr(FlowObjective, "draw", watched)
                outcome = run_stage(source, tmp_path, Resources(), 0.0)
            assert outcome.status in ("done", "reused"), outcome.error
        artifact = Store(tmp_path).get("generator", stage.key)
        weights[settings] = artifact.tensors("ema-step000000004.safetensors")
    shared, own = drawn[:4], drawn[4:]
    assert [tuple(time.shape) for time in drawn] == 8 * [(8, 2)]
    assert all(torch.equal(time[:, 0], time[:, 1]) for time in shared)
    assert not any(torch.equal(time[:, 0], time[:, 1]) for time in own)
    one, other = weights.values()
    assert any(not torch.equal(one[name], other[name]) for name in one)


@pytest.mark.usefixtures("two_groups")
@pytest.mark.parametrize(
    ("asked", "widths"), [("each", [8, 8]), ("[semantic, texture]", [8, 8]), ("shared", [16])]
)
def test_embedders_are_the_generators_own(load, tmp_path, asked, widths):
    stage = generator(load, f"generator.time_groups={asked}")
    assert (stage.key == generator(load).key) == (asked == "each")
    for source in (stage.inputs["latents"].inputs["tokenizer"], stage.inputs["latents"], stage):
        outcome = run_stage(source, tmp_path, Resources(), 0.0)
        assert outcome.status == "done", outcome.error
    artifact = Store(tmp_path).get("generator", stage.key)
    model = load_generator(artifact, 4, torch.device("cpu"))
    names = [n for n, _ in model.named_parameters() if n.endswith("mlp.0.weight") and "t_emb" in n]
    assert [len(model.get_parameter(name)) for name in names] == widths


@pytest.mark.usefixtures("two_groups")
def test_the_offset_is_an_axis_from_none_to_one_group_after_the_other(command, write, tree):
    trial = tree["trial"]
    trial["generator"] |= {
        "flow": {"group_weights": {"semantic": 2.0}},
        "time_groups": "by_offset",
        "training": {"steps": 4, "batch_size": 8, "learning_rate": 0.05},
        "ema": {"decay": 0.0},
    }
    tree["grid"] = {"generator.flow.offset": [0, 0.3, 1]}
    ended = command(write(tree))
    assert ended.code == 0, ended.err
    rows = list(csv.DictReader(Path("results/small/table.csv").read_text().splitlines()))
    assert [row["status"] for row in rows] == 3 * ["done"]
    assert len({row["gfid"] for row in rows}) == 3
    assert len({row["tokenizer_key"] for row in rows}) == 1
    # All walk the same number of steps, to horizons of their own.
    assert len({row["protocol_hash"] for row in rows}) == 1
    parameters = [int(row["generator_params"]) for row in rows]
    # Two embedders of half the width have fewer weights than one.
    assert parameters[0] > parameters[1] == parameters[2]


REFUSED = {
    "an offset beyond 1": (
        ("generator.flow.offset=1.1",),
        "generator.flow",
        "`offset` must lie in [0, 1], but got 1.1",
    ),
    "a negative offset": (
        ("generator.flow.offset=-0.3",),
        "generator.flow",
        "`offset` must lie in [0, 1], but got -0.3",
    ),
    "an offset of independent times": (
        (INDEPENDENT, "generator.flow.offset=0.3"),
        "generator.flow",
        "`group_times` must be `shared` where an `offset` ties the groups",
    ),
    "an offset of one embedder": (
        ("generator.flow.offset=0.3", "generator.time_groups=shared"),
        "generator.flow.offset",
        "one embedder sees the time of all groups",
    ),
    "another group ahead": (
        ("generator.flow.offset=0.3", "generator.flow.leading=colour"),
        "generator.flow.leading",
        "channel groups of the latent (texture, semantic), but got colour",
    ),
    "a weight of another group": (
        ("generator.flow.group_weights={colour: 2.0}",),
        "generator.flow.group_weights",
        "channel groups of the latent (texture, semantic), but got colour",
    ),
    "a negative weight of a group": (
        ("generator.flow.group_weights={semantic: -2.0}",),
        "generator.flow",
        "`group_weights` must not be negative",
    ),
    "names of other groups": (
        ("generator.time_groups=[semantic, colour]",),
        "generator.time_groups",
        "each of the latent's groups texture, semantic once",
    ),
    "independent times of one embedder": (
        (INDEPENDENT, "generator.time_groups=shared"),
        "generator.flow.group_times",
        "one embedder sees the time of all groups",
    ),
    "a scale for one group of two": (
        ("evaluation.guidance=[{kind: cfg, scale: {semantic: 2.0}}]",),
        "evaluation.guidance.0.scale",
        "one for each channel group of the latent (texture, semantic), but got numbers for sem",
    ),
    "an interval of another group": (
        (
            "evaluation.guidance=[{kind: cfg, scale: 2.0, interval_start: "
            "{texture: 0.1, colour: 0.2}}]",
        ),
        "evaluation.guidance.0.interval_start",
        "but got numbers for texture, colour",
    ),
    "a negative scale of a group": (
        ("evaluation.guidance=[{kind: cfg, scale: {texture: 1.0, semantic: -2.0}}]",),
        "evaluation.guidance.0",
        "scale -2.0",
    ),
    "a scale that is no number": (
        ("evaluation.guidance=[{kind: cfg, scale: {texture: 1.0, semantic: much}}]",),
        "evaluation.guidance.0.scale",
        "should be a valid number, but got {'texture': 1.0, 'semantic': 'much'}",
    ),
}


@pytest.mark.usefixtures("two_groups")
@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_the_groups_is_refused(load, case):
    settings, path, words = REFUSED[case]
    with pytest.raises(ConfigError) as refused:
        load(*settings)
    assert refused.value.path == f"trial.{path}"
    assert words in refused.value.message


@pytest.mark.usefixtures("two_groups")
def test_a_weak_model_by_another_clock_is_refused(load):
    weak = "{kind: autoguidance, scale: 2.0, weak: {generator.flow.offset: 0}}"
    asked = ("generator.flow.offset=0.3", f"evaluation.guidance=[{weak}]")
    with pytest.raises(ConfigError, match=r"0\.3 of semantic, but is 0") as refused:
        make_plan(load(*asked))
    assert refused.value.path == "trial.evaluation.guidance.weak.generator.flow.offset"


@pytest.mark.parametrize(
    ("setting", "path"),
    [
        (INDEPENDENT, "generator.flow.group_times"),
        ("generator.flow.offset=0.3", "generator.flow.offset"),
        ("generator.time_groups=shared", "generator.time_groups"),
        ("generator.time_groups=[image]", "generator.time_groups"),
    ],
)
def test_group_times_are_refused_where_there_is_one_group(load, setting, path):
    with pytest.raises(ConfigError, match="one channel group \\(image\\), which has one time") as e:
        load(setting)
    assert e.value.path == f"trial.{path}"


def test_a_scale_that_is_one_number_keeps_its_key(load):
    def keys(*settings: str) -> list[str]:
        return [s.key for s in make_plan(load(*settings)).stages]

    assert keys("evaluation.guidance=[{kind: cfg, scale: 2}]") == keys(
        "evaluation.guidance=[{kind: cfg, scale: 2.0}]"
    )
