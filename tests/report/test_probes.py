"""Pages of probe results: bold is earned, layers and severities become curves, everything said is on the page."""

from __future__ import annotations

import math

import pytest
import torch

from vjepa_lab.report.film import PcaFilm
from vjepa_lab.report.page import Section, Value, prose
from vjepa_lab.report.probes import arms, films, probe_page, probe_sections


def ci(value, half=0.05):
    return {"value": value, "low": value - half, "high": value + half}


def record(metric, value, untrained=0.3, *, probe="motion", **more):
    controls = {"untrained": ci(untrained), "pixels": ci(0.1), "shuffled": ci(0.0), "constant": ci(-0.001, 0.001)}
    fixed = {"units": 40, "unit": "video", "seeds": [0, 1], "split": "ab12", "weights": "cd34", "choices": {"layer": 3}}
    return {"probe": probe, "metric": metric, **ci(value), "controls": controls, **fixed, **more}


def show(records, read, **more):
    return read(probe_page(records, checkpoint="runs/<a>.ckpt", date="1 May", version="9.9", **more))


def bold(records, read) -> int:
    return len(show(records, read).of("b"))


def test_the_head_says_what_was_measured_and_when(read):
    text = show([record("position", 0.9)], read, more={"seconds": 12}).text
    for name, value in {"checkpoint": "runs/<a>.ckpt", "weights": "cd34", "date": "1 May", "version": "9.9"}.items():
        assert text[text.index(name) + 1] == value
    assert text[text.index("seconds") + 1] == "12"
    assert "1 of 1 metrics beat the untrained encoder beyond both intervals" in text


@pytest.mark.parametrize(
    ("value", "more", "expected"),
    [
        (0.9, {}, 1),
        (0.39, {}, 0),  # above, but the intervals meet
        (0.1, {}, 0),
        (0.1, {"better": "lower"}, 1),
        (0.9, {"better": "lower"}, 0),
        (0.9, {"low": None, "high": None}, 0),
        (0.9, {"controls": {"untrained": {"value": 0.3, "low": math.nan, "high": math.nan}}}, 0),
        (0.9, {"controls": {}}, 0),
        (0.9, {"controls": {"pixels": ci(0.0)}}, 0),
    ],
)
def test_bold_is_what_beats_the_untrained_encoder_beyond_the_intervals(value, more, expected, read):
    assert bold([record("position", value, **more)], read) == expected


def test_a_row_holds_controls_and_baselines_in_order(read):
    rows = [record("psnr", 20.0, baselines={"mean_frame": ci(12.0)}), record("other", 0.5, controls=None)]
    reader = show(rows, read)
    head = ["metric", "value", "untrained", "pixels", "shuffled", "constant", "mean_frame", "units", "seeds"]
    start = reader.text.index("metric")
    assert reader.text[start : start + len(head)] == head
    assert len(reader.of("td")) == 2 * (len(head) - 1)
    assert {"psnr", "20.000", "12.000", "[11.950, 12.050]", "40 video", "0, 1"} <= set(reader.text)


def test_layers_become_one_plot_per_metric_and_keep_their_numbers(read):
    records = [record(f"layer{i:02d}/{m}", 0.1 * i) for i in range(4) for m in ("position", "velocity")]
    reader = show([*records, record("best", 0.4)], read)
    plots = [s for s in reader.of("svg") if s.get("role") == "img"]
    assert [p["aria-label"] for p in plots] == ["position", "velocity"]
    assert len(reader.of("circle")) == 2 * 4 * 5  # points of this encoder and of four controls
    assert "position" in reader.text
    assert "layer03/velocity" in reader.text
    assert "best" in reader.text
    assert "Numbers of these curves (8)" in reader.text


def test_severities_become_one_plot_per_type_on_one_scale(read):
    values = {"fog": (0.8, 0.6, 0.5), "frost": (0.5, 0.3, 0.1)}
    records = [record(f"corruption/{k}/{i + 1}", v) for k, vs in values.items() for i, v in enumerate(vs)]
    reader = show([*records, record("corruption/mean", 0.5)], read)
    plots = [s for s in reader.of("svg") if s.get("role") == "img"]
    assert [p["aria-label"] for p in plots] == ["fog", "frost"]
    ours = [float(c["cy"]) for c in reader.of("circle") if c["class"] == "f0"]
    assert ours[2] == pytest.approx(ours[3])  # 0.5 in both plots
    assert "corruption/mean" in reader.text


def test_a_share_is_a_severity_too_and_a_measure_may_follow(read):
    records = [record(f"occlusion/{x}/cosine", 1 - x) for x in (0.25, 0.5, 0.75)]
    reader = show(records, read)
    assert len([c for c in reader.of("circle") if c["class"] == "f0"]) == 3
    assert "occlusion cosine" in reader.text


def test_one_layer_alone_is_a_row_and_no_plot(read):
    reader = show([record("layer03/position", 0.5)], read)
    assert not reader.of("svg")
    assert "layer03/position" in reader.text


def test_choices_are_listed_and_alike_ones_once(read):
    same = [record("a", 0.5), record("b", 0.5)]
    assert show(same, read).text.count("layer") == 1
    other = show([*same, record("c", 0.5, choices={"layer": [1, 2], "name": "<x>"})], read)
    assert other.text.count("layer") == 2
    assert {"a, b", "c", "[1, 2]", "<x>", "ab12"} <= set(other.text)


def test_probes_have_a_section_each_and_further_ones_follow(read):
    records = [record("a", 0.5, probe="one"), record("b", 0.5, probe="two"), record("c", 0.5, probe="one")]
    assert [s.title for s in probe_sections(records)] == ["one", "two"]
    reader = show(records, read, extras=[Section("film", prose("moving"))])
    assert len(reader.of("h2")) == 3
    assert reader.text[-2:] == ["film", "moving"]


def test_equal_results_give_equal_pages():
    pages = {probe_page([record("a", 0.5)], checkpoint="c", date="d", version="v") for _ in range(2)}
    assert len(pages) == 1


def test_a_record_without_a_value_is_refused():
    with pytest.raises(ValueError, match="record 1: expected the fields probe, metric and value, got no value"):
        probe_sections([record("a", 0.5), {"probe": "p", "metric": "b"}])


def test_arms_show_differences_and_make_clear_ones_bold(read):
    values = {
        "random": {"p": Value(0.5, 0.4, 0.6), "v": Value(0.1)},
        "tube": {"p": Value(0.7, 0.6, 0.8), "v": Value(0.1)},
    }
    change = {"tube": {"p": Value(0.2, 0.1, 0.3), "v": Value(-0.01, -0.1, 0.08)}}
    reader = read(arms(values, differences=change, reference="random", caption="Three seeds."))
    assert {"+0.200", "[+0.100, +0.300]", "−0.010", "[−0.100, +0.080]", "random", "tube"} <= set(reader.text)
    assert len(reader.of("b")) == 1
    assert "Three seeds. Below each value: paired difference to random" in " ".join(reader.text)
    with pytest.raises(ValueError, match="reference: got 'other', expected one of the arms"):
        arms(values, differences=change, reference="other")


def test_films_are_one_per_clip_and_say_the_share(read):
    frames = torch.randint(0, 256, (3, 4, 8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    reader = read(films(PcaFilm(frames, 255 - frames, (0.5, 0.25, 0.125)), side=16))
    assert [(i["width"], i["height"]) for i in reader.of("img")] == [("32", "16")] * 3
    assert "50.0 %, 25.0 %, 12.5 %" in " ".join(reader.text)
