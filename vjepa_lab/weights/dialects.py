"""Whose file is this? Layouts of weights, told apart by their keys, and the same networks taken out of each.

==================  ==============================================================================================
released            ``encoder``, ``target_encoder`` or ``ema_encoder``, ``predictor``; names begin with
                    ``module.backbone.`` (pretraining) or ``module.`` (2-AC). 2.1 where an encoder has ``norms_block``;
                    distilled where there is an ``ema_encoder``; 2-AC where the predictor has an ``action_encoder``
probe               ``classifiers``, a list of attentive classifiers
run                 ``global_step``, ``config``, ``state_dict``: ``jepa.context.``, ``jepa.target.``, ``jepa.predictor``
                    (of a post-training ``world.encoder.``, ``world.predictor.`` and statistics, see ``standard``)
safetensors         our export: ``encoder.``, ``target_encoder.``, ``predictor.``, and metadata ``format: vjepa_lab``
state-dict          one network, names with or without a released prefix
==================  ==============================================================================================

Decision. A prefix is taken off only where every name of a network has it, and only from the front: names are compared
with the model's afterwards, one by one, so nothing may be lost here. Top-level entries that no layout knows are not
read, but are listed in ``facts["entries"]``: they cannot change what the networks compute.

Reference: released files app/vjepa/train.py and app/vjepa_droid/train.py (``save_checkpoint``), src/hub/backbones.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from vjepa_lab.weights.standard import KINDS, folded

TITLES = {
    "vjepa2": "released V-JEPA 2 pretraining",
    "vjepa2-ac": "released V-JEPA 2-AC",
    "vjepa2.1": "released V-JEPA 2.1",
    "vjepa2.1-distilled": "released V-JEPA 2.1, distilled",
    "probe": "released attentive probe",
    "run": "checkpoint of a run",
    "safetensors": "safetensors export",
    "huggingface": "Hugging Face folder",
    "state-dict": "state dict of one network",
}
RELEASED = ("vjepa2", "vjepa2-ac", "vjepa2.1", "vjepa2.1-distilled", "probe")

# What a layout may hold in excess of a model, per network: sin-cos positions, which stayed in files of models that
# have rotary ones. Nothing may be missing in any layout.
MAY_EXCEED = {
    "vjepa2": {"encoder": {"pos_embed"}, "predictor": {"predictor_pos_embed"}},
    "vjepa2-ac": {"encoder": {"pos_embed"}, "predictor": {"predictor_pos_embed"}},
    "state-dict": {"encoder": {"pos_embed"}, "predictor": {"predictor_pos_embed"}},
}

_ENCODERS = ("encoder", "target_encoder", "ema_encoder")
_FACTS = ("epoch", "loss", "lr", "batch_size", "world_size")
_PREFIXES = ("module.", "backbone.")
_RUN = {"jepa.context.": "encoder", "jepa.target.": "target_encoder", "jepa.predictor.": "predictor"}
_LEFT_OUT = "inverse."
"the head of inverse dynamics, which serves its training alone"
_WORLD = {"world.encoder.": "encoder", "world.predictor.": "ac_predictor"}
_EXPORT = {f"{name}.": name for name in (*_ENCODERS, "predictor", "ac_predictor")}
# A key that tells which network a state dict is of; the first that is there decides.
_MARKS = {
    "pooler.query_tokens": "classifiers.0",
    "action_encoder.weight": "ac_predictor",
    "predictor_norm.weight": "predictor",
    "patch_embed.proj.weight": "encoder",
    "norm.weight": "encoder",
    "norms_block.0.weight": "encoder",
}


class Contents(NamedTuple):
    """A file taken apart: see ``parts.Parts``, of which these are fields."""

    dialect: str
    networks: dict[str, dict[str, Tensor]]
    facts: dict[str, Any]
    optimizer: dict[str, Any] | None = None


def may_exceed(dialect: str, network: str) -> set[str]:
    """Keys of a network that this layout may hold although no model has them."""
    role = "encoder" if network in _ENCODERS else "predictor" if network == "ac_predictor" else network
    return MAY_EXCEED.get(dialect, {}).get(role, set())


def from_pickle(path: Path, raw: Mapping[str, Any]) -> Contents:
    """Take apart what ``torch.save`` wrote.

    Raises:
        ValueError: none of the layouts; the message says what the file has at the top.
    """
    if "state_dict" in raw and "global_step" in raw:
        return _run(path, raw)
    if isinstance(raw.get("classifiers"), list):
        heads = {f"classifiers.{i}": _bare(path, f"classifiers.{i}", h) for i, h in enumerate(raw["classifiers"])}
        return Contents("probe", heads, _facts(raw, {"classifiers"}))
    if any(isinstance(raw.get(name), Mapping) for name in _ENCODERS):
        return _released(path, raw)
    if raw and all(isinstance(value, Tensor) for value in raw.values()):
        return _state_dict(path, raw)
    top = ", ".join(sorted(map(str, raw))[:8]) or "nothing"
    raise ValueError(f"{path}: not weights that this package knows; at the top it has {top}")


def from_tensors(path: Path, tensors: dict[str, Tensor], metadata: Mapping[str, str]) -> Contents:
    """Take apart a safetensors file: our export, or the state dict of one network.

    Raises:
        ValueError: neither; a file of a Hugging Face folder is told to be opened by its folder.
    """
    if metadata.get("format") != "vjepa_lab":
        if any(name.startswith(("encoder.layer.", "vjepa2.encoder.")) for name in tensors):
            raise ValueError(f"{path}: belongs to a Hugging Face folder: give the folder, which holds its config.json")
        return _state_dict(path, tensors)
    facts: dict[str, Any] = {}
    try:
        if "config" in metadata:
            facts["config"] = json.loads(metadata["config"])
        if "step" in metadata:
            facts["step"] = int(metadata["step"])
    except ValueError as error:
        raise ValueError(f"{path}: its metadata cannot be read: {error}") from None
    return Contents("safetensors", _by_prefix(path, tensors, _EXPORT), facts)


def _run(path: Path, raw: Mapping[str, Any]) -> Contents:
    tensors = dict(raw["state_dict"])
    if any(name.startswith("world.") for name in tensors):
        networks = _world(path, tensors)
    else:
        kept = {name: value for name, value in tensors.items() if not name.startswith(_LEFT_OUT)}
        networks = _by_prefix(path, kept, _RUN)
    facts = {"step": int(raw["global_step"])} | ({"config": raw["config"]} if raw.get("config") else {})
    states = raw.get("optimizer_states") or [None]
    return Contents("run", networks, facts, states[0])


def _world(path: Path, tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Networks of a post-training, the AC predictor written for states and actions as they are."""
    names = {f"world.{kind}_{what}" for kind in KINDS for what in ("mean", "std")}
    networks = _by_prefix(path, {name: value for name, value in tensors.items() if name not in names}, _WORLD)
    if not names <= tensors.keys() or networks.keys() != set(_WORLD.values()):
        raise ValueError(f"{path}: a checkpoint of a post-training without encoder, predictor or statistics of states")
    means, stds = ({kind: tensors[f"world.{kind}_{what}"] for kind in KINDS} for what in ("mean", "std"))
    networks["ac_predictor"] = folded(networks["ac_predictor"], means, stds)
    return networks


