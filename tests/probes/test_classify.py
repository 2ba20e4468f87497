"""Classification finds what is in the features, counts every video, and adds up views as it says."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from vjepa_lab.batch import Grid, Sample
from vjepa_lab.cli import main
from vjepa_lab.data.streams import Look, Stream
from vjepa_lab.features import FrozenEncoder
from vjepa_lab.nn.encoder import Encoder
from vjepa_lab.probes._heads import Bank, Head
from vjepa_lab.probes._labelled import Shown, Views, averaged, outcome, tokens_of
from vjepa_lab.probes._sweep import Memory, Plan, sweep
from vjepa_lab.probes.classify import Classify
from vjepa_lab.registry import SOURCES
from vjepa_lab.tokens import IMAGENET, Features

COLOURS = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "white": (1, 1, 1)} | {
    "yellow": (1, 1, 0),
    "black": (0, 0, 0),
}
LOOK = Look(frames=2, crop=16)
QUICK = {"lrs": [1e-2], "wds": [0.01], "seeds": 2, "epochs": 12, "rows": 16, "heads": 4, "batch": 8, "share": 0.2}


class Colour(nn.Module):
    """An "encoder" of 2 x 2 tokens of 16 numbers: the mean colours there, mixed; layer 0 gives noise of the clip."""

    statistics = IMAGENET
    width, depth, tubelet = 16, 2, 2

    def __init__(self):
        super().__init__()
        self.mix = nn.Parameter(torch.randn(3, 16, generator=torch.Generator().manual_seed(0)))

    def forward(self, clip, taps):
        colours = nn.functional.adaptive_avg_pool3d(clip, (1, 2, 2)).flatten(2).transpose(1, 2)
        grid = Grid(1, 2, 2)
        blind = Features((colours * 1e4).sin() @ self.mix, grid)
        return Features(colours @ self.mix, grid), dict.fromkeys(taps, blind)


def paint(folder, name, n, *, broken=(), seed=0):
    folder.mkdir(exist_ok=True)
    rng, rows = np.random.default_rng(seed), []
    for i in range(n):
        word = list(COLOURS)[i % len(COLOURS)]
        picture = np.array(COLOURS[word]) * 160 + rng.uniform(0, 95, (20, 28, 3))
        path = folder / f"{name}{i:03d}.png"
        Image.fromarray(picture.astype(np.uint8)).save(path)
        if i in broken:
            path.write_bytes(b"no picture")
        rows.append(f"{path.name},{word}\n")
    (folder / f"{name}.csv").write_text("path,label\n" + "".join(rows))
    return {"name": "listing", "path": str(folder / f"{name}.csv")}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("colours")
    return {"source": paint(folder, "a", 60), "test": paint(folder, "b", 37, broken=(3, 20), seed=1)}


def streams_of(probe, **fields):
    return {s: Stream(d, LOOK, batch=probe.batch, **fields) for s, d in probe.demands().items()}


def measure(sources, encoder=None, *, shuffled=False, **fields):
    probe = Classify(**sources, fit_clips=0, test_clips=0, **{**QUICK, **fields})
    streams = streams_of(probe, shuffled=shuffled)
    return dict(probe.run(encoder or FrozenEncoder(encoder=Colour(), frames=2, crop=16), streams)), streams


CASES = {
    "attentive": {"depth": 1},
    "attentive, two blocks": {"depth": 2, "lrs": [3e-3]},
    "linear": {"head": "linear", "lrs": [1e-1]},
    "knn": {"head": "knn"},
    "linear, cells": {"head": "linear", "lrs": [1e-1], "cells": 2},
    "streamed": {"depth": 1, "features": "stream"},
    "raced": {"depth": 1, "race": True, "lrs": [1e-2, 1e-3, 1e-5], "wds": [0.1, 0.01]},
    "several layers and views": {"depth": 1, "layers": [0, -1], "segments": 2, "views": 3},
    "joint": {"depth": 1, "segments": 2, "views": 3, "aggregate": "joint_tokens"},
    "joint, streamed": {"depth": 1, "segments": 2, "views": 3, "aggregate": "joint_tokens", "features": "stream"},
    "linear, joint": {"head": "linear", "lrs": [1e-1], "segments": 2, "views": 3, "aggregate": "joint_tokens"},
}


@pytest.mark.parametrize("case", CASES)
def test_colours_are_told_apart_and_every_readable_video_is_counted(sources, case):
    found, streams = measure(sources, **CASES[case])
    assert found["top1"].value >= 0.9
    assert found["top5"].value >= found["top1"].value
    assert found["top1"].units == 35  # 37 without the two broken ones; the last batch of 8 is not full
    assert [bad.key.split("#")[0][-8:] for bad in streams["test"].skipped] == ["b003.png", "b020.png"]
    assert found["top1"].low <= found["top1"].value <= found["top1"].high
    assert found["class_mean"].value == pytest.approx(found["top1"].value, abs=0.05)  # classes are equally common


@pytest.mark.parametrize("case", ["attentive", "linear", "knn"])
def test_with_the_labels_of_other_videos_nothing_is_told_apart(sources, case):
    found, _ = measure(sources, shuffled=True, **CASES[case])
    assert found["top1"].value < 0.45


def test_a_blind_layer_says_little(sources):
    blind, _ = measure(sources, head="knn", layers=[0])
    assert blind["top1"].value < 0.5


def test_choosing_on_the_test_split_is_said_in_the_name(sources):
    found, streams = measure(sources, depth=1, selection="eval", lrs=[1e-2, 1e-5])
    assert set(streams) == {"fit", "test"}
    assert len(streams["fit"]) == 60
    assert {"top1_chosen_on_test", "top5_chosen_on_test", "class_mean_chosen_on_test"} <= set(found)
    assert "top1" not in found
    assert found["lr"].value == pytest.approx(1e-2)
    honest, streams = measure(sources, depth=1, lrs=[1e-2, 1e-5])
    assert honest["lr"].value == pytest.approx(1e-2)
    assert (len(streams["fit"]), len(streams["select"])) == (48, 12)


@dataclass
class Noise:
    """Clips of noise in three classes that are drawn at random; another world for each ``draw``."""

    draw: int = 0

    def open(self, spec):
        return NoiseReader(self.draw)


class NoiseReader:
    name, augment, classes = "noise", True, ["a", "b", "c"]

    def __init__(self, draw):
        rng = np.random.default_rng(draw)
        self.labels, self.clips = rng.integers(3, size=120), rng.integers(256, size=(120, 3, 2, 4, 4), dtype=np.uint8)

    def __len__(self):
        return len(self.labels)

    def read(self, index, rng):
        return Sample(torch.from_numpy(self.clips[index]), label=int(self.labels[index]), key=f"noise/{index}")


class Look16(Colour):
    """An "encoder" that gives the pixels of a 4 x 4 frame."""

    def forward(self, clip, taps):
        return Features(clip[:, :, 0].mean(1).flatten(1)[:, None] + 0 * self.mix[0], Grid(1, 1, 1)), {}


def test_with_random_labels_choosing_on_the_test_split_inflates_and_the_default_does_not(monkeypatch):
    """20 heads, 30 clips to report on, chance 1/3: the means of 25 worlds, by their own standard errors."""
    monkeypatch.setitem(SOURCES._classes, "noise", Noise)
    encoder, names = FrozenEncoder(encoder=Look16(), frames=2, crop=4), {"split": "top1", "eval": "top1_chosen_on_test"}
    grid = {"lrs": [1.0, 1e-1, 1e-2, 1e-3, 1e-4], "head": "linear", "epochs": 5, "rows": 30, "batch": 30}
    found = {selection: [] for selection in names}
    for draw in range(25):
        for selection, name in names.items():
            source = {"name": "noise", "draw": draw}
            probe = Classify(source=source, fit_clips=90, test_clips=30, share=1 / 3, selection=selection, **grid)
            streams = {s: Stream(d, Look(frames=2, crop=4), batch=30) for s, d in probe.demands().items()}
            found[selection].append(dict(probe.run(encoder, streams))[name])
    values = {s: torch.tensor([e.value for e in many], dtype=torch.float64) for s, many in found.items()}
    mean, error = {s: v.mean() for s, v in values.items()}, {s: v.std() / 5 for s, v in values.items()}
    assert mean["eval"] - 1 / 3 > 5 * error["eval"]
    assert abs(mean["split"] - 1 / 3) < 2 * error["split"]
    assert mean["eval"] - mean["split"] > 4 * (values["eval"] - values["split"]).std() / 5
    assert sum(e.low <= 1 / 3 <= e.high for e in found["split"]) >= 21  # of 25, where 24 are expected


def test_the_same_measurement_twice_is_the_same(sources):
    one, two = (measure(sources, depth=1, epochs=3)[0] for _ in range(2))
    assert {k: e.value for k, e in one.items()} == {k: e.value for k, e in two.items()}


def test_features_that_stream_leave_the_callers_random_state(sources):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    measure(sources, depth=1, epochs=1, features="stream")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_width_that_the_heads_do_not_divide_is_refused_before_anything_is_encoded(sources):
    encoder = FrozenEncoder(encoder=Colour(), frames=2, crop=16)
    encoder.layers = None  # would fail
    with pytest.raises(ValueError, match=r"heads: got 5, expected a divisor of the features' width 16.*is 4"):
        measure(sources, encoder, heads=5)
    assert "heads: got 5" in Classify(heads=5).refusal(encoder)
    assert Classify(heads=4).refusal(encoder) is Classify(heads=5, head="knn").refusal(encoder) is None


def test_token_counts_are_those_of_the_paper():
    encoder = FrozenEncoder(encoder=Encoder(width=12, depth=4, heads=1, patch=16), frames=16, crop=256)
    clip = torch.zeros(1, 3, 16, 256, 256, dtype=torch.uint8)
    assert tokens_of(encoder, clip, [-1]).shape == (1, 2048, 12)
    assert tokens_of(encoder, clip, [0, 1, 2, 3]).shape == (1, 8192, 12)


def test_probabilities_of_two_segments_and_three_views_are_averaged_not_their_scores():
    scores = torch.zeros(1, 1, 6, 2)
    scores[0, 0, 0] = torch.tensor([10.0, 0])  # one view is certain of class 0
    scores[0, 0, 1:] = torch.tensor([0.0, 1])  # five lean to class 1
    p = averaged(scores)[0, 0]
    lean = 1 / (1 + math.e)
    assert p[0].item() == pytest.approx((1 / (1 + math.exp(-10)) + 5 * lean) / 6, abs=1e-6)
    assert p.argmax() == 1
    assert scores[0, 0].mean(0).argmax() == 0


def test_joint_tokens_joins_segments_and_keeps_crops_apart():
    tokens = torch.arange(6.0).view(1, 6, 1, 1).expand(1, 6, 2, 4)  # segment by segment: s0w0 s0w1 s0w2 s1w0 s1w1 s1w2
    seen = Views(2, 3, "joint_tokens").joined(tokens)
    assert seen.shape == (1, 3, 4, 4)
    assert seen[0, :, :, 0].tolist() == [[0, 0, 3, 3], [1, 1, 4, 4], [2, 2, 5, 5]]
    assert torch.equal(Views(2, 3).joined(tokens), tokens)
    assert (Views(2, 3, "joint_tokens").trained, Views(2, 3).trained) == (2, 1)


def test_features_that_stream_are_judged_like_features_in_memory(sources):
    encoder = FrozenEncoder(encoder=Colour(), frames=2, crop=16)
    probe = Classify(**sources, fit_clips=0, test_clips=0, batch=8, views=3)
    stream = streams_of(probe)["test"]
    head = Head("attentive", 16, {"label": 6}, depth=1, heads=4)
    shown = Shown(stream, lambda batch: tokens_of(encoder, batch.clip, [-1]), ["label"])
    rows = list(shown.epoch(0))
    valid = torch.cat([r.valid for r in rows])
    x, label = torch.cat([r.x for r in rows])[valid], torch.cat([r.y["label"] for r in rows])[valid]
    swept = sweep(
        head, Plan(lrs=(1e-2, 1e-3), wds=(0.1,), seeds=1, epochs=3), Memory(x[:, 0], {"label": label}, batch=8)
    )

    def judge(bank, rows):
        return {"label": rows.y["label"], **outcome(bank, rows.x, rows.y["label"])}

    streamed, kept = swept.measure(shown, judge), swept.measure(Memory(x, {"label": label}, batch=5), judge)
    assert streamed["top1"].shape == (35, 2)
    assert torch.equal(streamed["label"], kept["label"])
    assert torch.allclose(streamed["loss"], kept["loss"], atol=1e-5)


def test_the_answer_does_not_depend_on_the_order_of_tokens_or_views():
    bank = Bank(Head("attentive", 16, {"label": 3}, depth=2, heads=4), [0])
    generator = torch.Generator().manual_seed(0)
    seen, label = torch.randn(4, 3, 5, 16, generator=generator), torch.tensor([0, 1, 2, 0])
    turned = seen[:, [2, 0, 1]][:, :, [4, 2, 0, 1, 3]]
    a, b = outcome(bank, seen, label), outcome(bank, turned, label)
    assert torch.allclose(a["loss"], b["loss"], atol=1e-6)


def test_sources_that_number_their_classes_differently_are_refused(sources, tmp_path):
    other = paint(tmp_path, "c", 4)  # four of the six colours: red is another number
    with pytest.raises(ValueError, match=r"number their classes differently.*same classes"):
        measure({"source": sources["source"], "test": other}, head="knn")


def test_videos_without_labels_are_refused(sources, tmp_path):
    paint(tmp_path, "d", 4)
    (tmp_path / "d.csv").write_text("path\n" + "".join(f"d{i:03d}.png\n" for i in range(4)))
    with pytest.raises(ValueError, match=r"source listing:d\.csv: none of its videos has a label"):
        measure({"source": sources["source"], "test": {"name": "listing", "path": str(tmp_path / "d.csv")}}, head="knn")


def test_streamed_features_cannot_be_shuffled_and_need_to_know_the_classes(sources, caplog):
    assert measure(sources, shuffled=True, depth=1, features="stream")[0] == {}
    assert "shuffled is left out" in caplog.text
    path = Path(sources["source"]["path"])
    numbered = path.with_name("numbered.csv")
    numbers = {word: str(i) for i, word in enumerate(COLOURS)}
    lines = [line.split(",") for line in path.read_text().splitlines()]
    numbered.write_text("".join(f"{file},{numbers.get(word, word)}\n" for file, word in lines))
    source = {"name": "listing", "path": str(numbered)}
    with pytest.raises(ValueError, match="does not say how many classes there are"):
        measure({"source": source, "test": source}, depth=1, features="stream")
    assert measure({"source": source, "test": source}, head="knn")[0]["top1"].value >= 0.9


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"head": "mlp"}, "head: got 'mlp', expected attentive or linear or knn"),
        ({"aggregate": "max"}, "aggregate: got 'max'"),
        ({"features": "stream", "head": "knn"}, "features: got stream for head knn"),
        ({"layers": []}, r"layers: got \[\]"),
        ({"share": 0.0}, "share: got 0.0"),
        ({"layers": [0, -1], "head": "linear"}, r"layers: got \[0, -1\] for head linear"),
        ({"segments": 0}, "segments: got 0"),
        ({"fit_clips": 0}, "fit_clips and test_clips: got 0 and 512"),
        ({"lrs": []}, "lrs"),
        ({"cells": 2}, "cells: got 2 for an attentive head"),
        ({"cells": 0}, "cells: got 0"),
    ],
)
def test_what_cannot_be_measured_is_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        Classify(**fields)


def test_the_verb_lists_what_it_cannot_read_and_counts_the_rest(sources, tmp_path):
    run = tmp_path / "run"
    tiny = str(Path(__file__).parents[1] / "train/tiny.yaml")
    assert main(["pretrain", tiny, f"run.dir={run}", "optim={steps: 1, warmup: 1}"]) == 0
    entry = {"name": "classify", **sources, "fit_clips": 0, "test_clips": 0, **QUICK, "depth": 1, "epochs": 1}
    entry["seeds"] = 1
    words = [f"probes=[{json.dumps(entry)}]", f"out={tmp_path}", "controls=[constant]", "progress=false", "device=cpu"]
    assert main(["probe", f"{run}/last.ckpt", *words]) == 0
    listed = [json.loads(line) for line in (tmp_path / "bad_samples.jsonl").read_text().splitlines()]
    assert sorted((Path(bad["key"]).name, bad["reason"]) for bad in listed) == [
        ("b003.png", "undecodable"),
        ("b020.png", "undecodable"),
    ]
    records = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    top1 = next(r for r in records if r["metric"] == "top1")
    assert (top1["units"], top1["split"]["test"]["videos"], top1["split"]["test"]["skipped"]) == (35, 37, 2)
    assert top1["choices"]["selection"] == "split"
