"""What is exported is the run, bit by bit, in the layout of its reader; what a reader could not compute is refused."""

import json
import logging
import os

import pytest
import torch
from safetensors import safe_open

import vjepa_lab
from vjepa_lab import cli, robots
from vjepa_lab.config import ExportConfig
from vjepa_lab.config_world import PosttrainConfig
from vjepa_lab.jepa import build_jepa
from vjepa_lab.merge import load, to_plain
from vjepa_lab.nn.ac_predictor import ACPredictor
from vjepa_lab.planning.model import open_model
from vjepa_lab.robots import Statistics
from vjepa_lab.train.optim import build_optimizer
from vjepa_lab.train.step import number_by_module
from vjepa_lab.weights import export, parts
from vjepa_lab.weights.optimizer import moments
from vjepa_lab.world import World, build_world

from .conftest import small

ROLES = {"context": "encoder", "target": "target_encoder", "predictor": "predictor"}


@pytest.fixture
def run(tmp_path):
    """``run(**encoder)`` -> folder of a run that was stopped at step 7, and its model."""

    def make(optimizer=True, folder="run", **encoder):
        config = small(**encoder)
        jepa = build_jepa(config)
        torch.manual_seed(0)
        with torch.no_grad():
            for parameter in jepa.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.05)
        states = []
        if optimizer:
            adam = build_optimizer(jepa, lr=3e-4, weight_decay=0.05)
            for parameter in jepa.parameters():
                parameter.grad = torch.randn_like(parameter) if parameter.requires_grad else None
            adam.step()
            states = [adam.state_dict()]
            number_by_module(states, [adam], jepa)
        weights = {f"jepa.{name}": value for name, value in jepa.state_dict().items()}
        checkpoint = {"state_dict": weights, "global_step": 7, "config": to_plain(config), "optimizer_states": states}
        (tmp_path / folder).mkdir()
        torch.save(checkpoint, tmp_path / folder / "last.ckpt")
        return tmp_path / folder, jepa

    return make


def write(source, to, out=None):
    assert export.main(ExportConfig(run=str(source), to=to, out=None if out is None else str(out))) == 0


def assert_networks(read, jepa, **roles):
    for name, role in roles.items():
        expected = getattr(jepa, name).state_dict()
        assert read.networks[role].keys() == expected.keys()
        assert all(torch.equal(read.networks[role][key], value) for key, value in expected.items()), role


