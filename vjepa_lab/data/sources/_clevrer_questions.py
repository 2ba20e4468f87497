"""Questions about a scene of the toy world, with answers from its simulation: the four kinds of CLEVRER.

- descriptive: what there is and what happens in the film; one word answers, one of ``ANSWERS``.
- explanatory: what is responsible for a collision: of things and of collisions, those from which a chain of collisions
  leads to one of the two that collide.
- predictive: which things collide in the ``AFTER`` seconds after the film.
- counterfactual: which things would collide in the film without one of them; the world is run again without it.

Every option is right or wrong by a coin as long as the scene has both; a question ends where one kind runs out, and one
with options of one kind alone is not asked. So the words of an option tell little about it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vjepa_lab.batch import Question
from vjepa_lab.data.sources._clevrer import COLOURS, MATERIALS, SHAPES, Object
from vjepa_lab.data.sources._clevrer_world import FRAMES, STILL, World, collisions, run

ANSWERS = (*SHAPES, *COLOURS, *MATERIALS, "yes", "no", *map(str, range(11)))
_DESCRIPTIVE = 8
"per scene"
_CHOICES = 4
"options of a question at most"
_NEGATED = 0.3
"share of the questions about causes and what would be that ask for the opposite"

Pair = tuple[int, int]
Choice = tuple[str, tuple[str, ...], bool]
"text, program, whether it is right"


def ask(world: World, rng: np.random.Generator) -> list[Question]:
    """The questions about a scene."""
    asked = _descriptive(world, rng)
    film = world.scene.collisions
    for place in rng.permutation(np.arange(1, len(film)))[:2].tolist():
        asked += _explanatory(world, film[place], rng)
    asked += _predictive(world, rng)
    hit = sorted({k for _, i, j in film for k in (i, j)})
    for k in rng.permutation(hit)[:2].tolist():
        asked += _counterfactual(world, k, rng)
    return asked


def named(look: Object) -> str:
    """A thing in words: no two of a scene have the same."""
    return f"the {look.color} {look.material} {look.shape}"


class Facts(NamedTuple):
    """What the film shows, by object."""

    enters: dict[int, int]
    "first frame in view of those that begin outside, in order"
    leaves: list[int]
    "those that end outside"
    begins_still: list[int]
    ends_moving: list[int]


def facts(visible: NDArray[np.bool_], velocity: NDArray[np.float64]) -> Facts:
    """Facts of a film: visible (F, K), velocity (F, K, axes)."""
    moving = np.linalg.norm(velocity, axis=-1) > STILL
    first = {k: int(visible[:, k].argmax()) for k in np.flatnonzero(~visible[0] & visible.any(0)).tolist()}
    return Facts(
        enters=dict(sorted(first.items(), key=lambda item: item[1])),
        leaves=np.flatnonzero(visible.any(0) & ~visible[-1]).tolist(),
        begins_still=np.flatnonzero(visible[0] & ~moving[0]).tolist(),
        ends_moving=np.flatnonzero(visible[-1] & moving[-1]).tolist(),
    )


def _descriptive(world: World, rng: np.random.Generator) -> list[Question]:
    scene = world.scene
    looks, met = scene.objects, scene.collisions
    found = facts(scene.visible, scene.velocity)
    asked: list[Question] = []

    def put(text: str, answer: object, subkind: str, *program: str) -> None:
        said = {True: "yes", False: "no"}.get(answer, str(answer)) if isinstance(answer, bool) else str(answer)
        asked.append(Question("descriptive", text, said, subkind=subkind, program=program))

    def query(which: str, what: str, look: Object, *program: str) -> None:
        put(f"What {which} is {what}?", getattr(look, which), f"query_{which}", *program, "unique", f"query_{which}")

    colour, shape = looks[int(rng.integers(len(looks)))][::2]
    if rng.random() < 0.5:
        colour, shape = COLOURS[int(rng.integers(8))], SHAPES[int(rng.integers(3))]
    here = any((look.color, look.shape) == (colour, shape) for look in looks)
    put(f"Is there a {colour} {shape}?", here, "exist", "objects", f"filter_{colour}", f"filter_{shape}", "exist")
    material, shape = MATERIALS[int(rng.integers(2))], SHAPES[int(rng.integers(3))]
    made = sum(look.material == material for look in looks)
    put(f"How many {material} objects are there?", made, "count", "objects", f"filter_{material}", "count")
    like = sum(look.shape == shape for look in looks)
    put(f"How many {shape}s are there?", like, "count", "objects", f"filter_{shape}", "count")
    put("How many collisions are there?", len(met), "count", "events", "filter_collision", "count")
    put("How many objects enter the scene?", len(found.enters), "count", "events", "filter_in", "count")
    put("How many objects leave the scene?", len(found.leaves), "count", "events", "filter_out", "count")
    still, moving = len(found.begins_still), len(found.ends_moving)
    put("How many objects are at rest when the video begins?", still, "count", "start", "filter_stationary", "count")
    put("How many objects are moving when the video ends?", moving, "count", "end", "filter_moving", "count")
    entered = list(found.enters.items())
    if entered:
        k, frame = entered[int(rng.integers(len(entered)))]
        after = any(f > frame for f, _, _ in met)
        text = f"Does anything collide after {named(looks[k])} has entered the scene?"
        put(text, after, "exist", "events", f"filter_in_{k}", "filter_after", "filter_collision", "exist")
    if len({f for _, f in entered}) == len(entered) > 1:
        for word, (k, _) in (("first", entered[0]), ("last", entered[-1])):
            which = Object._fields[int(rng.integers(3))]
            query(which, f"the {word} object that enters the scene", looks[k], "events", "filter_in", word)
    for which in Object._fields:
        k = int(rng.integers(len(looks)))
        others = [field for field in Object._fields if field != which]
        if sum(all(getattr(look, o) == getattr(looks[k], o) for o in others) for look in looks) == 1:
            words = [getattr(looks[k], o) for o in others]
            thing = " ".join(words) + (" object" if which == "shape" else "")
            query(which, f"the {thing}", looks[k], "objects", *(f"filter_{word}" for word in words))
    k = int(rng.integers(len(looks)))
    partners = {i + j - k for _, i, j in met if k in (i, j)}
    if len(partners) == 1:
        which = Object._fields[int(rng.integers(3))]
        query(which, f"the object that collides with {named(looks[k])}", looks[partners.pop()], f"partner_{k}")
    return [asked[i] for i in rng.permutation(len(asked))[:_DESCRIPTIVE].tolist()]


def causes(met: Sequence[tuple[int, int, int]], event: tuple[int, int, int]) -> tuple[set[int], set[tuple[int, ...]]]:
    """Things and earlier collisions from which a chain of collisions leads to one of the two of an event.

    Args:
        met: (frame, object, object) in order.
        event: one of them.
    """
    things, chain = {event[1], event[2]}, set()
    for frame, i, j in reversed(list(met)):
        if frame < event[0] and (i in things or j in things):
            things |= {i, j}
            chain.add((frame, i, j))
    return things - {event[1], event[2]}, chain


def _explanatory(world: World, event: tuple[int, int, int], rng: np.random.Generator) -> list[Question]:
    looks, met = world.scene.objects, world.scene.collisions
    things, chain = causes(met, event)
    options: list[Choice] = [
        (f"the presence of {named(look)}", ("object", str(k)), k in things)
        for k, look in enumerate(looks)
        if k not in event[1:]
    ]
    told: dict[Pair, bool] = {}
    for other in met:  # the words do not tell two collisions of the same two apart
        if other[1:] != event[1:]:
            told[other[1:]] = told.get(other[1:], False) or other in chain
    options += [(f"the collision of {_both(looks, pair)}", _event(pair), right) for pair, right in told.items()]
    if sum(other[1:] == event[1:] for other in met) > 1:
        return []  # which of them is meant?
    of = f"responsible for the collision of {_both(looks, event[1:])}"
    program = ("causes", *_event(event[1:]))
    return _chosen("explanatory", lambda no: f"Which of these is {no}{of}?", options, program, rng)


def _predictive(world: World, rng: np.random.Generator) -> list[Question]:
    looks = world.scene.objects
    options = _pairs(looks, {hit[1:] for hit in world.later}, range(len(looks)))
    return _chosen("predictive", lambda _: "What happens next?", options, ("unseen_events",), rng, most=2, negated=0.0)


def _counterfactual(world: World, gone: int, rng: np.random.Generator) -> list[Question]:
    looks = world.scene.objects
    left = [k for k in range(len(looks)) if k != gone]
    motion = run(world.place[0, left], world.scene.velocity[0, left, :2], frames=FRAMES)
    would = {(left[i], left[j]) for _, i, j in collisions(motion)}
    without = f"Without {named(looks[gone])}, which of these would "
    program = ("counterfactual", str(gone))
    return _chosen("counterfactual", lambda no: f"{without}{no}happen?", _pairs(looks, would, left), program, rng)


def _pairs(looks: Sequence[Object], true: set[Pair], among: Sequence[int]) -> list[Choice]:
    return [(f"{_both(looks, p)} collide", _event(p), p in true) for p in combinations(among, 2)]


def _both(looks: Sequence[Object], pair: Sequence[int]) -> str:
    return f"{named(looks[pair[0]])} and {named(looks[pair[1]])}"


def _event(pair: Sequence[int]) -> tuple[str, ...]:
    return "collision", str(pair[0]), str(pair[1])


def _chosen(
    kind: str,
    text: Callable[[str], str],
    options: list[Choice],
    program: tuple[str, ...],
    rng: np.random.Generator,
    *,
    most: int = _CHOICES,
    negated: float = _NEGATED,
) -> list[Question]:
    """A question with some of the options, each right by a coin; none where all are of one kind."""
    opposite = bool(rng.random() < negated)
    by: dict[bool, list[Choice]] = {True: [], False: []}
    for i in rng.permutation(len(options)).tolist():
        by[options[i][2] != opposite].append(options[i])
    if not by[True] or not by[False]:
        return []
    drawn: list[Choice] = []
    for right in (rng.random(most) < 0.5).tolist():
        if not by[right]:
            if len(drawn) > 1:
                break
            right = not right
        words, steps, _ = by[right].pop()
        drawn.append((words, steps, right))
    asked = Question(
        kind,
        text("not " if opposite else ""),
        choices=tuple(words for words, _, _ in drawn),
        correct=tuple(right for _, _, right in drawn),
        program=(*program, "negate") if opposite else program,
        programs=tuple(steps for _, steps, _ in drawn),
    )
    return [asked]
