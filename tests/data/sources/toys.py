"""Five tiny items of every labelled data set, in its layout on disk: ``make_toy_<format>(folder, n, seed)``.

Frame k of every film is flat grey of level 4 k, so that a decoded frame says which one it is. Each writer returns the
fields of the source that reads its folder.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

SIDE = 32


def write_film(path: Path, *, frames: int = 24, fps: int | Fraction = 8) -> Path:
    """A film by PyAV: MPEG-4 in MP4, VP9 in WebM."""
    path.parent.mkdir(parents=True, exist_ok=True)
    webm = path.suffix == ".webm"
    with av.open(str(path), "w", format="webm" if webm else "mp4") as out:
        stream = out.add_stream("libvpx-vp9" if webm else "libx264", rate=fps)
        stream.height, stream.width, stream.pix_fmt = SIDE, SIDE, "yuv420p"
        stream.codec_context.gop_size = 8
        stream.options = {"deadline": "realtime", "cpu-used": "8"} if webm else {"crf": "10", "preset": "ultrafast"}
        for number in range(frames):
            grey = np.full((SIDE, SIDE, 3), 4 * number % 256, dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(grey, format="rgb24")
            out.mux(stream.encode(frame.reformat(format="yuv420p")))
        out.mux(stream.encode())
    return path


def write_pictures(folder: Path, levels: Iterable[int], *, name: str = "{:05d}.jpg") -> Path:
    """A folder of pictures numbered from 1, flat grey of these levels."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, level in enumerate(levels, 1):
        Image.fromarray(np.full((SIDE, SIDE, 3), level, dtype=np.uint8)).save(folder / name.format(number))
    return folder


