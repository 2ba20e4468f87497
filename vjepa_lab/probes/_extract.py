"""Features of a whole split in one pass, with the targets beside them, equal on every rank.

Every rank encodes its share; then the rows of all ranks are put together in the order of the split. What a probe does
with them afterwards is the same computation on every rank and needs no communication.

The verb gives streams a folder in which tables are kept: the same weights, clips, layers and pooling are never encoded
twice, whatever is fitted to them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as td
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from vjepa_lab import dist
from vjepa_lab.batch import Grid, RobotBatch
from vjepa_lab.data.streams import Bad, Stream
from vjepa_lab.features import FrozenEncoder
from vjepa_lab.tokens import Features, Pool

Transform = Callable[[Tensor, list[str]], Tensor]
"clips uint8 (B, 3, F, H, W) and their keys -> clips"

_VERSION = 4
"of the kept tables: raise it when what they hold changes"


class Table(NamedTuple):
    """Rows of a split. V views add an axis behind the rows."""

    x: dict[int, Tensor]
    "features after each layer (-1: output of the encoder), float32 (n, ...) as pooled"
    y: dict[str, Tensor]
    "label int64 (n,), event float32 (n,) and what the batches hold as truth; of robots states and actions"
    unit: Tensor
    "int64 (n,) number of the video, or of the episode whatever the camera, from 0"
    key: list[str]
    "(n,)"
    grid: Grid
    "of one clip"
    skipped: list[Bad]
    "what could not be read, on this rank"


def extract(
    encoder: FrozenEncoder,
    stream: Stream,
    *,
    layers: Sequence[int] = (),
    pool: Pool | Callable[[Features], Tensor] = "mean",
    cells: int = 1,
    transform: Transform | None = None,
    targets: Callable[[Any], dict[str, Tensor]] | None = None,
    measure: Callable[[Tensor], Tensor] | None = None,
    tag: str = "",
) -> Table:
    """Features and targets of all rows that could be read. A collective call.

    Args:
        layers: blocks (from 0); empty: the output of the encoder, under -1. -1 may be among them.
        pool: mean (n, D), tubelet (n, t, D), none (n, N, D), or a function of ``Features``.
        cells: of a pool by name: averages stay apart by regions of the picture, see ``tokens.pooled``.
        transform: changes clips before they are encoded.
        targets: further targets of a batch, beside its own.
        measure: what to make of clips (B, 3, F, H, W) in place of features, (B, ...); it stands under -1.
        tag: names what of these is a function: part of the name under which a table is kept.

    Raises:
        ValueError: nothing could be read, or there is no such layer.
    """
    versions = {tag: transform}
    return extract_each(
        encoder, stream, versions, layers=layers, pool=pool, cells=cells, targets=targets, measure=measure
    )[tag]


def extract_each(
    encoder: FrozenEncoder,
    stream: Stream,
    transforms: Mapping[str, Transform | None],
    *,
    layers: Sequence[int] = (),
    pool: Pool | Callable[[Features], Tensor] = "mean",
    cells: int = 1,
    targets: Callable[[Any], dict[str, Tensor]] | None = None,
    measure: Callable[[Tensor], Tensor] | None = None,
) -> dict[str, Table]:
    """As ``extract``, for several versions of the same clips, by their tags: clips are read once for all of them."""
    for tag, transform in transforms.items():
        assert tag or not any(map(callable, (pool, transform, targets, measure))), "functions need a tag"
    layers = [*layers] or [-1]
    named = "function" if callable(pool) else pool if cells == 1 else f"{pool} {cells} cells"
    tables: dict[str, Table] = {}
    kept: dict[str, Path] = {}
    if stream.cache and dist.world() == 1:
        known = _named(encoder, stream, layers)
        kept = {tag: known(f"{named} {tag}") for tag in transforms}
        tables = {tag: _read(path) for tag, path in kept.items() if path.is_file()}
    missing = {tag: transform for tag, transform in transforms.items() if tag not in tables}
    if missing:
        put = pool if callable(pool) else lambda features: encoder.pool(features, pool, cells)
        made = _encode(encoder, stream, layers, put, list(missing.values()), targets, measure)
        for tag, table in zip(missing, made, strict=True):
            tables[tag] = table
            if tag in kept:
                _write(kept[tag], table)
    tables = {tag: tables[tag] for tag in transforms}
    stream.skipped = next(iter(tables.values())).skipped
    return {tag: _shuffled(table, stream) for tag, table in tables.items()} if stream.shuffled else tables


def _shuffled(table: Table, stream: Stream) -> Table:
    draws = torch.Generator().manual_seed(dist.derive(stream.seed, "shuffled", stream.name))
    order = torch.randperm(len(table.key), generator=draws)
    return table._replace(y={name: y[order] for name, y in table.y.items()})


class _Rows:
    """What one version of the clips gives, batch by batch."""

    def __init__(self) -> None:
        self.columns: dict[str, list[Tensor]] = {}
        self.keys: list[str] = []
        self.grid = Grid(0, 0, 0)
        self.rounds = 0

    def add(self, batch: Any, found: Mapping[int, Tensor], targets: Mapping[str, Tensor]) -> None:
        for layer, x in found.items():
            self.columns.setdefault(f"x.{layer}", []).append(x.cpu())
        for name, y in targets.items():
            self.columns.setdefault(f"y.{name}", []).append(y.cpu())
        self.columns.setdefault("valid", []).append(batch.valid.cpu())
        self.keys += batch.key
        self.rounds += 1

    def table(self, stream: Stream) -> Table:
        """The rows of all ranks. A collective call."""
        order = torch.arange(self.rounds * stream.batch * dist.world())
        # Rank r brings its rounds one after the other; in the split the ranks take turns.
        order = order.view(dist.world(), self.rounds, stream.batch).transpose(0, 1).flatten()
        gathered = {name: _gather(torch.cat(parts), stream.device)[order] for name, parts in self.columns.items()}
        names = [k for part in _gather_keys(self.keys) for k in part]
        rows = torch.nonzero(gathered.pop("valid")).flatten()
        return Table(
            x={int(name[2:]): x[rows] for name, x in gathered.items() if name.startswith("x.")},
            y={name[2:]: y[rows] for name, y in gathered.items() if name.startswith("y.")},
            unit=torch.from_numpy(stream.units)[rows],
            key=[names[i] for i in order[rows].tolist()],
            grid=self.grid,
            skipped=stream.skipped,
        )


def _encode(
    encoder: FrozenEncoder,
    stream: Stream,
    layers: Sequence[int],
    pool: Callable[[Features], Tensor],
    transforms: Sequence[Transform | None],
    more: Callable[[Any], dict[str, Tensor]] | None,
    measure: Callable[[Tensor], Tensor] | None,
) -> list[Table]:
    """A table of each version of the clips."""
    versions = [_Rows() for _ in transforms]
    total = -(-len(stream) // (stream.batch * dist.world()))
    for batch in tqdm(stream, f"{len(transforms)} versions", total, leave=False, disable=_quiet(transforms)):
        robot = isinstance(batch, RobotBatch)
        clip: Tensor = batch.frames if robot else batch.clip
        flat = clip.flatten(0, 1) if clip.ndim == 6 else clip
        keys = [k for k in batch.key for _ in range(len(flat) // len(clip))]
        targets = {"states": batch.states, "actions": batch.actions} if robot else _targets(batch)
        targets |= more(batch) if more is not None else {}
        for rows, transform in zip(versions, transforms, strict=True):
            shown = flat if transform is None else transform(flat, keys)
            found: dict[int, Tensor] = {}
            if measure is not None:
                found[-1] = measure(shown)
            else:
                for layer, features in encoder.layers(shown, layers).items():
                    rows.grid = features.grid
                    found[layer] = pool(features)
            found = {
                k: x.float().unflatten(0, clip.shape[:2]) if clip.ndim == 6 else x.float() for k, x in found.items()
            }
            rows.add(batch, found, targets)
    return [rows.table(stream) for rows in versions]


def _quiet(transforms: Sequence[Any]) -> bool | None:
    """Whether to show no progress: for one version, on all ranks but one, and without a terminal."""
    return None if len(transforms) > 1 and dist.is_main_process() else True


def _targets(batch: Any) -> dict[str, Tensor]:
    return {"label": batch.label, "event": batch.event, **batch.truth}


def _gather(x: Tensor, device: torch.device) -> Tensor:
    if dist.world() == 1:
        return x
    asked = x.to(torch.uint8) if x.dtype == torch.bool else x
    return dist.gather_rows(asked.to(device)).cpu().to(x.dtype)


def _gather_keys(keys: list[str]) -> list[list[str]]:
    if dist.world() == 1:
        return [keys]
    out: list[Any] = [None] * dist.world()
    td.all_gather_object(out, keys)
    return out


def _named(encoder: FrozenEncoder, stream: Stream, layers: list[int]) -> Callable[[str], Path]:
    """The file of a table, by its tag."""
    asked = {
        "version": _VERSION,
        "weights": encoder.fingerprint(),
        "behaviour": _behaviour(encoder),
        "split": stream.digest(),
        "look": [repr(part) for part in (stream.demand, stream.spec, stream.seed)],
        "layers": layers,
        "dtype": str(encoder.dtype),
    }

    def name(tag: str) -> Path:
        digest = sha256(json.dumps({**asked, "tag": tag}, sort_keys=True).encode()).hexdigest()[:24]
        return Path(str(stream.cache)) / f"{digest}.safetensors"

    return name


def _behaviour(encoder: FrozenEncoder) -> str:
    """Hash of what the encoder makes of one fixed clip. Weights alone do not tell two encoders apart: heads, rotary
    layout, norms and networks without weights of their own decide as well."""
    shape = (1, 3, max(encoder.frames, encoder.tubelet), encoder.crop, encoder.crop)
    clip = torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    features = encoder.tokens(clip)
    digest = sha256(repr((type(encoder.encoder).__name__, features.grid, features.tokens.shape)).encode())
    digest.update(features.tokens.cpu().contiguous().numpy().data)
    return digest.hexdigest()


def _write(path: Path, table: Table) -> None:
    tensors = {f"x.{layer}": x for layer, x in table.x.items()} | {f"y.{name}": y for name, y in table.y.items()}
    tensors["unit"] = table.unit
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(".partial")
    note = {"key": json.dumps(table.key), "grid": json.dumps(table.grid), "skipped": json.dumps(table.skipped)}
    save_file({name: x.contiguous() for name, x in tensors.items()}, half, metadata=note)
    half.replace(path)  # a stop in between leaves no half of a file under its name


def _read(path: Path) -> Table:
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        note = file.metadata()
    return Table(
        x={int(name[2:]): x for name, x in tensors.items() if name.startswith("x.")},
        y={name[2:]: y for name, y in tensors.items() if name.startswith("y.")},
        unit=tensors["unit"],
        key=json.loads(note["key"]),
        grid=Grid(*json.loads(note["grid"])),
        skipped=[Bad(*bad) for bad in json.loads(note["skipped"])],
    )
