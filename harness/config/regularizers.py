"""Every kind of regulariser that the training of a tokenizer can have."""

from typing import Annotated, Any

from harness.schema.kinds import Kinds
from models.regularizers.causal import CausalConfig
from models.regularizers.contract import RegularizerConfig
from models.regularizers.denoising import DenoisingConfig
from models.regularizers.equivariance import EquivarianceConfig

REGULARIZERS: Kinds[Any] = Kinds("regularizer", RegularizerConfig)
"""Every kind. A class says all of its kind: how it is built, what it needs, how it is named."""
REGULARIZERS.add("eq", EquivarianceConfig)
REGULARIZERS.add("denoise", DenoisingConfig)
REGULARIZERS.add("causal", CausalConfig)

AnyRegularizer = Annotated[RegularizerConfig, REGULARIZERS]
"""A regulariser of any kind."""
