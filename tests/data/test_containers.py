"""What a file is, from its first bytes."""

import pytest

from vjepa_lab.data.containers import Unreadable, cut_short, head, kind


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (b"\xff\xd8\xff\xe0", "image"),
        (b"\x89PNG\r\n\x1a\n", "image"),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "image"),
        (b"RIFF\x00\x00\x00\x00AVI LIST", "avi"),
        (b"RIFF\x00\x00\x00\x00WAVEfmt ", ""),
        (b"\x00\x00\x00\x20ftypisom", "mp4"),
        (b"\x1a\x45\xdf\xa3", "matroska"),
        (b"GIF89a", "other"),
        (b"<!DOCTYPE html>", ""),
        (b"", ""),
    ],
)
def test_the_first_bytes_name_the_container(start, expected):
    assert kind(start) == expected


def test_the_extension_of_a_film_does_not_matter(film):
    for name, expected in [("a.mp4", "mp4"), ("a.mkv", "matroska"), ("a.avi", "avi")]:
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
