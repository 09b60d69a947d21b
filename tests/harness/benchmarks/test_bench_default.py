"""What the benchmark measures on GPUs by default, priced at published peaks; no GPU is needed."""

import pytest
import torch

from harness.bench import make_bench, parse_options
from harness.benchmarks import measuring as bench_module
from harness.benchmarks import training_parts, use_parts
from harness.benchmarks.measuring import Bench
from harness.benchmarks.rows import Row
from harness.benchmarks.subject import PUBLISHED_SIZES, Subject, default_sizes, default_trial
from harness.benchmarks.turns import Taken, Times
from harness.machine.devices import PEAKS, TERA, Precision, peak_flops
from harness.storage.artifacts import Artifact

CUDA = torch.device("cuda")
GPUS = ("NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-80GB")
SIZES = {f"LightningDiT {name}/1" for name in PUBLISHED_SIZES}


@pytest.fixture(scope="module")
def known() -> dict[tuple[str, tuple[str, ...], bool], dict[str, list[Row]]]:
    """Rows by GPU, arguments and whether convolutions may use TF32: planning them takes seconds."""
    return {}


@pytest.fixture
def rows_on(tmp_path, monkeypatch, known):
    """Rows of the default benchmark on a GPU of this name, where nothing is run."""

    def run(name: str, *arguments: str) -> dict[str, list[Row]]:
        which = (name, arguments, torch.backends.cudnn.allow_tf32)
        if which not in known:
            known[which] = plan(name, *arguments)
        return known[which]

    def plan(name: str, *arguments: str) -> dict[str, list[Row]]:
        ran = Times(turns=[Taken(wall_s=1.0, cpu_s=1.0)] * 3)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
        monkeypatch.setattr(training_parts, "free_memory_gib", lambda _: 79.0)
        monkeypatch.setattr(training_parts, "_waiting", lambda *_: [])
        monkeypatch.setattr(Subject, "inputs", lambda *_: {})
        nothing = Artifact(path=tmp_path, record={})
        monkeypatch.setattr(Subject, "artifact", lambda *_: nothing)
        monkeypatch.setattr(Bench, "run", lambda _, loops, __: dict.fromkeys(loops, ran))
        bench = make_bench(parse_options(arguments), default_trial(CUDA), CUDA, tmp_path)
        sizes = default_sizes(CUDA)
        return {
            "tokenizer": training_parts.tokenizer_training(bench),
            "generator": training_parts.generator_training(bench, sizes),
            "encoding": use_parts.encoding(bench),
            "sampling": use_parts.sampling(bench, sizes),
        }

    return run


@pytest.mark.parametrize("gpu", GPUS)
def test_nothing_of_the_published_system_is_left_out_for_its_time(gpu, rows_on):
    rows = rows_on(gpu)
    assert {row.status for part in rows.values() for row in part} == {"measured"}
    for part in ("generator", "sampling"):
        assert {row.what for row in rows[part]} == SIZES
    fastest = {row.what: row.variant for row in rows["generator"]}
    assert set(fastest.values()) == {"all up to compile"}
    largest = [row.variant for row in rows["generator"] if row.what == "LightningDiT XL/1"]
    assert "plain" in largest
    assert len(largest) == 10
    assert {row.precision for row in rows["sampling"]} == {"fp32", "tf32", "bf16"}


@pytest.mark.parametrize("gpu", GPUS)
def test_variants_are_held_to_the_peak_of_their_own_arithmetic(gpu, rows_on):
    rows = rows_on(gpu)
    for row in rows["generator"]:
        assert row.peak_flops == peak_flops(gpu, row.precision)
        assert row.peak_name == f"published, {row.precision}"
    for row in rows["sampling"]:
        if row.precision == "fp32" and not row.variant.startswith("latents"):
            # Products at one peak and the decoder's convolutions at the other, one after the other.
            assert row.peak_flops is not None
            assert 1 < row.peak_flops / (TERA * PEAKS[gpu].fp32) < 2
        else:
            assert row.peak_flops == peak_flops(gpu, row.precision)
    for row in rows["tokenizer"] + rows["encoding"]:
        # PyTorch's default has cuDNN use TF32 for them.
        used: Precision = "bf16" if row.precision == "bf16" else "tf32"
        assert row.peak_flops == pytest.approx(peak_flops(gpu, used))
        assert ("cuDNN" in row.peak_name) == (row.precision == "fp32")


def test_convolutions_are_held_to_fp32_where_tf32_is_off_or_unknown(rows_on, monkeypatch):
    # What no data sheet tells would be measured.
    monkeypatch.setattr(bench_module, "_fastest_product", lambda *_: 1e12)
    (plain, *_) = rows_on("Tesla V100-SXM2-32GB")["encoding"]
    assert (plain.peak_flops, plain.peak_name) == (15.7e12, "published, fp32")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    (plain, *_) = rows_on(GPUS[0])["encoding"]
    assert plain.peak_flops == peak_flops(GPUS[0], "fp32")
    assert plain.peak_name == "published, fp32"


def test_a_limit_leaves_out_the_slow_variants_and_says_so(rows_on):
    rows = rows_on("NVIDIA A100-SXM4-80GB", "--limit-s", "20")
    training = [row for row in rows["generator"] if row.what == "LightningDiT XL/1"]
    assert [(row.variant, row.status) for row in training] == [
        ("plain", "skipped"),
        ("all up to compile", "measured"),
    ]
    assert "(--limit-s)" in training[0].reason
    assert training[1].to_plain is None
