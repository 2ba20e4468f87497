"""Diving-48: integer labels, with names where the vocabulary is there."""

import json

import numpy as np
import pytest

from vjepa_lab.data.clips import ClipSpec
from vjepa_lab.registry import SOURCES

SPEC = ClipSpec(frames=4, height=32, width=32, fps=4.0, stride=None, random=False)


def opened(fields, **more):
    return SOURCES.build({**fields, **more}).open(SPEC)


def test_labels_are_those_of_the_file_and_named_by_the_vocabulary(toys, tmp_path):
    fields = toys.make_toy_diving48(tmp_path)
    said = [record["label"] for record in json.loads((tmp_path / "Diving48_V2_train.json").read_text())]
    reader = opened(fields)
    assert reader.table.labels.tolist() == said
    assert reader.classes is not None
    assert reader.classes[1] == "Forward 25som NoTwis PIKE"
    assert reader.read(2, np.random.default_rng(0)).label == said[2]
    (tmp_path / "Diving48_vocab.json").unlink()
    assert opened(fields).classes is None


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"vid_name": "a"}, "record 0: label: got None, expected int"),
        ({"vid_name": "a", "label": "3"}, "record 0: label: got '3', expected int"),
        ({"label": 1}, "record 0: vid_name: got None, expected str"),
        ({"vid_name": "a", "label": 3}, "record 0: label: got 3, expected one of the 3 classes"),
        ("dive", "record 0: vid_name: got 'dive', expected str"),
    ],
)
def test_what_is_wrong_is_named(toys, tmp_path, record, message):
    fields = toys.make_toy_diving48(tmp_path)
    (tmp_path / "Diving48_V2_train.json").write_text(json.dumps([record]))
    with pytest.raises(ValueError, match="diving48: .*Diving48_V2_train.json: " + message):
        opened(fields)
    with pytest.raises(ValueError, match=r"diving48: vocabulary: got 'v.json', expected the JSON list"):
        opened(toys.make_toy_diving48(tmp_path), vocabulary="v.json")
