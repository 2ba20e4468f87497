"""Opening files of weights: memory-mapped, and never by running code that a file brings along.

A pickle may name any function to be called; only tensors, numbers, strings and containers are let through. Each way in
which a file can be wrong has a message of its own.
"""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

_ZIP = b"PK\x03\x04"
_PICKLE = b"\x80"
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")  # how torch names what it will not import


def open_pickle(path: Path) -> dict[str, Any]:
    """Open what ``torch.save`` wrote; tensors are on the CPU and memory-mapped.

    Raises:
        ValueError: no such file, truncated, in need of code to be read, or not a mapping.
    """
    first = _first_bytes(path)
    zipped = first == _ZIP
    if not zipped and not first.startswith(_PICKLE):
        raise ValueError(f"{path}: not a checkpoint: it was not written by torch.save")
    try:
        opened = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)  # old files cannot be mapped
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path}: {_refused(error)}") from None
    except (RuntimeError, EOFError, OSError, LookupError, ValueError) as error:
        raise ValueError(f"{path}: truncated or damaged: {_first_line(error)}") from None
    if not isinstance(opened, dict):
        raise ValueError(f"{path}: not a checkpoint: expected a mapping of names, got a {type(opened).__name__}")
    return opened


def open_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        ValueError: no such file, truncated, or not a safetensors file.
    """
    _first_bytes(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: truncated, damaged or not a safetensors file: {_first_line(error)}") from None


def open_sharded(index: Path) -> dict[str, Tensor]:
    """Tensors of the safetensors files that an index (``*.safetensors.index.json``) lists.

    Raises:
        ValueError: the index is not one, a shard is missing or damaged, or a tensor is not in its shard.
    """
    try:
        shards = json.loads(index.read_text())["weight_map"]
        listed = sorted(set(shards.values()))
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{index}: not an index of safetensors files: {_first_line(error)}") from None
    tensors: dict[str, Tensor] = {}
    for shard in listed:
        tensors |= open_safetensors(index.parent / shard)[0]
    lost = sorted(shards.keys() - tensors.keys())
    if lost:
        raise ValueError(f"{index}: {len(lost)} tensors are not in their files, first {', '.join(lost[:3])}")
    return tensors


def _first_bytes(path: Path) -> bytes:
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    with path.open("rb") as file:
        first = file.read(4)
    if not first:
        raise ValueError(f"{path}: the file is empty")
    return first


def _refused(error: pickle.UnpicklingError) -> str:
    found = _GLOBAL.search(str(error))
    what = f"it holds a pickled object ({found.group(1)})" if found else "it is a pickle that torch.save did not write"
    return (
        f"refused: {what}, and reading it would run code that the file names. Open it where you trust it, and save its "
        "tensors alone"
    )


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__
