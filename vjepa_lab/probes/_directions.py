"""The direction of time: which classes become which when a clip is played backwards, and scores of who notices.

Letters: n clips, K classes; pi(k) the class of a clip of class k when it is reversed.

``AFR``, the antonym flip rate: of the clips that have an antonym and are classified rightly, the share whose reversal
is classified as the antonym. ``AFR_u``: of all clips that have an antonym, whatever the prediction forwards. ``AFR_2``:
AFR where a clip's own class and its antonym are the only ones on offer, so that a low accuracy among many classes does
not hide it; ties count one half.

``CD``, the clean-reversed distance: mean (1 - cosine) / 2 of the two features after the mean of the clean set is taken
away; ``CD_raw`` without that.

``DSCS``, the directional semantic coherence score, is AFR times CD', the mean of (1 - cosine), cut to 0..1, over the
same clips: both a flip of meaning and a change of features are needed. The published formula is not known; the product
is ours, and the geometric and harmonic means are given beside it.

``SS``, symmetric stability: of the clips of classes that look alike in both directions, the share whose prediction does
not change.

Antonym maps of Something-Something v2 (class numbers from 0): ``ssv2_strict`` has the pairs in which the opposite in
words is the reversal in fact; ``ssv2_lexical`` adds pulling and pushing by their words; ``ssv2_physical`` adds them as
they are (a pull from left to right, reversed, is a push from right to left), and five approximate pairs.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from vjepa_lab.probes._choice import prefers
from vjepa_lab.probes._neighbours import cosines

_STRICT = {0: 32, 5: 46, 6: 171, 14: 172, 36: 37, 40: 42, 41: 44, 43: 45, 165: 168, 166: 167}
PAIRS: dict[str, dict[int, int]] = {
    "ssv2_strict": _STRICT,
    "ssv2_lexical": _STRICT | {86: 87, 93: 94},
    "ssv2_physical": _STRICT | {86: 94, 87: 93, 47: 109, 49: 89, 106: 148, 4: 7, 104: 85},
    "synthetic": {k: k + 4 for k in range(4)},
}
SYMMETRIC = {"ssv2_strict": (16, 17, 18, 19, 20, 39, 124, 125, 126, 127, 130)}
"classes that look alike in both directions, by the map they go with; the three maps of ssv2 share theirs"
CLASSES = {"ssv2": 174, "synthetic": 8}
PARTS = 13
"columns of ``parts``"


def antonyms(choice: str | Mapping[int, int], classes: int) -> Tensor:
    """The antonym of each class, int64 (K,), -1 where there is none.

    Args:
        choice: ssv2_strict | ssv2_lexical | ssv2_physical | synthetic, or pairs {a: b}.
        classes: K.

    Raises:
        ValueError: no such map, one for another number of classes, or pairs that contradict each other.
    """
    if isinstance(choice, str):
        if choice not in PAIRS:
            raise ValueError(f"antonyms: got '{choice}', expected one of {', '.join(PAIRS)}, or pairs {{a: b}}")
        expected = CLASSES[choice.partition("_")[0]]
        if classes != expected:
            raise ValueError(f"antonyms: {choice} is for {expected} classes, got {classes}; give pairs {{a: b}}")
        pairs: Mapping[int, int] = PAIRS[choice]
    else:
        pairs = choice
    out = [-1] * classes
    for a, b in pairs.items():
        if not (0 <= a < classes and 0 <= b < classes) or a == b:
            raise ValueError(f"antonyms: got {{{a}: {b}}}, expected two different classes in 0..{classes - 1}")
        for one, other in ((a, b), (b, a)):
            if out[one] not in (-1, other):
                raise ValueError(f"antonyms: class {one} has two antonyms, {out[one]} and {other}")
            out[one] = other
    return torch.tensor(out)


def symmetric(choice: str | Mapping[int, int], classes: int) -> Tensor:
    """Which classes look alike in both directions: bool (K,); none for maps that do not say."""
    known = SYMMETRIC["ssv2_strict"] if isinstance(choice, str) and choice.startswith("ssv2") else ()
    out = torch.zeros(classes, dtype=torch.bool)
    out[list(known)] = True
    return out


def distances(clean: Tensor, backward: Tensor) -> tuple[Tensor, Tensor]:
    """1 - cosine of features (n, D) and of their reversals, without the clean set's mean and raw: float64 (n,) each."""
    raw, centred = cosines(clean, backward)
    return 1 - centred, 1 - raw


def parts(
    scores: Tensor,
    backward: Tensor,
    label: Tensor,
    antonym: Tensor,
    same: Tensor,
    distance: tuple[Tensor, Tensor],
) -> Tensor:
    """Summands of every clip, float64 (n, PARTS), of which ``figures`` makes the scores. NaN-free.

    Args:
        scores, backward: class scores (n, K) of the clips and of their reversals.
        label: int64 (n,).
        antonym: as ``antonyms``.
        same: as ``symmetric``.
        distance: as ``distances``.
    """
    flipped = antonym[label]
    has = (flipped >= 0).double()
    other = flipped.clamp_min(0)
    before, after = scores.argmax(1), backward.argmax(1)
    right = has * (before == label)
    flips = (after == other).double()
    two = has * prefers(scores, label, other)
    turned = prefers(backward, other, label)
    still = same[label].double()
    centred, raw = distance
    one = torch.ones_like(has)
    columns = [right, right * flips, has, has * flips, two, two * turned, right * centred.clamp(0, 1)]
    columns += [still, still * (before == after), one, centred / 2, raw / 2, (before == after).double()]
    return torch.stack(columns, 1)


def figures(sums: Tensor) -> dict[str, Tensor]:
    """Scores from sums of ``parts``: (R, PARTS) -> (R,) by name; NaN where nothing is there to be counted."""
    right, flips, has, flips_all, two, turned, apart, still, stable, n, centred, raw, unchanged = sums.unbind(1)
    afr, near = flips / right, apart / right
    return {
        "dscs": afr * near,
        "dscs_geometric": (afr * near).sqrt(),
        # 0 where both are: 2ab / (a + b) has no value there
        "dscs_harmonic": 2 * afr * near / torch.where(afr + near == 0, 1.0, afr + near),
        "afr": afr,
        "afr_u": flips_all / has,
        "afr_2": turned / two,
        "cd": centred / n,
        "cd_raw": raw / n,
        "symmetric_stability": stable / still,
        "unchanged": unchanged / n,
    }
