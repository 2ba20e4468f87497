"""The network that answers: a part of a split is answered as the whole, and the best epoch is kept."""

import torch
from torch.nn import functional as F

from vjepa_lab.batch import Question
from vjepa_lab.probes._answers import Answers, Recipe, _loss, _Part, say, train
from vjepa_lab.probes._questions import tabulate, texts_of, vocabulary

RECIPE = Recipe(words=8, width=16, epochs=3, lr=3e-2, videos=4)


def split(n, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 2, 3, generator=g)
    asked = [
        [
            Question("descriptive", "Is it so?", "yes" if row[0, 0] > 0 else "no"),
            Question(
                "predictive", "What next?", choices=("up", "down")[: 1 + i % 2], correct=(True, False)[: 1 + i % 2]
            ),
            Question("explanatory", "Why?", choices=("it is up", "rain", "rain"), correct=(False, True, False)),
        ][: 1 + i % 3]
        for i, row in enumerate(x)
    ]
    return x, asked


def tables(n=11):
    x, asked = split(n)
    known = vocabulary(texts_of(asked))
    return x, tabulate(asked, known, "toy"), len(known) + 2


def network(size):
    torch.manual_seed(0)
    return Answers(features=3, tubelets=2, vocabulary=size, words=8, width=16)


def plain(net, x, asked):
    """One question at a time, one text at a time."""

    def text(number):
        words = asked.words[number][: asked.length[number]][None]
        return net.read(net.embed(words))[1][0, 0]

    def seen(video):
        return F.relu(net.look((x[video] + net.position).T[None])).mean(2)[0]

    described = [net.describe(torch.cat([seen(v), text(t)])) for v, t in zip(asked.video, asked.text, strict=True)]
    chosen = [
        [net.choose(torch.cat([seen(v), text(q), text(max(o, 0))]))[0] for o in options.tolist()]
        for v, q, options in zip(asked.about, asked.question, asked.options, strict=True)
    ]
    return torch.stack(described), torch.stack([torch.stack(row) for row in chosen])


def test_answers_are_those_of_one_question_at_a_time():
    x, asked, size = tables()
    net = network(size)
    said = say(net, x, asked)
    answer, option = plain(net, x, asked)
    torch.testing.assert_close(said.answer, answer)
    real = asked.options >= 0
    assert not real.all()
    torch.testing.assert_close(said.option[real], option[real])


def test_places_without_an_option_count_for_nothing_unless_asked_for():
    x, asked, size = tables()
    said = say(network(size), x, asked)
    everything = _Part(*(torch.arange(len(v)) for v in (x, asked.video, asked.about)))
    wild = said._replace(option=torch.where(asked.options >= 0, said.option, 50.0))
    assert _loss(wild, asked, everything, False) == _loss(said, asked, everything, False)
    assert _loss(wild, asked, everything, True) > _loss(said, asked, everything, True) + 5


def test_training_depends_on_the_seed_alone_and_leaves_the_random_state():
    x, asked, size = tables()
    both_x, both = {"fit": x, "select": x}, {"fit": asked, "select": asked}
    state = torch.get_rng_state()
    one, two, other = (train(both_x, both, vocabulary=size, seed=s, recipe=RECIPE) for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(say(one, x, asked).answer, say(two, x, asked).answer)
    assert not torch.equal(say(one, x, asked).answer, say(other, x, asked).answer)


def test_the_epoch_that_is_best_on_held_out_videos_is_kept():
    x, asked, size = tables()
    wrong = asked._replace(correct=~asked.correct & (asked.options >= 0), answer=1 - asked.answer % 2)
    data = {"fit": x, "select": x}
    first = train(data, {"fit": asked, "select": wrong}, vocabulary=size, seed=0, recipe=RECIPE._replace(epochs=1))
    longer = train(data, {"fit": asked, "select": wrong}, vocabulary=size, seed=0, recipe=RECIPE._replace(epochs=8))
    trained = train(data, {"fit": asked, "select": asked}, vocabulary=size, seed=0, recipe=RECIPE._replace(epochs=8))
    everything = _Part(*(torch.arange(len(v)) for v in (x, asked.video, asked.about)))
    losses = [_loss(say(net, x, wrong), wrong, everything, False).item() for net in (first, longer, trained)]
    assert losses[1] <= losses[0] < losses[2]
