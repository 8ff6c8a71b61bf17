"""What an exporter must not look into, as single operators: their sizes depend on the image's."""

from __future__ import annotations

import torch
from torch import Tensor

from ..network.thumbnail import make_thumbnail
from ..scan import selective_scan_2d


@torch.library.custom_op("semillie_export::selective_scan_2d", mutates_args=())
def scan_operator(
    x: Tensor,
    x_proj_weight: Tensor,
    dt_projs_weight: Tensor,
    dt_projs_bias: Tensor,
    A_logs: Tensor,
    Ds: Tensor,
) -> Tensor:
    """:func:`semillie_core.scan.selective_scan_2d`."""
    return selective_scan_2d(x, x_proj_weight, dt_projs_weight, dt_projs_bias, A_logs, Ds)


@scan_operator.register_fake
def _(x: Tensor, *parameters: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@torch.library.custom_op("semillie_export::make_thumbnail", mutates_args=())
def thumbnail_operator(frame: Tensor, long_side: int) -> Tensor:
    """:func:`semillie_core.network.thumbnail.make_thumbnail`."""
    # An operator must not return its input itself.
    return make_thumbnail(frame, long_side).clone(memory_format=torch.contiguous_format)


@thumbnail_operator.register_fake
def _(frame: Tensor, long_side: int) -> Tensor:
    context = torch.library.get_ctx()
    height, width = context.new_dynamic_size(min=1), context.new_dynamic_size(min=1)
    return frame.new_empty(frame.shape[0], frame.shape[1], height, width)
