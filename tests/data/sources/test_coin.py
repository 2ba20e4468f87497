"""COIN: tasks are numbered over the whole file, and a video is shown whole or where it is annotated."""

import json

import numpy as np
import pytest

from vjepa_lab.data.clips import ClipSpec
from vjepa_lab.registry import SOURCES

SPEC = ClipSpec(frames=2, height=32, width=32, fps=None, stride=None, random=False)


def opened(fields, **more):
    return SOURCES.build({**fields, **more}).open(SPEC)


@pytest.mark.parametrize("by_recipe", [False, True])
def test_splits_agree_on_the_numbers_of_the_tasks(toys, tmp_path, by_recipe):
    fields = toys.make_toy_coin(tmp_path, by_recipe=by_recipe)
    train, test = opened(fields, split="training"), opened(fields, split="testing")
    database = json.loads((tmp_path / "COIN.json").read_text())["database"]
    assert (len(train), len(test)) == (4, 1)
    assert train.classes == test.classes == sorted({r["class"] for r in database.values()})
    assert test.classes[test.read(0, np.random.default_rng(0)).label] == database["-v004"]["class"]


def test_the_annotated_part_is_shown_where_it_is_asked_for(toys, tmp_path):
    fields = toys.make_toy_coin(tmp_path)

    def shown(part):
        clip = opened(fields, part=part).read(0, np.random.default_rng(0)).clip
        return [round(float(f.float().mean()) / 4) for f in clip.unbind(1)]

    assert shown("whole") == [6, 18]
    assert shown("annotated") == [11, 17], "of frames 8 to 19"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class": None}, "-v000: class: got None, expected str"),
        ({"subset": 1}, "-v000: subset: got 1, expected str"),
        ({"end": "late"}, "-v000: end: got 'late', expected int or float"),
        ({"end": 0.5}, "-v000: end: got 0.5 s, expected later than start, 1 s"),
    ],
)
def test_what_is_wrong_is_named(toys, tmp_path, change, message):
    fields = toys.make_toy_coin(tmp_path)
    content = json.loads((tmp_path / "COIN.json").read_text())
    content["database"]["-v000"].update(change)
    (tmp_path / "COIN.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="coin: .*COIN.json: " + message):
        opened(fields, part="annotated")


def test_a_split_that_is_not_there_and_a_file_without_a_database_are_told(toys, tmp_path):
    fields = toys.make_toy_coin(tmp_path)
    with pytest.raises(ValueError, match=r"coin: .*COIN.json: split: got 'train', expected one of: testing, training"):
        opened(fields, split="train")
    (tmp_path / "COIN.json").write_text("{}")
    with pytest.raises(ValueError, match=r"COIN.json: database: got None, expected dict"):
        opened(fields)
