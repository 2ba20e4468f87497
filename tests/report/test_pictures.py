"""Pictures and films come out of the page pixel by pixel as they went in."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from vjepa_lab.report.pictures import film, gallery, picture

FRAMES = torch.randint(0, 256, (5, 8, 6, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def opened(address: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))


@pytest.mark.parametrize("form", ["tensor", "array", "floats"])
def test_a_picture_is_the_pixels_that_were_given(form, read):
    pixels = {"tensor": FRAMES[0], "array": FRAMES[0].numpy(), "floats": FRAMES[0] / 255}[form]
    (tag,) = read(picture(pixels, caption="a < b", scale=3)).of("img")
    assert np.array_equal(np.asarray(opened(tag["src"])), FRAMES[0].numpy())
    assert (tag["width"], tag["height"], tag["alt"]) == ("18", "24", "a < b")


def test_a_map_is_grey(read):
    (tag,) = read(picture(np.array([[0.0, 1.0]]))).of("img")
    assert np.asarray(opened(tag["src"])).tolist() == [[[0, 0, 0], [255, 255, 255]]]


def test_a_film_plays_all_frames_for_ever_and_stands_still_on_request(read):
    reader = read(film(FRAMES, fps=8))
    moving, still = opened(reader.of("img")[0]["src"]), opened(reader.of("source")[0]["srcset"])
    assert (moving.n_frames, moving.info["loop"], moving.info["duration"]) == (5, 0, 125.0)
    for i in range(5):
        moving.seek(i)
        assert np.array_equal(np.asarray(moving.convert("RGB")), FRAMES[i].numpy())
    assert np.array_equal(np.asarray(still), FRAMES[0].numpy())
    assert reader.of("source")[0]["media"] == "(prefers-reduced-motion: reduce)"


def test_equal_frames_stay_frames(read):
    moving = opened(read(film(FRAMES[:1].repeat(3, 1, 1, 1))).of("img")[0]["src"])
    assert moving.n_frames in (1, 3)  # what does not move may be one frame that is shown longer
    assert np.array_equal(np.asarray(moving.convert("RGB")), FRAMES[0].numpy())


def test_a_gallery_puts_equal_places_below_each_other(read):
    reader = read(gallery({"frame": list(FRAMES[:3]), "decoded": list(FRAMES[2:])}, gap=2))
    first, second = (np.asarray(opened(tag["src"])) for tag in reader.of("img"))
    assert first.shape == second.shape == (8, 3 * 6 + 2 * 2, 4)
    assert np.array_equal(first[:, 8:14, :3], FRAMES[1].numpy())
    assert np.array_equal(second[:, :6, :3], FRAMES[2].numpy())
    assert (first[..., 3] == 0).sum() == 2 * 2 * 8
    assert reader.text == ["frame", "decoded"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: picture(np.zeros((2, 2, 4), np.uint8)), r"expected \(H, W, 3\) or \(H, W\), got \(2, 2, 4\)"),
        (lambda: picture(np.zeros((2, 2), np.int64)), "expected uint8 or floats"),
        (lambda: picture(np.full((2, 2), 1.5)), r"floats in \[0, 1\], got 1.5 to 1.5"),
        (lambda: picture(np.full((2, 2), np.nan)), r"floats in \[0, 1\]"),
        (lambda: film(FRAMES[:0]), "at least one frame"),
        (lambda: film(FRAMES, fps=0), "positive rate"),
        (lambda: gallery({"a": list(FRAMES[:2]), "b": list(FRAMES[:1])}), "rows of equally many images"),
        (lambda: gallery({"a": [FRAMES[0], FRAMES[0, :4]]}), "images of one size"),
    ],
)
def test_what_is_no_picture_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
