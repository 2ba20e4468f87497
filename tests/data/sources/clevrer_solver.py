"""Answers questions about a toy scene from its annotation and their words alone: it never sees an answer or a program.

What is not in the annotation (what happens after the film, or without an object) it finds by running the laws of the
world from the first frame of the annotation on.
"""

from __future__ import annotations

import re

import numpy as np

from vjepa_lab.data.physics import simulate
from vjepa_lab.data.sources._clevrer import COLOURS, MATERIALS, SHAPES, Scene
from vjepa_lab.data.sources._clevrer_world import DRAG, FPS, FRAMES, LAST, RADIUS, STILL

THING = re.compile(rf"({'|'.join(COLOURS)}) ({'|'.join(MATERIALS)}) ({'|'.join(SHAPES)})")
Hit = tuple[int, int, int]


def answer(scene: Scene, text: str) -> str:
    """The word that answers a descriptive question."""
    said = _answer(scene, text)
    return {True: "yes", False: "no"}[said] if isinstance(said, bool) else str(said)


def judge(scene: Scene, kind: str, text: str, choices: tuple[str, ...]) -> tuple[bool, ...]:
    """Which choices are right."""
    named = things(scene, text)
    if kind == "predictive":
        true = {hit[1:] for hit in rerun(scene, LAST) if hit[0] >= FRAMES}
        right = [tuple(sorted(things(scene, c))) in true for c in choices]
    elif kind == "counterfactual":
        true = {hit[1:] for hit in rerun(scene, FRAMES, without=named[0])}
        right = [tuple(sorted(things(scene, c))) in true for c in choices]
    else:
        right = [_led_to(scene, c, tuple(sorted(named))) for c in choices]
    opposite = " not " in text
    return tuple(r != opposite for r in right)


def things(scene: Scene, text: str) -> list[int]:
    """The objects that a text names in full, in order."""
    return [scene.objects.index(found) for found in THING.findall(text)]


def rerun(scene: Scene, frames: int, *, without: int | None = None) -> list[Hit]:
    """Collisions of the world from its first frame on."""
    left = [k for k in range(len(scene.objects)) if k != without]
    motion = simulate(
        scene.position[0, left, :2] + 100,  # far from the walls of a room that has some
        scene.velocity[0, left, :2],
        np.ones(len(left)),
        np.full(len(left), RADIUS),
        frames=frames,
        step=1 / FPS,
        width=201.0,
        height=201.0,
        damping=DRAG,
    )
    hits = np.argwhere(motion.collision)
    return [(int(f), left[i], left[j]) for f, i, j in hits if i < j]


def _led_to(scene: Scene, choice: str, event: tuple[int, ...]) -> bool:
    """Does a path of collisions, each after the one before, lead from the choice to the event?"""
    named = things(scene, choice)
    when = next(f for f, i, j in scene.collisions if (i, j) == event)

    def reaches(thing: int, since: int) -> bool:
        if thing in event:
            return True
        later = [hit for hit in scene.collisions if since < hit[0] < when and thing in hit[1:]]
        return any(reaches(hit[1] + hit[2] - thing, hit[0]) for hit in later)

    if "presence" in choice:
        return reaches(named[0], -1)
    pair = tuple(sorted(named))
    times = [f for f, i, j in scene.collisions if (i, j) == pair and f < when]
    return any(reaches(k, f) for f in times for k in pair)


def _answer(scene: Scene, text: str) -> object:
    looks, seen, met = scene.objects, scene.visible, scene.collisions
    words = text.rstrip("?").split()
    moving = np.linalg.norm(scene.velocity, axis=2) > STILL
    first_seen = {k: int(np.flatnonzero(seen[:, k])[0]) for k in range(len(looks))}
    enter = sorted((f, k) for k, f in first_seen.items() if f > 0)
    if text.startswith("Is there a "):
        return any([look.color, look.shape] == words[3:] for look in looks)
    if text.startswith("Does anything collide after"):
        since = first_seen[things(scene, text)[0]]
        return any(f > since for f, _, _ in met)
    if text.startswith("How many"):
        counts = {
            "collisions are there": len(met),
            "objects enter the scene": len(enter),
            "objects leave the scene": sum(not seen[-1, k] for k in range(len(looks))),
            "objects are at rest when the video begins": int((seen[0] & ~moving[0]).sum()),
            "objects are moving when the video ends": int((seen[-1] & moving[-1]).sum()),
        }
        what = " ".join(words[2:])
        if what in counts:
            return counts[what]
        return sum(words[2] in (look.material, f"{look.shape}s") for look in looks)
    which = words[1]
    if "that enters the scene" in text:
        return getattr(looks[enter[0 if "first" in words else -1][1]], which)
    if "collides with" in text:
        thing = things(scene, text)[0]
        return getattr(looks[next(i + j - thing for _, i, j in met if thing in (i, j))], which)
    given = [word for word in words[4:] if word != "object"]
    (found,) = [look for look in looks if all(word in look for word in given)]
    return getattr(found, which)
