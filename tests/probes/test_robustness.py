"""The five axes know a reader of motion from one blind to time, and a stable one from a dead one."""

import math
from functools import lru_cache

import pytest
import torch
from torch import nn

from vjepa_lab.batch import Grid
from vjepa_lab.data.streams import Look, Stream
from vjepa_lab.features import FrozenEncoder
from vjepa_lab.probes import Shows
from vjepa_lab.probes._controls import control
from vjepa_lab.probes._corruptions import corrupt
from vjepa_lab.probes._retention import retained
from vjepa_lab.probes.robustness import AXES, Robustness
from vjepa_lab.registry import PROBES
from vjepa_lab.tokens import IMAGENET, Features

LOOK = Look(frames=4, crop=16)
SIZES = {"fit_clips": 80, "test_clips": 48, "batch": 48, "near": 3, "corruptions": ["brightness"], "severities": [1, 5]}
SIZES |= {"per_frame": [], "contact": {}}


class Flow(nn.Module):
    """Knows how the disc moves in every clip of some streams, and backwards; of other clips nothing.

    ``symmetric``: only along which line, as one who does not know the order of the frames.
    """

    tubelet, depth, width, statistics = 4, 1, 16, IMAGENET

    def __init__(self, streams=None, *, symmetric=False):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.symmetric = symmetric
        self.known = known() if streams is None else self.learned(streams)

    def learned(self, streams):
        out = {}
        for stream in streams.values():
            for batch in stream:
                for reverse in (False, True):
                    clip = batch.clip.flip(2) if reverse else batch.clip
                    moves = (batch.label + 4 * reverse) % 8
                    out |= dict(zip(self.names(clip), moves.tolist(), strict=True))
        return out

    @staticmethod
    def names(clip):
        return [c.to(torch.uint8).contiguous().numpy().tobytes() for c in clip]

    def forward(self, clip, taps):
        moves = [self.known.get(n, -1) for n in self.names(IMAGENET.restore(clip).round())]
        x = torch.zeros(len(clip), 1, 16)
        for i, move in enumerate(moves):
            if move >= 0:
                x[i, 0, move % 4 if self.symmetric else move] = 1
        return Features(x * self.scale, Grid(1, 1, 1)), {}


@lru_cache
def known():
    """What there is to know of the world of all tests but one."""
    return Flow({}).learned(splits(Robustness(**SIZES)))


def splits(probe, **more):
    return {s: Stream(d, LOOK, batch=probe.batch, **more) for s, d in probe.demands().items()}


def measured(probe, symmetric=False, **more):
    streams = splits(probe, **more)
    network = Flow(symmetric=symmetric)
    return dict(probe.run(FrozenEncoder(encoder=network, frames=4, crop=16), streams))


@pytest.fixture(scope="module")
def flow():
    return measured(Robustness(**SIZES))


def test_a_reader_of_motion_flips_its_answer_when_time_is_reversed(flow):
    assert flow["clean/top1"].value == 1
    assert flow["direction/afr"].value == flow["direction/afr_u"].value == flow["direction/afr_2"].value == 1
    assert flow["direction/dscs"].value == pytest.approx(1, abs=0.02)
    assert flow["direction/unchanged"].value == 0
    assert flow["direction/dscs"].units == 48
    assert "direction/symmetric_stability" not in flow  # no class of this world is


def test_directions_that_all_occur_alike_say_nothing_of_the_arrow(flow):
    assert flow["direction/arrow"].value == pytest.approx(0.5, abs=0.2)


def test_an_encoder_blind_to_time_gets_no_mark_for_its_stability():
    got = measured(Robustness(**SIZES, axes=["direction"]), symmetric=True)
    assert got["direction/dscs"].value == got["direction/afr"].value == 0
    assert got["direction/cd"].value == pytest.approx(0, abs=1e-9)
    assert got["direction/unchanged"].value == 1
    assert got["direction/arrow"].value == 0.5
    assert got["clean/top1"].value == pytest.approx(0.5, abs=0.15)


def test_what_a_degraded_clip_does_not_show_is_not_retained(flow):
    """The features of a changed clip are nothing, so one class is answered for all."""
    for name in ("corruption/brightness/1", "corruption/brightness/5", "occlusion/patch_dropout/3"):
        assert flow[name].value < 0.3
        assert flow[f"{name}/retention"].value == flow[name].value
    assert flow["corruption/mpc"].value == flow["corruption/retention"].value < 0.3
    assert flow["corruption/mce"].value == 1 - flow["corruption/mpc"].value
    assert flow["corruption/retention_corrected"].value == pytest.approx(0, abs=0.15)
    assert flow["direction/shuffle/sensitivity"].value > 0.7
    assert flow["direction/noise/retention"].value < 0.3


def test_clips_that_are_hardly_changed_keep_their_neighbours(flow):
    assert flow["occlusion/clean_neighbours"].value > 0.9  # where a class has as many other clips
    assert flow["occlusion/patch_dropout/3/overlap"].value < 0.5
    assert flow["discriminability/neighbour"].value == 1


def test_no_degradation_retains_all(monkeypatch):
    """Severity 0 of every type gives back the very clip."""
    monkeypatch.setattr("vjepa_lab.probes.robustness.corrupt", lambda c, k, s, **o: corrupt(c, k, 0, **o))
    got = measured(Robustness(**SIZES | {"corruptions": ["all"], "severities": [3]}, axes=["corruption"]))
    assert got["corruption/mpc"].value == 1
    assert (got["corruption/retention"].low, got["corruption/retention"].high) == (1, 1)
    assert len([name for name in got if name.endswith("/3")]) == 15


