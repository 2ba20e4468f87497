# /// script
# dependencies = ["vjepa_lab", "tqdm"]
# ///
"""Write clips of the synthetic world to disk, in each form that the file sources read.

    python tools/make_synthetic.py out --clips 64 --size 64 --frames 64

writes, for clips 0 to 63 of the world:

    out/videos/000000.mp4            H.264, at --fps frames per second of the world
    out/truth/000000.npz             exact state of every frame (see vjepa_lab/data/sources/synthetic.py), and the label
    out/listing.csv                  path,label with a header; paths are relative to the file
    out/shards/synthetic-000000.tar  webdataset: mp4, cls (the label) and json (index, key, label, fps)

Clip i shows what the source {name: synthetic} shows at index i under the same settings and a step of 1 / fps, up to
the loss of the video codec. Folder, listing and shards hold the same clips, so the ways to read them can be compared
with one another and with the truth.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm
from webdataset import ShardWriter

from vjepa_lab.data.sources.synthetic import CLASSES, MAX_DISCS, Synthetic, SyntheticReader


def main(argv: list[str] | None = None) -> None:
    args = _parser().parse_args(argv)
    if args.out.exists() and any(args.out.iterdir()):
        raise SystemExit(f"{args.out} is not empty; name a new folder")
    try:
        config = Synthetic(
            discs=args.discs,
            split=args.split,
            seed=args.seed,
            speed=args.speed,
            step=1 / args.fps,
            pan=args.pan,
            occluder=args.occluder,
            gravity=args.gravity,
            damping=args.damping,
            label=args.label,
        )
    except ValueError as error:
        raise SystemExit(str(error)) from None
    reader = SyntheticReader(config, frames=args.frames, height=args.size, width=args.size, fps=args.fps)
    write(reader, args.out, clips=args.clips, fps=args.fps, crf=args.crf, per_shard=args.per_shard)


def write(reader: SyntheticReader, out: Path, *, clips: int, fps: int, crf: int, per_shard: int) -> None:
    """Write clips 0 .. ``clips`` - 1 of ``reader`` below ``out`` (see the module's text for the layout)."""
    for folder in ("videos", "truth", "shards"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    pattern = str(out / "shards" / "synthetic-%06d.tar")
    with (
        open(out / "listing.csv", "w", newline="", encoding="utf-8") as listing,
        ShardWriter(pattern, maxcount=per_shard, verbose=0) as shards,
    ):
        rows = csv.writer(listing, lineterminator="\n")
        rows.writerow(["path", "label"])
        for index in tqdm(range(clips), unit="clip"):
            sample = reader.read(index)
            name = f"{index:06d}"
            video = out / "videos" / f"{name}.mp4"
            encode(sample.clip.permute(1, 2, 3, 0).numpy(), video, fps=fps, crf=crf)
            truth = {field: value.numpy() for field, value in sample.truth.items()}
            np.savez_compressed(out / "truth" / f"{name}.npz", label=sample.label, **truth)
            rows.writerow([f"videos/{name}.mp4", sample.label])
            facts = {"index": index, "key": sample.key, "label": sample.label, "fps": fps}
            shards.write({"__key__": name, "mp4": video.read_bytes(), "cls": sample.label, "json": facts})


def encode(frames: NDArray[np.uint8], path: Path, *, fps: int, crf: int) -> None:
    """Write ``frames`` (F, H, W, 3) as H.264 in 4:2:0, the form that every decoder reads."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": str(crf)})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Write clips of the synthetic world as MP4 files, a CSV listing, webdataset tars and exact truth.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("out", type=Path, help="new or empty folder")
    parser.add_argument("--clips", type=_at_least(1), default=64, help="how many clips")
    parser.add_argument("--size", type=_even, default=64, help="height and width in pixels, even")
    parser.add_argument("--frames", type=_at_least(1), default=64, help="frames of a clip")
    parser.add_argument("--fps", type=_at_least(1), default=4, help="frames per second of the world and of the files")
    parser.add_argument("--crf", type=int, default=8, help="of x264: 0 is lossless in 4:2:0, 23 its own default")
    parser.add_argument("--per-shard", type=_at_least(1), default=1000, help="clips in a tar")
    world = parser.add_argument_group("world", "fields of the source 'synthetic'")
    world.add_argument("--discs", type=int, default=3, help=f"1 to {MAX_DISCS}")
    world.add_argument("--split", choices=["train", "val"], default="train", help="which stream of clips")
    world.add_argument("--seed", type=int, default=0, help="another seed is another world")
    world.add_argument("--speed", type=float, default=0.25, help="mean first speed, frame widths per second")
    world.add_argument("--pan", type=float, default=0.0, help="sway of the camera to each side, frame widths")
    world.add_argument("--occluder", action="store_true", help="an opaque bar before the camera")
    world.add_argument("--gravity", type=float, default=0.0, help="frame widths per second squared")
    world.add_argument("--damping", type=float, default=0.0, help="linear drag per second")
    world.add_argument("--label", choices=list(CLASSES), default="direction", help="what the class means")
    return parser


def _at_least(low: int) -> Callable[[str], int]:
    def integer(text: str) -> int:
        value = int(text)
        if value < low:
            raise argparse.ArgumentTypeError(f"expected {low} or more, got {value}")
        return value

    return integer


def _even(text: str) -> int:
    value = int(text)
    if value < 8 or value % 2:
        raise argparse.ArgumentTypeError(f"expected an even number of 8 or more, got {value}")
    return value


if __name__ == "__main__":
    main()
