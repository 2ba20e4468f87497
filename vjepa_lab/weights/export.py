"""The verb ``export``: the weights of a run, or of any file that can be read, written for other software.

=============  ======================================================================  =================================
to             what is written                                                         what reads it
=============  ======================================================================  =================================
safetensors    one file: every network under its name, the configuration as metadata   this package, safetensors
original       one file laid out as released: encoder, target_encoder, predictor, opt  the released code and its hub
               (of a post-training the layout of V-JEPA 2-AC, without opt)
huggingface    a folder: target encoder and predictor, config, video processor         ``transformers``
=============  ======================================================================  =================================

Decisions. What the reader could not compute is refused with its reason, not approximated: the released code and
``transformers`` know the tiled rotary layout and the GELU MLP alone, and ``transformers`` has no V-JEPA 2.1. An export
is written beside its final name and renamed, so a file under that name is whole. What is there already is replaced only
in the folder of a run under the names that this verb gives there; anything else that exists is refused.

Reference: released files app/vjepa/train.py (``save_checkpoint``), src/hub/backbones.py; transformers 5.23.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from vjepa_lab.config import ExportConfig, PretrainConfig
from vjepa_lab.merge import to_plain
from vjepa_lab.weights import huggingface, parts
from vjepa_lab.weights.dialects import TITLES, may_exceed
from vjepa_lab.weights.fill import blank, compare
from vjepa_lab.weights.optimizer import moments, released_state
from vjepa_lab.weights.parts import Parts
from vjepa_lab.weights.shapes import Asked, Described, describe

log = logging.getLogger("vjepa_lab")

_NAMES = {"safetensors": "export.safetensors", "original": "export-original.pt", "huggingface": "export-huggingface"}
_READERS = {"original": "the released code", "huggingface": "transformers"}
# A new GradScaler's state, with torch's defaults: the released training loop has one under bfloat16 too.
_SCALER = {"scale": 65536.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000, "_growth_tracker": 0}


class Written(NamedTuple):
    """What was written, in words."""

    holds: str
    load: str
    "how to load it; {out} stands for the path"


def main(config: ExportConfig) -> int:
    """Write the export that ``config`` asks for; returns the exit code.

    Raises:
        ValueError: the weights cannot be read, are not what the reader expects, or the output exists.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    source = Path(config.run).expanduser()
    out = _destination(config, source)
    read = parts.read(config.run)
    described, networks = _describe(read, config.to)
    aside = out.with_name(out.name + ".part")
    _remove(aside)
    out.parent.mkdir(parents=True, exist_ok=True)
    if config.to == "safetensors":
        written = write_safetensors(aside, read, networks, described)
    elif config.to == "original":
        written = write_original(aside, read, networks, described)
    else:
        written = write_huggingface(aside, read, networks, described)
    files = [*aside.iterdir()] if aside.is_dir() else [aside]
    size = sum(file.stat().st_size for file in files) / 1e6
    _settle(files)
    _remove(out)
    aside.rename(out)
    log.info("wrote %s (%.1f MB) from %s, %s", out, size, read.path, _age(read))
    log.info("it holds %s; load it with %s", written.holds, written.load.format(out=out))
    return 0


def write_safetensors(
    path: Path, read: Parts, networks: Mapping[str, Mapping[str, Tensor]], config: PretrainConfig
) -> Written:
    """One file of all networks, with the configuration and the step as metadata; no optimizer."""
    tensors = {
        f"{role}.{name}": value.contiguous() for role, network in networks.items() for name, value in network.items()
    }
    world = read.world_config()
    if world is not None:
        world.world.standardise = False  # as the predictor was read: see ``standard``
    metadata = {"format": "vjepa_lab", "config": json.dumps(to_plain(config if world is None else world))}
    if "step" in read.facts:
        metadata["step"] = str(read.facts["step"])
    save_file(tensors, path, metadata=metadata)
    fields = "init.checkpoint={out}" if world is None else "init.encoder={out} and init.predictor={out}"
    return Written(", ".join(networks), f"vjepa_lab.load('{{out}}'), or start a run from it with {fields}")


