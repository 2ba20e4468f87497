"""HDF5 files of robot episodes: opened for reading, with what is wrong told as a reason."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vjepa_lab.data.containers import Unreadable
from vjepa_lab.data.episodes import needs


@contextmanager
def opened(path: str | Path) -> Iterator[Any]:
    """An ``h5py.File``, closed again whatever happens. It takes no lock: data sets lie on read-only and network disks.

    Raises:
        Unreadable: the file is missing, empty or damaged, also where that shows only while it is read.
        ValueError: h5py is not installed.
    """
    h5py = needs("h5py")
    try:
        size = Path(path).stat().st_size
    except OSError as error:
        raise Unreadable("missing", f"{Path(path).name}: {error.strerror or error}") from None
    if size == 0:
        raise Unreadable("empty", f"{Path(path).name}: zero bytes")
    try:
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except (OSError, RuntimeError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise Unreadable(
            "truncated" if "truncated" in first else "undecodable", f"{Path(path).name}: {first}"
        ) from None


def rows(file: Any, name: str, width: int | None = None) -> NDArray[np.float64]:
    """A dataset as float64: (T,) where ``width`` is None, else (T, width).

    Raises:
        Unreadable: it is not there, or has another shape.
    """
    found = optional(file, name, width)
    if found is None:
        raise Unreadable("missing", f"no dataset '{name}'")
    return found


def optional(file: Any, name: str, width: int | None = None) -> NDArray[np.float64] | None:
    """``rows``, or None where there is no such dataset."""
    if name not in file:
        return None
    found = np.asarray(file[name], dtype=np.float64)
    if width is None and found.ndim == 2 and found.shape[1] == 1:
        found = found[:, 0]
    expected = "(T,)" if width is None else f"(T, {width})"
    if found.ndim != (1 if width is None else 2) or (width is not None and found.shape[1] != width):
        raise Unreadable("mismatched", f"'{name}': got the shape {found.shape}, expected {expected}")
    return found
