"""HDF5 files: what is wrong with one is told as a reason, and it is closed whatever happens."""

import numpy as np
import pytest

from vjepa_lab.data import episodes, hdf5
from vjepa_lab.data.containers import Unreadable

h5py = pytest.importorskip("h5py")


@pytest.fixture
def file(tmp_path):
    with h5py.File(tmp_path / "t.h5", "w") as out:
        out["poses"] = np.arange(24, dtype=np.float32).reshape(4, 6)
        out["gripper"] = np.arange(4)
        out["column"] = np.arange(4.0)[:, None]
    return tmp_path / "t.h5"


def test_datasets_are_read_as_float64_of_the_expected_shape(file):
    with hdf5.opened(file) as data:
        assert hdf5.rows(data, "poses", 6).dtype == np.float64
        assert hdf5.rows(data, "gripper").tolist() == hdf5.rows(data, "column").tolist() == [0, 1, 2, 3]
        assert hdf5.optional(data, "nothing", 6) is None
    assert not data, "closed"


@pytest.mark.parametrize(
    ("name", "width", "reason", "detail"),
    [
        ("nothing", 6, "missing", "no dataset 'nothing'"),
        ("poses", 7, "mismatched", r"'poses': got the shape \(4, 6\), expected \(T, 7\)"),
        ("poses", None, "mismatched", r"expected \(T,\)"),
        ("gripper", 1, "mismatched", r"expected \(T, 1\)"),
    ],
)
def test_a_dataset_that_is_missing_or_of_another_shape_is_told(file, name, width, reason, detail):
    with pytest.raises(Unreadable, match=detail) as error, hdf5.opened(file) as data:
        hdf5.rows(data, name, width)
    assert error.value.reason == reason


def test_broken_files_are_told_apart(file, tmp_path):
    whole = file.read_bytes()
    broken = {"missing": None, "empty": b"", "undecodable": b"<html>" * 100, "truncated": whole[: len(whole) // 2]}
    for reason, content in broken.items():
        path = tmp_path / f"{reason}.h5"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(Unreadable) as error, hdf5.opened(path):
            pass
        assert error.value.reason == reason


def test_a_missing_package_is_named_with_the_extra_that_brings_it(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(episodes.importlib, "import_module", missing)
    with pytest.raises(ValueError, match=r"h5py is not installed.*pip install 'vjepa_lab\[robot\]'"), hdf5.opened("x"):
        pass
