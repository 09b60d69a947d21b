"""Tokenizer kinds `va_vae`, `vq` and `dual_vq`: trained here, or from a file.

They differ in what lies between encoder and decoder, which their settings build.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.optim import Adam
from torch.profiler import record_function

from harness.config.perceptual import describe_lpips, missing_lpips
from harness.config.phases import phase_at
from harness.config.tokenizer import AnyTokenizerConfig, AutoencoderSettings, DualTokenizerConfig
from harness.config.trial import Trial
from harness.config.weights import check_file, file_of, missing_checkpoint
from harness.data import open_dataset
from harness.data.dataset import ImageDataset, batches, left_out, spread
from harness.data.missing import MissingItem
from harness.data.pixel_range import to_model_range
from harness.data.stream import BatchStream
from harness.machine.random_streams import derive_seed, generator_for
from harness.stages import flops
from harness.stages.encoder import stage as encoder
from harness.stages.encoder.kind import EncoderStage, Place
from harness.stages.flops import FORWARDS_A_STEP, count_forward, empty_image, training_images
from harness.stages.running.context import StageContext
from harness.stages.running.initial_weights import compare_headers, described, start_from
from harness.stages.running.optimisation import (
    Learners,
    Trained,
    arithmetic,
    backward,
    optimizer_settings,
    restore_optimizer,
)
from harness.stages.stage import Activations, Stage
from harness.stages.tokenizer.kind import TokenizerKind, TokenizerStage, memory_format
from harness.storage.artifacts import Artifact, write_tensors
from models import checkpoint
from models.autoencoder import ConvolutionalAutoencoder
from models.batch_part import slices_of
from models.discriminator import DiscriminatorConfig, PatchDiscriminator
from models.dual_autoencoder import DualAutoencoder
from models.foundation import EncoderNetwork
from models.latent import LatentLayout
from models.perceptual import LPIPSConfig
from models.regularizers.contract import RegularizerConfig, rows_of
from models.tokenizer_loss import ADVERSARY, AUTOENCODER, TokenizerLoss

REGULARIZER = ("tokenizer", "regularizer")
"""What a regulariser's random numbers are for, in front of its kind."""
LOOKED_AT = {"alignment.encoder": "encoder", "teacher": "teacher"}
"""Key path of a frozen network whose features a training looks at -> its name among the inputs."""
NUM_MEASURED = 1000
"""Evaluation images, at most, on which decoded features are compared with the teacher's."""


def stage(trial: Trial) -> TokenizerStage:
    """Make the configuration of the stage from a trial."""
    settings = _settings(trial.tokenizer).identity
    given = settings.describe()
    return TokenizerStage(
        tokenizer=settings,
        data=trial.data,
        perceptual_weights="" if settings.is_given else describe_lpips(settings.loss.perceptual),
        **given,
    )


def build(config: TokenizerStage) -> ConvolutionalAutoencoder:
    """Builds the untrained network."""
    settings, side = _settings(config.tokenizer), config.data.resolution
    if not isinstance(settings, DualTokenizerConfig):
        return settings.network(side)
    student, teacher = (
        EncoderStage(encoder=network, data=config.data, weights="")
        for network in (settings.trained, settings.teacher)
    )
    return settings.network(side, encoder.build_encoder(student), encoder.feature_dim_of(teacher))


