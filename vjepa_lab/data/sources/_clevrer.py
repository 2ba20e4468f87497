"""Scenes and questions in the JSON layout of CLEVRER: read, and written.

    annotation_00007.json   {"scene_index": 7, "video_filename": "video_00007.mp4",
                             "object_property": [{"object_id", "color", "material", "shape"}, ...],
                             "motion_trajectory": [{"frame_id", "objects": [{"object_id", "location", "orientation",
                                 "velocity", "angular_velocity", "inside_camera_view"}, ...]}, ...],
                             "collision": [{"object_ids": [0, 2], "frame_id": 57, "location"}, ...]}
    train.json              [{"scene_index": 7, "video_filename", "questions": [{"question_id", "question",
                                 "question_type", "question_subtype", "program", "answer" | "choices":
                                 [{"choice_id", "choice", "program", "answer": "correct" | "wrong"}, ...]}, ...]}, ...]

An object that a frame does not list is out of sight there, at 0. Numbers of objects become places in the order in which
``object_property`` lists them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vjepa_lab.batch import Question
from vjepa_lab.data.sources._annotated import field_of

SHAPES = ("cube", "cylinder", "sphere")
COLOURS = ("blue", "brown", "cyan", "gray", "green", "purple", "red", "yellow")
MATERIALS = ("metal", "rubber")
KINDS = ("descriptive", "explanatory", "predictive", "counterfactual")
_VECTORS = ("location", "velocity", "angular_velocity", "orientation")
_SAID = {"correct": True, "wrong": False}


class Object(NamedTuple):
    """How a thing looks."""

    color: str
    material: str
    shape: str


class Scene(NamedTuple):
    """What happens in a video of F frames with K objects, in the units of the annotations."""

    number: int
    objects: tuple[Object, ...]
    position: NDArray[np.float64]
    "(F, K, 3)"
    velocity: NDArray[np.float64]
    "(F, K, 3)"
    spin: NDArray[np.float64]
    "(F, K, 3) angular velocity"
    orientation: NDArray[np.float64]
    "(F, K, 3)"
    visible: NDArray[np.bool_]
    "(F, K) inside the view of the camera"
    collisions: tuple[tuple[int, int, int], ...]
    "(frame, object, object) in order of the frames"


def scene_of(where: str, record: dict[str, Any]) -> Scene:
    """A scene from its annotation.

    Raises:
        ValueError: a field is missing or of another type; the message names ``where`` and the field.
    """
    kind = "clevrer"
    objects, places = [], {}
    for number, listed in enumerate(field_of(kind, where, record, "object_property", list)):
        at = f"{where}: object_property {number}"
        places[field_of(kind, at, listed, "object_id", int)] = number
        objects.append(Object(*(field_of(kind, at, listed, name) for name in Object._fields)))
    frames = field_of(kind, where, record, "motion_trajectory", list)
    if not frames or not objects:
        raise ValueError(f"{kind}: {where}: got {len(frames)} frames of {len(objects)} objects, expected some")
    values = {name: np.zeros((len(frames), len(objects), 3)) for name in _VECTORS}
    visible = np.zeros((len(frames), len(objects)), dtype=bool)
    for number, frame in enumerate(frames):
        at = f"{where}: motion_trajectory {number}"
        if field_of(kind, at, frame, "frame_id", int) != number:
            raise ValueError(f"{kind}: {at}: frame_id: got {frame['frame_id']}, expected {number}")
        for listed in field_of(kind, at, frame, "objects", list):
            k = _place(at, listed, places)
            for name in _VECTORS:
                vector = field_of(kind, at, listed, name, list)
                if len(vector) != 3:
                    raise ValueError(f"{kind}: {at}: {name}: got {len(vector)} numbers, expected 3")
                values[name][number, k] = vector
            visible[number, k] = listed.get("inside_camera_view", True)
    met = []
    for number, hit in enumerate(field_of(kind, where, record, "collision", list)):
        at = f"{where}: collision {number}"
        pair = field_of(kind, at, hit, "object_ids", list)
        if len(pair) != 2:
            raise ValueError(f"{kind}: {at}: object_ids: got {pair}, expected two")
        i, j = sorted(_place(at, {"object_id": one}, places) for one in pair)
        met.append((field_of(kind, at, hit, "frame_id", int), i, j))
    number = field_of(kind, where, record, "scene_index", int)
    return Scene(
        number=number,
        objects=tuple(objects),
        position=values["location"],
        velocity=values["velocity"],
        spin=values["angular_velocity"],
        orientation=values["orientation"],
        visible=visible,
        collisions=tuple(sorted(met)),
    )


def _place(where: str, listed: object, places: dict[int, int]) -> int:
    number = field_of("clevrer", where, listed, "object_id", int)
    if number not in places:
        raise ValueError(f"clevrer: {where}: object_id: got {number}, expected one of {sorted(places)}")
    return places[number]


def scene_record(scene: Scene) -> dict[str, Any]:
    """The annotation of a scene."""
    frames, count = scene.visible.shape
    columns = {
        "location": scene.position.tolist(),
        "orientation": scene.orientation.tolist(),
        "velocity": scene.velocity.tolist(),
        "angular_velocity": scene.spin.tolist(),
        "inside_camera_view": scene.visible.tolist(),
    }
    return {
        "scene_index": scene.number,
        "video_filename": video_name(scene.number),
        "object_property": [{"object_id": k, **look._asdict()} for k, look in enumerate(scene.objects)],
        "motion_trajectory": [
            {
                "frame_id": f,
                "objects": [{"object_id": k, **{n: c[f][k] for n, c in columns.items()}} for k in range(count)],
            }
            for f in range(frames)
        ],
        "collision": [
            {
                "object_ids": [i, j],
                "frame_id": f,
                "location": (scene.position[f, [i, j]].mean(0)).tolist(),
            }
            for f, i, j in scene.collisions
        ],
    }


def video_name(number: int) -> str:
    """Name of the film of a scene."""
    return f"video_{number:05d}.mp4"


def folder_name(what: str, number: int) -> str:
    """Folder of the films (``video``) or annotations (``annotation``) of a thousand scenes."""
    first = number // 1000 * 1000
    return f"{what}_{first:05d}-{first + 1000:05d}"


def questions_of(where: str, record: dict[str, Any]) -> tuple[Question, ...]:
    """The questions about one scene.

    Raises:
        ValueError: a field is missing or of another type.
    """
    return tuple(
        _question(f"{where}: question {number}", asked)
        for number, asked in enumerate(field_of("clevrer", where, record, "questions", list))
    )


def _question(where: str, asked: dict[str, Any]) -> Question:
    kind = field_of("clevrer", where, asked, "question_type")
    if kind not in KINDS:
        raise ValueError(f"clevrer: {where}: question_type: got '{kind}', expected one of {', '.join(KINDS)}")
    text, program = field_of("clevrer", where, asked, "question"), tuple(map(str, asked.get("program", ())))
    if kind == "descriptive":
        answer = str(asked.get("answer", ""))
        return Question(kind, text, answer, subkind=str(asked.get("question_subtype", "")), program=program)
    listed = field_of("clevrer", where, asked, "choices", list)
    said = [choice.get("answer") for choice in listed if isinstance(choice, dict)]
    wrong = [answer for answer in said if answer is not None and answer not in _SAID]
    if wrong or (None in said and any(answer is not None for answer in said)):
        raise ValueError(f"clevrer: {where}: choices: got answers {said}, expected correct or wrong for each, or none")
    return Question(
        kind,
        text,
        choices=tuple(field_of("clevrer", where, choice, "choice") for choice in listed),
        correct=tuple(_SAID[answer] for answer in said if answer is not None),
        program=program,
        programs=tuple(tuple(map(str, choice.get("program", ()))) for choice in listed),
    )


def questions_record(number: int, questions: Sequence[Question]) -> dict[str, Any]:
    """What the question file holds about one scene."""
    asked: list[dict[str, Any]] = []
    for place, q in enumerate(questions):
        one: dict[str, Any] = {"question_id": place, "question": q.text, "question_type": q.kind}
        one |= {"question_subtype": q.subkind} if q.subkind else {}
        one["program"] = list(q.program)
        if q.kind == "descriptive":
            one["answer"] = q.answer
        else:
            one["choices"] = [
                {
                    "choice_id": c,
                    "choice": text,
                    "program": list(program),
                    "answer": "correct" if correct else "wrong",
                }
                for c, (text, program, correct) in enumerate(zip(q.choices, q.programs, q.correct, strict=True))
            ]
        asked.append(one)
    return {"scene_index": number, "video_filename": video_name(number), "questions": asked}
