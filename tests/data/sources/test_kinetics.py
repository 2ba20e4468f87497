"""Kinetics is read however its excerpts lie, and what is wrong with its CSV is named by file, line and column."""

import numpy as np
import pytest

from vjepa_lab.data.clips import BadSample, ClipSpec
from vjepa_lab.registry import SOURCES

SPEC = ClipSpec(frames=4, height=32, width=32, fps=4.0, stride=None, random=False)


def opened(fields, **more):
    return SOURCES.build({**fields, **more}).open(SPEC)


def read(reader, index=0):
    return reader.read(index, np.random.default_rng(0))


@pytest.mark.parametrize("folder", ["", "{split}/", "{label}/", "{word}/", "{split}/{label}/"])
def test_every_layout_of_the_files_is_found(toys, tmp_path, folder):
    reader = opened(toys.make_toy_kinetics(tmp_path, layout=folder + "{name}"))
    samples = [read(reader, i) for i in range(len(reader))]
    assert [s.label for s in samples] == [1, 0, 1, 0, 1]
    assert reader.classes == ["abseiling", "tap dancing"]
    assert samples[0].clip.shape == (3, 4, 32, 32)
    assert reader.name == "kinetics:kinetics.csv"


def test_a_split_has_its_own_rows_and_the_numbers_of_the_whole_file(toys, tmp_path):
    fields = toys.make_toy_kinetics(tmp_path)
    train, val = opened(fields, split="train"), opened(fields, split="val")
    assert (len(train), len(val)) == (4, 1)
    assert val.classes == train.classes == ["abseiling", "tap dancing"]
    assert read(val).label == 1
    with pytest.raises(ValueError, match=r"kinetics.csv: split: got 'valid', expected one of: train, val"):
        opened(fields, split="valid")


def test_a_subset_is_balanced(toys, tmp_path):
    reader = opened(toys.make_toy_kinetics(tmp_path), subset={"per_class": 2})
    assert reader.table.labels.tolist() == [1, 0, 1, 0]
    with pytest.raises(ValueError, match=r"kinetics: subset: got {'each': 2}, expected {per_class: n}"):
        opened(toys.make_toy_kinetics(tmp_path), subset={"each": 2})


def test_another_pattern_of_names_can_be_given(toys, tmp_path):
    reader = opened(toys.make_toy_kinetics(tmp_path, layout="cut/{name}"), files="cut/{id}_{start:06d}_{end:06d}.mp4")
    assert read(reader).clip.shape == (3, 4, 32, 32)
    with pytest.raises(ValueError, match=r"kinetics: files: got '{video}.mp4' \(KeyError\('video'\)\), expected"):
        opened(toys.make_toy_kinetics(tmp_path), files="{video}.mp4")


def test_a_missing_excerpt_is_a_bad_sample_and_a_folder_without_any_is_an_error(toys, tmp_path):
    fields = toys.make_toy_kinetics(tmp_path)
    reader = opened(fields)
    (tmp_path / reader.path(2)).unlink()
    with pytest.raises(BadSample, match=r"missing"):
        read(reader, 2)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"kinetics: root: got .*empty', where none of the first 5 videos lies; tried"):
        opened(fields, root=str(tmp_path / "empty"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label,time_start,time_end\n", r"k.csv: columns: got label, time_start, time_end, expected also youtube_id"),
        ("", r"k.csv: columns: got no header, expected also youtube_id, time_start, time_end"),
        ("youtube_id,time_start,time_end\n", "k.csv: got no videos, expected at least one"),
        (
            "youtube_id,time_start,time_end\na,1\n",
            r"k.csv:2: got 2 fields, expected 3 \(youtube_id,time_start,time_end\)",
        ),
        ("youtube_id,time_start,time_end\na,1,x\n", r"k.csv:2: time_end: got 'x', expected a number"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, message):
    (tmp_path / "k.csv").write_text(text)
    with pytest.raises(ValueError, match="kinetics: .*" + message):
        opened({"name": "kinetics", "path": str(tmp_path / "k.csv")})


def test_a_label_that_the_classes_lack_is_named_by_its_line(toys, tmp_path):
    (tmp_path / "classes.txt").write_text("abseiling\n")
    with pytest.raises(ValueError, match=r"kinetics.csv:2: label: got 'tap dancing', expected one of the 1 classes"):
        opened(toys.make_toy_kinetics(tmp_path), classes=str(tmp_path / "classes.txt"))


def test_a_missing_file_and_a_split_without_a_column_are_told(tmp_path):
    with pytest.raises(ValueError, match=r"kinetics: path: got '/none.csv', expected a CSV file; there is no"):
        opened({"name": "kinetics", "path": "/none.csv"})
    (tmp_path / "k.csv").write_text("youtube_id,time_start,time_end\na,1,2\n")
    with pytest.raises(ValueError, match=r"split: got 'val', but the file has no column split"):
        opened({"name": "kinetics", "path": str(tmp_path / "k.csv"), "split": "val"})
