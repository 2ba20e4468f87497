"""Folders of pictures: one class each, a picture is a clip of its repetitions."""

import numpy as np
import pytest

from vjepa_lab.data.clips import ClipSpec
from vjepa_lab.registry import SOURCES

SPEC = ClipSpec(frames=4, height=32, width=32, fps=4.0, stride=None, random=False)


def opened(fields, **more):
    return SOURCES.build({**fields, **more}).open(SPEC)


def test_pictures_are_labelled_by_their_folder(toys, tmp_path):
    reader = opened(toys.make_toy_imagenet(tmp_path))
    assert reader.classes == ["n01440764", "n02084071"]
    assert reader.table.labels.tolist() == [0, 0, 1, 1, 1]
    clip = reader.read(0, np.random.default_rng(0)).clip
    assert clip.shape == (3, 4, 32, 32)
    assert (clip == clip[:, :1]).all()


def test_a_file_of_classes_fixes_the_numbers_and_leaves_others_out(toys, tmp_path):
    fields = toys.make_toy_imagenet(tmp_path)
    (tmp_path / "classes.txt").write_text("n02084071\n")
    reader = opened(fields, classes=str(tmp_path / "classes.txt"))
    assert reader.table.labels.tolist() == [0, 0, 0]
    (tmp_path / "classes.txt").write_text("n02084071\nn09999999\n")
    with pytest.raises(ValueError, match=r"imagenet: classes: .*classes.txt: 'n09999999' has no folder in"):
        opened(fields, classes=str(tmp_path / "classes.txt"))


def test_a_subset_is_balanced(toys, tmp_path):
    reader = opened(toys.make_toy_imagenet(tmp_path), subset={"per_class": 1})
    assert [reader.path(i).rpartition("/")[2] for i in range(2)] == ["n01440764_11.JPEG", "n02084071_01.JPEG"]


def test_what_is_wrong_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"imagenet: path: got '/none', expected a folder of one folder of pictures"):
        opened({"name": "imagenet", "path": "/none"})
    with pytest.raises(ValueError, match=r"imagenet: path: got .* with no folder in it, expected one per class"):
        opened({"name": "imagenet", "path": str(tmp_path)})
    (tmp_path / "n01").mkdir()
    with pytest.raises(ValueError, match=r"got no videos, expected at least one"):
        opened({"name": "imagenet", "path": str(tmp_path)})
