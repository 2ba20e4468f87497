"""All decoders give the same frames, and each broken file is named for what it is."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from vjepa_lab.data import decoders
from vjepa_lab.data.containers import Unreadable
from vjepa_lab.data.decoders import decode, decode_part, read_image

LOADED = ["auto", "pyav"]
LOADED += ["decord"] if not isinstance(decoders._decord(), str) else []
LOADED += ["torchcodec"] if not isinstance(decoders._torchcodec(), str) else []


def at(*ids: int) -> decoders.Choose:
    """Asks for these frames."""
    return lambda times: np.array(ids)


FILMS = {
    "h264.mp4": {},
    "ntsc.mp4": {"fps": Fraction(30000, 1001)},
    "variable.mp4": {"times": np.cumsum([0.1, 0.2, 0.05, 0.3] * 6).tolist()},
    "h264.mkv": {},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "mpeg4.avi": {"codec": "mpeg4"},
    "reordered.avi": {"codec": "mpeg4", "b_frames": 2},
    "mjpeg.avi": {"codec": "mjpeg", "pixels": "yuvj420p"},
    "one_keyframe.mp4": {"gop": 100},
}
ONLY_PYAV = {
    "h264.ts": {"container": "mpegts"},
    "animation.gif": {"codec": "gif", "pixels": "rgb8"},
    "narrow.mp4": {"size": (32, 48)},
}


def every_frame(path: Path) -> np.ndarray:
    """The slow reference: decode it all, in order."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.mark.parametrize("name", LOADED)
@pytest.mark.parametrize("kind", FILMS)
def test_a_decoder_gives_the_frames_that_were_asked_for(film, kind, name):
    path = film(kind, **FILMS[kind])
    reference = every_frame(path)
    for ids in ([0], [23], [5, 6, 7], [0, 11, 11, 23, 23], [18, 20, 22], list(range(24))):
        found = decode(str(path), at(*ids), decoder=name)
        assert film.numbers(found.frames) == ids
        assert found.ids.tolist() == ids
        assert np.abs(found.frames.astype(int) - reference[ids]).max() <= 2


@pytest.mark.parametrize("kind", ONLY_PYAV)
def test_auto_reads_what_decord_cannot(film, kind):
    path = film(kind, **ONLY_PYAV[kind])
    found = decode(str(path), at(0, 7, 23))
    assert film.numbers(found.frames) == [0, 7, 23]


@pytest.mark.parametrize("name", LOADED)
@pytest.mark.parametrize("kind", ["h264.mp4", "variable.mp4", "h264.mkv", "mpeg4.avi"])
def test_bytes_read_like_the_file(film, kind, name):
    path = film(kind, **FILMS[kind])
    one = decode(str(path), at(3, 9), decoder=name)
    two = decode(path.read_bytes(), at(3, 9), decoder=name)
    assert (one.frames == two.frames).all()
    assert (one.times == two.times).all()


@pytest.mark.parametrize("name", LOADED)
def test_times_are_those_of_the_frames_and_begin_at_zero(film, name):
    times = np.cumsum([0.1, 0.2, 0.05, 0.3] * 6)
    path = film("variable.mp4", times=times.tolist())
    found = decode(str(path), lambda seen: np.arange(len(seen)), decoder=name)
    assert np.allclose(found.times, times - times[0], atol=1e-3)


@pytest.mark.parametrize("name", LOADED)
def test_a_film_taken_on_its_side_is_turned(film, name):
    halves = np.zeros((32, 64, 3), np.uint8)
    halves[:, :32] = 255
    found = decode(str(film.rotate(film(picture=lambda n: halves))), at(0, 1), decoder=name)
    assert found.frames.shape == (2, 64, 32, 3)
    assert found.frames[0, :28].mean() > 250, "what was left is on top after a clockwise turn"
    assert found.frames[0, 36:].mean() < 5


@pytest.mark.parametrize("name", LOADED)
def test_the_larger_of_two_streams_is_read(film, name):
    path = film(sizes=[(16, 32)], picture=film.noise)
    found = decode(str(path), at(0, 1), decoder=name)
    assert found.frames.shape == (2, 32, 64, 3)


