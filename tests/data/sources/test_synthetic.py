"""The synthetic source: the same clip for the same index, truth that fits the pixels, labels that need motion."""

from __future__ import annotations

import csv
import importlib.util
import json
import math
import tarfile
from pathlib import Path
from types import ModuleType
from typing import Any

import av
import numpy as np
import pytest
import torch

from vjepa_lab.data.clips import ClipSpec
from vjepa_lab.data.sources.synthetic import CLASSES, Synthetic, SyntheticReader
from vjepa_lab.registry import SOURCES

GOLDEN_POSITION = [[0.2043426, 0.1705282], [0.3535254, 0.6314580], [0.7272684, 0.7882264]]
GOLDEN_MASS = [4.327754, 2.397724, 0.8042400]


def reader(*, frames: int = 8, height: int = 32, width: int = 32, **fields: Any) -> SyntheticReader:
    return SyntheticReader(Synthetic(**fields), frames=frames, height=height, width=width, fps=4.0)


def test_sample_has_the_documented_shapes_and_types() -> None:
    sample = reader(discs=4, height=24, pan=0.1, occluder=True).read(3)
    assert sample.clip.shape == (3, 8, 24, 32)
    assert sample.clip.dtype == torch.uint8
    assert sample.clip.is_contiguous()
    shapes = {name: (tuple(value.shape), value.dtype) for name, value in sample.truth.items()}
    real, boolean = torch.float32, torch.bool
    assert shapes == {
        "position": ((8, 4, 2), real),
        "velocity": ((8, 4, 2), real),
        "mass": ((4,), real),
        "radius": ((4,), real),
        "energy": ((8,), real),
        "energy_disc": ((8, 4), real),
        "visible": ((8, 4), real),
        "collision": ((8, 4, 4), boolean),
        "wall": ((8, 4), boolean),
    }


def test_registry_builds_the_source_from_a_config_entry() -> None:
    source = SOURCES.build({"name": "synthetic", "discs": 2, "split": "val", "size": 7})
    assert source == Synthetic(discs=2, split="val", size=7)
    opened = source.open(ClipSpec(frames=2, height=8, width=12, fps=None, stride=4))
    assert len(opened) == 7
    assert opened.read(0).clip.shape == (3, 2, 8, 12)


def test_index_alone_decides_the_clip() -> None:
    one, two = reader().read(5, np.random.default_rng(1)), reader().read(5, np.random.default_rng(2))
    assert torch.equal(one.clip, two.clip)
    assert all(torch.equal(one.truth[name], two.truth[name]) for name in one.truth)
    assert (one.label, one.key) == (two.label, two.key)
    assert not torch.equal(one.clip, reader().read(6).clip)
    assert not torch.equal(one.clip, reader(seed=1).read(5).clip)


def test_clip_zero_is_the_same_on_every_machine() -> None:
    truth = reader(frames=2).read(0).truth
    np.testing.assert_allclose(truth["position"][0].numpy(), GOLDEN_POSITION, atol=1e-5)
    np.testing.assert_allclose(truth["mass"].numpy(), GOLDEN_MASS, rtol=1e-5)


def test_train_and_val_share_no_clip() -> None:
    train, val = reader(frames=2, split="train"), reader(frames=2, split="val")
    starts = [r.read(i).truth["position"][0].numpy().tobytes() for r in (train, val) for i in range(200)]
    keys = [r.key(i) for r in (train, val) for i in range(200)]
    assert len(set(starts)) == len(set(keys)) == 400


def test_a_longer_clip_continues_a_shorter_one() -> None:
    short, long = reader(frames=6, pan=0.1).read(2), reader(frames=20, pan=0.1).read(2)
    assert torch.equal(long.clip[:, :6], short.clip)
    assert torch.equal(long.truth["position"][:6], short.truth["position"])


