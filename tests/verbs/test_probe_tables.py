"""The tables of the paper as configurations: they say what the paper says, and each runs on files of its data set."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import yaml

from vjepa_lab.cli import main

ROOT = Path(__file__).parents[2]
# name -> writer of toy files, frames, step, segments and views of the paper's table 15, batch, epochs, heads
TABLES = {
    "ssv2": ("ssv2", 16, 4, 2, 3, 256, 20, 20),
    "kinetics400": ("kinetics", 16, 4, 8, 3, 256, 20, 20),
    "diving48": ("diving48", 32, 2, 4, 3, 128, 100, 3),
    "jester": ("jester", 32, 2, 4, 3, 128, 100, 3),
    "coin": ("coin", 32, 4, 8, 3, 128, 20, 20),
    "imagenet": ("imagenet", 16, None, 1, 1, 1024, 20, 20),
    "ek100": ("epic_kitchens", 32, None, 1, 1, 128, 20, 20),
}


def entry(table):
    config = yaml.safe_load((ROOT / f"configs/probe/{table}.yaml").read_text())
    (probe,) = config["probes"]
    return probe


@pytest.mark.parametrize("table", TABLES)
def test_the_protocol_is_that_of_the_paper(table):
    probe, want = entry(table), TABLES[table][1:]
    shown = [probe.get(name) for name in ("frames", "stride")] + [probe.get(name, 1) for name in ("segments", "views")]
    heads = len(probe["lrs"]) * len(probe["wds"])
    assert (*shown, probe["batch"], probe["epochs"], heads) == want
    assert (probe["depth"], probe["heads"], probe["crop"], probe["features"]) == (4, 16, 256, "stream")
    assert probe.get("selection", "split") == "split"
    if table == "ek100":
        assert (probe["fps"], probe["seconds"], probe["alpha"], probe["gamma"]) == (8, 1, 0.25, 2)
        assert (probe["anticipation_point"], probe["mask_token"], probe["inputs"]) == ("standard", 0, "both")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    words = [str(ROOT / "tests/train/tiny.yaml"), f"run.dir={folder}", "optim={steps: 1, warmup: 1}"]
    assert main(["pretrain", *words]) == 0
    return folder / "last.ckpt"


@pytest.fixture(scope="module")
def toys():
    spec = importlib.util.spec_from_file_location("toys", ROOT / "tests/data/sources/toys.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["toys"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("table", TABLES)
def test_each_runs_when_made_small_on_files_of_its_data_set(table, toys, checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    source = getattr(toys, f"make_toy_{TABLES[table][0]}")(tmp_path)
    if table == "kinetics400":
        (tmp_path / "classes.txt").write_text("abseiling\ntap dancing\n")
        source["classes"] = str(tmp_path / "classes.txt")
    if table == "coin":  # too few for two splits
        source |= {"split": "", "root": ""}
    if table == "ek100":
        source["actions_of"] = source["path"]
    small = {"source": source, "test": source, "frames": 4, "crop": 16, "batch": 3, "heads": 2, "depth": 2, "epochs": 1}
    small |= {"lrs": [1e-3], "wds": [0.1]}
    if "layers" in entry(table):
        small["layers"] = [0, -1]
    if table == "ek100":  # all actions are of one recording, of which none can be held out
        small["selection"] = "eval"
    words = [f"probes.0.{name}={json.dumps(value)}" for name, value in small.items()]
    rest = [f"out={tmp_path}/out", "workers=0", "precision=fp32", "device=cpu", "progress=false"]
    assert main(["probe", str(checkpoint), f"configs/probe/{table}.yaml", *words, *rest]) == 0
    found = {r["metric"]: r for r in map(json.loads, (tmp_path / "out/results.jsonl").read_text().splitlines())}
    if table == "ek100":
        assert {"verb/recall5_chosen_on_test", "noun/recall5_chosen_on_test"} <= set(found)
        assert found["predicted_tokens"]["value"] > 0
        assert found["action/recall5_chosen_on_test"]["choices"]["anticipation_point"] == "standard"
    else:
        assert 0 <= found["top1"]["value"] <= 1
        assert found["top1"]["units"] == 5
        assert found["top1"]["choices"]["segments"] == TABLES[table][3]
