"""LeRobot datasets v2.0, v2.1 and v3: Parquet and MP4 files at the places that ``meta/info.json`` names.

v2 has a Parquet file and an MP4 per camera for every episode; v3 puts many episodes into each, and
``meta/episodes/*.parquet`` says where one begins. Places are templates, and some v3 sets in the wild have those of v2:
a template that names the episode is taken to lead to a file of its own.

A dataset says what its columns are called and not what they mean. ``state`` lists the columns, or parts of them
(``observation.state[0:7]``), that joined are a state of the robot; by default the whole of ``observation.state``.

Decisions:
- Cameras must be named where there are several: their order in ``info.json`` means nothing.
- Of a v3 video the part of the episode is found by seeking (``decoders.decode_part``); v2 videos are counted, and must
  have as many frames as there are states.
- ``actions`` asks for recorded ones (each leads from its row to the next), which must be differences as the robot's
  description has them; by default they are made of the states.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vjepa_lab import robots
from vjepa_lab.data.containers import Unreadable
from vjepa_lab.data.decoders import Choose, Decoded, decode, decode_part, read_image
from vjepa_lab.data.episodes import Episode, EpisodeReader, needs
from vjepa_lab.data.robot import RobotSpec, expect
from vjepa_lab.registry import SOURCES
from vjepa_lab.robots import Robot

_COLUMN = re.compile(r"(?P<name>[^\[\]]+)(\[(?P<first>\d*):(?P<stop>\d*)\])?")


@SOURCES.register
@dataclass
class Lerobot:
    """A LeRobot dataset."""

    path: str = ""
    "its folder, with meta/info.json"
    weight: float = 1.0
    "share of the mix"
    cameras: list[str] = field(default_factory=list)
    "which cameras, like observation.images.ego_view; each is a stretch of its own. Empty: the only one there is"
    state: list[str] = field(default_factory=lambda: ["observation.state"])
    "columns that joined are the state, or parts of them: observation.state[0:7]"
    actions: list[str] = field(default_factory=list)
    "columns of recorded actions; empty: differences of the states"
    robot: dict[str, Any] = field(default_factory=dict)
    "describes the states where that differs from the run's robot: {name: droid}, or fields of robots.Robot"
    rate: float | None = None
    "steps per second; null: as meta/info.json says"

    def open(self, spec: RobotSpec) -> EpisodeReader:
        """Read the meta data.

        Raises:
            ValueError: it is no LeRobot dataset of a known version, or a field does not fit it.
        """
        expect(spec, "lerobot")
        needs("pyarrow.parquet")
        info = _info(Path(self.path))
        features: dict[str, dict[str, Any]] = info["features"]
        cameras = [name for name, about in features.items() if about.get("dtype") in ("video", "image")]
        if not set(self.cameras) <= set(cameras) or not (self.cameras or len(cameras) == 1):
            raise ValueError(
                f"lerobot: cameras: got {', '.join(self.cameras) or 'none'}, expected some of {', '.join(cameras)}"
            )
        columns = [_column(text, features) for text in self.state]
        if not columns:
            raise ValueError("lerobot: state: got nothing, expected columns such as observation.state")
        robot = robots.of(self.robot) if self.robot else spec.robot
        layout = Dataset(
            Path(self.path),
            info,
            self.cameras or cameras,
            columns,
            [_column(text, features) for text in self.actions],
            robot,
            float(info["fps"] if self.rate is None else self.rate),
            spec,
        )
        return EpisodeReader(layout, spec)


class Column(NamedTuple):
    """A column, or a part of one."""

    name: str
    part: slice


class Places(NamedTuple):
    """Where the n episodes are, in flat arrays, which forked workers share."""

    episodes: NDArray[np.int64]
    "(n,) their numbers"
    files: NDArray[np.int64]
    "(n, 2) v3: chunk and file of the data"
    videos: dict[str, NDArray[np.float64]]
    "v3: (n, 3) chunk, file and first second of each camera's video"


class Dataset:
    """Episodes of a LeRobot dataset; index // cameras is the episode."""

    def __init__(
        self,
        root: Path,
        info: dict[str, Any],
        cameras: list[str],
        state: list[Column],
        actions: list[Column],
        robot: Robot,
        rate: float,
        spec: RobotSpec,
    ) -> None:
        self.name = f"lerobot:{root.name}"
        self.robot = robot
        self.rate = rate
        self._root, self._info, self._cameras, self._spec = root, info, cameras, spec
        self._state, self._actions = state, actions
        self.cameras = len(cameras)
        self._places = _places(root, cameras)
        for number in range(len(cameras) if len(self) else 0):  # a template that cannot be filled in is told now
            self._path("data_path", number)
            if info["features"][cameras[number]]["dtype"] == "video":
                self._path("video_path", number)

    def __len__(self) -> int:
        return len(self._places.episodes) * len(self._cameras)

    def key(self, index: int) -> str:
        """Dataset, episode and camera."""
        number, camera = divmod(index, len(self._cameras))
        return f"{self._root}#{self._places.episodes[number]}:{self._cameras[camera]}"

    def load(self, index: int) -> Episode:
        """States and recorded actions of an episode, and how to read one camera's pictures."""
        number, camera = divmod(index, len(self._cameras))
        table = self._table(number, [column.name for column in (*self._state, *self._actions)])
        states = np.concatenate([_numbers(table, column) for column in self._state], axis=1)
        actions = [_numbers(table, column)[:-1] for column in self._actions]  # the last row's leads out of the episode
        clock = np.arange(len(states)) / self.rate
        name = self._cameras[camera]
        if self._info["features"][name]["dtype"] == "image":
            pictures = partial(self._pick, number, name, clock)
        else:
            video = str(self._path("video_path", index))
            if "{episode_index" in self._info["video_path"]:
                pictures = partial(decode, video, decoder=self._spec.decoder, threads=self._spec.threads)
            else:
                start = float(self._places.videos[name][number, 2])
                pictures = partial(decode_part, video, start, clock, threads=self._spec.threads)
        return Episode(states, clock, pictures, actions=np.concatenate(actions, axis=1) if actions else None)

    def _path(self, template: str, index: int) -> Path:
        """The file of an episode; for ``video_path`` that of the camera."""
        number, camera = divmod(index, len(self._cameras))
        name, episode = self._cameras[camera], int(self._places.episodes[number])
        chunk = episode // int(self._info.get("chunks_size") or 1000)
        facts: dict[str, Any] = {"episode_index": episode, "episode_chunk": chunk, "video_key": name}
        where = self._places.files if template == "data_path" else self._places.videos.get(name)
        if where is not None and where.size:
            facts |= {"chunk_index": int(where[number, 0]), "file_index": int(where[number, 1])}
        pattern = self._info.get(template)
        try:
            return self._root / str(pattern).format(**facts)
        except (KeyError, ValueError, IndexError) as error:
            known = ", ".join(facts)
            raise ValueError(
                f"{self._root}/meta/info.json: {template}: got '{pattern}', which needs {error}; known are {known}"
            ) from None

    def _table(self, number: int, columns: list[str]) -> Any:
        """Columns of the rows of one episode, in the order of its steps."""
        parquet, arrow = needs("pyarrow.parquet"), needs("pyarrow")
        path = self._path("data_path", number * len(self._cameras))
        own = "{episode_index" in self._info["data_path"]
        chosen = None if own else [("episode_index", "=", int(self._places.episodes[number]))]
        try:
            table = parquet.read_table(path, columns=sorted(set(columns)), filters=chosen, use_threads=False)
        except FileNotFoundError:
            raise Unreadable("missing", f"{path.relative_to(self._root)}: no such file") from None
        except (OSError, arrow.ArrowException) as error:
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise Unreadable("undecodable", f"{path.relative_to(self._root)}: {first}") from None
        if not table.num_rows:
            raise Unreadable("missing", f"{path.relative_to(self._root)} holds no row of this episode")
        return table

    def _pick(self, number: int, name: str, clock: NDArray[np.float64], choose: Choose) -> Decoded:
        """Pictures that lie in the Parquet file itself."""
        cells = self._table(number, [name])[name]
        ids = choose(clock[: len(cells)])
        taken = {i: (cells[int(i)].as_py() or {}).get("bytes") for i in np.unique(ids)}
        if not all(taken.values()):
            raise Unreadable("missing", f"{name}: the Parquet file does not hold the pictures")
        images = {i: read_image(data) for i, data in taken.items() if data}
        return Decoded(np.stack([images[i] for i in ids]), ids, clock[ids])


