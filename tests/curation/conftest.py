"""A folder of tiny films and broken files with a listing, and the weights of a tiny encoder."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch

from vjepa_lab.nn.encoder import Encoder

GOOD = ("a.mp4", "b.mp4", "long.mp4", "d.mp4")


def write_film(path: Path, frames: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=8)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        stream.options = {"crf": "20", "preset": "ultrafast"}
        for _ in range(frames):
            picture = np.kron(rng.integers(0, 256, (4, 6, 3)), np.ones((8, 8, 1))).astype(np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode())


@pytest.fixture(scope="session")
def videos(tmp_path_factory) -> Path:
    """``videos.csv`` of seven rows: four good films, one of them longer, an empty file, one cut short, and text."""
    folder = tmp_path_factory.mktemp("videos")
    for seed, name in enumerate(GOOD):
        write_film(folder / name, 30 if name == "long.mp4" else 12, seed)
    (folder / "empty.mp4").touch()
    (folder / "cut.mp4").write_bytes((folder / "a.mp4").read_bytes()[:200])
    (folder / "text.mp4").write_text("<html>not found</html>")
    rows = ["a.mp4,run", "empty.mp4,run", "b.mp4,wave", "cut.mp4,wave", "long.mp4,run", "text.mp4,run", "d.mp4,wave"]
    (folder / "videos.csv").write_text("path,label\n" + "\n".join(rows) + "\n")
    return folder / "videos.csv"


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    """A file in the released layout: width 24, depth 3, 2 heads."""
    torch.manual_seed(0)
    encoder = Encoder(width=24, depth=3, heads=2, rope="released")
    for p in encoder.parameters():
        torch.nn.init.normal_(p, std=0.2)
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    torch.save({"target_encoder": {f"module.backbone.{k}": v for k, v in encoder.state_dict().items()}}, path)
    return path
