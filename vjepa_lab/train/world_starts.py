"""Where a post-training begins: a checkpoint of its own, or weights of an encoder and perhaps of an AC predictor.

Going on needs the same model. What shapes cannot tell (heads, rotary layout, robot, whether states are standardised) is
compared with the configuration in the file, since Lightning would load other weights into it without a word.

A predictor's weights are read for states and actions as they are; where this run standardises them, they are rewritten
for that and predict the same (``weights.standard``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vjepa_lab import robots, weights
from vjepa_lab.config import EncoderConfig
from vjepa_lab.config_world import PosttrainConfig
from vjepa_lab.train import checkpoints
from vjepa_lab.train.checkpoints import Start
from vjepa_lab.weights import parts
from vjepa_lab.weights.dialects import TITLES, may_exceed
from vjepa_lab.weights.fill import compare
from vjepa_lab.weights.parts import Parts
from vjepa_lab.weights.shapes import Asked, describe
from vjepa_lab.weights.standard import KINDS, unfolded
from vjepa_lab.world import World


def resume_from(path: Path, config: PosttrainConfig) -> tuple[Start, EncoderConfig]:
    """Go on with a post-training from its checkpoint, which holds the encoder too.

    Raises:
        ValueError: unreadable, not the checkpoint of a post-training, or of another model than ``config`` asks for.
    """
    read = parts.read(path)
    own = read.world_config() if read.dialect == "run" else None
    if own is None:
        what = "checkpoint of a pretraining" if read.dialect == "run" else TITLES[read.dialect]
        raise ValueError(f"{path}: a {what}, not a checkpoint of a post-training: use init.encoder={path}")
    names = ("width", "depth", "heads", "rope", "extrinsics")
    fields = {f"predictor.{n}": (getattr(own.predictor, n), getattr(config.predictor, n)) for n in names}
    fields["world.standardise"] = (own.world.standardise, config.world.standardise)
    fields["world.robot"] = (robots.of(own.world.robot), robots.of(config.world.robot))
    _agree(read, fields, advice="set them as in the file, or give another run.dir")
    step = int(read.facts["step"])
    return Start(step=step, resume=read.path, text=f"resumed from {read.path} at step {step}"), own.encoder


def start_from(config: PosttrainConfig) -> tuple[Start, weights.Loaded]:
    """Start at step 0 with the encoder of ``init.encoder``.

    Raises:
        ValueError: it cannot be read, or holds no encoder.
    """
    init = config.init
    loaded = weights.load(str(init.encoder), encoder=init.which, heads=init.heads)  # type: ignore[arg-type]
    if loaded.encoder is None:
        raise ValueError(f"init.encoder: {init.encoder} holds no encoder")
    begun = f"predictor of {init.predictor}" if init.predictor else "predictor from scratch"
    return Start(text=f"encoder of {init.encoder}, {begun}"), loaded


def fill_encoder(world: World, path: Path) -> None:
    """Copy the encoder of a post-training's checkpoint into a world model, ahead of what a resume restores."""
    state, prefix = checkpoints.read(path)["state_dict"], "world.encoder."
    found = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    world.encoder.load_state_dict(found)


def read_predictor(config: PosttrainConfig) -> Parts:
    """The file of ``init.predictor``, once it is clear that its AC predictor computes what this configuration asks for.

    Raises:
        ValueError: it cannot be read, or holds none, or another one.
    """
    read = parts.read(str(config.init.predictor))
    if "ac_predictor" not in read.networks:
        raise ValueError(f"init.predictor: {config.init.predictor} holds no action-conditioned predictor")
    described = describe(read, None, Asked())
    found = described.arguments["ac_predictor"]
    names = ("width", "depth", "heads", "rope")
    fields = {f"predictor.{n}": (found[n], getattr(config.predictor, n)) for n in names}
    if described.origin["predictor_heads"] == "unknown":
        del fields["predictor.heads"]
    if read.dialect == "state-dict":  # which does not tell who wrote it
        del fields["predictor.rope"]
    own = read.world_config()
    if own is not None:
        if own.predictor.extrinsics:  # else the encoder of poses is there, and begins as it is
            fields["predictor.extrinsics"] = (True, config.predictor.extrinsics)
        fields["world.robot"] = (robots.of(own.world.robot), robots.of(config.world.robot))
    _agree(read, fields, advice="set them as in the file")
    return read


def fill_predictor(world: World, read: Parts) -> None:
    """Copy the AC predictor of a file into a world model.

    Raises:
        ValueError: names or shapes differ; all are listed.
    """
    tensors, extra = read.networks["ac_predictor"], may_exceed(read.dialect, "ac_predictor")
    compare(world.predictor, tensors, path=read.path, name="ac_predictor", may_exceed=extra)
    means, stds = ({kind: getattr(world, f"{kind}_{what}") for kind in KINDS} for what in ("mean", "std"))
    used = {name: tensors[name].float() for name in world.predictor.state_dict()}
    world.predictor.load_state_dict(unfolded(used, means, stds))


def _agree(read: Parts, fields: dict[str, tuple[Any, Any]], *, advice: str) -> None:
    wrong = [f"{name}: the file has {a}, the configuration {b}" for name, (a, b) in fields.items() if a != b]
    if wrong:
        listed = "\n  ".join(wrong)
        raise ValueError(f"{read.path}: does not fit this model:\n  {listed}\n{advice}")
