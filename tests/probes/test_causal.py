"""The causal probe: a network that sees beats one that reads, by what there is to see; floors are closed forms."""

import pytest
import torch

from vjepa_lab.batch import Question
from vjepa_lab.data.clips import ClipSpec
from vjepa_lab.data.sources._clevrer import COLOURS, MATERIALS, SHAPES
from vjepa_lab.data.sources._clevrer_questions import facts
from vjepa_lab.data.sources.clevrer_toy import ClevrerToy
from vjepa_lab.data.streams import Look, Stream
from vjepa_lab.features import FrozenEncoder
from vjepa_lab.nn.encoder import Encoder
from vjepa_lab.probes._answers import Said
from vjepa_lab.probes._questions import tabulate, texts_of, vocabulary
from vjepa_lab.probes.causal import Causal, Split

NAMES = ("red", "green", "blue", "gray", "brown")
CPU = torch.device("cpu")
PROBE = Causal(words=16, width=48, epochs=12, lr=2e-2, seeds=1)


def planted(n, seed, *, permuted=False):
    """Videos whose features say which colours are there; half of all colours are. Options name a colour."""
    g = torch.Generator().manual_seed(seed)
    there = torch.rand(n, len(NAMES), generator=g) < 0.5
    asked = []
    for row in there.tolist():
        order = torch.randperm(len(NAMES), generator=g).tolist()
        size = 2 + int(torch.randint(3, (), generator=g))
        options, one = order[:size], order[-1]
        kind = ("explanatory", "predictive", "counterfactual")[size % 3]
        asked.append(
            [
                Question("descriptive", f"Is there {NAMES[one]}?", "yes" if row[one] else "no"),
                Question(
                    kind,
                    "What is there?",
                    choices=tuple(NAMES[o] for o in options),
                    correct=tuple(row[o] for o in options),
                ),
            ]
        )
    x = there.float()[:, None].expand(-1, 2, -1)
    x = x[torch.randperm(n, generator=g)] if permuted else x
    return Split(x, asked, torch.arange(n), "toy")


def splits(**fields):
    sizes = {"fit": 450, "select": 60, "test": 240}
    return {name: planted(n, seed, **fields) for seed, (name, n) in enumerate(sizes.items())}


@pytest.fixture(scope="module")
def seeing():
    return dict(PROBE.judge(splits(), "planted", CPU))


def coin(split):
    return sum(0.5 ** len(q.choices) for _, q in split.questions) / len(split.questions)


def error(estimate):
    return (estimate.high - estimate.low) / 4


def test_what_can_be_seen_is_answered(seeing):
    assert seeing["descriptive"].value > 0.98
    assert seeing["choice/option"].value > 0.98
    assert seeing["choice/question"].value > 0.96
    assert seeing["choice/question"].units == 240


def test_words_alone_are_at_chance_and_the_gain_is_the_rest(seeing):
    assert seeing["words/choice/option"].value == pytest.approx(0.5, abs=0.05)
    assert seeing["words/descriptive"].value == pytest.approx(0.5, abs=0.1)
    test = splits()["test"]
    floor = seeing["words/choice/question"]
    assert floor.value == pytest.approx(coin(test), abs=3 * error(floor))
    assert seeing["gain"].value == pytest.approx(seeing["choice/question"].value - floor.value)
    assert seeing["gain"].low > 0.6


def test_floors_are_closed_forms(seeing):
    test = splits()["test"]
    assert seeing["coin/question"].value == pytest.approx(coin(test))
    none = [not any(q.correct) for _, q in test.questions]
    assert seeing["none/question"].value == pytest.approx(sum(none) / len(none))


def test_videos_of_other_questions_fall_to_the_words_alone(seeing):
    leak = dict(PROBE.judge(splits(permuted=True), "permuted", CPU))
    for name in ("descriptive", "choice/option", "choice/question"):
        floor = seeing[f"words/{name}"]
        assert leak[name].value == pytest.approx(floor.value, abs=2 * (error(floor) + error(leak[name]))), name
    assert abs(leak["gain"].value) < 0.08


def test_right_and_wrong_answers_score_one_and_the_share_without_a_right_option():
    split = planted(60, 3)
    asked = tabulate(split.questions, vocabulary(texts_of(split.questions)), "toy")
    answer = torch.nn.functional.one_hot(asked.answer, 26).float()
    truth = torch.where(asked.correct, 1.0, -1.0)
    right = dict(PROBE._scored("", [Said(answer, truth)], asked, split.unit))
    assert {e.value for e in right.values()} == {1.0}
    wrong = dict(PROBE._scored("", [Said(-answer, -truth)], asked, split.unit))
    assert wrong["choice/option"].value == wrong["choice/question"].value == 0
    never = dict(PROBE._scored("", [Said(answer, -torch.ones_like(truth))], asked, split.unit))
    none = [not any(q.correct) for _, q in split.questions]
    assert never["choice/question"].value == pytest.approx(sum(none) / len(none))


