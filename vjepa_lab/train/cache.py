"""Features of the frozen encoder, computed once and kept: the encoder is the cost of every epoch of a post-training.

Kept are the features of every step of every episode, since a stretch may begin anywhere. They are valid for one
encoder, one crop and one way of computing, all of which name the folder by a hash; another run with the same ones, and
a resumed run, find them there. A crop that is drawn at random cannot be kept (``validate_world.py`` refuses it).

    <cache.dir>/<source>-<hash>/    see data/kept.py

Decisions:
- All is computed before the first step, each rank its share: the folder must be one that all ranks see. Whatever is
  there already is kept, so that an interrupted start goes on.
- The first episodes tell how large the whole will be; what does not fit on the disk is refused then, not when it is
  full. The features of a frame take h * w * D numbers: 1.4 MB for ViT-g at 256 px in float32.
- Validation computes its features, so that it would show an encoder that is not the one of the kept features.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from vjepa_lab import dist
from vjepa_lab.config_world import PosttrainConfig
from vjepa_lab.data.clips import BadSample
from vjepa_lab.data.episodes import EpisodeReader
from vjepa_lab.data.kept import KeptReader, Whole, whole
from vjepa_lab.data.loader import Reader
from vjepa_lab.data.transforms import normalize
from vjepa_lab.features import fingerprint
from vjepa_lab.merge import to_plain
from vjepa_lab.train.modules import PosttrainModule
from vjepa_lab.world import World

log = logging.getLogger("vjepa_lab")

FORMAT = 1
"raised when files or features of an older version must not be read"
_ENOUGH = 4
"episodes by whose mean size that of all is foretold"


def kept_readers(config: PosttrainConfig, readers: Sequence[Reader[Any]], encoder: nn.Module) -> list[KeptReader]:
    """The sources of a run, with what is kept of them in place of pixels.

    Args:
        encoder: the frozen one, with its weights.

    Raises:
        ValueError: a source that does not give episodes.
    """
    weights = fingerprint(encoder)
    kept = []
    for reader, entry in zip(readers, config.data.sources, strict=True):
        if not isinstance(reader, EpisodeReader):
            raise ValueError(f"cache.dir: source {reader.name} gives no whole episodes to keep; expected no cache.dir")
        about = _about(config, reader, entry, weights)
        digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
        folder = Path(str(config.cache.dir)).expanduser() / f"{entry['name']}-{digest}"
        if dist.is_main_process():
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "about.json").write_text(json.dumps(about, indent=1, sort_keys=True) + "\n")
        kept.append(KeptReader(reader, folder))
    return kept


class Keep(L.Callback):
    """Computes what is not kept yet, once the processes have joined and before the first step."""

    def __init__(self, config: PosttrainConfig, readers: Sequence[KeptReader]) -> None:
        self.config = config
        self.readers = list(readers)

    def setup(self, trainer: L.Trainer, pl_module: PosttrainModule, stage: str) -> None:  # type: ignore[override]
        self.compute(pl_module.world, trainer.strategy.root_device, trainer.strategy.barrier)

    def compute(self, world: World, device: torch.device, barrier: Callable[[str], Any] = lambda _: None) -> None:
        """Encode on ``device`` what is not kept yet; a collective call of all ranks, which meet at ``barrier``."""
        home = next(world.encoder.parameters()).device
        world.encoder.to(device)
        for reader in self.readers:
            lacking = list(reader.lacking())
            barrier("what is kept")  # all have looked before any writes
            self._fill(reader, lacking, world, device)
            barrier("kept")
            self._report(reader, len(lacking))
        world.encoder.to(home)

    def _fill(self, reader: KeptReader, lacking: list[int], world: World, device: torch.device) -> None:
        mine = lacking[dist.rank() :: dist.world()]
        loader = DataLoader(_Episodes(reader.reader, mine), batch_size=None, num_workers=self.config.data.workers)
        shown = self.config.run.progress and dist.is_main_process() and bool(mine)
        written = 0
        with tqdm(total=len(mine), unit="episode", desc=f"features of {reader.name}", disable=not shown) as bar:
            for done, (number, found) in enumerate(loader, start=1):
                if isinstance(found, BadSample):
                    reader.write_bad(number, found)
                else:
                    reader.write(number, found, self._encode(world, found.frames, device))
                written += reader.path(number).stat().st_size
                if done == min(_ENOUGH, len(mine)):
                    _fits(reader.folder, written / done * (len(lacking) - done * dist.world()))
                bar.set_postfix_str(f"{written / done * len(lacking) / 1e9:.2f} GB expected", refresh=False)
                bar.update()

    @torch.no_grad()
    def _encode(self, world: World, frames: Tensor, device: torch.device) -> Tensor:
        """Features (T, h*w, D) of frames (3, T, H, W), as many at a time as a step of the training has."""
        data, precision = self.config.data, self.config.trainer.precision
        found = []
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16-mixed"):
            for part in frames.split(data.batch * data.frames, dim=1):
                found.append(world.encode(normalize(part.unsqueeze(0).to(device)))[0])
        return torch.cat(found).to("cpu", getattr(torch, self.config.cache.dtype))

    def _report(self, reader: KeptReader, computed: int) -> None:
        left = list(reader.lacking())
        absent = [number for number in left if not reader.path(number).is_file()]
        if absent:
            raise ValueError(
                f"cache.dir: {reader.folder} lacks {len(absent)} of {len(reader.reader.layout)} episodes after they "
                "were computed; expected a folder that all processes share"
            )
        if dist.is_main_process():
            size = sum(file.stat().st_size for file in reader.folder.glob("*.safetensors")) / 1e9
            episodes = len(reader.reader.layout)
            log.info("cache    %s: %d episodes, %.2f GB, %d computed now", reader.folder, episodes, size, computed)
            if left:
                rank_zero_warn(f"{reader.folder}: {len(left)} of {episodes} episodes cannot be read and are left out")


class _Episodes(Dataset):
    """Number of an episode -> the number, and the episode or why it cannot be read."""

    def __init__(self, reader: EpisodeReader, numbers: list[int]) -> None:
        self.reader, self.numbers = reader, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, place: int) -> tuple[int, Whole | BadSample]:
        number = self.numbers[place]
        try:
            found = whole(self.reader, number)
        except BadSample as error:
            return number, error
        return number, found._replace(episode=found.episode._replace(pictures=None))  # type: ignore[arg-type]


def _about(config: PosttrainConfig, reader: EpisodeReader, entry: dict[str, Any], weights: str) -> dict[str, Any]:
    """All that the features and numbers of a source depend on."""
    spec, names = reader.spec, (reader.layout.key(i) for i in range(len(reader.layout)))
    places = {name: os.path.abspath(v) if isinstance(v, str) and os.path.exists(v) else v for name, v in entry.items()}
    return {
        "format": FORMAT,
        "weights": weights,
        "encoder": to_plain(config.encoder),
        "precision": config.trainer.precision,
        "dtype": config.cache.dtype,
        "crop": [spec.crop, spec.height, spec.width, spec.antialias],
        "decoder": spec.decoder,
        "source": {name: value for name, value in places.items() if name != "weight"},
        "robot": dataclasses.asdict(reader.layout.robot),
        "episodes": hashlib.sha256("\n".join(names).encode("utf-8", "surrogateescape")).hexdigest(),
    }


def _fits(folder: Path, needed: float) -> None:
    """Raises ValueError where the disk has less room than ``needed`` bytes."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ValueError(
            f"cache.dir: {folder} would take another {needed / 1e9:.0f} GB, and {free / 1e9:.0f} GB are free; expected "
            "a larger disk, cache.dtype=bfloat16, fewer episodes, or no cache.dir"
        )
