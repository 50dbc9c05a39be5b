"""What a run has learned, as plain tensors: trained parameters and AdamW's moments, also of sharded ones. Knows no files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are trained, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def whole(tensor: Tensor) -> Tensor:
    """A copy of `tensor` on the CPU, gathered where it is sharded; then every process has to call this."""
    if hasattr(tensor, "ds_id"):  # DeepSpeed's ZeRO-3 leaves an empty tensor where a parameter lies in parts
        import deepspeed

        with deepspeed.zero.GatheredParameters([tensor]):
            return tensor.detach().to("cpu", copy=True).contiguous()
    full = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return full.detach().to("cpu", copy=True).contiguous()


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the trained parameters, on the CPU."""
    return {name: whole(parameter) for name, parameter in trained_parameters(model).items()}


def gathered(model: nn.Module) -> dict[str, Tensor] | None:
    """The trained parameters where they lie spread over processes, None where the model has them whole."""
    trained = trained_parameters(model).values()
    spread = any(hasattr(parameter, name) for parameter in trained for name in ("full_tensor", "ds_id"))
    return weights(model) if spread else None


def moments(model: nn.Module, optimizer: Any) -> dict[str, Tensor]:
    """Copies of AdamW's state, each as `moment.parameter`."""
    found = {}
    for name, parameter in trained_parameters(model).items():
        for moment, value in optimizer.state.get(parameter, {}).items():
            found[f"{moment}.{name}"] = whole(value)
    return found


def set_weights(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Give the trained parameters these `values`; the names have to be the same."""
    trained = trained_parameters(model)
    if set(trained) != set(values):
        raise ValueError(f"other parameters are trained: {sorted(set(trained) ^ set(values))[:3]}")
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(_like(values[name], parameter))


def set_moments(model: nn.Module, optimizer: Any, values: Mapping[str, Tensor]) -> None:
    """Give AdamW this state, as `moments` returned it."""
    for name, parameter in trained_parameters(model).items():
        own = {moment: values[f"{moment}.{name}"] for moment in MOMENTS if f"{moment}.{name}" in values}
        if own:
            own = {moment: _like(value, parameter) if value.ndim else value for moment, value in own.items()}
            on_device = optimizer.defaults.get("fused") or optimizer.defaults.get("capturable")
            own["step"] = own["step"].to(parameter.device) if on_device else own["step"]
            optimizer.state[parameter] = own


def set_schedule(scheduler: Any, step: int) -> None:
    """Put a LambdaLR where it is after `step` steps."""
    scheduler.last_epoch = step
    rates = [base * rate(step) for base, rate in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)]
    for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    scheduler._last_lr = rates


def _like(value: Tensor, parameter: Tensor) -> Tensor:
    """`value` where `parameter` is, and sharded as it is."""
    if not hasattr(parameter, "full_tensor"):
        return value.to(parameter.device)
    from torch.distributed.tensor import distribute_tensor

    mesh = parameter.device_mesh
    return distribute_tensor(value.to(mesh.device_type), mesh, parameter.placements)
