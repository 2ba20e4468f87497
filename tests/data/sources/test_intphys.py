"""IntPhys: films that begin alike are a pair of a possible and an impossible one."""

import json

import numpy as np
import pytest
import torch

from vjepa_lab.data.clips import BadSample, ClipSpec
from vjepa_lab.data.sources.intphys import paired
from vjepa_lab.registry import SOURCES

SPEC = ClipSpec(frames=4, height=32, width=32, fps=None, stride=2, random=False)


def opened(fields, spec=SPEC, **more):
    return SOURCES.build({**fields, **more}).open(spec)


def test_pairs_share_their_beginning_and_one_of_each_is_possible(toys, tmp_path):
    reader = opened(toys.make_toy_intphys(tmp_path, n=2))
    assert len(reader) == 2 * 2 * 4
    facts = [reader.read(i, np.random.default_rng(0)).truth for i in range(len(reader))]
    assert [int(f["possible"]) for f in facts] == [1, 1, 0, 0] * 4
    assert [int(f["pair"]) for f in facts] == [p for s in range(4) for p in (2 * s, 2 * s + 1, 2 * s + 1, 2 * s)]
    assert [int(f["scene"]) for f in facts] == [s for s in range(4) for _ in range(4)]
    assert [int(f["property"]) for f in facts] == [0] * 8 + [1] * 8
    assert all(value.dtype == torch.int64 for f in facts for value in f.values())
    assert reader.classes == ["O1", "O3"]


def test_a_sample_shows_its_film(toys, tmp_path):
    reader = opened(toys.make_toy_intphys(tmp_path, n=1), SPEC._replace(fps=None, stride=1, frames=12))
    clips = [reader.read(i, np.random.default_rng(0)).clip[0, :, 0, 0].int() for i in range(4)]
    assert torch.equal(clips[0][:7], clips[3][:7])
    assert torch.equal(clips[3][7:], clips[0][7:] + 90)


def test_the_pairing_does_not_depend_on_the_order_of_the_films(toys, tmp_path):
    toys.make_toy_intphys(tmp_path, n=1)
    films = [str(tmp_path / "O1" / "01" / str(i) / "scene") for i in (1, 2, 3, 4)]
    assert paired(films, [True, True, False, False]) == [0, 1, 1, 0]
    assert paired([films[2], films[0], films[3], films[1]], [False, True, False, True]) == [1, 0, 0, 1]


def test_blocks_can_be_chosen(toys, tmp_path):
    fields = toys.make_toy_intphys(tmp_path, n=1)
    reader = opened(fields, blocks=["O3"])
    assert (len(reader), reader.classes) == (4, ["O3"])
    with pytest.raises(ValueError, match=r"intphys: blocks: got 'O2', expected some of those in .*: O1, O3"):
        opened(fields, blocks=["O2"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"header": {}}, r"status.json: header.is_possible: got None, expected true or false"),
        ({"header": {"is_possible": 1}}, r"status.json: header.is_possible: got 1, expected true or false"),
        ({}, r"status.json: header: got None, expected dict"),
        ({"header": {"is_possible": False}}, r"O1/01: got 4 films of which 1 are possible, expected 4 and 2"),
    ],
)
def test_what_is_wrong_is_named(toys, tmp_path, content, message):
    fields = toys.make_toy_intphys(tmp_path, n=1)
    (tmp_path / "O1" / "01" / "1" / "status.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="intphys: .*" + message):
        opened(fields)


def test_a_test_set_without_labels_and_a_film_without_pictures_are_told(toys, tmp_path):
    fields = toys.make_toy_intphys(tmp_path, n=1)
    reader = opened(fields)
    for picture in (tmp_path / "O1" / "01" / "2" / "scene").iterdir():
        picture.unlink()
    with pytest.raises(BadSample, match="no_video"):
        reader.read(0, np.random.default_rng(0))
    (tmp_path / "O1" / "01" / "1" / "status.json").unlink()
    with pytest.raises(ValueError, match=r"expected the film's labels \(the test set has none\)"):
        opened(fields)
