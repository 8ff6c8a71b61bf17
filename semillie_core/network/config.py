"""What a Semi-LLIE network is built from."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class SemiLLIEConfig:
    """Hyper-parameters of one member of the Semi-LLIE family.

    The defaults are the paper's network (arXiv 2409.16604): multi-scale state-space blocks at full resolution.

    Raises:
        ValueError: A value is outside what the architecture allows; the message names the field.
    """

    embed_dim: int = 64
    """Feature width C. A multiple of 4 (the estimator's grouped convolution) and at least 32."""
    depths: tuple[int, ...] = (2, 2)
    """Number of state-space blocks (MSSB) in each residual group (MSSG)."""
    d_state: int = 16
    """State size N of the selective scan."""
    expand: float = 2.0
    """Inner width of a state-space block, rounded down, as a multiple of ``embed_dim`` (``mlp_ratio`` in the released
    code)."""
    multi_scale: bool = True
    """Serial 3x3 and 5x5 depthwise convolutions before the scan; ``False`` is the single-scale ablation."""
    guided: bool = False
    """Fuse illumination features into every block (the released code's later "guided" variant)."""
    drop_path_rate: float = 0.1
    """Stochastic depth of the last block, growing linearly from 0; acts in training only."""
    downscale: int = 1
    """Resolution divisor r of the body: the image is folded r x r into channels (pixel-unshuffle) before it and
    unfolded after it. 1 is the paper's network."""
    thumbnail: int = 0
    """Long side, in pixels, of the thumbnail from which a global illumination is estimated. 0 is the paper's
    network, whose estimator works at full resolution."""
    thumbnail_depth: int = 2
    """Number of state-space blocks in the thumbnail estimator; unused without one."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "depths", tuple(int(d) for d in self.depths))
        if self.embed_dim % 4 or self.embed_dim < 32:
            raise ValueError(f"embed_dim must be a multiple of 4 and at least 32, got {self.embed_dim}.")
        if not self.depths or min(self.depths) < 1:
            raise ValueError(f"depths must name at least one group of at least one block, got {self.depths}.")
        if self.d_state < 1:
            raise ValueError(f"d_state must be at least 1, got {self.d_state}.")
        # The margin is for products such as 1.15 * 100, which is a little below 115.
        inner = self.expand * self.embed_dim + 1e-6
        if not 1 <= inner < math.inf:
            raise ValueError(f"expand must give at least one inner channel, got {self.expand}.")
        # What the shapes of a checkpoint tell, so that a config comes back as it was.
        object.__setattr__(self, "expand", math.floor(inner) / self.embed_dim)
        if not 0 <= self.drop_path_rate < 1:
            raise ValueError(f"drop_path_rate must be in [0, 1), got {self.drop_path_rate}.")
        if self.downscale < 1:
            raise ValueError(f"downscale must be at least 1, got {self.downscale}.")
        if self.thumbnail < 0 or 0 < self.thumbnail < 8:
            raise ValueError(f"thumbnail must be 0 (none) or at least 8 pixels, got {self.thumbnail}.")
        if self.thumbnail and self.thumbnail_depth < 1:
            raise ValueError(f"thumbnail_depth must be at least 1, got {self.thumbnail_depth}.")
        if self.guided and self.thumbnail:
            raise ValueError("guided needs full-resolution illumination features: set thumbnail to 0.")

    @property
    def d_inner(self) -> int:
        """Inner width E of a state-space block."""
        return round(self.expand * self.embed_dim)

    @property
    def dt_rank(self) -> int:
        """Rank R of the step-size projection."""
        return math.ceil(self.embed_dim / 16)

    @property
    def variant(self) -> str:
        """``"multi-scale"``, ``"guided"``, ``"single-scale"`` (as released), ``"base"`` or ``"compact"``."""
        if self.downscale > 1:
            return "compact"
        if self.thumbnail:
            return "base"
        if self.guided:
            return "guided"
        return "multi-scale" if self.multi_scale else "single-scale"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and YAML."""
        return {**dataclasses.asdict(self), "depths": list(self.depths)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SemiLLIEConfig:
        """Inverse of :meth:`to_dict`.

        Raises:
            ValueError: An unknown key or an impossible value.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(
                f"Unknown network option {', '.join(unknown)}. Known: {', '.join(sorted(known))}."
            )
        return cls(**values)


PAPER = SemiLLIEConfig()
"""The paper's final multi-scale network, 0.61 M parameters."""
GUIDED = SemiLLIEConfig(guided=True)
"""The released guided variant."""
SINGLE_SCALE = SemiLLIEConfig(multi_scale=False)
"""The released single-scale ablation."""
BASE = SemiLLIEConfig(thumbnail=64, thumbnail_depth=1)
"""The bundled network for quality, 0.73 M parameters: the paper's body at full resolution, lit by an illumination map
from a thumbnail, so that crops and tiles of a photo agree on its exposure."""
COMPACT = SemiLLIEConfig(expand=1.5, d_state=8, downscale=4, thumbnail=64)
"""The bundled default: same blocks on a 4 x 4 folded image, lit by an illumination map from a thumbnail."""
