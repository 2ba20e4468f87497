"""Anticipation is as good as what can be known, and no better; classes that were never seen get no votes."""

import importlib.util
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vjepa_lab.batch import Grid, Sample
from vjepa_lab.data.streams import Look, Stream
from vjepa_lab.features import FrozenEncoder
from vjepa_lab.nn.encoder import Encoder
from vjepa_lab.nn.predictor import Predictor
from vjepa_lab.probes._heads import Bank, Head
from vjepa_lab.probes._sweep import Rows
from vjepa_lab.probes.anticipate import Anticipate, _known, _recalls, focal
from vjepa_lab.registry import SOURCES
from vjepa_lab.tokens import IMAGENET, Features

ACTIONS = 20
QUICK = {"lrs": [1e-2], "wds": [1e-3], "depth": 1, "heads": 4, "epochs": 5, "rows": 64, "batch": 50}


@dataclass
class Kitchen:
    """One action follows on another: the one that its number names with 70 %, else any. A clip is of the first."""

    name_of_split: str = "val"
    split: str = "val"

    def open(self, spec):
        return KitchenReader(spec)


class KitchenReader:
    name, augment = "kitchen", True

    def __init__(self, spec):
        rng = np.random.default_rng(0)
        self.now = rng.integers(ACTIONS, size=6000)
        likely = (self.now * 7 + 3) % ACTIONS
        then = np.where(rng.random(6000) < 0.7, likely, rng.integers(ACTIONS, size=6000))
        self.targets, self.counts = {"action": then}, {"action": ACTIONS}
        self.frames = spec.frames

    def __len__(self):
        return len(self.now)

    def read(self, index, rng):
        clip = torch.full((3, self.frames, 4, 4), int(self.now[index]), dtype=torch.uint8)
        return Sample(clip, key=f"kitchen/{index}", truth={"action": torch.tensor(int(self.targets["action"][index]))})


class Names(nn.Module):
    """An "encoder" of two tokens: which action is shown, and nothing."""

    statistics = IMAGENET
    width, depth, tubelet = 20, 1, 2

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, clip, taps):
        number = IMAGENET.restore(clip)[:, 0, 0, 0, 0].round().long()
        token = F.one_hot(number, ACTIONS).float() * 4 * self.scale
        return Features(torch.stack((token, torch.zeros_like(token)), 1), Grid(1, 1, 2)), {}


@pytest.fixture
def kitchen(monkeypatch):
    monkeypatch.setitem(SOURCES._classes, "kitchen", Kitchen)
    return {"source": {"name": "kitchen"}, "targets": ["action"], "frames": 2}


def measure(encoder, look=None, *, shuffled=False, **fields):
    probe = Anticipate(**{**QUICK, **fields})
    look = look or Look(frames=2, crop=4)
    streams = {s: Stream(d, look, batch=probe.batch, shuffled=shuffled) for s, d in probe.demands().items()}
    return dict(probe.run(encoder, streams)), streams


@pytest.mark.parametrize(("shuffled", "bayes"), [(False, 0.7 + 0.3 * 5 / 20), (True, 5 / 20)])
def test_a_chain_of_actions_is_foreseen_as_well_as_can_be(kitchen, shuffled, bayes):
    """Oracle EK-5: .775 within five answers, and .25 where clips are paired with what follows on others."""
    encoder = FrozenEncoder(encoder=Names(), frames=2, crop=4)
    found, _ = measure(encoder, shuffled=shuffled, fit_clips=2000, test_clips=2000, **kitchen)
    assert found["action/recall5"].value == pytest.approx(bayes, abs=0.03)  # three standard errors
    assert found["action/recall5"].low < bayes < found["action/recall5"].high
    assert found["action/top5"].value == pytest.approx(bayes, abs=0.03)
    assert found["predicted_tokens"].value == 0


