"""One suite for every executor: the same graph ends the same way."""

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors.torch import load_file

from harness.config.encoders import InDomainEncoder
from harness.config.resources import Resources
from harness.config.training import TrainingConfig
from harness.data.digits import DigitsConfig
from harness.data.photographs.image_folder import ImageFolderConfig
from harness.execution.stage_run import Outcome
from harness.executors import Executor, StageEvent
from harness.executors.inline import InlineExecutor
from harness.schema.reading import ConfigError
from harness.stages.encoder.kind import EncoderStage
from harness.stages.reference import ReferenceStage
from harness.stages.registry import kinds_of_sweeps
from harness.stages.stage import Stage
from harness.storage.artifacts import Store

SMALL = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}
RESOURCES = {kind: Resources() for kind in kinds_of_sweeps()}


def encoder(label: str, *, seed: int = 0, learning_rate: float = 1e-3) -> Stage:
    network = InDomainEncoder(
        name="vit_tiny_patch16_224",
        model_args=SMALL,
        seed=seed,
        training=TrainingConfig(steps=3, batch_size=8, learning_rate=learning_rate),
    )
    config = EncoderStage(encoder=network, data=DigitsConfig(), weights="trained here")
    return Stage(kind="encoder", config=config, inputs={}, label=label)


def reference(
    label: str, extractor: Stage, data: DigitsConfig | ImageFolderConfig | None = None
) -> Stage:
    data = data or DigitsConfig()
    config = ReferenceStage(
        data=data, crop="training", num_images=50, num_features=20, batch_size=50
    )
    return Stage(kind="reference", config=config, inputs={"extractor": extractor}, label=label)


ABSENT = ImageFolderConfig(
    name="absent", root="nowhere", num_classes=2, num_train_images=50, num_eval_images=50
)
GOOD, DIVERGING, HELD = (
    encoder("good"),
    encoder("diverging", learning_rate=1e20),
    encoder("held", seed=3),
)
STAGES = (
    GOOD,
    DIVERGING,
    HELD,
    reference("after good", GOOD),
    reference("after diverging", DIVERGING),
    reference("after held", HELD),
    reference("failing", GOOD, ABSENT),
)


@dataclass
class Run:
    """One run of the graph, in which one stage is held by another worker at first."""

    store: Store
    outcomes: dict[str, Outcome]
    events: list[tuple[str, str]]

    def status(self, label: str) -> str:
        (key,) = (stage.key for stage in STAGES if stage.label == label)
        return self.outcomes[key].status


def make_executor(name: str) -> Executor:
    if name == "inline":
        return InlineExecutor()
    from harness.executors.ray_executor import RayExecutor

    return RayExecutor()


def run_graph(executor: Executor, root: Path) -> Run:
    store, events, holding = Store(root), [], ExitStack()
    lock = threading.Lock()

    def listen(event: StageEvent) -> None:
        with lock:
            events.append((event.what, event.stage.label))
        if event.what == "waiting":
            holding.close()

    with holding:
        holding.enter_context(store.work("encoder", HELD.key))
        outcomes = executor.run(STAGES, root, RESOURCES, listen)
    return Run(store, outcomes, events)


@pytest.fixture(scope="module", params=["inline", "ray"])
def run(request, tmp_path_factory) -> Iterator[Run]:
    root = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]), prepend=os.pathsep)
        yield run_graph(make_executor(request.param), root)


def test_every_stage_ends_once(run):
    assert set(run.outcomes) == {stage.key for stage in STAGES}
    assert sorted(label for what, label in run.events if what == "ended") == sorted(
        stage.label for stage in STAGES
    )


def test_stages_that_can_run_are_done_and_in_the_store(run):
    for label in ("good", "after good", "held", "after held"):
        assert run.status(label) == "done"
    for stage in STAGES:
        present = run.store.find(stage.kind, stage.key) is not None
        assert present == (run.outcomes[stage.key].status == "done")


def test_a_divergence_blocks_what_needs_it_and_nothing_else(run):
    assert run.status("diverging") == "diverged"
    assert "not finite at step" in run.outcomes[DIVERGING.key].error
    assert run.status("after diverging") == "blocked"
    blocked = run.outcomes[STAGES[4].key]
    assert "needs encoder 'diverging', which failed" in blocked.error
    assert ("started", "after diverging") not in run.events


def test_a_failure_is_an_outcome_with_its_error(run):
    assert run.status("failing") == "failed"
    assert "the train images of 'absent'" in run.outcomes[STAGES[6].key].error


def test_a_stage_that_another_worker_holds_is_waited_for(run):
    events = [what for what, label in run.events if label == "held"]
    assert "waiting" in events
    assert events[-1] == "ended"


def test_inputs_end_before_what_needs_them_starts(run):
    for needed, label in (("good", "after good"), ("held", "after held")):
        assert run.events.index(("ended", needed)) < run.events.index(("started", label))


def test_weights_are_the_same_bits_under_every_executor(run, tmp_path):
    InlineExecutor().run([GOOD], tmp_path, RESOURCES, lambda event: None)
    ours = run.store.get("encoder", GOOD.key).path / "model.safetensors"
    alone = Store(tmp_path).get("encoder", GOOD.key).path / "model.safetensors"
    assert ours.read_bytes() == alone.read_bytes()
    assert load_file(ours)


def test_more_gpus_than_there_are_are_refused_before_anything_starts(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    resources = {**RESOURCES, "encoder": Resources(gpus=1.0)}
    with pytest.raises(ConfigError, match="asks for 1 GPUs"):
        InlineExecutor().run([GOOD], tmp_path, resources, lambda event: None)
    assert list(tmp_path.iterdir()) == []
