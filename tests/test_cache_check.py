"""Proves that `dit data check` finds what is wrong with a cache, and that its remedy mends it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dit.cli import run
from dit.encode import encode
from tests.test_cache import DATA, autoencoder, contents, own_folder, settings  # noqa: F401
from tests.tiny import fresh_accelerator  # noqa: F401
from vae.cache import encoding
from vae.cache.clips import open_cached
from vae.cache.index import load_cache
from vae.cache.shards import shard_files, write_shard
from vae.data.clips import batches, shares_of
from vae.load import load_autoencoder
from vae.training.weights import load_weights, save_weights


@pytest.fixture
def small(own_folder, autoencoder, tmp_path) -> Path:  # noqa: F811
    """A cache of several shards, to be damaged."""
    return encode(settings(own_folder, tmp_path / "cache", autoencoder, shard_clips=3))


def damage(file: Path, where: float = 0.9) -> None:
    """Changes one bit of a file."""
    content = bytearray(file.read_bytes())
    content[int(where * len(content))] ^= 4
    file.write_bytes(content)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-4])


def swap(file: Path) -> None:
    """Puts another shard in its place."""
    other = next(other for other in shard_files(file.parent) if other != file)
    file.write_bytes(other.read_bytes())


def orphan(file: Path) -> None:
    """Adds a shard of nothing that the index lists."""
    row = torch.zeros(2, 4, 1, 4, 4)
    what = {"file": "0", "frames": [0], "size": [32, 32]}
    about = {"autoencoder": "0", "dtype": "fp32", "compression": [4, 8]}
    write_shard(file.parent, "latents", {encoding.clip_key(what, "0", "fp32"): (row, what)}, about)


def not_finite(file: Path) -> None:
    """Writes a shard again with a number that is none."""
    tensors, header = load_weights(file)
    tensors = {key: tensor.clone() for key, tensor in tensors.items()}
    next(iter(tensors.values()))[0, 0, 0, 0, 0] = float("nan")
    told = {"autoencoder", "dtype", "compression"}
    rows = {key: (tensor, header.facts["rows"][key]) for key, tensor in tensors.items()}
    write_shard(file.parent, "latents", rows, {name: header.settings[name] for name in told})


def odd_checksums(file: Path) -> None:
    """Writes a shard again whose header gives a row's checksum as an object."""
    tensors, header = load_weights(file)
    facts = header.facts | {"crc32": {key: [1, {"a": 1}] for key in tensors}}
    save_weights(file, tensors, header.kind, header.settings, facts)


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (odd_checksums, "facts in its header: crc32"),
        (damage, "has changed since it was written: delete it, and give the `dit vae encode` command again"),
        (cut, "cannot be read"),
        (swap, "holds other rows than its name and header say"),
        (Path.unlink, "is not there: give the `dit vae encode` command again"),
        (not_finite, "is not finite"),
    ],
)
def test_the_check_finds_what_is_wrong_and_its_remedy_mends_it(
    small,
    own_folder,  # noqa: F811
    autoencoder,  # noqa: F811
    harm,
    words,
    capsys,
):
    before, file = contents(small), shard_files(small)[1]
    assert run(["data", "check", str(small)]) == 0
    assert "sound; 5 shards, 13 clips, 0 captions" in capsys.readouterr().out
    harm(file)
    assert run(["data", "check", str(small)]) == 1
    told = capsys.readouterr().err.splitlines()
    wrong = [line for line in told if line.startswith("wrong: ")]
    assert len(wrong) == (2 if harm is not_finite else 1) and words in wrong[0], told  # which has other sums
    many = "1 thing is" if len(wrong) == 1 else "2 things are"
    assert f"{many} wrong, each in a line above with what to do" in told[-1]
    if "delete it" in wrong[0]:
        file.unlink()
    encode(settings(own_folder, small, autoencoder, shard_clips=3))
    assert run(["data", "check", str(small)]) == 0
    assert contents(small) == before


def test_a_shard_that_nothing_lists_is_noted_and_pruned(small, own_folder, autoencoder, capsys):  # noqa: F811
    before, files = contents(small), shard_files(small)
    orphan(files[1])
    assert run(["data", "check", str(small)]) == 0
    assert "note: 1 shards hold nothing that the index lists" in capsys.readouterr().err
    encode(settings(own_folder, small, autoencoder, shard_clips=3, prune=True))
    assert shard_files(small) == files and contents(small) == before


def test_a_wrong_index_is_found(small, capsys):
    import pyarrow.parquet

    file = small / "index.parquet"
    table = pyarrow.parquet.read_table(file)
    rows = table.to_pylist()
    rows[0]["clip_offset"], rows[1]["keys"] = rows[1]["clip_offset"], rows[1]["keys"][:2]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, table.schema), file)
    assert run(["data", "check", str(small)]) == 1
    told = capsys.readouterr().err
    assert "long.mp4 is not in latents-" in told and "has 3 clips in the index, not 3" in told
    damage(file, 0.999)
    assert run(["data", "check", str(small)]) == 1
    assert "or damaged" in capsys.readouterr().err
    assert run(["data", "check", str(small.parent)]) == 1
    assert "no such cache; make one with `dit vae encode" in capsys.readouterr().err


@pytest.mark.parametrize("workers", [0, 1])
def test_a_shard_that_goes_bad_stops_training_in_one_sentence(small, autoencoder, workers):  # noqa: F811
    model = load_autoencoder(autoencoder)
    data, _ = open_cached(load_cache(small), replace(DATA, source=str(small)), 0, 1, model, sample=False)
    for file in shard_files(small):
        file.write_bytes(file.read_bytes()[:-3000])
    with pytest.raises(ValueError, match=r"^\S+ ends \d+ bytes too early: `dit data check ") as caught:
        for _ in batches(data, shares_of(4, 0, 8, 0, 1), workers):
            pass
    assert "\n" not in str(caught.value) and "dit data check" in str(caught.value)
    with pytest.raises(ValueError, match="is not there as it was: `dit data check"):
        load_cache(small)
