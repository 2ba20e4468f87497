"""Something-Something v2: the class is the template, the number that of labels.json; subsets are the lowest ids."""

import json

import numpy as np
import pytest

from vjepa_lab.data.clips import ClipSpec
from vjepa_lab.registry import SOURCES

SPEC = ClipSpec(frames=4, height=32, width=32, fps=4.0, stride=None, random=False)


def opened(fields, **more):
    return SOURCES.build({**fields, **more}).open(SPEC)


def test_classes_are_numbered_by_the_labels_file(toys, tmp_path):
    reader = opened(toys.make_toy_ssv2(tmp_path))
    assert reader.classes == ["Dropping something behind something", "Pushing something from left to right"]
    assert reader.table.labels.tolist() == [1, 0, 1, 0, 1]
    sample = reader.read(3, np.random.default_rng(0))
    assert sample.clip.shape == (3, 4, 32, 32)
    assert sample.label == 0


def test_a_subset_takes_the_lowest_numbers_of_each_class_not_the_first_in_the_file(toys, tmp_path):
    fields = toys.make_toy_ssv2(tmp_path, n=12)
    whole, part = opened(fields), opened(fields, subset={"per_class": 2})
    ids = {0: [], 1: []}
    for row, label in enumerate(whole.table.labels.tolist()):
        ids[label].append(int(whole.path(row).rpartition("/")[2][:-5]))
    assert ids[0] != sorted(ids[0]), "the file is in the order of words"
    kept = {int(part.path(row).rpartition("/")[2][:-5]) for row in range(len(part))}
    assert kept == {*sorted(ids[0])[:2], *sorted(ids[1])[:2]}


def test_a_test_file_has_no_labels(toys, tmp_path):
    reader = opened(toys.make_toy_ssv2(tmp_path), path=str(tmp_path / "test.json"))
    assert reader.table.labels.tolist() == [-1] * 5
    assert reader.classes is None


def write(folder, name, content):
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.json", "{", r"train.json: got text that is no JSON .*, expected a list of {id, template}"),
        ("train.json", {"id": "1"}, r"train.json: got a JSON dict, expected a list of {id, template}"),
        ("train.json", [], r"train.json: got no videos"),
        ("train.json", [{"template": "x"}], r"train.json: record 0: id: got None, expected str or int"),
        ("train.json", [{"id": "1", "template": 3}], r"record 0: template: got 3, expected str"),
        (
            "train.json",
            [{"id": "1", "template": "Eating [x]"}],
            r"record 0: template: got 'Eating \[x\]', which is",
        ),
        ("labels.json", {"a": "0", "b": "2"}, r"labels.json: expected the numbers 0 to 1, each once"),
        ("labels.json", {"a": "x"}, r"labels.json: 'a': got 'x', expected a number"),
    ],
)
def test_what_is_wrong_is_named(toys, tmp_path, name, content, message):
    fields = toys.make_toy_ssv2(tmp_path)
    write(tmp_path, name, content)
    with pytest.raises(ValueError, match="ssv2: .*" + message):
        opened(fields)


def test_missing_files_are_told_with_their_field(toys, tmp_path):
    fields = toys.make_toy_ssv2(tmp_path)
    with pytest.raises(ValueError, match=r"ssv2: root: got '', expected the folder of the .webm files"):
        opened(fields, root="")
    (tmp_path / "labels.json").unlink()
    with pytest.raises(ValueError, match=r"ssv2: labels: got .*labels.json', expected labels.json; there is no such"):
        opened(fields)
