# /// script
# dependencies = ["vjepa_lab[sim]", "tqdm"]
# ///
"""Record episodes of the simulated Franka arm in the layout of raw DROID.

    python tools/record_sim.py out --episodes 500 --size 64 --rate 4

writes, for each episode (the source {name: droid, path: out, rate: timestamps} reads them):

    out/SIM/success/2024-01-01/Mon_Jan_01_00:07:00_2024/
        metadata_SIM+00000000+2024-01-01-00h-07m-00s.json
        trajectory.h5                   --rate steps per second; states by forward kinematics, and the commanded poses
        recordings/MP4/10000001.mp4     left; 10000002 is right, 10000003 wrist; one frame per step
    out/videos.csv                      path,label of all videos, for pretraining; the label is the camera
    out/recording.json                  the settings; the same folder can only be continued with the same ones

The arm explores at the speed of DROID (see vjepa_lab/planning/_explore.py); a share --push of the episodes begins by
pushing the cube. Episode i is a function of the settings and i alone; what is there already is not recorded again.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime, timedelta
from fractions import Fraction
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal, NamedTuple

import av
import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from vjepa_lab.dist import derive
from vjepa_lab.planning._explore import explore
from vjepa_lab.planning.sim import FrankaSim
from vjepa_lab.poses import euler_to_matrix, matrix_to_euler

Array = NDArray[np.float64]

SERIALS = {"left": "10000001", "right": "10000002", "wrist": "10000003"}
METADATA_NAMES = {"left": "ext1", "right": "ext2", "wrist": "wrist"}
LAB = "SIM"


class Settings(NamedTuple):
    """What an episode is a function of, together with its number."""

    seed: int
    size: int
    rate: float
    seconds: float
    cameras: list[str]
    speed: float
    turn: float
    push: float
    detail: Literal["hull", "full"]
    crf: int


def main(argv: list[str] | None = None) -> int:
    args: dict[str, Any] = vars(_parser().parse_args(argv))
    out, episodes, processes = args.pop("out"), args.pop("episodes"), args.pop("processes")
    settings = Settings(**args)
    _claim(out, settings)
    missing = [i for i in range(episodes) if not (out / folder(settings, i)).exists()]
    try:
        sim = simulator(settings.size, settings.rate, settings.detail)  # fails here with a message, not in a worker
    except ValueError as error:
        raise SystemExit(str(error)) from None
    work = partial(record, out, settings)
    with sim, tqdm(total=episodes, initial=episodes - len(missing), unit="episode") as bar:
        if min(processes, len(missing)) < 2:
            for index in missing:
                work(index)
                bar.update()
        else:
            with ProcessPoolExecutor(min(processes, len(missing)), mp_context=get_context("spawn")) as pool:
                for _ in pool.map(work, missing):
                    bar.update()
    simulator.cache_clear()
    _list_videos(out, settings, episodes)
    return 0


@lru_cache(maxsize=1)
def simulator(size: int, rate: float, detail: Literal["hull", "full"]) -> FrankaSim:
    """The simulator of this process."""
    os.environ.setdefault("LP_NUM_THREADS", "0")  # threads of the software renderer: they cost more than they give
    return FrankaSim(size=size, rate=rate, detail=detail)


def record(out: Path, settings: Settings, index: int) -> None:
    """Record episode ``index``. It appears under its name when it is complete."""
    sim = simulator(settings.size, settings.rate, settings.detail)
    motion = explore(
        np.random.Generator(np.random.Philox(key=derive("record_sim", settings.seed, index))),
        seconds=settings.seconds,
        rate=settings.rate,
        speed=settings.speed,
        turn=settings.turn,
        push=settings.push,
    )
    sim.place(motion.states[0], motion.cube)
    steps = len(motion.states)
    seen: dict[str, list[NDArray[np.uint8]]] = {camera: [] for camera in settings.cameras}
    extrinsics: dict[str, list[Array]] = {camera: [] for camera in settings.cameras}
    rows: dict[str, list[Array]] = {"states": [], "angles": [], "speeds": [], "cube": []}
    for t in range(steps):
        for camera in settings.cameras:
            seen[camera].append(sim.observe(camera).image)
            extrinsics[camera].append(sim.extrinsics(camera))
        for name, value in zip(rows, (sim.state, *sim.joints, sim.cube), strict=True):
            rows[name].append(value)
        if t + 1 < steps:
            sim.drive(motion.states[t + 1], 1 / settings.rate, motion.velocities[t + 1])

    final = out / folder(settings, index)
    part = out / f".part-{index:06d}"
    shutil.rmtree(part, ignore_errors=True)
    (part / "recordings" / "MP4").mkdir(parents=True)
    for camera, images in seen.items():
        encode(np.stack(images), part / _video(camera), rate=settings.rate, crf=settings.crf)
    numbers = {name: np.stack(values) for name, values in rows.items()}
    commands = np.concatenate([motion.states[1:], motion.states[-1:]])
    write_trajectory(part / "trajectory.h5", numbers, commands, extrinsics, rate=settings.rate)
    facts = metadata(settings, index, steps, extrinsics)
    (part / f"metadata_{facts['uuid']}.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    final.parent.mkdir(parents=True, exist_ok=True)
    part.rename(final)


def write_trajectory(
    path: Path, numbers: dict[str, Array], commands: Array, extrinsics: dict[str, list[Array]], *, rate: float
) -> None:
    """Write T rows: states, joints, the commanded poses, cameras, and the times in milliseconds."""
    import h5py

    states, steps = numbers["states"], len(commands)
    angles = matrix_to_euler(euler_to_matrix(torch.from_numpy(commands[:, 3:6]))).numpy()  # within +-pi
    milliseconds = np.round(1000 * np.arange(steps) / rate, 3)
    columns: dict[str, Any] = {
        "action/cartesian_position": np.concatenate([commands[:, :3], angles], axis=1),
        "action/gripper_position": commands[:, 6],
        "observation/robot_state/cartesian_position": states[:, :6],
        "observation/robot_state/gripper_position": states[:, 6],
        "observation/robot_state/joint_positions": numbers["angles"],
        "observation/robot_state/joint_velocities": numbers["speeds"],
        "observation/timestamp/control/step_start": milliseconds,
        "observation/timestamp/skip_action": np.zeros(steps, dtype=bool),
        "simulation/cube_position": numbers["cube"],
    }
    for camera, poses in extrinsics.items():
        serial = SERIALS[camera]
        columns[f"observation/camera_extrinsics/{serial}_left"] = np.stack(poses)
        columns[f"observation/camera_type/{serial}"] = np.full(steps, int(camera != "wrist"))
        columns[f"observation/timestamp/cameras/{serial}_estimated_capture"] = milliseconds
    with h5py.File(path, "w") as file:
        for name, values in columns.items():
            file[name] = values
        file.attrs.update(success=True, failure=False, current_task="explore")


def metadata(settings: Settings, index: int, steps: int, extrinsics: dict[str, list[Array]]) -> dict[str, Any]:
    """What DROID's metadata say of an episode. Paths are relative to the folder of the laboratory."""
    where, when = folder(settings, index), _when(index)
    stamp = f"{when:%Y-%m-%d-%Hh-%Mm-%Ss}"
    collector = f"{settings.seed:08d}"
    inside = where.relative_to(LAB)
    facts: dict[str, Any] = {
        "uuid": f"{LAB}+{collector}+{stamp}",
        "lab": LAB,
        "user": "record_sim",
        "user_id": collector,
        "date": f"{when:%Y-%m-%d}",
        "timestamp": stamp,
        "hdf5_path": str(inside / "trajectory.h5"),
        "building": "simulation",
        "scene_id": 0,
        "success": True,
        "robot_serial": "simulated-panda",
        "r2d2_version": "simulation",
        "current_task": "explore",
        "trajectory_length": steps,
    }
    for camera, poses in extrinsics.items():
        name, video = METADATA_NAMES[camera], str(inside / _video(camera))
        facts |= {f"{name}_cam_serial": SERIALS[camera], f"{name}_cam_extrinsics": poses[0].tolist()}
        facts |= {f"{name}_mp4_path": video, f"{camera}_mp4_path": video}
    return facts


