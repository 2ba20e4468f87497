"""A run writes what it promises, starts where the ladder says, and refuses what does not fit."""

import json
from pathlib import Path

import pytest
import torch

from vjepa_lab.config import PretrainConfig
from vjepa_lab.merge import load
from vjepa_lab.train import checkpoints
from vjepa_lab.train.folder import read_metrics
from vjepa_lab.train.run import _start, pretrain
from vjepa_lab.validate import validate

MOTION = "probes=[{name: motion, every: 3, fit_clips: 24, select_clips: 8, test_clips: 10, batch: 8, cells: 2}]"


def losses(run):
    return {int(r["step"]): r["loss"] for r in read_metrics(run) if "loss" in r}


def test_the_folder_of_a_run_holds_everything(run_tiny, capsys):
    run = run_tiny(MOTION)
    files = {p.name for p in run.iterdir()}
    assert {"config.yaml", "run.jsonl", "metrics.csv", "last.ckpt", "summary.png"} <= files
    assert load(PretrainConfig, [run / "config.yaml"]).run.dir == str(run)
    provenance = json.loads((run / "run.jsonl").read_text().splitlines()[0])
    assert provenance["packages"]["torch"] == torch.__version__.split("+")[0]
    assert provenance["argv"]
    rows = read_metrics(run)
    assert {"loss", "lr", "clips/s", "tokens/s", "mfu", "data_stall", "grad_norm", "target_std"} <= set(rows[1])
    probed = [r for r in rows if "motion/velocity" in r]
    assert [r["step"] for r in probed] == [0, 3, 6]
    assert all(r["motion/velocity_untrained"] == probed[0]["motion/velocity"] for r in probed)
    assert (run / "summary.png").read_bytes().startswith(b"\x89PNG")


def test_two_identical_runs_have_identical_losses(tmp_path, run_tiny):
    one = losses(run_tiny(f"run.dir={tmp_path / 'a'}"))
    assert one == losses(run_tiny(f"run.dir={tmp_path / 'b'}"))
    assert one != losses(run_tiny(f"run.dir={tmp_path / 'c'}", "run.seed=1"))
    assert one != losses(run_tiny(f"run.dir={tmp_path / 'd'}", "masks=[{name: tube, ratio: 0.5}]"))


def test_a_probe_does_not_change_the_losses(tmp_path, run_tiny):
    assert losses(run_tiny(f"run.dir={tmp_path / 'a'}")) == losses(run_tiny(f"run.dir={tmp_path / 'b'}", MOTION))


def test_accumulated_micro_batches_are_one_step(run_tiny):
    run = run_tiny("trainer.accumulate=3", "data.batch=2")
    assert list(losses(run)) == [1, 2, 3, 4, 5, 6]
    assert read_metrics(run)[-1]["samples"] == 36


def test_a_run_stopped_early_continues_to_more_steps(tmp_path, run_tiny):
    whole = losses(run_tiny(f"run.dir={tmp_path / 'whole'}", "optim.steps=9", "ema.end=0.9"))
    run_tiny(f"run.dir={tmp_path / 'part'}", "optim.steps=5", "ema.end=0.9")
    assert losses(run_tiny(f"run.dir={tmp_path / 'part'}", "optim.steps=9", "ema.end=0.9")) == whole


@pytest.mark.parametrize(("before", "after"), [(4, 1), (1, 4)])
def test_a_run_goes_on_with_another_number_of_micro_batches(run_tiny, before, after):
    split = lambda n: (f"trainer.accumulate={n}", f"data.batch={4 // n}")  # noqa: E731
    run_tiny(*split(before), "optim.steps=3")
    run = run_tiny(*split(after), "optim.steps=9")
    rows = read_metrics(run)
    assert [r["step"] for r in rows] == list(range(1, 10))
    assert [r["samples"] for r in rows] == [4 * s for s in range(1, 10)]


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_with_a_clean_sheet(run_tiny):
    run = run_tiny(MOTION)
    (run / "last.ckpt").unlink()
    run_tiny(MOTION)
    assert [r["step"] for r in read_metrics(run) if "motion/mean" in r] == [0, 3, 6]


def test_a_requeued_job_goes_on_from_its_own_checkpoint(tmp_path, run_tiny, tiny, monkeypatch):
    first = run_tiny(f"run.dir={tmp_path / 'a'}", "run.keep_every=2")
    again = [f"run.dir={tmp_path / 'b'}", f"run.resume={first / 'step-0000002.ckpt'}"]
    run_tiny(*again, "optim.steps=4")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    for resume in (again[1], "run.resume=never"):
        validate(tiny(again[0], resume))
        assert _start(tiny(again[0], resume), tmp_path / "b").step == 4


NEWER = (
    "encoder.family=vjepa2.1",
    "encoder.depth=4",
    "encoder.interpolate=true",
    "predictor.levels=4",
    "images.sources=[{name: synthetic}]",
    "images.batch=3",
    "images.crop=24",
    "loss.context_start=1",
    "loss.context_end=3",
)


