"""Shards: every sample once per epoch in a local order, labels and times, damage reported, the same as the listing."""

import importlib.util
import io
import json
import logging
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest

from vjepa_lab.data.clips import BadSample, ClipSpec
from vjepa_lab.data.sources.listing import Listing
from vjepa_lab.data.sources.shards import Shards, ShardsReader
from vjepa_lab.registry import SOURCES

SPEC = ClipSpec(frames=4, height=32, width=32, fps=4.0, stride=None)
TOOL = Path(__file__).parents[3] / "tools" / "videos_to_shards.py"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def opened(tmp_path: Path, sizes: list[int], spec: ClipSpec = SPEC, **fields) -> ShardsReader:
    """Tars with so many samples each, whose videos are not looked at."""
    for i, size in enumerate(sizes):
        write_tar(tmp_path / f"{i:02d}.tar", {f"{n}.mp4": b"x" for n in range(size)})
    return Shards(urls=f"{tmp_path}/*.tar", **fields).open(spec)


@pytest.mark.parametrize(("sizes", "group"), [([5], 8), ([3, 1, 4, 1, 5, 9, 2, 6], 3), ([7] * 10, 1), ([2, 30], 8)])
@pytest.mark.parametrize("clips", [1, 3])
def test_an_epoch_draws_every_clip_once(tmp_path, sizes, group, clips):
    reader = opened(tmp_path, sizes, SPEC._replace(clips=clips), shuffle_shards=group)
    assert len(reader) == sum(sizes) * clips
    orders = [[reader.order(key, p) for p in range(len(reader))] for key in (1, 2)]
    for order in orders:
        assert sorted(order) == list(range(len(reader)))
    assert orders[0] != orders[1], "epochs differ"
    assert orders[0] == [pickle.loads(pickle.dumps(reader)).order(1, p) for p in range(len(reader))]


