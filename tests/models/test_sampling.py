"""Flow, samplers, guidance and averaging against closed forms."""

import math
from itertools import pairwise

import pytest
import torch

from models.clock import OffsetClock
from models.ema import Ema, EmaConfig
from models.guidance import (
    AutoGuidance,
    ClassifierFreeGuidance,
    NoGuidance,
    guidance_is_on,
    guided_parts,
    guided_velocity,
)
from models.latent import ChannelGroup, LatentLayout
from models.lightningdit import LightningDiT, LightningDiTConfig
from models.objectives.flow import FlowConfig, interpolate, sample_time
from models.sampler import SamplerConfig, sample, time_grid

LAYOUT = LatentLayout.single(4, 2, 2)
TWO_GROUPS = LatentLayout(
    groups=(ChannelGroup(name="texture", channels=3), ChannelGroup(name="semantic", channels=1)),
    height=2,
    width=2,
)


def generator(layout=LAYOUT, seed=0) -> LightningDiT:
    torch.manual_seed(seed)
    model = LightningDiT(LightningDiTConfig(size="pico"), layout=layout, num_classes=10)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


def test_layout_names_channel_ranges():
    assert TWO_GROUPS.slice("semantic") == slice(3, 4)
    assert TWO_GROUPS.group_of_channel.tolist() == [0, 0, 0, 1]
    with pytest.raises(ValueError, match="must be one of"):
        TWO_GROUPS.slice("colour")


def test_shifted_grid_has_the_published_values():
    grid = time_grid(SamplerConfig())
    assert grid[:4].tolist() == pytest.approx([0, 0.0012082, 0.0024233, 0.0036452], rel=1e-4)
    assert grid[-3:].tolist() == pytest.approx([0.9737188, 0.9867374, 1.0], rel=1e-6)
    assert SamplerConfig().num_function_evaluations == 249
    assert SamplerConfig(kind="heun").num_function_evaluations == 498
    assert SamplerConfig(kind="dopri5").num_function_evaluations is None


@pytest.mark.parametrize(
    ("start", "shifted", "plain"), [(0.10, 68, 25), (0.11, 73, 28), (0.125, 81, 32)]
)
def test_interval_start_disables_the_published_number_of_steps(start, shifted, plain):
    guidance = ClassifierFreeGuidance(scale=6.7, interval_start=start)
    for shift, expected in ((0.3, shifted), (0.0, plain)):
        times = time_grid(SamplerConfig(timestep_shift=shift))[:-1].tolist()
        assert sum(not guidance_is_on(guidance, time, "image") for time in times) == expected


def test_guidance_without_upper_end_acts_beyond_the_last_time():
    assert guidance_is_on(ClassifierFreeGuidance(scale=2.0), 1.11, "image")
    assert not guidance_is_on(ClassifierFreeGuidance(scale=2.0, interval_end=0.9), 0.95, "image")
    assert not guidance_is_on(ClassifierFreeGuidance(scale=1.0), 0.5, "image")


@pytest.mark.parametrize(
    ("config", "tolerance"),
    [
        (SamplerConfig(num_steps=2001, timestep_shift=0.0), 1e-3),
        (SamplerConfig(kind="heun", num_steps=101), 1e-3),
        (SamplerConfig(kind="dopri5", rtol=1e-5), 1e-4),
    ],
)
def test_solvers_reach_the_closed_form_of_exponential_growth(config, tolerance):
    noise = torch.ones(1, 4, 2, 2)
    result = sample(lambda x, time: x, noise, config, LAYOUT)
    assert result[0, 0, 0, 0].item() == pytest.approx(math.e, rel=tolerance)