@pytest.mark.parametrize("family", ["vjepa2", "vjepa2.1"])
def test_safetensors_hold_every_network_and_the_configuration(run, family):
    folder, jepa = run(family=family)
    write(folder, "safetensors")
    read = parts.read(folder / "export.safetensors")
    assert_networks(read, jepa, **ROLES)
    assert to_plain(read.config()) == to_plain(small(family=family))
    assert read.facts["step"] == 7
    with safe_open(folder / "export.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["config"])["encoder"]["family"] == family
    loaded = vjepa_lab.load(folder / "export.safetensors")
    assert all(torch.equal(loaded.encoder.state_dict()[k], v) for k, v in jepa.target.state_dict().items())


def test_any_model_can_be_written_as_safetensors(run):
    folder, jepa = run(rope="exact", mlp="swiglu")
    write(folder, "safetensors")
    assert_networks(parts.read(folder / "export.safetensors"), jepa, **ROLES)


@pytest.mark.parametrize("family", ["vjepa2", "vjepa2.1"])
def test_the_original_layout_is_that_of_released_files(run, family):
    folder, jepa = run(family=family)
    write(folder, "original")
    raw = torch.load(folder / "export-original.pt", weights_only=True)
    assert list(raw) == [
        *("encoder", "predictor", "target_encoder", "opt", "scaler"),
        *("epoch", "loss", "batch_size", "world_size", "lr"),
    ]
    assert all(key.startswith("module.backbone.") for role in ROLES.values() for key in raw[role])
    assert len(raw["opt"]["param_groups"]) == 4
    assert raw["lr"] == 3e-4
    read = parts.read(folder / "export-original.pt")
    assert read.dialect == family
    assert_networks(read, jepa, **ROLES)
    before, after = moments(parts.read(folder)), moments(read)
    for name in ("context", "predictor"):
        found, expected = after[ROLES[name]], before[ROLES[name]]
        assert found.keys() == expected.keys() == dict(getattr(jepa, name).named_parameters()).keys()
        for key, state in expected.items():
            assert all(torch.equal(found[key][field], state[field]) for field in state), key


def test_the_original_layout_lists_parameters_as_the_released_modules_do(run):
    """The numbers of its optimizer depend on it."""
    folder, _ = run(family="vjepa2.1")
    write(folder, "original")
    networks = parts.read(folder / "export-original.pt").networks
    order = lambda keys: list(dict.fromkeys(key.removesuffix(".weight").removesuffix(".bias") for key in keys))  # noqa: E731
    embed = ["patch_embed.proj", "patch_embed_img.proj", "blocks.0.norm1"]
    assert order(networks["encoder"])[:5] == ["img_mod_embed", "video_mod_embed", *embed]
    assert order(networks["predictor"])[:3] == ["video_mod_embed", "img_mod_embed", "predictor_embed.0"]


def test_a_released_file_comes_back_as_it_was(tmp_path, run):
    folder, _ = run()
    write(folder, "original")
    once = torch.load(folder / "export-original.pt", weights_only=True)
    torch.save(once | {"epoch": 12, "world_size": 128, "loss": 0.4}, tmp_path / "a.pt")
    write(tmp_path / "a.pt", "original", tmp_path / "b.pt")
    again = torch.load(tmp_path / "b.pt", weights_only=True)
    assert [again[name] for name in ("epoch", "world_size", "loss", "lr")] == [12, 128, 0.4, 3e-4]
    for role in ROLES.values():
        assert list(again[role]) == list(once[role])
        assert all(torch.equal(again[role][key], value) for key, value in once[role].items())
    assert again["opt"]["param_groups"] == once["opt"]["param_groups"]
    for number, state in once["opt"]["state"].items():
        assert all(torch.equal(again["opt"]["state"][number][field], state[field]) for field in state)


def test_the_hugging_face_folder_holds_the_target_encoder(run):
    folder, jepa = run()
    write(folder, "huggingface")
    assert {p.name for p in (folder / "export-huggingface").iterdir()} == {
        *("config.json", "model.safetensors", "video_preprocessor_config.json")
    }
    assert_networks(parts.read(folder / "export-huggingface"), jepa, target="encoder", predictor="predictor")
    with safe_open(folder / "export-huggingface/model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt", "written_by": "vjepa_lab", "encoder": "target_encoder", "step": "7"}


def test_a_folder_with_one_encoder_becomes_a_released_file_with_two(run, tmp_path):
    folder, jepa = run()
    write(folder, "huggingface")
    write(folder / "export-huggingface", "original", tmp_path / "a.pt")
    read = parts.read(tmp_path / "a.pt")
    assert read.optimizer is None
    assert_networks(read, jepa, target="encoder")
    assert_networks(read, jepa, target="target_encoder", predictor="predictor")


def test_the_file_of_a_distilled_model_keeps_its_layout(run, tmp_path):
    _, jepa = run(family="vjepa2.1")
    networks = {"ema_encoder": jepa.target, "predictor": jepa.predictor}
    raw = {role: {f"module.{k}": v for k, v in net.state_dict().items()} for role, net in networks.items()}
    torch.save(raw, tmp_path / "distilled.pt")
    write(tmp_path / "distilled.pt", "original", tmp_path / "again.pt")
    read = parts.read(tmp_path / "again.pt")
    assert read.dialect == "vjepa2.1-distilled"
    assert_networks(read, jepa, target="ema_encoder", predictor="predictor")


def test_a_file_with_an_ac_predictor_keeps_its_layout(run, tmp_path):
    _, jepa = run()
    predictor = ACPredictor(encoder_width=32, width=24, depth=1, heads=2)
    networks = {"encoder": jepa.context, "predictor": predictor}
    raw = {role: {f"module.{k}": v for k, v in net.state_dict().items()} for role, net in networks.items()}
    torch.save({**raw, "epoch": 1}, tmp_path / "ac.pt")
    write(tmp_path / "ac.pt", "original", tmp_path / "again.pt")
    read = parts.read(tmp_path / "again.pt")
    assert read.dialect == "vjepa2-ac"
    assert all(torch.equal(read.networks["ac_predictor"][k], v) for k, v in predictor.state_dict().items())
    with pytest.raises(ValueError, match="ac_predictor: transformers has no such model"):
        write(tmp_path / "ac.pt", "huggingface", tmp_path / "hf")


@pytest.mark.parametrize(
    ("encoder", "to", "words"),
    [
        ({"rope": "exact"}, "original", "encoder.rope=exact: the released code rotates"),
        ({"rope": "exact"}, "huggingface", "encoder.rope=exact: transformers rotates"),
        ({"mlp": "swiglu"}, "original", "encoder.mlp=swiglu: the released code"),
        ({"mlp": "swiglu"}, "huggingface", "encoder.mlp=swiglu: transformers"),
        ({"interpolate": True}, "huggingface", "encoder.interpolate=true: transformers"),
        ({"family": "vjepa2.1"}, "huggingface", "encoder.family=vjepa2.1: transformers has no such model"),
        ({"family": "vjepa2.1", "rope": "released"}, "original", "encoder.rope=released"),
        ({"family": "vjepa2.1", "interpolate": False}, "original", "encoder.interpolate=false: the released code"),
    ],
)
def test_what_the_reader_could_not_compute_is_refused(run, encoder, to, words):
    folder, _ = run(**encoder)
    with pytest.raises(ValueError) as caught:
        write(folder, to)
    assert words in str(caught.value)
    assert "--to safetensors writes any model" in str(caught.value)
    assert [p.name for p in folder.iterdir()] == ["last.ckpt"]


def test_what_is_no_model_is_refused(run, tmp_path):
    _, jepa = run()
    torch.save({"classifiers": [{"module.pooler.query_tokens": torch.zeros(1, 1, 32)}]}, tmp_path / "probe.pt")
    with pytest.raises(ValueError, match="holds no encoder; there is nothing to export"):
        write(tmp_path / "probe.pt", "safetensors")
    torch.save(dict(jepa.context.state_dict()), tmp_path / "encoder.pt")
    with pytest.raises(ValueError, match="no predictor in it"):
        write(tmp_path / "encoder.pt", "original")
    with pytest.raises(ValueError, match=r"safetensors, which tells heads:\n.*width 32"):
        write(tmp_path / "encoder.pt", "safetensors")


def test_an_export_is_replaced_in_its_run_and_nowhere_else(run, tmp_path):
    folder, _ = run()
    (folder / "export-huggingface").mkdir()
    (folder / "export-huggingface/old.txt").write_text("from an earlier export")
    write(folder, "huggingface")
    assert not (folder / "export-huggingface/old.txt").exists()
    (tmp_path / "mine").mkdir()
    for source, out in ((folder, tmp_path / "mine"), (folder / "last.ckpt", None)):
        with pytest.raises(ValueError, match="exists already"):
            write(source, "huggingface", out)
    assert list((tmp_path / "mine").iterdir()) == []


def test_an_export_that_fails_leaves_the_earlier_one(run, monkeypatch):
    folder, _ = run()
    write(folder, "original")
    before = (folder / "export-original.pt").read_bytes()

    def half(checkpoint, path):
        path.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="no space left"):
        write(folder, "original")
    assert (folder / "export-original.pt").read_bytes() == before
    monkeypatch.undo()
    write(folder, "original")
    assert sorted(p.name for p in folder.iterdir()) == ["export-original.pt", "last.ckpt"]


