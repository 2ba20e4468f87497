"""Released models by name: where they are on the web, and where they are kept once fetched.

A name is looked up in the folder ``VJEPA_LAB_WEIGHTS``, then in the cache of ``torch.hub`` (which the released code
fills too), then fetched into that cache. The sha256 of a file is recorded when it is first used, and compared whenever
the file has another size or date than then: hashing 20 GB on every start would cost more than reading them.

Reference: released files src/hub/backbones.py and README.md for the addresses. The publisher gives no checksums.
"""

from __future__ import annotations

import contextlib
import difflib
import fcntl
import hashlib
import http.client
import json
import logging
import os
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from vjepa_lab.validate import WEIGHT_SUFFIXES

log = logging.getLogger("vjepa_lab")

BASE = "https://dl.fbaipublicfiles.com/vjepa2/"
VARIABLE = "VJEPA_LAB_WEIGHTS"
_CHUNK = 1 << 20


class Released(NamedTuple):
    """One released file."""

    file: str
    "path below BASE"
    crop: int
    frames: int


TABLE = {
    "vjepa2-vitl": Released("vitl.pt", 256, 64),
    "vjepa2-vith": Released("vith.pt", 256, 64),
    "vjepa2-vitg": Released("vitg.pt", 256, 64),
    "vjepa2-vitg-384": Released("vitg-384.pt", 384, 64),
    "vjepa2-ac-vitg": Released("vjepa2-ac-vitg.pt", 256, 8),
    "vjepa2.1-vitb-384": Released("vjepa2_1_vitb_dist_vitG_384.pt", 384, 64),
    "vjepa2.1-vitl-384": Released("vjepa2_1_vitl_dist_vitG_384.pt", 384, 64),
    "vjepa2.1-vitg-384": Released("vjepa2_1_vitg_384.pt", 384, 64),
    "vjepa2.1-vitG-384": Released("vjepa2_1_vitG_384.pt", 384, 64),
    "vjepa2-probe-ssv2-vitl": Released("evals/ssv2-vitl-16x2x3.pt", 256, 16),
    "vjepa2-probe-diving48-vitl": Released("evals/diving48-vitl-256.pt", 256, 32),
    "vjepa2-probe-ek100-vitl": Released("evals/ek100-vitl-256.pt", 256, 32),
    "vjepa2-probe-ssv2-vitg-384": Released("evals/ssv2-vitg-384-64x2x3.pt", 384, 64),
    "vjepa2-probe-diving48-vitg-384": Released("evals/diving48-vitg-384-32x4x3.pt", 384, 32),
    "vjepa2-probe-ek100-vitg-384": Released("evals/ek100-vitg-384.pt", 384, 32),
}


def locate(path_or_name: str | Path) -> tuple[Path, Released | None]:
    """The path that is meant, and its row of the table if it is a released file, by its name or that of the file.

    A path that exists is taken as one, also where a released model has the same name.

    Raises:
        ValueError: neither a path that exists nor a released name; the file was exchanged since it was first used.
        OSError: the file is not here and could not be fetched.
    """
    text, path = str(path_or_name), Path(path_or_name).expanduser()
    if path.exists():
        return path, next((row for row in TABLE.values() if Path(row.file).name == path.name), None)
    if text in TABLE:
        return fetch(text), TABLE[text]
    if len(path.parts) > 1 or path.suffix in WEIGHT_SUFFIXES:
        hub = len(path.parts) == 2 and path.suffix not in WEIGHT_SUFFIXES and not path.parent.exists()
        hint = (
            f"; a model of the Hugging Face hub is given as the folder that `hf download {text}` prints" if hub else ""
        )
        raise ValueError(f"{path}: no such file or folder{hint}")
    near = difflib.get_close_matches(text, TABLE, 2)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(TABLE)}"
    raise ValueError(f"'{text}': no such file, and no released model has that name; {hint}")


