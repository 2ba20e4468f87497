"""Listings are understood in every form that is in use, and what cannot be understood is named by file and line."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from vjepa_lab.data.clips import BadSample, ClipSpec
from vjepa_lab.data.sources.listing import Listing, ListingReader
from vjepa_lab.registry import SOURCES

SPEC = ClipSpec(frames=4, height=32, width=32, fps=4.0, stride=None)
MANIFEST = (
    "path,label,source,licence,frames,fps\n"
    'clips/a.mp4,wave,"Debian source 0.14.1 (pytorch/vision test/assets, repo BSD-3)",CC BY 4.0: footage,303,30.0\n'
    "images/b.jpg,broken image,Debian source,public domain (US Navy),1,25.0\n"
    "odd/c.mp4,wave,made with ffmpeg,as its source clip,,\n"
)


def rows(text: str, tmp_path: Path, name: str = "list.csv", **fields) -> list[tuple[str, int]]:
    """(path relative to the listing's folder, label) of every row."""
    reader = opened(text, tmp_path, name, **fields)
    return [(str(Path(reader.path(i)).relative_to(tmp_path)), int(reader.table.labels[i])) for i in range(len(reader))]


def opened(text: str, tmp_path: Path, name: str = "list.csv", **fields) -> ListingReader:
    (tmp_path / name).write_text(text)
    return Listing(path=str(tmp_path / name), **fields).open(SPEC)


@pytest.mark.parametrize(
    "text",
    [
        "path,label\na.mp4,3\nb c.mp4,5\n",
        "label,path,extra\n3,a.mp4,x\n5,b c.mp4,\n",
        "a.mp4,3\nb c.mp4,5\n",
        "a.mp4, 3\nb c.mp4, 5\n",
        "a.mp4,3,extra\nb c.mp4,5,more\n",
        "a.mp4 3\nb c.mp4 5\n",
        "a.mp4::3\nb c.mp4::5\n",
        "a.mp4\t3\nb c.mp4\t5\n",
        "path\tlabel\na.mp4\t3\nb c.mp4\t5\n",
        "\ufeffpath,label\r\na.mp4,3\r\n\r\nb c.mp4,5\r\n",
        'a.mp4,3\n"b c.mp4",5',
        '{"path": "a.mp4", "label": 3}\n\n{"path": "b c.mp4", "label": 5, "other": [1]}\n',
    ],
)
def test_all_forms_say_the_same(text, tmp_path):
    assert rows(text, tmp_path) == [("a.mp4", 3), ("b c.mp4", 5)]


def test_paths_with_a_comma_in_a_list_that_spaces_delimit(tmp_path):
    assert rows("a,b.mp4 3\nc,d.mp4 5\n", tmp_path) == [("a,b.mp4", 3), ("c,d.mp4", 5)]


def test_paths_without_extension_are_read_if_labels_are_integers(tmp_path):
    assert rows("videos/xyz 3\nvideos/uvw 5\n", tmp_path) == [("videos/xyz", 3), ("videos/uvw", 5)]


def test_a_list_of_paths_alone_has_no_labels(tmp_path):
    assert rows("a.mp4\nb c.MP4\n", tmp_path) == [("a.mp4", -1), ("b c.MP4", -1)]


def test_quoted_columns_with_commas_are_not_mistaken(tmp_path):
    reader = opened(MANIFEST, tmp_path)
    assert reader.classes == ["broken image", "wave"]
    assert reader.table.labels.tolist() == [1, 0, 1]
    assert reader.path(2) == str(tmp_path / "odd/c.mp4")


def test_names_are_numbered_in_sorted_order_over_all_files(tmp_path):
    (tmp_path / "one.csv").write_text("path,label\na.mp4,wave\nb.mp4,\n")
    (tmp_path / "two.csv").write_text("path,label\nc.mp4,clap\nd.mp4,wave\n")
    reader = Listing(path=[str(tmp_path / "one.csv"), str(tmp_path / "two.csv")]).open(SPEC)
    assert reader.classes == ["clap", "wave"]
    assert reader.table.labels.tolist() == [1, -1, 0, 1]


def test_a_file_of_classes_fixes_the_numbers(tmp_path):
    (tmp_path / "classes.txt").write_text("wave\nrun\nclap\n")
    classes = str(tmp_path / "classes.txt")
    assert rows("a.mp4,clap\nb.mp4,wave\n", tmp_path, classes=classes) == [("a.mp4", 2), ("b.mp4", 0)]
    with pytest.raises(ValueError, match=r"list.csv:2: label: got 'sing', expected one of the 3 classes"):
        rows("a.mp4,clap\nb.mp4,sing\n", tmp_path, classes=classes)


def test_relative_paths_begin_at_the_root_and_absolute_ones_stay(tmp_path):
    reader = opened("a.mp4,1\n/data/b.mp4,2\n", tmp_path, root="/videos")
    assert [reader.path(0), reader.path(1)] == ["/videos/a.mp4", "/data/b.mp4"]


def test_other_column_names_are_mapped(tmp_path):
    columns = {"path": "video", "label": "class", "start": "t0"}
    reader = opened("class,video,t0,end\n2,a.mp4,1.5,4\n", tmp_path, columns=columns)
    assert reader.path(0) == str(tmp_path / "a.mp4")
    assert reader.table.labels.tolist() == [2]
    assert {k: v.tolist() for k, v in reader.table.times.items()} == {"start": [1.5], "end": [4.0]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "got no rows, expected at least one video"),
        ("path,label\n", "got no rows, expected at least one video"),
        ("path,label\na.mp4,1\n,2\n", "list.csv:3: path: got nothing"),
        ("path,label\na.mp4,1\nb.mp4\n", r"list.csv:3: got 1 fields, expected 2 \(path,label\)"),
        ("a.mp4,1\nb.mp4,x\n", "list.csv:2: label: got 'x', expected an integer of at least 0, as in the lines"),
        ("a.mp4,1\nb.mp4,-7\n", "list.csv:2: label: got '-7'"),
        ("path,start\na.mp4,soon\n", "list.csv:2: start: got 'soon', expected seconds"),
        ("video,label\na,wave\n", "expected a header with the column 'path'"),
        ("\x00\x01\x02 not a list\n", "list.csv:1: got .* expected a header"),
        ('{"path": "a.mp4"}\n{"path": \n', "list.csv:2: got a line that is no JSON"),
        ('{"path": "a.mp4"}\n{"label": 3}\n', "list.csv:2: got {\"label\": 3}, expected an object with 'path'"),
    ],
)
def test_what_is_wrong_is_named_by_file_and_line(text, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        opened(text, tmp_path)


def test_a_missing_file_and_bad_fields_are_the_users_mistakes(tmp_path):
    with pytest.raises(ValueError, match=r"path: got '/no/such.csv', expected a CSV or JSONL file; there is none"):
        Listing(path="/no/such.csv").open(SPEC)
    with pytest.raises(ValueError, match="path: got '', expected"):
        Listing().open(SPEC)
    with pytest.raises(ValueError, match="columns: got video, expected some of path, label"):
        opened("a.mp4\n", tmp_path, columns={"video": "path"})
    with pytest.raises(ValueError, match=r"classes: got 'none.txt', expected a file"):
        opened("a.mp4\n", tmp_path, classes="none.txt")


def test_the_registry_builds_it_from_yaml_fields(tmp_path):
    (tmp_path / "a.csv").write_text("a.mp4,1\n")
    one = SOURCES.build({"name": "listing", "path": str(tmp_path / "a.csv"), "weight": 2})
    two = SOURCES.build({"name": "listing", "path": [str(tmp_path / "a.csv")] * 2, "columns": {"label": "class"}})
    assert (one.weight, len(one.open(SPEC)), len(two.open(SPEC))) == (2.0, 1, 2)


def test_a_sample_has_its_clip_label_and_event(film, tmp_path):
    film("a.mp4", frames=48, fps=8)
    text = json.dumps({"path": "a.mp4", "label": 7, "start": 2.0, "end": 4.0, "event": 3.0})
    sample = opened(text, tmp_path).read(0, np.random.default_rng(0))
    assert sample.clip.shape == (3, 4, 32, 64)
    shown = film.numbers(sample.clip.permute(1, 2, 3, 0).numpy())
    assert 16 <= shown[0] <= shown[-1] < 32
    assert np.diff(shown).tolist() == [2, 2, 2]
    assert sample.event == pytest.approx(3.0 - shown[0] / 8)
    assert sample.label == 7
    assert sample.key == f"{tmp_path / 'a.mp4'} frames {shown[0]}-{shown[-1]}"


def test_several_clips_per_video_are_numbered(film, tmp_path):
    film("a.mp4", frames=48, fps=8)
    (tmp_path / "list.csv").write_text("a.mp4,1\na.mp4,2\n")
    reader = Listing(path=str(tmp_path / "list.csv")).open(SPEC._replace(clips=3, random=False))
    samples = [reader.read(i, np.random.default_rng(0)) for i in range(len(reader))]
    firsts = [film.numbers(s.clip.permute(1, 2, 3, 0).numpy())[0] for s in samples]
    assert firsts[:3] == firsts[3:] == sorted(set(firsts))
    assert [s.label for s in samples] == [1, 1, 1, 2, 2, 2]
    assert reader.key(4) == f"{tmp_path / 'a.mp4'}#1"


def test_a_missing_video_is_a_bad_sample(tmp_path):
    with pytest.raises(BadSample) as error:
        opened("none.mp4,1\n", tmp_path).read(0, np.random.default_rng(0))
    assert error.value.reason == "missing"
    assert error.value.key == str(tmp_path / "none.mp4")


def test_a_reader_pickles_small(tmp_path):
    reader = opened("".join(f"folder/{i:06d}.mp4 {i % 10}\n" for i in range(20_000)), tmp_path)
    data = pickle.dumps(reader)
    assert len(data) < 20_000 * (len(str(tmp_path)) + 40)
    assert pickle.loads(data).path(19_999) == reader.path(19_999)


def test_paths_that_are_no_text_survive(tmp_path):
    (tmp_path / "list.csv").write_bytes(b"path,label\n\xff\xfe.mp4,1\n")
    reader = Listing(path=str(tmp_path / "list.csv")).open(SPEC)
    assert reader.path(0).encode(errors="surrogateescape").endswith(b"\xff\xfe.mp4")
