"""Pretending and doing: classes of Something-Something v2 that differ in whether contact, or its effect, happens."""

from __future__ import annotations

import torch
from torch import Tensor

from vjepa_lab.probes._choice import prefers

CLASSES = 174
"of the data set"
PRETEND = {
    63: 173, 64: 170, 65: 149, 66: 5, 67: 46, 68: 47, 69: 55, 70: 62, 71: 104, 72: 106, 73: 107,
    74: 109, 75: 112, 76: 118, 77: 123, 78: 141, 79: 142, 80: 143, 81: 147, 82: 148, 83: 151, 84: 164,
}  # fmt: skip
"class of pretending -> class of doing, numbered from 0"


def pretend_scores(scores: Tensor, label: Tensor) -> dict[str, Tensor]:
    """How the clips of pretending classes, and of doing, are classified.

    Args:
        scores: (n, 174).
        label: int64 (n,).

    Returns:
        Float64 (n,) by name, 0 to 1, NaN for clips that a measure is not about: ``top1`` among all classes and
        ``top1_of_22`` among those of pretending, for their clips; ``pretending``, for their clips, and ``doing``, for
        the clips of the classes paired with them, whether a clip's class beats its partner (a tie is one half).
    """
    pretend = torch.tensor(list(PRETEND))
    partner = torch.full((scores.shape[1],), -1)
    partner[pretend] = torch.tensor(list(PRETEND.values()))
    partner[partner[pretend]] = pretend
    is_pretend = torch.isin(label, pretend)
    narrowed = pretend[scores[:, pretend].argmax(1)]
    other = partner[label]
    right = prefers(scores, label, other.clamp_min(0))
    return {
        "top1": torch.where(is_pretend, (scores.argmax(1) == label).double(), torch.nan),
        "top1_of_22": torch.where(is_pretend, (narrowed == label).double(), torch.nan),
        "pretending": torch.where(is_pretend, right, torch.nan),
        "doing": torch.where(~is_pretend & (other >= 0), right, torch.nan),
    }
