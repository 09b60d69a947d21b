"""Generator kind `python`: a function of the user's own from labels to latents or images."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from harness.config.evaluation import Guidance
from harness.config.generator_settings import GeneratorBase
from harness.config.python_generator import PythonGeneratorConfig
from harness.schema.keys import to_plain
from harness.schema.reading import ConfigError
from harness.stages.flops import of_network
from harness.stages.generator.kind import GeneratorKind, GeneratorStage
from harness.stages.running import own_code
from harness.stages.running.context import StageContext
from harness.storage.artifacts import Artifact
from models.parameters import num_parameters
from models.sampler import SamplerConfig


class PythonGenerator(nn.Module):
    """Holds a function of the user's own to the contract of a generator.

    Args:
        config: What it declares, and the latent or image that is asked of it.
        settings: What builds it; absent: as declared.

    Raises:
        ConfigError: It cannot be built, or is no function.
    """

    def __init__(self, config: GeneratorStage, settings: PythonGeneratorConfig | None = None):
        super().__init__()
        self.config, self.settings = config, settings or _settings(config.generator)
        self.inner: Any = self.settings.build()
        if not callable(self.inner):
            raise ConfigError(
                f"{self.settings.target} must return a function of labels and a random source, "
                f"but returned {type(self.inner).__name__}; name what builds the function",
                path="target",
            )

    def forward(self, labels: Int64[Tensor, " b"], random: torch.Generator) -> Tensor:
        """Its latents, or its images brought to [-1, 1]."""
        found, said = self.inner(labels, random), f"{self.settings.target}'s function must return"
        is_image, side = self.settings.output == "images", self.config.resolution
        own_code.require_floats(found, said, labels.device)
        shape = (len(labels), *((3, side, side) if is_image else self.config.layout.shape))
        if tuple(found.shape) != shape:
            raise ConfigError(
                f"{said} {self.settings.output} of shape {list(shape)} for {len(labels)} labels, "
                f"but returned {list(found.shape)}; correct `output`, the tokenizer or the code",
                path="target",
            )
        if not is_image:
            return found.float()
        low, high = self.settings.image_range
        return (found.float() - low) * (2.0 / (high - low)) - 1.0


@torch.no_grad()
def try_out(config: GeneratorStage) -> PythonGenerator:
    """Build it and draw twice for two labels, so that what is wrong is told at planning:
    ConfigError says in words which part of the contract it does not keep."""
    settings = _settings(config.generator)
    model = PythonGenerator(config).eval()
    labels = torch.tensor([0, config.num_classes - 1])
    try:
        drawn, again = (model(labels, torch.Generator().manual_seed(0)) for _ in range(2))
    except ConfigError:
        raise
    except Exception as error:
        # Whatever it is: the code is the user's, and so is the error.
        raise ConfigError(
            f"{settings.target}'s function failed on labels {labels.tolist()}: "
            f"{type(error).__name__}: {error}; it must take int64 labels [b] and a torch.Generator",
            path="target",
        ) from error
    if not bool(drawn.isfinite().all()):
        raise ConfigError(
            f"{settings.target}'s function must return finite numbers, but some are not; check "
            "its weights",
            path="target",
        )
    if not torch.equal(drawn, again):
        raise ConfigError(
            f"{settings.target}'s function must draw every random number from the torch.Generator "
            "that it is given, but with equal ones it returned unlike samples; pass it on",
            path="target",
        )
    if settings.output == "images":
        own_code.require_range(drawn, settings.image_range, f"{settings.target}'s function")
    return model


def size(config: GeneratorStage) -> tuple[int, float]:
    """Parameters, counted when it is tried out; its operations are not ours to know."""
    if _settings(config.generator).missing():
        return 0, 0.0

    def learn() -> tuple[float, ...]:
        return (float(num_parameters(try_out(config))),)

    # Drawing may take a minute on a CPU: what was tried once is remembered over processes.
    return int(of_network("generator of one's own", config, learn)[0]), 0.0


def make(config: GeneratorStage, context: StageContext) -> Mapping[str, Any]:
    """Copies the file of weights, where there is one: it cannot change under the results then."""
    settings = _settings(config.generator)
    model = PythonGenerator(config)
    own_code.keep_weights(settings, context.work.payload)
    return {
        "parameters": num_parameters(model),
        # Its training is not ours to know.
        "images": None,
        "checkpoint": own_code.origin_of(settings),
        # Its latents are as the decoder takes them, of any tokenizer that has this layout.
        "mean": None,
        "std": None,
        "label_counts": [0] * config.num_classes,
        "layout": to_plain(config.layout),
        "tokenizer_key": None,
    }


def load(config: GeneratorStage, artifact: Artifact) -> PythonGenerator:
    """Builds the user's function with the weights that `make` has copied."""
    return PythonGenerator(
        config, own_code.with_kept_weights(_settings(config.generator), artifact)
    )


def draw(
    model: PythonGenerator,
    labels: Int64[Tensor, " b"],
    random: torch.Generator,
    sampler: SamplerConfig,
    guidance: Guidance,
    weak: Any | None = None,
    slices: int = 1,
) -> Tensor:
    """What the function returns. The batch stays whole: its random numbers follow from its size."""
    return model(labels, random)


def _settings(config: GeneratorBase) -> PythonGeneratorConfig:
    assert isinstance(config, PythonGeneratorConfig)
    return config


KIND = GeneratorKind(
    name="python",
    build=PythonGenerator,
    make=make,
    load=load,
    draw=draw,
    evaluations=lambda _config, _sampler, _guidance: None,
    size=size,
    check=size,
    compile=lambda _network: None,
)
