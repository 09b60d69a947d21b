"""TokenFlow's tokenizer (arXiv 2412.03069): two encoders and two decoders around one index.

A trained copy of a feature network and a convolutional encoder see the images; pairs of codes with
a shared index stand for both; one decoder gives the network's features back, one the images.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from models.autoencoder import AutoencoderConfig, Bottleneck, ConvolutionalAutoencoder
from models.batch_part import BatchPart
from models.checkpoint import Weights, read_tokenizer
from models.dual_quantizer import DualQuantizer, DualQuantizerConfig
from models.foundation import EncoderNetwork
from models.posterior import IndexPosterior
from models.semantic import Tokens, as_map, as_tokens


@dataclass(frozen=True, kw_only=True)
class SemanticDecoderConfig:
    """Size of the transformer that gives features back; the defaults are those beside CLIP B."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    width: int = 768
    """Width of a token; 1152 beside ViTamin and SigLIP."""
    num_heads: int = 12
    """Heads of the attention."""
    num_blocks: int = 3
    """Transformer blocks."""

    def __post_init__(self) -> None:
        if min(self.width, self.num_heads, self.num_blocks) < 1 or self.width % self.num_heads:
            raise ValueError(
                "`width`, `num_heads` and `num_blocks` must be at least 1 and `num_heads` must "
                f"divide `width`, but got {self.width}, {self.num_heads} and {self.num_blocks}; "
                "use 768, 12 and 3"
            )


class SemanticDecoder(nn.Module):
    """A BEiT over the cells of the semantic codes, without a patch larger than a cell."""

    def __init__(self, config: SemanticDecoderConfig, *, code_dim: int, cells: int) -> None:
        super().__init__()
        from timm.models.beit import Beit  # Importing timm takes seconds.

        self.trunk = Beit(
            img_size=cells,
            patch_size=1,
            in_chans=code_dim,
            num_classes=0,
            embed_dim=config.width,
            depth=config.num_blocks,
            num_heads=config.num_heads,
        )

    def forward(self, codes: Float[Tensor, "b c h w"]) -> Tokens:
        """Tokens of all cells, in row-major order."""
        return self.trunk.fc_norm(self.trunk.forward_features(codes)[:, 1:])