def test_options_change_what_they_name_and_nothing_else() -> None:
    base, barred, panned = (reader(**fields).read(1) for fields in ({}, {"occluder": True}, {"pan": 0.2}))
    assert torch.equal(base.truth["position"], barred.truth["position"])
    assert torch.equal(base.truth["velocity"], panned.truth["velocity"])
    assert (barred.truth["visible"] <= base.truth["visible"]).all()
    assert (base.truth["visible"] == 1).all()
    # The bar repaints whole columns; all others are untouched.
    hidden = (base.clip != barred.clip).any(0).any(0).any(0)
    assert 3 <= hidden.sum() <= 9
    # The camera carries all discs by one common shift per frame, which changes from frame to frame.
    shift = panned.truth["position"] - base.truth["position"]
    assert torch.allclose(shift, shift[:, :1].expand_as(shift), atol=1e-6)
    assert (shift.norm(dim=-1) <= 0.2 + 1e-6).all()
    assert shift[:, 0].std(0).max() > 0.01


def test_a_driven_disc_moves_by_its_action_until_it_hits_something() -> None:
    free, driven = reader(frames=16).read(1), reader(frames=16, drive=0.2).read(1)
    assert torch.equal(driven.truth["position"][0], free.truth["position"][0])
    assert torch.equal(driven.truth["mass"], free.truth["mass"])
    assert "action" not in free.truth
    action = driven.truth["action"]
    assert (action.shape, action.dtype) == ((15, 2), torch.float32)
    moved = driven.truth["position"][:, 0].diff(dim=0)
    unhindered = ~(driven.truth["wall"][1:, 0] | driven.truth["collision"][1:, 0].any(-1))
    assert unhindered.sum() >= 5
    assert torch.allclose(moved[unhindered], 0.25 * action[unhindered], atol=1e-6)


def test_actions_are_random_and_of_the_stated_size() -> None:
    action = torch.stack([reader(frames=9, drive=0.2).read(i).truth["action"] for i in range(60)])
    assert action.std().item() == pytest.approx(0.2, rel=0.06)
    assert action.mean().abs() < 0.02
    assert abs(np.corrcoef(action[:, :-1].flatten().numpy(), action[:, 1:].flatten().numpy())[0, 1]) < 0.1
    wide = torch.stack([reader(frames=9, height=16, drive=0.2).read(i).truth["action"] for i in range(60)])
    assert torch.allclose(wide, action / 2, atol=1e-6), "scaled to the height, as speeds are"


def test_hidden_discs_are_reported_and_cannot_be_seen() -> None:
    barred = reader(frames=16, height=64, width=64, occluder=True, discs=1)
    seen = torch.stack([barred.read(i).truth["visible"][:, 0] for i in range(40)])
    assert ((seen > 0.02) & (seen < 0.98)).float().mean() > 0.1
    assert (seen == 1).float().mean() > 0.3


@pytest.mark.parametrize(("height", "width"), [(32, 32), (24, 48), (48, 24)])
def test_position_is_where_the_disc_hue_is_seen(height: int, width: int) -> None:
    r = reader(height=2 * height, width=2 * width, pan=0.1)
    near, far = [], []
    for index in range(10):
        sample = r.read(index)
        for f, k in np.ndindex(8, 3):
            if sample.truth["visible"][f, k] == 1:
                x, y = sample.truth["position"][f, k].tolist()
                red_green_blue = sample.clip[:, f, int(y * 2 * height), int(x * 2 * width)].float()
                near.append(red_green_blue[k] - red_green_blue.mean())
                red_green_blue = sample.clip[:, f, int((y + 0.5) % 1 * 2 * height), int((x + 0.5) % 1 * 2 * width)]
                far.append(red_green_blue[k] - red_green_blue.float().mean())
    assert torch.stack(near).min() > 5, "disc k is the one whose channel k is strongest"
    assert torch.stack(far).mean() < 0.3 * torch.stack(near).mean()


def test_energy_is_that_of_mass_and_velocity_and_stays() -> None:
    truth = reader(frames=16).read(4).truth
    by_hand = 0.5 * truth["mass"] * truth["velocity"].square().sum(-1)
    assert torch.allclose(truth["energy_disc"], by_hand)
    assert torch.allclose(truth["energy"], by_hand.sum(-1))
    assert torch.allclose(truth["energy"], truth["energy"][:1].expand(16), rtol=1e-5)


