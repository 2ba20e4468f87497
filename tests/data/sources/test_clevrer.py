"""CLEVRER files are read as they are written, real or toy; what is wrong with one is said; truth fits the frames."""

from __future__ import annotations

import copy
import importlib.util
import json
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from vjepa_lab.batch import Question
from vjepa_lab.data.clips import BadSample, ClipSpec
from vjepa_lab.data.sources._clevrer import Object, questions_of, scene_of
from vjepa_lab.data.sources.clevrer import MOST, Clevrer, impact_ids
from vjepa_lab.data.sources.clevrer_toy import ClevrerToy
from vjepa_lab.registry import SOURCES

SPEC = ClipSpec(frames=16, height=48, width=48, fps=None, stride=None, random=False)
RNG = np.random.default_rng

# One scene in the form of the released files: numbers of objects with a gap, an object that comes late, extra fields.
RECORD: dict[str, Any] = {
    "scene_index": 10004,
    "video_filename": "video_10004.mp4",
    "object_property": [
        {"object_id": 0, "color": "gray", "material": "metal", "shape": "cube"},
        {"object_id": 2, "color": "red", "material": "rubber", "shape": "sphere"},
    ],
    "motion_trajectory": [
        {
            "frame_id": f,
            "objects": [
                {
                    "object_id": k,
                    "location": [f + k, 0.5, 0.2],
                    "orientation": [0.0, 0.0, 0.1],
                    "velocity": [1.0, k, 0.0],
                    "angular_velocity": [0.0, 0.0, f],
                    "inside_camera_view": k == 0,
                }
                for k in ((0,) if f < 3 else (0, 2))
            ],
        }
        for f in range(8)
    ],
    "collision": [
        {"object_ids": [2, 0], "frame_id": 5, "location": [0, 0, 0]},
        {"object_ids": [0, 2], "frame_id": 3, "location": [0, 0, 0]},
    ],
}
ASKED: dict[str, Any] = {
    "scene_index": 10004,
    "video_filename": "video_10004.mp4",
    "questions": [
        {
            "question_id": 0,
            "question": "Is there a red sphere?",
            "question_type": "descriptive",
            "question_subtype": "exist",
            "program": ["objects", "filter_red"],
            "answer": "yes",
        },
        {
            "question_id": 1,
            "question": "What comes next?",
            "question_type": "predictive",
            "program": [],
            "choices": [
                {"choice_id": 0, "choice": "nothing", "program": ["a"], "answer": "wrong"},
                {"choice_id": 1, "choice": "something", "program": [], "answer": "correct"},
            ],
        },
    ],
}


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    path = Path(__file__).parents[3] / "tools" / "make_clevrer_toy.py"
    spec = importlib.util.spec_from_file_location("make_clevrer_toy", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tool: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("toy")
    tool.main([str(out), "--scenes", "4", "--size", "48"])
    return out


def of(folder: Path, **fields: Any) -> Clevrer:
    named = {
        "path": str(folder / "video_train"),
        "annotations": str(folder / "annotation_train"),
        "questions": str(folder / "train.json"),
    }
    return SOURCES.build({"name": "clevrer", **named, **fields})


def test_a_released_annotation_becomes_a_scene() -> None:
    scene = scene_of("a.json", RECORD)
    assert scene.objects == (Object("gray", "metal", "cube"), Object("red", "rubber", "sphere"))
    assert scene.position.shape == (8, 2, 3)
    assert scene.position[4].tolist() == [[4, 0.5, 0.2], [6, 0.5, 0.2]]
    assert scene.velocity[4, 1].tolist() == [1, 2, 0]
    assert scene.position[2, 1].tolist() == [0, 0, 0], "not listed in this frame"
    assert scene.visible[:, 0].all()
    assert not scene.visible[:, 1].any()
    assert scene.collisions == ((3, 0, 1), (5, 0, 1)), "by place, in order of the frames"


def test_released_questions_are_understood() -> None:
    one, two = questions_of("q.json", ASKED)
    assert one == Question(
        "descriptive", "Is there a red sphere?", "yes", subkind="exist", program=("objects", "filter_red")
    )
    assert (two.choices, two.correct, two.programs) == (("nothing", "something"), (False, True), (("a",), ()))


def test_questions_whose_answers_are_withheld_have_none() -> None:
    record = copy.deepcopy(ASKED)
    del record["questions"][0]["answer"]
    for choice in record["questions"][1]["choices"]:
        del choice["answer"]
    one, two = questions_of("q.json", record)
    assert one.answer == ""
    assert two.correct == ()


WRONG = {
    "collision 0: object_id: got 7, expected one of": ("collision", 0, "object_ids", 0, 7),
    "motion_trajectory 1: frame_id: got 4, expected 1": ("motion_trajectory", 1, "frame_id", 4),
    "motion_trajectory 0: velocity: got 'fast', expected list": (
        "motion_trajectory",
        0,
        "objects",
        0,
        "velocity",
        "fast",
    ),
    "object_property 1: color: got 3, expected str": ("object_property", 1, "color", 3),
}


@pytest.mark.parametrize("message", WRONG)
def test_a_wrong_field_is_named_with_its_place(message: str) -> None:
    record = copy.deepcopy(RECORD)
    *path, last, value = WRONG[message]
    inner: Any = record
    for step in path:
        inner = inner[step]
    inner[last] = value
    with pytest.raises(ValueError, match=rf"clevrer: a.json: {message}"):
        scene_of("a.json", record)


def test_answers_that_are_neither_are_refused() -> None:
    record = copy.deepcopy(ASKED)
    record["questions"][1]["choices"][0]["answer"] = "maybe"
    with pytest.raises(ValueError, match=r"q.json: question 1: choices: got answers \['maybe', 'correct'\]"):
        questions_of("q.json", record)


def test_the_toy_on_disk_is_the_toy_in_memory(folder: Path) -> None:
    disk, memory = of(folder).open(SPEC), ClevrerToy().open(SPEC)
    assert len(disk) == 4
    for video in range(4):
        one, two = disk.scene(video), memory.scene(video)
        for a, b in zip(one, two, strict=True):
            assert np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b
        assert disk.questions(video) == memory.questions(video)
        read, made = disk.read(video, RNG(0)), memory.read(video, RNG(0))
        assert set(read.truth) - set(made.truth) == {"spin"}
        assert not read.truth["spin"].any()
        for name, value in made.truth.items():
            assert torch.equal(read.truth[name], value) or name == "radius", name
        assert (read.event, read.label) == pytest.approx((made.event, made.label), abs=1e-3, nan_ok=True)
        error = (read.clip.float() - made.clip.float()).abs()
        assert read.clip.shape == made.clip.shape
        assert error.mean() < 4, "grey levels that the codec loses"


def test_the_solver_answers_every_question_of_the_files(solver: ModuleType, folder: Path) -> None:
    notes = sorted(folder.glob("annotation_train/*/*.json"))
    asked = {r["scene_index"]: r for r in json.loads((folder / "train.json").read_text())}
    count = 0
    for file in notes:
        scene = scene_of(str(file), json.loads(file.read_text()))
        for q in questions_of("train.json", asked[scene.number]):
            if q.kind == "descriptive":
                assert solver.answer(scene, q.text) == q.answer, q
            else:
                assert solver.judge(scene, q.kind, q.text, q.choices) == q.correct, q
            count += 1
    assert count > 30


def test_truth_is_that_of_the_frames_that_are_shown(folder: Path) -> None:
    reader = of(folder).open(SPEC._replace(frames=8, stride=4))
    scene, truth = reader.scene(1), reader.read(1, RNG(0)).truth
    ids = 128 // 2 - 14 + 4 * np.arange(8)  # the middle of the film: up to one frame, whatever the rounding
    near = [np.abs(scene.position[ids + d][:, 0] - truth["position"][:, 0].numpy()).max() for d in (-1, 0, 1)]
    assert min(near) < 1e-6
    shown = ids + (-1, 0, 1)[int(np.argmin(near))]
    count = len(scene.objects)
    assert truth["position"].shape == (8, MOST, 3)
    assert not truth["position"][:, count:].any()
    assert not truth["visible"][:, count:].any()
    assert torch.equal(truth["visible"][:, :count].bool(), torch.from_numpy(scene.visible[shown]))
    expected = [[any(a < f <= b for f, *_ in scene.collisions)] for a, b in pairwise(shown)]
    assert truth["collision"].any(2).any(1)[1:].tolist() == [e[0] for e in expected]
    assert truth["scene"].item() == 1


def test_windows_alternate_between_a_collision_inside_and_none(folder: Path) -> None:
    spec = SPEC._replace(stride=1)
    for source in (of(folder, window="impact"), ClevrerToy(window="impact")):
        reader = source.open(spec)
        assert reader.classes == ["none", "collision"]
        for video in range(4):
            sample = reader.read(video, RNG(video))
            met = torch.triu(sample.truth["collision"], 1).sum((1, 2)).tolist()
            assert sample.label == video % 2 == int(sum(met) > 0)
            assert met[1] == met[-1] == 0
            ids = impact_ids(reader.scene(video), spec, video)
            assert (np.diff(ids) == 1).all()
            assert sample.key.endswith(f"frames {ids[0]}-{ids[-1]}")


def test_frames_are_squeezed_whole_or_left_to_the_loader(folder: Path) -> None:
    wide = SPEC._replace(height=32, width=64)
    assert of(folder).open(wide).read(0, RNG(0)).clip.shape == (3, 16, 32, 64)
    reader = of(folder, fit="crop").open(wide)
    assert reader.augment
    assert reader.read(0, RNG(0)).clip.shape == (3, 16, 48, 48)
    assert not of(folder).open(wide).augment


def test_a_film_without_annotation_is_a_bad_sample_and_without_any_folder_it_has_no_truth(
    folder: Path, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "annotation_00000.json").write_text(next(folder.glob("annotation_train/*/*_00000.json")).read_text())
    reader = of(folder, annotations=str(notes)).open(SPEC)
    reader.read(0, RNG(0))
    with pytest.raises(BadSample, match="there is no annotation of scene 1"):
        reader.read(1, RNG(0))
    assert set(of(folder, annotations="").open(SPEC).read(1, RNG(0)).truth) == {"scene"}


def test_what_is_not_there_is_said(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"clevrer: path: got .*, expected files such as \*_00000.mp4 there"):
        of(folder, path=str(folder / "annotation_train")).open(SPEC)
    with pytest.raises(ValueError, match=r"clevrer: window: got impact .* no annotations"):
        of(folder, window="impact", annotations="").open(SPEC)
    with pytest.raises(ValueError, match=r"has no questions; expected questions: a file such as train\.json"):
        of(folder, questions="").open(SPEC).questions(0)


def test_the_tool_leaves_a_split_that_is_there_alone(tool: ModuleType, folder: Path) -> None:
    with pytest.raises(SystemExit, match=r"train.json exists"):
        tool.main([str(folder)])
