"""The verb gives the number of the callback, beside controls, with a record that says what it is of."""

import csv
import json

import pytest

from vjepa_lab.cli import main
from vjepa_lab.probes.motion import Motion
from vjepa_lab.report import Section, prose
from vjepa_lab.train.folder import read_metrics

PROBE = "{name: motion, fit_clips: 24, select_clips: 8, test_clips: 10, batch: 8, cells: 2, every: 3}"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    assert main(["pretrain", "tests/train/tiny.yaml", f"run.dir={folder}", f"probes=[{PROBE}]"]) == 0
    return folder


@pytest.fixture
def probe(run, tmp_path):
    def call(*words):
        assert (
            main(["probe", f"{run}/last.ckpt", f"probes=[{PROBE}]", f"out={tmp_path}", "progress=false", *words]) == 0
        )
        return [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]

    return call


def test_the_verb_gives_the_number_of_the_callback(run, probe):
    measured = {f"motion/{r['metric']}": r["value"] for r in probe("controls=[untrained]")}
    last = read_metrics(run)[-1]
    assert measured == pytest.approx({k: last[k] for k in measured}, abs=1e-6)
    assert set(measured) == {"motion/position", "motion/velocity", "motion/energy", "motion/mean"}


def test_a_record_says_what_it_is_of(run, probe, tmp_path):
    records = probe()
    for r in records:
        assert set(r["controls"]) == {"untrained", "pixels", "constant", "shuffled"}
        assert (r["units"], r["unit"], r["seeds"]) == (10, "video", [0])
        assert r["split"]["test"] == {"hash": r["split"]["test"]["hash"], "videos": 10, "skipped": 0}
        assert len({part["hash"] for part in r["split"].values()}) == 3
        assert len(r["weights"]) == 64
        assert r["choices"]["cells"] == 2
        assert r["choices"]["crop"] == 16
        constant = r["controls"]["constant"]["value"]
        assert -0.5 < constant <= 1e-9  # the mean of the fitted clips is no better than that of the test
    assert [r["controls"]["pixels"]["value"] for r in records] != [r["controls"]["constant"]["value"] for r in records]
    rows = list(csv.DictReader((tmp_path / "results.csv").open()))
    assert float(rows[0]["value"]) == records[0]["value"]
    assert float(rows[0]["shuffled"]) == records[0]["controls"]["shuffled"]["value"]


def test_a_second_call_encodes_nothing_again(probe, monkeypatch):
    first = probe("controls=[]")
    monkeypatch.setattr("vjepa_lab.features.FrozenEncoder.layers", None)
    assert probe("controls=[]") == first


def test_a_baseline_is_measured_on_the_same_clips(run, probe):
    records = probe("controls=[]", f"baselines={{twin: {run}/last.ckpt}}")
    assert all(r["baselines"]["twin"]["value"] == r["value"] for r in records)


def test_the_page_holds_every_metric(probe, tmp_path):
    probe(f"report={tmp_path}/page.html")
    page = (tmp_path / "page.html").read_text()
    assert all(word in page for word in ("position", "velocity", "untrained", "shuffled", "Features"))


def test_the_page_shows_the_pictures_that_a_probe_has_of_its_own(probe, tmp_path, monkeypatch):
    seen = []

    def run(self, encoder, streams, measure=Motion.run):
        seen.append(encoder)
        return measure(self, encoder, streams)

    def sections(self):
        return [Section("Own picture", prose(f"of encoder {len(seen)}"))]

    monkeypatch.setattr(Motion, "run", run)
    monkeypatch.setattr(Motion, "sections", sections, raising=False)
    probe("controls=[untrained]", f"report={tmp_path}/page.html")
    page = (tmp_path / "page.html").read_text()
    assert len(seen) == 2
    assert page.count("of encoder 1") == 1  # of the encoder, not of its controls
    assert "of encoder 2" not in page
    assert all(word in page for word in ("Own picture", "Features"))


def test_files_that_cannot_be_read_are_listed_and_the_rest_is_measured(run, tmp_path, capsys):
    words = ["probe", f"{run}/last.ckpt", f"probes=[{PROBE}]", f"out={tmp_path}", "probes.0.source=1"]
    assert main(words) == 2
    assert "probes" in capsys.readouterr().err


def test_controls_that_a_probe_refuses_are_left_out(run, probe):
    surprise = "{name: surprise, films: 40, film: 6, window: 4, batch: 10}"
    records = probe(f"probes=[{surprise}]")
    assert all(set(r["controls"]) == {"untrained", "shuffled"} for r in records)
    assert {"relative_accuracy", "held/auroc"} <= {r["metric"] for r in records}


def test_an_encoder_that_a_probe_refuses_is_an_error_before_anything_is_measured(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("vjepa_lab.probes.surprise.Surprise.refusal", lambda self, encoder: "has no words")
    words = [f"{run}/last.ckpt", f"probes=[{PROBE}, {{name: surprise}}]", f"out={tmp_path / 'out'}", "progress=false"]
    assert main(["probe", *words]) != 0
    assert f"probe surprise: {run}/last.ckpt: has no words" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
