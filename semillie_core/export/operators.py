"""What an exporter must not look into, as a single operator: its result's size depends on the image's."""

from __future__ import annotations

import torch
from torch import Tensor

from ..network.thumbnail import make_thumbnail


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
