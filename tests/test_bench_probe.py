"""The benchmark of sweeps times what it says, in turns, and kept features are not encoded again."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TINY = ["--width", "16", "--heads", "2", "--tokens", "8", "--batch", "4", "--classes", "3", "--epochs", "2"]


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools/bench"))
    return importlib.import_module("probe")


@pytest.mark.parametrize("over", [[], ["--encoder", "tiny", "--frames", "2", "--crop", "32", "--heads", "4"]])
def test_every_variant_is_timed_and_compared_with_one_head(bench, capsys, over):
    found = bench.main([*TINY, "--depth", "1", "--rounds", "2", "--warmup", "0", *over])
    assert set(found["seconds"]) == {"one", "plain", "grid", "race"}
    assert min(found["seconds"].values()) > 0
    for name in ("grid/one", "race/one", "grid/plain"):
        assert found[name][0] <= found[name][1] <= found[name][2]
    said = capsys.readouterr().out
    assert ("encoded in each (tiny)" if over else "features in memory") in said
    assert "grid / one:" in said


def test_one_head_of_the_sweep_and_the_plain_one_see_the_same_batches(bench):
    seen = []

    class Watched:
        sharded = False

        def __init__(self, feed):
            self.feed = feed

        def __len__(self):
            return len(self.feed)

        def epoch(self, number):
            for rows in self.feed.epoch(number):
                seen.append(rows.x.sum().item())
                yield rows

    args = bench._parser().parse_args(TINY)
    x = bench.torch.randn(8, 8, 16)
    feed = Watched(bench.Memory(x, {"label": bench.torch.arange(8) % 3}, batch=4, shuffle=0))
    head = bench.Head("attentive", 16, {"label": 3}, depth=1, heads=2)
    bench.plain(head, feed, args.epochs)
    bench.sweep(head, bench.Plan(lrs=(1e-3,), wds=(0.1,), seeds=1, epochs=args.epochs), feed)
    assert len(seen) == 8
    assert seen[:4] == seen[4:]


def test_other_heads_read_the_features_that_are_kept(bench):
    found = bench.main([*TINY, "--kept", "--frames", "2", "--crop", "16"])
    assert found["fresh"]["clips"] > 8
    assert found["other heads"]["clips"] <= 3  # one to tell the encoder by, for each split
