"""Tars: where the samples in them are, and reading byte ranges of local and remote ones.

A sample is a run of members with one base name (webdataset's rule: what comes before the first dot of the file name).
The headers of a tar are read once, seeking over the data, and the byte range of every sample with a video or picture
is kept: 16 bytes a sample, cached under ``$XDG_CACHE_HOME/vjepa_lab/shards`` by path, size and time of change.

Decisions:
- Nothing here runs a command: ``pipe:``, ``ssh``, ``|``, chains (``::``) and schemes outside ``SCHEMES`` are refused.
- Remote tars are read through fsspec, a ranged request per sample.
- tarfile takes a header that it cannot read for the end of the tar; ``scan`` looks for the end marker, so damage in
  the middle is seen. The samples before it are used.
"""

from __future__ import annotations

import glob
import hashlib
import io
import logging
import os
import re
import tarfile
import tempfile
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import unquote, urlsplit

import fsspec
import numpy as np
from braceexpand import braceexpand
from fsspec.exceptions import FSTimeoutError
from numpy.typing import NDArray
from webdataset.tariterators import base_plus_ext

from vjepa_lab.data.containers import IMAGES, VIDEOS, Unreadable

log = logging.getLogger(__name__)

SCHEMES = ("http", "https", "s3", "gs")
OPEN_FILES = 64
INDEX_VERSION = 1
_BLOCK = 512


def expand(entry: str) -> list[str]:
    """Local paths and URLs that an entry of ``urls`` stands for.

    Raises:
        ValueError: something that would run a command, an unknown scheme, or a pattern that fits no file.
    """
    found: list[str] = []
    for url in braceexpand(entry):
        scheme = scheme_of(url)
        if scheme == "file":
            url, scheme = unquote(urlsplit(url).path), ""
        if scheme.startswith("http") or not any(c in url for c in "*?["):  # a "?" in http begins a query
            found.append(url)
            continue
        fits = sorted(glob.glob(url)) if scheme == "" else _remote_glob(url)
        if not fits:
            raise ValueError(f"shards: urls: got '{url}', expected a pattern that fits some files; it fits none")
        found += fits
    return found


def shown(url: str) -> str:
    """A URL without its query, which may hold a signature."""
    return url.partition("?")[0] if scheme_of(url) else url


def _remote_glob(url: str) -> list[str]:
    system, path = fsspec.url_to_fs(url)
    return sorted(system.unstrip_protocol(p) for p in system.glob(path))


def scheme_of(url: str) -> str:
    """The scheme of a URL, "" for a local path.

    Raises:
        ValueError: it is not one that is only ever read from.
    """
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):", url)
    scheme = match.group(1).lower() if match else ""
    runs = url.lstrip().startswith(("|", "ssh ")) or "::" in url
    if runs or scheme not in ("", "file", *SCHEMES):
        allowed = ", ".join(f"{s}://" for s in SCHEMES)
        raise ValueError(f"shards: urls: got '{url}', expected a path, file: or {allowed}; commands are never run")
    return scheme


class Index(NamedTuple):
    """Where the samples of one tar are."""

    ranges: NDArray[np.int64]
    "(n, 2) first byte of the first header, and end of the last member"
    damaged_at: int
    "byte at which the tar stops making sense, -1 if it never does"
    members: int
    "files in the tar"


def index(url: str) -> Index:
    """The index of a tar, from the cache if the file has not changed.

    Raises:
        ValueError: there is no such file.
    """
    system, path = (None, url) if scheme_of(url) == "" else fsspec.url_to_fs(url)
    try:
        if system is None:
            facts = os.stat(url)
            size, version = facts.st_size, str(facts.st_mtime_ns)
            if not Path(url).is_file():
                raise FileNotFoundError("it is no file")
            url = os.path.abspath(url)
        else:
            info = system.info(path)
            size, version = info["size"], str([info.get(k) for k in ("mtime", "ETag", "etag", "LastModified")])
    except OSError as error:
        raise ValueError(f"shards: urls: got '{url}', expected a tar: {error.strerror or error}") from None
    if size is None:
        raise ValueError(f"shards: urls: got '{url}', expected a server that states sizes and sends ranges")
    name = hashlib.blake2b(repr((INDEX_VERSION, url, size, version)).encode(), digest_size=16).hexdigest()
    cached = cache_folder() / f"{name}.npy"
    with suppress(OSError, ValueError):  # not there, or cut off by a full disk
        rows = np.load(cached, allow_pickle=False)
        return Index(rows[1:], int(rows[0, 0]), int(rows[0, 1]))
    with open(path, "rb") if system is None else system.open(path, "rb", block_size=1 << 16) as file:
        found = scan(file, size)
    _save(cached, np.concatenate([[[found.damaged_at, found.members]], found.ranges]))
    return found


