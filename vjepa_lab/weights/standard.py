"""States and actions of mean 0 and deviation 1, or as they are: one AC predictor, written for either.

Where a predictor was trained on standardised numbers, (x - mean) / std comes before the encoders of state and action,
which are linear: W ((x - mean) / std) + b = (W / std) x + (b - W mean / std). So its weights can be written for numbers
as they are, and back, and say the same. In ``weights`` every predictor reads numbers as they are, as released ones do;
a run keeps mean and deviation beside its weights.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

KINDS = ("state", "action")


def folded(tensors: Mapping[str, Tensor], means: Mapping[str, Tensor], stds: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights for numbers as they are, of those for standardised ones.

    Args:
        tensors: of an AC predictor, with ``state_encoder`` and ``action_encoder``; not changed.
        means, stds: of ``state`` and ``action``, (S,) and (A,).
    """
    found = dict(tensors)
    for kind in KINDS:
        weight = tensors[f"{kind}_encoder.weight"] / stds[kind]
        found[f"{kind}_encoder.weight"] = weight
        found[f"{kind}_encoder.bias"] = tensors[f"{kind}_encoder.bias"] - weight @ means[kind]
    return found


def unfolded(
    tensors: Mapping[str, Tensor], means: Mapping[str, Tensor], stds: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The inverse of ``folded``: weights for standardised numbers, of those for numbers as they are."""
    found = dict(tensors)
    for kind in KINDS:
        weight = tensors[f"{kind}_encoder.weight"]
        found[f"{kind}_encoder.weight"] = weight * stds[kind]
        found[f"{kind}_encoder.bias"] = tensors[f"{kind}_encoder.bias"] + weight @ means[kind]
    return found
