# /// script
# dependencies = ["vjepa_lab[robot]", "tqdm"]
# ///
"""Write raw DROID episodes into small webdataset tars, which the source ``robot_shards`` reads.

    python tools/droid_to_shards.py droid/1.0.1 shards/ --cameras left right --workers 16

Of every episode the steps at ``--fps`` are kept, without those in which nothing moves, and the pictures are shrunk to
``--size`` pixels across the shorter side. Where idle steps are left out the time of the episode is shortened: the next
step that is kept follows at once, and the action between the two is what lies between their states.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm
from webdataset.writer import ShardWriter

from vjepa_lab.data.containers import Unreadable
from vjepa_lab.data.episodes import matched
from vjepa_lab.data.robot import RobotSpec
from vjepa_lab.data.sources.droid import Droid, DroidFolders
from vjepa_lab.robots import DROID


class Options(NamedTuple):
    """How an episode is written."""

    fps: float
    size: int
    crf: int
    still: tuple[float, float, float]
    shortest: int


class Written(NamedTuple):
    """One camera of one episode, or why there is none."""

    files: dict[str, object]
    reason: str
    before: int
    "bytes of its video"
    steps: int
    "at the new rate"
    kept: int


def main(argv: list[str] | None = None) -> int:
    """Returns 0, or 1 if nothing was written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", help="folder of raw DROID episodes, or a listing of their folders")
    parser.add_argument("folder", type=Path, help="where the tars go")
    parser.add_argument("--cameras", nargs="+", default=["left"], help="left right wrist ext1 ext2 (default: left)")
    parser.add_argument("--rate", default="15", help="steps per second of the recording, or timestamps (default: 15)")
    parser.add_argument("--fps", type=float, default=5.0, help="steps per second that are kept (default: 5)")
    parser.add_argument("--size", type=int, default=256, help="pixels across the shorter side (default: 256)")
    parser.add_argument("--crf", type=int, default=20, help="quality of H.264, smaller is better (default: 20)")
    parser.add_argument(
        "--still",
        nargs=3,
        type=float,
        default=(0.002, 0.02, 0.02),
        metavar=("METRES", "RADIANS", "GRIPPER"),
        help="a step that moved less than all of these since the last kept one is idle; 0 0 0 keeps all "
        "(default: 0.002 0.02 0.02)",
    )
    parser.add_argument("--shortest", type=int, default=16, help="fewest steps of an episode (default: 16)")
    parser.add_argument("--prefix", default="droid", help="names are <prefix>-000000.tar, ... (default: droid)")
    parser.add_argument("--megabytes", type=float, default=500, help="size at which a tar is closed (default: 500)")
    parser.add_argument("--seed", type=int, default=0, help="of the order (a listing is sorted by laboratory)")
    parser.add_argument("--workers", type=int, default=0, help="processes; 0: this one (default: 0)")
    args = parser.parse_args(argv)

    rate: float | str = args.rate
    if args.rate != "timestamps":
        try:
            rate = float(args.rate)
        except ValueError:
            parser.error(f"--rate: got '{args.rate}', expected a number or timestamps")
    options = Options(args.fps, args.size, args.crf, tuple(args.still), args.shortest)
    spec = RobotSpec(frames=options.shortest, height=options.size, width=options.size, fps=options.fps)
    try:
        layout = Droid(path=args.path, cameras=args.cameras, rate=rate).open(spec).layout
    except ValueError as error:
        parser.error(str(error))
    assert isinstance(layout, DroidFolders)
    args.folder.mkdir(parents=True, exist_ok=True)
    there = sorted(args.folder.glob(f"{args.prefix}-*.tar"))
    if there:
        parser.error(f"folder: {there[0]} is already there; give another folder or --prefix")

    order = np.random.default_rng(args.seed).permutation(len(layout)).tolist()
    work = partial(convert, layout, options)
    skipped: Counter[str] = Counter()
    done = before = steps = kept = 0
    pattern = str(args.folder / f"{args.prefix}-%06d.tar").replace("\\", "/")
    pool = ProcessPoolExecutor(args.workers) if args.workers else None
    try:
        results = pool.map(work, order, chunksize=4) if pool else map(work, order)
        with ShardWriter(pattern, maxsize=args.megabytes * 1e6, verbose=0) as writer:
            for one in tqdm(results, total=len(order), unit="video", disable=not sys.stderr.isatty()):
                if one.reason:
                    skipped[one.reason] += 1
                    continue
                writer.write(one.files)
                done, before, steps, kept = done + 1, before + one.before, steps + one.steps, kept + one.kept
            tars = writer.shard
    finally:
        if pool:
            pool.shutdown(cancel_futures=True)
    after = sum(tar.stat().st_size for tar in args.folder.glob(f"{args.prefix}-*.tar"))
    print(f"{done} of {len(layout)} videos in {tars} tars in {args.folder}")
    if done:
        times = before / after
        print(f"{before / 1e6:.1f} MB of video before, {after / 1e6:.1f} MB of tars after, {times:.1f} times smaller")
        print(f"{kept} of {steps} steps at {options.fps:g} per second kept; {1 - kept / steps:.1%} were idle")
    for reason, count in sorted(skipped.items()):
        print(f"skipped {count}: {reason}")
    return 0 if done else 1