def watch_walks(monkeypatch, spoil=lambda wanted, seek: wanted) -> list[int | None]:
    """Where PyAV sought to, per walk; ``spoil`` changes what a walk is asked for."""
    seeks: list[int | None] = []
    walk = decoders._walk

    def watched(video, index, wanted, threads, *, seek):
        seeks.append(seek)
        return walk(video, index, spoil(wanted, seek), threads, seek=seek)

    monkeypatch.setattr(decoders, "_walk", watched)
    return seeks


def test_a_clip_late_in_a_film_is_found_by_seeking(film, monkeypatch):
    seeks = watch_walks(monkeypatch)
    path = film(frames=48, gop=4)
    assert film.numbers(decode(str(path), at(41, 43, 47), decoder="pyav").frames) == [41, 43, 47]
    assert len(seeks) == 1
    assert seeks[0] is not None


def test_where_a_seek_lands_too_late_the_film_is_read_from_its_start(film, monkeypatch):
    # A wish for a frame before the keyframe that was sought is what a late landing looks like.
    seeks = watch_walks(monkeypatch, lambda wanted, seek: wanted if seek is None else [0, *wanted])
    path = film(frames=48, gop=8)
    assert film.numbers(decode(str(path), at(19, 30), decoder="pyav").frames) == [19, 30]
    assert len(seeks) == 2
    assert seeks[1] is None


@pytest.mark.parametrize("b_frames", [0, 2])
@pytest.mark.parametrize(("first", "count"), [(0, 10), (13, 17), (40, 20)])
def test_a_part_of_a_long_film_is_found_by_its_time(film, first, count, b_frames):
    video = str(film("a.mp4", frames=60, fps=15, codec="mpeg4", b_frames=b_frames))
    times = np.arange(count) / 15
    for wanted in ([0], [count - 1], [0, 3, 3, 7, 9], list(range(count))):
        part = decode_part(video, first / 15 + 1e-4, times, at(*wanted))
        assert film.numbers(part.frames) == [first + n for n in wanted]
        assert part.ids.tolist() == wanted
        assert part.times.tolist() == [times[n] for n in wanted]


def test_a_part_is_decoded_from_the_keyframe_before_it(film, monkeypatch):
    seeks = watch_walks(monkeypatch)
    decode_part(str(film("a.mp4", frames=60, fps=15)), 2.0, np.arange(30) / 15, at(5, 9))
    assert len(seeks) == 1
    assert seeks[0] is not None
    assert seeks[0] > 0


def test_a_part_beyond_the_end_of_a_film_or_of_one_that_was_cut_is_truncated(film):
    video = str(film("a.mp4", frames=30, fps=15))
    assert decode_part(video, 1.0, np.arange(30) / 15, at(14)).ids.tolist() == [14]
    with pytest.raises(Unreadable, match="the recording ends before 2") as error:
        decode_part(video, 1.0, np.arange(30) / 15, at(0, 15))
    assert error.value.reason == "truncated"
    with pytest.raises(Unreadable, match="cut short"):
        decode_part(str(film.cut("b.mp4", keep=0.8, index_first=True)), 0.0, np.arange(9) / 8, at(0))


@pytest.mark.skipif("decord" not in LOADED, reason="decord has no wheel here")
@pytest.mark.parametrize("case", ["no_timestamps.avi", "transport.ts", "two_streams.mp4", "cut.mp4"])
def test_decord_is_not_given_what_it_gets_wrong(film, monkeypatch, case):
    """Frames in the wrong order, other frames, another stream, and a crash of the process."""
    if case == "cut.mp4":
        path = film.cut(case, keep=0.6, index_first=True)
    else:
        more = {"no_timestamps.avi": {"codec": "mpeg4"}, "transport.ts": {"container": "mpegts"}}
        path = film(case, **more.get(case, {"sizes": [(16, 32)]}))
    monkeypatch.setattr(decoders._decord(), "VideoReader", lambda *args, **options: pytest.fail("decord was asked"))
    assert len(decode(str(path), at(0, 1), decoder="decord").frames) == 2


@pytest.mark.parametrize("name", LOADED)
def test_an_avi_that_was_cut_gives_the_frames_before_the_cut(film, name):
    """decord 0.6.0 ends the process with a segmentation fault on every such file."""
    path = film("mpeg4.avi", codec="mpeg4", picture=film.noise)
    whole = decode(str(path), at(0, 1), decoder=name)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.7)])
    assert (decode(str(path), at(0, 1), decoder=name).frames == whole.frames).all()


