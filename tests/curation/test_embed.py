"""``vjepa-lab embed``: the features of every video, the same files however often it was stopped."""

from __future__ import annotations

import csv
import importlib.util
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from vjepa_lab import cli
from vjepa_lab.config import ConfigError, EmbedConfig
from vjepa_lab.curation import embed
from vjepa_lab.curation.store import read_shard
from vjepa_lab.data.clips import ClipSpec, read_clip
from vjepa_lab.data.transforms import eval_views
from vjepa_lab.features import FrozenEncoder
from vjepa_lab.tokens import pooled
from vjepa_lab.validate import validate

SIZES = {"heads": 2}
GOOD_ROWS = {0: "a.mp4", 2: "b.mp4", 4: "long.mp4", 6: "d.mp4"}


@pytest.fixture
def configured(videos, checkpoint, tmp_path):
    """Makes the configuration of a run; keywords change it."""

    def make(out: str = "out", **changes) -> EmbedConfig:
        base = {"videos": str(videos), "checkpoint": str(checkpoint), "load": dict(SIZES), "out": str(tmp_path / out)}
        small = {"frames": 4, "crop": 32, "shard": 3, "batch": 2, "workers": 0, "progress": False}
        return EmbedConfig(**(base | small | changes))

    return make


@pytest.fixture
def encoder(checkpoint) -> FrozenEncoder:
    return FrozenEncoder.of(str(checkpoint), heads=2, frames=4, crop=32)


def files(folder: Path | str) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(Path(folder).iterdir())}


def index(folder: Path | str) -> list[dict[str, str]]:
    with (Path(folder) / "index.csv").open() as file:
        return list(csv.DictReader(file))


def rows(folder: Path | str, name: str = "features") -> torch.Tensor:
    shards = sorted(Path(folder).glob("shard-*"))
    return torch.cat([read_shard(path).columns[name] for path in shards])


def centre_clip(path: Path, *, views: int = 1) -> torch.Tensor:
    spec = ClipSpec(frames=4, height=32, width=32, fps=4.0, stride=None, random=False)
    clip = read_clip(path, spec, np.random.default_rng(0)).frames.permute(3, 0, 1, 2)
    return eval_views(clip, size=(32, 32), views=views)  # (V, 3, F, H, W)


def test_rows_are_the_features_of_the_centre_clips(configured, encoder, videos, caplog):
    config = configured()
    with caplog.at_level("INFO", logger="vjepa_lab"):
        assert embed.main(config) == 0
    listed = index(config.out)
    assert [Path(r["path"]).name for r in listed] == list(GOOD_ROWS.values())
    assert [(r["shard"], r["row"], r["label"]) for r in listed] == [
        *(("0", "0", "0"), ("0", "1", "1")),
        *(("1", "0", "0"), ("2", "0", "1")),
    ]
    for r in listed:
        stored = read_shard(Path(config.out) / f"shard-0000{r['shard']}.safetensors").columns["features"]
        direct = encoder.pooled(centre_clip(Path(r["path"])))[0]
        torch.testing.assert_close(stored[int(r["row"])], direct, atol=1e-5, rtol=0)
    bad = [json.loads(line) for line in (Path(config.out) / "bad_samples.jsonl").read_text().splitlines()]
    assert [(Path(b["key"]).name, b["reason"]) for b in bad] == [
        ("empty.mp4", "empty"),
        ("cut.mp4", "truncated"),
        ("text.mp4", "undecodable"),
    ]
    assert "4 rows of 4 of 7 videos in 3 shards" in caplog.text
    assert "skipped: empty 1, truncated 1, undecodable 1" in caplog.text
    note = json.loads((Path(config.out) / "embed.json").read_text())["note"]
    assert note["classes"] == ["run", "wave"]


DYING = """
import os, signal, sys
from vjepa_lab import cli
from vjepa_lab.curation import store
settle = store._settle

def settle_or_die(aside, path):
    if path.name == sys.argv[1]:
        os.kill(os.getpid(), signal.SIGKILL)  # written aside, not yet under its name
    settle(aside, path)

store._settle = settle_or_die
sys.exit(cli.main(sys.argv[2:]))
"""


