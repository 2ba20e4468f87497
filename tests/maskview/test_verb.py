"""The verb writes what was asked for: a picture, a film, or a page that a browser opens without a complaint."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vjepa_lab import cli

SMALL = ["frames=8", "crop=64", "draws=2"]
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)


def draw(out: Path, *words: str) -> None:
    assert cli.main(["masks", "synthetic", *words, "--out", str(out), *SMALL]) == 0


def test_a_picture_has_a_row_for_the_clip_the_speed_and_each_mask_and_map(tmp_path: Path, caplog) -> None:
    caplog.set_level("INFO")
    heights = []
    for strategies in ("random", "random,tube", "random,motion"):
        draw(tmp_path / "new" / "masks.png", "--strategy", strategies)
        heights.append(Image.open(tmp_path / "new" / "masks.png").height)
    row = heights[1] - heights[0]
    assert heights[2] == heights[0] + 2 * row
    said = caplog.text
    assert "random: context 25%, target 75%, neither 0%; context by tubelet" in said
    assert re.search(r"motion: .*hidden: \d+% of what moves", said)


def test_a_film_has_a_picture_per_frame_and_the_mask_stays_for_a_tubelet(tmp_path: Path) -> None:
    draw(tmp_path / "masks.gif", "--strategy", "motion,random", "fps=5")
    film = Image.open(tmp_path / "masks.gif")
    assert film.n_frames == 8
    assert film.info["duration"] == 200
    assert film.info["loop"] == 0
    frames = []
    for i in range(8):
        film.seek(i)
        frames.append(np.asarray(film.convert("RGB")).astype(int))
    assert len({frame.shape for frame in frames}) == 1
    orange = [(frame[..., 0] - frame[..., 2] > 60).mean() for frame in frames]
    assert min(orange) > 0.05


def page(tmp_path: Path, *words: str) -> str:
    draw(tmp_path / "masks.html", *words)
    return (tmp_path / "masks.html").read_text()


def test_a_page_compares_strategies_and_holds_everything_itself(tmp_path: Path) -> None:
    said = page(tmp_path, "masks=[{name: interaction_blocks, mix: {end: 10}}, {name: tube}]", "step=5", "steps=10")
    assert said.count("<section>") == 2 + 2
    # the clip, its speed and two masks; maps of both; what the first sees as a film and as a map
    assert said.count("<img") == 2 + 2 + 2 + 2
    assert "interaction_blocks, mix.end 10" in said
    assert ">50%<" in said
    assert "<dt>mix.end</dt><dd>10</dd>" in said
    assert not re.search(r'(src|href)="(?!data:)', said)


def test_a_page_of_a_still_clip_says_that_nothing_moves(tmp_path: Path) -> None:
    said = page(tmp_path, "--strategy", "motion", "world.speed=1.0e-9")
    assert "static clip" in said
    assert "nan" not in said


@pytest.mark.skipif(BROWSER is None, reason="no chromium or google-chrome on PATH")
def test_a_browser_opens_the_page_without_a_complaint(tmp_path: Path) -> None:
    page(tmp_path, "--strategy", "interaction_blocks,multiblock")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", "--enable-logging=stderr"]
    command = [str(BROWSER), *flags, f"--user-data-dir={tmp_path / 'profile'}", (tmp_path / "masks.html").as_uri()]
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=environment)
    assert "CONSOLE" not in done.stderr, done.stderr
    assert done.stdout.count("<section>") == 4


def test_the_help_of_a_strategy_explains_its_fields(capsys) -> None:
    assert cli.main(["masks", "--strategy", "interaction_blocks,tube", "--help"]) == 0
    out = capsys.readouterr().out
    assert "fields of interaction_blocks" in out
    assert "  mix.start (0): optimizer steps before which the share is 0" in out
    assert "  ratio (0.75): share of the cells that is hidden" in out
