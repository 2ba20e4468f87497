"""The command line helps, names mistakes in one line, and exits with the right code."""

import subprocess
import sys

import pytest

from vjepa_lab import cli
from vjepa_lab.registry import MASKS


def run(capsys, *argv):
    code = cli.main(argv)
    out = capsys.readouterr()
    return code, out.out, out.err


def test_help_lists_the_verbs_and_needs_no_torch():
    code = "import sys; from vjepa_lab.cli import main; main(['--help']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "pretrain" in done.stdout


def test_the_help_of_a_verb_explains_every_field(capsys):
    code, out, _ = run(capsys, "pretrain", "--help")
    assert code == 0
    assert "encoder.crop (256): pixels per side of a clip" in out
    assert f"masks: {', '.join(MASKS.names())}\n" in out


def test_show_prints_the_resolved_configuration_and_runs_nothing(capsys):
    code, out, _ = run(capsys, "pretrain", "optim.lr=1e-3", "--show")
    assert code == 0
    assert "lr: 0.001" in out


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["pretrian"], ["did you mean 'pretrain'"]),
        (["pretrain", "--shwo"], ["--shwo"]),
        (["pretrain", "nowhere.yaml"], ["nowhere.yaml"]),
        (["pretrain", "optim.stpes=1"], ["did you mean 'optim.steps'"]),
        (["pretrain", "encoder.crop=250"], ["250", "240 or 256"]),
        (["pretrain", "init.checkpoint=nowhere.ckpt"], ["nowhere.ckpt"]),
        (["--show"], ["no verb"]),
    ],
)
def test_a_mistake_is_one_clear_error(capsys, argv, words):
    code, out, err = run(capsys, *argv)
    assert code == 2
    assert err.startswith("vjepa-lab: error: ")
    assert all(word in err for word in words)
    assert "Traceback" not in out + err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["pretrain", "--optim.stpes", "1"], ["did you mean 'optim.steps'"]),
        (["pretrain", "--optim.lr"], ["--optim.lr", "needs a value"]),
        (["pretrain", "-x"], ["-x"]),
        (["export", "runs/a", "runs/b"], ["runs/a runs/b", "expected one run"]),
        (["export"], ["run:", "give the folder"]),
        (["export", "runs/a", "--to", "onnx"], ["to: got 'onnx'", "huggingface"]),
        (["inspect"], ["file:"]),
    ],
)
def test_a_mistake_in_an_option_is_one_clear_error(capsys, argv, words):
    code, _, err = run(capsys, *argv)
    assert code == 2
    assert err.startswith("vjepa-lab: error: ")
    assert all(word in err for word in words)


@pytest.mark.parametrize("argv", [["--to", "huggingface"], ["--to=huggingface"], ["to=huggingface"]])
def test_an_option_with_dashes_is_a_field(capsys, argv):
    code, out, _ = run(capsys, "export", "runs/a", *argv, "--show")
    assert code == 0
    assert "run: runs/a" in out
    assert "to: huggingface" in out


def test_a_path_with_an_equals_sign_is_a_path(capsys):
    code, out, _ = run(capsys, "export", "runs/lr=0.1/last.ckpt", "to=huggingface", "--show")
    assert code == 0
    assert "run: runs/lr=0.1/last.ckpt" in out


def test_ctrl_c_is_no_traceback(capsys, monkeypatch, tmp_path):
    def pressed(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("vjepa_lab.weights.inspect.main", pressed)
    code, out, err = run(capsys, "inspect", str(tmp_path))
    assert (code, out, err) == (130, "", "\nvjepa-lab: broken off\n")


def test_debug_shows_where(capsys):
    with pytest.raises(ValueError):
        cli.main(["pretrain", "encoder.crop=250", "--debug"])
