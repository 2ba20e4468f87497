"""The configuration of networks from their tensors, and from elsewhere what shapes cannot tell.

Shapes give widths, depths, MLP widths, patch, tubelet, mask tokens, levels. They are read from biases and norms, which
have one axis, so that a transposed weight is found later by its own shape and does not change what is expected of it.
Heads cannot be read from shapes, and wrong ones load without complaint: they come from the caller, the file or the
table of released sizes, and never from a guess.

Reference: V-JEPA 2 paper, Table 12; released files src/hub/backbones.py and, for V-JEPA 2.1, app/vjepa_2_1/models.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from vjepa_lab.config import SIZES, EncoderConfig, PredictorConfig, PretrainConfig
from vjepa_lab.weights.parts import Parts

# By (width, depth), of all released models: among them g with 22 heads of 64, which 16 of 88 would fit too.
HEADS = {(size.width, size.depth): size.heads for size in SIZES.values()}
PREDICTOR_HEADS = {(384, 12): 12, (384, 24): 12}
AC_HEADS = {(1024, 24): 16}
CLASSIFIER_HEADS = 16
"of every released probe, whatever its width"

Tensors = Mapping[str, Tensor]


class Asked(NamedTuple):
    """What the caller says, over what the file says; None: nothing."""

    heads: int | None = None
    predictor_heads: int | None = None
    frames: int | None = None
    crop: int | None = None
    rope: str | None = None
    interpolate: bool | None = None
    extrinsics: bool = False


@dataclass(kw_only=True)
class Described:
    """A configuration that rebuilds the networks of a file."""

    config: PretrainConfig
    origin: dict[str, str] = field(default_factory=dict)
    "where the value of a field came from that shapes cannot tell"
    unknown: list[str] = field(default_factory=list)
    "heads that nothing tells, as sentences; until they are given the configuration computes something else"
    arguments: dict[str, dict[str, Any]] = field(default_factory=dict)
    "for the constructors of the AC predictor and the classifiers, whose sizes the configuration does not hold"


def describe(parts: Parts, encoder: str | None, asked: Asked) -> Described:
    """Say what the networks of ``parts`` are; ``encoder`` is the one to use, None where there is none.

    Raises:
        ValueError: a network lacks what its sizes are read from, or a value that was asked for is impossible.
    """
    own = parts.config()
    described = Described(config=own or PretrainConfig())
    described.config.encoder.attention = "sdpa"  # a choice of the machine that trained, not of the weights
    if own is None:
        described.config.encoder = _encoder(parts, parts.networks[encoder] if encoder else {})
        if "predictor" in parts.networks:
            described.config.predictor = _predictor(parts, described.config.encoder)
    _clips_and_positions(parts, described, asked)
    _heads_of_both(parts, described, asked, own is not None)
    for name in parts.networks:
        if name == "ac_predictor":
            described.arguments[name] = _ac_predictor(parts, described, asked)
        elif name.startswith("classifiers."):
            described.arguments[name] = _classifier(parts, name, described, None if encoder else asked.heads)
    return described


def _encoder(parts: Parts, tensors: Tensors) -> EncoderConfig:
    newer = parts.family == "vjepa2.1"
    config = EncoderConfig(family="vjepa2.1" if newer else "vjepa2", interpolate=newer)
    config.rope = "exact" if newer else "released"
    if not tensors:  # a predictor alone: it says how wide its encoder is
        if "predictor" in parts.networks:
            config.width = _encoder_width(parts, parts.networks["predictor"])
        return config
    width = _length(parts, tensors, "norm1.bias", "norm.bias", "patch_embed.proj.bias")
    depth = _depth(parts, tensors, "blocks")
    mlp = _length(parts, tensors, "mlp.fc1.bias")
    names = [name for name, size in SIZES.items() if (size.width, size.depth) == (width, depth)]
    if names:
        config.size = names[0]
    else:
        config.width, config.depth = width, depth
    if config.resolved().mlp != mlp:
        config.mlp_width = mlp
    embed = tensors.get("patch_embed.proj.weight")
    if embed is not None:
        if embed.ndim != 5:
            raise ValueError(
                f"{parts.path}: patch_embed.proj.weight has the shape {tuple(embed.shape)}, expected one of five axes: "
                "this is an encoder of single images, not of clips"
            )
        config.tubelet, config.patch = embed.shape[2], embed.shape[4]
    return config


def _predictor(parts: Parts, encoder: EncoderConfig) -> PredictorConfig:
    tensors = parts.networks["predictor"]
    config = PredictorConfig(
        width=_length(parts, tensors, "predictor_norm.bias", "norm1.bias"),
        depth=_depth(parts, tensors, "predictor_blocks"),
        mask_tokens=sum(key.startswith("mask_tokens.") for key in tensors),
        levels=4 if "predictor_embed.2.bias" in tensors else 1,
    )
    out = _length(parts, tensors, "predictor_proj.bias")
    if out != config.levels * encoder.resolved().width:
        config.out_width = out
    return config


def _clips_and_positions(parts: Parts, described: Described, asked: Asked) -> None:
    encoder = described.config.encoder
    for name in ("frames", "crop", "rope", "interpolate"):
        given, in_file = getattr(asked, name), parts.facts.get(name)
        otherwise = "assumed" if name in ("frames", "crop") else "of its family"
        described.origin[name] = _origin(parts, given, in_file, otherwise)
        if given is None and name in ("frames", "crop") and "released" in parts.facts:
            described.origin[name] = "of the released model"
        if name in ("frames", "crop") and given is not None and given < 1:
            raise ValueError(f"{name}: got {given}, expected 1 or more")
        value = in_file if given is None else given
        if value is not None:
            setattr(encoder, name, value)
    if encoder.rope not in ("released", "exact"):
        raise ValueError(f"rope: got '{encoder.rope}', expected released or exact")


def _heads_of_both(parts: Parts, described: Described, asked: Asked, own: bool) -> None:
    encoder, predictor = described.config.encoder, described.config.predictor
    if parts.has_encoder:
        size = encoder.resolved()
        told = size.heads if own else HEADS.get((size.width, size.depth))
        heads = _heads(parts, described, "heads", asked.heads, told, (size.width, size.depth))
        encoder.heads = None if heads == SIZES[encoder.size].heads else heads
    if "predictor" in parts.networks:
        size = (predictor.width, predictor.depth)
        told = predictor.heads if own else PREDICTOR_HEADS.get(size)
        predictor.heads = _heads(parts, described, "predictor_heads", asked.predictor_heads, told, size)


def _ac_predictor(parts: Parts, described: Described, asked: Asked) -> dict[str, Any]:
    tensors = parts.networks["ac_predictor"]
    width = _length(parts, tensors, "predictor_norm.bias", "norm1.bias")
    depth = _depth(parts, tensors, "predictor_blocks")
    own = parts.world_config()
    heads = AC_HEADS.get((width, depth)) if own is None else own.predictor.heads
    arguments = {
        "encoder_width": _length(parts, tensors, "predictor_proj.bias"),
        "width": width,
        "depth": depth,
        "heads": _heads(parts, described, "predictor_heads", asked.predictor_heads, heads, (width, depth)),
        "mlp_hidden": _length(parts, tensors, "mlp.fc1.bias"),
        "use_extrinsics": asked.extrinsics or (own is not None and own.predictor.extrinsics),
        "rope": described.config.encoder.rope if own is None or asked.rope is not None else own.predictor.rope,
    }
    for kind in ("action", "state", "extrinsics"):
        weight = tensors.get(f"{kind}_encoder.weight")
        if weight is not None:
            arguments[f"{kind}_dim"] = min(weight.shape)  # far below the width, also where it is transposed
    return arguments


def _classifier(parts: Parts, name: str, described: Described, asked: int | None) -> dict[str, Any]:
    tensors = parts.networks[name]
    width = _length(parts, tensors, "norm1.bias")
    # Queries stand in this order; a file may list its tensors in another.
    layers = [f"{kind}_classifier" for kind in ("verb", "noun", "action")]
    classes = {k.partition("_")[0]: len(tensors[f"{k}.bias"]) for k in layers if f"{k}.bias" in tensors}
    in_file = parts.facts.get("pooler_heads")
    heads = in_file if asked is None else asked
    heads = CLASSIFIER_HEADS if heads is None else heads
    if heads < 1 or width % heads:
        raise ValueError(f"{parts.path}: {name}: {heads} heads do not divide the width {width}: give heads=")
    described.origin["pooler_heads"] = _origin(parts, asked, in_file, "of every released probe")
    return {
        "width": width,
        "heads": heads,
        "depth": 1 + sum(key.startswith("pooler.blocks.") and key.endswith("norm1.bias") for key in tensors),
        "classes": classes or _length(parts, tensors, "linear.bias"),
        "eps": parts.facts.get("pooler_eps", 1e-5),
    }


def _heads(
    parts: Parts, described: Described, name: str, asked: int | None, told: int | None, size: tuple[int, int]
) -> int:
    in_file = parts.facts.get(name)
    heads = in_file if asked is None else asked
    heads = told if heads is None else heads
    if heads is None:
        described.origin[name] = "unknown"
        described.unknown.append(
            f"heads cannot be read from shapes, and the table of released sizes has no width {size[0]} with depth "
            f"{size[1]}: give {name}="
        )
        return 1
    if heads < 1 or size[0] % heads:
        raise ValueError(f"{parts.path}: {name}={heads} does not divide the width {size[0]}")
    described.origin[name] = _origin(parts, asked, in_file, "table of released sizes")
    return heads


def _origin(parts: Parts, asked: object, in_file: object, otherwise: str) -> str:
    if asked is not None:
        return "given"
    return "file" if in_file is not None or "config" in parts.facts else otherwise


def _encoder_width(parts: Parts, tensors: Tensors) -> int:
    if "predictor_embed.0.bias" in tensors:
        return _length(parts, tensors, "predictor_embed.0.bias")
    embed = tensors.get("predictor_embed.weight")
    if embed is None or parts.family == "vjepa2":
        return _length(parts, tensors, "predictor_proj.bias")
    return embed.shape[1]  # a distilled predictor gives its teacher's width


def _length(parts: Parts, tensors: Tensors, *endings: str) -> int:
    """Length of the first tensor whose name ends so; all blocks of a network are alike."""
    for ending in endings:
        for key, value in tensors.items():
            if (key == ending or key.endswith(f".{ending}")) and value.ndim == 1:
                return len(value)
    raise ValueError(f"{parts.path}: has no {' or '.join(endings)}, from which a width would be read")


def _depth(parts: Parts, tensors: Tensors, blocks: str) -> int:
    found = [int(m.group(1)) for key in tensors if (m := re.match(rf"{re.escape(blocks)}\.(\d+)\.", key))]
    if not found:
        raise ValueError(f"{parts.path}: has no {blocks}.0")
    return max(found) + 1