def make(config: TokenizerStage, context: StageContext) -> Mapping[str, Any]:
    """One flat loop: the autoencoder and its regularisers, then the discriminator on the same."""
    device, settings = context.device, _settings(config.tokenizer)
    if config.checkpoint:
        return _take(config, settings, context)
    training, seed, schedule = settings.training, settings.seed, settings.schedule
    assert seed is not None

    # ---- networks
    latent = settings.channels(config.data.resolution)
    foundation = None
    for name in context.inputs.keys() & LOOKED_AT.values():
        foundation = encoder.load_encoder(
            context.inputs[name], device, compiled=context.resources.compile
        )
    regularizers = {}
    for regularizer in settings.regularizers:
        # A seed for each: its weights are the same whatever else is trained.
        torch.manual_seed(derive_seed(seed, *REGULARIZER, regularizer.kind))
        regularizers[regularizer.kind] = regularizer.build(latent)
    torch.manual_seed(derive_seed(seed, "tokenizer", "weights"))
    layout = memory_format(device, context.resources.channels_last)
    model = build(config)
    if isinstance(model, DualAutoencoder):
        student = encoder.load_encoder(context.inputs["student"], torch.device("cpu"))
        model.semantic_encoder.load_state_dict(student.state_dict())
    beginning = _start(config, model)
    model = model.to(device).to(memory_format=layout).train()
    criterion = TokenizerLoss(
        settings.loss,
        settings.alignment,
        latent_dim=settings.latent_dim,
        feature_dim=None if foundation is None else foundation.feature_dim,
        in_channels=settings.architecture.in_channels,
        regularizers=regularizers,
    ).to(device)
    # LPIPS is frozen: its weights are rounded once rather than at every step under autocast, with
    # the same bits.
    if training.precision == "bf16":
        criterion.round_perceptual()
    # The last convolutions stay eager: adaptive weights take gradients with respect to them.
    if context.resources.compile:
        model.compile_trunks()
        criterion.compile_perceptual()

    # ---- optimisers: the autoencoder (with the alignment's projection) and the regularisers that
    # have their own step on one loss, the adversary on another
    fused = context.resources.fused_optimizer

    def adam(name: str, parameters: list[nn.Parameter]) -> list[Trained]:
        optimizer = Adam(parameters, **optimizer_settings(training, fused=fused))
        return [Trained(name=name, optimizer=optimizer, schedule=training)]

    together = adam("adam", [*model.parameters(), *criterion.autoencoder_parameters()])
    for kind, regularizer in regularizers.items():
        own_settings, owned = regularizer.optimizer, list(regularizer.parameters())
        if own_settings is not None and owned:
            optimizer = own_settings.build(owned, fused=fused)
            together.append(
                Trained(name=f"{kind}.adamw", optimizer=optimizer, schedule=own_settings)
            )
    opposing = criterion.discriminator_parameters()
    learners = Learners(together, context.world)
    opponent = Learners(adam("adversary_adam", opposing) if opposing else [], context.world)
    trained = (*learners.parts, *opponent.parts)
    # Losses and normalisations that reach over a batch must see all of it, whatever part of it
    # this worker holds: a batch is the same batch on any number of devices.
    count = training.batch_size
    own = context.world.part(count)
    model.divide(context.batch_part(count), context.slices)
    criterion.divide(context.batch_part(count), context.slices)

    # ---- data
    dataset = open_dataset(config.data, device)
    stream = BatchStream(
        dataset=dataset,
        split="train",
        batch_size=count,
        seed=derive_seed(seed, "tokenizer", "data"),
        augment=True,
        part=own,
    )

    # ---- resumption
    curve = context.curve(training.steps)
    first = 0
    if resumed := context.resume():
        first, saved = resumed
        model.load_state_dict(saved["model"])
        criterion.load_state_dict(saved["criterion"])
        for part in trained:
            restore_optimizer(part.optimizer, saved[part.name])
    curve.rewind(first)

    def state() -> Mapping[str, Any]:
        curve.flush()
        return {
            "model": model.state_dict(),
            "criterion": criterion.state_dict(),
            **{part.name: part.optimizer.state_dict() for part in trained},
        }

    pixel_term = (settings.loss.pixel_term,)
    batches = context.ahead(stream.batch, range(first, training.steps))
    for step in range(first, training.steps):
        # ---- phase: its weights and margins; the discriminator's start is counted anew in each
        phase = phase_at(schedule, step)
        criterion.enter(phase.loss, phase.alignment)
        if phase.resets_optimizers and step == phase.first_step:
            for part in trained:
                part.optimizer.state.clear()
        # The discriminator's start is counted from the beginning of its phase, as published.
        batch = step - phase.first_step

        # ---- data. Every random number is a function of seed, purpose and step, and noise is drawn
        # for the whole batch: so a resumed run, and any number of workers, sees the same numbers.
        torch.manual_seed(derive_seed(seed, "tokenizer", "dropout", step))
        # Parts of the step are profiler ranges, so that `harness.bench` times this loop itself.
        # One takes a few microseconds where nobody profiles, of a step of tens of milliseconds.
        with record_function("data"):
            random = generator_for(seed, "tokenizer", step, device=device)
            pixels, _ = next(batches)
            images = to_model_range(pixels.to(device, non_blocking=True))
            noise = torch.randn((count, *latent.shape), generator=random, device=device)[own]
            drawn = {
                kind: rows_of(
                    regularizer.draw(
                        count,
                        latent,
                        choices=generator_for(seed, *REGULARIZER, kind, step, "choices"),
                        noise=generator_for(seed, *REGULARIZER, kind, step, "noise", device=device),
                    ),
                    count,
                    own,
                )
                for kind, regularizer in regularizers.items()
            }
        features = None
        if foundation is not None:
            # The encoder is not differentiated, so its slices need no more than its activations.
            parts = slices_of(len(images), context.slices)
            with record_function("foundation encoder"):
                features = torch.cat(
                    [foundation.features(images[p], grid=latent.shape[1:]) for p in parts]
                )

        # ---- forward, loss and steps of the autoencoder and its regularisers
        with arithmetic(training.precision, device):
            loss = criterion.autoencoder_loss(
                model, images, noise, features, batch, step=step, drawn=drawn
            )
        with record_function(AUTOENCODER):
            learners.start_step(step)
            backward(loss.total, training)
        with record_function("optimisers"):
            norms = learners.end_step()
        for norm in norms:
            context.watch_gradient(step, norm)
        totals = {"autoencoder": loss.total}

        # ---- forward, loss and step of the discriminator, on the same images and reconstructions
        if criterion.discriminator_is_on(batch):
            with record_function(ADVERSARY):
                with arithmetic(training.precision, device):
                    adversary_loss = criterion.discriminator_loss(
                        loss.target, loss.reconstruction, batch
                    )
                opponent.start_step(step)
                backward(adversary_loss, training)
            with record_function("optimisers"):
                norms = opponent.end_step()
            for norm in norms:
                context.watch_gradient(step, norm)
            totals["adversary"] = adversary_loss

        # ---- bookkeeping
        for total in context.world.sum_terms(totals).values():
            context.watch(step, total)
        weights = {f"weight_{name}": weight for name, weight in loss.weights.items()}
        curve.note(step, {**loss.terms, **weights})
        context.after_step(
            step + 1,
            training.steps,
            lambda loss=loss: {name: float(loss.per_element[name]) for name in pixel_term},
            state,
            images=training.batch_size,
        )
    curve.publish()
    write_tensors(context.work.payload / "model.safetensors", model.state_dict())
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "images": training.steps * training.batch_size,
        **left_out(dataset, "train"),
        **beginning,
        **_of_features(model, foundation, dataset),
    }


