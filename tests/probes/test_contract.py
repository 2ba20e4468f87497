"""What every probe promises: finite numbers, and an encoder, a mode and a random state that are as they were."""

import pytest
import torch

from vjepa_lab.data.streams import Look, Stream
from vjepa_lab.features import FrozenEncoder
from vjepa_lab.nn.encoder import Encoder
from vjepa_lab.nn.predictor import Predictor
from vjepa_lab.registry import PROBES

LOOK = Look(frames=4, crop=16)
CONTACT = {"fit_clips": 20, "select_clips": 10, "test_clips": 10, "batch": 10}
SMALL = {
    "robustness": {"fit_clips": 30, "test_clips": 12, "batch": 10, "corruptions": ["brightness"], "severities": [1]}
    | {"per_frame": [], "contact": {"name": "contact", "gaps": [1.0], "push": 0.0, **CONTACT}},
    "pareto": {"fit_clips": 20, "test_clips": 10, "batch": 10, "seeds": 2, "layers": [0, -1]}
    | {"decode": {"form": "vit", "dim": 24, "depth": 1, "heads": 2, "patch": 8, "steps": 2, "frames_per_step": 8}},
    "contact": {**CONTACT, "gaps": [1.0], "push": 1.0},
    "surprise": {"films": 40, "film": 6, "batch": 10, "window": 4},
    "decode": {"fit_clips": 12, "test_clips": 6, "form": "vit", "dim": 24, "depth": 1, "heads": 2, "patch": 8}
    | {"steps": 5, "frames_per_step": 8, "seeds": 2, "frames": 2},
    "anticipate": {"source": {"name": "synthetic", "split": "val"}, "targets": ["label"], "inputs": "encoder"}
    | {"frames": 4, "fit_clips": 20, "test_clips": 10, "batch": 10, "depth": 2, "heads": 2, "epochs": 1, "lrs": [1e-2]},
    "classify": {"fit_clips": 20, "test_clips": 10, "batch": 10, "depth": 2, "heads": 2, "epochs": 1, "lrs": [1e-2]},
    "arrow": {"fit_clips": 20, "test_clips": 10, "batch": 10},
    "phyre_lite": {
        "source": {"name": "phyre_lite", "templates": ["hit"], "tasks": 2, "actions": 20, "goals": 2, "step": 0.8},
        "batch": 20,
    },
    "causal": {"fit_clips": 20, "test_clips": 8, "batch": 10, "words": 4, "width": 8, "epochs": 1, "seeds": 1},
    "collision": {"fit_clips": 20, "test_clips": 10, "steps": 5, "batch": 10},
    "energy": {"fit_clips": 20, "test_clips": 10, "batch": 10},
    "layers": {"fit_clips": 20, "test_clips": 10, "batch": 10},
    "inverse_dynamics": {"fit_clips": 20, "test_clips": 10, "frames": 4, "steps": 5, "batch": 10},
    "health": {"clips": 16, "batch": 8},
    "motion": {"fit_clips": 16, "select_clips": 16, "test_clips": 16, "batch": 8},
}
"fields with which each probe takes a second"


@pytest.mark.parametrize("name", PROBES.names())
def test_a_probe_measures_and_changes_nothing(name):
    probe = PROBES.build({"name": name, **SMALL[name]})
    torch.manual_seed(0)
    encoder = Encoder(width=24, depth=1, heads=2, patch=8)
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    predictor = Predictor(encoder_width=24, width=24, depth=1, heads=2)
    state = torch.get_rng_state()
    frozen = FrozenEncoder(encoder=encoder, predictor=predictor, frames=4, crop=16)
    streams = {s: Stream(demand, LOOK, batch=probe.batch) for s, demand in probe.demands().items()}
    measured = dict(probe.run(frozen, streams))
    assert measured
    assert all(torch.isfinite(torch.tensor(e.value)) for e in measured.values()), measured
    assert all(not e.low > e.value and not e.high < e.value for e in measured.values()), measured
    assert not encoder.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())
    assert probe.every > 0
    with torch.no_grad():  # as a run does, during training
        again = dict(probe.run(frozen, streams))
    assert {k: e.value for k, e in again.items()} == {k: e.value for k, e in measured.items()}
