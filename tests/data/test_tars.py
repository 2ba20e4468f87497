"""Byte ranges of tars: as webdataset groups them, cached, damage seen, nothing ever run."""

import io
import os
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import webdataset
from torch.utils.data import DataLoader, Dataset

from vjepa_lab.data import tars
from vjepa_lab.data.containers import Unreadable


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def write_tar(path: Path, files: dict[str, bytes], style: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=style) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def contents(path: Path) -> list[dict[str, bytes]]:
    """Every sample of a tar, by its ranges."""
    files = tars.Files()
    return [tars.members(files.read(str(path), int(a), int(b)))[1] for a, b in tars.index(str(path)).ranges]


FILES = {
    "a/000.mp4": b"x" * 1000,
    "a/000.cls": b"3",
    "a/001.cls": b"4",
    "a/001.MP4": b"y" * 512,
    "README": b"no extension",
    "notes/x.txt": b"no video",
    "b.c/002.small.webm": b"z",
    "é" * 60 + "/" + "n" * 200 + ".jpg": b"long name",
}


@pytest.mark.parametrize("style", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_samples_are_those_of_webdataset_that_have_a_video_or_picture(tmp_path, style):
    path = write_tar(tmp_path / "a.tar", FILES, style)
    streamed = [
        {key.rpartition(".")[2]: value for key, value in sample.items() if not key.startswith("__")}
        for sample in webdataset.WebDataset(str(path), shardshuffle=False, empty_check=False)
    ]
    expected = [s for s in streamed if {"mp4", "webm", "jpg"} & set(s)]
    assert contents(path) == expected
    assert len(expected) == 4
    assert tars.index(str(path)).damaged_at == -1


def test_an_index_is_kept_until_the_tar_changes(tmp_path, monkeypatch):
    path = write_tar(tmp_path / "a.tar", {"0.mp4": b"one"})
    first = tars.index(str(path))
    assert list((tmp_path / "cache").rglob("*.npy"))
    scan = tars.scan
    monkeypatch.setattr(tars, "scan", lambda *args: pytest.fail("the index was not kept"))
    again = tars.index(str(path))
    assert (again.ranges == first.ranges).all()
    assert again[1:] == first[1:]
    monkeypatch.setattr(tars, "scan", scan)
    write_tar(path, {"0.mp4": b"one", "1.mp4": b"two"})
    assert len(tars.index(str(path)).ranges) == 2


def test_a_cache_that_cannot_be_written_or_read_does_no_harm(tmp_path, monkeypatch):
    path = write_tar(tmp_path / "a.tar", {"0.mp4": b"one"})
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(tars.index(str(path)).ranges) == 1
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    tars.index(str(path))
    for kept in (tmp_path / "cache").rglob("*.npy"):
        kept.write_bytes(kept.read_bytes()[:70])
    assert len(tars.index(str(path)).ranges) == 1


def many(count: int = 10) -> dict[str, bytes]:
    return {f"{n:03d}.{ext}": bytes([n]) * 700 for n in range(count) for ext in ("cls", "mp4")}


@pytest.mark.parametrize("keep", [0.05, 0.33, 0.5, 0.77, 0.99])
def test_of_a_cut_tar_the_whole_samples_are_used(tmp_path, keep):
    path = write_tar(tmp_path / "a.tar", many())
    whole = tars.index(str(path)).ranges
    size = int(whole[-1][1] * keep)
    path.write_bytes(path.read_bytes()[:size])
    found = tars.index(str(path))
    assert found.damaged_at >= 0
    assert (found.ranges == whole[: len(found.ranges)]).all()
    complete = int((whole[:, 1] <= size).sum())
    assert complete - 1 <= len(found.ranges) <= complete, "the last may lack members that were cut off"


def test_a_tar_is_used_up_to_a_spoilt_header(tmp_path):
    path = write_tar(tmp_path / "a.tar", many())
    whole = tars.index(str(path)).ranges
    data = bytearray(path.read_bytes())
    at = int(whole[6][0])
    data[at : at + 512] = b"\xa5" * 512
    path.write_bytes(bytes(data))
    found = tars.index(str(path))
    assert found.damaged_at == at
    assert (found.ranges == whole[: len(found.ranges)]).all()
    assert len(found.ranges) in (5, 6)


@pytest.mark.parametrize("content", [b"", b"no tar at all" * 100, b"\0" * 10])
def test_what_is_no_tar_holds_nothing(tmp_path, content):
    (tmp_path / "a.tar").write_bytes(content)
    found = tars.index(str(tmp_path / "a.tar"))
    assert len(found.ranges) == 0
    assert found.damaged_at == 0


def test_a_missing_tar_is_the_users_mistake_and_a_vanished_one_a_bad_read(tmp_path):
    with pytest.raises(ValueError, match=r"urls: got '/no/such.tar', expected a tar: No such file"):
        tars.index("/no/such.tar")
    with pytest.raises(ValueError, match="expected a tar"):
        tars.index(str(tmp_path))
    path = write_tar(tmp_path / "a.tar", {"0.mp4": b"one"})
    with pytest.raises(Unreadable) as error:
        tars.Files().read(str(path), 0, 10**6)
    assert error.value.reason == "truncated"
    with pytest.raises(Unreadable) as error:
        tars.Files().read("/no/such.tar", 0, 10)
    assert error.value.reason == "missing"


def test_few_files_are_open_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(tars, "OPEN_FILES", 3)
    paths = [write_tar(tmp_path / f"{i}.tar", {"0.mp4": bytes([i])}) for i in range(8)]
    files, before = tars.Files(), len(os.listdir("/proc/self/fd"))
    for path in paths + paths[::-1]:
        assert files.read(str(path), 512, 513) == bytes([int(path.stem)])
    assert len(os.listdir("/proc/self/fd")) - before == 3


@pytest.mark.parametrize(
    "url",
    [
        "pipe:cat a.tar",
        "pi{p,p}e:cat a.tar",
        "|cat a.tar",
        " | cat a.tar",
        "ssh host cat a.tar",
        "ssh://host/a.tar",
        "gopen:a.tar",
        "ftp://host/a.tar",
        "a.tar::b.tar",
        "simplecache::s3://bucket/a.tar",
        "exec:ls",
    ],
)
def test_what_would_run_a_command_is_refused(url):
    with pytest.raises(ValueError, match="commands are never run"):
        tars.expand(url)


def test_braces_globs_and_file_urls_are_expanded(tmp_path):
    for name in ("s-00.tar", "s-01.tar", "s-02.tar", "a b.tar"):
        (tmp_path / name).touch()
    assert tars.expand("s-{00..02}.tar") == ["s-00.tar", "s-01.tar", "s-02.tar"]
    assert tars.expand(f"{tmp_path}/s-*.tar") == [f"{tmp_path}/s-0{i}.tar" for i in range(3)]
    assert tars.expand(f"file://{tmp_path}/a%20b.tar") == tars.expand(f"file:{tmp_path}/a b.tar")
    assert tars.expand("https://host/s-{0..1}.tar?sig=x") == [f"https://host/s-{i}.tar?sig=x" for i in range(2)]
    with pytest.raises(ValueError, match="it fits none"):
        tars.expand(f"{tmp_path}/t-*.tar")


def test_a_signature_in_a_url_is_not_shown():
    assert tars.shown("https://host/a.tar?sig=secret") == "https://host/a.tar"
    assert tars.shown("/data/what?.tar") == "/data/what?.tar"


class Ranges(BaseHTTPRequestHandler):
    """A server of one folder that answers ranged requests, as object stores do."""

    folder: Path

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, *, body):
        path = self.folder / self.path.strip("/")
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        first, last, code = 0, len(data) - 1, 200
        if "Range" in self.headers:
            a, b = self.headers["Range"].removeprefix("bytes=").split("-")
            first, last, code = int(a), min(int(b or last), last), 206
        self.send_response(code)
        self.send_header("Content-Length", str(last - first + 1))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{len(data)}"')
        if code == 206:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.end_headers()
        if body:
            self.wfile.write(data[first : last + 1])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path):
    handler = type("Here", (Ranges,), {"folder": tmp_path})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


class Remote(Dataset):
    def __init__(self, url: str, ranges: np.ndarray) -> None:
        self.url, self.ranges, self.files = url, ranges, tars.Files()

    def __len__(self) -> int:
        return len(self.ranges)

    def __getitem__(self, index: int) -> dict[str, bytes]:
        return tars.members(self.files.read(self.url, *map(int, self.ranges[index])))[1]


def test_a_remote_tar_reads_like_the_local_one_also_in_forked_workers(tmp_path, server):
    path = write_tar(tmp_path / "a.tar", many())
    url = f"{server}/a.tar"
    remote = tars.index(url)
    assert (remote.ranges == tars.index(str(path)).ranges).all()
    read = list(DataLoader(Remote(url, remote.ranges), batch_size=None, num_workers=1))
    assert read == contents(path)
    with pytest.raises(Unreadable) as error:
        tars.Files().read(f"{server}/none.tar", 0, 10)
    assert error.value.reason == "missing"
    with pytest.raises(ValueError, match="expected a tar"):
        tars.index(f"{server}/none.tar")