def encode(frames: NDArray[np.uint8], path: Path, *, rate: float, crf: int) -> None:
    """Write ``frames`` (T, H, W, 3) as H.264; the header states the true rate, as DROID's do not."""
    options = {"crf": str(crf), "mbtree": "0"}  # with its macroblock tree, x264 writes small pictures now so, now so
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(rate).limit_denominator(1000), options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def folder(settings: Settings, index: int) -> Path:
    """Where episode ``index`` goes, relative to the root."""
    when = _when(index)
    return Path(LAB, "success", f"{when:%Y-%m-%d}", f"{when:%a_%b_%d_%H:%M:%S_%Y}")


def _when(index: int) -> datetime:
    """Episodes are dated a minute apart, as names must differ and be the same on every run."""
    return datetime(2024, 1, 1) + timedelta(minutes=index)


def _video(camera: str) -> Path:
    return Path("recordings", "MP4", f"{SERIALS[camera]}.mp4")


def _claim(out: Path, settings: Settings) -> None:
    """Note the settings in a new folder; in an old one, see that they are the same."""
    out.mkdir(parents=True, exist_ok=True)
    note = out / "recording.json"
    plain = settings._asdict()
    if note.exists():
        there = json.loads(note.read_text(encoding="utf-8"))
        other = [f"{name} {there.get(name)}, not {value}" for name, value in plain.items() if there.get(name) != value]
        if other:
            raise SystemExit(f"{out} was recorded with {'; '.join(other)}; give another folder, or the same settings")
    elif any(out.iterdir()):
        raise SystemExit(f"{out} is neither empty nor a recording; name a new folder")
    else:
        note.write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")


