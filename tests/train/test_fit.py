"""Around the steps of every training: a finished run is left alone, loggers write where they should."""

import pytest


def test_a_finished_run_says_so_and_does_nothing(run_tiny, capsys, caplog):
    run = run_tiny()
    before = (run / "last.ckpt").stat().st_mtime_ns
    with caplog.at_level("INFO"):
        run_tiny()
    assert "is finished" in caplog.text
    assert (run / "last.ckpt").stat().st_mtime_ns == before


def test_wandb_writes_offline_without_an_account(run_tiny, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("NETRC", "/nonexistent")
    run = run_tiny("run.wandb=test", "optim.steps=2")
    assert list((run / "wandb").glob("offline-run-*"))


def test_tensorboard_writes_events_into_the_folder(run_tiny):
    pytest.importorskip("tensorboard")
    run = run_tiny("run.tensorboard=true", "optim.steps=2")
    assert list(run.rglob("events.out.tfevents*"))
