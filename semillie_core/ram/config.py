"""What a Recognize Anything model is built from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Variant = Literal["ram", "ram_plus"]


@dataclass(frozen=True)
class RAMConfig:
    """Sizes of a RAM or RAM++ model. The defaults are the released RAM (Swin-L at 384 pixels, 4585 tags).

    Sources: Recognize Anything (arXiv 2306.03514), RAM++ (arXiv 2310.15200), Swin Transformer (arXiv
    2103.14030).

    Raises:
        ValueError: Values that do not fit together; the message names the field.
    """

    variant: Variant = "ram"
    """``"ram"``: one text embedding per tag; ``"ram_plus"``: several, weighted per image."""
    image_size: int = 384
    """Edge of the square input, pixels."""
    patch_size: int = 4
    """Edge of one patch, pixels."""
    window_size: int = 12
    """Edge of an attention window, tokens."""
    embed_dim: int = 192
    """Width of the first Swin stage; it doubles at every further stage."""
    depths: tuple[int, ...] = (2, 2, 18, 2)
    """Blocks per Swin stage."""
    num_heads: tuple[int, ...] = (6, 12, 24, 48)
    """Attention heads per Swin stage."""
    mlp_ratio: float = 4.0
    """Hidden width of a Swin MLP as a multiple of its stage's width."""
    projection_dim: int = 512
    """Width of the projected image tokens and of the text embeddings."""
    num_tags: int = 4585
    """Tags the model knows."""
    descriptions_per_tag: int = 1
    """Text embeddings per tag: 1 in RAM, 51 in RAM++."""
    decoder_dim: int = 768
    """Width of the tag decoder."""
    decoder_heads: int = 4
    """Attention heads of the tag decoder."""
    decoder_layers: int = 2
    """Layers of the tag decoder."""
    decoder_mlp_dim: int = 3072
    """Hidden width of a tag decoder MLP."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "depths", tuple(int(depth) for depth in self.depths))
        object.__setattr__(self, "num_heads", tuple(int(heads) for heads in self.num_heads))
        if self.variant not in ("ram", "ram_plus"):
            raise ValueError(f"variant must be 'ram' or 'ram_plus', got {self.variant!r}.")
        if self.variant == "ram" and self.descriptions_per_tag != 1:
            raise ValueError(
                f"RAM has one description per tag, got {self.descriptions_per_tag}; RAM++ has more."
            )
        if not self.depths or len(self.depths) != len(self.num_heads):
            raise ValueError(
                f"depths and num_heads must name the same stages, got {self.depths} and {self.num_heads}."
            )
        for stage, heads in enumerate(self.num_heads):
            if self.stage_width(stage) % heads:
                raise ValueError(
                    f"num_heads[{stage}] = {heads} does not divide the stage width {self.stage_width(stage)}."
                )
            resolution = self.stage_resolution(stage)
            if resolution > self.window_size and resolution % self.window_size:
                raise ValueError(
                    f"image_size {self.image_size} gives {resolution}^2 tokens in stage {stage}, "
                    f"which windows of {self.window_size} do not divide."
                )
        if self.decoder_dim % self.decoder_heads:
            raise ValueError(
                f"decoder_heads {self.decoder_heads} does not divide decoder_dim {self.decoder_dim}."
            )

    def stage_width(self, stage: int) -> int:
        """Channels in Swin stage ``stage`` (counted from 0)."""
        return self.embed_dim << stage

    def stage_resolution(self, stage: int) -> int:
        """Tokens along one edge in Swin stage ``stage``.

        Raises:
            ValueError: The image size cannot be halved that often.
        """
        step = self.patch_size << stage
        if self.image_size % step:
            raise ValueError(
                f"image_size {self.image_size} is not a multiple of {step}, as stage {stage} needs."
            )
        return self.image_size // step

    @property
    def vision_dim(self) -> int:
        """Channels of the image encoder's output tokens."""
        return self.stage_width(len(self.depths) - 1)

    @property
    def display_name(self) -> str:
        """``"RAM"`` or ``"RAM++"``."""
        return "RAM" if self.variant == "ram" else "RAM++"


RAM_SWIN_L = RAMConfig()
"""``ram_swin_large_14m.pth`` (212 M parameters needed for tagging)."""
RAM_PLUS_SWIN_L = RAMConfig(variant="ram_plus", descriptions_per_tag=51)
"""``ram_plus_swin_large_14m.pth`` (329 M parameters)."""