def convert(layout: DroidFolders, options: Options, index: int) -> Written:
    """One camera of one episode as the files of a sample."""
    torch.set_num_threads(1)
    try:
        episode = layout.load(index)
        clock, states = episode.clock, episode.states
        assert clock is not None

        def choose(video: NDArray[np.float64]) -> NDArray[np.int64]:
            ids = at_rate(clock[: matched(len(video), len(states))], options.fps)
            ids = ids[moving(states[ids], options.still)]
            if len(ids) < options.shortest:
                raise Unreadable("too_short", f"{len(ids)} steps")
            return ids

        frames, ids, _ = episode.pictures(choose)
        before = Path(layout.video(index)).stat().st_size
    except Unreadable as error:
        return Written({}, error.reason, 0, 0, 0)
    arrays = {"states": episode.states[ids], "steps": ids}
    if episode.extrinsics is not None:
        arrays["extrinsics"] = episode.extrinsics[ids]
    packed = io.BytesIO()
    np.savez_compressed(packed, **arrays)
    camera = layout.key(index).rpartition(":")[2]
    name = "".join(c if c.isalnum() or c in "-_" else "_" for c in Path(layout.folder(index)).name)
    facts = {"rate": options.fps, "robot": DROID.to_plain(), "episode": layout.folder(index), "camera": camera}
    files = {
        "__key__": f"{index:09d}-{name}-{camera}",
        "mp4": encode(shrink(frames, options.size), options),
        "npz": packed.getvalue(),
        "json": facts,
    }
    return Written(files, "", before, len(at_rate(clock, options.fps)), len(ids))


def at_rate(clock: NDArray[np.float64], fps: float) -> NDArray[np.int64]:
    """Steps nearest to 0, 1 / fps, 2 / fps, ... seconds."""
    at = np.arange(int((clock[-1] - clock[0]) * fps + 1e-6) + 1) / fps + clock[0]
    return np.unique(np.searchsorted((clock[1:] + clock[:-1]) / 2, at - 1e-6))


def moving(states: NDArray[np.float64], still: tuple[float, float, float]) -> NDArray[np.int64]:
    """Which of the states (T, 7) moved since the last of them that did; the first counts as one."""
    matrices = DROID.matrices(torch.from_numpy(states)).numpy()
    kept = [0]
    for step in range(1, len(states)):
        last = kept[-1]
        translation = np.linalg.norm(states[step, :3] - states[last, :3])
        # the Frobenius norm of a difference of rotations is 2 sqrt(2) sin(angle / 2)
        half = np.linalg.norm(matrices[step] - matrices[last]) / np.sqrt(8)
        change = (translation, 2 * np.arcsin(min(1.0, half)), abs(states[step, 6] - states[last, 6]))
        if any(got >= least for got, least in zip(change, still, strict=True)):
            kept.append(step)
    return np.array(kept)


def shrink(frames: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Frames (F, h, w, 3) with ``size`` pixels across the shorter side, both sides even; never enlarged."""
    height, width = frames.shape[1:3]
    scale = min(1.0, size / min(height, width))
    shape = [max(2, 2 * round(side * scale / 2)) for side in (height, width)]
    if shape == [height, width]:
        return frames
    pictures = torch.from_numpy(frames).permute(0, 3, 1, 2)
    pictures = torch.nn.functional.interpolate(pictures, shape, mode="bilinear", antialias=True)
    return pictures.permute(0, 2, 3, 1).contiguous().numpy()


def encode(frames: NDArray[np.uint8], options: Options) -> bytes:
    """H.264 in an MP4, a keyframe every second or so: stretches begin anywhere."""
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=round(options.fps))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = max(1, round(options.fps))
        stream.options = {"crf": str(options.crf), "preset": "medium", "threads": "1"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return out.getvalue()


if __name__ == "__main__":
    sys.exit(main())