def write_original(
    path: Path, read: Parts, networks: Mapping[str, Mapping[str, Tensor]], config: PretrainConfig
) -> Written:
    """A checkpoint laid out as the released training loop writes it.

    ``encoder`` is the trained one, ``target_encoder`` (of a distilled model ``ema_encoder``) its moving average; with
    one encoder at hand both are that. The optimizer's state goes along where there is one. ``epoch`` is 0 unless the
    file tells one: an epoch there is a number of steps that the reader's own configuration sets.
    """
    average = "ema_encoder" if "ema_encoder" in networks else "target_encoder"  # the first in a distilled model's file
    online = networks.get("encoder") or networks[average]
    target = networks.get(average) or online
    predictor, prefix = networks.get("predictor"), "module.backbone."
    if predictor is None:
        predictor, prefix = networks["ac_predictor"], "module."
    written = {"encoder": online, "predictor": predictor, average: target}
    state: dict[str, Any] = {}
    if read.optimizer is not None and "encoder" in networks and "predictor" in networks:
        state = released_state(moments(read), written, read.optimizer["param_groups"])
    checkpoint = {
        **{name: {prefix + k: v for k, v in tensors.items()} for name, tensors in written.items()},
        "opt": state,
        "scaler": _SCALER,
        "epoch": read.facts.get("epoch", 0),
        "loss": read.facts.get("loss", math.nan),
        "batch_size": read.facts.get("batch_size", config.data.batch),
        "world_size": read.facts.get("world_size", 1),
        "lr": state["param_groups"][0]["lr"] if state else read.facts.get("lr", 0.0),
    }
    torch.save(checkpoint, path)
    encoders = f"encoder (and the same again as {average})" if target is online else f"encoder, {average}"
    masked = "predictor" in networks
    tokens = f"predictor ({config.predictor.mask_tokens} mask tokens)" if masked else "AC predictor"
    fields = "init.checkpoint={out}" if masked else "init.encoder={out} and init.predictor={out}"
    return Written(
        f"{encoders}, {tokens}, {'the optimizer' if state else 'no optimizer'}",
        f"the released src.hub.backbones, or start a run from it with {fields}",
    )


def write_huggingface(
    path: Path, read: Parts, networks: Mapping[str, Mapping[str, Tensor]], config: PretrainConfig
) -> Written:
    """A folder for ``transformers``: the target encoder where there is one, and the predictor."""
    role, why = read.encoder()
    chosen = {"encoder": networks[role], **{n: t for n, t in networks.items() if n in ("predictor", "classifiers.0")}}
    origin = {"written_by": "vjepa_lab", "encoder": role} | (
        {"step": str(read.facts["step"])} if "step" in read.facts else {}
    )
    huggingface.write_folder(path, chosen, config, labels=read.facts.get("labels", ()), origin=origin)
    model = "VJEPA2ForVideoClassification" if "classifiers.0" in chosen else "VJEPA2Model"
    holds = f"{', '.join(chosen)}, where encoder is the file's {role} ({why})"
    return Written(holds, f"transformers: {model}.from_pretrained('{{out}}')")


def _describe(read: Parts, to: str) -> tuple[PretrainConfig, dict[str, dict[str, Tensor]]]:
    """Configuration and networks of a file, once it is clear that the reader can use them."""
    if not read.has_encoder:
        raise ValueError(f"{read.path}: a {TITLES[read.dialect]} holds no encoder; there is nothing to export")
    role, _ = read.encoder()
    described = describe(read, role, Asked())
    problems = _problems(read, described, to)
    if problems:
        hint = "" if to == "safetensors" else "\n--to safetensors writes any model"
        listed = "\n  ".join(problems)
        raise ValueError(f"{read.path}: cannot be exported --to {to}:\n  {listed}{hint}")
    if described.unknown and to != "original":  # a layout that does not tell heads either
        raise ValueError(
            f"{read.path}: cannot be exported --to {to}, which tells heads:\n  {'; '.join(described.unknown)}"
        )
    networks = {}
    for name, tensors in read.networks.items():
        network = blank(described, "encoder" if name.endswith("encoder") else name)
        extra = may_exceed(read.dialect, name)
        compare(network, tensors, path=read.path, name=name, may_exceed=extra)
        networks[name] = {key: value for key, value in tensors.items() if key not in extra}
    return described.config, networks