def test_a_threshold_of_brightness_retains_what_the_closed_form_says():
    """Grey clips of luminance L in 0..1, classified as light above .6; brightness adds a constant c."""
    grey = torch.linspace(0, 1, 201)
    clips = grey.view(-1, 1, 1, 1, 1).expand(-1, 3, 1, 2, 2)
    keys = [str(i) for i in range(201)]
    light = grey > 0.6
    for severity, c in enumerate((0.1, 0.2, 0.3, 0.4, 0.5), 1):
        seen = corrupt(clips, "brightness", severity, keys=keys).flatten(1).mean(1) > 0.6
        got = dict(retained((seen == light).double(), torch.ones(201), torch.arange(201), 2))
        assert got["top1"].value == pytest.approx(1 - c, abs=0.01)  # wrong where .6 - c < L <= .6


def test_types_can_be_drawn_for_every_frame_beside_the_means():
    fields = {"corruptions": ["brightness"], "severities": [1], "per_frame": ["elastic_transform"]}
    got = measured(Robustness(**SIZES | fields, axes=["corruption"]))
    assert "corruption/elastic_transform_per_frame/1" in got
    assert got["corruption/mpc"].value == got["corruption/brightness/1"].value


def test_labels_of_other_clips_are_chance():
    got = measured(Robustness(**SIZES, axes=["discriminability"]), shuffled=True)
    assert got["clean/top1"].value == pytest.approx(1 / 8, abs=0.12)
    assert got["discriminability/all/centroid"].value == pytest.approx(0.5, abs=0.08)


def test_an_attentive_head_is_fitted_once_on_clean_clips(flow, tmp_path):
    probe = Robustness(**SIZES, axes=["direction"], head="attentive", depth=1, heads=2, lrs=[1e-2], wds=[0.01])
    streams = splits(probe)
    for stream in streams.values():
        stream.cache = str(tmp_path)
    encoder = FrozenEncoder(encoder=Flow(), frames=4, crop=16)
    got, again = dict(probe.run(encoder, streams)), dict(probe.run(encoder, streams))
    assert got["clean/top1"].value > 0.97
    assert got["direction/afr"].value > 0.97
    assert got["direction/cd"].value == pytest.approx(flow["direction/cd"].value, abs=1e-6)
    assert again == got or all(again[k].value == v.value for k, v in got.items())


def test_features_that_are_constant_are_measured_all_the_same():
    probe = Robustness(**SIZES, axes=["occlusion", "direction"])
    streams = splits(probe)
    encoder = control("constant", FrozenEncoder(encoder=Flow(), frames=4, crop=16))
    got = dict(probe.run(encoder, streams))
    assert got["direction/cd"].value == 0
    assert got["direction/unchanged"].value == 1
    assert got["occlusion/moving_block/1/cosine_centred"].value == 1
    assert not [name for name in got if "retention" in name]  # at chance, there is nothing to retain
    assert not any(math.isnan(e.value) for e in got.values())


def test_contact_is_measured_by_the_probe_of_that_name():
    inner = {"name": "contact", "gaps": [1.0], "push": 1.0, "fit_clips": 20, "select_clips": 10, "test_clips": 10}
    probe = Robustness(**SIZES | {"contact": inner}, axes=["fine_grained"])
    streams = splits(probe)
    encoder = FrozenEncoder(encoder=Flow(), frames=4, crop=16)
    got = dict(probe.run(encoder, streams))
    assert {"fine_grained/gap/1", "fine_grained/push", "fine_grained/push/paired"} <= set(got)
    alone = PROBES.build(inner)
    theirs = {s: Stream(d, LOOK, batch=10) for s, d in alone.demands().items()}
    assert got["fine_grained/gap/1"].value == dict(alone.run(encoder, theirs))["gap/1"].value


def test_the_page_shows_one_figure_per_axis(flow):
    probe = Robustness(**SIZES, axes=["direction"])
    measured(probe)
    assert isinstance(probe, Shows)
    page = probe.sections()[0].body
    assert "direction/dscs" in page
    assert "sensitive" in page
    assert "corruption" not in page
    assert {axis.asks for axis in AXES.values()} == {"invariant", "sensitive"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"axes": ["speed"]}, "axes: got 'speed', expected some of discriminability, corruption"),
        ({"corruptions": ["rain"]}, "corruptions: got 'rain'"),
        ({"severities": [6]}, r"severities: got \[6\], expected some of 1 to 5"),
        ({"fill": "previous", "occlusions": ["moving_block"]}, "fill: got 'previous' without temporal_dropout"),
        ({"pairs": {"0": "4"}}, "pairs: got some beside antonyms 'synthetic', expected antonyms: none"),
        ({"contact": {"name": "robustness"}}, "contact: got robustness itself"),
        ({"contact": {"name": "contact", "gaps": []}}, "probe contact: gaps"),
        ({"fit_clips": 0}, "fit_clips and test_clips: got 0"),
    ],
)
def test_what_cannot_be_asked_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Robustness(**fields)


def test_a_map_for_other_classes_is_refused_before_anything_is_degraded():
    probe = Robustness(**SIZES | {"antonyms": "ssv2_strict"})
    with pytest.raises(ValueError, match="antonyms: ssv2_strict is for 174 classes, got 8"):
        measured(probe)
    named = Robustness(**SIZES, antonyms="none", pairs={"left": "right"})
    with pytest.raises(ValueError, match="pairs: got 'left', expected classes of the source, as '0'"):
        measured(named)


def test_pairs_by_name_are_the_map():
    fields = {"antonyms": "none", "pairs": {str(k): str(k + 4) for k in range(4)}, "axes": ["direction"]}
    assert measured(Robustness(**SIZES | fields))["direction/afr"].value == 1
