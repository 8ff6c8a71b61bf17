"""Optimisers: AdamW with the usual exemptions, and AdamP as the released trainer uses it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import OptimizerConfig


class AdamP(torch.optim.Optimizer):
    """Adam without the radial part of its step for scale-invariant weights (Heo et al., ICLR 2021, arXiv 2006.08217).

    A weight counts as scale-invariant when its gradient is nearly orthogonal to it, per output channel or as a
    whole. Its step is then projected onto the tangent space, and its weight decay is scaled by ``wd_ratio``.

    Args:
        params: Parameters or groups of them.
        lr: Learning rate.
        betas: Decay rates of the moments.
        eps: Added to denominators.
        weight_decay: Decoupled weight decay.
        delta: Cosine, times the square root of the dimension, below which a gradient counts as orthogonal.
        wd_ratio: Factor of the weight decay of projected weights.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        delta: float = 0.1,
        wd_ratio: float = 0.1,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "delta": delta,
                "wd_ratio": wd_ratio,
            },
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step; a closure re-evaluates the loss first."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            first, second = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["step"] = 0
                    state["mean"] = torch.zeros_like(parameter)
                    state["square"] = torch.zeros_like(parameter)
                state["step"] += 1
                mean, square = state["mean"], state["square"]
                mean.mul_(first).add_(parameter.grad, alpha=1 - first)
                square.mul_(second).addcmul_(parameter.grad, parameter.grad, value=1 - second)
                root = square.sqrt() / math.sqrt(1 - second ** state["step"])
                update = mean / (root + group["eps"])
                decay = group["weight_decay"]
                if parameter.dim() > 1:
                    projected = _tangent(parameter, parameter.grad, update, group["delta"], group["eps"])
                    if projected is not None:
                        update, decay = projected, decay * group["wd_ratio"]
                if decay:
                    parameter.mul_(1 - group["lr"] * decay)
                parameter.add_(update, alpha=-group["lr"] / (1 - first ** state["step"]))
        return loss


def _tangent(weight: Tensor, gradient: Tensor, update: Tensor, delta: float, eps: float) -> Tensor | None:
    """The update without its radial part, by channel or else as a whole; ``None`` for weights that are neither."""
    for rows in (weight.shape[0], 1):
        w, g, u = (tensor.reshape(rows, -1) for tensor in (weight, gradient, update))
        if F.cosine_similarity(g, w, dim=1, eps=eps).abs().max() < delta / math.sqrt(w.shape[1]):
            unit = w / (w.norm(dim=1, keepdim=True) + eps)
            tangent: Tensor = u - unit * (unit * u).sum(1, keepdim=True)
            return tangent.view_as(update)
    return None


def build_optimizer(student: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimiser of a student's trainable parameters."""
    trainable = [(n, p) for n, p in student.named_parameters() if p.requires_grad]
    if config.name == "adamp":
        # One group, as released: what is flagged as exempt from weight decay is decayed all the same.
        return AdamP([p for _, p in trainable], lr=config.learning_rate, weight_decay=config.weight_decay)
    exempt = [p.dim() < 2 or n.endswith(("A_logs", "dt_projs_bias")) for n, p in trainable]
    groups = [
        {
            "params": [p for (_, p), free in zip(trainable, exempt, strict=True) if free is kind],
            "weight_decay": 0.0 if kind else config.weight_decay,
        }
        for kind in (False, True)
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.99))
