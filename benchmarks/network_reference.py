"""The network composed plainly from its formulas: the baseline of ``benchmarks.network_cpu``.

Convolutions, 1x1 ones included, see ``(B, C, H, W)`` in the default memory layout; layer norms, linear layers and the
scan see ``(B, H, W, C)`` copies; feature maps are joined and split where the formulas join and split them (Semi-LLIE,
arXiv 2409.16604). Weights come from a ``semillie_core.network.SemiLLIE``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from semillie_core.network import Prediction, SemiLLIE
from semillie_core.network.semi_llie import IMAGE_MEAN
from semillie_core.network.thumbnail import brighten, full_frame, make_thumbnail, sample_region
from semillie_core.scan import selective_scan_2d

Scan = Callable[..., Tensor]


def plain_forward(network: SemiLLIE, image: Tensor, scan: Scan = selective_scan_2d) -> Prediction:
    """What ``network(image)`` returns, without stochastic depth; ``image`` is ``(B, 3, H, W)``."""
    config = network.config
    weights = dict(network.named_parameters())
    image = image.contiguous()
    height, width = image.shape[2:]
    r = config.downscale
    mean = torch.tensor(IMAGE_MEAN).to(image).view(1, 3, 1, 1)
    shifted = image - mean
    features = thumbnail = None
    if config.thumbnail:
        gain, thumbnail = _thumbnail(config, weights, image, scan)
        base = illumination = brighten(image, sample_region(gain, full_frame(image), (height, width)))
        shown = base - mean
    else:
        base = image
        lit = _conv(weights, "estimator.conv1", torch.cat([shifted, shifted.mean(1, keepdim=True)], 1))
        features = _conv(weights, "estimator.depth_conv", lit, groups=4)
        shown = illumination = _conv(weights, "estimator.conv2", features)
    bottom, right = -height % r, -width % r
    stacked = F.pad(torch.cat([shifted, shown], 1), (0, right, 0, bottom), mode="replicate")
    x0 = _conv(weights, "conv_first", F.pixel_unshuffle(stacked, r))
    if thumbnail is not None:
        grown = image.new_tensor([[0.0, 0.0, (height + bottom) / height, (width + right) / width]])
        x0 = x0 + sample_region(thumbnail, grown.expand(len(image), 4), (x0.shape[2], x0.shape[3]))
    x = _layer_norm(weights, "patch_embed.norm", x0)
    for i, depth in enumerate(config.depths):
        start = x
        for j in range(depth):
            guide = features if config.guided else None
            x = _block(config, weights, f"layers.{i}.residual_group.blocks.{j}", x, guide, scan)
        x = _conv(weights, f"layers.{i}.conv", x) + start
    x = _conv(weights, "conv_after_body", _layer_norm(weights, "norm", x)) + x0
    restored = F.pixel_shuffle(_conv(weights, "conv_last", x), r)[:, :, :height, :width]
    return Prediction(base + restored, illumination)


def _thumbnail(config: Any, weights: dict[str, Tensor], image: Tensor, scan: Scan) -> tuple[Tensor, Tensor]:
    small = F.pad(make_thumbnail(image, config.thumbnail), (4, 4, 4, 4), mode="replicate")
    root = torch.sqrt(small.clamp(min=0) + 1e-4)
    x = _conv(weights, "estimator.conv1", torch.cat([small, small.mean(1, keepdim=True), root], 1))
    x = _conv(weights, "estimator.depth_conv", x, groups=4)
    for j in range(config.thumbnail_depth):
        x = _block(config, weights, f"estimator.body.blocks.{j}", x, None, scan)
    x = _layer_norm(weights, "estimator.norm", x)[:, :, 4:-4, 4:-4]
    everywhere = F.linear(
        x.mean((2, 3)), weights["estimator.global_gain.weight"], weights["estimator.global_gain.bias"]
    )
    return _conv(weights, "estimator.local_gain", x) + everywhere[:, :, None, None], x


def _block(
    config: Any, weights: dict[str, Tensor], name: str, x: Tensor, guide: Tensor | None, scan: Scan
) -> Tensor:
    source = x if guide is None else _fusion(weights, f"{name}.fuse", x, guide)
    skip, skip2 = (weights[f"{name}.{key}"][:, None, None] for key in ("skip_scale", "skip_scale2"))
    y = x * skip + _attention(
        config, weights, f"{name}.self_attention", _layer_norm(weights, f"{name}.ln_1", source), scan
    )
    c = F.gelu(_conv(weights, f"{name}.conv_blk.cab.0", _layer_norm(weights, f"{name}.ln_2", y)))
    c = _conv(weights, f"{name}.conv_blk.cab.2", c)
    gate = F.relu(_conv(weights, f"{name}.conv_blk.cab.3.attention.1", c.mean((2, 3), keepdim=True)))
    gate = torch.sigmoid(_conv(weights, f"{name}.conv_blk.cab.3.attention.3", gate))
    return y * skip2 + c * gate


def _attention(config: Any, weights: dict[str, Tensor], name: str, x: Tensor, scan: Scan) -> Tensor:
    E = config.d_inner
    a, z = _image(F.linear(_tokens(x), weights[f"{name}.in_proj.weight"])).chunk(2, dim=1)
    narrow = _conv(weights, f"{name}.conv2d", a, groups=E)
    v = F.silu(narrow)
    if config.multi_scale:
        wide = _conv(weights, f"{name}.conv2d_55", narrow, groups=E)
        v = _conv(weights, f"{name}.point_wise_conv", torch.cat([v, F.silu(wide)], dim=1))
    scanned = scan(
        _tokens(v),
        *(
            weights[f"{name}.{key}"]
            for key in ("x_proj_weight", "dt_projs_weight", "dt_projs_bias", "A_logs", "Ds")
        ),
    )
    gated = _layer_norm(weights, f"{name}.out_norm", _image(scanned)) * F.silu(z)
    return _image(F.linear(_tokens(gated), weights[f"{name}.out_proj.weight"]))


def _fusion(weights: dict[str, Tensor], name: str, x: Tensor, guide: Tensor) -> Tensor:
    mixed = _conv(weights, f"{name}.pwconv", torch.cat([x, guide], 1))
    for pad, size in (((1, 1, 0, 0), mixed.shape[3]), ((0, 0, 1, 1), mixed.shape[2])):
        mixed = F.pad(mixed, pad, mode="reflect" if size > 1 else "replicate")
    kernel, bias = weights[f"{name}.dwconv.weight"], weights[f"{name}.dwconv.bias"]
    p, q = F.conv2d(mixed, kernel, bias, groups=len(kernel)).chunk(2, 1)
    return _conv(weights, f"{name}.mlp", _conv(weights, f"{name}.project_out", F.gelu(p) * q) + x)


def _conv(weights: dict[str, Tensor], name: str, x: Tensor, groups: int = 1) -> Tensor:
    kernel = weights[f"{name}.weight"]
    return F.conv2d(x, kernel, weights[f"{name}.bias"], padding=kernel.shape[2] // 2, groups=groups)


def _layer_norm(weights: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    weight = weights[f"{name}.weight"]
    return _image(F.layer_norm(_tokens(x), weight.shape, weight, weights[f"{name}.bias"], eps=1e-5))


def _tokens(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).contiguous()


def _image(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2).contiguous()