@torch.no_grad()
def _of_features(
    model: ConvolutionalAutoencoder, teacher: EncoderNetwork | None, dataset: ImageDataset
) -> dict[str, float]:
    """Mean cosine of decoded features and the teacher's over cells of evaluation images."""
    if not isinstance(model, DualAutoencoder) or teacher is None:
        return {}
    model.eval()
    device, total = model.quantizer.recent.device, 0.0
    in_all = dataset.num_images("eval")
    chosen = spread(min(NUM_MEASURED, in_all), in_all)
    for local in batches(len(chosen), 50):
        images = to_model_range(dataset.images("eval", chosen[local]).to(device))
        z = model.quantizer.grid(model.encode(images).indices)
        rows, columns = z.shape[2:]
        found, seen = model.decode_features(z), teacher.features(images, (rows, columns))
        total += float(functional.cosine_similarity(found, seen, dim=1).mean(dim=(1, 2)).sum())
    return {"feature_cosine": total / len(chosen)}


def _start(config: TokenizerStage, model: ConvolutionalAutoencoder) -> dict[str, Any]:
    """Take what fits of the file of initial weights, where there is one."""
    given = file_of(_settings(config.tokenizer).initial_weights, "tokenizer")
    if given is None:
        return {}
    path, entry = Path(given).expanduser(), _settings(config.tokenizer).checkpoint_entry
    weights = _settings(config.tokenizer).reader(path, entry=entry)
    return start_from(model, weights, path, config.initial_weights)