def test_a_decoder_that_cannot_be_loaded_is_refused_with_the_replacement(film, monkeypatch):
    path = str(film())

    def fail(name):
        raise OSError(f"{name}: lib missing")

    monkeypatch.setattr(decoders.importlib, "import_module", fail)
    for name in ("_decord", "_torchcodec"):  # not the cached answers
        monkeypatch.setattr(decoders, name, getattr(decoders, name).__wrapped__)
    with pytest.raises(
        ValueError, match=r"torchcodec cannot be loaded: torchcodec.decoders: lib missing; use decord or pyav"
    ):
        decode(path, at(0), decoder="torchcodec")
    with pytest.raises(ValueError, match="decord cannot be loaded: decord: lib missing; use pyav"):
        decode(path, at(0), decoder="decord")


def test_auto_needs_no_decord(film, monkeypatch):
    monkeypatch.setattr(decoders, "_decord", lambda: "no wheel")
    assert film.numbers(decode(str(film()), at(4)).frames) == [4]


@pytest.mark.parametrize("index_first", [True, False])
def test_a_file_that_was_cut_is_truncated(film, index_first):
    path = film.cut("cut.mp4", keep=0.6, index_first=index_first)
    with pytest.raises(Unreadable) as error:
        decode(str(path), lambda times: np.array([0, len(times) - 1]))
    assert error.value.reason == "truncated"


def test_a_cut_file_keeps_its_length_and_gives_the_frames_that_are_there(film):
    path = film.cut("cut.mp4", keep=0.6, index_first=True)
    lengths = []
    found = decode(str(path), lambda times: np.array([0, lengths.append(len(times)) or 10]))
    assert lengths == [48]
    whole = decode(str(film.cut("whole.mp4", keep=1.0, index_first=True)), at(0, 10))
    assert (found.frames == whole.frames).all()


def test_damage_counts_only_where_frames_are_wanted(film):
    path = film.spoilt("spoilt.mp4", share=0.6)
    found = decode(str(path), at(0, 5, 10))
    clean = decode(str(film.spoilt("clean.mp4", share=1.0)), at(0, 5, 10))
    assert (found.frames == clean.frames).all()
    with pytest.raises(Unreadable) as error:
        decode(str(path), lambda times: np.arange(48))
    assert error.value.reason == "undecodable"


def test_sound_without_a_picture_is_no_video(film):
    with pytest.raises(Unreadable) as error:
        decode(str(film.sound()), at(0))
    assert error.value.reason == "no_video"


@pytest.mark.parametrize("content", [b"<!DOCTYPE html><html></html>", np.random.default_rng(1).bytes(4096)])
def test_what_is_no_video_at_all_is_undecodable(content):
    with pytest.raises(Unreadable) as error:
        decode(content, at(0))
    assert error.value.reason == "undecodable"


@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [
        ("RGB", (200, 100, 50), (200, 100, 50)),
        ("L", 90, (90, 90, 90)),
        ("LA", (90, 10), (90, 90, 90)),
        ("RGBA", (200, 100, 50, 0), (200, 100, 50)),
        ("I;16", 0x5A00, (90, 90, 90)),
        ("1", 1, (255, 255, 255)),
    ],
)
def test_pictures_of_any_mode_become_rgb(tmp_path, mode, value, expected):
    path = tmp_path / "picture.png"
    Image.new(mode, (5, 4), value).save(path)
    pixels = read_image(str(path))
    assert pixels.shape == (4, 5, 3)
    assert tuple(pixels[2, 2]) == expected


def test_palettes_and_cmyk_become_rgb(tmp_path):
    plain = Image.new("RGB", (8, 8), (255, 0, 0))
    plain.quantize(4).save(tmp_path / "palette.png", transparency=0)
    plain.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    for name in ("palette.png", "cmyk.jpg"):
        assert np.abs(read_image(str(tmp_path / name)).astype(int) - [255, 0, 0]).max() <= 3


def test_a_picture_taken_on_its_side_is_turned(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4)).save(tmp_path / "a.jpg", exif=exif)
    assert read_image(str(tmp_path / "a.jpg")).shape == (8, 4, 3)


def test_half_a_picture_is_truncated_and_a_damaged_one_undecodable(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    data = path.read_bytes()
    for spoilt, reason in [(data[: len(data) // 2], "truncated"), (data[:16] + b"x" * 100, "undecodable")]:
        with pytest.raises(Unreadable) as error:
            read_image(spoilt)
        assert error.value.reason == reason
