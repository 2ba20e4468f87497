"""Features of a whole split in one pass, with the targets beside them, equal on every rank.

Every rank encodes its share; then the rows of all ranks are put together in the order of the split. What a probe does
with them afterwards is the same computation on every rank and needs no communication.

The verb gives streams a folder in which tables are kept: the same weights, clips, layers and pooling are never encoded
twice, whatever is fitted to them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as td
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from vjepa_lab import dist
from vjepa_lab.batch import Grid, RobotBatch
from vjepa_lab.data.streams import Bad, Stream
from vjepa_lab.features import FrozenEncoder
from vjepa_lab.tokens import Features, Pool

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
    transform: Callable[[Tensor, list[str]], Tensor] | None = None,
    targets: Callable[[Any], dict[str, Tensor]] | None = None,
    measure: Callable[[Tensor], Tensor] | None = None,
    tag: str = "",
) -> Table:
    """Features and targets of all rows that could be read. A collective call.

    Args:
        layers: blocks (from 0); empty: the output of the encoder, under -1. -1 may be among them.
        pool: mean (n, D), tubelet (n, t, D), none (n, N, D), or a function of ``Features``.
        transform: changes clips uint8 (B, 3, F, H, W) before they are encoded, given their keys.
        targets: further targets of a batch, beside its own.
        measure: what to make of clips (B, 3, F, H, W) in place of features, (B, ...); it stands under -1.
        tag: names what of these is a function: part of the name under which a table is kept.

    Raises:
        ValueError: nothing could be read, or there is no such layer.
    """
    functions = [x for x in (pool, transform, targets, measure) if callable(x)]
    assert tag or not functions, "functions need a tag"
    named = "function" if callable(pool) else pool
    kept = _kept(encoder, stream, [*layers], f"{named} {tag}") if stream.cache and dist.world() == 1 else None
    table = _read(kept) if kept is not None and kept.is_file() else None
    if table is None:
        table = _encode(encoder, stream, layers, pool, transform, targets, measure)
        if kept is not None:
            _write(kept, table)
    stream.skipped = table.skipped
    if stream.shuffled:
        order = torch.randperm(
            len(table.key), generator=torch.Generator().manual_seed(dist.derive(stream.seed, "shuffled", stream.name))
        )
        table = table._replace(y={name: y[order] for name, y in table.y.items()})
    return table


def _encode(
    encoder: FrozenEncoder,
    stream: Stream,
    layers: Sequence[int],
    pool: Pool | Callable[[Features], Tensor],
    transform: Callable[[Tensor, list[str]], Tensor] | None,
    more: Callable[[Any], dict[str, Tensor]] | None,
    measure: Callable[[Tensor], Tensor] | None,
) -> Table:
    columns: dict[str, list[Tensor]] = {}
    keys: list[list[str]] = []
    grid = Grid(0, 0, 0)
    rounds = 0
    for batch in stream:
        robot = isinstance(batch, RobotBatch)
        clip: Tensor = batch.frames if robot else batch.clip
        shown = clip.flatten(0, 1) if clip.ndim == 6 else clip
        if transform is not None:
            shown = transform(shown, [k for k in batch.key for _ in range(len(shown) // len(clip))])
        found: dict[int, Tensor] = {}
        if measure is not None:
            found[-1] = measure(shown)
        else:
            for layer, features in encoder.layers(shown, layers or (-1,)).items():
                grid = features.grid
                found[layer] = pool(features) if callable(pool) else encoder.pool(features, pool)
        for layer, x in found.items():
            x = x.float().unflatten(0, clip.shape[:2]) if clip.ndim == 6 else x.float()
            columns.setdefault(f"x.{layer}", []).append(x.cpu())
        targets = {"states": batch.states, "actions": batch.actions} if robot else _targets(batch)
        for name, y in (targets | (more(batch) if more is not None else {})).items():
            columns.setdefault(f"y.{name}", []).append(y.cpu())
        columns.setdefault("valid", []).append(batch.valid.cpu())
        keys.append(batch.key)
        rounds += 1
    order = torch.arange(rounds * stream.batch * dist.world())
    # Rank r brings its rounds one after the other; in the split the ranks take turns.
    order = order.view(dist.world(), rounds, stream.batch).transpose(0, 1).flatten()
    gathered = {name: _gather(torch.cat(parts), stream.device)[order] for name, parts in columns.items()}
    names = [k for part in _gather_keys([k for part in keys for k in part]) for k in part]
    rows = torch.nonzero(gathered.pop("valid")).flatten()
    return Table(
        x={int(name[2:]): x[rows] for name, x in gathered.items() if name.startswith("x.")},
        y={name[2:]: y[rows] for name, y in gathered.items() if name.startswith("y.")},
        unit=torch.from_numpy(stream.units)[rows],
        key=[names[i] for i in order[rows].tolist()],
        grid=grid,
        skipped=stream.skipped,
    )


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


def _kept(encoder: FrozenEncoder, stream: Stream, layers: list[int], tag: str) -> Path:
    """The file of a table."""
    asked = {
        "version": _VERSION,
        "weights": encoder.fingerprint(),
        "behaviour": _behaviour(encoder),
        "split": stream.digest(),
        "look": [repr(part) for part in (stream.demand, stream.spec, stream.seed)],
        "layers": layers,
        "tag": tag,
        "dtype": str(encoder.dtype),
    }
    name = sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:24]
    return Path(str(stream.cache)) / f"{name}.safetensors"


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
    partial = path.with_suffix(".partial")
    note = {"key": json.dumps(table.key), "grid": json.dumps(table.grid), "skipped": json.dumps(table.skipped)}
    save_file({name: x.contiguous() for name, x in tensors.items()}, partial, metadata=note)
    partial.replace(path)  # a stop in between leaves no half of a file under its name


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