def _take(
    config: TokenizerStage, settings: AutoencoderSettings, context: StageContext
) -> Mapping[str, Any]:
    """The weights of a file in place of training; the settings say how they came to be."""
    assert settings.checkpoint is not None
    check_file(settings.checkpoint, config.checkpoint)
    model = build(config)
    path = Path(settings.checkpoint).expanduser()
    weights = settings.reader(path, entry=settings.checkpoint_entry)
    checkpoint.load_strictly(model, weights, source=str(path))
    print(described(weights, path), file=sys.stderr)
    write_tensors(context.work.payload / "model.safetensors", model.state_dict())
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "images": settings.training.steps * settings.training.batch_size,
        "checkpoint": f"{Path(settings.checkpoint).name}, {config.checkpoint}",
    }


def load(config: TokenizerStage, artifact: Artifact) -> ConvolutionalAutoencoder:
    """Builds the network with the weights of an artifact."""
    model = build(config)
    model.load_state_dict(artifact.tensors("model.safetensors"))
    return model


def missing(config: TokenizerStage, path: str) -> list[MissingItem]:
    """The weights of LPIPS and of the start, or the file that takes the place of a training."""
    settings = _settings(config.tokenizer)
    if settings.checkpoint is not None:
        what = "the tokenizer's weights"
        return missing_checkpoint(what, settings.checkpoint, f"{path}.checkpoint")
    start = "the weights that the tokenizer starts from"
    given = file_of(settings.initial_weights, "tokenizer")
    return [
        *missing_lpips(settings.loss.perceptual, f"{path}.loss.perceptual"),
        *missing_checkpoint(start, given, f"{path}.initial_weights"),
    ]


def check_given(config: TokenizerStage) -> None:
    """Refuse files of weights that the network does not fit, by their headers alone."""
    settings = _settings(config.tokenizer)
    compare_headers(settings, "tokenizer", lambda: build(config), settings.reader)


def trained_images(config: TokenizerStage) -> int:
    """Images that it is trained with here."""
    return 0 if config.checkpoint else training_images(_settings(config.tokenizer).training)


def needs(trial: Trial) -> Mapping[str, Stage]:
    """The networks that its training looks to or starts as."""
    settings = _settings(trial.tokenizer)
    if settings.is_given:
        return {}
    networks = dict(settings.encoders)
    if isinstance(settings, DualTokenizerConfig):
        # First, so that messages on what is both name the teacher.
        networks = {"student": settings.trained, **networks}
    found, grid = dict[str, Stage](), trial.data.resolution // settings.downsample
    for path, network in networks.items():
        role = "alignment encoder" if path in LOOKED_AT else "student"
        place = Place(role=role, path=f"tokenizer.{path}", grid=grid)
        found[LOOKED_AT.get(path, path)] = encoder.stage_of(network, trial, place)
    return found