@pytest.mark.parametrize("at", ["shard-00001.safetensors", "index.csv"])
def test_killed_and_started_again_it_leaves_the_files_of_an_uninterrupted_run(configured, at):
    whole, stopped = configured("whole", clips=2), configured("stopped", clips=2)
    embed.main(whole)
    arguments = ["embed", stopped.videos, "--checkpoint", stopped.checkpoint, "--out", stopped.out]
    arguments += ["clips=2", "load={heads: 2}", "frames=4", "crop=32", "shard=3", "batch=2", "workers=1"]
    done = subprocess.run([sys.executable, "-c", DYING, at, *arguments], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = files(stopped.out)
    assert f"{at}.part" in left
    assert at not in left
    assert "shard-00000.safetensors" in left
    first = (Path(stopped.out) / "shard-00000.safetensors").stat().st_mtime_ns
    embed.main(stopped)
    assert (Path(stopped.out) / "shard-00000.safetensors").stat().st_mtime_ns == first  # not made again
    assert files(stopped.out) == files(whole.out)


def test_a_finished_folder_is_left_alone_and_a_missing_shard_is_made_again(configured):
    config = configured()
    embed.main(config)
    before = files(config.out)
    embed.main(config)
    assert files(config.out) == before
    (Path(config.out) / "shard-00001.safetensors").unlink()
    (Path(config.out) / "index.csv").unlink()
    embed.main(config)
    assert files(config.out) == before


def test_neither_workers_nor_parts_change_the_files(configured):
    embed.main(configured("one"))
    embed.main(configured("workers", workers=2))
    embed.main(configured("parts", parts=2, part=1))
    assert not (Path(configured("parts").out) / "index.csv").exists()
    embed.main(configured("parts", parts=2, part=0))
    assert files(configured("one").out) == files(configured("workers").out) == files(configured("parts").out)


def test_a_broken_video_does_not_move_the_features_of_the_others(configured, videos, tmp_path):
    """Not by a bit: its place in the batch stays."""
    for path in videos.parent.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "empty.mp4").write_bytes((tmp_path / "d.mp4").read_bytes())
    (tmp_path / "b.mp4").write_bytes(b"")
    embed.main(configured("plain"))
    embed.main(configured("other", videos=str(tmp_path / "videos.csv")))
    plain, other = rows(configured("plain").out), rows(configured("other").out)
    assert torch.equal(plain[[0, 2, 3]], other[[0, 2, 3]])
    assert not torch.equal(plain[1], other[1])


@pytest.mark.parametrize("pool", ["mean", "tubelet", "none"])
def test_layers_views_and_averages(configured, encoder, videos, pool):
    config = configured(layers=[0, 2], views=2, pool=pool, dtype="float16")
    embed.main(config)
    listed = index(config.out)
    assert [(Path(r["path"]).name, r["view"]) for r in listed[:3]] == [("a.mp4", "0"), ("a.mp4", "1"), ("b.mp4", "0")]
    for layer in (0, 2):
        stored = rows(config.out, f"layer.{layer}")
        assert stored.dtype == torch.float16
        tapped = [encoder.taps(centre_clip(videos.parent / n, views=2), [layer])[layer] for n in GOOD_ROWS.values()]
        direct = torch.cat([pooled(x, pool) for x in tapped])
        torch.testing.assert_close(stored.float(), direct, atol=5e-3, rtol=5e-3)


def test_windows_cover_whole_videos(configured, encoder, videos):
    """Against the encoder's own windows over all frames of a film, decoded at once."""
    config = configured(windows=True, hop=3, pool="none")
    embed.main(config)
    listed, stored = index(config.out), rows(config.out)
    at = [i for i, r in enumerate(listed) if Path(r["path"]).name == "long.mp4"]
    spec = ClipSpec(frames=15, height=32, width=32, fps=4.0, stride=None, random=False)  # 30 frames at 8 a second
    film = read_clip(videos.parent / "long.mp4", spec, np.random.default_rng(0)).frames.permute(3, 0, 1, 2)
    tokens, starts, _ = encoder.windows(eval_views(film, size=(32, 32)), stride=3)
    assert starts == (0, 3, 6, 9, 11)
    assert [(r["clip"], float(r["start"])) for r in (listed[i] for i in at)] == [
        (str(k), start / 4) for k, start in enumerate(starts)
    ]
    torch.testing.assert_close(stored[at], tokens[0], atol=1e-5, rtol=0)
    assert len(listed) == len(at) + 3 * 2  # the short films give 6 frames: two windows each
    bad = (Path(config.out) / "bad_samples.jsonl").read_text().splitlines()
    assert [json.loads(line)["reason"] for line in bad] == ["empty", "truncated", "undecodable"]


