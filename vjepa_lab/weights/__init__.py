"""Weights of others and of ours: recognised, checked key by key, and loaded into networks.

``load`` is the one way in. A file is recognised by its keys (``dialects``), opened without running code (``files``),
its sizes are read from its shapes (``shapes``), and its networks are built, compared and filled (``fill``). There is no
loose loading: each layout has a list of what it may hold in excess, and everything else is an error.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import NamedTuple

from torch import nn

from vjepa_lab.config import PretrainConfig
from vjepa_lab.nn.ac_predictor import ACPredictor
from vjepa_lab.nn.encoder import Encoder
from vjepa_lab.nn.pooler import AttentiveClassifier
from vjepa_lab.nn.predictor import Predictor
from vjepa_lab.weights.dialects import may_exceed
from vjepa_lab.weights.fill import blank, compare, fill, first_few
from vjepa_lab.weights.parts import EncoderChoice, read
from vjepa_lab.weights.report import Report, facts_of, sizes_of
from vjepa_lab.weights.shapes import Asked, describe

__all__ = ["Loaded", "Report", "load"]


class Loaded(NamedTuple):
    """Networks of a file, in evaluation mode, float32, on the CPU; None where it has none.

    Parameters are mapped from the file, not read: move or clone them before it is overwritten in place (``cp``,
    ``rsync --inplace``), which would end the process. A file that is replaced by renaming, as ours are, does no harm.
    """

    encoder: Encoder | None
    predictor: Predictor | None
    ac_predictor: ACPredictor | None
    heads: list[AttentiveClassifier]
    "attentive classifiers, in the order of the file"
    config: PretrainConfig
    "its encoder and predictor blocks rebuild the networks"
    report: Report


def load(
    path_or_name: str | Path,
    *,
    encoder: EncoderChoice = "auto",
    heads: int | None = None,
    predictor_heads: int | None = None,
    frames: int | None = None,
    crop: int | None = None,
    rope: str | None = None,
    interpolate: bool | None = None,
    extrinsics: bool = False,
) -> Loaded:
    """Load the networks of a file, a folder or a released model, whoever wrote it.

    Read are: released V-JEPA 2, 2-AC, 2.1 and probe files, and their names (``names.TABLE``); checkpoints and folders
    of our runs; our safetensors exports; Hugging Face folders of ``VJEPA2Model`` and ``VJEPA2ForVideoClassification``;
    state dicts of one network.

    Args:
        encoder: which of the encoders in the file: ``online``, the trained one; ``target``, its moving average;
            ``ema``, the average of a distilled V-JEPA 2.1; ``auto``, the average where there is one.
        heads: of the encoder, and of the classifiers of a file without one. Shapes do not tell heads; where the file
            does not either, they come from the table of released sizes, and for another size must be given.
        predictor_heads: the same of the predictor, masked or action-conditioned.
        frames, crop: of the clips, for ``config``; the networks take any.
        rope, interpolate: as ``EncoderConfig``; if not given, what the file's family was trained with.
        extrinsics: the AC predictor takes camera poses; the file holds the same tensors in both cases.

    Raises:
        ValueError: no such file, damaged, refused because it would run code, not recognised; keys that are missing,
            in excess, transposed or of another shape (all are listed); heads that nothing tells.
        OSError: a released file could not be fetched.
    """
    parts = read(path_or_name)
    chosen, why = parts.encoder(encoder) if parts.has_encoder or encoder != "auto" else (None, "")
    found = describe(parts, chosen, Asked(heads, predictor_heads, frames, crop, rope, interpolate, extrinsics))
    if found.unknown:
        raise ValueError(f"{parts.path}: {'; '.join(found.unknown)}")
    sources = {"encoder": chosen} if chosen else {}
    sources |= {name: name for name in parts.networks if name == "predictor" or name in found.arguments}
    networks: dict[str, nn.Module] = {}
    ignored, warned = [], []
    for role, source in sources.items():
        tensors, extra = parts.networks[source], may_exceed(parts.dialect, source)
        networks[role] = network = blank(found, role)
        compare(network, tensors, path=parts.path, name=source, may_exceed=extra)
        bad = fill(network, tensors)
        if bad:
            warned.append(f"{parts.path}: {source}: not finite (NaN or infinite): {first_few(bad)}")
            warnings.warn(warned[-1], stacklevel=2)
        ignored += [f"{source}.{key}" for key in sorted(extra & tensors.keys())]
    report = Report(
        path=parts.path,
        dialect=parts.dialect,
        family=parts.family,
        encoder=chosen,
        why=why,
        parameters={role: sum(p.numel() for p in network.parameters()) for role, network in networks.items()},
        sizes=sizes_of(found, parts),
        optimizer=parts.optimizer is not None,
        facts=facts_of(parts),
        ignored=[*ignored, *parts.facts.get("entries", ())],
        warnings=warned,
    )
    return Loaded(
        encoder=networks.get("encoder"),  # type: ignore[arg-type]
        predictor=networks.get("predictor"),  # type: ignore[arg-type]
        ac_predictor=networks.get("ac_predictor"),  # type: ignore[arg-type]
        heads=[network for network in networks.values() if isinstance(network, AttentiveClassifier)],
        config=found.config,
        report=report,
    )