def test_a_coin_scores_its_closed_form():
    split = planted(600, 4)
    asked = tabulate(split.questions, vocabulary(texts_of(split.questions)), "toy")
    g = torch.Generator().manual_seed(0)
    said = [Said(torch.zeros(600, 26), torch.randn(asked.correct.shape, generator=g)) for _ in range(6)]
    found = dict(PROBE._scored("", said, asked, split.unit))
    assert found["choice/option"].value == pytest.approx(0.5, abs=0.02)
    assert found["choice/question"].value == pytest.approx(coin(split), abs=0.02)
    for kind, size in (("explanatory", 3), ("predictive", 4), ("counterfactual", 2)):
        assert found[f"{kind}/question"].value == pytest.approx(0.5**size, abs=0.03), kind


def test_places_without_an_option_count_where_that_is_asked_for():
    split = planted(100, 5)
    asked = tabulate(split.questions, vocabulary(texts_of(split.questions)), "toy")
    truth = torch.where(asked.correct, 1.0, -1.0)
    wild = [Said(torch.zeros(100, 26), torch.where(asked.options >= 0, truth, 1.0))]
    assert dict(PROBE._scored("", wild, asked, split.unit))["choice/option"].value == 1
    padded = dict(Causal(pad_counts=True)._scored("", wild, asked, split.unit))
    full = (asked.options >= 0).all(1).float().mean().item()
    assert padded["choice/option"].value == pytest.approx((asked.options >= 0).float().mean().item())
    assert padded["choice/question"].value == pytest.approx(full)


SMALL = Causal(fit_clips=20, test_clips=8, words=4, width=8, epochs=1, seeds=1)


def encoder():
    torch.manual_seed(0)
    return FrozenEncoder(encoder=Encoder(width=24, depth=1, heads=2, patch=8), frames=4, crop=16)


def streams(probe, **fields):
    return {n: Stream(d, Look(frames=4, crop=16), batch=4, **fields) for n, d in probe.demands().items()}


def test_a_shuffled_stream_asks_about_other_videos_and_words_are_trained_once():
    straight, shuffled = streams(SMALL), streams(SMALL, shuffled=True)
    one, two = (SMALL._split(encoder(), s["fit"]) for s in (straight, shuffled))
    assert torch.equal(one.x, two.x)
    assert sorted(map(hash, one.questions)) == sorted(map(hash, two.questions))
    assert sum(a != b for a, b in zip(one.questions, two.questions, strict=True)) > 10
    reader = straight["fit"].reader
    assert one.questions == [reader.questions(int(v)) for v in straight["fit"].rows]
    first = dict(SMALL.run(encoder(), straight))
    assert len(SMALL._floors) == 1
    again = dict(SMALL.run(encoder(), straight))
    assert len(SMALL._floors) == 1
    assert {k: e.value for k, e in first.items()} == {k: e.value for k, e in again.items()}


def test_sources_without_questions_and_fields_out_of_range_are_refused():
    probe = Causal(source={"name": "synthetic"}, test={}, fit_clips=8, test_clips=4)
    with pytest.raises(
        ValueError, match=r"probe causal: source synthetic knows no questions; expected \{name: clevrer\}"
    ):
        list(probe.run(encoder(), streams(probe)))
    with pytest.raises(
        ValueError, match=r"probe causal: words: got 0, expected at least 1; lr: got 0, expected above 0"
    ):
        Causal(words=0, lr=0)


def informed(reader, first, n):
    """Toy scenes whose features tell which looks are there, and how many things do what."""
    rows = []
    for video in range(first, first + n):
        scene = reader.scene(video)
        looks = [(COLOURS.index(o.color), MATERIALS.index(o.material), SHAPES.index(o.shape)) for o in scene.objects]
        x = torch.zeros(56)
        for colour, material, shape in looks:
            x[[3 * colour + shape, 24 + 2 * colour + material, 40 + 3 * material + shape]] = 1
            x[[46 + material, 48 + shape]] += 1
        found = facts(scene.visible, scene.velocity)
        counted = [scene.collisions, found.enters, found.leaves, found.begins_still, found.ends_moving]
        x[51:] = torch.tensor([len(things) for things in counted])
        rows.append(x.expand(2, -1))
    return Split(torch.stack(rows), [reader.questions(first + i) for i in range(n)], torch.arange(n), "toy")


@pytest.mark.slow
def test_on_the_toy_world_facts_beat_words_and_facts_of_other_scenes_do_not():
    spec = ClipSpec(frames=16, height=32, width=32, fps=None, stride=None)
    train, val = (ClevrerToy(split=split).open(spec) for split in ("train", "val"))
    probe = Causal(words=32, width=64, epochs=15, seeds=2)
    seen = {"fit": informed(train, 0, 500), "select": informed(train, 500, 60), "test": informed(val, 0, 300)}
    found = dict(probe.judge(seen, "toy", CPU))
    assert found["gain_descriptive"].value > 0.04
    assert found["gain_descriptive"].low > 0.02
    order = {name: torch.randperm(len(s.x), generator=torch.Generator().manual_seed(0)) for name, s in seen.items()}
    leak = dict(probe.judge({name: s._replace(x=s.x[order[name]]) for name, s in seen.items()}, "toy", CPU))
    for name in ("descriptive", "choice/option", "choice/question"):
        floor = found[f"words/{name}"]
        assert leak[name].value < floor.value + 2 * (error(floor) ** 2 + error(leak[name]) ** 2) ** 0.5, name
