"""The front of pixels and actions: encoders that hold one of the two, resampled alike, and drawn beside each other."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn

from vjepa_lab.batch import Grid
from vjepa_lab.cli import main
from vjepa_lab.data.streams import Look, Stream
from vjepa_lab.features import FrozenEncoder
from vjepa_lab.nn.encoder import Encoder
from vjepa_lab.probes import Compares
from vjepa_lab.probes.inverse_dynamics import InverseDynamics
from vjepa_lab.probes.pareto import Pareto, Points
from vjepa_lab.registry import PROBES
from vjepa_lab.tokens import IMAGENET, Features

LOOK = Look(frames=4, crop=16)
DECODE = {"form": "vit", "dim": 24, "depth": 1, "heads": 2, "patch": 4, "scale": "none"}
DECODE |= {"steps": 40, "frames_per_step": 16, "lrs": [5e-3]}
SMALL = {"name": "pareto", "fit_clips": 60, "test_clips": 20, "seeds": 1, "decode": DECODE}


class Split(nn.Module):
    """Block 0 gives the pixels of 4 x 4 squares, block 1 where disc 0 is, the output nothing."""

    tubelet, depth, width, statistics = 1, 2, 48, IMAGENET

    def __init__(self, streams: dict[str, Stream]) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.known: dict[int, Tensor] = {}
        for stream in streams.values():
            for batch in stream:
                frames = batch.clip.transpose(1, 2).flatten(0, 1)
                places = batch.truth["position"][:, :, 0].flatten(0, 1)
                self.known |= {int(f.long().sum()): p for f, p in zip(frames, places, strict=True)}

    def forward(self, clip: Tensor, taps) -> tuple[Features, dict[int, Features]]:
        frame = clip[:, :, 0]
        squares = frame.unflatten(3, (-1, 4)).unflatten(2, (-1, 4)).permute(0, 2, 4, 1, 3, 5).flatten(1, 2).flatten(2)
        sums = IMAGENET.restore(clip).round().long().flatten(1).sum(1).tolist()
        where = torch.stack([self.known[s] for s in sums])
        places = torch.cat([where, torch.zeros(len(where), 46)], 1)[:, None].expand(-1, 16, -1)
        grid = Grid(1, 4, 4)
        found = {0: Features(squares * self.scale, grid), 1: Features(places * self.scale, grid)}
        return Features(torch.zeros_like(squares) * self.scale, grid), {i: found[i] for i in taps}


def streams_of(probe: Pareto) -> dict[str, Stream]:
    return {s: Stream(d, LOOK, batch=probe.batch) for s, d in probe.demands().items()}


@pytest.fixture(scope="module")
def ran():
    """The probe and what it found on all layers of the split encoder."""
    probe = PROBES.build({**SMALL, "layers": [0, 1, -1]})
    streams = streams_of(probe)
    encoder = FrozenEncoder(encoder=Split(streams), frames=4, crop=16)
    assert probe.refusal(encoder) is None
    return probe, dict(probe.run(encoder, streams)), encoder, streams


def test_a_layer_of_pixels_and_a_layer_of_places_share_the_front(ran):
    _, found, _, _ = ran
    value = {name: e.value for name, e in found.items()}
    assert value["layer00/psnr"] > value["layer01/psnr"] + 2
    assert value["layer01/action"] > 0.7
    assert value["layer00/action"] < 0.3
    assert value["layer00/front"] == value["layer01/front"] == 1
    assert value["output/front"] < 0.5, "what holds nothing is on it where chance decides"
    assert value["output/action"] < 0.05
    area = (value["layer01/psnr"] - 10) * (value["layer01/action"] + 0.1)
    area += (value["layer00/psnr"] - value["layer01/psnr"]) * max(value["layer00/action"] + 0.1, 0)
    assert value["hypervolume"] == pytest.approx(area)
    assert found["hypervolume"].low < area < found["hypervolume"].high
    assert all(e.units == 20 for e in found.values())


def test_the_figures_are_those_of_the_probes_alone(ran):
    _, found, encoder, streams = ran
    fields = {"fit_clips": 60, "test_clips": 20, "frames": 4, "seeds": 1}
    decode = PROBES.build({"name": "decode", **fields, **DECODE, "layer": 0, "source": streams["fit"].demand.source})
    alone = dict(decode.run(encoder, {"fit": streams["fit"], "test": streams["test"]}))["psnr"]
    assert found["layer00/psnr"][:3] == pytest.approx(alone[:3], abs=1e-4)
    action = InverseDynamics(fit_clips=60, test_clips=20, frames=4, heads=["ridge"], layers=[1], controls=False)
    alone = dict(action.run(encoder, streams))["ridge/r2"]
    assert found["layer01/action"][:3] == pytest.approx(alone[:3], abs=1e-9)


def points(*coordinates: tuple[float, float], noise: float = 0.0, shared: Tensor | None = None) -> Points:
    value = torch.tensor(coordinates, dtype=torch.float64)
    moved = torch.zeros(400, 1, 2, dtype=torch.float64) if shared is None else shared
    names = [f"layer{i:02d}" for i in range(len(value))]
    return Points(names, value, value + noise * moved, torch.full_like(value, torch.nan), 10)


def test_encoders_are_put_beside_each_other():
    probe = PROBES.build(SMALL)
    assert isinstance(probe, Compares)
    notes = {"": points((40.0, 0.0)), "state": points((17.3, 1.0)), "random": points((21.9, 0.165))}
    notes["beaten"] = points((18.0, 0.1))
    beside = probe.compare(notes)
    often = {name: found["all/front"].value for name, found in beside.metrics.items()}
    assert often == {"": 1, "state": 1, "random": 1, "beaten": 0}
    area = 30 * 0.1 + 11.9 * 0.165 + 7.3 * (1 - 0.165)
    assert beside.metrics[""]["all/hypervolume"].value == pytest.approx(area)
    assert beside.metrics[""]["all/points"].value == 4
    assert beside.metrics[""]["all/spearman"].value == pytest.approx(-0.8)
    assert set(beside.metrics["state"]) == {"all/front"}
    (section,) = beside.sections
    assert all(name in section.body for name in ("this encoder", "state", "random", "beaten", "PSNR"))


def test_an_encoder_is_on_the_front_with_any_of_its_layers():
    probe = PROBES.build(SMALL)
    beside = probe.compare({"": points((10.0, 0.0), (30.0, 0.1)), "other": points((20.0, 0.05))})
    assert {k: v["all/front"].value for k, v in beside.metrics.items()} == {"": 1, "other": 0}


def test_what_moves_both_alike_leaves_no_doubt():
    probe = PROBES.build(SMALL)
    shared = torch.randn(400, 1, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    alone = torch.randn(400, 1, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ours = points((20.0, 0.5), noise=1.0, shared=shared)
    paired = probe.compare({"": ours, "worse": points((19.9, 0.4), noise=1.0, shared=shared)})
    assert paired.metrics["worse"]["all/front"].value == 0
    apart = probe.compare({"": ours, "worse": points((19.9, 0.4), noise=1.0, shared=alone)})
    assert apart.metrics["worse"]["all/front"].value > 0.5


def test_cells_of_the_part_of_actions_are_heeded(ran):
    _, found, encoder, streams = ran
    fields = {"fit_clips": 60, "test_clips": 20, "frames": 4}
    fast = DECODE | {"steps": 1}
    probe = PROBES.build({**SMALL, "layers": [0], "decode": fast, "inverse_dynamics": {"cells": 2}})
    kept = dict(probe.run(encoder, streams))["action"]
    action = InverseDynamics(**fields, heads=["ridge"], layers=[0], cells=2, controls=False)
    assert kept[:3] == pytest.approx(dict(action.run(encoder, streams))["ridge/r2"][:3], abs=1e-9)
    assert kept.value != pytest.approx(found["layer00/action"].value, abs=1e-3)


def test_the_network_takes_the_place_of_the_ridge(ran):
    _, _, encoder, streams = ran
    fast = DECODE | {"steps": 1}
    probe = PROBES.build({**SMALL, "layers": [1], "head": "mlp", "decode": fast, "inverse_dynamics": {"steps": 200}})
    found = dict(probe.run(encoder, streams))
    assert set(found) == {"psnr", "action", "hypervolume"}, "one layer has no name and no front of its own"
    assert found["action"].value > 0.5


def test_an_encoder_without_such_a_layer_is_refused():
    probe = PROBES.build({**SMALL, "layers": [0, 5]})
    encoder = FrozenEncoder(encoder=Encoder(width=24, depth=2, heads=2, patch=8), frames=4, crop=16)
    assert probe.refusal(encoder) == "layers: got [5], expected -1 or 0 to 1"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layers": []}, r"layers: got \[\], expected -1 \(the output\) or blocks, each once"),
        ({"layers": [0, 0]}, r"layers: got \[0, 0\]"),
        ({"decode": {"frames": 8, "feed": "clip4"}}, "decode: got feed, frames, which pareto sets for both"),
        ({"inverse_dynamics": {"heads": ["mlp"]}}, "inverse_dynamics: got heads, which pareto sets"),
        ({"inverse_dynamics": {"pair": "clip"}}, "inverse_dynamics.pair: got 'clip', which pareto does not encode"),
        ({"decode": {"stepz": 8}}, "probe 'decode'.*stepz"),
        ({"fit_clips": 0}, "fit_clips and test_clips: got 0 and 20"),
        ({"frames": 2}, "frames: got 2, expected at least 4"),
    ],
)
def test_settings_that_cannot_be_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        PROBES.build({**SMALL, **fields})


def test_the_verb_compares_its_encoders_and_draws_them(tmp_path):
    run, out, short = tmp_path / "run", tmp_path / "out", ["optim.steps=1", "optim.warmup=0", "optim.decay=0"]
    assert main(["pretrain", "tests/train/tiny.yaml", f"run.dir={run}", "probes=[]", *short]) == 0
    decode = "{form: vit, dim: 24, depth: 1, heads: 2, patch: 4, steps: 2, frames_per_step: 8}"
    entry = f"{{name: pareto, fit_clips: 20, test_clips: 8, seeds: 1, decode: {decode}}}"
    words = [f"probes=[{entry}]", f"out={out}", f"report={out}/page.html", "controls=[untrained]", "progress=false"]
    assert main(["probe", f"{run}/last.ckpt", *words, f"baselines={{twin: {run}/last.ckpt}}"]) == 0
    records = {r["metric"]: r for r in map(json.loads, (out / "results.jsonl").read_text().splitlines())}
    front = records["all/front"]
    assert front["value"] == front["baselines"]["twin"]["value"] > 0, "equals are on the front together"
    assert set(front["controls"]) == {"untrained"}
    assert records["all/points"]["value"] == 3
    page = (out / "page.html").read_text()
    assert all(word in page for word in ("Pixels against actions", "twin", "untrained", "all/hypervolume"))
