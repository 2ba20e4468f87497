"""The watch notices a collapse, says why, and stops or goes back; it never touches what is trained."""

import logging
import math
import signal
from pathlib import Path

import pytest
import torch

from vjepa_lab.probes._spectrum import rankme
from vjepa_lab.train import callbacks, checkpoints, collapse
from vjepa_lab.train.collapse import COLLAPSED, Reading, Rule, cause
from vjepa_lab.train.folder import read_metrics
from vjepa_lab.train.modules import PretrainModule
from vjepa_lab.train.run import pretrain


@pytest.fixture(autouse=True)
def no_picture(monkeypatch):
    """The picture of a run takes longer than the run."""
    monkeypatch.setattr("vjepa_lab.train.picture.draw", lambda *_: None)


EAGER = ["watch.every=1", "watch.patience=3"]
SHARES = {"spread": 0.5, "entropy": 0.5}


def figures(spread, entropy=0.9):
    return {"spread": spread, "entropy": entropy}


def alarms(readings, **settings):
    rule = Rule(SHARES, patience=settings.get("patience", 3))
    return [rule.add(step, reading) for step, reading in enumerate(readings, start=1)]


def test_an_alarm_needs_several_low_readings_in_a_row():
    found = alarms([figures(v) for v in (0.8, 0.39, 0.39, 0.41, 0.39, 0.39, 0.38, 0.37, 0.9)])
    assert [alarm is not None for alarm in found] == [False] * 6 + [True, True, False]
    assert found[6] == ("spread", 0.38, 0.4, 0.8, 5)
    assert found[7].since == 5


def test_limits_follow_the_highest_reading_of_each_figure():
    """A slow start is no collapse; a later high raises the limit."""
    assert not any(alarms([figures(0.1), figures(0.06), figures(0.2), figures(0.11), figures(0.11)], patience=1))
    found = alarms([figures(0.2), figures(0.8), figures(0.39)], patience=1)
    assert found[2].limit == pytest.approx(0.4)
    (alarm,) = alarms([figures(0.8, 0.9), figures(0.8, 0.44)], patience=1)[1:]
    assert (alarm.figure, alarm.value) == ("entropy", 0.44)


def reading(step=100, *, weights=1.0, gap=0.3):
    return Reading(step, 0.1, 0.1, 1.2, gap, weights)


@pytest.mark.parametrize(
    ("now", "words"),
    [
        (reading(weights=2.5), ["learning rate (now 0.2)", "2.5 times", "lower optim.lr"]),
        (reading(weights=0.3), ["weight decay (now 4", "8.0e-01 of every weight", "0.30", "optim.weight_decay"]),
        (reading(gap=0.001), ["target encoder", "mean distance 0.001", "ema.start"]),
        (reading(), ["not clear", "masks and data"]),
    ],
)
def test_the_cause_is_told_by_weights_and_targets(now, words):
    text = cause(reading(1), now, lr=0.2, decay=4.0)
    assert all(word in text for word in words), text


def states(run):
    state = checkpoints.read(run / "last.ckpt")
    return state["state_dict"], state["optimizer_states"][0]["state"]


def test_watching_changes_no_loss_and_no_weight(run_tiny, tmp_path):
    quiet = run_tiny("watch.every=0", f"run.dir={tmp_path / 'quiet'}")
    watched = run_tiny(*EAGER, "watch.on_collapse=rollback", f"run.dir={tmp_path / 'watched'}")
    one, two = read_metrics(quiet), read_metrics(watched)
    assert [r["loss"] for r in one] == [r["loss"] for r in two]
    assert "collapse" not in one[0]
    assert [r["collapse"] for r in two] == [0] * 6
    for a, b in zip(states(quiet), states(watched), strict=True):
        assert torch.equal(torch.cat([v.flatten() for v in tensors(a)]), torch.cat([v.flatten() for v in tensors(b)]))


def tensors(state):
    """All tensors of nested dictionaries, in order."""
    for value in state.values():
        if isinstance(value, dict):
            yield from tensors(value)
        elif torch.is_tensor(value):
            yield value.float()


