"""Files are opened without running code, and each way of being wrong has its own message."""

from __future__ import annotations

import json
import os
import pickle

import pytest
import torch
from safetensors.torch import save_file

from vjepa_lab.weights.files import open_pickle, open_safetensors, open_sharded


class Ours:
    """Something that only code could rebuild."""


class Runs:
    """A pickle of this makes a folder, unless it is refused."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def test_what_torch_saves_opens(save):
    tensor = torch.arange(5.0)
    opened = open_pickle(save({"a": tensor, "b": {"c": [1, "x", None]}}))
    assert torch.equal(opened["a"], tensor)
    assert opened["b"] == {"c": [1, "x", None]}


def test_writing_to_opened_tensors_leaves_the_file_alone(save):
    path = save({"a": torch.zeros(5)})
    open_pickle(path)["a"].add_(1)
    assert open_pickle(path)["a"].sum() == 0


def test_the_old_format_of_torch_opens(tmp_path):
    torch.save({"a": torch.ones(3)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert open_pickle(tmp_path / "old.pt")["a"].sum() == 3


def test_a_pickled_object_is_refused_by_its_name(save):
    with pytest.raises(ValueError, match=r"refused.*pickled object \(.*Ours\).*run code"):
        open_pickle(save({"a": Ours()}))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("writer", [torch.save, pickle.dump])
def test_code_in_a_file_is_not_run(tmp_path, writer):
    with (tmp_path / "bad.pt").open("wb") as file:
        writer({"a": Runs(str(tmp_path / "made"))}, file)
    with pytest.raises(ValueError, match="refused"):
        open_pickle(tmp_path / "bad.pt")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
def test_a_truncated_file_is_told_as_such(save, share):
    path = save({"a": torch.zeros(3000)})
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ValueError, match=r"weights\.pt: truncated or damaged"):
        open_pickle(path)


@pytest.mark.parametrize(
    ("contents", "words"), [(b"", "empty"), (b"a list of clips", "not written by torch.save"), (b"\x80\x02", "damaged")]
)
def test_other_files_are_told_as_such(tmp_path, contents, words):
    (tmp_path / "x.pt").write_bytes(contents)
    with pytest.raises(ValueError, match=words):
        open_pickle(tmp_path / "x.pt")


def test_a_missing_file_is_told_as_such(tmp_path):
    for opens in (open_pickle, open_safetensors):
        with pytest.raises(ValueError, match=r"none\.pt: no such file"):
            opens(tmp_path / "none.pt")


def test_a_saved_list_is_no_checkpoint(save):
    with pytest.raises(ValueError, match="expected a mapping of names, got a list"):
        open_pickle(save([torch.zeros(1)]))


def test_safetensors_give_tensors_and_metadata(tmp_path):
    save_file({"a": torch.ones(3)}, tmp_path / "x.safetensors", {"step": "4"})
    tensors, metadata = open_safetensors(tmp_path / "x.safetensors")
    assert tensors["a"].tolist() == [1, 1, 1]
    assert metadata == {"step": "4"}


def test_truncated_safetensors_are_told_as_such(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.ones(300)}, path)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"x\.safetensors: truncated, damaged"):
        open_safetensors(path)


def shards(folder):
    save_file({"a": torch.ones(2)}, folder / "one.safetensors")
    save_file({"b": torch.zeros(2)}, folder / "two.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}))
    return index


def test_shards_are_joined(tmp_path):
    assert {name: t.sum().item() for name, t in open_sharded(shards(tmp_path)).items()} == {"a": 2, "b": 0}


def test_a_tensor_that_is_not_in_its_shard_is_named(tmp_path):
    index = shards(tmp_path)
    save_file({"c": torch.zeros(2)}, tmp_path / "two.safetensors")
    with pytest.raises(ValueError, match="1 tensors are not in their files, first b"):
        open_sharded(index)


def test_a_missing_shard_is_named(tmp_path):
    index = shards(tmp_path)
    (tmp_path / "two.safetensors").unlink()
    with pytest.raises(ValueError, match=r"two\.safetensors: no such file"):
        open_sharded(index)


@pytest.mark.parametrize("text", ["{", "{}", '{"weight_map": 3}'])
def test_what_is_no_index_is_told_as_such(tmp_path, text):
    (tmp_path / "i.json").write_text(text)
    with pytest.raises(ValueError, match="not an index"):
        open_sharded(tmp_path / "i.json")
