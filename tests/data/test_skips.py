"""Skips are counted per draw and written per file, also over restarts."""

import json

from vjepa_lab.data.skips import Skip, Skips


def test_a_restart_does_not_repeat_lines_and_survives_a_cut_one(tmp_path):
    one, two = Skip("s", "a.mp4", "missing", ""), Skip("s", "b.mp4", "empty", "0 bytes")
    Skips(tmp_path).add([one, one])
    path = tmp_path / "bad_samples.jsonl"
    path.write_text(path.read_text() + '{"source": "s", "ke')
    again = Skips(tmp_path)
    again.add([one, two])
    first, cut, last = path.read_text().splitlines()
    assert json.loads(first)["key"] == "a.mp4"
    assert cut == '{"source": "s", "ke'
    assert json.loads(last)["key"] == "b.mp4"
    assert again.by_reason() == {"missing": 1, "empty": 1}


def test_the_report_names_sources_reasons_and_the_file(tmp_path):
    skips = Skips(tmp_path)
    assert skips.report() == "no bad samples"
    skips.add([Skip("films", "a", "missing", ""), Skip("films", "a", "missing", ""), Skip("films", "b", "timeout", "")])
    assert "3 draws of 2 files" in skips.report()
    assert "films: missing 2, timeout 1" in skips.report()
    assert "bad_samples.jsonl" in skips.report()
