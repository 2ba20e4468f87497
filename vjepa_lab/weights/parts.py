"""What a file of weights holds, whoever wrote it: networks by role, in released parameter names without prefixes.

Every layout is read into one ``Parts``; loading, inspection, export and the start of a run begin there. Nothing is
built and nothing checked against a model here: that needs sizes, which is the loader's work.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from torch import Tensor

from vjepa_lab.config import ConfigError, PretrainConfig
from vjepa_lab.config_world import PosttrainConfig
from vjepa_lab.merge import from_plain
from vjepa_lab.weights import dialects, files, names

Config = TypeVar("Config")
EncoderChoice = Literal["auto", "target", "online", "ema"]

_ENCODERS = {"target": "target_encoder", "online": "encoder", "ema": "ema_encoder"}
_PREFERRED = ("ema", "target", "online")


@dataclass(kw_only=True)
class Parts:
    """The contents of one file or folder. Tensors may be memory-mapped: copy them before the file is overwritten."""

    path: Path
    dialect: str
    "one of ``dialects.TITLES``"
    networks: dict[str, dict[str, Tensor]]
    "among encoder (online), target_encoder, ema_encoder, predictor, ac_predictor, classifiers.<i>"
    facts: dict[str, Any] = field(default_factory=dict)
    """what the file says besides, where it does: epoch, step, loss, lr, batch_size, world_size; config (ours, plain);
    crop, frames, heads, predictor_heads, pooler_heads, pooler_eps, rope; released (the released file that crop and
    frames are of); entries (top-level names that are not read)"""
    optimizer: dict[str, Any] | None = None
    "state of the optimizer as the file writes it; None where there is none"

    @property
    def family(self) -> str | None:
        """vjepa2 or vjepa2.1; None for a file without encoder and masked predictor."""
        for name in (*_ENCODERS.values(), "predictor", "ac_predictor"):
            if name in self.networks:
                keys = self.networks[name]
                return "vjepa2.1" if "norms_block.0.weight" in keys or "video_mod_embed" in keys else "vjepa2"
        return None

    @property
    def has_encoder(self) -> bool:
        """Whether there is an encoder of any kind."""
        return any(name in self.networks for name in _ENCODERS.values())

    def encoder(self, choice: EncoderChoice = "auto") -> tuple[str, str]:
        """Name among ``networks`` of the encoder that is meant, and why it is that one.

        Raises:
            ValueError: the file holds no such encoder.
        """
        there = [kind for kind in _PREFERRED if _ENCODERS[kind] in self.networks]
        if choice == "auto" and there:
            return _ENCODERS[there[0]], {
                "ema": "the moving average of a distilled model",
                "target": "the moving average of the online encoder",
                "online": "the only one in the file",
            }[there[0]]
        if choice in there:
            return _ENCODERS[choice], "asked for"
        if choice not in ("auto", *_ENCODERS):
            raise ValueError(f"encoder: got '{choice}', expected one of auto, {', '.join(_ENCODERS)}")
        which = "encoder" if choice == "auto" else f"{choice} encoder"
        raise ValueError(f"{self.path}: holds no {which}; there is: {', '.join(self.networks)}")

    def config(self) -> PretrainConfig | None:
        """The configuration of the run that wrote the file, where it holds one; of a post-training its encoder's
        block, for frames of the size that it was post-trained on.

        Raises:
            ValueError: it is not a configuration of this version.
        """
        world = self.world_config()
        if world is not None:
            world.encoder.crop = world.crop
            return PretrainConfig(encoder=world.encoder)
        plain = self.facts.get("config")
        return None if plain is None else self._of_this_version(PretrainConfig, plain)

    def world_config(self) -> PosttrainConfig | None:
        """The configuration of the post-training that wrote the file; None where none did.

        Raises:
            ValueError: it is not a configuration of this version.
        """
        plain = self.facts.get("config")
        return self._of_this_version(PosttrainConfig, plain) if plain is not None and "world" in plain else None

    def _of_this_version(self, schema: type[Config], plain: dict[str, Any]) -> Config:
        try:
            return from_plain(schema, plain)
        except ConfigError as error:
            raise ValueError(f"{self.path}: its config is {error}") from None


def read(path_or_name: str | Path) -> Parts:
    """Recognise and read a file, a folder, or a released model by name (see ``names``); no code of it is run.

    Files: released V-JEPA 2, 2-AC, 2.1 and probe checkpoints, checkpoints of our runs, our safetensors exports, state
    dicts of one network. Folders: of a run (its last.ckpt is read), of Hugging Face.

    Raises:
        ValueError: no such file or name, damaged, in need of code to be read, or none of these layouts.
        OSError: a released file is not here and could not be downloaded.
    """
    path, known = names.locate(path_or_name)
    if path.is_dir():
        if (path / "last.ckpt").is_file():
            path = path / "last.ckpt"
        elif (path / "config.json").is_file():
            from vjepa_lab.weights.huggingface import read_folder  # it makes Parts itself

            return read_folder(path)
        else:
            raise ValueError(f"{path}: a folder without last.ckpt (a run) and without config.json (Hugging Face)")
    if path.suffix == ".safetensors":
        tensors, metadata = files.open_safetensors(path)
        contents = dialects.from_tensors(path, tensors, metadata)
    else:
        contents = dialects.from_pickle(path, files.open_pickle(path))
    if known is not None and contents.dialect in dialects.RELEASED:
        contents.facts.update(crop=known.crop, frames=known.frames, released=known.file)
    return Parts(
        path=path,
        dialect=contents.dialect,
        networks=contents.networks,
        facts=contents.facts,
        optimizer=contents.optimizer,
    )
