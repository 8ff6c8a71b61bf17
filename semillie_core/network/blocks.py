"""Building blocks, with the parameter names of the released checkpoints.

Feature maps are ``(B, C, H, W)`` in channels-last memory where convolutions see them and ``(B, H, W, C)`` views of
the same memory where layer norms, linear layers and the scan do.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..scan import selective_scan_2d
from .config import SemiLLIEConfig
from .depthwise import DepthwiseConv

NORM_EPS = 1e-5


def to_tokens(x: Tensor) -> Tensor:
    """``(B, C, H, W)`` as ``(B, H, W, C)``; no copy for channels-last memory."""
    return x.permute(0, 2, 3, 1)


def to_image(x: Tensor) -> Tensor:
    """``(B, H, W, C)`` as ``(B, C, H, W)``, a channels-last view."""
    return x.permute(0, 3, 1, 2)


def convolve(conv: nn.Module, x: Tensor) -> Tensor:
    """Apply a spatial convolution to ``(B, H, W, C)``."""
    return to_tokens(conv(to_image(x)))


BAND_PIXELS = 4096
"""Size of a band in :func:`in_bands`: a map of it is about 2 MiB. Larger ones are slower where that matters."""


def in_bands(function: Callable[..., Tensor], *maps: Tensor, halo: int = 0) -> Tensor:
    """Apply a function of feature maps to bands of rows, one after the other.

    What happens inside a band stays in the processor's cache, in buffers that the allocator can recycle; whole maps of
    a photo are fetched from memory at every step, and handed back to the system after it. Only for inference on a CPU;
    elsewhere the function sees the whole maps.

    Args:
        function: From ``(B, h, W, C_i)`` maps to ``(B, h, W, C)``, for any h.
        maps: ``(B, H, W, C_i)``.
        halo: Rows above and below that a row of the result depends on.
    """
    batch, height, width = maps[0].shape[:3]
    # A tracer must not meet a choice that depends on the sizes.
    if torch.compiler.is_compiling() or torch.is_grad_enabled() or maps[0].device.type != "cpu":
        return function(*maps)
    rows = max(BAND_PIXELS // width, 4 * halo, 1)
    if batch * height <= rows:
        return function(*maps)
    result: Tensor | None = None
    for image in range(batch):
        for top in range(0, height, rows):
            bottom = min(top + rows, height)
            first, last = max(top - halo, 0), min(bottom + halo, height)
            band = function(*(m[image : image + 1, first:last] for m in maps))
            if result is None:
                result = band.new_empty(batch, height, width, band.shape[3])
            result[image, top:bottom] = band[0, top - first : bottom - first]
    assert result is not None  # there is a row  # noqa: S101
    return result


class PointwiseConv(nn.Conv2d):
    """A 1x1 convolution as a matrix product over the last axis, ``(..., C_in) -> (..., C_out)``.

    The parameters are those of the convolution, as the released checkpoints store them. PyTorch's own 1x1 convolution
    falls back to an unblocked kernel for small batches on one CPU thread.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.flatten(1), self.bias)