def test_a_reading_is_what_its_words_say(run_tiny, monkeypatch):
    seen = []
    plain = collapse.read

    def read(module, step):
        seen.append((module.tokens.clone(), module.stats, [p for p in module.jepa.context.parameters() if p.ndim > 1]))
        weights = torch.cat([p.detach().flatten() for p in seen[-1][2]]).double()
        found = plain(module, step)
        assert found.weights == pytest.approx(weights.square().mean().sqrt().item(), rel=1e-5)
        seen[-1] = (*seen[-1][:2], found)
        return found

    monkeypatch.setattr(collapse, "read", read)
    rows = read_metrics(run_tiny("watch.every=2", "optim.steps=5", "optim.warmup=1"))
    assert [found.step for _, _, found in seen] == [1, 2, 4]
    for tokens, stats, found in seen:
        assert tokens.shape == (512, 48)
        assert found.rank == pytest.approx(rankme(tokens, centred=False), rel=1e-5)
        assert found.entropy == pytest.approx(math.log(found.rank) / math.log(48), rel=1e-5)
        assert found.spread == pytest.approx(stats["context_std"], rel=1e-6)
        assert found.gap == pytest.approx(stats["target_context_gap"], rel=1e-6)
    assert [r["context_rank"] for r in rows] == pytest.approx([seen[i][2].rank for i in (0, 1, 1, 2, 2)])


@pytest.fixture
def planned(monkeypatch):
    """``planned(steps)``: the features are read as collapsed at these steps, and healthy at all others."""
    plain = collapse.read

    def plan(steps):
        def read(module, step):
            found = plain(module, step)
            return found._replace(spread=0.01 if step in steps else 0.8, entropy=0.8)

        monkeypatch.setattr(collapse, "read", read)

    return plan


def said(caplog):
    return [r.getMessage() for r in caplog.records if "collapse" in r.getMessage() or "recovered" in r.getMessage()]


def test_a_warning_is_said_once_and_logged_at_every_reading(run_tiny, planned, caplog):
    planned({3, 4, 5, 6, 7, 10})
    with caplog.at_level(logging.WARNING, "vjepa_lab"):
        rows = read_metrics(run_tiny(*EAGER, "optim.steps=12"))
    first, then = said(caplog)
    assert "step 5: the features collapse" in first
    assert "is 0.01 and has been below 0.4 (its highest was 0.8) since step 3" in first
    assert "step 8: the features have recovered" in then
    assert [r["collapse"] for r in rows] == [0, 0, 0, 0, 1, 1, 1] + [0] * 5
    assert len(rows) == 12


def test_a_stop_leaves_a_checkpoint_and_the_same_command_stops_again(tiny, planned, caplog):
    planned({6, 7, 8, 9})
    options = [*EAGER, "watch.on_collapse=stop", "optim.steps=12", "run.save_every=1"]
    config = tiny(*options)
    run = Path(config.run.dir)
    with caplog.at_level(logging.WARNING, "vjepa_lab"):
        assert pretrain(config) == COLLAPSED
        assert checkpoints.read(run / "last.ckpt")["global_step"] == 8
        assert checkpoints.read(run / "healthy.ckpt")["global_step"] == 4
        assert checkpoints.read(run / "healthy-before.ckpt")["global_step"] == 1  # three readings apart
        assert read_metrics(run)[-1]["collapse"] == 1
        assert pretrain(tiny(*options)) == COLLAPSED
    assert checkpoints.read(run / "last.ckpt")["global_step"] == 9
    assert all(f"go on with run.resume={run / 'healthy.ckpt'} (step 4)" in text for text in said(caplog))
    assert len(said(caplog)) == 2
    assert pretrain(tiny(*options, f"run.resume={run / 'healthy.ckpt'}", "watch.every=0")) == 0


@pytest.fixture
def went_back(monkeypatch):
    """What the run held right after each rollback: weights, moments, and the file they came from."""
    found = []
    plain = collapse.restore

    def restore(trainer, path):
        plain(trainer, path)
        state = trainer.lightning_module.state_dict(), trainer.optimizers[0].state_dict()["state"]
        file = checkpoints.read(path)
        same = all(torch.equal(state[0][k], v) for k, v in file["state_dict"].items())
        moments = sorted(v["exp_avg"].double().sum().item() for v in state[1].values())
        kept = sorted(v["exp_avg"].double().sum().item() for v in file["optimizer_states"][0]["state"].values())
        found.append((trainer.global_step, file["global_step"], same, moments == kept))

    monkeypatch.setattr(collapse, "restore", restore)
    return found


BACK = [*EAGER, "watch.on_collapse=rollback", "run.save_every=3", "optim.steps=14"]


