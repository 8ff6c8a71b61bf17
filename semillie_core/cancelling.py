"""Stopping in the middle of a network's work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def called_inside(network: nn.Module, check: Callable[[], None] | None) -> Iterator[None]:
    """Have ``check`` called before every module of the network while the context lasts."""

    def hook(*_: object) -> None:
        if check is not None:
            check()

    modules = [] if check is None else list(network.modules())
    handles = [module.register_forward_pre_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