def _list_videos(out: Path, settings: Settings, episodes: int) -> None:
    with open(out / "videos.csv", "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["path", "label"])
        for index in range(episodes):
            rows.writerows([folder(settings, index) / _video(camera), camera] for camera in settings.cameras)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Record episodes of the simulated Franka arm in the layout of raw DROID.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("out", type=Path, help="a new folder, or one to continue")
    parser.add_argument("--episodes", type=_above(0, int), default=100, help="how many there are to be in the end")
    parser.add_argument("--processes", type=_above(0, int), default=os.cpu_count(), help="at a time")
    what = parser.add_argument_group("settings of a recording")
    what.add_argument("--seed", type=int, default=0, help="another seed is another recording")
    what.add_argument("--size", type=_even, default=128, help="height and width of the pictures, px, even")
    what.add_argument("--rate", type=_above(0), default=15.0, help="steps and frames per second; DROID's is 15")
    what.add_argument("--seconds", type=_above(0), default=8.0, help="length of an episode")
    what.add_argument("--cameras", nargs="+", choices=list(SERIALS), default=["left"], help="which videos to write")
    what.add_argument("--speed", type=_above(0), default=1.0, help="of the motion, times that of DROID")
    what.add_argument(
        "--turn", type=_above(0, zero=True), default=1.0, help="of the hand, likewise; 0 keeps it upright"
    )
    what.add_argument("--push", type=_share, default=0.2, help="share of episodes that begin by pushing the cube")
    what.add_argument(
        "--detail", choices=["hull", "full"], default="hull", help="full: visual meshes, five times slower"
    )
    what.add_argument("--crf", type=int, default=12, help="of x264: 0 is lossless in 4:2:0, 23 its own default")
    return parser


def _above(low: float, kind: Callable[[str], float] = float, *, zero: bool = False) -> Callable[[str], float]:
    def number(text: str) -> float:
        value = kind(text)
        if value < low or (value == low and not zero):
            raise argparse.ArgumentTypeError(f"expected {'at least' if zero else 'more than'} {low}, got {value}")
        return value

    return number


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected 0 to 1, got {value}")
    return value


def _even(text: str) -> int:
    value = int(text)
    if value < 8 or value % 2:
        raise argparse.ArgumentTypeError(f"expected an even number of 8 or more, got {value}")
    return value


if __name__ == "__main__":
    sys.exit(main())
