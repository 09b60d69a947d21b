"""Named protocols: what they fill in, what they leave, and which rows may carry their name."""

import pytest

from harness.configuration import ConfigError
from harness.protocol_presets import PRESETS, protocol_name


def evaluation(load, *settings: str):
    return load(*settings).points[0].trial.evaluation


@pytest.fixture
def published(tree):
    """The small sweep without settings that contradict the published protocols."""
    for name in ("num_images", "num_reference", "num_reconstructions", "sampler", "extractor"):
        del tree["trial"]["evaluation"][name]
    return tree


def test_the_published_presets_fill_in_the_published_settings(published, load):
    found = evaluation(load, "evaluation.protocol=[paper_rfid, paper_gfid_50k]")
    assert found.extractor.kind == "inception"
    assert (found.num_images, found.sampler.num_steps) == (50_000, 250)
    assert (found.reconstruction_crop, found.reference_crop) == ("resize_center", "adm_center")
    assert found.perceptual.kind == "lpips"


def test_what_the_file_sets_itself_stays_and_the_row_loses_the_name(published, load):
    asked = "evaluation.protocol=paper_gfid_50k"
    assert protocol_name(evaluation(load, asked), "generation") == "paper_gfid_50k"
    fewer = evaluation(load, asked, "evaluation.num_images=100")
    assert fewer.num_images == 100
    assert protocol_name(fewer, "generation") == ""


def test_settings_spelled_out_earn_the_name_too(published, load):
    spelled_out = evaluation(
        load,
        "evaluation.extractor={kind: inception, weights: /elsewhere/copy.pth}",
        "evaluation.reference_crop=adm_center",
        "evaluation.num_images=10000",
        "evaluation.sampler.kind=dopri5",
    )
    assert protocol_name(spelled_out, "generation") == "paper_gfid_10k"
    assert protocol_name(spelled_out, "reconstruction") == ""


def test_only_the_published_guidance_settings_carry_the_name(published, load):
    guidance = "evaluation.guidance=[{kind: cfg, scale: 6.7, interval_start: 0.125, channels: "
    asked = "evaluation.protocol=paper_gfid_50k"
    for channels, name in (("first3", "paper_gfid_50k"), ("all", "")):
        found = evaluation(load, asked, f"{guidance}{channels}}}]", "tokenizer.latent_dim=4")
        assert protocol_name(found, "generation", found.guidance[0]) == name


def test_other_weights_of_the_extractor_lose_the_name(published, load):
    asked = ("evaluation.protocol=paper_rfid", "evaluation.extractor.sha256=0123abcd")
    assert protocol_name(evaluation(load, *asked), "reconstruction") == ""


def test_presets_that_contradict_each_other_are_refused(load):
    with pytest.raises(ConfigError, match="paper_gfid_50k and quick set 'num_images'"):
        load("evaluation.protocol=[paper_gfid_50k, quick]")


def test_an_unknown_preset_is_refused_with_the_valid_names(load):
    with pytest.raises(ConfigError, match=r"did you mean 'paper_rfid'.*quick"):
        load("evaluation.protocol=paper_rfdi")


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_alone_earns_its_own_name(published, load, name):
    settings = [f"evaluation.protocol={name}"]
    if name == "quick":
        settings.append("evaluation.extractor={kind: timm, name: test_resnet, weights: random}")
    elif name != "paper_rfid":
        settings.append("evaluation.num_reference=null")
    metrics = "reconstruction" if name == "paper_rfid" else "generation"
    assert protocol_name(evaluation(load, *settings), metrics) == name
