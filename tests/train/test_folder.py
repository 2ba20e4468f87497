"""Rows survive a resume and a kill; an earlier configuration is kept."""

import subprocess

from vjepa_lab.train import folder


def test_rows_up_to_the_step_are_kept_and_later_ones_dropped(tmp_path):
    first = folder.Csv(tmp_path, keep_until=0)
    for step in (1, 2, 3):
        first.log_metrics({"loss": step / 10}, step=step)
    first.log_metrics({"probe": 7.0}, step=3)
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("0.")  # a row cut by a kill
    second = folder.Csv(tmp_path, keep_until=2)
    second.log_metrics({"loss": 0.9, "new": 1.0}, step=3)
    assert folder.read_metrics(tmp_path) == [
        {"loss": 0.1, "step": 1},
        {"loss": 0.2, "step": 2},
        {"loss": 0.9, "new": 1.0, "step": 3},
    ]


def test_a_changed_configuration_does_not_overwrite_the_earlier_one(tiny):
    run = folder.open_run(tiny())
    folder.open_run(tiny())
    folder.open_run(tiny("optim.lr=0.5"))
    assert sorted(p.name for p in run.glob("config*.yaml")) == ["config.1.yaml", "config.yaml"]
    assert "lr: 0.5" in (run / "config.yaml").read_text()
    assert len((run / "run.jsonl").read_text().splitlines()) == 3


def test_the_commit_is_of_this_project_or_none(tmp_path, monkeypatch):
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "of another project"], check=True)
    module = tmp_path / "folder.py"
    module.touch()
    monkeypatch.setattr(folder, "__file__", str(module))
    assert folder._commit() is None
    subprocess.run([*git, "add", "folder.py"], check=True)
    assert len(folder._commit().removesuffix("-dirty")) == 40
