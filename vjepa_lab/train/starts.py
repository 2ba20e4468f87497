"""Where a run begins when it does not begin from scratch: a checkpoint to go on from, or weights of any layout.

Going on needs a checkpoint of a run. Starting (``init.checkpoint``, always at step 0) takes whatever ``weights.parts``
reads: released files and their names, Hugging Face folders, exports, checkpoints. What a file lacks is told in the log:
with one encoder in it, context and target encoder both begin from that; without a predictor, a new one begins. Settings
of the configuration that contradict the file are errors, those that shapes cannot tell (rope, heads) among them.

``init.load: weights+optimizer`` is the released cooldown: moments and their step counts go on, schedules begin anew.
Moments are found by name (``weights.optimizer``) and numbered as this run numbers them, with the learning rate, decay
and betas of this configuration, in a checkpoint without progress that Lightning restores under any strategy; it is
deleted when the first checkpoint of the run is written.

Reference: released file app/vjepa/utils.py (``load_checkpoint`` with ``is_anneal``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from vjepa_lab import dist
from vjepa_lab.config import PretrainConfig
from vjepa_lab.config_inverse import InverseConfig
from vjepa_lab.jepa import build_jepa
from vjepa_lab.merge import from_plain
from vjepa_lab.train.checkpoints import AtomicIO, Start
from vjepa_lab.train.modules import PretrainModule
from vjepa_lab.train.step import number_by_module
from vjepa_lab.train.strategy import device_kind
from vjepa_lab.weights import parts
from vjepa_lab.weights.dialects import TITLES, may_exceed
from vjepa_lab.weights.fill import compare, first_few, not_finite
from vjepa_lab.weights.optimizer import Moments, moments
from vjepa_lab.weights.parts import Parts
from vjepa_lab.weights.shapes import Asked, Described, describe

_ROLES = {"context": "encoder", "predictor": "predictor"}
"trained networks of the model, and what they are called in files"


def resume_from(path: Path, config: PretrainConfig) -> Start:
    """Go on with a run from its checkpoint.

    Raises:
        ValueError: unreadable, not the checkpoint of a run, or the weights do not fit the model.
    """
    read = parts.read(path)
    if read.world_config() is not None:
        raise ValueError(f"{path}: a checkpoint of a post-training: use vjepa-lab posttrain, or init.checkpoint={path}")
    if read.dialect != "run":
        raise ValueError(f"{path}: a {TITLES[read.dialect]}, not a checkpoint of a run: use init.checkpoint={path}")
    _same_supervision(read, config)
    _networks(read, config, advice="set them as in the file, or give another run.dir")
    step = int(read.facts["step"])
    return Start(step=step, resume=path, text=f"resumed from {path} at step {step}")


def start_from(config: PretrainConfig, run: Path) -> Start:
    """Start a run in the folder ``run`` from ``init.checkpoint``, at step 0, with what ``init.load`` asks for.

    Raises:
        ValueError: unreadable, the weights do not fit the model, or an optimizer is asked for that is not there.
    """
    assert config.init.checkpoint is not None
    read = parts.read(config.init.checkpoint)
    networks, told = _networks(read, config, advice="set them as in the file")
    for name, tensors in networks.items():
        bad = not_finite(tensors)
        if bad:
            told.append(f"WARNING: not finite (NaN or infinite) in its weights for {name}: {first_few(bad)}")
    age = [f"{name} {read.facts[name]}" for name in ("step", "epoch") if name in read.facts]
    source = f"{read.path} ({', '.join([TITLES[read.dialect], *age])})"
    # Only with both networks that it trained: an AC predictor's optimizer is of no use here.
    usable = read.optimizer is not None and set(_ROLES.values()) <= set(read.networks)
    if config.init.load == "weights+optimizer" and not usable:
        raise ValueError(f"{source}: holds no optimizer for this model; use init.load=weights")
    if config.init.load == "weights" or not usable:
        if config.init.load == "auto":
            told = ["there is no optimizer in it", *told]
        return Start(weights=networks, text="; ".join([f"weights of {source}", *told]))
    state, fresh = _optimizer_state(config, moments(read))
    if fresh:
        told.append(f"{fresh} parameters that it did not train begin without moments")
    path = run / "init.ckpt"
    if dist.is_main_process():
        weights = {f"jepa.{name}.{key}": value for name, tensors in networks.items() for key, value in tensors.items()}
        checkpoint = {
            "state_dict": weights,
            "optimizer_states": [state],
            "lr_schedulers": [],
            "callbacks": {},
            "epoch": 0,
            "global_step": 0,
            "pytorch-lightning_version": L.__version__,
        }
        AtomicIO().save_checkpoint(checkpoint, path)
    return Start(resume=path, text="; ".join([f"weights and optimizer of {source}", *told]))


def _same_supervision(read: Parts, config: PretrainConfig) -> None:
    """Raises:
    ValueError: actions supervised the run and would not do so any more, or the reverse, or other parts would learn.
    """
    file = from_plain(InverseConfig, (read.facts.get("config") or {}).get("inverse") or {})
    one, two = (_learning(inverse) for inverse in (file, config.inverse))
    wrong = [
        f"inverse.{name}: the file has {a}, the configuration {two[name]}" for name, a in one.items() if a != two[name]
    ]
    if wrong:
        listed = "\n  ".join(wrong)
        raise ValueError(
            f"{read.path}: another part of the model learns in this run:\n  {listed}\nset them as in the file; or, to "
            f"begin from its weights, give another run.dir and init.checkpoint={read.path}"
        )


def _learning(inverse: InverseConfig) -> dict[str, Any]:
    """What of the model learns, as the fields say it."""
    off = inverse.weight is None
    return {
        "weight": None if off else "above 0" if inverse.weight else 0,
        "pair": None if off else inverse.pair,
        "unfreeze_last": None if off else inverse.unfreeze_last,
        "native above 0": off or inverse.native > 0,
    }


def _networks(read: Parts, config: PretrainConfig, *, advice: str) -> tuple[dict[str, dict[str, Tensor]], list[str]]:
    """Weights of ``context``, ``target`` and, where there is one, ``predictor``, compared with the model; and in words
    what the file lacks."""
    target = read.encoder()[0]
    described = describe(read, target, Asked())
    context = "encoder" if "encoder" in read.networks else target
    roles = {"context": context, "target": target, "predictor": "predictor"}
    told = []
    if context == target:
        told.append("context and target encoder both begin from its one encoder")
    if "predictor" not in read.networks:
        del roles["predictor"]
        told.append("there is no predictor in it: a new one begins")
    elif described.config.predictor.out_width is not None:
        del roles["predictor"]
        told.append("its predictor predicts a wider teacher: a new one begins")
    wrong = _contradictions(read, described, config, predictor="predictor" in roles)
    if wrong:
        listed = "\n  ".join(wrong)
        raise ValueError(f"{read.path}: its weights do not fit this model:\n  {listed}\n{advice}")
    with torch.device("meta"):
        model = build_jepa(config)
    networks = {}
    for name, role in roles.items():
        network = getattr(model, name)
        compare(network, read.networks[role], path=read.path, name=role, may_exceed=may_exceed(read.dialect, role))
        networks[name] = {key: read.networks[role][key] for key in network.state_dict()}
    return networks, told


def _contradictions(read: Parts, described: Described, config: PretrainConfig, *, predictor: bool) -> list[str]:
    """Fields that the file says to be other than the configuration does."""
    file, ours = described.config, config
    size, our_size = file.encoder.resolved(), ours.encoder.resolved()
    fields: dict[str, tuple[Any, Any]] = {
        "encoder.family": (file.encoder.family, ours.encoder.family),
        "encoder.width": (size.width, our_size.width),
        "encoder.depth": (size.depth, our_size.depth),
        "encoder.heads": (size.heads, our_size.heads),
        "encoder.mlp_width": (size.mlp, our_size.mlp),
        **{f"encoder.{n}": (getattr(file.encoder, n), getattr(ours.encoder, n)) for n in ("patch", "tubelet", "mlp")},
    }
    if read.dialect != "state-dict":  # which does not tell who wrote it
        fields["encoder.rope"] = (file.encoder.rope, ours.encoder.rope)
    if file.encoder.family == "vjepa2.1" and "config" not in read.facts:  # a run of ours may begin to, with its clips
        fields["encoder.interpolate"] = (file.encoder.interpolate, ours.encoder.interpolate)
    if predictor:
        names = ("width", "depth", "heads", "mask_tokens", "levels")
        fields |= {f"predictor.{n}": (getattr(file.predictor, n), getattr(ours.predictor, n)) for n in names}
    if described.origin.get("heads") == "unknown":
        del fields["encoder.heads"]
    if described.origin.get("predictor_heads") == "unknown":
        fields.pop("predictor.heads", None)
    return [f"{name}: the file has {a}, the configuration {b}" for name, (a, b) in fields.items() if a != b]


def _optimizer_state(config: PretrainConfig, found: Moments) -> tuple[dict[str, Any], int]:
    """A state for the optimizer of a run of ``config``; and how many parameters no moments were found for.

    Those get what AdamW begins with, because FSDP2 asks for all.
    """
    with torch.device("meta"):
        module = PretrainModule(config)
        optimizer = module.configure_optimizers()
    state = optimizer.state_dict()
    number_by_module([state], [optimizer], module)
    parameters = list(module.named_parameters())
    fused = device_kind(config.trainer) == "cuda"  # as build_optimizer decides, for parameters that are there by then
    missing = 0
    for group in state["param_groups"]:
        group["fused"], group["foreach"] = fused, not fused
        for number in group["params"]:
            name, parameter = parameters[number]
            network, _, key = name.removeprefix("jepa.").partition(".")
            moment = found.get(_ROLES[network], {}).get(key)
            if moment is None:
                missing += 1
                zeros = torch.zeros(parameter.shape)
                moment = {"step": torch.tensor(0.0), "exp_avg": zeros, "exp_avg_sq": zeros.clone()}
            state["state"][number] = moment
    return state, missing
