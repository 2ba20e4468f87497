"""The sweep trains what it says, chooses without looking at the answer, and reads whatever feeds it."""

import math
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from vjepa_lab.probes._heads import Head
from vjepa_lab.probes._sweep import Memory, Plan, Rows, Trial, best, ranked, sweep, within

C, N, D = 4, 64, 32
SMALL = Head("attentive", D, {"label": C}, depth=1, heads=4)


class Pairs:
    """Endless clips of 64 noisy tokens; class c adds +u_c to one of them and -u_c to another: the mean says nothing."""

    sharded = False

    def __init__(self, batches, seed, *, mean=False):
        self.batches, self.seed, self.mean = batches, seed, mean
        self.u = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(0)))[0][:C] * 5

    def __len__(self):
        return self.batches

    def epoch(self, number):
        for i in range(self.batches):
            generator = torch.Generator().manual_seed(self.seed * 10**6 + number * 10**4 + i)
            x = torch.randn(128, N, D, generator=generator) / 2
            label = torch.randint(0, C, (128,), generator=generator)
            places = torch.rand(128, N, generator=generator).argsort(1)
            x[torch.arange(128), places[:, 0]] += self.u[label]
            x[torch.arange(128), places[:, 1]] -= self.u[label]
            yield Rows(x.mean(1) if self.mean else x, {"label": label}, torch.ones(128, dtype=torch.bool))


def toy(n=40, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 5, D, generator=generator)
    label = torch.randint(0, C, (n,), generator=generator)
    return (x + F.one_hot(label, D)[:, None] * 2).to(dtype), {"label": label}


def correct(bank, rows):
    return {"correct": within(bank.scores(rows.x)["label"], rows.y["label"], 1).T}


def accuracy(swept, feed):
    return swept.measure(feed, correct)["correct"].mean(0)


def test_attention_reads_pairs_of_tokens_that_the_mean_cannot():
    plan = Plan(lrs=(3e-3,), wds=(0.01,), seeds=1, epochs=1)
    attentive = accuracy(sweep(SMALL, plan, Pairs(400, 1)), Pairs(8, 2)).item()
    linear = sweep(Head("linear", D, {"label": C}), plan, Pairs(400, 1, mean=True))
    assert attentive >= 0.97
    assert 0.20 <= accuracy(linear, Pairs(8, 2, mean=True)).item() <= 0.30


@pytest.mark.parametrize("depth", [1, 2])
def test_heads_trained_together_are_heads_trained_alone_bit_for_bit(depth):
    plan = Plan(lrs=(1e-2, 1e-3), wds=(0.1, 0.0), seeds=2, epochs=2)
    head, (x, y) = SMALL._replace(depth=depth), toy()
    together = sweep(head, plan, Memory(x, y, batch=16, shuffle=3))
    assert len(together.trials) == 8
    for k in (1, 2):
        trial = together.trials[k]
        alone = sweep(head, plan._replace(lrs=(trial.lr,), wds=(trial.wd,), seeds=1), Memory(x, y, batch=16, shuffle=3))
        for name, weight in alone.bank.weights.items():
            assert torch.equal(weight[0], together.bank.weights[name][k]), name


