"""Networks from tensors: built without memory, names and shapes compared one by one, then filled without a copy.

A network is built on the meta device and its parameters become the tensors themselves, so a model is in memory once; of
a memory-mapped file, only what is used is read. Nothing is filled when anything is wrong.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from vjepa_lab.jepa import build_encoder, build_predictor
from vjepa_lab.nn.ac_predictor import ACPredictor
from vjepa_lab.nn.pooler import AttentiveClassifier
from vjepa_lab.weights.shapes import Described

_SHOWN = 4


def blank(described: Described, role: str) -> nn.Module:
    """The network of a role (encoder, predictor, ac_predictor, classifiers.<i>), on the meta device.

    Raises:
        ValueError: heads do not divide the width, or another argument is impossible.
    """
    with torch.device("meta"):
        if role == "encoder":
            return build_encoder(described.config.encoder)
        if role == "predictor":
            return build_predictor(described.config)
        if role == "ac_predictor":
            return ACPredictor(**described.arguments[role])
        return AttentiveClassifier(**described.arguments[role])


def fill(network: nn.Module, tensors: Mapping[str, Tensor]) -> list[str]:
    """Make ``tensors`` the parameters of a network on the meta device, in float32, and set it to evaluation.

    To be called after ``compare``; of what ``tensors`` hold in excess nothing is used.

    Returns:
        The keys whose values are not all finite.
    """
    used = {key: tensors[key].to(torch.float32) for key in network.state_dict()}
    network.load_state_dict(used, assign=True)
    network.eval()
    return not_finite(used)


def compare(
    network: nn.Module, tensors: Mapping[str, Tensor], *, path: Path, name: str, may_exceed: Collection[str] = ()
) -> None:
    """Check that ``tensors``, the network ``name`` of the file ``path``, are those of ``network``.

    Raises:
        ValueError: there are ``differences``; the message lists them.
    """
    wrong = differences(network, tensors, may_exceed)
    if wrong:
        raise ValueError("\n  ".join([f"{path}: {name}: its tensors are not those of this network", *wrong]))


def differences(network: nn.Module, tensors: Mapping[str, Tensor], may_exceed: Collection[str] = ()) -> list[str]:
    """In what names, shapes and types differ from those of ``network``, which may be on the meta device; a line each
    for keys that are missing, in excess (``may_exceed`` aside), transposed, of another shape, of another type."""
    expected = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    transposed, reshaped, not_numbers = [], [], []
    for key in sorted(expected.keys() & tensors.keys()):
        got, want = tuple(tensors[key].shape), expected[key]
        if got != want:
            text = f"{key} (file {got}, expected {want})"
            (transposed if got == want[::-1] else reshaped).append(text)
        elif not tensors[key].is_floating_point():
            not_numbers.append(f"{key} ({tensors[key].dtype})")
    kinds = {
        "missing": sorted(expected.keys() - tensors.keys()),
        "in excess": sorted(tensors.keys() - expected.keys() - set(may_exceed)),
        "transposed": transposed,
        "of another shape": reshaped,
        "without floating-point numbers": not_numbers,
    }
    return [f"{len(found)} {kind}: {first_few(found)}" for kind, found in kinds.items() if found]


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that hold a NaN or an infinity."""
    ends = {name: torch.stack(torch.aminmax(value)) for name, value in tensors.items()}  # no copy; NaN passes through
    return [name for name, values in ends.items() if not bool(torch.isfinite(values).all())]


def first_few(found: list[str]) -> str:
    """The first few of many names."""
    more = len(found) - _SHOWN
    return ", ".join(found[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