def test_event_is_the_first_collision_in_the_time_of_the_clip() -> None:
    seen = 0
    for index in range(20):
        sample = reader(step=0.1).read(index)
        first = sample.truth["collision"].any(-1).any(-1).nonzero()
        assert math.isnan(sample.event) == (len(first) == 0)
        if len(first):
            assert first[0].item() - 1 < sample.event * 4.0 <= first[0].item()
            seen += 1
    assert 3 < seen < 20
    slow, fast = (SyntheticReader(Synthetic(), frames=16, height=8, width=8, fps=f).read(0).event for f in (4.0, 8.0))
    assert slow == 2 * fast


def test_mass_follows_identity_but_not_size() -> None:
    r = reader(frames=2, height=8, width=8)
    samples = [r.read(i).truth for i in range(300)]
    mass = torch.stack([t["mass"] for t in samples])
    radius = torch.stack([t["radius"] for t in samples])
    assert (mass[:, 0] > mass[:, 1]).all()
    assert (mass[:, 1] > mass[:, 2]).all()
    for k in range(3):
        assert torch.corrcoef(torch.stack([mass[:, k], radius[:, k]]))[0, 1].abs() < 0.2


def test_discs_move_several_pixels_and_meet() -> None:
    r = reader(frames=16, height=8, width=8)
    truth = [r.read(i).truth for i in range(100)]
    step = torch.stack([t["velocity"].norm(dim=-1).mean() for t in truth]).mean() * 0.25 * 64
    met = torch.stack([t["collision"].sum() / 2 for t in truth]).mean()
    assert 3 < step < 6, "pixels a frame at 64 pixels"
    assert 2 < met < 4, "collisions of a 16-frame clip"


@pytest.mark.parametrize(("label", "low", "high"), [("direction", 0.08, 0.17), ("collisions", 0.15, 0.36)])
def test_classes_are_about_equally_frequent(label: str, low: float, high: float) -> None:
    r = reader(frames=16, height=8, width=8, label=label)
    share = np.bincount([r.read(i).label for i in range(800)], minlength=CLASSES[label]) / 800
    assert len(share) == CLASSES[label] == len(r.classes)
    assert share.min() > low
    assert share.max() < high


@pytest.mark.parametrize("frames", [2, 7, 8, 16])
def test_direction_is_that_of_the_heaviest_disc_amid_the_clip_and_flips_with_time(frames: int) -> None:
    def sector(position: torch.Tensor) -> int:
        first = frames // 2 - 1
        dx, dy = (position[frames - 1 - first, 0] - position[first, 0]).tolist()
        return int(np.floor((np.degrees(np.arctan2(dy, dx)) + 22.5) / 45)) % 8

    r = reader(frames=frames, height=8, width=8)
    for index in range(30):
        sample = r.read(index)
        position = sample.truth["position"]
        assert sample.label == sector(position)
        assert (sample.label + 4) % 8 == sector(position.flip(0))


def test_one_frame_has_no_direction() -> None:
    assert reader(frames=1).read(0).label == -1


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"discs": 0}, "discs"),
        ({"discs": 13}, "discs"),
        ({"size": -1}, "size"),
        ({"split": "test"}, "split"),
        ({"label": "mass"}, "label"),
        ({"step": 0.0}, "step"),
        ({"pan": -0.1}, "pan"),
        ({"gravity": 0.1, "damping": 0.1}, "gravity and damping"),
    ],
)
def test_impossible_worlds_are_refused_by_field(fields: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=f"synthetic.*{name}: expected"):
        Synthetic(**fields)