def _save(cached: Path, rows: NDArray[np.int64]) -> None:
    """Write aside and rename. A cache that cannot be written is no loss but of time."""
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=cached.parent, suffix=".tmp", delete=False) as file:
            np.save(file, rows)
        os.replace(file.name, cached)
    except OSError as error:
        log.debug("no index is kept at %s: %s", cached, error)


def cache_folder() -> Path:
    """Where indices are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vjepa_lab" / "shards"


def scan(file: BinaryIO, size: int) -> Index:
    """Read the headers of a tar of ``size`` bytes; the sample that damage touches is left out."""
    ranges: list[tuple[int, int]] = []
    base: str | None = None
    members = first = end = at = 0
    has_media = damaged = False
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # tarfile would keep them all
                stop = member.offset_data + (-(-member.size // _BLOCK) * _BLOCK if member.isfile() else 0)
                if stop > size:
                    damaged, at = True, member.offset
                    break
                name, _ = base_plus_ext(member.name)
                if not member.isfile() or name is None:
                    continue
                members += 1
                if name != base:
                    if has_media:
                        ranges.append((first, end))
                    base, first, has_media = name, member.offset, False
                end = stop
                has_media = has_media or _extension(member.name) in VIDEOS + IMAGES
            at = at or tar.offset
        file.seek(at)
        marker = file.read(_BLOCK)  # tarfile takes a header that it cannot read for the end
        damaged = damaged or len(marker) < _BLOCK or any(marker)
    except tarfile.TarError:
        damaged, at = True, end
    if has_media and not damaged:
        ranges.append((first, end))
    return Index(np.array(ranges, dtype=np.int64).reshape(-1, 2), at if damaged else -1, members)


class Files:
    """Ranged reads. A process keeps up to ``OPEN_FILES`` local files open; ``pread`` has no position to share, so
    that forked processes and abandoned threads do not disturb one another."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, int] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {"_open": OrderedDict()}

    def __del__(self) -> None:
        while self._open:
            os.close(self._open.popitem()[1])

    def read(self, url: str, start: int, end: int) -> bytes:
        """Bytes [start, end) of a tar.

        Raises:
            Unreadable: the tar is missing or has become shorter.
        """
        try:
            data = self._local(url, start, end) if scheme_of(url) == "" else _remote(url, start, end)
        except OSError as error:
            raise Unreadable("missing", f"{url}: {error.strerror or error}") from None
        if len(data) != end - start:
            raise Unreadable("truncated", f"{url}: got {len(data)} of {end - start} bytes from byte {start}")
        return data

    def _local(self, url: str, start: int, end: int) -> bytes:
        file = self._open.pop(url, None)
        if file is None:
            file = os.open(url, os.O_RDONLY)
            if len(self._open) >= OPEN_FILES:
                os.close(self._open.popitem(last=False)[1])
        self._open[url] = file
        return os.pread(file, end - start, start)


def _remote(url: str, start: int, end: int) -> bytes:
    """A ranged request. The file system is asked for every time: fsspec keeps one per process, also after a fork."""
    from aiohttp import ClientError

    system, path = fsspec.url_to_fs(url)
    try:
        return system.cat_file(path, start=start, end=end)
    except (ClientError, FSTimeoutError) as error:
        raise OSError(f"{type(error).__name__}: {error}") from None


def members(data: bytes) -> tuple[str, dict[str, bytes]]:
    """Base name of one sample, and the contents of its members by last extension, in lower case."""
    found: dict[str, bytes] = {}
    base = ""
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            for member in tar:
                file = tar.extractfile(member)
                if file is not None:
                    base = base or str(base_plus_ext(member.name)[0])
                    found.setdefault(_extension(member.name), file.read())
    except tarfile.TarError as error:
        raise Unreadable("truncated", f"tar: {error}") from None
    if not any(ext in VIDEOS + IMAGES for ext in found):
        raise Unreadable("truncated", "the tar has changed since its index was made")
    return base, found


def _extension(name: str) -> str:
    return (base_plus_ext(name)[1] or "").rpartition(".")[2].lower()
