"""Plans: each stage once, inputs first, and rows for every snapshot and guidance setting."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from harness.config.resources import Resources
from harness.config.training import TrainingConfig
from harness.execution.stage_run import run_stage
from harness.plan.plan import make_plan
from harness.reporting.plan_text import describe_plan, fitting_slices, plan_text
from harness.run import main
from harness.schema.reading import ConfigError
from harness.stages.flops import kept_bytes
from harness.stages.stage import Activations
from harness.storage.artifacts import Store

ROOT = Path(__file__).parents[3]
GRID = (
    "grid.tokenizer.latent_dim=[2, 3]",
    "grid.alignment=[none, vf]",
    "grid.generator.size=[pico, nano]",
)


def counts(plan) -> Counter[str]:
    return Counter(stage.kind for stage in plan.stages)


def test_each_stage_stands_once_however_many_need_it(load):
    plan = make_plan(load(*GRID))
    assert len(plan.rows) == 8
    assert counts(plan) == {
        "encoder": 2,
        "reference": 1,
        "tokenizer": 4,
        "reconstruction": 4,
        "latents": 4,
        "generator": 8,
        "generation": 8,
    }


def test_inputs_come_before_what_needs_them(load):
    seen: set[str] = set()
    for stage in make_plan(load(*GRID)).stages:
        assert all(source.key in seen for source in stage.inputs.values())
        seen.add(stage.key)


def test_a_further_value_adds_stages_and_changes_none(load):
    before = {s.key for s in make_plan(load("grid.tokenizer.latent_dim=[2]")).stages}
    after = {s.key for s in make_plan(load("grid.tokenizer.latent_dim=[2, 3]")).stages}
    assert before < after
    assert len(after - before) == 5


def test_an_exclusion_leaves_its_combinations_out(load):
    exclude = "exclude=[{alignment: vf, generator.size: [pico, nano]}]"
    assert len(make_plan(load(*GRID, exclude)).rows) == 4


def test_presets_come_before_paths_so_that_a_block_hides_nothing(load):
    sweep = load("grid.alignment=[vf]", "grid.tokenizer.alignment.vf_weight=[0.5, 0.7]")
    assert [p.trial.tokenizer.alignment.vf_weight for p in sweep.points] == [0.5, 0.7]


def test_a_setting_reaches_into_a_preset(load):
    sweep = load("grid.alignment=[vf]", "presets.alignment.vf.tokenizer.alignment.vf_weight=0.3")
    assert sweep.points[0].trial.tokenizer.alignment.vf_weight == 0.3


def test_parts_follow_the_trials_seed_unless_they_name_their_own(load):
    trial = load("seed=7", "generator.seed=9").points[0].trial
    assert trial.tokenizer.seed == trial.evaluation.seed == 7
    assert trial.generator.seed == 9


def test_seeds_of_a_generator_share_one_tokenizer(load):
    plan = make_plan(load("grid.generator.seed=[0, 1]"))
    assert (counts(plan)["tokenizer"], counts(plan)["generator"]) == (1, 2)


def test_snapshots_and_guidance_settings_are_rows_of_one_generator(load):
    plan = make_plan(
        load(
            "generator.snapshots=[1, 2]",
            "evaluation.guidance=[{kind: none}, {kind: cfg, scale: 2.0}]",
        )
    )
    sampled = [row.generator for row in plan.rows if row.generator]
    assert [(one.step, one.guidance.kind) for one in sampled] == [
        (step, kind) for step in (1, 2, 4) for kind in ("none", "cfg")
    ]
    assert (counts(plan)["generator"], counts(plan)["generation"]) == (1, 6)
    assert len({row.row_id for row in plan.rows}) == 6


def test_the_weak_model_of_autoguidance_is_a_stage_of_its_own(load):
    weak = "{kind: autoguidance, scale: 2.0, weak: {generator.training.steps: 2}}"
    plan = make_plan(load(f"evaluation.guidance=[{{kind: none}}, {weak}]"))
    assert (counts(plan)["generator"], counts(plan)["tokenizer"]) == (2, 1)
    plain, guided = (row.generator.generations[0] for row in plan.rows if row.generator)
    assert "weak" not in plain.inputs
    assert guided.inputs["weak"].config.generator.training.steps == 2
    assert guided.config.weak_step == 2


def test_the_weak_model_is_another_rows_at_any_of_its_snapshots(load):
    size = "{depth: 1, width: 8, num_heads: 2}"
    guided = (
        "evaluation.guidance=[{kind: autoguidance, scale: 2.0, step: 2, "
        f"weak: {{generator.size: {size}}}}}]"
    )
    sizes = f"grid.generator.size=[{{depth: 1, width: 16, num_heads: 2}}, {size}]"
    plan = make_plan(load("generator.snapshots=[2, 3]", sizes, guided))
    strong, weak = ([r for r in plan.rows if r.trial_id == t] for t in trials_of(plan))
    (trained,) = {row.generator.training.key for row in weak if row.generator}
    sampled = [row.generator.generations[0] for row in strong if row.generator]
    assert {stage.inputs["weak"].key for stage in sampled} == {trained}
    assert [(stage.config.weak_step, stage.config.step) for stage in sampled] == [
        (2, 2),
        (2, 3),
        (2, 4),
    ]
    with pytest.raises(
        ConfigError, match=r"a step at which the weak model is kept \(2, 3, 4\)"
    ) as e:
        make_plan(load("generator.snapshots=[2, 3]", guided.replace("step: 2", "step: 1")))
    assert e.value.path == "trial.evaluation.guidance.step"


def trials_of(plan):
    return dict.fromkeys(row.trial_id for row in plan.rows)


def test_a_weak_model_in_other_latents_is_refused(load):
    weak = "{kind: autoguidance, scale: 2.0, weak: {data.max_shift: 0}}"
    sweep = load(f"evaluation.guidance=[{weak}]")
    with pytest.raises(ConfigError, match="same latents, but its data differs"):
        make_plan(sweep)


def test_only_one_kind_keeps_what_it_needs(load):
    plan = make_plan(load(*GRID))
    assert set(counts(plan.restricted_to("latents"))) == {"encoder", "tokenizer", "latents"}
    assert set(counts(plan.restricted_to("encoder"))) == {"encoder"}
    assert len(plan.restricted_to("latents").rows) == 8


def test_a_dry_run_starts_nothing(write, tree, tmp_path):
    program = (
        "import sys; from harness.run import main; code = main(sys.argv[1:]); "
        "assert 'ray' not in sys.modules; sys.exit(code)"
    )
    folder = tmp_path / "here"
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", program, str(write(tree)), "--dry-run", "--json"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        cwd=folder,
        check=True,
    )
    plan = json.loads(done.stdout)
    assert (plan["to_run"], plan["to_reuse"], len(plan["rows"])) == (7, 0, 1)
    assert all(stage["state"] == "run" for stage in plan["stages"])
    assert list(folder.iterdir()) == []


def test_a_dry_run_says_in_words_what_would_run(command, write, tree):
    ended = command(write(tree), "--dry-run")
    assert ended.code == 0
    assert "7 stages to run, 0 to reuse" in ended.out
    assert not Path("artifacts").exists()


def test_the_published_grid_plans_with_the_published_parameter_counts(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    path = ROOT / "sweeps" / "imagenet256.yaml"
    assert main([str(path), "--dry-run", "--json", "--assume-device", "H100"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert len(plan["rows"]) == 27
    chosen = [
        row
        for row in plan["rows"]
        if row["axes"]["tokenizer.latent_dim"] == 32 and "XL" in row["axes"].values()
    ]
    assert {row["generator_parameters"] for row in chosen} == {675_256_736}
    assert {row["tokenizer_parameters"] for row in chosen} == {69_836_067}
    assert any("imagenet" in item for item in plan["missing"])


def test_a_plan_says_how_long_what_is_to_run_will_take_and_from_what(load, tmp_path):
    plan, store = make_plan(load()), Store(tmp_path)
    described = describe_plan(plan, store, plan.stages, [])
    sources = {stage["forecast"]["source"] for stage in described["stages"]}
    assert sources == {"assumed"}
    text = plan_text(described)
    assert "device time:\n  encoder: 1 stages, " in text
    assert "nothing was measured" in text
    assert "weights, gradients, optimiser state and averages, and\n" in text
    assert {stage["kind"] for stage in described["stages"] if stage["estimated_state_bytes"]} == {
        "encoder",
        "tokenizer",
        "generator",
    }
    for stage in plan.stages:
        assert run_stage(stage, tmp_path, Resources(), 0.0).status == "done"
    again = describe_plan(plan, store, plan.stages, [])
    by_kind = {each["kind"]: each for each in again["device_time"]}
    assert by_kind["tokenizer"]["sources"] == ["measured"]
    tokenizer = next(stage for stage in plan.stages if stage.kind == "tokenizer")
    cost = store.get("tokenizer", tokenizer.key).record["cost"]
    assert by_kind["tokenizer"]["device_s"] == pytest.approx(cost["device_s"])


def test_a_plan_says_in_how_many_slices_a_training_will_run(load, tmp_path):
    gib, step = 2.0**30, {"steps": 1, "learning_rate": 1e-3}
    xl = Activations(TrainingConfig(**step, batch_size=1024, precision="bf16"), 0.9 * gib)

    def slices(device_gib: float | None, **asked) -> int | None:
        size = None if device_gib is None else device_gib * gib
        return fitting_slices(xl, 12.6 * gib, Resources(compile=True, **asked), size)[0]

    assert [slices(139), slices(79), slices(4000), slices(12)] == [4, 8, 1, None]
    again = replace(xl, recomputed=0.05 * gib)
    recomputing = Resources(activation_checkpointing=True, compile=True)
    assert fitting_slices(again, 12.6 * gib, recomputing, 79 * gib)[0] == 1
    assert (slices(None), slices(139, slices=5), slices(139, gpus=4)) == (1, 5, 1)
    assert (slices(139, gpus=0.5), slices(139, gpus=0.01)) == (8, None)
    parts = Activations(TrainingConfig(**step, batch_size=10), 7.0, 2.0, 5.0)
    assert [parts.needed(1), parts.needed(2), parts.needed(2, workers=5)] == [140, 55, 11]
    plan = make_plan(load("generator.training.batch_size=1000000", "generator.size=micro"))
    text = plan_text(describe_plan(plan, Store(tmp_path), plan.stages, [], "NVIDIA L4"))
    (line,) = [line for line in text.splitlines() if line.startswith("generator")]
    found = re.search(r"([\d.]+) GiB +(\d+) ", line)
    assert found
    assert float(found[1]) < 22
    assert int(found[2]) > 2
    assert "every batch in so many slices on a device with" in text


def test_what_a_training_keeps_is_counted_once_and_without_weights():
    with torch.device("meta"):
        network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        images = torch.empty(3, 4)
    # The input, and what the activation gives, which the layer behind it keeps too.
    assert kept_bytes(network, lambda: network(images)) == 4 * 3 * (4 + 8)


def test_a_plan_is_reckoned_for_a_gpu_that_is_not_here(command, write, tree, capsys):
    tree["resources"] = {"default": {"cpus": 1, "gpus": 1}}
    times = {}
    for name in ("H100", "nvidia a100-sxm4-80gb"):
        ended = command(write(tree), "--dry-run", "--json", "--assume-device", name, executor="ray")
        assert ended.code == 0, ended.err
        times[ended.json["assumed_device"]] = {
            each["kind"]: each["device_s"] for each in ended.json["device_time"]
        }
    hopper, ampere = times["NVIDIA H100 80GB HBM3"], times["NVIDIA A100-SXM4-80GB"]
    # Peaks in fp32, in which generators multiply, and in TF32, in which cuDNN convolves.
    assert ampere["generator"] / hopper["generator"] == pytest.approx(66.9 / 19.5)
    assert ampere["tokenizer"] / hopper["tokenizer"] == pytest.approx(494.7 / 156)
    for arguments, says in (
        (("--dry-run", "--assume-device", "Voodoo"), "not 'Voodoo': B300 SXM6 AC, GB200, B200"),
        (("--assume-device", "H100"), "it goes with --dry-run"),
    ):
        ended = command(write(tree), *arguments)
        assert ended.code == 2
        assert says in ended.err
