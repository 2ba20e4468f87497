"""What a file is, from its first bytes, and where its frames are."""

import numpy as np
import pytest

from vjepa_lab.data.containers import Unreadable, cut_short, head, kind, read_index


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (b"\xff\xd8\xff\xe0", "image"),
        (b"\x89PNG\r\n\x1a\n", "image"),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "image"),
        (b"RIFF\x00\x00\x00\x00AVI LIST", "video"),
        (b"RIFF\x00\x00\x00\x00WAVEfmt ", ""),
        (b"\x00\x00\x00\x20ftypisom", "mp4"),
        (b"\x1a\x45\xdf\xa3", "video"),
        (b"GIF89a", "video"),
        (b"<!DOCTYPE html>", ""),
        (b"", ""),
    ],
)
def test_the_first_bytes_name_the_container(start, expected):
    assert kind(start) == expected


def test_the_extension_of_a_film_does_not_matter(film):
    for name, expected in [("a.mp4", "mp4"), ("a.mkv", "video"), ("a.avi", "video")]:
        path = film(name, frames=2, codec="mpeg4").rename(film.folder / f"{name}.jpg")
        assert kind(head(str(path))) == kind(head(path.read_bytes())) == expected


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(Unreadable) as error:
        head(str(tmp_path / "no.mp4"))
    assert error.value.reason == "missing"


@pytest.mark.parametrize("index_first", [True, False])
def test_an_mp4_that_lost_its_end_is_recognised(film, index_first):
    assert cut_short(str(film.cut("cut.mp4", keep=0.6, index_first=index_first)))
    whole = film.cut("whole.mp4", keep=1.0, index_first=index_first)
    assert not cut_short(str(whole))
    assert cut_short(whole.read_bytes()[:-1])


def test_an_index_has_the_times_and_keyframes_of_all_frames(film):
    times = np.cumsum([0.1, 0.2, 0.05, 0.3] * 6)
    index = read_index(str(film("variable.mp4", times=times.tolist(), gop=6)))
    assert np.allclose(index.times, times - times[0], atol=1e-3)
    assert np.searchsorted(index.at, index.keys).tolist() == [0, 6, 12, 18]
    assert (index.present, index.counted, index.damage, index.alone) == (24, False, "undecodable", True)


def test_an_avi_is_counted(film):
    index = read_index(str(film("a.avi", codec="mpeg4", fps=8)))
    assert index.counted
    assert index.times.tolist() == [n / 8 for n in range(24)]


@pytest.mark.parametrize("as_bytes", [False, True])
def test_a_cut_mp4_keeps_its_length_and_knows_what_is_present(film, as_bytes):
    path = film.cut("cut.mp4", keep=0.6, index_first=True)
    index = read_index(path.read_bytes() if as_bytes else str(path))
    assert len(index.at) == 48
    assert 10 < index.present < 40
    assert index.damage == "truncated"
    assert np.allclose(np.diff(index.times), 1 / 8)


def test_the_index_of_two_streams_is_that_of_the_larger(film):
    index = read_index(str(film(sizes=[(16, 32)])))
    assert (index.stream, index.alone) == (1, False)