def test_streaming_gives_what_memory_gives(kitchen):
    encoder = FrozenEncoder(encoder=Names(), frames=2, crop=4)
    assert measure(encoder, features="stream", shuffled=True, fit_clips=60, test_clips=20, **kitchen)[0] == {}
    found, _ = measure(encoder, features="stream", fit_clips=600, test_clips=600, **kitchen)
    assert found["action/recall5"].value == pytest.approx(0.775, abs=0.06)


@pytest.fixture
def epic(tmp_path):
    """A training and a validation set in the layout of EPIC-KITCHENS, of two recordings each."""
    path = Path(__file__).parents[1] / "data/sources/toys.py"
    spec = importlib.util.spec_from_file_location("toys", path)
    toys = importlib.util.module_from_spec(spec)
    sys.modules["toys"] = toys
    spec.loader.exec_module(toys)
    rows = {"train": [], "validation": []}
    for i, split in enumerate(["train", "train", "validation", "validation"]):
        toys.write_film(tmp_path / f"P0{i}/videos/P0{i}_01.MP4", frames=8 * 12, fps=8)
        for j in range(5):
            start, verb, noun = 2 + 2 * j, j % 3, 4 + j % 2
            times = [f"00:00:{s:02d}.00" for s in (start, start, start + 1)]
            told = ["do", "do", verb, "thing", noun, f"['{noun}']", f"[{noun}]"]
            rows[split].append([f"P0{i}_01_{j}", f"P0{i}", f"P0{i}_01", *times, 8 * start, 8 * start + 8, *told])
    (tmp_path / "P03/videos/P03_01.MP4").write_bytes(b"no film")
    for split, lines in rows.items():
        toys.write_rows(tmp_path / f"EPIC_100_{split}.csv", [toys.EPIC_COLUMNS, *lines])
    common = {"name": "epic_kitchens", "root": str(tmp_path)}
    train, validation = (str(tmp_path / f"EPIC_100_{split}.csv") for split in rows)
    return {"source": {**common, "path": train}, "test": {**common, "path": validation, "actions_of": train}}


def vjepa():
    torch.manual_seed(0)
    predictor = Predictor(encoder_width=16, width=16, depth=1, heads=2)
    return FrozenEncoder(encoder=Encoder(width=16, depth=1, heads=2, patch=8), predictor=predictor, frames=4, crop=16)


@pytest.mark.parametrize("features", ["memory", "stream"])
def test_epic_kitchens_is_measured_by_verb_noun_and_action_over_its_recordings(epic, features):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    fields = {"fit_clips": 0, "test_clips": 0, "frames": 4, "batch": 4, "epochs": 2, "share": 0.5, "seeds": 2}
    encoder = vjepa()
    torch.set_rng_state(before)
    found, streams = measure(encoder, Look(frames=4, crop=16), features=features, **epic, **fields)
    assert torch.equal(torch.get_rng_state(), before)
    names = [f"{t}/{m}" for t in ("verb", "noun", "action") for m in ("recall5", "top5", "recall5_one_head")]
    assert set(found) == {*names, "predicted_tokens"}
    assert found["predicted_tokens"].value == 4
    assert found["noun/recall5"].value == 1  # two nouns, five answers
    assert {len(s) for name, s in streams.items() if name != "test"} == {5}  # whole recordings
    assert found["verb/top5"].units == 1  # the other recording of the test split is broken
    assert [bad.key.split("#")[0][-10:] for bad in streams["test"].skipped] == ["P03_01.MP4"] * 5
    assert streams["test"].reader.config.seconds == 1.0


def test_the_point_and_the_time_reach_the_source(epic):
    probe = Anticipate(**epic, fit_clips=0, test_clips=0, seconds=0.5, anticipation_point="legacy")
    for demand in probe.demands().values():
        assert demand.source["anticipation_point"] == "legacy"
        assert demand.source["seconds"] == 0.5
        assert (demand.frames, demand.fps) == (32, 8.0)