def write_rows(path: Path, rows: Sequence[Sequence[object]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def make_toy_kinetics(folder: Path, n: int = 5, seed: int = 0, *, layout: str = "{name}") -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    rows: list[list[object]] = [["label", "youtube_id", "time_start", "time_end", "split"]]
    for i in range(n):
        label, start = ("tap dancing", "abseiling")[i % 2], int(rng.integers(200))
        split = "train" if i < n - 1 else "val"
        rows.append([label, f"-x_{i:09d}", start, start + 10, split])
        name = f"-x_{i:09d}_{start:06d}_{start + 10:06d}.mp4"
        write_film(folder / layout.format(name=name, label=label, word=label.replace(" ", "_"), split=split))
    return {"name": "kinetics", "path": str(write_rows(folder / "kinetics.csv", rows)), "root": str(folder)}


def make_toy_ssv2(folder: Path, n: int = 5, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    templates = ["Pushing [something] from left to right", "Dropping [something] behind [something]"]
    (folder / "labels.json").write_text(
        json.dumps({t.replace("[", "").replace("]", ""): str(1 - i) for i, t in enumerate(templates)})
    )
    records = []
    for i, number in enumerate(sorted(rng.choice(200_000, n, replace=False).tolist(), key=str)):
        records.append({"id": str(number), "label": "a cup", "template": templates[i % 2], "placeholders": ["a cup"]})
        write_film(folder / "videos" / f"{number}.webm")
    (folder / "train.json").write_text(json.dumps(records))
    (folder / "test.json").write_text(json.dumps([{"id": r["id"]} for r in records]))
    return {"name": "ssv2", "path": str(folder / "train.json"), "root": str(folder / "videos")}


def make_toy_diving48(folder: Path, n: int = 5, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    words = [["Back", "15som", "05Twis", "FREE"], ["Forward", "25som", "NoTwis", "PIKE"], ["Inward", "", "", "TUCK"]]
    (folder / "Diving48_vocab.json").write_text(json.dumps(words))
    records = []
    for i in range(n):
        records.append({"vid_name": f"dive_{i:05d}", "label": int(rng.integers(3)), "start_frame": 0, "end_frame": 23})
        write_film(folder / "rgb" / f"dive_{i:05d}.mp4")
    (folder / "Diving48_V2_train.json").write_text(json.dumps(records))
    return {"name": "diving48", "path": str(folder / "Diving48_V2_train.json"), "root": str(folder / "rgb")}


def make_toy_jester(folder: Path, n: int = 5, seed: int = 0, *, webm: bool = False) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    classes = ["Swiping Left", "Drumming Fingers", "No gesture"]
    (folder / "jester-v1-labels.csv").write_text("\n".join(classes) + "\n")
    lines = []
    for i in range(n):
        number = 100 + i
        lines.append(f"{number};{classes[int(rng.integers(3))]}")
        if webm:
            write_film(folder / "videos" / f"{number}.webm", frames=24, fps=12)
        else:
            write_pictures(folder / "videos" / str(number), [4 * k for k in range(24)])
    (folder / "jester-v1-train.csv").write_text("\n".join(lines) + "\n")
    return {"name": "jester", "path": str(folder / "jester-v1-train.csv"), "root": str(folder / "videos")}


def make_toy_coin(folder: Path, n: int = 5, seed: int = 0, *, by_recipe: bool = False) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    database = {}
    for i in range(n):
        task = int(rng.integers(3))
        name = f"-v{i:03d}"
        database[name] = {
            "subset": "training" if i < n - 1 else "testing",
            "class": ("MakeCoffee", "ChangeTyre", "FoldNapkin")[task],
            "recipe_type": task,
            "start": 1.0,
            "end": 2.5,
            "duration": 3.0,
            "annotation": [{"id": "7", "segment": [1.0, 2.0], "label": "pour"}],
        }
        write_film(folder / (str(task) if by_recipe else "") / f"{name}.mp4")
    (folder / "COIN.json").write_text(json.dumps({"database": database}))
    return {"name": "coin", "path": str(folder / "COIN.json")}


def make_toy_imagenet(folder: Path, n: int = 5, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    for i in range(n):
        label = ("n02084071", "n01440764")[i % 2]
        write_pictures(folder / "val" / label, [int(rng.integers(256))], name=f"{label}_{i}{{}}.JPEG")
    (folder / "val" / "n02084071" / "notes.txt").write_text("no picture")
    return {"name": "imagenet", "path": str(folder / "val")}


EPIC_TIMES = ["narration_timestamp", "start_timestamp", "stop_timestamp", "start_frame", "stop_frame"]
EPIC_WORDS = ["narration", "verb", "verb_class", "noun", "noun_class", "all_nouns", "all_noun_classes"]
EPIC_COLUMNS = ["narration_id", "participant_id", "video_id", *EPIC_TIMES, *EPIC_WORDS]


def make_toy_epic_kitchens(folder: Path, n: int = 5, seed: int = 0, *, below: str = "videos") -> dict[str, Any]:
    """Action i begins at 3 + i seconds of one recording of 30 frames per second and lasts for half a second."""
    rng = np.random.default_rng(seed)
    write_film(folder / "P01" / below / "P01_01.MP4", frames=30 * (n + 4), fps=30)
    rows: list[Sequence[object]] = [EPIC_COLUMNS]
    for i in range(n):
        start, verb, noun = 3 + i, int(rng.integers(97)), int(rng.integers(300))
        times = [f"00:00:{start:02d}.20", f"00:00:{start:02d}.00", f"00:00:{start:02d}.50"]
        frames = [30 * start, 30 * start + 15]
        told = [f"take {i}", "take", verb, "plate", noun, "['plate', 'cup']", f"[{noun}, 5]"]
        rows.append([f"P01_01_{i}", "P01", "P01_01", *times, *frames, *told])
    path = write_rows(folder / "EPIC_100_train.csv", rows)
    return {"name": "epic_kitchens", "path": str(path), "root": str(folder)}


def make_toy_calvin(
    folder: Path, n: int = 5, seed: int = 0, *, recordings: Sequence[tuple[int, int]] = ((3, 42), (43, 70))
) -> dict[str, Any]:
    """The arm does exactly what it is told, from one step to the next; a recording begins somewhere else."""
    rng = np.random.default_rng(seed)
    (folder / "training").mkdir(parents=True)
    np.save(folder / "training" / "ep_start_end_ids.npy", np.array(recordings))
    for first, last in recordings:
        place, turn = rng.uniform(-0.2, 0.2, 3), rng.uniform(-0.1, 0.1, 3)
        for step in range(first, last + 1):
            moved = rng.uniform(-1, 1, 6)
            opened = float(rng.choice([-1, 1]))
            seen = np.concatenate([place, turn, [0.04 + 0.04 * opened], rng.normal(size=7), [opened]])
            np.savez(
                folder / "training" / f"episode_{step:07d}.npz",
                rgb_static=np.full((20, 20, 3), step, np.uint8),
                rgb_gripper=np.full((8, 8, 3), step, np.uint8),
                robot_obs=seen,
                rel_actions=np.concatenate([moved, [opened]]),
                actions=np.concatenate([place, turn, [opened]]),
            )
            place, turn = place + moved[:3] / 50, turn + np.array([0, 0, moved[5]]) / 20
    return {"name": "calvin", "path": str(folder / "training")}


def make_toy_intphys(
    folder: Path, n: int = 5, seed: int = 0, *, blocks: Sequence[str] = ("O1", "O3")
) -> dict[str, Any]:
    """``n`` scenes in each block, of films of 12 pictures; films 1 and 4, and 2 and 3, begin alike."""
    rng = np.random.default_rng(seed)
    for block in blocks:
        for scene in range(1, n + 1):
            starts = rng.integers(0, 100, 2)
            for film, (start, event) in enumerate(((0, 0), (1, 0), (1, 90), (0, 90)), 1):
                levels = [int(starts[start]) + k + (event if k >= 7 else 0) for k in range(12)]
                place = folder / block / f"{scene:02d}" / str(film)
                write_pictures(place / "scene", levels, name="scene_{:03d}.png")
                header = {"is_possible": event == 0, "block": block}
                (place / "status.json").write_text(json.dumps({"header": header, "frames": []}))
    return {"name": "intphys", "path": str(folder)}
