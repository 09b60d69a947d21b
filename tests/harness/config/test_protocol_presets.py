"""Named protocols: what they fill in, what they leave, and which rows may carry their name."""

import pytest

from harness.config.protocol_presets import generation_name, reconstruction_name
from harness.schema.reading import ConfigError

IMAGENET = (
    "data={kind: image_folder, name: imagenet-1k, root: nowhere, resolution: 256, "
    "num_classes: 1000, num_train_images: 1281167, num_eval_images: 50000}"
)
ADM = "evaluation.reference={kind: statistics_file, path: nowhere.npz, num_images: 1281167}"
LPIPS = "backbone sha256 397923af0000, heads published"


def trial(load, *settings: str):
    return load(*settings).points[0].trial


def samples_name(load, *settings: str) -> str:
    found = trial(load, *settings)
    return generation_name(found, found.evaluation.guidance[0])


@pytest.fixture
def published(tree):
    """The small sweep on ImageNet, without settings that contradict the published protocols."""
    for name in ("num_images", "num_reference", "num_reconstructions", "sampler", "extractor"):
        del tree["trial"]["evaluation"][name]
    return tree


def test_the_published_presets_fill_in_the_published_settings(published, load):
    found = trial(load, "evaluation.protocol=[paper_rfid, paper_gfid_50k]").evaluation
    assert found.extractor.kind == "inception"
    assert (found.num_images, found.sampler.num_steps) == (50_000, 250)
    assert (found.reconstruction_crop, found.reference_crop) == ("resize_center", "adm_center")
    assert found.perceptual.kind == "lpips"


@pytest.mark.parametrize("name", ["paper_gfid_50k", "paper_gfid_10k"])
def test_the_reference_of_the_paper_and_ones_own_have_names_of_their_own(published, load, name):
    asked = f"evaluation.protocol={name}"
    assert samples_name(load, IMAGENET, asked, ADM) == name
    assert samples_name(load, IMAGENET, asked) == f"{name}_own_reference"
    other_data = samples_name(load, IMAGENET.replace("imagenet-1k", "cats"), asked, ADM)
    assert other_data == ""


def test_what_the_file_sets_itself_stays_and_the_row_loses_the_name(published, load):
    fewer = (IMAGENET, ADM, "evaluation.protocol=paper_gfid_50k", "evaluation.num_images=1000")
    assert trial(load, *fewer).evaluation.num_images == 1000
    assert samples_name(load, *fewer) == ""


def test_settings_spelled_out_earn_the_name_too(published, load):
    spelled_out = (
        "evaluation.extractor={kind: inception, weights: /elsewhere/copy.pth, sha256: 6726825d01}",
        "evaluation.reference_crop=adm_center",
        "evaluation.num_images=10000",
        "evaluation.sampler.kind=dopri5",
    )
    assert samples_name(load, IMAGENET, ADM, *spelled_out) == "paper_gfid_10k"


@pytest.mark.parametrize(("channels", "name"), [("first3", "paper_gfid_50k"), ("all", "")])
def test_only_the_published_guidance_settings_carry_the_name(published, load, channels, name):
    guidance = (
        "evaluation.guidance=[{kind: cfg, scale: 6.7, interval_start: 0.125, "
        f"channels: {channels}}}]"
    )
    asked = ("evaluation.protocol=paper_gfid_50k", "tokenizer.latent_dim=4")
    assert samples_name(load, IMAGENET, ADM, *asked, guidance) == name


def test_reconstructions_need_the_published_weights_and_all_images(published, load):
    found = trial(load, IMAGENET, "evaluation.protocol=paper_rfid")
    whole = {"num_images": found.data.num_eval_images, "perceptual_weights": LPIPS}
    assert reconstruction_name(found, **whole) == "paper_rfid"
    for change in ({"num_images": 60}, {"perceptual_weights": LPIPS.replace("397923af", "0")}):
        assert reconstruction_name(found, **{**whole, **change}) == ""
    other = trial(
        load, IMAGENET, "evaluation.protocol=paper_rfid", "evaluation.extractor.sha256=0123abcd"
    )
    assert reconstruction_name(other, **whole) == ""


def test_quick_goes_with_any_data_and_extractor(published, load):
    any_extractor = "evaluation.extractor={kind: timm, name: test_resnet, weights: random}"
    assert samples_name(load, "evaluation.protocol=quick", any_extractor) == "quick"
    found = trial(load, "evaluation.protocol=[quick, fd_dinov2]").evaluation
    assert (found.extractor.input_size, found.extractor.position_resize) == (224, "dinov2")


def test_presets_that_contradict_each_other_are_refused(load):
    with pytest.raises(ConfigError, match="paper_gfid_50k and quick set 'num_images'"):
        load("evaluation.protocol=[paper_gfid_50k, quick]")


def test_an_unknown_preset_is_refused_with_the_valid_names(load):
    with pytest.raises(ConfigError, match=r"did you mean 'paper_rfid'.*quick"):
        load("evaluation.protocol=paper_rfdi")