def _info(root: Path) -> dict[str, Any]:
    file = root / "meta" / "info.json"
    if not file.is_file():
        raise ValueError(f"lerobot: path: got '{root}', expected the folder of a dataset; there is no meta/info.json")
    try:
        info = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    lacks = [name for name in ("codebase_version", "fps", "data_path", "features") if name not in info]
    if lacks:
        raise ValueError(f"{file}: got no {', '.join(lacks)}, expected those of a LeRobot dataset of v2 or v3")
    if not str(info["codebase_version"]).startswith(("v2.", "v3.")):
        raise ValueError(f"{file}: codebase_version: got {info['codebase_version']}, expected v2.0, v2.1 or v3")
    return info


def _column(text: str, features: dict[str, dict[str, Any]]) -> Column:
    match = _COLUMN.fullmatch(text)
    if match is None or match["name"] not in features:
        raise ValueError(f"lerobot: got the column '{text}', expected some of {', '.join(features)}, or a part: x[0:7]")
    first, stop = (int(match[end]) if match[end] else None for end in ("first", "stop"))
    return Column(match["name"], slice(first, stop))


def _numbers(table: Any, column: Column) -> NDArray[np.float64]:
    """A column of numbers or of lists of numbers as (T, width)."""
    cells = table[column.name].combine_chunks()
    while hasattr(cells, "flatten") and str(cells.type).find("list") >= 0:
        cells = cells.flatten()
    flat = np.asarray(cells.to_numpy(zero_copy_only=False), dtype=np.float64)
    if len(flat) % table.num_rows:
        raise Unreadable("mismatched", f"{column.name}: the rows have lists of different lengths")
    return flat.reshape(table.num_rows, -1)[:, column.part]


