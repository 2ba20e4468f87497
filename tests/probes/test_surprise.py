"""Surprise tells the impossible from the possible when the predictor knows the world, and nothing when it does not.

The oracle is the dot of the published protocol: a point on a line that moves at a constant speed, vanishes, appears or
jumps, seen by predictors that are known.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from vjepa_lab.batch import Grid
from vjepa_lab.data.clips import ClipSpec
from vjepa_lab.data.streams import Look, Stream
from vjepa_lab.features import FrozenEncoder
from vjepa_lab.nn.encoder import Encoder
from vjepa_lab.nn.predictor import Predictor
from vjepa_lab.probes import Refuses
from vjepa_lab.probes._choice import partners
from vjepa_lab.probes._controls import control
from vjepa_lab.probes._surprise import Films, average_precision, figures, halves, of_film, relative
from vjepa_lab.probes.surprise import Surprise, surprises
from vjepa_lab.registry import SOURCES
from vjepa_lab.tokens import Features, Future

LINE, FRAMES, WINDOW = 64, 24, 16
CONTEXTS = [2, 4, 6, 8, 10]


def dot(place, there):
    """A line with a dot at ``place`` (F,), in the frames where it is ``there``: (F, LINE)."""
    return np.where(there[:, None], np.arange(LINE) == place[:, None], False).astype(float)


def world(kind, pairs=300, seed=0):
    """Films (2 pairs, F, LINE), the possible one of each pair first."""
    rng = np.random.default_rng(seed)
    films = []
    for _ in range(pairs):
        speed, event = int(rng.integers(1, 3)), int(rng.integers(11, 14))
        start = int(rng.integers(0, LINE - 20 - speed * FRAMES)) if speed == 1 else 0
        time, always = np.arange(FRAMES), np.ones(FRAMES, dtype=bool)
        path, never = start + speed * time, np.zeros(FRAMES, dtype=bool)
        if kind == "teleport":
            jump = int(rng.integers(8, 15))
            films += [dot(path, always), dot(np.where(time < event, path, (path + jump) % LINE), always)]
        elif kind == "vanish":
            films += [dot(path, always), dot(path, time < event)]
        else:
            films += [dot(path, never), dot(path, time >= event)]
    return np.stack(films)


def constant_velocity(seen, ahead):
    """The dot goes on as it went between the last two frames: (n, C, LINE) -> guess of the next (n, ahead, LINE)."""
    now, before = seen[:, -1].argmax(1), seen[:, -2].argmax(1)
    at = (now[:, None] + (now - before)[:, None] * np.arange(1, ahead + 1)) % LINE
    return np.eye(LINE)[at] * seen[:, -1].any(1)[:, None, None]


PREDICTORS = {
    "constant velocity": constant_velocity,
    "copy last": lambda seen, ahead: np.repeat(seen[:, -1:], ahead, 1),
    "zeros": lambda seen, ahead: np.zeros((len(seen), ahead, LINE)),
    "random": lambda seen, ahead: np.random.default_rng(seen.shape[1]).random((len(seen), ahead, LINE)),
}


def scored(films, predictor):
    """Surprise of every window with every context, (n, W, C)."""
    out = []
    for start in range(0, FRAMES - WINDOW + 1, 2):
        for context in CONTEXTS:
            guess = PREDICTORS[predictor](films[:, start : start + context], WINDOW - context)
            out.append(np.abs(guess - films[:, start + context : start + WINDOW]).mean((1, 2)))
    return torch.from_numpy(np.stack(out, 1)).unflatten(1, (-1, len(CONTEXTS)))


def paired(films):
    return partners(films.pair, films.possible)


def films_of(score, kind=None):
    n = torch.arange(len(score))
    return Films(score, n // 2, n % 2 == 0, torch.zeros_like(n) if kind is None else kind, n // 2)


@pytest.fixture(scope="module")
def dots():
    return {kind: world(kind) for kind in ("teleport", "vanish", "appear")}


@pytest.mark.parametrize("how", ["mean", "max"])
def test_who_knows_the_law_is_always_right(dots, how):
    for kind in dots:
        score = scored(dots[kind], "constant velocity")
        films = films_of(score)
        assert (relative(of_film(films.score, how)[:, 2], paired(films)) == 1).all(), kind


@pytest.mark.parametrize("predictor", ["copy last", "zeros"])
def test_degenerate_predictors_tie_on_a_jump_and_are_fooled_by_an_absence(dots, predictor):
    got = {
        kind: relative(of_film(scored(x, predictor), "mean")[:, 1], paired(films_of(scored(x, predictor))))
        for kind, x in dots.items()
    }
    assert (got["teleport"] == 0.5).double().mean() > 0.9
    assert got["vanish"].mean() == 0  # what is missing cannot be mispredicted
    assert got["appear"].mean() == 1
    assert 0.45 <= torch.cat(list(got.values())).mean() <= 0.55


def test_a_guess_at_random_is_near_chance(dots):
    """As published: .55 and .44, one standard error of 300 pairs is .029."""
    for kind in ("teleport", "vanish"):
        score = of_film(scored(dots[kind], "random"), "mean")[:, 1:2]
        assert relative(score, paired(films_of(score[:, None]))).mean().item() == pytest.approx(0.5, abs=0.09)


def test_a_strict_comparison_would_give_the_indifferent_nothing(dots):
    score = of_film(scored(dots["teleport"], "zeros"), "mean")
    assert (score[0::2] < score[1::2]).double().mean() < 0.05
    assert relative(score, paired(films_of(score[:, None]))).mean().item() == pytest.approx(0.5, abs=0.03)


def test_rounding_makes_no_winner():
    score = torch.tensor([[1.0], [1.0 + 1e-9]], dtype=torch.float64)
    assert relative(score, paired(films_of(score[:, None]))).item() == 0.5


def planted(scenes=80, seed=0):
    """Two properties, three contexts: only context 1 helps the first property, only context 2 the second."""
    g = torch.Generator().manual_seed(seed)
    n = torch.arange(4 * scenes)
    kind, possible = n // 4 % 2, n % 2 == 0
    score = torch.rand(len(n), 2, 3, generator=g, dtype=torch.float64)
    for k in (0, 1):
        score[(kind == k) & ~possible, :, k + 1] += 0.9
    return Films(score, n // 2, possible, kind, n // 4)


def test_the_context_of_each_property_is_chosen_on_the_other_half():
    films = planted()
    got = dict(figures(films, [2, 4, 6], ["first", "second"]))
    assert got["first/relative_accuracy"].value > 0.9
    assert got["second/relative_accuracy"].value > 0.9
    assert got["relative_accuracy"].units == 40
    assert got["context/2/relative_accuracy"].value == pytest.approx(0.5, abs=0.1)
    assert got["context/4/relative_accuracy"].value == pytest.approx(0.75, abs=0.1)
    assert got["context/4/relative_accuracy"].units == 80
    dev = halves(films, 0)
    assert dev.sum() == 160
    assert not torch.isin(films.scene[dev], films.scene[~dev]).any()


def test_choosing_on_what_is_reported_flatters_and_the_default_does_not():
    """Noise alone, many contexts, few pairs: the published choice is above chance, ours is not."""
    ours, published = [], []
    for seed in range(6):
        g = torch.Generator().manual_seed(seed)
        n = torch.arange(160)
        noise = Films(torch.rand(160, 1, 10, generator=g).double(), n // 2, n % 2 == 0, n // 4 % 4, n // 4)
        got = dict(figures(noise, list(range(10)), list("abcd"), seed=seed))
        ours.append(got["relative_accuracy"].value)
        published.append(got["as_published/relative_accuracy"].value)
    assert np.mean(ours) == pytest.approx(0.5, abs=0.08)
    assert np.mean(published) > 0.6


def test_single_films_are_judged_by_a_threshold_of_the_other_half():
    got = dict(figures(planted(scenes=400), [2, 4, 6], ["first", "second"]))
    assert got["context"].value in (4, 6)
    assert 0.6 < got["auroc"].value < 0.9  # half of the properties are seen
    assert got["absolute_accuracy"].value <= got["absolute_accuracy_best"].value
    assert got["absolute_accuracy"].value > 0.6


def test_average_precision_is_that_of_the_definition():
    score = torch.tensor([0.9, 0.8, 0.8, 0.3, 0.1])
    positive = torch.tensor([True, False, True, True, False])
    assert average_precision(score, positive) == pytest.approx((1 / 1 + 2 / 3 + 3 / 4) / 3)
    assert average_precision(torch.ones(10), torch.arange(10) < 3) == pytest.approx(0.3)


def test_one_scene_leaves_nothing_to_report_on():
    films = films_of(torch.rand(2, 1, 1, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(ValueError, match="got 1 scenes, expected at least two of a property"):
        halves(films, 0)


class Seer(nn.Module):
    """Knows all possible films of a source: guesses what follows a beginning, and nothing where none begins so."""

    tubelet, width, frames, crop, depth, dtype = 2, 48, 8, 16, 1, torch.float32

    def __init__(self, reader, films):
        super().__init__()
        self.predictor = SimpleNamespace(levels=1, predictor_proj=nn.Linear(1, 48))
        self.known = {}
        for i in range(films):
            sample = reader.read(i)
            if sample.truth["possible"]:
                for start in range(0, sample.clip.shape[1] - 7, 2):
                    for stop in (2, 4):
                        window = sample.clip[:, start : start + 8]
                        self.known[window[:, :stop].numpy().tobytes()] = window[:, stop:]

    def tokens(self, clip):
        small = nn.functional.adaptive_avg_pool2d(clip.float().flatten(0, 1), 4)
        small = small.unflatten(0, clip.shape[:2]).unflatten(2, (-1, 2)).mean(3)  # (B, 3, t, 4, 4)
        return Features(small.permute(0, 2, 1, 3, 4).flatten(2), Grid(small.shape[2], 1, 1))

    def future(self, clip, *, seconds, fps, tubelets):
        assert seconds == 0
        seen = self.tokens(clip).tokens
        guess = torch.zeros(len(clip), tubelets, 48)
        for i, c in enumerate(clip):
            rest = self.known.get(c.contiguous().numpy().tobytes())
            if rest is not None:
                guess[i] = nn.functional.layer_norm(self.tokens(rest[None]).tokens, (48,))[0]
        return Future(seen, guess, torch.zeros(len(clip), tubelets, dtype=torch.int64))


PROBE = Surprise(films=40, film=12, batch=10, window=8, contexts=[2, 4])
LOOK = Look(frames=8, crop=16)


@pytest.fixture(scope="module")
def seen():
    spec = ClipSpec(frames=12, height=16, width=16, fps=4.0, stride=None, random=False)
    seer = Seer(SOURCES.build({"name": "violation", "split": "val"}).open(spec), 40)
    stream = Stream(PROBE.demands()["test"], LOOK, batch=10)
    return dict(PROBE.run(seer, {"test": stream}))  # type: ignore[arg-type]


def test_an_encoder_that_knows_the_world_is_right_in_all_pairs(seen):
    assert seen["relative_accuracy"].value == seen["max/relative_accuracy"].value == seen["auroc"].value == 1
    assert seen["auprc"].value == 1
    for kind in ("vanish", "teleport", "change", "turn", "solidity"):
        assert seen[f"{kind}/relative_accuracy"].value == 1
    assert seen["relative_accuracy"].units == 5


def test_shuffled_films_are_chance():
    spec = ClipSpec(frames=12, height=16, width=16, fps=4.0, stride=None, random=False)
    seer = Seer(SOURCES.build({"name": "violation", "split": "val"}).open(spec), 160)
    probe = Surprise(films=160, film=12, batch=40, window=8, contexts=[2])
    stream = Stream(probe.demands()["test"], LOOK, batch=40, shuffled=True)
    got = dict(probe.run(seer, {"test": stream}))  # type: ignore[arg-type]
    assert got["context/2/relative_accuracy"].value == pytest.approx(0.5, abs=0.12)


def small(predictor=True, width=24):
    torch.manual_seed(0)
    encoder = Encoder(width=24, depth=1, heads=2, patch=8)
    made = Predictor(encoder_width=24, width=24, depth=1, heads=2, out_width=width) if predictor else None
    return FrozenEncoder(encoder=encoder, predictor=made, frames=8, crop=16)


def test_errors_are_those_of_one_window_and_one_context_at_a_time():
    encoder = small()
    clip = torch.randint(256, (2, 3, 12, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    got = surprises(encoder, clip, window=8, hop=2, contexts=[2, 4], chunk=4)
    assert got.shape == (2, 3, 2, 2)
    norm = nn.functional.layer_norm
    for b in range(2):
        for w, start in enumerate((0, 2, 4)):
            window = clip[b : b + 1, :, start : start + 8]
            truth = norm(encoder.tokens(window).tokens, (24,))
            for c, context in enumerate((2, 4)):
                patches = encoder.encoder.cut(encoder._prepared(window[:, :, :context]))
                read, ids = encoder.encoder(patches), torch.arange(16)[None]
                hidden = 4 * context // 2
                guess = encoder.predictor(read, ids[:, :hidden], ids[:, hidden:], Grid(4, 2, 2))
                assert got[b, w, c, 0].item() == pytest.approx(
                    (guess - truth[:, hidden:]).abs().mean().item(), abs=1e-5
                )
                held = norm(read[:, -4:], (24,)).repeat(1, 4 - context // 2, 1)
                assert got[b, w, c, 1].item() == pytest.approx((held - truth[:, hidden:]).abs().mean().item(), abs=1e-5)


def test_contexts_follow_the_window():
    assert Surprise(window=16).spans(small()) == (16, [2, 4, 6, 8, 10])
    assert Surprise(window=32).spans(small()) == (32, [4, 8, 12, 16, 20])
    assert Surprise().spans(small()) == (8, [2, 4])
    with pytest.raises(ValueError, match="contexts: got 3, expected multiples of 2 frames below the window's 8"):
        Surprise(contexts=[2, 3]).spans(small())
    with pytest.raises(ValueError, match="window: got 7 frames, expected a multiple"):
        Surprise(window=7).spans(small())


def test_an_encoder_that_cannot_be_surprised_is_refused():
    probe = Surprise()
    assert isinstance(probe, Refuses)
    assert probe.refusal(small()) is None
    assert "came without a predictor" in str(probe.refusal(small(predictor=False)))
    assert "width 32, expected 24" in str(probe.refusal(small(width=32)))
    assert "without a predictor" in str(probe.refusal(control("pixels", small())))
    assert probe.refusal(control("untrained", small())) is None
    with pytest.raises(ValueError, match="probe surprise: this encoder came without a predictor"):
        next(probe.run(small(predictor=False), {}))


def test_intphys_folders_are_measured(tmp_path):
    import runpy
    from pathlib import Path

    toys = runpy.run_path(str(Path(__file__).parents[1] / "data/sources/toys.py"))
    source = toys["make_toy_intphys"](tmp_path, n=3)
    probe = Surprise(source=source, films=0, film=12, stride=1, window=8, batch=8)
    got = dict(probe.run(small(), {"test": Stream(probe.demands()["test"], LOOK, batch=8)}))
    assert {"O1/relative_accuracy", "O3/relative_accuracy", "held/auroc"} <= set(got)
    assert got["context/2/relative_accuracy"].units == 6


def test_another_source_is_refused_by_what_it_does_not_tell():
    probe = Surprise(source={"name": "synthetic", "split": "val"}, films=8, film=8)
    with pytest.raises(ValueError, match="source synthetic does not tell the pair of a film; give the probe source"):
        list(probe.run(small(), {"test": Stream(probe.demands()["test"], LOOK, batch=8)}))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hop": 0}, "hop: got 0"),
        ({"films": -1}, "films: got -1"),
        ({"window": 40}, "window: got 40, expected 2 to 32"),
    ],
)
def test_what_cannot_be_asked_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Surprise(**fields)
