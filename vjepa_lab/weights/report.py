"""What was found in a file and what was made of it, in words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from vjepa_lab.config import EncoderConfig
from vjepa_lab.weights.dialects import TITLES
from vjepa_lab.weights.parts import Parts
from vjepa_lab.weights.shapes import Described


class Report(NamedTuple):
    """One file of weights; ``str`` of it is for people."""

    path: Path
    dialect: str
    family: str | None
    encoder: str | None
    "network that the encoder was taken from"
    why: str
    "why that one"
    parameters: dict[str, int]
    "numbers of parameters, by network"
    sizes: list[str]
    "a line for each network, and for what shapes cannot tell where it came from"
    optimizer: bool
    "whether the file holds the state of one"
    facts: dict[str, int | float]
    "step, epoch and so on, as the file says"
    ignored: list[str]
    "keys and top-level entries of the file that are not used"
    warnings: list[str]

    def __str__(self) -> str:
        family = f", family {self.family}" if self.family else ""
        lines = [f"{self.path}: {TITLES[self.dialect]}{family}"]
        lines += [f"{name}: {count / 1e6:.2f} M parameters" for name, count in self.parameters.items()]
        if self.encoder:
            lines.append(f"encoder taken: {self.encoder} ({self.why})")
        lines += self.sizes
        lines.append(f"optimizer: {'yes' if self.optimizer else 'no'}")
        if self.facts:
            lines.append(", ".join(f"{name} {value}" for name, value in self.facts.items()))
        if self.ignored:
            lines.append(f"not used: {', '.join(self.ignored)}")
        lines += [f"warning: {text}" for text in self.warnings]
        return "\n  ".join(lines)


def facts_of(parts: Parts) -> dict[str, int | float]:
    """Step, epoch and the like."""
    return {name: parts.facts[name] for name in ("step", "epoch", "loss", "lr") if name in parts.facts}


def sizes_of(described: Described, parts: Parts) -> list[str]:
    """A line for each kind of network, with heads and resolution and where they came from."""
    return list(_sizes(described, parts))


def _sizes(described: Described, parts: Parts) -> Iterator[str]:
    config, origin = described.config, described.origin
    encoder, predictor = config.encoder, config.predictor
    if parts.has_encoder:
        size = encoder.resolved()
        heads = _told("heads", size.heads, origin)
        yield (
            f"encoder: {_named(encoder)}width {size.width}, depth {size.depth}, heads {heads}, MLP {size.mlp}, "
            f"patch {encoder.patch}, tubelet {encoder.tubelet}"
        )
    if "predictor" in parts.networks:
        heads = _told("predictor_heads", predictor.heads, origin)
        out = "" if predictor.out_width is None else f", output {predictor.out_width}"
        yield (
            f"predictor: width {predictor.width}, depth {predictor.depth}, heads {heads}, mask tokens "
            f"{predictor.mask_tokens}, levels {predictor.levels}{out}"
        )
    if parts.family is not None:
        yield f"rope: {_told('rope', encoder.rope, origin)}"
        if encoder.interpolate or parts.family == "vjepa2.1":
            yield f"interpolate: {_told('interpolate', encoder.interpolate, origin)}"
        yield f"clips: frames {_told('frames', encoder.frames, origin)}, pixels {_told('crop', encoder.crop, origin)}"
    for name, arguments in described.arguments.items():
        heads = _told("predictor_heads" if name == "ac_predictor" else "pooler_heads", arguments["heads"], origin)
        more = f"actions {arguments['action_dim']}" if name == "ac_predictor" else f"classes {arguments['classes']}"
        yield f"{name}: width {arguments['width']}, depth {arguments['depth']}, heads {heads}, {more}"


def _told(name: str, value: object, origin: dict[str, str]) -> str:
    came = origin.get(name, "")
    return "unknown" if came == "unknown" else f"{value} ({came})"


def _named(encoder: EncoderConfig) -> str:
    return f"{encoder.size}, " if encoder.width is None and encoder.depth is None else ""