@pytest.fixture
def in_double():
    """Rounding errors of float32 are as large as some true gradients, and AdamW makes steps of one size of both."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.usefixtures("in_double")
def test_one_head_is_plain_training(depth):
    plan, head, (x, y) = (
        Plan(lrs=(1e-3,), wds=(0.4,), seeds=1, epochs=3),
        SMALL._replace(depth=depth),
        toy(dtype=torch.float64),
    )
    feed = Memory(x, y, batch=16, shuffle=3)
    swept = sweep(head, plan, feed)

    module = head.module()
    first = sweep(head, plan._replace(lrs=(1e-12,), epochs=1), feed)  # as it begins, all but for a hair
    module.load_state_dict(first.bank.of(0))
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3, weight_decay=0.4)
    batches = [rows for epoch in range(3) for rows in feed.epoch(epoch)]
    for step, rows in enumerate(batches):
        optimizer.param_groups[0]["lr"] = 1e-3 * (1 + math.cos(math.pi * step / len(batches))) / 2
        optimizer.zero_grad()
        F.cross_entropy(module(rows.x), rows.y["label"]).backward()
        optimizer.step()
    assert torch.allclose(module(x), swept.bank.scores(x)["label"][0], atol=1e-6)
    assert (swept.bank.scores(x)["label"] - first.bank.scores(x)["label"]).abs().max() > 0.1


def test_a_head_that_diverges_leaves_the_others_as_they_were_and_is_never_chosen():
    plan, (x, y) = Plan(lrs=(1e-3, 1e30), wds=(0.1,), seeds=1, epochs=2), toy()
    feed = Memory(x, y, batch=16)
    swept = sweep(SMALL, plan, feed)
    sound = sweep(SMALL, plan._replace(lrs=(1e-3,)), feed)
    assert torch.equal(swept.bank.scores(x)["label"][0], sound.bank.scores(x)["label"][0])
    assert not torch.isfinite(swept.bank.scores(x)["label"][1]).all()
    assert accuracy(swept, feed)[1] == 0
    trials = [Trial(0, 1e-3, 0.1), Trial(0, 1e30, 0.1)]
    assert best(trials, torch.tensor([0.2, 0.9]), torch.tensor([1.0, torch.nan])) == [0]
    with pytest.raises(ValueError, match="all 2 heads of seed 0 have diverged"):
        best(trials, torch.tensor([0.2, 0.9]), torch.tensor([torch.inf, torch.nan]))


def test_the_best_head_is_one_per_seed_and_ties_go_to_the_lower_loss():
    trials = Plan(lrs=(1e-3, 1e-4), wds=(0.1,), seeds=2).trials()
    value, loss = torch.tensor([0.5, 0.5, 0.3, 0.2]), torch.tensor([1.0, 0.9, 1.0, 0.1])
    assert best(trials, value, loss) == [1, 2]


@pytest.mark.parametrize(("depth", "seeds"), [(1, 2), (2, 1)])
def test_a_race_goes_on_with_the_best_and_does_not_touch_them(depth, seeds):
    plan, head, (x, y) = Plan(seeds=seeds, epochs=5), SMALL._replace(depth=depth), toy(24)
    train, select = Memory(x, y, batch=8, shuffle=3), Memory(*toy(30, seed=1), batch=30)
    asked = []

    def judge(swept):
        found = swept.measure(select, correct)["correct"].mean(0)
        asked.append((len(swept.trials), found))
        return found, torch.zeros(len(found))

    raced = sweep(head, plan, train, race=judge)
    assert [size for size, _ in asked] == [20 * seeds, 5 * seeds, 2 * seeds]  # 15 steps: after 1, 2 and 3
    assert [t.seed for t in raced.trials] == list(range(seeds))
    whole = sweep(head, plan, train)
    for k, trial in enumerate(raced.trials):
        same = whole.trials.index(trial)
        assert all(torch.equal(w[k], whole.bank.weights[name][same]) for name, w in raced.bank.weights.items())
    kept = [trial for heads in ranked(plan.trials(), asked[0][1], torch.zeros(20 * seeds)) for trial in heads[:5]]
    assert {plan.trials().index(t) for t in raced.trials} <= set(kept)


def test_in_a_race_who_has_diverged_is_out():
    plan, (x, y) = Plan(lrs=(1e-3, 1e30), wds=(0.1,), seeds=1, epochs=10), toy()
    judge = lambda swept: (torch.zeros(len(swept.trials)), swept.bank.scores(x)["label"].sum((1, 2)))  # noqa: E731
    assert [t.lr for t in sweep(SMALL, plan, Memory(x, y, batch=8), race=judge).trials] == [1e-3]
    with pytest.raises(ValueError, match="all 1 heads of seed 0 have diverged"):
        sweep(SMALL, plan._replace(lrs=(1e30,)), Memory(x, y, batch=8), race=judge)


def test_ties_count_in_expectation():
    label = torch.tensor([0, 3])
    constant = torch.zeros(1, 2, 20)
    assert within(constant, label, 1).tolist() == [[pytest.approx(1 / 20)] * 2]
    assert within(constant, label, 5).tolist() == [[pytest.approx(5 / 20)] * 2]
    scores = torch.tensor([[[3.0, 1, 1, 0], [3.0, 1, 2, 1]]])
    assert within(scores, label, 1).tolist() == [[1, 0]]
    assert within(scores, label, 3).tolist() == [[1, 0.5]]
    assert within(torch.full((1, 2, 4), torch.nan), label, 5).tolist() == [[0, 0]]


def test_memory_shows_every_row_once_an_epoch_in_an_order_of_its_own():
    x = torch.arange(10.0)[:, None].expand(-1, D)
    feed = Memory(x, {"label": torch.arange(10)}, batch=4, shuffle=1)
    epochs = [[rows.y["label"].tolist() for rows in feed.epoch(e)] for e in (0, 1, 0)]
    assert [len(b) for b in epochs[0]] == [4, 4, 2]
    assert all(sorted(i for b in e for i in b) == list(range(10)) for e in epochs)
    assert epochs[0] == epochs[2] != epochs[1]
    assert all(torch.equal(rows.x[:, 0].long(), rows.y["label"]) for rows in feed.epoch(1))
    assert len(feed) == 3


def test_half_precision_in_a_mapped_file_is_as_good_as_memory(tmp_path):
    x, y = toy(dtype=torch.float16)
    path = tmp_path / "features"
    mapped = torch.from_file(str(path), shared=True, size=x.numel(), dtype=torch.float16).view(x.shape)
    mapped.copy_(x)
    plan = Plan(lrs=(1e-3,), wds=(0.1,), seeds=1, epochs=2)
    swept = [sweep(SMALL, plan, Memory(features, y, batch=16, shuffle=0)) for features in (x, mapped)]
    assert all(torch.equal(w, swept[1].bank.weights[name]) for name, w in swept[0].bank.weights.items())


def test_a_row_without_a_label_teaches_nothing():
    x, y = toy()
    plan = Plan(lrs=(1e-2,), wds=(0.0,), seeds=1, epochs=2)
    known = sweep(SMALL, plan, Memory(x[:30], {"label": y["label"][:30]}, batch=30))
    hidden = torch.where(torch.arange(40) < 30, y["label"], -1)
    some = sweep(SMALL, plan, Memory(x, {"label": hidden}, batch=40))
    assert torch.allclose(known.bank.scores(x)["label"], some.bank.scores(x)["label"], atol=1e-3)


@pytest.mark.parametrize("n", [16, 17, 31])
def test_every_row_is_measured_whatever_the_batch(n):
    x, y = toy(n)
    swept = sweep(SMALL, Plan(lrs=(1e-2,), wds=(0.0,), seeds=2, epochs=1), Memory(x, y, batch=8))
    found = swept.measure(Memory(x, y, batch=8), correct)["correct"]
    assert found.shape == (n, 2)
    assert torch.equal(found, swept.measure(Memory(x, y, batch=n), correct)["correct"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"lrs": ()}, "lrs"), ({"wds": (-1.0,)}, "wds"), ({"seeds": 0}, "seeds=0"), ({"epochs": 0}, "epochs=0")],
)
def test_a_senseless_plan_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        Plan()._replace(**changes).trials()


class Share:
    """Every second batch of a memory: what one of two ranks sees."""

    sharded = True

    def __init__(self, feed, rank, world):
        self.feed, self.rank, self.world = feed, rank, world

    def __len__(self):
        return len(self.feed) // self.world

    def epoch(self, number):
        for i, rows in enumerate(self.feed.epoch(number)):
            if i % self.world == self.rank:
                yield rows


def train_as_rank(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    plan, (x, y) = Plan(lrs=(1e-2, 1e-3), wds=(0.1,), seeds=1, epochs=2), toy()
    feed = Share(Memory(x, y, batch=10), rank, 2)
    swept = sweep(SMALL, plan, feed)
    found = swept.measure(feed, lambda _, rows: {"label": rows.y["label"]})
    torch.save({"scores": swept.bank.scores(x)["label"], **found}, f"{folder}/{rank}")
    torch.distributed.destroy_process_group()


def test_two_ranks_with_half_a_batch_each_train_like_one_with_all_of_it(tmp_path):
    plan, (x, y) = Plan(lrs=(1e-2, 1e-3), wds=(0.1,), seeds=1, epochs=2), toy()
    one = sweep(SMALL, plan, Memory(x, y, batch=20))
    ranks = [subprocess.Popen([sys.executable, __file__, str(rank), str(tmp_path)]) for rank in range(2)]
    assert [rank.wait(120) for rank in ranks] == [0, 0]
    first, second = (torch.load(tmp_path / str(rank), weights_only=True) for rank in range(2))
    assert torch.equal(first["scores"], second["scores"])
    assert torch.allclose(first["scores"], one.bank.scores(x)["label"], atol=0.02)
    assert torch.equal(first["label"], y["label"])  # all rows, in order


if __name__ == "__main__":
    train_as_rank(int(sys.argv[1]), sys.argv[2])