def test_other_settings_weights_or_videos_are_refused(configured, checkpoint, videos, tmp_path):
    embed.main(configured())
    with pytest.raises(ValueError, match=r"settings\.pool: there mean, asked for tubelet"):
        embed.main(configured(pool="tubelet"))
    weights = torch.load(checkpoint, weights_only=True)
    weights["target_encoder"]["module.backbone.norm.bias"][0] += 1e-3
    torch.save(weights, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"encoder\.sha256: there \w+, asked for \w+\ngive another out"):
        embed.main(configured(checkpoint=str(tmp_path / "other.pt")))
    listing = videos.parent / "fewer.csv"
    listing.write_text("path,label\na.mp4,run\n")
    with pytest.raises(ValueError, match=r"listing\.sha256.*\n  listing\.videos: there 7, asked for 1"):
        embed.main(configured(videos=str(listing)))
    same = tmp_path / "same.pt"
    same.write_bytes(checkpoint.read_bytes())
    embed.main(configured(checkpoint=str(same), workers=1, timeout=30.0))  # neither names nor speed matter


def test_a_listing_without_one_good_video_is_an_error_and_leaves_the_reasons(configured, videos):
    listing = videos.parent / "broken.csv"
    listing.write_text("path\nempty.mp4\ntext.mp4\n")
    for out, windows in (("clips", False), ("windows", True)):
        config = configured(out, videos=str(listing), windows=windows)
        with pytest.raises(ValueError, match=r"broken\.csv: none of its 2 videos could be read"):
            embed.main(config)
        assert len((Path(config.out) / "bad_samples.jsonl").read_text().splitlines()) == 2
        assert rows(config.out).shape == (0, 24)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"layers": [1, 3]}, r"layers: expected blocks in 0\.\.2, got \[3\]"),
        ({"crop": 40}, r"clip: expected multiples of 2 frames x 16 x 16 pixels, got \d+ frames x 40 x 40"),
    ],
)
def test_what_the_encoder_cannot_give_is_refused_before_anything_is_written(configured, wrong, words):
    config = configured(**wrong)
    with pytest.raises(ValueError, match=words):
        embed.main(config)
    assert not Path(config.out).exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_named(configured):
    with pytest.raises(ValueError, match="device: got cuda:1, but torch sees no GPU here"):
        embed.main(configured(device="cuda:1"))


def test_all_problems_of_a_configuration_are_told_at_once():
    config = EmbedConfig(
        pool="max",
        fps=4.0,
        stride=2,
        windows=True,
        clips=3,
        batch=0,
        part=2,
        parts=2,
        load={"head": 3},
        dtype="int8",
        device="gpu",
    )
    with pytest.raises(ConfigError) as error:
        validate(config)
    for text in (
        "videos: give a CSV or JSONL file",
        "checkpoint: give the weights of an encoder",
        "load.head: unknown; there are: heads, predictor_heads, rope, interpolate",
        "pool: got 'max', expected one of mean, tubelet, none",
        "dtype: got 'int8'",
        "device: got 'gpu', expected auto, cpu, cuda, cuda:<number> or mps",
        "at most one of fps and stride",
        "clips: got 3, but windows cover the whole video",
        "batch: got 0, expected more than 0",
        "part: got 2, expected 0..1",
    ):
        assert text in str(error.value)


def test_parquet_without_pyarrow_is_refused_by_name(configured, monkeypatch, capsys):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pyarrow" else found(name))
    config = configured(format="parquet")
    assert cli.main(["embed", config.videos, "--checkpoint", config.checkpoint, "--format", "parquet"]) == 2
    assert "pyarrow is not installed: pip install pyarrow" in capsys.readouterr().err


def test_parquet_holds_the_same_features(configured):
    pytest.importorskip("pyarrow")
    embed.main(configured("a", pool="tubelet"))
    embed.main(configured("b", pool="tubelet", format="parquet"))
    assert torch.equal(rows(configured("a").out), rows(configured("b").out))
    assert index(configured("a").out) == index(configured("b").out)
