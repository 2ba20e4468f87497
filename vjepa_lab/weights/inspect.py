"""The verb ``inspect``: what a file of weights holds, every network of it, also where it could not be loaded."""

from __future__ import annotations

import logging
import sys

from vjepa_lab.config import InspectConfig
from vjepa_lab.weights.dialects import may_exceed
from vjepa_lab.weights.fill import blank, differences
from vjepa_lab.weights.parts import Parts, read
from vjepa_lab.weights.report import Report, facts_of, sizes_of
from vjepa_lab.weights.shapes import Asked, describe


def main(config: InspectConfig) -> int:
    """Print what ``config.file`` holds; returns the exit code, 0.

    Raises:
        ValueError, OSError: as ``parts.read``.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)  # a name may have to be fetched
    sys.stdout.write(f"{inspect(read(config.file))}\n")
    return 0


def inspect(parts: Parts) -> Report:
    """What ``parts`` hold. No tensor is read; keys and shapes of every network are compared with those expected."""
    encoder, why = parts.encoder() if parts.has_encoder else (None, "")
    found = describe(parts, encoder, Asked())
    warnings, ignored = list(found.unknown), []
    for name, tensors in parts.networks.items():
        extra = may_exceed(parts.dialect, name)
        role = "encoder" if name.endswith("encoder") else name
        warnings += [f"{name}: {text}" for text in differences(blank(found, role), tensors, extra)]
        ignored += [f"{name}.{key}" for key in sorted(extra & tensors.keys())]
    return Report(
        path=parts.path,
        dialect=parts.dialect,
        family=parts.family,
        encoder=encoder,
        why=why,
        parameters={name: sum(t.numel() for t in tensors.values()) for name, tensors in parts.networks.items()},
        sizes=sizes_of(found, parts),
        optimizer=parts.optimizer is not None,
        facts=facts_of(parts),
        ignored=[*ignored, *parts.facts.get("entries", ())],
        warnings=warnings,
    )
