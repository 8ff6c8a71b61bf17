"""AdamP against the published package, and what AdamW exempts from decay."""

from __future__ import annotations

import pytest
import torch

from semillie_core.network import SemiLLIE
from semillie_core.training import OptimizerConfig
from semillie_core.training.optimizers import AdamP, build_optimizer


def test_adamp_matches_the_published_package(parity):
    facts, tensors = parity("semillie_adamp_parity_f64")
    names = [key.removeprefix("init.") for key in tensors if key.startswith("init.")]
    parameters = {name: torch.nn.Parameter(tensors[f"init.{name}"].clone()) for name in names}
    optimizer = AdamP(parameters.values(), **facts["kwargs"])
    step = 0
    while f"step{step}.grad.{names[0]}" in tensors:
        for name in names:
            parameters[name].grad = tensors[f"step{step}.grad.{name}"].clone()
        optimizer.step()
        for name in names:
            expected = tensors[f"step{step}.param.{name}"]
            torch.testing.assert_close(parameters[name].detach(), expected, rtol=0, atol=1e-13)
        step += 1
    assert step >= 3


def test_adamw_does_not_decay_norms_biases_and_state_matrices(config):
    network = SemiLLIE(config.network)
    free = {id(p) for p in build_optimizer(network, OptimizerConfig()).param_groups[1]["params"]}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            exempt = parameter.dim() < 2 or name.endswith(("A_logs", "dt_projs_bias"))
            assert (id(parameter) in free) == exempt, name


def test_frozen_parameters_are_left_alone(config):
    network = SemiLLIE(config.network)
    for kind in ("adamw", "adamp"):
        groups = build_optimizer(network, OptimizerConfig(name=kind)).param_groups
        held = {id(p) for group in groups for p in group["params"]}
        assert id(network.get_gradient.weight_h) not in held
    with pytest.raises(ValueError, match=r"optimizer\.name"):
        OptimizerConfig(name="sgd")