def _released(path: Path, raw: Mapping[str, Any]) -> Contents:
    present = [name for name in (*_ENCODERS, "predictor") if raw.get(name)]
    networks = {name: _bare(path, name, raw[name]) for name in present}
    if any("norms_block.0.weight" in networks.get(name, {}) for name in _ENCODERS):
        dialect = "vjepa2.1-distilled" if "ema_encoder" in networks else "vjepa2.1"
    elif "action_encoder.weight" in networks.get("predictor", {}):
        dialect = "vjepa2-ac"
        networks["ac_predictor"] = networks.pop("predictor")
    else:
        dialect = "vjepa2"
    read = {*_ENCODERS, "predictor", "opt", "scaler"}
    return Contents(dialect, networks, _facts(raw, read), raw.get("opt") or None)


def _state_dict(path: Path, raw: Mapping[str, Any]) -> Contents:
    tensors = _bare(path, "state dict", raw)
    network = next((network for key, network in _MARKS.items() if key in tensors), None)
    if network is None:
        first = ", ".join(sorted(tensors)[:4])
        raise ValueError(f"{path}: the state dict of no network that this package knows; it begins with {first}")
    return Contents("state-dict", {network: tensors}, {})


def _bare(path: Path, name: str, tensors: Any) -> dict[str, Tensor]:
    """The tensors of a network, their names without the prefixes that all of them have."""
    if not isinstance(tensors, Mapping) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise ValueError(f"{path}: expected '{name}' to be a mapping of names to tensors")
    bare: dict[str, Tensor] = dict(tensors)
    while prefix := next((p for p in _PREFIXES if bare and all(key.startswith(p) for key in bare)), None):
        bare = {key.removeprefix(prefix): value for key, value in bare.items()}
    return bare


def _by_prefix(path: Path, tensors: Mapping[str, Tensor], roles: Mapping[str, str]) -> dict[str, dict[str, Tensor]]:
    networks: dict[str, dict[str, Tensor]] = {}
    unknown = []
    for key, value in tensors.items():
        prefix = next((p for p in roles if key.startswith(p)), None)
        if prefix is None:
            unknown.append(key)
        else:
            networks.setdefault(roles[prefix], {})[key.removeprefix(prefix)] = value
    if unknown or not networks:
        shown = ", ".join(unknown[:4]) or "none at all"
        raise ValueError(
            f"{path}: expected names that begin with {', '.join(roles)}; got {len(unknown)} others: {shown}"
        )
    return networks


def _facts(raw: Mapping[str, Any], read: set[str]) -> dict[str, Any]:
    facts = {name: raw[name] for name in _FACTS if isinstance(raw.get(name), (int, float))}
    entries = sorted(str(name) for name in raw.keys() - read - set(_FACTS))
    return facts | ({"entries": entries} if entries else {})