def training_flops(config: TokenizerStage, inputs: Mapping[str, Stage], forward: float) -> float:
    """FLOPs of its training, the networks of its loss included.

    Per image: three forwards of the autoencoder, one of the alignment encoder, three of LPIPS'
    VGG16 (two images forward, one backward to the pixels) and eight of the discriminator (forward
    and backward to the pixels, then two images forward and backward to its weights). Regularisers
    count three forwards of what they compute; that one has the decoder make a smaller image is not
    counted.
    """
    settings, side = _settings(config.tokenizer), config.data.resolution
    loss, per_image = settings.loss, FORWARDS_A_STEP * forward
    for name in inputs.keys() & LOOKED_AT.values():
        cells = side // settings.downsample
        per_image += encoder.flops_per_image(inputs[name].config, cells)
    if isinstance(loss.perceptual, LPIPSConfig):
        per_image += 3 * count_forward(("vgg16", side), lambda: _vgg16_forward(side))[1]
    if isinstance(loss.discriminator, DiscriminatorConfig):
        network = loss.discriminator
        per_image += (
            8
            * count_forward(
                (network, side), lambda: (PatchDiscriminator(network), empty_image(side, side))
            )[1]
        )
    for regularizer in settings.regularizers:
        per_image += FORWARDS_A_STEP * _flops_of(regularizer, settings.channels(side), side)
    if isinstance(settings, DualTokenizerConfig):
        made = count_forward(("semantic", settings, side), lambda: _semantic_decoder(config))[1]
        per_image += FORWARDS_A_STEP * made
    return trained_images(config) * per_image


def _semantic_decoder(config: TokenizerStage) -> tuple[nn.Module, tuple[Any, ...]]:
    model = build(config)
    assert isinstance(model, DualAutoencoder)
    cells = config.data.resolution // model.config.downsample
    codes = torch.empty(1, model.quantizer.config.semantic_dim, cells, cells)
    return nn.Sequential(model.semantic_decoder, model.from_codes), (codes,)


def activations(config: TokenizerStage) -> Activations | None:
    """Those of the autoencoder, whose trunks slices compute in turn; other networks hold less."""
    settings, side = _settings(config.tokenizer), config.data.resolution
    if settings.is_given:
        return None

    def count() -> tuple[float, ...]:
        with torch.device("meta"):
            model, (image,) = build(config).eval(), empty_image(side, side)
            latent = torch.empty(1, model.latent_dim, *settings.channels(side).shape[1:])
            first = flops.kept_bytes(model, lambda: model.encoder.trunk(image))
            second = flops.kept_bytes(model, lambda: model.decoder.trunk(latent))
            whole = flops.kept_bytes(model, lambda: model.decode(model.encode(image).mode()))
        return max(first, second), max(0.0, whole - first - second), min(first, second)

    return Activations(settings.training, *flops.of_network("activations", config, count))


def _vgg16_forward(side: int) -> tuple[nn.Module, tuple[Any, ...]]:
    from torchvision.models import vgg16  # Importing torchvision takes seconds.

    return vgg16().features, empty_image(side, side)


def _flops_of(config: RegularizerConfig, layout: LatentLayout, side: int) -> float:
    """FLOPs of a regulariser's forward pass for one image."""
    # The counter's import takes a second, which a sweep without regularisers need not wait.
    from torch.utils.flop_counter import FlopCounterMode

    # The weights are built, not only their shapes: what it draws must lie where they do.
    with torch.random.fork_rng(devices=[]):
        regularizer = config.build(layout).eval()
        streams = {"choices": torch.Generator(), "noise": torch.Generator()}
        drawn = regularizer.draw(1, layout, **streams)
        latent, (image,) = torch.zeros(1, *layout.shape), empty_image(side, side)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            regularizer.perturb(latent, image, drawn)
            regularizer.loss(latent, latent, drawn, 0)
    return float(counter.get_total_flops())


def _settings(config: AnyTokenizerConfig) -> AutoencoderSettings:
    assert isinstance(config, AutoencoderSettings)
    return config


KIND = TokenizerKind(
    stage=stage,
    build=build,
    make=make,
    load=load,
    check_given=check_given,
    missing=missing,
    needs=needs,
    trained_images=trained_images,
    training_flops=training_flops,
    activations=activations,
)
