"""EPIC-KITCHENS: the context ends where it should, and the action is named as the training set numbers it."""

import csv
import logging

import numpy as np
import pytest
import torch

from vjepa_lab.data.clips import BadSample, ClipSpec
from vjepa_lab.data.sources.epic_kitchens import context_ids, reference
from vjepa_lab.data.streams import Demand, Look, Stream
from vjepa_lab.registry import SOURCES

SPEC = ClipSpec(frames=8, height=32, width=32, fps=8.0, stride=None, random=False)


def opened(fields, spec=SPEC, **more):
    return SOURCES.build({**fields, **more}).open(spec)


def shown(sample) -> list[int]:
    """Frame numbers modulo 64, by their grey."""
    return [round(float(f.float().mean()) / 4) for f in sample.clip.unbind(1)]


def rewrite(path, change):
    """``change`` a row (a dict) of the CSV in place, the first one."""
    with path.open() as file:
        rows = list(csv.DictReader(file))
    rows[0].update(change)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


@pytest.mark.parametrize(("how", "last"), [("standard", 540), ("legacy", 660)])
def test_the_worked_example_ends_at_frame_540_and_by_the_released_rule_at_660(how, last):
    """Oracle EK-1: 60 frames per second, the action from frame 600 to 720, one second ahead."""
    ids = context_ids(reference(10.0, 12.0, 0.0, how) - 1.0, 60.0, SPEC._replace(frames=32))
    assert ids[-1] == last
    assert ids[0] == last - round(31 / 8 * 60 + 0.01)
    assert set(np.diff(ids).tolist()) == {7, 8}


@pytest.mark.parametrize("point", [0.0, 0.25, 1.0])
def test_the_two_rules_are_mirror_images(point):
    assert reference(10.0, 12.0, point, "standard") == 10 + 2 * point
    assert reference(10.0, 12.0, point, "legacy") == 12 - 2 * point


def test_frames_before_the_beginning_are_the_first_one():
    assert context_ids(0.5, 60.0, SPEC._replace(frames=8)).tolist() == [0, 0, 0, 0, 7, 15, 22, 30]
    assert context_ids(-3.0, 60.0, SPEC._replace(frames=2)).tolist() == [0, 0]


def test_rates_that_are_no_whole_numbers_keep_time():
    """The trap of frame numbers: after 50 minutes at 59.94 frames per second they are 3 s behind those at 60."""
    ids = context_ids(3000.0, 60000 / 1001, SPEC)
    np.testing.assert_allclose(ids * 1001 / 60000, 3000 - np.arange(7, -1, -1) / 8, atol=0.5 / 59.9)


@pytest.mark.parametrize("below", ["videos", ""])
def test_a_clip_shows_the_context_and_tells_the_action(toys, tmp_path, below):
    reader = opened(toys.make_toy_epic_kitchens(tmp_path, below=below))
    rows = list(csv.DictReader((tmp_path / "EPIC_100_train.csv").open()))
    for i in (0, 4):
        sample = reader.read(i, np.random.default_rng(0))
        want = context_ids(3.0 + i - 1.0, 30.0, SPEC)
        assert shown(sample) == [int(k) % 64 for k in want]
        assert sample.truth["verb"].item() == int(rows[i]["verb_class"])
        assert sample.truth["noun"].item() == int(rows[i]["noun_class"])
        assert sample.truth["action"].item() == sample.label
        assert reader.classes[sample.label] == f"verb {rows[i]['verb_class']}, noun {rows[i]['noun_class']}"
        assert sample.truth["anticipation"].item() == 1.0
        assert sample.truth["verb"].dtype == torch.int64
        assert sample.key.endswith(f"P01_01.MP4#P01_01_{i} frames {want[0]}-{want[-1]}")


def test_actions_of_one_recording_are_held_out_together(toys, tmp_path):
    fields = toys.make_toy_epic_kitchens(tmp_path)
    path = tmp_path / "EPIC_100_train.csv"
    rows = list(csv.DictReader(path.open()))
    toys.write_film(tmp_path / "P01/videos/P01_02.MP4")
    for i in (1, 3):
        rows[i]["video_id"] = "P01_02"
    toys.write_rows(path, [list(rows[0]), *(list(row.values()) for row in rows)])
    stream = Stream(Demand(fields), Look(frames=8, crop=32, fps=8.0), batch=2)
    assert stream.units.tolist() == [0, 1, 0, 1, 0]
    for seed in range(4):
        look, demand = Look(frames=8, crop=32, fps=8.0), Demand(fields, share=0.1)
        parts = [Stream(demand._replace(part=p), look, batch=2, seed=seed) for p in ("train", "select")]
        assert sorted(sorted(part.rows.tolist()) for part in parts) == [[0, 2, 4], [1, 3]]