@pytest.mark.parametrize("to", ["safetensors", "huggingface", "original"])
def test_others_may_read_what_the_umask_lets_them(run, to):
    folder, _ = run()
    mask = os.umask(0o022)
    try:
        write(folder, to)
    finally:
        os.umask(mask)
    files = [p for p in folder.rglob("*") if p.is_file() and p.name != "last.ckpt"]
    assert files
    assert {p.stat().st_mode & 0o777 for p in files} == {0o644}


def test_the_verb_says_what_it_wrote_and_how_to_load_it(run, caplog, capsys):
    folder, _ = run()
    with caplog.at_level(logging.INFO):
        assert cli.main(["export", str(folder), "--to", "huggingface"]) == 0
    said = caplog.text
    assert f"wrote {folder / 'export-huggingface'} (" in said
    assert "step 7" in said
    assert "where encoder is the file's target_encoder" in said
    assert f"VJEPA2Model.from_pretrained('{folder / 'export-huggingface'}')" in said
    assert cli.main(["export", str(folder), "--to", "onnx"]) == 2
    assert "huggingface" in capsys.readouterr().err


@pytest.fixture
def posttrained(tmp_path):
    """``posttrained(*overrides)`` -> folder of a post-training with statistics, and its world model."""

    def make(*overrides, rope="released"):
        config = load(PosttrainConfig, [], ["crop=32", "predictor={width: 24, depth: 2, heads: 2}", *overrides])
        config.encoder = small(rope=rope).encoder
        torch.manual_seed(0)
        robot = robots.of(config.world.robot)
        spread = [Statistics.of(torch.randn(9, n)) for n in (robot.state_dim, robot.action_dim)]
        world = build_world(config, (spread[0], spread[1])).eval()
        state = {f"world.{name}": value for name, value in world.state_dict().items()}
        torch.save({"state_dict": state, "global_step": 7, "config": to_plain(config)}, tmp_path / "last.ckpt")
        return tmp_path, world

    return make


@pytest.mark.parametrize("to", ["original", "safetensors"])
def test_an_exported_world_model_predicts_what_the_run_did(posttrained, to):
    folder, world = posttrained()
    write(folder, to)
    path = folder / ("export-original.pt" if to == "original" else "export.safetensors")
    asked = {"heads": 2, "predictor_heads": 2} if to == "original" else {}
    loaded = vjepa_lab.load(path, crop=32, **asked)
    plain = World(encoder=loaded.encoder, predictor=loaded.ac_predictor, robot=world.robot)
    g = torch.Generator().manual_seed(1)
    features, states = torch.randn(2, 3, 4, 32, generator=g), torch.randn(2, 3, 7, generator=g)
    with torch.no_grad():
        expected, got = (w(features, states, states[:, 1:], (2, 2)) for w in (world, plain))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    if to == "original":
        raw = torch.load(path, weights_only=True)
        assert all(key.startswith("module.") for name in ("encoder", "predictor") for key in raw[name])
        assert not any("backbone" in key for key in raw["encoder"])
        assert loaded.report.dialect == "vjepa2-ac"
    else:
        assert open_model(str(path)).spec.robot == world.robot


def test_a_world_model_that_the_released_code_cannot_compute_is_refused(posttrained):
    folder, _ = posttrained("predictor.rope=exact", "world.robot={name: quat, rotation: quaternion}")
    with pytest.raises(ValueError, match=r"(?s)predictor\.rope=exact.*states of 8 numbers and actions of 7"):
        write(folder, "original")
