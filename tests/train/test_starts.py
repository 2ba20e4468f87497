"""A run starts from weights of any layout, with the optimizer where there is one, and refuses what contradicts it."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from vjepa_lab.config import ExportConfig
from vjepa_lab.jepa import build_jepa
from vjepa_lab.train import checkpoints
from vjepa_lab.train.modules import PretrainModule
from vjepa_lab.train.run import _start, pretrain
from vjepa_lab.train.starts import _contradictions, start_from
from vjepa_lab.validate import pretrain_problems
from vjepa_lab.weights import export, huggingface
from vjepa_lab.weights.parts import Parts
from vjepa_lab.weights.shapes import Asked, describe

# What a configuration says of a released V-JEPA 2 file, at a tiny size.
RELEASED = ("encoder.rope=released", "predictor.mask_tokens=3")
ONE_STEP = ("optim.steps=1", "optim.warmup=0", "optim.clip=null", "optim.weight_decay=0.1")
STILL = ("optim.steps=1", "optim.warmup=0", "optim.lr=0", "optim.min_lr=0", "ema.start=1", "ema.end=1")
STEPS_BEFORE = 3


@pytest.fixture
def released(tmp_path, tiny):
    """A file as the released training loop writes it (``.write()``), and the model and optimizer that it holds."""
    torch.manual_seed(0)
    jepa = build_jepa(tiny(*RELEASED))
    networks = [jepa.context, jepa.predictor]
    excluded = lambda name, p: "bias" in name or p.ndim == 1  # noqa: E731
    groups = [{"params": [p for n, p in net.named_parameters() if not excluded(n, p)]} for net in networks]
    groups += [
        {"params": [p for n, p in net.named_parameters() if excluded(n, p)], "WD_exclude": True} for net in networks
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.5, 0.6))
    idle = list(jepa.predictor.mask_tokens)[1:]
    for _ in range(STEPS_BEFORE):
        for parameter in (p for net in networks for p in net.parameters()):
            parameter.grad = None if any(parameter is p for p in idle) else torch.randn_like(parameter) * 0.1
        optimizer.step()

    def write(change=lambda checkpoint: None, name="released.pt"):
        roles = {"encoder": jepa.context, "target_encoder": jepa.target, "predictor": jepa.predictor}
        checkpoint = {
            role: {f"module.backbone.{key}": value for key, value in network.state_dict().items()}
            for role, network in roles.items()
        }
        checkpoint |= {"opt": optimizer.state_dict(), "scaler": None, "epoch": 40, "lr": 1e-3, "loss": 0.5}
        change(checkpoint)
        torch.save(checkpoint, tmp_path / name)
        return tmp_path / name

    return SimpleNamespace(write=write, jepa=jepa, optimizer=optimizer)


def by_name(checkpoint, field):
    """One field of the optimizer state in a checkpoint of a run, by the name of the parameter."""
    names = list(checkpoint["state_dict"])
    return {names[number]: state[field] for number, state in checkpoint["optimizer_states"][0]["state"].items()}


def test_a_cooldown_takes_the_step_of_a_run_that_holds_these_moments(tmp_path, released, run_tiny):
    """AdamW by hand. A run with the weights alone meets the same clips and masks, so its moments tell the gradient."""
    jepa, optimizer = released.jepa, released.optimizer
    path = released.write()
    runs = {
        load: run_tiny(
            *RELEASED, *ONE_STEP, f"run.dir={tmp_path / load}", f"init.checkpoint={path}", f"init.load={load}"
        )
        for load in ("weights", "weights+optimizer", "auto")
    }
    alone, cooldown, auto = (checkpoints.read(run / "last.ckpt") for run in runs.values())
    assert all(torch.equal(auto["state_dict"][k], v) for k, v in cooldown["state_dict"].items())
    b1, b2, eps, decay = 0.9, 0.999, 1e-8, 0.1  # of the configuration, not of the file
    lr = cooldown["optimizer_states"][0]["param_groups"][0]["lr"]
    assert lr == 1e-3
    first, second, steps = (by_name(cooldown, field) for field in ("exp_avg", "exp_avg_sq", "step"))
    first_alone, second_alone = by_name(alone, "exp_avg"), by_name(alone, "exp_avg_sq")
    before = {
        f"jepa.{name}.{key}": (p.detach(), optimizer.state[p])
        for name, network in (("context", jepa.context), ("predictor", jepa.predictor))
        for key, p in network.named_parameters()
        if p in optimizer.state
    }
    assert first.keys() == before.keys()
    for name, (value, state) in before.items():
        gradient = first_alone[name] / (1 - b1)
        m, v = b1 * state["exp_avg"] + (1 - b1) * gradient, b2 * state["exp_avg_sq"] + (1 - b2) * gradient**2
        t = STEPS_BEFORE + 1
        assert torch.allclose(first[name], m, atol=1e-7), name
        assert torch.allclose(second[name], v, atol=1e-9), name
        assert torch.allclose(second[name] - second_alone[name], b2 * state["exp_avg_sq"], atol=1e-8), name
        assert int(steps[name]) == t
        shrunk = value * (1 - lr * decay) if value.ndim > 1 and "bias" not in name else value
        stepped = shrunk - lr * (m / (1 - b1**t)) / ((v / (1 - b2**t)).sqrt() + eps)
        assert torch.allclose(cooldown["state_dict"][name], stepped, atol=1e-6), name
    assert {int(step) for step in by_name(alone, "step").values()} == {1}


@pytest.mark.parametrize(
    ("load", "has_optimizer", "words"),
    [
        ("weights", True, "weights of"),
        ("weights+optimizer", True, "weights and optimizer of"),
        ("auto", True, "weights and optimizer of"),
        ("auto", False, "there is no optimizer in it"),
    ],
)
def test_the_log_says_what_was_taken(released, tiny, caplog, load, has_optimizer, words):
    path = released.write() if has_optimizer else released.write(lambda c: c.update(opt={}))
    with caplog.at_level("INFO"):
        pretrain(tiny(*RELEASED, "optim.steps=1", "optim.warmup=0", f"init.checkpoint={path}", f"init.load={load}"))
    line = next(line for line in caplog.text.splitlines() if str(path) in line)
    assert words in line
    assert ("and optimizer" in line) == (load != "weights" and has_optimizer)
    assert "released V-JEPA 2 pretraining, epoch 40" in line


def test_every_layout_starts_the_same_run(tmp_path, released, tiny, run_tiny):
    """A released file, written on as a checkpoint of a run and exported from there, is the same start each time."""
    jepa = released.jepa
    path = released.write()
    run = run_tiny(*RELEASED, *STILL, f"run.dir={tmp_path / 'run'}", f"init.checkpoint={path}", "init.load=auto")
    for to in ("original", "safetensors"):
        export.main(ExportConfig(run=str(run), to=to))
    expected = {name: dict(getattr(jepa, name).state_dict()) for name in ("context", "target", "predictor")}
    for checkpoint in (path, run / "last.ckpt", run, run / "export-original.pt", run / "export.safetensors"):
        start = start_from(tiny(*RELEASED, f"init.checkpoint={checkpoint}"), tmp_path)
        assert start.weights is not None
        assert start.weights.keys() == expected.keys()
        for name, tensors in expected.items():
            assert start.weights[name].keys() == tensors.keys()
            assert all(torch.equal(start.weights[name][key], value) for key, value in tensors.items()), checkpoint
        assert start.text.startswith("weights of")
        assert start.step == 0


def test_a_file_with_one_encoder_starts_both_from_it(tmp_path, released, tiny):
    jepa = released.jepa
    config = tiny(*RELEASED, f"init.checkpoint={tmp_path / 'folder'}")
    networks = {"encoder": jepa.target.state_dict(), "predictor": jepa.predictor.state_dict()}
    huggingface.write_folder(tmp_path / "folder", networks, config)
    start = start_from(config, tmp_path)
    assert "context and target encoder both begin from its one encoder" in start.text
    for name in ("context", "target"):
        for key, value in jepa.target.state_dict().items():
            assert torch.equal(start.weights[name][key], value)


def test_a_file_without_a_predictor_starts_a_new_one(tmp_path, released, tiny):
    jepa = released.jepa
    path = tmp_path / "encoder.pt"
    torch.save(dict(jepa.context.state_dict()), path)
    config = tiny(*RELEASED, f"init.checkpoint={path}")
    start = start_from(config, tmp_path)
    assert "there is no predictor in it: a new one begins" in start.text
    module, fresh = PretrainModule(config), PretrainModule(config)
    checkpoints.load_weights(module.jepa, start.weights)
    for name in ("context", "target"):
        for key, value in getattr(module.jepa, name).state_dict().items():
            assert torch.equal(value, jepa.context.state_dict()[key])
    for key, value in module.jepa.predictor.state_dict().items():
        assert torch.equal(value, fresh.jepa.predictor.state_dict()[key])


def test_parameters_that_were_not_trained_before_begin_without_moments(tmp_path, released, tiny):
    path = released.write(lambda c: c["opt"]["state"].pop(0))  # the patch embedding
    config = tiny(*RELEASED, f"init.checkpoint={path}", "init.load=weights+optimizer")
    start = start_from(config, tmp_path)
    assert "1 parameters that it did not train begin without moments" in start.text
    checkpoint = checkpoints.read(start.resume)
    steps = {name: int(step) for name, step in by_name(checkpoint, "step").items()}
    assert [name for name, step in steps.items() if step == 0] == ["jepa.context.patch_embed.proj.weight"]
    assert not by_name(checkpoint, "exp_avg")["jepa.context.patch_embed.proj.weight"].any()


def test_a_released_name_is_looked_up(tmp_path, released, tiny, monkeypatch):
    path = released.write(name="vitl.pt")
    monkeypatch.setenv("VJEPA_LAB_WEIGHTS", str(tmp_path))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    assert str(path) in start_from(tiny(*RELEASED, "init.checkpoint=vjepa2-vitl"), tmp_path).text


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("encoder.rope=exact", "encoder.rope: the file has released, the configuration exact"),
        ("predictor.mask_tokens=1", "predictor.mask_tokens: the file has 3, the configuration 1"),
        ("encoder.width=96", "encoder.width: the file has 48, the configuration 96"),
        ("encoder.depth=3", "encoder.depth: the file has 2, the configuration 3"),
        ("encoder.mlp_width=100", "encoder.mlp_width: the file has 192, the configuration 100"),
        ("encoder.mlp=swiglu", "encoder.mlp: the file has gelu, the configuration swiglu"),
        ("encoder.patch=4", "encoder.patch: the file has 8, the configuration 4"),
        ("encoder.tubelet=1", "encoder.tubelet: the file has 2, the configuration 1"),
        ("predictor.width=48", "predictor.width: the file has 24, the configuration 48"),
        ("predictor.depth=2", "predictor.depth: the file has 1, the configuration 2"),
        ("encoder.family=vjepa2.1", "encoder.family: the file has vjepa2, the configuration vjepa2.1"),
    ],
)
def test_a_setting_that_contradicts_the_file_is_named(tmp_path, released, tiny, wrong, words):
    depth = ("encoder.depth=4",) if "vjepa2.1" in wrong else ()
    with pytest.raises(ValueError) as caught:
        start_from(tiny(*RELEASED, *depth, wrong, f"init.checkpoint={released.write()}"), tmp_path)
    assert words in str(caught.value)
    assert "released.pt" in str(caught.value)


@pytest.mark.parametrize("wrong", ["encoder.heads=3", "predictor.heads=3", "encoder.rope=exact"])
def test_what_shapes_cannot_tell_is_compared_where_the_file_says_it(tmp_path, run_tiny, tiny, wrong):
    """Heads and rope of another run would load without complaint and compute something else."""
    run = run_tiny(*RELEASED, "optim.steps=1", "optim.warmup=0")
    for key in ("init.checkpoint", "run.resume"):
        config = tiny(*RELEASED, wrong, f"{key}={run / 'last.ckpt'}", f"run.dir={tmp_path / 'other'}")
        with pytest.raises(ValueError, match=rf"{wrong.partition('=')[0]}: the file has"):
            _start(config, tmp_path)


@pytest.mark.parametrize(
    ("released_as", "wrong", "words"),
    [
        (
            ("encoder.size=giant", "encoder.width=null", "encoder.depth=null", "encoder.heads=null"),
            "encoder.heads=16",
            "encoder.heads: the file has 22, the configuration 16",
        ),
        (
            ("encoder.family=vjepa2.1", "encoder.depth=4", "predictor.levels=4"),
            "encoder.interpolate=false",
            "encoder.interpolate: the file has True, the configuration False",
        ),
    ],
)
def test_what_a_released_file_does_not_tell_is_known(tmp_path, tiny, released_as, wrong, words):
    """ViT-g has 22 heads, and its tensors would fit 16 as well; V-JEPA 2.1 scales positions. On the meta device."""
    config = tiny(*released_as, wrong)
    with torch.device("meta"):
        networks = {"encoder": dict(build_jepa(config).context.state_dict())}
    read = Parts(path=tmp_path / "released.pt", dialect=config.encoder.family, networks=networks)
    assert words in _contradictions(read, describe(read, "encoder", Asked()), config, predictor=False)


@pytest.mark.parametrize(
    ("checkpoint", "problem"),
    [
        ("folder", None),
        ("vjepa2-vitl", None),  # looked up when the weights are read
        ("nowhere.pt", "init.checkpoint: no file or folder nowhere.pt"),
        ("runs/nowhere", "init.checkpoint: no file or folder runs/nowhere"),
    ],
)
def test_a_path_that_is_not_there_is_found_before_anything_is_read(tmp_path, tiny, monkeypatch, checkpoint, problem):
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    problems = pretrain_problems(tiny(f"init.checkpoint={checkpoint}", "init.load=auto"))
    assert problems == ([problem] if problem else [])


def test_an_optimizer_that_is_not_there_cannot_be_asked_for(tmp_path, released, tiny):
    path = released.write(lambda c: c.pop("opt"))
    with pytest.raises(ValueError, match=r"holds no optimizer for this model; use init\.load=weights"):
        start_from(tiny(*RELEASED, f"init.checkpoint={path}", "init.load=weights+optimizer"), tmp_path)


def test_only_a_checkpoint_of_a_run_is_gone_on_with(tmp_path, released, tiny):
    path = released.write()
    with pytest.raises(ValueError, match=f"not a checkpoint of a run: use init.checkpoint={path}"):
        _start(tiny(*RELEASED, f"run.resume={path}"), tmp_path)


def test_a_damaged_file_is_told_by_its_tensors(tmp_path, released, tiny):
    path = released.write(lambda c: c["target_encoder"].pop("module.backbone.blocks.1.norm2.bias"))
    with pytest.raises(ValueError, match=r"target_encoder.*\n.*missing: blocks\.1\.norm2\.bias"):
        start_from(tiny(*RELEASED, f"init.checkpoint={path}"), tmp_path)


def test_weights_that_are_not_finite_are_told_before_the_first_step(tmp_path, released, tiny):
    path = released.write(lambda c: c["encoder"]["module.backbone.blocks.1.norm2.bias"].fill_(float("nan")))
    start = start_from(tiny(*RELEASED, f"init.checkpoint={path}"), tmp_path)
    assert "WARNING: not finite (NaN or infinite) in its weights for context: blocks.1.norm2.bias" in start.text
    assert "for target" not in start.text


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes_start_the_same_cooldown(tmp_path, released, run_tiny, strategy):
    shared = (*RELEASED, *ONE_STEP, f"init.checkpoint={released.write()}", "init.load=weights+optimizer")
    one = checkpoints.read(run_tiny(*shared, f"run.dir={tmp_path / 'one'}") / "last.ckpt")
    command = [sys.executable, "-m", "vjepa_lab", "pretrain", str(Path(__file__).parent / "tiny.yaml"), *shared]
    command += [f"run.dir={tmp_path / 'two'}", "trainer.devices=2", "data.batch=2", f"trainer.strategy={strategy}"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run(command, env=environment, check=True, timeout=300)
    two = checkpoints.read(tmp_path / "two/last.ckpt")
    for name, value in one["state_dict"].items():
        assert torch.allclose(two["state_dict"][name], value, atol=1e-7), name
    for field in ("exp_avg", "exp_avg_sq", "step"):
        expected, got = by_name(one, field), by_name(two, field)
        assert expected.keys() == got.keys()
        assert all(torch.allclose(got[name], value, atol=1e-7) for name, value in expected.items())