class DualAutoencoder(ConvolutionalAutoencoder):
    """Encoders, quantiser and decoders; latents are indices on grids from coarse to fine.

    Args:
        config: shape of the pixel encoder, and of the decoder where that has none of its own.
        semantic_encoder: network like the teacher's; it is trained with the rest.
        pixel_width: channels between the pixel encoder and its projection to the codes.
        feature_dim: channels of the teacher's features.
    """

    def __init__(
        self,
        config: AutoencoderConfig,
        quantizer: DualQuantizerConfig,
        *,
        decoder: AutoencoderConfig | None = None,
        semantic_decoder: SemanticDecoderConfig,
        semantic_encoder: EncoderNetwork,
        pixel_width: int = 256,
        feature_dim: int,
        semantic_loss: Literal["cosine", "l2"] = "cosine",
        semantic_weight: float = 1.0,
        resolution: int,
    ) -> None:
        super().__init__(
            config,
            out_channels=pixel_width,
            latent_dim=pixel_width,
            resolution=resolution,
            decoder=decoder,
        )
        self.latent_dim = quantizer.width
        self.semantic_loss, self.semantic_weight = semantic_loss, semantic_weight
        cells, semantic_dim = resolution // config.downsample, quantizer.semantic_dim
        self.quant_conv = nn.Conv2d(pixel_width, quantizer.pixel_dim, 1)
        self.post_quant_conv = nn.Conv2d(quantizer.pixel_dim, pixel_width, 1)
        self.quantizer = DualQuantizer(quantizer, cells)
        self.semantic_encoder = semantic_encoder.requires_grad_(True)
        width = semantic_encoder.feature_dim
        self.to_codes = _task_layer(width, width, semantic_dim)
        self.semantic_decoder = SemanticDecoder(
            semantic_decoder, code_dim=semantic_dim, cells=cells
        )
        self.from_codes = _task_layer(semantic_decoder.width, semantic_decoder.width, feature_dim)

    def encoded(self, x: Float[Tensor, "b c_in h_in w_in"]) -> Float[Tensor, "b d h w"]:
        """Semantic and pixel features of images in [-1, 1], as they are before any scaling."""
        pixel = super().encoded(x)
        rows, columns = pixel.shape[2:]
        # In evaluation mode always: statistics of batches would depend on the number of workers.
        semantic = self.semantic_encoder.eval().features(x, (rows, columns))
        return self.join(semantic, pixel)

    def join(
        self, semantic: Float[Tensor, "b f h w"], pixel: Float[Tensor, "b p h w"]
    ) -> Float[Tensor, "b d h w"]:
        """Semantic features, brought to the width of a code, and under them those of pixels."""
        return torch.cat([as_map(self.to_codes(as_tokens(semantic)), semantic), pixel], dim=1)

    def encode(self, x: Float[Tensor, "b c_in h_in w_in"]) -> IndexPosterior:
        """Indices of the pairs of images in [-1, 1], scale after scale, each row by row."""
        return IndexPosterior(indices=self.quantizer.quantize(self.encoded(x)).indices)

    def decode(self, latent: Tensor) -> Float[Tensor, "b c_out h_out w_out"]:
        """Decode indices, all or those of the coarsest scales, or sums of codes to images."""
        codes = latent if latent.is_floating_point() else self.quantizer.grid(latent)
        return self.decode_channels(codes)

    def requantised(self, z: Float[Tensor, "b d h w"]) -> Float[Tensor, "b d h w"]:
        """The sum of the codes that are chosen for such a sum."""
        return self.quantizer.grid(self.quantizer.quantize(z).indices)

    def decode_channels(self, z: Float[Tensor, "b d h w"]) -> Float[Tensor, "b c_out h_out w_out"]:
        """Decode the pixel half of codes to images around [-1, 1], linear and unclamped."""
        return super().decode_channels(z[:, self.quantizer.config.semantic_dim :])

    def decode_features(self, z: Float[Tensor, "b d h w"]) -> Float[Tensor, "b f h w"]:
        """Decode the semantic half of codes to the teacher's features."""
        tokens = self.semantic_decoder(z[:, : self.quantizer.config.semantic_dim])
        return as_map(self.from_codes(tokens), z)

    def bottleneck(
        self, x: Float[Tensor, "b c_in h_in w_in"], noise: Float[Tensor, "b c h w"]
    ) -> Bottleneck:
        """Codes with a gradient to the features, and the terms of quantiser and teacher."""
        found = self.quantizer.quantize(self.encoded(x), noise)

        def terms(features: Tensor | None) -> Mapping[str, Float[Tensor, ""]]:
            assert features is not None, "the caller computes what the teacher sees"
            semantic = self.distance_to_features(self.decode_features(found.latent), features)
            return {**found.terms, "semantic": semantic}

        return Bottleneck(
            mean=found.vectors,
            latent=found.latent,
            terms=terms,
            weights={**self.quantizer.config.weights, "semantic": self.semantic_weight},
        )

    def distance_to_features(
        self, found: Float[Tensor, "b f h w"], target: Float[Tensor, "b f h w"]
    ) -> Float[Tensor, ""]:
        """Mean of 1 - cosine, or of the squared difference, of features of a cell."""
        found, target = found.float(), target.float()
        if self.semantic_loss == "l2":
            return functional.mse_loss(found, target)
        return (1.0 - functional.cosine_similarity(found, target, dim=1)).mean()

    def semantic_codes(self, indices: Int64[Tensor, "b n"]) -> Float[Tensor, "b d h w"]:
        """The semantic half of the codes of images."""
        return self.quantizer.grid(indices)[:, : self.quantizer.config.semantic_dim]

    def divide(self, part: BatchPart, slices: int) -> None:
        """As for encoder and decoder; codes learn from the whole batch."""
        super().divide(part, slices)
        self.quantizer.part = part


def _task_layer(width: int, hidden: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Linear(hidden, out))


def read_dual_tokenizer(
    path: str | Path, *, entry: str | None = None, headers: bool = False
) -> Weights:
    """Read the file of such a tokenizer, official or our own."""
    weights = read_tokenizer(path, entry=entry, headers=headers)
    if OFFICIAL not in weights:
        return weights
    ours = Weights(from_official(weights))
    ours.entry, ours.left_out = weights.entry, weights.left_out
    return ours


