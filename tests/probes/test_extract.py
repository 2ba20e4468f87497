"""A table holds every row once with its own targets, and is not encoded twice."""

import pytest
import torch

from vjepa_lab.data.streams import Demand, Look, Stream
from vjepa_lab.features import FrozenEncoder
from vjepa_lab.nn.encoder import Encoder
from vjepa_lab.probes._controls import control
from vjepa_lab.probes._extract import extract, extract_each

LOOK = Look(frames=4, crop=16)


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return FrozenEncoder(encoder=Encoder(width=24, depth=2, heads=2, patch=8), frames=4, crop=16)


def stream(count=7, batch=3, **fields):
    return Stream(Demand({"name": "synthetic", "split": "val"}, count=count), LOOK, batch=batch, **fields)


def test_rows_are_those_of_the_encoder_clip_by_clip(encoder):
    table = extract(encoder, stream(), layers=(0, -1))
    assert table.unit.tolist() == list(range(7))
    assert set(table.x) == {0, -1}
    batch = list(stream(batch=1))[5]
    assert table.key[5] == batch.key[0]
    assert torch.allclose(table.x[-1][5], encoder.pooled(batch.clip)[0], atol=1e-6)
    assert torch.allclose(table.x[0][5], encoder.taps(batch.clip, [0])[0].tokens.mean(1)[0], atol=1e-6)
    assert torch.equal(table.y["position"][5], batch.truth["position"][0])
    assert table.grid == (2, 2, 2)


def test_shuffling_pairs_features_with_the_targets_of_others(encoder):
    plain, control = (extract(encoder, stream(count=40, shuffled=s)) for s in (False, True))
    assert torch.equal(plain.x[-1], control.x[-1])
    assert not torch.equal(plain.y["position"], control.y["position"])
    assert torch.equal(plain.y["position"].sum(0).round(decimals=3), control.y["position"].sum(0).round(decimals=3))
    assert torch.equal(control.y["position"], extract(encoder, stream(count=40, shuffled=True)).y["position"])


def test_a_kept_table_is_read_and_not_encoded_again(encoder, tmp_path, monkeypatch):
    first = stream()
    first.cache = str(tmp_path)
    table = extract(encoder, first, pool="tubelet")
    monkeypatch.setattr(encoder, "layers", None)
    again = extract(encoder, first, pool="tubelet")
    assert torch.equal(table.x[-1], again.x[-1])
    assert again.key == table.key
    assert again.grid == table.grid
    assert table.y.keys() == again.y.keys()
    other = stream(count=6)
    other.cache = str(tmp_path)
    with pytest.raises(TypeError):  # of another split nothing is kept
        extract(encoder, other, pool="tubelet")


def test_other_weights_have_another_table(encoder, tmp_path):
    first = stream()
    first.cache = str(tmp_path)
    before = extract(encoder, first).x[-1]
    with torch.no_grad():
        encoder.encoder.blocks[0].mlp.fc1.weight.mul_(2)
    assert not torch.equal(before, extract(encoder, first).x[-1])


def test_clips_can_be_changed_on_the_way(encoder):
    table = extract(encoder, stream(), transform=lambda clip, keys: torch.zeros_like(clip), tag="black")
    assert torch.allclose(table.x[-1][0], table.x[-1][6], atol=1e-6)


def test_encoders_of_equal_weights_that_see_differently_share_no_table(encoder, tmp_path):
    """Bare pixels and constant features have the same weights, and so have encoders of other heads or rotary layout."""
    twins = [control("pixels", encoder), control("constant", encoder), encoder]
    for changed in ({"heads": 1}, {"rope": "released"}):
        network = Encoder(**{"width": 24, "depth": 2, "heads": 2, "patch": 8} | changed)
        network.load_state_dict(encoder.encoder.state_dict())
        twins.append(FrozenEncoder(encoder=network, frames=4, crop=16))
    assert twins[0].fingerprint() == twins[1].fingerprint()
    assert len({twin.fingerprint() for twin in twins[2:]}) == 1
    for twin in twins:
        kept = stream()
        kept.cache = str(tmp_path)
        plain, first, again = (extract(twin, s).x[-1] for s in (stream(), kept, kept))
        assert torch.equal(first, plain)
        assert torch.equal(again, plain)
    assert len(list(tmp_path.glob("*.safetensors"))) == len(twins)


def test_a_kept_table_still_tells_what_could_not_be_read(encoder, tmp_path):
    from PIL import Image

    Image.new("RGB", (20, 20), "red").save(tmp_path / "good.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    (tmp_path / "list.csv").write_text("path,label\ngood.png,a\nbroken.png,b\n")
    for _ in range(2):
        kept = Stream(Demand({"name": "listing", "path": str(tmp_path / "list.csv")}), LOOK, batch=2)
        kept.cache = str(tmp_path / "features")
        assert extract(encoder, kept).y["label"].tolist() == [0]
        assert [(bad.key, bad.reason) for bad in kept.skipped] == [(str(tmp_path / "broken.png"), "undecodable")]


def test_versions_of_clips_are_those_made_one_by_one_from_one_reading(encoder, tmp_path, monkeypatch):
    versions = {"": None, "dark": lambda clip, keys: clip // 2, "back": lambda clip, keys: clip.flip(2)}
    kept, reads = stream(shuffled=True), []
    kept.cache = str(tmp_path)
    read = kept.reader.read
    monkeypatch.setattr(kept.reader, "read", lambda *words: reads.append(words) or read(*words))
    extract(encoder, kept, transform=versions["back"], tag="back")
    assert len(reads) == 9
    tables = extract_each(encoder, kept, versions)
    assert list(tables) == list(versions)
    assert len(reads) == 18  # one of them was kept, the other two are read together
    for tag, transform in versions.items():
        alone = extract(encoder, stream(shuffled=True), transform=transform, tag=tag)
        assert torch.equal(tables[tag].x[-1], alone.x[-1])
        assert torch.equal(tables[tag].y["position"], alone.y["position"])
        assert tables[tag].grid == alone.grid
    assert not torch.equal(tables[""].x[-1], tables["dark"].x[-1])


def test_measures_take_the_place_of_features(encoder):
    table = extract(encoder, stream(), measure=lambda clip: clip.float().mean((1, 2, 3)), tag="light")
    assert table.x[-1].shape == (7, 16)
    assert torch.equal(table.x[-1][6], next(iter(stream(batch=7))).clip[6].float().mean((0, 1, 2)))
