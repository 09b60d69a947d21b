"""Every kind of sampler that `evaluation.sampler` can name; a generator says which it takes."""

from typing import Annotated, Any, Protocol, runtime_checkable

from harness.schema.kinds import Kinds
from models.lowdiff import CascadeSamplerConfig
from models.sampler import SamplerConfig
from models.token_sampling import TokenSamplerConfig


@runtime_checkable
class SamplerSettings(Protocol):
    """What every kind says of itself; it is a frozen dataclass."""

    @property
    def kind(self) -> Any:
        """Name of the kind."""
        ...

    @property
    def num_function_evaluations(self) -> int | None:
        """Evaluations of the network a sample without guidance; absent where a solver chooses."""
        ...


SAMPLERS: Kinds[Any] = Kinds("sampler", SamplerSettings, default="euler")
"""Every kind; a block that names none is Euler's method."""
for _solver in ("euler", "heun", "dopri5", "ab2", "dpmpp_2m"):
    SAMPLERS.add(_solver, SamplerConfig)
SAMPLERS.add("cascade", CascadeSamplerConfig)
SAMPLERS.add("categorical", TokenSamplerConfig)

AnySampler = Annotated[SamplerSettings, SAMPLERS]
"""A sampler of any kind."""