def test_a_rollback_restores_weights_and_moments_and_lowers_the_rate(run_tiny, planned, went_back, caplog):
    planned({8, 9, 10})
    with caplog.at_level(logging.WARNING, "vjepa_lab"):
        rows = read_metrics(run_tiny(*BACK))
    assert went_back == [(10, 3, True, True)]  # that of step 6 is less than three readings before step 8
    assert [r["step"] for r in rows] == list(range(1, 15))
    assert rows[8]["lr"] == pytest.approx(1e-3)
    assert [r["lr"] for r in rows[9:]] == pytest.approx([0.5e-3] * 5)
    assert "Rollback 1: weights and moments of step 3; the learning rate is 0.5 of" in said(caplog)[0]


def test_a_run_that_collapses_again_goes_further_back_and_then_stops(tiny, planned, went_back, caplog):
    planned(set(range(12, 30)))
    config = tiny(*BACK, "watch.rollbacks=2", "run.save_every=4", "optim.steps=24")
    with caplog.at_level(logging.WARNING, "vjepa_lab"):
        assert pretrain(config) == COLLAPSED
    assert [places[:2] for places in went_back] == [(14, 8), (17, 4)]
    assert "No rollback: 2 of 2 rollbacks did not help. The run stops here" in said(caplog)[-1]
    last = read_metrics(Path(config.run.dir))[-1]
    assert last["step"] == 20
    assert last["lr"] == pytest.approx(0.25e-3)


def test_without_a_healthy_checkpoint_the_run_stops(tiny, planned, caplog):
    planned({2, 3, 4})
    with caplog.at_level(logging.WARNING, "vjepa_lab"):
        assert pretrain(tiny(*BACK)) == COLLAPSED
    assert "there is no healthy checkpoint up to step -1, see run.save_every. The run stops" in said(caplog)[0]


def test_a_run_that_is_stopped_after_a_rollback_goes_on_as_if_it_was_not(tiny, planned, tmp_path, monkeypatch):
    planned({8, 9, 10})
    whole = tiny(*BACK, f"run.dir={tmp_path / 'whole'}")
    assert pretrain(whole) == 0
    parts = tiny(*BACK, f"run.dir={tmp_path / 'parts'}")
    plain = PretrainModule.training_step

    def training_step(module, batch, batch_idx):
        if batch_idx in stops:
            signal.raise_signal(signal.SIGTERM)
        return plain(module, batch, batch_idx)

    monkeypatch.setattr(PretrainModule, "training_step", training_step)
    for stops in ([8], [11], []):  # between the low readings, and after the rollback
        code = pretrain(parts)
        assert code == (callbacks.STOPPED_BY_SIGNAL if stops else 0)
    one, two = (read_metrics(Path(c.run.dir)) for c in (whole, parts))
    assert [(r["loss"], r["lr"]) for r in one] == [(r["loss"], r["lr"]) for r in two]


def test_kept_checkpoints_of_another_history_are_forgotten(run_tiny, planned, went_back):
    planned(set())
    run = run_tiny(*BACK, "run.save_every=1")
    assert checkpoints.read(run / "healthy.ckpt")["global_step"] == 13
    planned({5, 6, 7})
    (run / "last.ckpt").unlink()
    run_tiny(*BACK, "run.save_every=1")  # from the start again; its own checkpoint alone may be gone back to
    assert [places[:2] for places in went_back] == [(7, 1)]


def test_a_far_too_high_rate_collapses_and_is_named(run_tiny, caplog):
    """No plan here: the features do collapse."""
    options = ["optim={steps: 40, warmup: 4, lr: 0.2, clip: null}", "watch.every=2", "run.save_every=100"]
    with caplog.at_level(logging.WARNING, "vjepa_lab"):
        rows = read_metrics(run_tiny(*options))
    assert len(said(caplog)) >= 1
    assert "Likely cause: the learning rate (now 0." in said(caplog)[0]
    assert rows[-1]["context_rank"] < 4 < rows[0]["context_rank"]


def test_a_skipped_step_is_not_read(run_tiny, monkeypatch):
    seen = []
    plain, step_of = collapse.read, PretrainModule.training_step
    monkeypatch.setattr(collapse, "read", lambda module, step: seen.append(step) or plain(module, step))

    def training_step(module, batch, batch_idx):
        loss = step_of(module, batch, batch_idx)
        return loss * math.nan if batch_idx == 2 else loss

    monkeypatch.setattr(PretrainModule, "training_step", training_step)
    with pytest.warns(UserWarning, match="not finite"):
        run_tiny(*EAGER)
    assert seen == [1, 2, 4, 5, 6]