def test_true_velocity_carries_noise_to_data_in_one_step():
    clean, noise = torch.randn(2, 3, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    config = SamplerConfig(num_steps=2, timestep_shift=0.0)
    result = sample(lambda x, time: clean - noise, noise, config, LAYOUT)
    assert torch.allclose(result, clean, atol=1e-6)


def test_each_group_is_interpolated_at_its_own_time():
    clean, noise = torch.ones(1, 4, 2, 2), torch.zeros(1, 4, 2, 2)
    mixed = interpolate(clean, noise, torch.tensor([[0.25, 0.75]]), TWO_GROUPS)
    assert mixed[0, :, 0, 0].tolist() == [0.25, 0.25, 0.25, 0.75]


def test_times_follow_the_distribution_in_force():
    config = FlowConfig(uniform_after_step=5)
    early, late = (
        sample_time(config, 20_000, 1, torch.Generator().manual_seed(0), step) for step in (4, 5)
    )
    assert float(early.logit().std()) == pytest.approx(1.0, abs=0.02)
    assert float(late.std()) == pytest.approx(math.sqrt(1 / 12), abs=0.01)


def test_groups_share_a_time_unless_asked_otherwise():
    shared = sample_time(FlowConfig(), 8, 2, torch.Generator().manual_seed(0))
    own = sample_time(FlowConfig(group_times="independent"), 8, 2, torch.Generator().manual_seed(0))
    assert torch.equal(shared[:, 0], shared[:, 1])
    assert not torch.equal(own[:, 0], own[:, 1])


def test_null_class_is_computed_only_where_guidance_is_on():
    model, batches = generator(), []
    model.register_forward_pre_hook(lambda module, inputs: batches.append(inputs[0].shape[0]))
    guidance = ClassifierFreeGuidance(scale=3.0, interval_start=0.5)
    field = guided_velocity(model, guidance, torch.tensor([1, 2]), 10)
    with torch.no_grad():
        field(torch.ones(2, 4, 2, 2), (0.2,))
        field(torch.ones(2, 4, 2, 2), (0.7,))
    assert batches == [2, 4]


@pytest.mark.parametrize("channels", ["all", "first3", "semantic"])
def test_guidance_changes_the_chosen_channels_only(channels):
    model, labels = generator(TWO_GROUPS), torch.tensor([1, 2])
    x = torch.ones(2, 4, 2, 2)
    guided = guided_velocity(
        model, ClassifierFreeGuidance(scale=3.0, channels=channels), labels, 10
    )
    plain = guided_velocity(model, NoGuidance(), labels, 10)
    with torch.no_grad():
        # Another batch size may mean other rounding in the channels that stay.
        apart = (guided(x, (0.5, 0.5)) - plain(x, (0.5, 0.5))).abs() > 1e-5
    changed = apart.all(dim=(0, 2, 3)).tolist()
    expected = {"all": [True] * 4, "first3": [True] * 3 + [False], "semantic": [False] * 3 + [True]}
    assert changed == expected[channels]


def test_autoguidance_extrapolates_from_the_weak_model():
    strong, weak, labels = generator(seed=0), generator(seed=1), torch.tensor([1, 2])
    x = torch.ones(2, 4, 2, 2)
    with torch.no_grad():
        guided = guided_velocity(strong, AutoGuidance(scale=1.5), labels, 10, weak)(x, (0.5,))
        of_strong, of_weak = (
            guided_velocity(model, NoGuidance(), labels, 10)(x, (0.5,)) for model in (strong, weak)
        )
    assert torch.allclose(guided, of_weak + 1.5 * (of_strong - of_weak), atol=1e-6)
    with pytest.raises(ValueError, match="needs a weak model"):
        guided_velocity(strong, AutoGuidance(scale=1.5), labels, 10)


PER_GROUP = {"texture": 1.5, "semantic": 3.0}


def test_each_group_is_guided_by_its_own_scale():
    model, labels, x = generator(TWO_GROUPS), torch.tensor([1, 2]), torch.ones(2, 4, 2, 2)
    times = (0.25, 0.75)
    field = guided_velocity(model, ClassifierFreeGuidance(scale=PER_GROUP), labels, 10)
    with torch.no_grad():
        t = torch.tensor([times, times])
        strong, null = model(x, t, labels), model(x, t, torch.tensor([10, 10]))
        guided = field(x, times)
    texture, semantic = slice(0, 3), slice(3, 4)
    assert not torch.allclose(strong, null, atol=1e-3)
    for channels, scale in ((texture, 1.5), (semantic, 3.0)):
        by_hand = null[:, channels] + scale * (strong[:, channels] - null[:, channels])
        assert torch.allclose(guided[:, channels], by_hand, atol=1e-5)


@pytest.mark.parametrize(
    ("start", "times", "on"),
    [
        (0.2, (0.05, 0.12), []),
        (0.2, (0.05, 0.35), ["semantic"]),
        (0.2, (0.2, 0.5), ["texture", "semantic"]),
        ({"texture": 0.2, "semantic": 0.0}, (0.05, 0.12), ["semantic"]),
        ({"texture": 0.0, "semantic": 0.2}, (0.05, 0.12), ["texture"]),
    ],
)
def test_a_group_is_guided_from_where_its_own_time_reaches_its_start(start, times, on):
    guidance = ClassifierFreeGuidance(scale=2.5, interval_start=start)
    expected = [(TWO_GROUPS.slice(name), 2.5) for name in on]
    assert guided_parts(guidance, times, TWO_GROUPS) == expected


def test_a_scale_of_one_leaves_a_group_alone():
    guidance = AutoGuidance(scale={"texture": 1.0, "semantic": 2.0})
    assert guided_parts(guidance, (0.5, 0.5), TWO_GROUPS) == [(slice(3, 4), 2.0)]
    first = ClassifierFreeGuidance(scale=PER_GROUP, channels="first3")
    assert guided_parts(first, (0.5, 0.5), TWO_GROUPS) == [(slice(0, 3), 1.5)]


def test_bad_numbers_of_a_group_are_told_with_its_name():
    with pytest.raises(ValueError, match=r"scale -1\.0 .* for group semantic"):
        ClassifierFreeGuidance(scale={"texture": 2.0, "semantic": -1.0})
    with pytest.raises(ValueError, match=r"interval \[0\.5, 0\.4\] for group texture"):
        AutoGuidance(scale=2.0, interval_start={"texture": 0.5}, interval_end=0.4)


@pytest.mark.parametrize("kind", ["euler", "heun"])
def test_each_group_moves_over_its_own_time_only(kind):
    seen = []

    def velocity(x, times):
        seen.append(times)
        return torch.ones_like(x)

    config = SamplerConfig(kind=kind, num_steps=151, timestep_shift=0.0)
    clock = OffsetClock(0.5, (False, True))
    result = sample(velocity, torch.zeros(1, 4, 2, 2), config, TWO_GROUPS, clock)
    assert result[0, :, 0, 0].tolist() == pytest.approx([1.0] * 4, abs=0.02)
    assert seen[0] == (0.0, 0.0)
    assert seen[75] == pytest.approx((0.25, 0.75) if kind == "euler" else (0.0, 0.38), abs=0.02)
    assert max(texture for texture, _ in seen) <= 1.0 + 1e-6


def gaussian(x, times):
    """The velocity to data of deviation 2 in every channel, whose path is known: it is linear."""
    t = torch.tensor(times, dtype=torch.float64)[TWO_GROUPS.group_of_channel][:, None, None]
    return x * (4 * t - (1 - t)) / (4 * t**2 + (1 - t) ** 2)


ORDERS = {"euler": 1, "heun": 2, "ab2": 2, "dpmpp_2m": 2}


@pytest.mark.parametrize("clock", [None, OffsetClock(0.25, (False, True))], ids=["one", "offset"])
@pytest.mark.parametrize("kind", ORDERS)
def test_solvers_converge_with_their_order(kind, clock):
    noise, errors = torch.ones(1, 4, 2, 2, dtype=torch.float64), []
    for points in (41, 81, 161):  # Grids that meet the start and the stop of both groups.
        config = SamplerConfig(kind=kind, num_steps=points, timestep_shift=0.0, group_ends="exact")
        result = sample(gaussian, noise, config, TWO_GROUPS, clock)
        errors.append((result - 2.0).abs().amax(dim=(0, 2, 3)))
    for coarse, fine in pairwise(errors):
        for own in torch.log2(coarse / fine).tolist():
            assert own == pytest.approx(ORDERS[kind], abs=0.35)


@pytest.mark.parametrize("kind", ["ab2", "dpmpp_2m"])
def test_two_evaluations_a_step_are_none_and_few_steps_are_nearer_than_eulers(kind):
    seen = []

    def field(x, times):
        seen.append(times)
        return gaussian(x, times)

    noise, errors = torch.ones(1, 4, 2, 2, dtype=torch.float64), {}
    for each in (kind, "euler"):
        seen.clear()
        config = SamplerConfig(kind=each, num_steps=13, timestep_shift=0.0)
        errors[each] = float((sample(field, noise, config, TWO_GROUPS) - 2.0).abs().max())
        assert len(seen) == config.num_function_evaluations == 12
    assert errors[kind] < errors["euler"] / 3


def test_adams_bashforth_is_exact_where_velocity_is_linear_in_time():
    config = SamplerConfig(kind="ab2", num_steps=9, timestep_shift=0.3)
    grid = time_grid(config).double()
    noise = torch.zeros(1, 4, 2, 2, dtype=torch.float64)
    result = sample(lambda x, t: torch.full_like(x, 2 * t[0]), noise, config, TWO_GROUPS)
    # All steps but the first, which is Euler's, are exact.
    assert result.flatten().tolist() == pytest.approx([1.0 - float(grid[1]) ** 2] * 16)


def test_the_first_step_of_dpm_solver_is_its_first_order_update():
    noise = torch.randn(1, 4, 2, 2, dtype=torch.float64)
    data = torch.randn(1, 4, 2, 2, dtype=torch.float64)

    def towards_data(x, times):
        return (data - x) / (1 - times[0])

    config = SamplerConfig(kind="dpmpp_2m", num_steps=4, timestep_shift=0.0)
    assert torch.allclose(sample(towards_data, noise, config, TWO_GROUPS), data)


def test_a_shift_is_of_the_share_of_the_horizon():
    config = SamplerConfig(num_steps=5)
    assert torch.allclose(time_grid(config, 1.3), 1.3 * time_grid(config))
    assert time_grid(config, 1.3)[-1] == pytest.approx(1.3)


def test_average_follows_the_closed_form_and_survives_a_round_trip():
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    ema = Ema(model, EmaConfig(decay=0.9))
    torch.nn.init.ones_(model.weight)
    for _ in range(5):
        ema.update(model)
    assert ema.module.get_parameter("weight").item() == pytest.approx(1 - 0.9**5)
    restored = Ema(model, EmaConfig(decay=0.9))
    restored.load_state_dict(ema.state_dict())
    assert restored.num_updates == 5
    assert torch.equal(*(one.module.get_parameter("weight") for one in (restored, ema)))


def test_warm_up_ramps_the_decay():
    config = EmaConfig(warmup=True)
    assert config.decay_at(0) == 0.1
    assert config.decay_at(90) == pytest.approx(0.91)
    assert config.decay_at(10**7) == 0.9999