def _places(root: Path, cameras: list[str]) -> Places:
    """Where the episodes are, in their order."""
    listing = root / "meta" / "episodes.jsonl"
    if listing.is_file():
        lines = [line for line in listing.read_text(encoding="utf-8").splitlines() if line.strip()]
        try:
            episodes = np.array([json.loads(line)["episode_index"] for line in lines], dtype=np.int64)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{listing}: expected one object with episode_index per line: {error}") from None
        return Places(episodes, np.empty((len(episodes), 0), np.int64), {})
    files = sorted((root / "meta" / "episodes").rglob("*.parquet"))
    if not files:
        raise ValueError(f"{root}: got neither meta/episodes.jsonl nor meta/episodes/*.parquet, expected one of them")
    parquet = needs("pyarrow.parquet")
    there = set(parquet.read_schema(files[0]).names)
    data = [f"data/{what}" for what in ("chunk_index", "file_index")]
    videos = {c: [f"videos/{c}/{what}" for what in ("chunk_index", "file_index", "from_timestamp")] for c in cameras}
    wanted = ["episode_index", *(name for name in chain(data, *videos.values()) if name in there)]
    table = parquet.read_table(files, columns=wanted)
    of = {name: table[name].to_numpy() for name in wanted}
    episodes = of["episode_index"].astype(np.int64)
    where = {c: np.stack([of[n] for n in names], axis=1) for c, names in videos.items() if there.issuperset(names)}
    chunks = np.stack([of[n] for n in data], axis=1) if there.issuperset(data) else np.empty((len(episodes), 0))
    return Places(episodes, chunks.astype(np.int64), {c: at.astype(np.float64) for c, at in where.items()})