def test_legacy_clips_show_the_action_itself(toys, tmp_path):
    fields = toys.make_toy_epic_kitchens(tmp_path)
    sample = opened(fields, anticipation_point="legacy", seconds=0.1).read(1, np.random.default_rng(0))
    assert shown(sample)[-1] == round(30 * 4.4) % 64, "the action lasts from 4.0 to 4.5 s"


def test_training_draws_time_and_point_within_their_ranges(toys, tmp_path):
    fields = toys.make_toy_epic_kitchens(tmp_path)
    reader = opened(fields, SPEC._replace(random=True, frames=1), train_seconds=[0.5, 1.0], train_point=[0.0, 1.0])
    draws = [reader.read(3, np.random.default_rng(seed)) for seed in range(40)]
    seconds = np.array([s.truth["anticipation"].item() for s in draws])
    last = np.array([int(s.key.rpartition("-")[2]) for s in draws]) / 30
    assert 0.5 <= seconds.min() < 0.6
    assert 0.9 < seconds.max() <= 1.0
    point = (last + seconds - 6.0) / 0.5
    assert -0.05 < point.min() < 0.15
    assert 0.85 < point.max() < 1.05


def test_actions_are_those_of_the_training_set_and_others_are_left_out(toys, tmp_path, caplog):
    fields = toys.make_toy_epic_kitchens(tmp_path)
    train = tmp_path / "EPIC_100_train.csv"
    (tmp_path / "val.csv").write_text(train.read_text())
    rewrite(train, {"verb_class": "96", "noun_class": "299"})
    with caplog.at_level(logging.INFO):
        reader = opened(fields, path=str(tmp_path / "val.csv"), actions_of=str(train))
    assert len(reader) == 4
    assert "1 of 5 rows have an action that" in caplog.text
    whole = opened(fields)
    assert reader.classes == whole.classes
    assert [reader.read(i, np.random.default_rng(0)).label for i in range(2)] == [
        whole.read(i + 1, np.random.default_rng(0)).label for i in range(2)
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"verb_class": "97"}, r"train.csv:2: verb_class: got '97', expected a number below 97"),
        ({"noun_class": "cup"}, r"train.csv:2: noun_class: got 'cup', expected a number below 300"),
        ({"start_timestamp": "12.5"}, r"start_timestamp: got '12.5', expected hours:minutes:seconds"),
        ({"start_timestamp": "00:00:x"}, r"start_timestamp: got 'x', expected a number"),
        ({"stop_timestamp": "00:00:01.00"}, r"stop_timestamp: got 1 s, before the start at 3 s"),
    ],
)
def test_what_is_wrong_is_named(toys, tmp_path, change, message):
    fields = toys.make_toy_epic_kitchens(tmp_path)
    rewrite(tmp_path / "EPIC_100_train.csv", change)
    with pytest.raises(ValueError, match="epic_kitchens: .*" + message):
        opened(fields)


def test_policies_that_have_no_context_are_refused(toys, tmp_path):
    fields = toys.make_toy_epic_kitchens(tmp_path)
    with pytest.raises(ValueError, match=r"got clips spread over the video, expected fps"):
        opened(fields, SPEC._replace(fps=None))
    with pytest.raises(ValueError, match=r"got 2 clips per video, expected 1"):
        opened(fields, SPEC._replace(clips=2))
    with pytest.raises(ValueError, match=r"anticipation_point: .*'end'"):
        opened(fields, anticipation_point="end")
    with pytest.raises(ValueError, match=r"train_seconds: got 2 to 1, expected 0 or more, ascending"):
        opened(fields, train_seconds=[2.0, 1.0])


def test_a_recording_that_is_missing_or_ends_early_is_a_bad_sample(toys, tmp_path):
    fields = toys.make_toy_epic_kitchens(tmp_path)
    late = opened(fields)
    late._times[0] += 100
    with pytest.raises(BadSample, match="truncated"):
        late.read(0, np.random.default_rng(0))
    (tmp_path / "P01" / "videos" / "P01_01.MP4").rename(tmp_path / "P01" / "videos" / "elsewhere.MP4")
    with pytest.raises(BadSample, match="missing: no such file"):
        late.read(1, np.random.default_rng(0))
    with pytest.raises(
        ValueError, match=r"epic_kitchens: root: .* none of the first 5 videos lies; tried .*: P01/videos"
    ):
        opened(fields)
