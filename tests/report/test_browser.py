"""A real browser opens a page of everything and has nothing to complain of."""

from __future__ import annotations

import shutil
import subprocess

import pytest
import torch

from vjepa_lab import report
from vjepa_lab.report import Mark, Point, Section, Series, Value

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
FRAMES = torch.randint(0, 256, (3, 4, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def everything() -> str:
    controls = {"untrained": {"value": 0.2, "low": 0.1, "high": 0.3}}
    names = ["mean", *(f"layer{i:02d}/position" for i in range(3)), *(f"corruption/fog/{i}" for i in range(1, 6))]
    records = [{"probe": "p", "metric": m, "value": 0.5, "low": 0.4, "high": 0.6, "controls": controls} for m in names]
    marks = [Mark("a", Value(1.0, 0.9, 1.1), Value(2.0), True), Mark("b", Value(0.5), Value(0.5), kind="rollout")]
    extras = [
        Section("films", report.films(report.PcaFilm(FRAMES, FRAMES, (0.5, 0.3, 0.1)))),
        Section("pictures", report.gallery({"frame": list(FRAMES[0]), "decoded": list(FRAMES[1])})),
        Section("map", report.picture(torch.rand(8, 8, generator=torch.Generator().manual_seed(1)))),
        Section("front", report.scatter(marks, title="front", x="PSNR", y="R²")),
        Section("curve", report.curves([Series("run", [Point(0, 1.0), Point(1, 2.0)])], title="curve")),
        Section("arms", report.arms({"x": {"m": Value(1.0)}})),
    ]
    return report.probe_page(records, checkpoint="<a>", date="1 May", version="9", extras=extras)


def test_a_page_of_everything_is_whole_and_fetches_nothing(read):
    reader = read(everything())
    assert len(reader.of("img")) == 3 + 2 + 1
    assert len([s for s in reader.of("svg") if s.get("role")]) == 4


def opened(page: str, folder) -> tuple[str, str]:
    """What the browser made of a page, and what it said."""
    file = folder / "page.html"
    file.write_text(page, encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", "--enable-logging=stderr"]
    command = [str(BROWSER), *flags, f"--user-data-dir={folder / 'profile'}", file.as_uri()]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={"HOME": str(folder), "PATH": "/usr/bin:/bin"},
    )
    return done.stdout, done.stderr


@pytest.mark.skipif(BROWSER is None, reason="no chromium or google-chrome on PATH")
def test_a_browser_renders_it_without_an_error(tmp_path):
    dom, said = opened(everything(), tmp_path)
    assert "CONSOLE" not in said, said
    assert dom.count("<section>") == 7
    assert dom.count("<svg") >= 4


@pytest.mark.skipif(BROWSER is None, reason="no chromium or google-chrome on PATH")
def test_an_error_would_be_noticed(tmp_path):
    broken = everything().replace("</main>", '<img src="nowhere.png" alt="x"></main>')  # which the policy forbids
    assert "CONSOLE" in opened(broken, tmp_path)[1]