def test_clips_and_images_train_a_newer_model_and_resume_exactly(tmp_path, run_tiny):
    whole = run_tiny(*NEWER, f"run.dir={tmp_path / 'whole'}", "run.keep_every=2")
    rows = read_metrics(whole)
    terms = {"loss/target", "loss/context", "loss/level0", "loss/level3", "image/loss/target", "image/target_std"}
    assert terms <= set(rows[0])
    ramp = [(r["loss"] - (r["loss/target"] + r["image/loss/target"]) / 2) for r in rows]
    context = [(r["loss/context"] + r["image/loss/context"]) / 2 for r in rows]
    weights = [a / b for a, b in zip(ramp, context, strict=True)]
    assert weights == pytest.approx([0.0, 0.0, 0.25, 0.5, 0.5, 0.5], abs=1e-6)
    part = run_tiny(*NEWER, f"run.dir={tmp_path / 'part'}", f"run.resume={whole / 'step-0000002.ckpt'}")
    assert losses(part) == {s: v for s, v in losses(whole).items() if s > 2}


def test_a_newer_model_trains_without_images(run_tiny):
    run = run_tiny(*NEWER, "images.sources=[]", "predictor.levels=1")
    assert "image/loss/target" not in read_metrics(run)[0]
    assert len(losses(run)) == 6


def test_kept_checkpoints_stay_as_they_were(run_tiny):
    run = run_tiny("run.keep_every=2")
    kept = sorted(p.name for p in run.glob("step-*.ckpt"))
    assert kept == ["step-0000002.ckpt", "step-0000004.ckpt", "step-0000006.ckpt"]
    assert [checkpoints.read(run / name)["global_step"] for name in kept] == [2, 4, 6]


def test_resuming_from_a_path_goes_on_from_its_step(tmp_path, run_tiny):
    whole = run_tiny(f"run.dir={tmp_path / 'a'}", "run.keep_every=2")
    other = run_tiny(f"run.dir={tmp_path / 'b'}", f"run.resume={whole / 'step-0000002.ckpt'}")
    assert losses(other) == {s: v for s, v in losses(whole).items() if s > 2}


def test_checkpoints_open_without_running_code_and_hold_plain_values(run_tiny):
    run = run_tiny(MOTION)
    checkpoint = torch.load(run / "last.ckpt", weights_only=True)
    assert checkpoint["config"]["encoder"]["width"] == 48
    assert not list(run.glob("*.part"))


@pytest.mark.parametrize("load_what", ["weights", "weights+optimizer"])
def test_a_cooldown_starts_from_the_weights_at_step_zero(tmp_path, run_tiny, load_what):
    first = run_tiny(f"run.dir={tmp_path / 'main'}")
    before = checkpoints.read(first / "last.ckpt")
    second = run_tiny(
        f"run.dir={tmp_path / 'cooldown'}",
        f"init.checkpoint={first / 'last.ckpt'}",
        f"init.load={load_what}",
        "encoder.frames=8",
        "encoder.crop=24",
        "optim.schedule=linear",
        "optim.warmup=0",
        "optim.steps=1",
        "optim.lr=1e-12",
        "optim.min_lr=1e-12",
        "optim.weight_decay=0",
        "ema.start=1",
        "ema.end=1",
    )
    after = checkpoints.read(second / "last.ckpt")
    for name, value in before["state_dict"].items():
        assert torch.allclose(value, after["state_dict"][name], atol=1e-9), name
    steps = {int(s["step"]) for s in after["optimizer_states"][0]["state"].values()}
    assert steps == ({7} if load_what == "weights+optimizer" else {1})
    assert [r["step"] for r in read_metrics(second)] == [1]
    assert not (second / "init.ckpt").exists()


@pytest.mark.parametrize("key", ["run.resume", "init.checkpoint"])
def test_a_checkpoint_of_another_architecture_is_one_clear_error(tmp_path, run_tiny, tiny, key):
    first = run_tiny(f"run.dir={tmp_path / 'main'}")
    with pytest.raises(ValueError, match="do not fit this model") as caught:
        pretrain(tiny(f"run.dir={tmp_path / 'other'}", f"{key}={first / 'last.ckpt'}", "encoder.depth=3"))
    assert "encoder.depth: the file has 2, the configuration 3" in str(caught.value)
    assert ("or give another run.dir" in str(caught.value)) == (key == "run.resume")


@pytest.mark.parametrize(
    ("content", "words"), [(b"", "the file is empty"), (b"x" * 999, "not a checkpoint"), ({"a": 1}, "not weights")]
)
def test_a_file_that_is_no_checkpoint_is_one_clear_error(tmp_path, tiny, content, words):
    path = tmp_path / "wrong.ckpt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(ValueError, match=f"wrong.ckpt: {words}"):
        pretrain(tiny(f"init.checkpoint={path}"))


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("touched"),))


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path, tiny, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {}, "global_step": 0, "x": Evil()}, "evil.ckpt")
    with pytest.raises(ValueError, match=r"evil\.ckpt"):
        pretrain(tiny("init.checkpoint=evil.ckpt"))
    assert not Path("touched").exists()
