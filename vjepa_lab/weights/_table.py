"""Names of the tensors of ``transformers``' V-JEPA 2 and ours, two columns of one table, and weights taken across it.

The table is written out for the depths of a model, so it is exact in both directions: what is missing from it or in
excess of it is an error. No number changes on the way. Queries, keys and values are three matrices there and one here;
mask tokens are one tensor there and several here.

Reference: transformers 5.23, models/vjepa2; released file src/models/attentive_pooler.py for the classifier.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor


class Row(NamedTuple):
    """Tensors of ours and theirs that hold the same numbers. Several of theirs are one of ours, joined along its first
    axis (``qkv``); several of ours are one of theirs, stacked along a new one (mask tokens)."""

    network: str
    "the part of ``Parts.networks`` that ours belong to"
    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    stacked: bool = False


class Depths(NamedTuple):
    """How often the repeated rows of the table occur."""

    encoder: int
    predictor: int
    mask_tokens: int
    pooler: int | None = None
    "self-attention blocks of the pooler of a classifier; None: a model without one"


def rows(depths: Depths) -> Iterator[Row]:
    """The whole table for one model, in the order of the parameters of our modules."""
    model = "" if depths.pooler is None else "vjepa2."
    yield from _linear("encoder", "patch_embed.proj", f"{model}encoder.embeddings.patch_embeddings.proj")
    yield from _blocks("encoder", "blocks", f"{model}encoder.layer", depths.encoder)
    yield from _linear("encoder", "norm", f"{model}encoder.layernorm")

    theirs = f"{model}predictor."
    yield from _linear("predictor", "predictor_embed", f"{theirs}embeddings.predictor_embeddings")
    tokens = tuple(f"mask_tokens.{i}" for i in range(depths.mask_tokens))
    yield Row("predictor", tokens, (f"{theirs}embeddings.mask_tokens",), stacked=True)
    yield from _blocks("predictor", "predictor_blocks", f"{theirs}layer", depths.predictor)
    yield from _linear("predictor", "predictor_norm", f"{theirs}layernorm")
    yield from _linear("predictor", "predictor_proj", f"{theirs}proj")
    if depths.pooler is not None:
        yield from _classifier(depths.pooler)


def _linear(network: str, ours: str, *theirs: str) -> Iterator[Row]:
    for kind in ("weight", "bias"):
        yield Row(network, (f"{ours}.{kind}",), tuple(f"{name}.{kind}" for name in theirs))


def _blocks(network: str, ours: str, theirs: str, depth: int) -> Iterator[Row]:
    for i in range(depth):
        a, b = f"{ours}.{i}", f"{theirs}.{i}"
        yield from _linear(network, f"{a}.norm1", f"{b}.norm1")
        yield from _linear(network, f"{a}.attn.qkv", *(f"{b}.attention.{x}" for x in ("query", "key", "value")))
        yield from _linear(network, f"{a}.attn.proj", f"{b}.attention.proj")
        for name in ("norm2", "mlp.fc1", "mlp.fc2"):
            yield from _linear(network, f"{a}.{name}", f"{b}.{name}")


def _classifier(blocks: int) -> Iterator[Row]:
    head = "classifiers.0"
    yield Row(head, ("pooler.query_tokens",), ("pooler.query_tokens",))
    a, b = "pooler.cross_attention_block", "pooler.cross_attention_layer"
    yield from _linear(head, f"{a}.norm1", f"{b}.layer_norm1")
    yield from _linear(head, f"{a}.xattn.q", f"{b}.cross_attn.q_proj")
    yield from _linear(head, f"{a}.xattn.kv", f"{b}.cross_attn.k_proj", f"{b}.cross_attn.v_proj")
    yield from _linear(head, f"{a}.norm2", f"{b}.layer_norm2")
    for name in ("mlp.fc1", "mlp.fc2"):
        yield from _linear(head, f"{a}.{name}", f"{b}.{name}")
    for i in range(blocks):
        a, b = f"pooler.blocks.{i}", f"pooler.self_attention_layers.{i}"
        yield from _linear(head, f"{a}.norm1", f"{b}.layer_norm1")
        yield from _linear(head, f"{a}.attn.qkv", *(f"{b}.self_attn.{x}_proj" for x in "qkv"))
        yield from _linear(head, f"{a}.attn.proj", f"{b}.self_attn.out_proj")
        yield from _linear(head, f"{a}.norm2", f"{b}.layer_norm2")
        for name in ("mlp.fc1", "mlp.fc2"):
            yield from _linear(head, f"{a}.{name}", f"{b}.{name}")
    yield from _linear(head, "linear", "classifier")


def to_ours(theirs: Mapping[str, Tensor], depths: Depths) -> dict[str, dict[str, Tensor]]:
    """Tensors of a folder under the released names, by network.

    Raises:
        ValueError: a tensor is missing, or one is not in the table; both are listed.
    """
    table = list(rows(depths))
    _complete({name for row in table for name in row.theirs}, set(theirs))
    networks: dict[str, dict[str, Tensor]] = {}
    for row in table:
        network = networks.setdefault(row.network, {})
        tensors = [theirs[name] for name in row.theirs]
        if row.stacked:
            network |= zip(row.ours, tensors[0].unbind(), strict=True)
        else:
            network[row.ours[0]] = torch.cat(tensors) if len(tensors) > 1 else tensors[0]
    return networks


def to_theirs(networks: Mapping[str, Mapping[str, Tensor]], depths: Depths) -> dict[str, Tensor]:
    """The inverse of ``to_ours``; every tensor is contiguous and has memory of its own.

    Raises:
        ValueError: a tensor is missing, or one is not in the table; both are listed.
    """
    table = list(rows(depths))
    got = {f"{network}.{name}" for network, tensors in networks.items() for name in tensors}
    _complete({f"{row.network}.{name}" for row in table for name in row.ours}, got)
    theirs: dict[str, Tensor] = {}
    for row in table:
        tensors = [networks[row.network][name] for name in row.ours]
        if row.stacked:
            theirs[row.theirs[0]] = torch.stack(tensors)
        else:
            chunks = tensors[0].chunk(len(row.theirs))
            theirs |= {name: chunk.clone().contiguous() for name, chunk in zip(row.theirs, chunks, strict=True)}
    return theirs


def _complete(expected: set[str], got: set[str]) -> None:
    told = [
        f"{len(names)} {word}: {', '.join(sorted(names)[:4])}{', ...' if len(names) > 4 else ''}"
        for word, names in (("missing", expected - got), ("in excess", got - expected))
        if names
    ]
    if told:
        raise ValueError(f"tensors {'; '.join(told)}")
