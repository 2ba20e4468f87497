"""Action supervision of a pretraining: who learns, what a budget changes, what a stop costs, and what comes of it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from vjepa_lab import weights
from vjepa_lab.batch import Both
from vjepa_lab.data.loader import Loader
from vjepa_lab.data.skips import Skips
from vjepa_lab.inverse import keep
from vjepa_lab.robots import Statistics
from vjepa_lab.train import checkpoints, inverse
from vjepa_lab.train.folder import read_metrics
from vjepa_lab.train.inverse import InverseModule, module_of
from vjepa_lab.train.modules import PretrainModule
from vjepa_lab.train.optim import set_hyper
from vjepa_lab.train.run import pretrain, training_loader
from vjepa_lab.validate import validate

ACTIONS = Statistics(torch.zeros(2), torch.full((2,), 0.25), -torch.ones(2), torch.ones(2))
DRIVEN = ("data.sources=[{name: synthetic, drive: 0.25}]", "inverse.statistics=8")
LAST = (*DRIVEN, "inverse.weight=0.05", "inverse.unfreeze_last=1")
LEVELS = ("encoder.family=vjepa2.1", "encoder.depth=4", "predictor.levels=4")


@pytest.fixture
def fine(tiny):
    """``fine(*overrides)`` -> configuration of a tiny run in which the last block learns from actions too."""
    return lambda *overrides: tiny(*LAST, *overrides)


def batch_of(config):
    loader = training_loader(config, Skips(None))
    batch = next(iter(loader))
    norm = PretrainModule.on_after_batch_transfer
    return norm(None, batch, 0)  # type: ignore[arg-type]


def backward(config):
    """The module after the gradients of one micro-batch."""
    module = InverseModule(config, ACTIONS)
    module.losses(batch_of(config), 0)["loss"].backward()
    return module


@pytest.fixture
def step_zero(monkeypatch):
    """Modules that no Trainer has taken begin at step 0."""
    monkeypatch.setattr(PretrainModule, "global_step", 0)


@pytest.fixture(autouse=True)
def no_picture(monkeypatch):
    """Of a run, which takes as long as its steps."""
    monkeypatch.setattr("vjepa_lab.train.picture.draw", lambda *_: None)


def reached(module) -> set[str]:
    return {name for name, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("last", "blocks"), [(0, []), (1, ["1"]), (2, ["0", "1"])])
@pytest.mark.usefixtures("step_zero")
def test_gradients_reach_the_last_blocks_the_predictor_and_the_head(fine, last, blocks):
    module = backward(fine(f"inverse.unfreeze_last={last}"))
    expected = {
        name
        for name, _ in module.named_parameters()
        if name.startswith(("inverse.", "jepa.predictor."))
        or (name.startswith("jepa.context.blocks.") and name.split(".")[3] in blocks)
        or (name.startswith("jepa.context.norm.") and last)
    }
    assert reached(module) == expected
    assert {n for n, p in module.named_parameters() if p.requires_grad} == expected, "DDP waits for these"


@pytest.mark.usefixtures("step_zero")
def test_all_of_the_encoder_may_learn(fine):
    module = backward(fine("inverse.unfreeze_last=null"))
    names = {n for n, _ in module.named_parameters()}
    assert reached(module) == {n for n in names if not n.startswith("jepa.target.")}


@pytest.mark.parametrize("more", [(), (*LEVELS, "loss.context_start=0")], ids=["vjepa2", "vjepa2.1"])
@pytest.mark.usefixtures("step_zero")
def test_without_the_native_objective_the_predictor_stays_and_is_measured(fine, more):
    module = backward(fine("inverse.native=0", *more))
    grads = reached(module)
    assert grads == {n for n, p in module.named_parameters() if p.requires_grad}
    assert not [n for n in grads if not n.startswith(("inverse.", "jepa.context."))]
    last = module.config.encoder.resolved().depth - 1
    assert all(f"blocks.{last}." in n or "norm" in n for n in grads if n.startswith("jepa."))


@pytest.mark.usefixtures("step_zero")
def test_levels_that_end_in_frozen_blocks_stay_with_them(fine):
    module = backward(fine(*LEVELS, "loss.context_start=0", "loss.context_end=1"))
    norms = {n for n in reached(module) if "context.norms_block" in n}
    assert norms == {"jepa.context.norms_block.3.weight", "jepa.context.norms_block.3.bias"}
    assert reached(module) == {n for n, p in module.named_parameters() if p.requires_grad}


@pytest.mark.usefixtures("step_zero")
def test_the_loss_is_the_sum_that_its_parts_make(fine):
    config = fine("inverse.native=0.5", "inverse.weight=3")
    out = InverseModule(config, ACTIONS).losses(batch_of(config), 0)
    assert out["loss"].item() == pytest.approx(0.5 * out["loss/native"].item() + 3 * out["loss/inverse"].item())
    plain = PretrainModule(config).losses(batch_of(config), 0)
    assert torch.equal(out["loss/native"], plain["loss"]), "masks and clips are those of a run without actions"


def naive(module, batch, step: int, kept) -> float:
    """The objective, sample by sample."""
    total, count = 0.0, 0
    drawn = inverse.dist.rng(module.config.run.seed, step, batch=len(batch.clip), purpose="inverse pairs")
    for row, at in enumerate((drawn.local.uniform() * batch.truth["action"].shape[1]).long().tolist()):
        if not kept[row]:
            continue
        shown = [batch.clip[row : row + 1, :, t : t + 1].repeat(1, 1, 2, 1, 1) for t in (at, at + 1)]
        if module.config.inverse.pair == "clip":
            shown = [batch.clip[row : row + 1, :, at : at + 2]]
        true = (batch.truth["action"][row, at] - ACTIONS.mean) / ACTIONS.std
        features = [module.jepa.context(frames).mean(1) for frames in shown]
        total += (module.inverse(*features)[0] - true).square().sum().item()
        count += 1
    return total / max(count, 1)


@pytest.mark.parametrize("pair", ["concat", "clip"])
@pytest.mark.parametrize("budget", [1.0, 0.5, 0.0])
@pytest.mark.usefixtures("step_zero")
def test_inverse_dynamics_is_that_of_the_pairs_that_take_part(fine, budget, pair):
    config = fine(f"inverse.budget={budget}", f"inverse.pair={pair}", "data.batch=8")
    module, batch = InverseModule(config, ACTIONS), batch_of(config)
    kept = keep(budget, seed=0, step=5, batch=8)
    with torch.no_grad():
        assert module.losses(batch, 5)["loss/inverse"].item() == pytest.approx(naive(module, batch, 5, kept), rel=1e-5)
        module.config.inverse.normalise = "batch"
        share = kept.double().mean().item()
        whole = naive(module, batch, 5, kept) * share
        assert module.losses(batch, 5)["loss/inverse"].item() == pytest.approx(whole, rel=1e-5)
    assert 0 < share < 1 or budget in (0, 1)


@pytest.mark.usefixtures("step_zero")
def test_what_takes_no_part_is_not_encoded(fine, monkeypatch):
    config = fine("inverse.budget=0.3", "data.batch=8")
    module, batch, sizes = InverseModule(config, ACTIONS), batch_of(config), []
    plain = type(module.jepa.context).forward

    def counted(self, clip, *args, **kwargs):
        if not hasattr(clip, "grid"):
            sizes.append(len(clip))
        return plain(self, clip, *args, **kwargs)

    monkeypatch.setattr(type(module.jepa.context), "forward", counted)
    for step in range(6):
        module.losses(batch, step)
    shares = [int(keep(0.3, seed=0, step=step, batch=8).sum()) for step in range(6)]
    assert sizes == [2 * max(share, 1) for share in shares]


def jepa_of(folder) -> dict[str, torch.Tensor]:
    state = checkpoints.read(Path(folder) / "last.ckpt")["state_dict"]
    return {name: value for name, value in state.items() if name.startswith("jepa.")}


def run(config) -> dict[str, torch.Tensor]:
    validate(config)
    assert pretrain(config) == 0
    return jepa_of(config.run.dir)


def same(one, two) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_no_budget_is_bit_for_bit_no_weight_and_some_is_not(fine, tmp_path):
    """O-P: p = 0 and lambda = 0 leave the same weights, and the data and masks as they are."""
    runs = {}
    for name, more in {"p": "inverse.budget=0", "lambda": "inverse.weight=0", "half": "inverse.budget=0.5"}.items():
        runs[name] = run(fine(f"run.dir={tmp_path / name}", "optim.steps=4", "run.save_every=10", more))
    assert same(runs["p"], runs["lambda"])
    assert not same(runs["p"], runs["half"])
    curves = {name: [row["loss/native"] for row in read_metrics(tmp_path / name)] for name in runs}
    assert curves["p"] == curves["lambda"]


def test_the_whole_budget_is_bit_for_bit_no_draw(fine, tmp_path, monkeypatch):
    whole = run(fine(f"run.dir={tmp_path / 'whole'}", "optim.steps=3"))
    monkeypatch.setattr(inverse, "keep", lambda budget, *, batch, **_: torch.ones(batch, dtype=torch.bool))
    drawn = run(fine(f"run.dir={tmp_path / 'drawn'}", "optim.steps=3", "inverse.budget=0.999"))
    assert same(whole, drawn)


def test_frozen_blocks_stay_bit_for_bit_and_the_head_is_in_no_encoder(fine, tmp_path):
    start = InverseModule(fine(), ACTIONS).jepa.state_dict()
    state = run(fine(f"run.dir={tmp_path / 'run'}"))
    frozen = [n for n in start if n.startswith(("context.blocks.0.", "context.patch_embed", "target.blocks.0."))]
    assert len(frozen) > 20
    assert all(torch.equal(state[f"jepa.{n}"], start[n]) for n in frozen)
    changed = [
        n for n in start if n.startswith(("context.blocks.1.", "target.blocks.1.", "predictor.predictor_blocks"))
    ]
    assert all(not torch.equal(state[f"jepa.{n}"], start[n]) for n in changed if n.endswith("weight"))
    loaded = weights.load(str(tmp_path / "run"))
    assert loaded.encoder is not None
    assert all(torch.equal(v, state[f"jepa.target.{n}"]) for n, v in loaded.encoder.state_dict().items())


def test_a_run_that_goes_on_has_the_losses_of_one_that_was_not_stopped(fine, tmp_path):
    whole, rest = tmp_path / "whole", tmp_path / "rest"
    more = ("inverse.budget=0.5", "trainer.accumulate=2", "run.keep_every=3", "probes=[]")
    one = run(fine(f"run.dir={whole}", *more))
    two = run(fine(f"run.dir={rest}", *more, f"run.resume={whole / 'step-0000003.ckpt'}"))
    for name in ("loss", "loss/inverse", "loss/native", "grad_norm"):
        curves = [[row[name] for row in read_metrics(folder) if row["step"] > 3] for folder in (whole, rest)]
        assert len(curves[0]) == 3
        assert curves[0] == curves[1], name
    assert same(one, two)
    heads = [checkpoints.read(f / "last.ckpt")["state_dict"]["inverse.layers.0.weight"] for f in (whole, rest)]
    assert torch.equal(*heads)


def test_a_run_does_not_go_on_where_another_part_learns(fine, tiny, tmp_path):
    run(fine("optim.steps=2", "optim.warmup=0"))
    for config, said in (
        (fine("inverse.unfreeze_last=2"), "inverse.unfreeze_last: the file has 1, the configuration 2"),
        (fine("inverse.native=0"), "inverse.native above 0: the file has True, the configuration False"),
        (tiny(), "inverse.weight: the file has above 0, the configuration None"),
    ):
        with pytest.raises(ValueError, match=said) as caught:
            pretrain(config)
        assert "init.checkpoint=" in str(caught.value)


def test_a_finished_pretraining_is_where_it_begins(tiny, fine, tmp_path):
    first = run(tiny(f"run.dir={tmp_path / 'first'}", "optim.steps=3"))
    last = f"init.checkpoint={tmp_path / 'first' / 'last.ckpt'}"
    second = run(fine(f"run.dir={tmp_path / 'second'}", last, "optim.steps=2", "optim.warmup=0"))
    frozen = [n for n in first if n.startswith("jepa.context.blocks.0.")]
    assert all(torch.equal(first[n], second[n]) for n in frozen)
    assert not torch.equal(
        first["jepa.context.blocks.1.mlp.fc1.weight"], second["jepa.context.blocks.1.mlp.fc1.weight"]
    )


def test_the_head_learns_at_a_multiple_of_the_rate(fine):
    module = InverseModule(fine("inverse.head_lr=7"), ACTIONS)
    optimizer = module.configure_optimizers()
    set_hyper(optimizer, lr=0.5, weight_decay=0.25)
    head = {id(p) for p in module.inverse.parameters()}
    for group in optimizer.param_groups:
        mine = {id(p) in head for p in group["params"]}
        assert len(mine) == 1
        assert group["lr"] == (3.5 if mine.pop() else 0.5)
        assert group["weight_decay"] == (0.25 if group["params"][0].ndim > 1 else 0.0)
    assert sum(len(g["params"]) for g in optimizer.param_groups) == sum(p.requires_grad for p in module.parameters())


def test_actions_are_standardised_by_the_stream(fine):
    config = fine("inverse.statistics=200")
    module = module_of(config, training_loader(config, Skips(None)))
    assert module.inverse.std.tolist() == pytest.approx([0.25, 0.25], rel=0.15)
    assert module.inverse.mean.tolist() == pytest.approx([0, 0], abs=0.05)


PLANAR = ("plugins=[planar]", "data.sources=[{name: planar}]", "data.fps=null", "data.stride=1")
ROBOT = "inverse.robot={name: planar, position: [x, y], rotation: none, gripper: false}"


@pytest.fixture
def plugin(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    yield
    sys.modules.pop("planar", None)


def test_episodes_of_a_robot_supervise_as_well(fine, plugin, tmp_path):
    state = run(fine(*PLANAR, ROBOT, "inverse.statistics=40", "optim.steps=2", "optim.warmup=0"))
    assert state
    rows = read_metrics(tmp_path / "run")
    assert 0.5 < rows[0]["loss/inverse"] < 6, "two standardised numbers, told by a fresh head"


def test_actions_that_do_not_fit_the_robot_are_refused(fine, plugin):
    config = fine(*PLANAR, ROBOT, "data.sources=[{name: planar, swapped: true}]", "inverse.statistics=40")
    validate(config)
    with pytest.raises(ValueError, match=r"planar: its episodes do not fit inverse\.robot:\n  - "):
        pretrain(config)


def test_clips_that_tell_no_action_are_refused(fine):
    config = fine("data.sources=[{name: synthetic}]")
    with pytest.raises(ValueError, match=r"data\.sources: synthetic.* tells no actions; expected .*drive"):
        pretrain(config)


def test_clips_that_are_flipped_are_refused_where_they_tell_actions(fine):
    config = fine()
    loader = training_loader(config, Skips(None))
    assert isinstance(loader, Loader)
    loader.slots.readers[0].augment = True
    with pytest.raises(ValueError, match=r"transform\.flip: true turns left into right in clips of synthetic"):
        module_of(config, loader)


@pytest.mark.usefixtures("step_zero")
def test_images_stand_beside_clips_that_tell_actions(fine):
    images = "images.sources=[{name: synthetic}]"
    more = (*LEVELS, images, "images.batch=2", "images.masks=[{name: random, ratio: 0.5}]", "loss.context_start=0")
    config = fine(*more)
    batch = batch_of(config)
    assert isinstance(batch, Both)
    assert not batch.images.truth
    module = InverseModule(config, ACTIONS)
    module.losses(batch, 0)["loss"].backward()
    assert reached(module) == {n for n, p in module.named_parameters() if p.requires_grad}
