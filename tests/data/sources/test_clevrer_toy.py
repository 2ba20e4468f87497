"""The toy CLEVRER: scenes with events, and questions whose answers a solver finds and nobody guesses."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from vjepa_lab.data.clips import ClipSpec
from vjepa_lab.data.sources._clevrer import COLOURS, MATERIALS, SHAPES
from vjepa_lab.data.sources._clevrer_questions import ANSWERS, causes, facts
from vjepa_lab.data.sources._clevrer_world import FRAMES, RADIUS, collisions, run
from vjepa_lab.data.sources.clevrer_toy import ClevrerToy, ClevrerToyReader

SPEC = ClipSpec(frames=16, height=32, width=32, fps=None, stride=None, random=False)
SCENES = range(80)


@pytest.fixture(scope="module")
def reader() -> ClevrerToyReader:
    return ClevrerToy().open(SPEC)


@pytest.fixture(scope="module")
def asked(reader):
    return {video: reader.questions(video) for video in SCENES}


def test_the_index_alone_decides_scene_questions_and_pictures(reader, asked) -> None:
    again = ClevrerToy().open(SPEC)
    one, two = reader.read(3, np.random.default_rng(0)), again.read(3, np.random.default_rng(1))
    assert torch.equal(one.clip, two.clip)
    assert asked[3] == again.questions(3)
    other = ClevrerToy(split="val").open(SPEC)
    assert not np.array_equal(reader.scene(3).position, other.scene(3).position)


def test_scenes_hold_what_they_promise(reader) -> None:
    entering = 0
    for video in SCENES:
        world = reader.world(video)
        scene = world.scene
        assert len(set(scene.objects)) == len(scene.objects)
        assert 3 <= len(scene.objects) <= 5
        assert scene.visible.any(0).all()
        assert len(scene.collisions) >= 2
        frames = [f for f, _, _ in (*scene.collisions, *world.later)]
        assert len(set(frames)) == len(frames)
        assert all(scene.visible[f, i] and scene.visible[f, j] for f, i, j in scene.collisions)
        assert world.later or video % 2 == 0 or len(scene.objects) == 3
        gap = np.linalg.norm(scene.position[:, :, None] - scene.position[:, None], axis=-1)
        assert (gap + 9 * np.eye(len(scene.objects)) >= 2 * RADIUS - 1e-9).all()
        entering += len(facts(scene.visible, scene.velocity).enters)
    assert entering > len(SCENES), "on average more than one in each scene"


def test_the_solver_is_right_about_everything(solver, reader, asked) -> None:
    kinds: Counter[str] = Counter()
    for video in SCENES:
        scene = reader.scene(video)
        for q in asked[video]:
            kinds[q.kind] += 1
            if q.kind == "descriptive":
                assert solver.answer(scene, q.text) == q.answer, (video, q)
                assert q.answer in ANSWERS
            else:
                assert solver.judge(scene, q.kind, q.text, q.choices) == q.correct, (video, q)
    assert min(kinds.values()) >= 25
    assert set(kinds) == {"descriptive", "explanatory", "predictive", "counterfactual"}


def test_the_solver_does_not_answer_from_the_words(solver, reader, asked) -> None:
    """With the annotation of another scene it is wrong more often than not."""
    right = total = 0
    for video in SCENES:
        scene = reader.scene((video + 1) % len(SCENES))
        for q in (q for q in asked[video] if q.kind == "descriptive" and q.subkind == "count"):
            right += solver.answer(scene, q.text) == q.answer
            total += 1
    assert right / total < 0.6


def test_options_are_right_about_as_often_as_wrong(asked) -> None:
    for kind, low, high in (("explanatory", 0.4, 0.65), ("predictive", 0.3, 0.6), ("counterfactual", 0.3, 0.6)):
        said = [c for qs in asked.values() for q in qs if q.kind == kind for c in q.correct]
        assert low < np.mean(said) < high, kind
    negated = [" not " in q.text for qs in asked.values() for q in qs if q.kind in ("explanatory", "counterfactual")]
    assert 0.2 < np.mean(negated) < 0.4


def test_there_are_26_answers() -> None:
    assert len(set(ANSWERS)) == len(SHAPES) + len(COLOURS) + len(MATERIALS) + 2 + 11 == 26


def test_causes_go_back_along_chains_of_collisions_and_no_further() -> None:
    met = [(5, 0, 1), (9, 3, 4), (12, 1, 2), (20, 2, 3), (30, 0, 4)]
    assert causes(met, (20, 2, 3)) == ({0, 1, 4}, {(5, 0, 1), (9, 3, 4), (12, 1, 2)})
    assert causes(met, (12, 1, 2)) == ({0}, {(5, 0, 1)})
    assert causes(met, (5, 0, 1)) == (set(), set())
    # 3 collides with 4 after 4 has left the chain
    assert causes([(5, 0, 1), (8, 1, 2), (9, 3, 0)], (8, 1, 2)) == ({0}, {(5, 0, 1)})


def test_the_world_without_an_object_is_run_again(reader) -> None:
    for video in range(20):
        world = reader.world(video)
        scene = world.scene
        for gone in {k for hit in scene.collisions[:1] for k in hit[1:]}:
            left = [k for k in range(len(scene.objects)) if k != gone]
            met = collisions(run(world.place[0, left], scene.velocity[0, left, :2], frames=FRAMES))
            real = [hit for hit in scene.collisions if gone not in hit[1:]]
            before = [hit for hit in scene.collisions if hit[0] < min(h[0] for h in scene.collisions if gone in h[1:])]
            assert [(f, left[i], left[j]) for f, i, j in met][: len(before)] == before
            assert len(real) <= len(scene.collisions) - 1


def test_pictures_show_things_where_they_are_in_their_colours(reader) -> None:
    side = 96
    for video in range(6):
        scene = reader.scene(video)
        frames = reader.frames(video, np.array([0, 64]), side).astype(int)
        for f, frame in enumerate((0, 64)):
            for k, look in enumerate(scene.objects):
                x, y = scene.position[frame, k, :2]
                if not (0.1 < x < 0.9 and 0.1 < y < 0.9):
                    continue
                i, j = int(y * side), int(x * side)
                red, green, blue = frames[:, f, i - 2 : i + 3, j - 2 : j + 3].mean((1, 2))
                if look.color in ("red", "green", "blue"):
                    levels = {"red": red, "green": green, "blue": blue}
                    assert max(levels, key=levels.__getitem__) == look.color


def test_fields_out_of_range_and_clips_that_are_no_square_are_refused() -> None:
    with pytest.raises(ValueError, match=r"clevrer_toy.*size: got -1.*least and most: got 2 and 9, expected 3 to 8"):
        ClevrerToy(size=-1, least=2, most=9)
    with pytest.raises(ValueError, match=r"clevrer_toy.*got clips of 32 x 64, expected a square"):
        ClevrerToy().open(SPEC._replace(width=64))
    with pytest.raises(ValueError, match="clevrer_toy: window: got impact with 1 clips of 3 frames"):
        ClevrerToy(window="impact").open(SPEC._replace(frames=3))
