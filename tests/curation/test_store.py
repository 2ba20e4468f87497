"""A folder of shards: written whole or not at all, for one purpose, and summed up when all shards are there."""

from __future__ import annotations

import csv
import json

import pytest
import torch

from vjepa_lab.curation.store import KEYS, Bad, Store, read_shard

RECORD = {"settings": {"pool": "mean", "layers": [1, 2]}, "listing": {"sha256": "x"}}


def opened(folder, record=RECORD, shards=2, suffix="safetensors") -> Store:
    return Store(folder, shards=shards, suffix=suffix, record=record, note={"checkpoint": "c"})


def columns(video: list[int]) -> dict[str, torch.Tensor]:
    n = len(video)
    return {
        "features": torch.arange(n * 3, dtype=torch.float32).view(n, 3),
        "video": torch.tensor(video, dtype=torch.int64),
        "clip": torch.zeros(n, dtype=torch.int64),
        "view": torch.zeros(n, dtype=torch.int64),
        "start": torch.full((n,), 0.25, dtype=torch.float64),
        "label": torch.tensor(video, dtype=torch.int64) % 2,
    }


def test_what_is_written_comes_back(tmp_path):
    store = opened(tmp_path)
    assert not store.done(0)
    store.write(0, columns([0, 2]), [Bad(1, 0, "empty", "zero bytes")])
    assert store.done(0)
    shard = read_shard(store.path(0))
    assert all(torch.equal(shard.columns[name], x) for name, x in columns([0, 2]).items())
    assert shard.bad == [Bad(1, 0, "empty", "zero bytes")]
    assert set(read_shard(store.path(0), KEYS).columns) == set(KEYS)


def test_a_shard_without_rows_keeps_the_shape_of_its_features(tmp_path):
    store = opened(tmp_path)
    store.write(0, {name: x[:0] for name, x in columns([0]).items()}, [Bad(0, 0, "missing", "no file")])
    assert read_shard(store.path(0)).columns["features"].shape == (0, 3)


def test_index_and_bad_samples_are_made_when_all_shards_are_there(tmp_path):
    store, path_of = opened(tmp_path), "video-{}.mp4".format
    store.write(1, columns([3]), [Bad(4, 0, "truncated", "cut"), Bad(4, 1, "truncated", "cut")])
    assert store.finish(source="listing:l", path_of=path_of) is None
    assert not (tmp_path / "index.csv").exists()
    store.write(0, columns([0, 2, 2]), [Bad(1, 0, "empty", "zero bytes")])
    (tmp_path / "shard-00001.safetensors.part").write_text("of a process that was killed")
    summary = store.finish(source="listing:l", path_of=path_of)
    assert summary is not None
    assert (summary.videos, summary.rows, dict(summary.skipped)) == (3, 4, {"empty": 1, "truncated": 1})
    with (tmp_path / "index.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["path"], r["label"], r["shard"], r["row"], r["start"]) for r in rows] == [
        ("video-0.mp4", "0", "0", "0", "0.25"),
        ("video-2.mp4", "0", "0", "1", "0.25"),
        ("video-2.mp4", "0", "0", "2", "0.25"),
        ("video-3.mp4", "1", "1", "0", "0.25"),
    ]
    bad = [json.loads(line) for line in (tmp_path / "bad_samples.jsonl").read_text().splitlines()]
    assert [(b["key"], b["reason"], b["clips"]) for b in bad] == [
        ("video-1.mp4", "empty", 1),
        ("video-4.mp4", "truncated", 2),
    ]
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "bad_samples.jsonl",
        "embed.json",
        "index.csv",
        "shard-00000.safetensors",
        "shard-00001.safetensors",
    ]


def test_a_folder_of_something_else_is_refused_and_the_differences_are_named(tmp_path):
    opened(tmp_path)
    opened(tmp_path)  # the same again
    other = {"settings": {"pool": "none", "layers": [1, 2]}, "listing": {"sha256": "y"}}
    with pytest.raises(ValueError, match="holds features of something else") as error:
        opened(tmp_path, record=other)
    assert "listing.sha256: there x, asked for y" in str(error.value)
    assert "settings.pool: there mean, asked for none" in str(error.value)
    assert "layers" not in str(error.value)
    (tmp_path / "embed.json").unlink()
    (tmp_path / "shard-00000.safetensors").touch()
    with pytest.raises(ValueError, match=r"holds shards but no embed\.json"):
        opened(tmp_path)


def test_a_damaged_shard_is_named(tmp_path):
    store = opened(tmp_path, shards=1)
    store.write(0, columns([0, 1]), [])
    path = store.path(0)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"shard-00000\.safetensors: cannot be read as a shard of features"):
        store.finish(source="listing:l", path_of=str)


def test_parquet_holds_the_same(tmp_path):
    pytest.importorskip("pyarrow")
    store = opened(tmp_path, shards=1, suffix="parquet")
    written = columns([0, 2]) | {"tokens": torch.randn(2, 4, 3).half()}
    store.write(0, written, [Bad(1, 0, "empty", "zero bytes")])
    shard = read_shard(store.path(0))
    assert all(torch.equal(shard.columns[name], x) for name, x in written.items())
    assert shard.columns["tokens"].dtype == torch.float16
    assert shard.bad == [Bad(1, 0, "empty", "zero bytes")]
    assert store.finish(source="listing:l", path_of=str) is not None
    store.path(0).write_bytes(store.path(0).read_bytes()[:-10])
    with pytest.raises(ValueError, match="cannot be read as a shard"):
        read_shard(store.path(0))
