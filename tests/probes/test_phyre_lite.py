"""The probe of PHYRE-like tasks: an oracle is optimal, a blind order is random, and energies are what they say."""

import pytest
import torch

from vjepa_lab.data.streams import Look, Stream
from vjepa_lab.features import FrozenEncoder
from vjepa_lab.jepa import normalise
from vjepa_lab.nn.encoder import Encoder
from vjepa_lab.nn.predictor import Predictor
from vjepa_lab.probes.phyre_lite import PhyreLite, Tasks, energies, nearness, ranked

TASKS = {"name": "phyre_lite", "split": "val", "templates": ["hit", "ledge"], "tasks": 2, "actions": 40, "goals": 3}
PROBE = PhyreLite(source=TASKS | {"step": 0.35}, batch=20)
LOOK = Look(frames=8, crop=24)


def encoder(predictor=True):
    torch.manual_seed(0)
    network = Encoder(width=24, depth=1, heads=2, patch=8)
    guess = Predictor(encoder_width=24, width=24, depth=1, heads=2) if predictor else None
    return FrozenEncoder(encoder=network, predictor=guess, frames=8, crop=24)


def streams(probe=PROBE, **fields):
    return {name: Stream(demand, LOOK, batch=probe.batch, **fields) for name, demand in probe.demands().items()}


def planted(n=400, tasks=20, share=0.1):
    g = torch.Generator().manual_seed(1)
    task = torch.arange(tasks).repeat_interleave(n // tasks)
    solved = torch.rand(n, generator=g) < share
    return Tasks(task, task % 2, solved, torch.rand(n, 3, generator=g)), g


def test_a_simulator_as_world_model_is_optimal():
    tasks, _ = planted()
    found = dict(ranked(tasks, tasks.solved.float()[:, None].expand(-1, 3), ["a", "b"]))
    assert found["auccess"] == found["optimal/auccess"]
    assert found["success@1"].value == pytest.approx(found["auccess"].value)
    assert found["auccess"].value == len(tasks.task[tasks.solved].unique()) / 20
    assert found["auccess"].units == 20
    solvable = tasks.solved | (torch.arange(400) % 20 == 0)
    perfect = dict(ranked(tasks._replace(solved=solvable), solvable.float()[:, None].expand(-1, 3), ["a", "b"]))
    assert perfect["auccess"].value == perfect["a/auccess"].value == perfect["b/auccess"].value == 1


def test_an_order_that_knows_nothing_is_worth_the_closed_form():
    tasks, g = planted(6_000, 150)
    found = dict(ranked(tasks, torch.rand(6_000, 3, generator=g), ["a", "b"]))
    for name in ("auccess", "success@1", "success@10"):
        for prefix in ("", "seen/", "held/", "near/"):
            assert found[f"{prefix}{name}"].value == pytest.approx(found[f"random/{name}"].value, abs=0.08), prefix
    assert found["auccess"].low < found["random/auccess"].value < found["auccess"].high


def test_the_worst_order_is_worth_less_than_a_random_one():
    tasks, _ = planted()
    found = dict(ranked(tasks, -tasks.solved.float()[:, None].expand(-1, 3), ["a", "b"]))
    assert found["auccess"].value < found["random/auccess"].value - 0.15


def test_actions_are_near_to_what_solved_other_tasks_of_their_template():
    action = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0.9, 0, 0], [5, 0, 0], [0.1, 0, 0]])
    tasks = Tasks(
        torch.tensor([0, 0, 2, 2, 1]), torch.tensor([0, 0, 0, 0, 1]), torch.tensor([True, 0, 1, 0, 1]) > 0, action
    )
    # of task 0: the only solver of another task of template 0 is at 0.9; its own and template 1 do not count
    torch.testing.assert_close(nearness(tasks, torch.tensor([0, 1])), torch.tensor([-0.9, -0.1]))
    assert nearness(tasks, torch.tensor([4])).tolist() == [0], "no other task of template 1"


def test_energies_are_mean_differences_to_the_ends_of_solved_tasks():
    frozen = encoder()
    batch = next(iter(streams()["actions"]))
    clip = batch.clip[:3]
    centre = torch.randn(4, 9, 24, generator=torch.Generator().manual_seed(0))
    found = energies(frozen, clip, centre, context=2)
    assert found.shape == (3, 3, 4)
    end = normalise(frozen.tokens(clip).tokens[:, -9:])
    guess = frozen.future(clip[:, :, :2], seconds=4, fps=1).predicted  # tubelets 1 and 2 are skipped, the last is 3
    held = normalise(frozen.tokens(clip[:, :, :2]).tokens)
    for place, way in enumerate((normalise(guess), end, held)):
        plain = torch.stack([(way - c).abs().mean((1, 2)) for c in centre], 1)
        torch.testing.assert_close(found[:, place], plain, atol=1e-5, rtol=1e-4)


def test_a_run_ranks_the_actions_of_every_task():
    read = streams()
    found = dict(PROBE.run(encoder(), read))
    assert {"hit/auccess", "ledge/auccess", "seen/success@10", "held/auccess", "near/auccess"} <= set(found)
    assert found["auccess"].units == 4
    assert found["hit/auccess"].units == 2
    assert found["optimal/auccess"].value == 1
    assert 0 < found["random/auccess"].value < 1


def test_encoders_without_a_predictor_and_wrong_fields_are_refused():
    assert "without a predictor" in str(PROBE.refusal(encoder(predictor=False)))
    assert PROBE.refusal(encoder()) is None
    with pytest.raises(ValueError, match=r"probe phyre_lite: .*without a predictor"):
        list(PROBE.run(encoder(predictor=False), streams()))
    with pytest.raises(
        ValueError, match=r"probe phyre_lite: context: got 3 frames, expected a multiple of the tubelet"
    ):
        PhyreLite(context=3).span(encoder())
    with pytest.raises(ValueError, match="source: got role: goals, expected none"):
        PhyreLite(source={"name": "phyre_lite", "role": "goals"})
    other = PhyreLite(source={"name": "phyre_lite"})
    goals = Stream(other.demands()["goals"]._replace(source={"name": "synthetic"}, count=4), LOOK, batch=4)
    with pytest.raises(ValueError, match="probe phyre_lite: source synthetic tells no task of its clips"):
        list(other.run(encoder(), {"goals": goals, "actions": goals}))
