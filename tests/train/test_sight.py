"""Strategies that look are shown what they need in training: pixels, the step, features of the target, events."""

from __future__ import annotations

import pytest
import torch

from vjepa_lab import masks
from vjepa_lab.train.folder import read_metrics
from vjepa_lab.train.modules import PretrainModule

MANY = "encoder.crop=32"


@pytest.fixture
def sights(monkeypatch):
    """What ``sample`` is shown, step by step."""
    shown = []
    plain = masks.sample

    def sample(strategies, grid, rng, sight=masks.Sight(), *args, **kwargs):  # noqa: B008
        shown.append(sight)
        return plain(strategies, grid, rng, sight, *args, **kwargs)

    monkeypatch.setattr(masks, "sample", sample)
    return shown


@pytest.mark.parametrize("name", ["interaction_blocks", "interaction_topk", "interaction_multiblock", "motion"])
def test_a_run_trains_and_logs_the_share_of_static_clips(run_tiny, name):
    """The synthetic world always moves; where its discs stand still, every clip is static."""
    rows = read_metrics(run_tiny(MANY, f"masks=[{{name: random}}, {{name: {name}}}]", "run.log_every=1"))
    assert [row["static/1"] for row in rows] == [0] * 6
    assert "static/0" not in rows[0]


def test_standing_discs_are_counted_as_static(run_tiny):
    """Also those of the steps between two rows, and of every micro-batch of a step."""
    still = "data.sources=[{name: synthetic, speed: 1.0e-9}]"
    run = run_tiny(MANY, still, "masks=[{name: interaction_blocks}]", "run.log_every=3", "trainer.accumulate=2")
    rows = read_metrics(run)
    assert [(row["step"], row["static/0"], row["static/0_clips"]) for row in rows] == [(3, 1, 24), (6, 1, 48)]


def test_a_few_standing_clips_among_moving_ones_are_counted(run_tiny):
    mixed = "data.sources=[{name: synthetic, speed: 1.0e-9, weight: 0.25}, {name: synthetic, weight: 0.75}]"
    rows = read_metrics(run_tiny(MANY, mixed, "masks=[{name: random}, {name: motion}]", "run.log_every=1"))
    shares = [row["static/1"] for row in rows]
    assert 0 < sum(shares) < 6
    assert rows[-1]["static/1_clips"] == pytest.approx(4 * sum(shares))


def test_the_step_counts_optimizer_steps_and_events_are_in_frames(run_tiny, sights):
    run_tiny(MANY, "trainer.accumulate=2", "data.batch=2", "masks=[{name: motion}]")
    assert [sight.step for sight in sights[:12]] == [step for step in range(6) for _ in range(2)]
    assert all(sight.steps == 6 for sight in sights[:12])
    known = torch.cat([sight.event.flatten() for sight in sights[:12]])
    assert known.isfinite().any()
    assert known[known.isfinite()].max() <= 3  # of four frames


def test_features_are_those_of_the_target_encoder(run_tiny, sights, monkeypatch):
    asked = []
    plain = PretrainModule._target_features

    def features(self, clip):
        out = plain(self, clip)
        with torch.no_grad():
            assert torch.equal(out, self.jepa.target(clip))
        assert not out.requires_grad
        asked.append(self.global_step)
        return out

    monkeypatch.setattr(PretrainModule, "_target_features", features)
    entry = "{name: interaction_blocks, saliency: accel_feature, maps: {warmup: 2}}"
    rows = read_metrics(run_tiny(MANY, "encoder.frames=8", f"masks=[{entry}]"))
    assert asked == [2, 3, 4, 5]
    assert all(row["static/0"] == 0 for row in rows)


def test_a_run_with_labels_that_have_no_times_is_refused(run_tiny):
    with pytest.raises(ValueError, match="gt_boost needs annotated events"):
        run_tiny(MANY, "masks=[{name: ia_jepa, gt_boost: true}]", "data.fps=null", "data.stride=1")


def test_a_run_with_labels_draws_its_picture_without_them(run_tiny):
    run = run_tiny(MANY, "masks=[{name: ia_jepa, gt_boost: true}]")
    assert (run / "summary.png").is_file()