OFFICIAL = "quantize.embedding_vqkd.weight"
"""A tensor by which official files are known."""
PARTS = (
    (r"^encoder\.conv_blocks\.", "encoder.down."),
    (r"^(encoder|decoder)\.mid\.0\.", r"\1.mid.block_1."),
    (r"^(encoder|decoder)\.mid\.1\.", r"\1.mid.attn_1."),
    (r"^(encoder|decoder)\.mid\.2\.", r"\1.mid.block_2."),
    (r"^((?:encoder|decoder)\.\w+\.\d+)\.res\.", r"\1.block."),
    (r"^quantize\.codebook_used$", "quantizer.recent"),
    (r"^quantize\.embedding_vqkd\.weight$", "quantizer.semantic"),
    (r"^quantize\.embedding_vqgan\.weight$", "quantizer.pixel"),
    (r"^encode_task_layer\.", "to_codes."),
    (r"^decode_task_layer\.", "from_codes."),
    (r"^decoder_vqkd\.", "semantic_decoder.trunk."),
    (r"^encoder_vqkd\.", "semantic_encoder.model."),
)
"""Official names -> ours, for all but the levels of the decoder, which count the other way."""
NETWORKS = (
    # OpenAI's CLIP -> timm's.
    (r"\.transformer\.resblocks\.", ".blocks."),
    (r"^encoder_vqkd\.conv1\.", "encoder_vqkd.patch_embed.proj."),
    (r"\.class_embedding$", ".cls_token"),
    (r"\.positional_embedding$", ".pos_embed"),
    (r"\.ln_pre\.", ".norm_pre."),
    (r"\.ln_post\.", ".norm."),
    (r"\.ln_([12])\.", r".norm\1."),
    (r"\.in_proj_(weight|bias)$", r".qkv.\1"),
    (r"\.attn\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
    # SigLIP of transformers -> timm's.
    (r"\.vision_model\.embeddings\.patch_embedding\.", ".patch_embed.proj."),
    (r"\.vision_model\.embeddings\.position_embedding\.weight$", ".pos_embed"),
    (r"\.vision_model\.encoder\.layers\.", ".blocks."),
    (r"\.vision_model\.post_layernorm\.", ".norm."),
    (r"\.vision_model\.head\.probe$", ".attn_pool.latent"),
    (r"\.vision_model\.head\.attention\.qkv\.", ".attn_pool.qkv."),
    (r"\.vision_model\.head\.attention\.out_proj\.", ".attn_pool.proj."),
    (r"\.vision_model\.head\.layernorm\.", ".attn_pool.norm."),
    (r"\.vision_model\.head\.mlp\.", ".attn_pool.mlp."),
    (r"\.layer_norm([12])\.", r".norm\1."),
    (r"\.self_attn\.out_proj\.", ".attn.proj."),
)
"""Names of CLIP and SigLIP in files of others -> timm's, in the order in which they are tried."""


def from_official(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of an official file under our names, in our shapes."""
    levels = [int(m[1]) for n in tensors if (m := re.match(r"decoder\.conv_blocks\.(\d+)", n))]
    ours = {}
    for name, value in tensors.items():
        # Constants that say how a teacher's input is normalised; our configuration says it.
        if name.startswith("scaling_layer."):
            continue
        own = re.sub(
            r"^decoder\.conv_blocks\.(\d+)", lambda m: f"decoder.up.{max(levels) - int(m[1])}", name
        )
        network = NETWORKS if name.startswith("encoder_vqkd.") else ()
        for pattern, replacement in (*network, *PARTS):
            own = re.sub(pattern, replacement, own)
        if own.endswith(("encoder.model.cls_token", "encoder.model.pos_embed")):
            value = value.view(1, -1, value.shape[-1])
        ours[own] = value
    for name in [n for n in ours if ".self_attn.q_proj." in n]:
        parts = [ours.pop(name.replace(".q_proj.", f".{part}_proj.")) for part in "qkv"]
        ours[name.replace(".self_attn.q_proj.", ".attn.qkv.")] = torch.cat(parts)
    for name in [n for n in ours if ".attn_pool.qkv." in n]:
        value = ours.pop(name)
        width = len(value) // 3
        ours[name.replace(".qkv.", ".q.")] = value[:width]
        ours[name.replace(".qkv.", ".kv.")] = value[width:]
    return ours