def test_the_most_crowded_room_can_be_filled() -> None:
    assert reader(frames=2, discs=12, height=16, width=48).read(0).truth["mass"].shape == (12,)


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    path = Path(__file__).parents[3] / "tools" / "make_synthetic.py"
    spec = importlib.util.spec_from_file_location("make_synthetic", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_files_on_disk_show_the_clips_of_the_source(tool: ModuleType, tmp_path: Path) -> None:
    options = ["--clips", "3", "--size", "48", "--frames", "6", "--fps", "8", "--per-shard", "2"]
    tool.main([str(tmp_path / "out"), *options])
    out, source = tmp_path / "out", reader(frames=6, height=48, width=48, step=0.125)
    rows = list(csv.DictReader((out / "listing.csv").open()))
    assert [row["path"] for row in rows] == [f"videos/00000{i}.mp4" for i in range(3)]
    for index, row in enumerate(rows):
        sample = source.read(index)
        with av.open(str(out / row["path"])) as container:
            assert container.streams.video[0].average_rate == 8
            frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
        error = np.abs(frames.astype(int) - sample.clip.permute(1, 2, 3, 0).numpy())
        assert frames.shape == (6, 48, 48, 3)
        assert error.mean() < 6, "grey levels; most of it is 4:2:0 colour at the rims"
        assert int(row["label"]) == sample.label
        with np.load(out / "truth" / f"00000{index}.npz") as truth:
            assert set(truth.files) == {*sample.truth, "label"}
            assert all(np.array_equal(truth[name], value.numpy()) for name, value in sample.truth.items())
    shards = sorted((out / "shards").iterdir())
    assert [s.name for s in shards] == ["synthetic-000000.tar", "synthetic-000001.tar"]
    with tarfile.open(shards[1]) as tar:
        members = {m.name: tar.extractfile(m).read() for m in tar}  # pyright: ignore
    assert members["000002.mp4"] == (out / rows[2]["path"]).read_bytes()
    assert members["000002.cls"].decode() == rows[2]["label"]
    assert json.loads(members["000002.json"])["key"] == source.key(2)


def test_tool_leaves_a_folder_in_use_alone(tool: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(SystemExit, match="not empty"):
        tool.main([str(tmp_path)])
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_the_background_can_be_toned_down_to_one_grey_and_changes_nothing_else() -> None:
    plain, grey = reader().read(0), reader(background=0.0).read(0)
    values, counts = np.unique(np.concatenate([grey.clip[c].numpy().ravel() for c in range(3)]), return_counts=True)
    assert values[counts.argmax()] in (92, 93)
    assert counts.max() > 0.5 * counts.sum()
    assert len(np.unique(plain.clip.numpy())) > len(values)
    assert torch.equal(plain.truth["position"], grey.truth["position"])


def test_clips_with_an_impact_alternate_with_clips_without() -> None:
    source = reader(frames=8, label="impact", step=0.125)
    assert source.classes == ["0", "1"]
    for index in range(24):
        sample = source.read(index)
        met = torch.triu(sample.truth["collision"], 1).sum((1, 2)).tolist()
        assert sample.label == index % 2
        assert sum(met) == index % 2
        assert met[1] == met[-1] == 0, "nothing would show it"
        assert math.isnan(sample.event) == (index % 2 == 0)
    assert torch.equal(source.read(5).clip, reader(frames=8, label="impact", step=0.125).read(5).clip)


def test_a_first_draw_that_is_as_asked_is_the_clip_of_other_labels() -> None:
    fields = {"frames": 8, "step": 0.125}
    plain, asked = reader(**fields), reader(label="impact", **fields)
    same = [torch.equal(plain.read(i).clip, asked.read(i).clip) for i in range(0, 20, 2)]
    without = [not plain.read(i).truth["collision"].any() for i in range(0, 20, 2)]
    assert same == without
    assert 0 < sum(same) < 10


def test_worlds_in_which_nothing_can_meet_have_no_impact() -> None:
    with pytest.raises(ValueError, match="discs: expected at least 2 for the label impact, got 1"):
        Synthetic(label="impact", discs=1)
    with pytest.raises(ValueError, match="label impact: got 3 frames a clip, expected at least 4"):
        Synthetic(label="impact").open(ClipSpec(frames=3, height=8, width=8, fps=None, stride=1))
    with pytest.raises(ValueError, match=r"val/0000001: got none with one collision in 2000 worlds"):
        reader(frames=4, label="impact", split="val", speed=1e-4).read(1)