def test_choosing_on_the_test_split_is_said_in_the_name(kitchen):
    encoder = FrozenEncoder(encoder=Names(), frames=2, crop=4)
    found, streams = measure(encoder, fit_clips=300, test_clips=100, selection="eval", race=True, epochs=1, **kitchen)
    assert set(streams) == {"fit", "test"}
    assert {"action/recall5_chosen_on_test", "action/recall5_one_head_chosen_on_test"} <= set(found)
    assert "action/recall5" not in found


def test_focal_loss_without_focus_is_half_the_binary_cross_entropy_and_with_it_the_formula():
    """Oracle EK-4, and the definition of Lin et al. 2017 term by term."""
    generator = torch.Generator().manual_seed(0)
    scores, labels = torch.randn(2, 5, 7, generator=generator) * 3, torch.randint(7, (5,), generator=generator)
    target = F.one_hot(labels, 7).float().expand(2, 5, 7)
    plain = F.binary_cross_entropy_with_logits(scores, target, reduction="none").sum(-1)
    assert torch.allclose(focal(scores, labels, alpha=0.5, gamma=0.0), plain / 2, atol=1e-6)
    p = scores[1, 3].double().sigmoid().tolist()
    own = labels[3].item()
    wrong = sum(-0.75 * q**2 * math.log(1 - q) for c, q in enumerate(p) if c != own)
    want = -0.25 * (1 - p[own]) ** 2 * math.log(p[own]) + wrong
    assert focal(scores, labels)[1, 3].item() == pytest.approx(want, rel=1e-4)


def test_classes_without_training_or_test_rows_get_no_votes_and_their_rows_are_wrong():
    classes = {"fit": [0, 1, 2], "select": [3], "test": [1, 3, 9]}
    known = _known({"a": 10}, {s: {"a": torch.tensor(y)} for s, y in classes.items()})
    assert known["test"]["a"].nonzero().flatten().tolist() == [1, 3]
    assert known["select"]["a"].nonzero().flatten().tolist() == [3]
    head = Head("attentive", 8, {"a": 10}, depth=1, heads=2)
    rows = Rows(torch.randn(3, 1, 2, 8), {"a": torch.tensor([1, 3, 9]), "unit": torch.arange(3)}, torch.ones(3).bool())
    found = Anticipate()._measure(Bank(head, [0]), rows, known["test"])
    assert found["a/hit"].flatten().tolist() == [1, 1, 0]
    at = {"a": torch.tensor([0, 0, 2]), "a/hit": torch.tensor([[1, 0], [0, 0], [1, 1]])}
    assert _recalls(at, "a").tolist() == [0.75, 0.5]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"anticipation_point": "start"}, "anticipation_point: got 'start', expected standard or legacy"),
        ({"inputs": "all"}, "inputs: got 'all', expected both or encoder or predictor"),
        ({"source": {"name": "epic_kitchens", "seconds": 2}}, "source: got seconds, expected these as fields of the"),
        ({"targets": []}, "targets: got none"),
        ({"mask_token": -1}, "mask_token and gamma: got 1, -1 and 2"),
        ({"alpha": 1.0}, "alpha: got 1.0"),
    ],
)
def test_what_cannot_be_measured_is_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        Anticipate(**fields)


def test_an_encoder_without_its_predictor_is_refused_before_anything_is_read():
    lost = FrozenEncoder(encoder=Encoder(width=16, depth=1, heads=2, patch=8), frames=4, crop=16)
    assert "without a predictor" in Anticipate(heads=4).refusal(lost)
    assert "heads: got 5" in Anticipate(heads=5).refusal(vjepa())
    assert Anticipate(heads=4, inputs="encoder").refusal(lost) is Anticipate(heads=4).refusal(vjepa()) is None


def test_a_rule_that_a_source_does_not_know_is_refused(kitchen):
    with pytest.raises(ValueError, match="anticipation_point: got legacy, but source kitchen knows of none"):
        Anticipate(**kitchen, anticipation_point="legacy").demands()
    with pytest.raises(ValueError, match="got clips by stride, expected fps"):
        measure(vjepa(), Look(frames=2, crop=4, fps=None, stride=2), fps=None, **kitchen)