class DropPath(nn.Module):
    """Stochastic depth: drop a residual branch per sample, scaled to keep its expectation."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if self.rate == 0.0 or not self.training:
            return x
        keep = 1.0 - self.rate
        mask = torch.rand((x.shape[0], *[1] * (x.dim() - 1)), device=x.device) < keep
        return x * (mask.to(x.dtype) / keep)


class SelectiveScan2d(nn.Module):
    """SS2D: gated four-direction selective scan over depthwise-convolved features.

    ``(B, H, W, C) -> (B, H, W, C)``. With ``multi_scale`` the 3x3 and 5x5 depthwise convolutions are serial, as in
    the released code: the 5x5 sees the 3x3's output before its activation.
    """

    def __init__(self, config: SemiLLIEConfig) -> None:
        super().__init__()
        C, E, N, R = config.embed_dim, config.d_inner, config.d_state, config.dt_rank
        self.x_proj_weight = nn.Parameter(torch.empty(4, R + 2 * N, E))
        self.dt_projs_weight = nn.Parameter(torch.empty(4, E, R))
        self.dt_projs_bias = nn.Parameter(torch.empty(4, E))
        self.A_logs = nn.Parameter(torch.empty(4 * E, N))
        self.Ds = nn.Parameter(torch.empty(4 * E))
        self.in_proj = nn.Linear(C, 2 * E, bias=False)
        self.conv2d = nn.Conv2d(E, E, 3, padding=1, groups=E)
        if config.multi_scale:
            self.conv2d_55 = DepthwiseConv(E, 5)
            self.point_wise_conv = PointwiseConv(2 * E, E)
        self.multi_scale = config.multi_scale
        self.out_norm = nn.LayerNorm(E, eps=NORM_EPS)
        self.out_proj = nn.Linear(E, C, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as Mamba does: step sizes log-uniform in [1e-3, 0.1], A = -(1..N), D = 1."""
        E, R = self.dt_projs_weight.shape[1:]
        N = self.A_logs.shape[1]
        nn.init.uniform_(self.x_proj_weight, -(E**-0.5), E**-0.5)
        nn.init.uniform_(self.dt_projs_weight, -(R**-0.5), R**-0.5)
        with torch.no_grad():
            low, high = math.log(1e-3), math.log(0.1)
            dt = torch.exp(torch.empty_like(self.dt_projs_bias).uniform_(low, high)).clamp_(min=1e-4)
            self.dt_projs_bias.copy_(dt + torch.log(-torch.expm1(-dt)))
            self.A_logs.copy_(torch.arange(1, N + 1).log().expand_as(self.A_logs))
        nn.init.ones_(self.Ds)
        nn.init.trunc_normal_(self.in_proj.weight, std=0.02)
        nn.init.trunc_normal_(self.out_proj.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        y = selective_scan_2d(
            in_bands(self._mix, x, halo=3),
            self.x_proj_weight,
            self.dt_projs_weight,
            self.dt_projs_bias,
            self.A_logs,
            self.Ds,
        )
        return in_bands(self._gate, x, y)

    # Halves of a weight instead of halves of its product: a split or joined feature map costs a copy each way.

    def _mix(self, x: Tensor) -> Tensor:
        """What the scan sees."""
        narrow = convolve(self.conv2d, F.linear(x, self.in_proj.weight.chunk(2)[0]))
        v = F.silu(narrow)
        if self.multi_scale:
            of_narrow, of_wide = self.point_wise_conv.weight.flatten(1).chunk(2, dim=1)
            wide = F.silu(convolve(self.conv2d_55, narrow))
            v = F.linear(v, of_narrow, self.point_wise_conv.bias) + F.linear(wide, of_wide)
        return v

    def _gate(self, x: Tensor, y: Tensor) -> Tensor:
        """What becomes of the scan's output."""
        z = F.linear(x, self.in_proj.weight.chunk(2)[1])
        gated: Tensor = self.out_proj(self.out_norm(y) * F.silu(z))
        return gated


class TokenMean(nn.Module):
    """Global average of each channel, ``(B, H, W, C) -> (B, 1, 1, C)``."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((1, 2), keepdim=True)


class ChannelAttention(nn.Module):
    """Squeeze-and-excitation gate from the global average of each channel, ``(B, H, W, C)``."""

    def __init__(self, channels: int, squeeze: int = 30) -> None:
        super().__init__()
        self.attention = nn.Sequential(
            TokenMean(),
            PointwiseConv(channels, channels // squeeze),
            nn.ReLU(inplace=True),
            PointwiseConv(channels // squeeze, channels),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        gated: Tensor = x * self.attention(x)
        return gated


class ChannelAttentionBlock(nn.Module):
    """CAB: squeezed pair of 3x3 convolutions followed by channel attention, ``(B, H, W, C)``."""

    def __init__(self, channels: int, compress: int = 3) -> None:
        super().__init__()
        self.cab = nn.Sequential(
            nn.Conv2d(channels, channels // compress, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(channels // compress, channels, 3, padding=1),
            ChannelAttention(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        squeeze, activation, expand, attention = self.cab
        y: Tensor = attention(convolve(expand, activation(convolve(squeeze, x))))
        return y


class GatedFusion(nn.Module):
    """GFM of the guided variant: fuse illumination features into tokens, both ``(B, H, W, C)``.

    Its depthwise convolution pads by reflection where the image allows it (2 pixels and more); a single row or
    column, which reflection cannot pad, is repeated.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pwconv = PointwiseConv(2 * channels, 4 * channels)
        self.dwconv = nn.Conv2d(4 * channels, 4 * channels, 3, groups=4 * channels)
        self.project_out = PointwiseConv(2 * channels, channels)
        self.mlp = PointwiseConv(channels, channels)

    def forward(self, tokens: Tensor, illumination: Tensor) -> Tensor:
        mixed = to_image(self.pwconv(torch.cat([tokens, illumination], dim=-1)))
        for pad, size in (((1, 1, 0, 0), mixed.shape[3]), ((0, 0, 1, 1), mixed.shape[2])):
            mixed = F.pad(mixed, pad, mode="reflect" if size > 1 else "replicate")
        p, q = to_tokens(self.dwconv(mixed)).chunk(2, dim=-1)
        fused: Tensor = self.mlp(self.project_out(F.gelu(p) * q) + tokens)
        return fused


class StateSpaceBlock(nn.Module):
    """MSSB: selective scan and channel attention, each with a scaled residual; ``(B, H, W, C)``."""

    def __init__(self, config: SemiLLIEConfig, drop_path: float) -> None:
        super().__init__()
        C = config.embed_dim
        self.skip_scale = nn.Parameter(torch.ones(C))
        self.skip_scale2 = nn.Parameter(torch.ones(C))
        self.ln_1 = nn.LayerNorm(C, eps=NORM_EPS)
        self.self_attention = SelectiveScan2d(config)
        self.drop_path = DropPath(drop_path)
        self.conv_blk = ChannelAttentionBlock(C)
        self.ln_2 = nn.LayerNorm(C, eps=NORM_EPS)
        if config.guided:
            self.fuse = GatedFusion(C)

    def forward(self, x: Tensor, guide: Tensor | None = None) -> Tensor:
        source = x if guide is None else self.fuse(x, guide)
        y = torch.addcmul(self.drop_path(self.self_attention(self.ln_1(source))), x, self.skip_scale)
        return torch.addcmul(self.conv_blk(self.ln_2(y)), y, self.skip_scale2)


class BlockSequence(nn.Module):
    """The blocks of one group."""

    def __init__(self, config: SemiLLIEConfig, drop_paths: list[float]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(StateSpaceBlock(config, rate) for rate in drop_paths)

    def forward(self, x: Tensor, guide: Tensor | None = None) -> Tensor:
        for block in self.blocks:
            x = block(x, guide)
        return x


class ResidualGroup(nn.Module):
    """MSSG: blocks, a 3x3 convolution and a residual; ``(B, H, W, C)``."""

    def __init__(self, config: SemiLLIEConfig, drop_paths: list[float]) -> None:
        super().__init__()
        self.residual_group = BlockSequence(config, drop_paths)
        self.conv = nn.Conv2d(config.embed_dim, config.embed_dim, 3, padding=1)

    def forward(self, x: Tensor, guide: Tensor | None = None) -> Tensor:
        return convolve(self.conv, self.residual_group(x, guide)) + x


class TokenNorm(nn.Module):
    """The released code's patch embedding: a layer norm over channels, ``(B, H, W, C)``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(x)
        return y


class IlluminationEstimator(nn.Module):
    """The paper's estimator, all linear: image and its channel mean to an illumination map and its features.

    ``(B, 3, H, W) -> (B, 3, H, W), (B, H, W, C)``.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = PointwiseConv(4, channels)
        self.depth_conv = nn.Conv2d(channels, channels, 5, padding=2, groups=4)
        self.conv2 = PointwiseConv(channels, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        lit = self.conv1(to_tokens(torch.cat([x, x.mean(1, keepdim=True)], dim=1)))
        features = convolve(self.depth_conv, lit)
        return to_image(self.conv2(features)), features


class GradientMagnitude(nn.Module):
    """Central-difference gradient magnitude per channel, ``sqrt(v^2 + h^2 + 1e-6)``, zero padding.

    The kernels are fixed; they are parameters because the released checkpoints store them.
    """

    def __init__(self) -> None:
        super().__init__()
        difference = torch.tensor([[-1.0, 0.0, 1.0]])
        self.weight_h = nn.Parameter(F.pad(difference, (0, 0, 1, 1))[None, None], requires_grad=False)
        self.weight_v = nn.Parameter(
            F.pad(difference, (0, 0, 1, 1)).t().contiguous()[None, None], requires_grad=False
        )

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        h = F.conv2d(x, self.weight_h.to(x.dtype).expand(channels, -1, -1, -1), padding=1, groups=channels)
        v = F.conv2d(x, self.weight_v.to(x.dtype).expand(channels, -1, -1, -1), padding=1, groups=channels)
        return torch.sqrt(v * v + h * h + 1e-6)
