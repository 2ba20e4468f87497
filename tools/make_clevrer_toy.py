# /// script
# dependencies = ["vjepa_lab", "tqdm"]
# ///
"""Write scenes of the toy world clevrer_toy to disk, in the layout of CLEVRER.

    python tools/make_clevrer_toy.py out --scenes 20 --size 128

writes, for scenes 0 to 19 of the split train:

    out/video_train/video_00000-01000/video_00000.mp4                    128 frames, 5 s
    out/annotation_train/annotation_00000-01000/annotation_00000.json    the motion of every object, and collisions
    out/train.json                                                       the questions about all of them

which {name: clevrer, path: out/video_train, annotations: out/annotation_train, questions: out/train.json} reads, as it
reads the real data. Another split is written beside it by --split val.
"""

from __future__ import annotations

import argparse
import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from vjepa_lab.data.clips import ClipSpec
from vjepa_lab.data.sources._clevrer import folder_name, questions_record, scene_record, video_name
from vjepa_lab.data.sources._clevrer_world import FRAMES, SHOWN
from vjepa_lab.data.sources.clevrer_toy import ClevrerToy, ClevrerToyReader


def main(argv: list[str] | None = None) -> None:
    args = _parser().parse_args(argv)
    file = args.out / f"{args.split}.json"
    if file.exists():
        raise SystemExit(f"{file} exists; name another folder or split")
    try:
        source = ClevrerToy(split=args.split, seed=args.seed, least=args.least, most=args.most)
        spec = ClipSpec(frames=FRAMES, height=args.size, width=args.size, fps=None, stride=1)
        reader = source.open(spec)
        write(reader, args.out, scenes=args.scenes, size=args.size, crf=args.crf)
    except ValueError as error:
        raise SystemExit(str(error)) from None


def write(reader: ClevrerToyReader, out: Path, *, scenes: int, size: int, crf: int) -> None:
    """Write scenes 0 .. ``scenes`` - 1 of ``reader`` below ``out`` (see the module's text for the layout)."""
    split, asked = reader.config.split, []
    for number in tqdm(range(scenes), unit="scene"):
        videos = out / f"video_{split}" / folder_name("video", number)
        notes = out / f"annotation_{split}" / folder_name("annotation", number)
        for folder in (videos, notes):
            folder.mkdir(parents=True, exist_ok=True)
        frames = reader.frames(number, np.arange(FRAMES), size)
        encode(frames.transpose(1, 2, 3, 0), videos / video_name(number), crf=crf)
        record = json.dumps(scene_record(reader.scene(number)))
        (notes / f"annotation_{number:05d}.json").write_text(record, encoding="utf-8")
        asked.append(questions_record(number, reader.questions(number)))
    (out / f"{split}.json").write_text(json.dumps(asked), encoding="utf-8")


def encode(frames: NDArray[np.uint8], path: Path, *, crf: int) -> None:
    """Write ``frames`` (F, H, W, 3) as H.264 that lasts as long as a film of CLEVRER."""
    with av.open(str(path), "w") as container:
        rate = Fraction(FRAMES, round(SHOWN))
        stream = container.add_stream("libx264", rate=rate, options={"crf": str(crf), "preset": "veryfast"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Write scenes of a toy CLEVRER as videos, annotations and questions in the layout of the real one.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("out", type=Path, help="folder")
    parser.add_argument("--scenes", type=int, default=20, help="how many")
    parser.add_argument("--size", type=int, default=128, help="height and width in pixels, even")
    parser.add_argument("--crf", type=int, default=8, help="of x264: 0 is lossless in 4:2:0, 23 its own default")
    world = parser.add_argument_group("world", "fields of the source 'clevrer_toy'")
    world.add_argument("--split", choices=["train", "val"], default="train", help="which stream of scenes")
    world.add_argument("--seed", type=int, default=0, help="another seed is another set of scenes")
    world.add_argument("--least", type=int, default=3, help="objects in a scene")
    world.add_argument("--most", type=int, default=5, help="objects in a scene")
    return parser


if __name__ == "__main__":
    main()
