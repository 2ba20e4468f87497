"""The state of AdamW in a file, by the name of each parameter, and back into the numbering of the released code.

An optimizer stores its moments under numbers. Which parameter a number stands for is a convention:

- released files: four groups, encoder decayed, predictor decayed, encoder not decayed, predictor not decayed; within a
  group, parameters are in the order of the network's entries in the same file;
- checkpoints of our runs: a parameter's place among all parameters of the run, which is its place in ``state_dict``.

Both are turned into names here and numbered again only where they are written, so nothing depends on two models
listing their parameters in one order. Not decayed are biases and one-dimensional parameters.

Reference: released file app/vjepa/utils.py (``init_opt``); ``number_by_module`` in train/step.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vjepa_lab.weights.parts import Parts

Moments = dict[str, dict[str, dict[str, Tensor]]]
"network -> parameter -> step (), exp_avg and exp_avg_sq (shape of the parameter)"

_FIELDS = {"step", "exp_avg", "exp_avg_sq"}
_HYPER = ("lr", "betas", "eps")


def moments(parts: Parts) -> Moments:
    """Moments of ``parts.optimizer`` by network (of ``parts.networks``) and name.

    A parameter that never had a gradient has none: released mask tokens but the first, for one.

    Raises:
        ValueError: not the groups of a V-JEPA pretraining, a state of another optimizer than AdamW, or a moment whose
            shape is not its parameter's.
    """
    assert parts.optimizer is not None
    numbers = _numbers_of_run(parts) if parts.dialect == "run" else _numbers_of_released(parts)
    found: Moments = {}
    for number, state in parts.optimizer["state"].items():
        if number not in numbers:
            raise ValueError(f"{parts.path}: its optimizer has a state for parameter {number}, of which there is none")
        network, name = numbers[number]
        if set(state) != _FIELDS:
            raise ValueError(f"{parts.path}: not a state of AdamW: {network} {name} has {', '.join(sorted(state))}")
        shape = tuple(parts.networks[network][name].shape)
        wrong = [tuple(state[m].shape) for m in ("exp_avg", "exp_avg_sq") if tuple(state[m].shape) != shape]
        if wrong:
            raise ValueError(
                f"{parts.path}: its optimizer does not fit its weights: {network} {name} is {shape}, "
                f"a moment of it {wrong[0]}"
            )
        step = torch.as_tensor(state["step"], dtype=torch.float32).reshape(())
        found.setdefault(network, {})[name] = {**state, "step": step}
    return found


def released_state(
    found: Moments, networks: Mapping[str, Mapping[str, Tensor]], groups: list[dict[str, Any]]
) -> dict[str, Any]:
    """The optimizer state that the released code would have written beside ``networks`` (their order counts).

    Args:
        networks: ``encoder`` and ``predictor``.
        groups: groups of the optimizer at hand, for the learning rate, betas, eps and weight decay.
    """
    state: dict[int, dict[str, Tensor]] = {}
    written = []
    first = 0
    for i, members in enumerate(_released_groups(networks)):
        for number, (network, name) in enumerate(members, start=first):
            if name in found.get(network, {}):
                state[number] = found[network][name]
        decay = {"weight_decay": groups[0]["weight_decay"]} if i < 2 else {"weight_decay": 0, "WD_exclude": True}
        hyper = {name: groups[0][name] for name in _HYPER}
        written.append({**hyper, **decay, "params": list(range(first, first + len(members)))})
        first += len(members)
    return {"state": state, "param_groups": written}


def decayed(name: str, parameter: Tensor) -> bool:
    """Is weight decay applied to this parameter?"""
    return "bias" not in name and parameter.ndim != 1


def _released_groups(networks: Mapping[str, Mapping[str, Tensor]]) -> list[list[tuple[str, str]]]:
    return [
        [(network, name) for name, parameter in networks[network].items() if decayed(name, parameter) == wanted]
        for wanted in (True, False)
        for network in ("encoder", "predictor")
    ]


def _numbers_of_released(parts: Parts) -> dict[int, tuple[str, str]]:
    assert parts.optimizer is not None
    absent = [name for name in ("encoder", "predictor") if name not in parts.networks]
    if absent:
        raise ValueError(f"{parts.path}: its optimizer cannot be read without the {' and '.join(absent)} of that run")
    expected = _released_groups(parts.networks)
    groups = [group["params"] for group in parts.optimizer["param_groups"]]
    if [len(g) for g in groups] != [len(g) for g in expected]:
        raise ValueError(
            f"{parts.path}: its optimizer does not fit its weights: groups of {[len(g) for g in groups]} parameters, "
            f"expected {[len(g) for g in expected]} (encoder and predictor decayed, encoder and predictor not)"
        )
    return {
        number: member
        for numbers, members in zip(groups, expected, strict=True)
        for number, member in zip(numbers, members, strict=True)
    }


def _numbers_of_run(parts: Parts) -> dict[int, tuple[str, str]]:
    members = [(network, name) for network, tensors in parts.networks.items() for name in tensors]
    return dict(enumerate(members))