def fetch(name: str) -> Path:
    """The file of a released model, downloaded if it is not here yet. Several processes may ask at once.

    Raises:
        ValueError: VJEPA_LAB_WEIGHTS is no folder, or the file is not the one that was first used under its name.
        ConnectionError: it could not be downloaded; the message says where to put it by hand.
    """
    file = Path(TABLE[name].file).name
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    folders = [cache]
    if os.environ.get(VARIABLE):
        own = Path(os.environ[VARIABLE]).expanduser()
        if not own.is_dir():
            raise ValueError(f"{VARIABLE}={own}: no such folder")
        folders.insert(0, own)
    with _one_at_a_time(cache / f"{file}.lock"):
        path = next((folder / file for folder in folders if (folder / file).is_file()), None)
        digest = None
        if path is None:
            path = cache / file
            digest = _download(BASE + TABLE[name].file, path)
        _compare(path, digest, cache / "vjepa_lab.sha256.json")
    return path


def _download(url: str, path: Path) -> str:
    """Write what ``url`` gives to ``path``, under that name only when it is whole; returns its sha256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.part")
    digest, done = hashlib.sha256(), 0
    try:
        with urllib.request.urlopen(url, timeout=60) as answer, aside.open("xb") as file:
            total = int(answer.headers.get("Content-Length") or 0)
            log.info("fetching %s (%s) to %s", url, f"{total / 1e9:.2f} GB" if total else "size unknown", path)
            with tqdm(total=total or None, desc=path.name, unit="B", unit_scale=True, disable=None) as bar:
                while block := answer.read(_CHUNK):
                    file.write(block)
                    digest.update(block)
                    done += len(block)
                    bar.update(len(block))
        if done < total:
            raise http.client.IncompleteRead(b"", total - done)
        aside.replace(path)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        why = f"broke off after {done} bytes" if done else str(getattr(error, "reason", error))
        raise ConnectionError(
            f"{url}: could not be fetched ({why}). Where there is no network, fetch it elsewhere and put it into "
            f"{path.parent}, or into a folder of your own named by the variable {VARIABLE}"
        ) from None
    finally:
        aside.unlink(missing_ok=True)
    return digest.hexdigest()


def _compare(path: Path, digest: str | None, record: Path) -> None:
    """Compare the checksum of ``path`` with the recorded one of that name, or record it."""
    stat = path.stat()
    stamp = [stat.st_size, stat.st_mtime_ns]
    rows = _rows(record)
    row = rows.setdefault(path.name, {"sha256": None, "seen": {}})
    if row["seen"].get(str(path.absolute())) == stamp:
        return
    if digest is None:
        log.info("computing the checksum of %s", path)
        digest = _sha256(path)
    if row["sha256"] not in (None, digest):
        raise ValueError(
            f"{path}: its sha256 is {digest}, but {row['sha256']} when a file of that name was first used: it is "
            f"damaged or another file. Delete it to fetch it again, or if it is right, its row of {record}"
        )
    row["sha256"] = digest
    row["seen"][str(path.absolute())] = stamp
    aside = record.with_name(f"{record.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        record.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(json.dumps(rows, indent=1, sort_keys=True))
        aside.replace(record)
    except OSError as error:
        log.warning("%s: the checksum of %s could not be recorded: %s", record, path.name, error)


def _rows(record: Path) -> dict[str, dict[str, Any]]:
    try:
        return json.loads(record.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except ValueError as error:
        raise ValueError(f"{record}: not the checksums that were recorded ({error}); delete it") from None


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_CHUNK):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def _one_at_a_time(lock: Path) -> Iterator[None]:
    """Lets one process through at a time, so that the ranks of a node fetch a file once. Where the cache or its file
    system allows no lock they go on without: files are renamed when whole, so that is only wasteful."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            lock.parent.mkdir(parents=True, exist_ok=True)
            fcntl.flock(stack.enter_context(lock.open("a")), fcntl.LOCK_EX)
        yield