def test_reads_stay_within_a_few_shards_and_are_mixed_there(tmp_path):
    reader = opened(tmp_path, [20] * 12, shuffle_shards=3)
    shard = np.array([reader.order(5, p) // 20 for p in range(240)])
    groups = [set(shard[i : i + 60].tolist()) for i in range(0, 240, 60)]
    assert [len(g) for g in groups] == [3, 3, 3, 3]
    assert set.union(*groups) == set(range(12))
    assert (np.diff(shard[:60]) != 0).sum() > 20, "not one shard after another"


def test_a_sample_has_its_clip_label_and_times(film, tmp_path):
    video = film("a.mp4", frames=48, fps=8).read_bytes()
    facts = json.dumps({"label": 9, "start": 2.0, "end": 4.0, "event": 3.0}).encode()
    write_tar(
        tmp_path / "s.tar",
        {
            "0.mp4": video,
            "1.cls": b"7\n",
            "1.mp4": video,
            "2.json": facts,
            "2.mp4": video,
            "3.mp4": video,
            "3.txt": b"?",
        },
    )
    reader = Shards(urls=str(tmp_path / "s.tar")).open(SPEC)
    samples = [reader.read(i, np.random.default_rng(0)) for i in range(4)]
    assert [s.label for s in samples] == [-1, 7, 9, -1]
    assert samples[0].clip.shape == (3, 4, 32, 64)
    shown = film.numbers(samples[2].clip.permute(1, 2, 3, 0).numpy())
    assert 16 <= shown[0] <= shown[-1] < 32
    assert samples[2].event == pytest.approx(3.0 - shown[0] / 8)
    assert samples[2].key == f"{tmp_path / 's.tar'}#2 2 frames {shown[0]}-{shown[-1]}"


def test_names_are_numbered_by_the_file_of_classes(film, tmp_path):
    video = film("a.mp4", frames=8).read_bytes()
    (tmp_path / "classes.txt").write_text("wave\nclap\n")
    files = {"0.mp4": video, "0.txt": b"clap\n", "1.cls": b"wave", "1.mp4": video, "2.cls": b"sing", "2.mp4": video}
    path = str(write_tar(tmp_path / "s.tar", files))
    named = Shards(urls=path, classes=str(tmp_path / "classes.txt")).open(SPEC)
    assert [named.read(i, np.random.default_rng(0)).label for i in range(2)] == [1, 0]
    assert named.classes == ["wave", "clap"]
    with pytest.raises(ValueError, match=r"s.tar#2 2: label: got 'sing', expected one of the 2 classes"):
        named.read(2, np.random.default_rng(0))
    with pytest.raises(ValueError, match="label: got 'wave', expected an integer"):
        Shards(urls=path).open(SPEC).read(1, np.random.default_rng(0))


def test_a_bad_video_is_a_bad_sample(tmp_path):
    write_tar(tmp_path / "s.tar", {"0.mp4": b"<html>", "1.mp4": b""})
    reader = Shards(urls=str(tmp_path / "s.tar")).open(SPEC)
    for index, reason in enumerate(["undecodable", "empty"]):
        with pytest.raises(BadSample) as error:
            reader.read(index, np.random.default_rng(0))
        assert error.value.reason == reason
        assert error.value.key == f"{tmp_path / 's.tar'}#{index} {index}"


def test_damage_is_reported_once_and_the_samples_before_it_are_used(film, tmp_path, caplog):
    video = film("a.mp4", frames=8).read_bytes()
    path = write_tar(tmp_path / "s.tar", {f"{i}.mp4": video for i in range(6)})
    write_tar(tmp_path / "t.tar", {"0.mp4": video})
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with caplog.at_level(logging.WARNING):
        reader = Shards(urls=[str(path), str(tmp_path / "t.tar")]).open(SPEC)
        for index in range(len(reader)):
            assert reader.read(index, np.random.default_rng(0)).clip.shape == (3, 4, 32, 64)
    assert reader.damaged == 1
    assert 2 < len(reader) < 6
    assert len(caplog.records) == 1
    assert "s.tar is damaged or cut short at byte" in caplog.text


@pytest.mark.parametrize("files", [{}, {"a.npy": b"x", "b.txt": b"y"}])
def test_a_tar_without_a_video_is_the_users_mistake(tmp_path, files):
    write_tar(tmp_path / "s.tar", files)
    with pytest.raises(ValueError, match=f"got a tar with {len(files)} files .* expected members such as 000.mp4"):
        Shards(urls=str(tmp_path / "s.tar")).open(SPEC)


def test_bad_fields_are_the_users_mistakes(tmp_path):
    with pytest.raises(ValueError, match="urls: got '', expected a path or URL"):
        Shards().open(SPEC)
    with pytest.raises(ValueError, match="commands are never run"):
        Shards(urls="pipe:cat a.tar").open(SPEC)
    with pytest.raises(ValueError, match="shuffle_shards: got 0, expected at least 1"):
        opened(tmp_path, [2], shuffle_shards=0)


def test_a_listing_written_to_shards_reads_the_same(film, tmp_path, capsys):
    names = ["wave", "clap", "wave", "run", "clap"]
    for i in range(len(names)):
        film(f"{i}.mp4", frames=16 + i)
    rows = "".join(f"{i}.mp4,{name},0.5\n" for i, name in enumerate(names))
    (tmp_path / "list.csv").write_text("path,label,start\n" + rows + "gone.mp4,wave,\nnotes.txt,wave,\n")
    (tmp_path / "notes.txt").write_text("no video")

    spec = importlib.util.spec_from_file_location("videos_to_shards", TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    folder = tmp_path / "shards"
    arguments = [str(tmp_path / "list.csv"), str(folder), "--samples", "2"]
    assert tool.main(arguments) == 0
    said = capsys.readouterr().out
    assert "5 of 7 samples" in said
    assert "in 3 tars" in said
    assert "skipped 1: missing or unreadable" in said
    assert "skipped 1: not a video or picture" in said

    listed = Listing(path=str(tmp_path / "list.csv")).open(SPEC)
    entry = {"name": "shards", "urls": f"{folder}/shard-{{000000..000002}}.tar", "weight": 2.0}
    packed = SOURCES.build(entry).open(SPEC)
    assert (folder / "shard-classes.txt").read_text().split() == listed.classes
    assert " 00000000" in packed.read(0, np.random.default_rng(3)).key  # a sample is named after its file
    key = lambda s: (s.label, s.clip.sum().item())  # noqa: E731
    one = sorted(key(listed.read(i, np.random.default_rng(3))) for i in range(5))
    two = sorted(key(packed.read(i, np.random.default_rng(3))) for i in range(5))
    assert one == two
    with pytest.raises(SystemExit):
        tool.main(arguments)  # does not write over what is there
