"""Released files by name: found where they lie, fetched whole or not at all, and never exchanged unnoticed."""

from __future__ import annotations

import hashlib
import json
import logging
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from vjepa_lab.weights import names
from vjepa_lab.weights.names import Released, fetch, locate

CONTENTS = b"weights" * 1000
ROW = Released("evals/test.pt", 64, 8)


class Server(ThreadingHTTPServer):
    """Serves CONTENTS, or the first part of it, and notes what was asked for."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.asked: list[str] = []
        self.sent = len(CONTENTS)


class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        if self.path != "/evals/test.pt":
            return self.send_error(404)
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENTS)))
        self.end_headers()
        self.wfile.write(CONTENTS[: self.server.sent])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setattr(names, "BASE", f"http://127.0.0.1:{running.server_port}/")
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv(names.VARIABLE, raising=False)
    monkeypatch.setitem(names.TABLE, "vjepa2-test", ROW)
    return tmp_path / "torch" / "hub" / "checkpoints"


def record(cache):
    return json.loads((cache / "vjepa_lab.sha256.json").read_text())["test.pt"]


def test_a_file_is_fetched_once_into_the_cache_of_torch_hub(server, cache, caplog):
    with caplog.at_level(logging.INFO, "vjepa_lab"):
        path, row = locate("vjepa2-test")
    assert (path, row) == (cache / "test.pt", ROW)
    assert path.read_bytes() == CONTENTS
    assert f"{names.BASE}evals/test.pt (0.00 GB)" in caplog.text
    assert fetch("vjepa2-test") == path
    assert server.asked == ["/evals/test.pt"]
    assert record(cache)["sha256"] == hashlib.sha256(CONTENTS).hexdigest()


def test_processes_that_ask_at_once_fetch_it_once(server):
    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(fetch, ["vjepa2-test"] * 4))) == 1
    assert len(server.asked) == 1


def test_the_folder_of_the_variable_comes_first(server, cache, tmp_path, monkeypatch):
    monkeypatch.setenv(names.VARIABLE, str(tmp_path))
    (tmp_path / "test.pt").write_bytes(b"mine")
    assert fetch("vjepa2-test") == tmp_path / "test.pt"
    assert server.asked == []
    assert record(cache)["sha256"] == hashlib.sha256(b"mine").hexdigest()


def test_a_variable_that_is_no_folder_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv(names.VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"VJEPA_LAB_WEIGHTS=.*nowhere: no such folder"):
        fetch("vjepa2-test")


def test_a_download_that_breaks_off_leaves_no_file(server, cache):
    server.sent = 3000
    with pytest.raises(ConnectionError, match="broke off after 3000 bytes"):
        fetch("vjepa2-test")
    assert not list(cache.glob("*.pt*part")) + list(cache.glob("*.pt"))
    server.sent = len(CONTENTS)
    assert fetch("vjepa2-test").read_bytes() == CONTENTS


def test_without_a_network_it_says_where_to_put_the_file(cache, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setattr(names, "BASE", f"http://127.0.0.1:{free.getsockname()[1]}/")
    with pytest.raises(ConnectionError, match="refused") as told:
        fetch("vjepa2-test")
    for part in (f"{names.BASE}evals/test.pt", str(cache), names.VARIABLE):
        assert part in str(told.value)


def test_a_file_that_is_not_there_is_told_by_its_address(server, monkeypatch):
    monkeypatch.setitem(names.TABLE, "vjepa2-test", ROW._replace(file="gone.pt"))
    with pytest.raises(ConnectionError, match=r"gone\.pt: could not be fetched \(Not Found\)"):
        fetch("vjepa2-test")


def test_a_file_that_was_exchanged_is_refused(server, cache):
    fetch("vjepa2-test").write_bytes(CONTENTS[:-1] + b"!")
    with pytest.raises(ValueError, match="damaged or another file"):
        fetch("vjepa2-test")
    (cache / "test.pt").unlink()
    assert fetch("vjepa2-test").read_bytes() == CONTENTS


def test_a_copy_in_another_folder_is_compared_too(server, tmp_path, monkeypatch):
    fetch("vjepa2-test")
    monkeypatch.setenv(names.VARIABLE, str(tmp_path))
    (tmp_path / "test.pt").write_bytes(CONTENTS)
    assert fetch("vjepa2-test") == tmp_path / "test.pt"
    (tmp_path / "test.pt").write_bytes(b"other")
    with pytest.raises(ValueError, match="damaged or another file"):
        fetch("vjepa2-test")


def test_an_untouched_file_is_not_read_again(server, monkeypatch):
    path = fetch("vjepa2-test")
    monkeypatch.setattr(names, "_sha256", lambda path: pytest.fail("hashed again"))
    assert fetch("vjepa2-test") == path


def test_a_cache_that_cannot_be_written_is_done_without(cache, tmp_path, monkeypatch, caplog):
    cache.parent.parent.write_text("a file where the folder would be")
    monkeypatch.setenv(names.VARIABLE, str(tmp_path))
    (tmp_path / "test.pt").write_bytes(CONTENTS)
    assert fetch("vjepa2-test") == tmp_path / "test.pt"
    assert "the checksum of test.pt could not be recorded" in caplog.text


def test_a_damaged_record_is_told_as_such(server, cache):
    cache.mkdir(parents=True)
    (cache / "vjepa_lab.sha256.json").write_text("{")
    with pytest.raises(ValueError, match=r"vjepa_lab\.sha256\.json: not the checksums"):
        fetch("vjepa2-test")


def test_what_exists_is_a_path_also_under_a_released_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vjepa2-test").mkdir()
    assert locate("vjepa2-test")[0].is_dir()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("vjepa2-vitl-256", "did you mean vjepa2-vitl"),
        ("qqq", "there are: vjepa2-vitl, "),
        ("vjepa2.pt", r"vjepa2\.pt: no such file or folder"),
        ("runs/none", "runs/none: no such file or folder"),
        ("facebook/vjepa2-vitl-fpc64-256", "no such file or folder; .* the folder that `hf download facebook/vjepa2"),
    ],
)
def test_what_is_neither_is_told_with_the_nearest_name(text, words):
    with pytest.raises(ValueError, match=words):
        locate(text)


def test_addresses_are_those_that_were_published():
    assert names.BASE == "https://dl.fbaipublicfiles.com/vjepa2/"
    assert names.TABLE["vjepa2-vitg-384"] == ("vitg-384.pt", 384, 64)
    assert names.TABLE["vjepa2.1-vitb-384"].file == "vjepa2_1_vitb_dist_vitG_384.pt"
    files = [row.file for row in names.TABLE.values()]
    assert len(set(files)) == len(files)