def _problems(read: Parts, described: Described, to: str) -> list[str]:
    """Why the reader could not compute what this model does."""
    config, arguments = described.config, described.arguments
    encoder, problems = config.encoder, []
    heads = [name for name in read.networks if name.startswith("classifiers.")]
    if to == "safetensors":
        return ["classifiers are not written there"] if heads else []
    reader = _READERS[to]
    if encoder.family == "vjepa2" and encoder.rope != "released":
        problems.append(f"encoder.rope={encoder.rope}: {reader} rotates positions in the released layout only")
    if encoder.family == "vjepa2" and encoder.interpolate:
        problems.append(f"encoder.interpolate=true: {reader} does not scale positions")
    if encoder.family == "vjepa2.1" and encoder.rope != "exact":
        problems.append(f"encoder.rope={encoder.rope}: {reader} rotates positions of V-JEPA 2.1 exactly")
    if encoder.family == "vjepa2.1" and not encoder.interpolate:
        problems.append(f"encoder.interpolate=false: {reader} scales positions of V-JEPA 2.1")
    if encoder.mlp != "gelu":
        problems.append(f"encoder.mlp={encoder.mlp}: {reader} builds these models with GELU only")
    if to == "original":
        problems += [] if not heads else ["classifiers: the released layout keeps them in files of their own"]
        if not {"predictor", "ac_predictor"} & set(read.networks):
            problems.append("no predictor in it: a released file has one")
        if "ac_predictor" in read.networks:
            problems += _ac_problems(arguments["ac_predictor"], reader)
        return problems
    if encoder.family != "vjepa2":
        problems.append(f"encoder.family={encoder.family}: transformers has no such model")
    if "predictor" not in read.networks:
        problems.append("no predictor in it: VJEPA2Model has one, which transformers would fill with random numbers")
    if "ac_predictor" in read.networks:
        problems.append("ac_predictor: transformers has no such model")
    return problems


def _ac_problems(arguments: dict[str, Any], reader: str) -> list[str]:
    problems = []
    if arguments["rope"] != "released":
        problems.append(f"predictor.rope={arguments['rope']}: {reader} rotates positions in the released layout only")
    state, action = arguments["state_dim"], arguments["action_dim"]
    if state != action:
        problems.append(f"states of {state} numbers and actions of {action}: {reader} has one size for both")
    if arguments["extrinsics_dim"] != action - 1:
        got = arguments["extrinsics_dim"]
        problems.append(f"actions of {action} numbers: {reader} reads {action - 1} of a camera's pose, in it are {got}")
    return problems


def _destination(config: ExportConfig, source: Path) -> Path:
    if config.out is not None:
        out, ours = Path(config.out).expanduser(), False
    elif source.exists():
        run = (source / "last.ckpt").is_file()
        out, ours = (source if run else source.parent) / _NAMES[config.to], run
    else:  # a released name
        out, ours = Path(f"{config.run}-{_NAMES[config.to]}"), False
    if out.exists() and not ours:
        raise ValueError(f"out: {out} exists already; give another place with --out, or remove it")
    return out


def _age(read: Parts) -> str:
    told = [f"{name} {read.facts[name]}" for name in ("step", "epoch") if name in read.facts]
    return ", ".join([TITLES[read.dialect], *told])


def _settle(files: Iterable[Path]) -> None:
    """Flush to disk; and give the usual permissions, since safetensors makes files that their owner alone may read."""
    mask = os.umask(0)
    os.umask(mask)
    for path in files:
        path.chmod(0o666 & ~mask)
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
