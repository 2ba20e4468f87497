"""Jester: pictures and WebM give the same frames; classes are numbered by the labels file."""

import numpy as np
import pytest

from vjepa_lab.data.clips import BadSample, ClipSpec
from vjepa_lab.registry import SOURCES

SPEC = ClipSpec(frames=4, height=32, width=32, fps=4.0, stride=None, random=False)


def opened(fields, **more):
    return SOURCES.build({**fields, **more}).open(SPEC)


@pytest.mark.parametrize("webm", [False, True])
def test_a_clip_has_its_frames_and_label_by_the_stated_rate(toys, tmp_path, webm):
    reader = opened(toys.make_toy_jester(tmp_path, webm=webm))
    assert reader.classes == ["Swiping Left", "Drumming Fingers", "No gesture"]
    sample = reader.read(0, np.random.default_rng(0))
    shown = [round(float(f.float().mean()) / 4) for f in sample.clip.unbind(1)]
    assert np.diff(shown).tolist() == [3, 3, 3], "12 pictures per second"
    line = (tmp_path / "jester-v1-train.csv").read_text().splitlines()[0]
    assert reader.classes[sample.label] == line.partition(";")[2]


def test_without_a_labels_file_names_are_sorted(toys, tmp_path):
    fields = toys.make_toy_jester(tmp_path)
    (tmp_path / "jester-v1-labels.csv").unlink()
    classes = opened(fields).classes
    assert classes == sorted(classes)


def test_a_test_file_of_ids_alone_has_no_labels(toys, tmp_path):
    fields = toys.make_toy_jester(tmp_path)
    (tmp_path / "jester-v1-test.csv").write_text("100\n101\n")
    assert opened(fields, path=str(tmp_path / "jester-v1-test.csv")).table.labels.tolist() == [-1, -1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("100;Swiping Left\nvideo;No gesture\n", r"train.csv:2: got 'video;No gesture', expected id;label"),
        ("100;Swiping Up\n", r"train.csv:1: label: got 'Swiping Up', expected one of the 3 classes"),
        ("100;Swiping;Left\n", r"train.csv:1: got '100;Swiping;Left', expected id;label"),
        ("\n", "train.csv: got no videos"),
    ],
)
def test_what_is_wrong_is_named(toys, tmp_path, text, message):
    fields = toys.make_toy_jester(tmp_path)
    (tmp_path / "jester-v1-train.csv").write_text(text)
    with pytest.raises(ValueError, match="jester: .*" + message):
        opened(fields)


def test_a_folder_without_pictures_is_a_bad_sample(toys, tmp_path):
    reader = opened(toys.make_toy_jester(tmp_path))
    for picture in (tmp_path / "videos" / "101").iterdir():
        picture.unlink()
    with pytest.raises(BadSample, match=r"no_video: the folder holds no numbered picture"):
        reader.read(1, np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"jester: rate: got 0.0, expected"):
        opened(toys.make_toy_jester(tmp_path), rate=0)
