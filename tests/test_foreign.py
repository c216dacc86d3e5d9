"""Proves that files of others are not trusted: each has bounds and types, and is named where it has not."""

import json
import math
import os
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy
import pytest
import torch
from annotated_types import Ge
from typing_extensions import TypedDict

from configs.data import DataConfig
from configs.load import from_json, load_run, to_json
from configs.model import TextConfig, TransformerConfig
from configs.sampling import SamplerConfig, SampleSettings
from configs.train import FlowConfig, TransformerRun
from dit.cli import LONGEST_SENTENCE, run, sentence
from dit.load import load_model
from dit.start import check_text
from eval.networks.c3d import read_c3d
from tests.tiny import autoencoder_run, fresh_accelerator, transformer_run  # noqa: F401
from vae.cache.index import CachedFile, load_cache, save_index
from vae.cache.shards import read_locations, write_shard
from vae.data import parquet
from vae.data.columns import Entry
from vae.data.manifest import load_manifest, relative, save_manifest
from vae.data.msrvtt import read_annotations
from vae.diffusers_folder import read_config
from vae.model import Autoencoder
from vae.train import start_from
from vae.training import files
from vae.training.files import below, read_json, read_text
from vae.training.log import draw_curve, read_log
from vae.training.weights import read_header, save_weights


class Score(TypedDict):
    """Parts of a file."""

    value: Annotated[float, Ge(0)]
    names: list[str]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 100_000 + "]" * 100_000, "nested too deep"),
        ('{"value": 1, "names": ' + "[" * 800 + "]" * 800 + "}", "names.* must be|nested too deep"),
        ("9" * 10_000, "not JSON"),
        ("", "not JSON"),
        ('{"value": 1}', "names is missing"),
        ('{"value": NaN, "names": []}', "value = nan: it must be a finite number"),
        ('{"value": 1e999, "names": []}', "value = inf: it must be a finite number"),
        ('{"value": -1, "names": []}', "value = -1.* at least 0"),
        ('{"value": 1, "names": [null]}', r"names\[0\] = None"),
        ('{"value": "1", "names": []}', "value = '1'"),
        ('{"value": true, "names": []}', "value = True"),
        ("[1]", r"all of it = \[1\]"),
        ("null", "all of it = None"),
    ],
)
def test_a_json_file_is_refused_by_file_and_field(tmp_path, text, words):
    file = tmp_path / "score.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=words) as caught:
        read_json(file, Score)
    assert str(file) in str(caught.value)


def test_what_is_not_asked_of_a_file_stays_as_it_is(tmp_path):
    (tmp_path / "score.json").write_text('{"value": 1, "names": ["a"], "more": {"x": [1, null]}}')
    assert read_json(tmp_path / "score.json", Score) == {"value": 1, "names": ["a"], "more": {"x": [1, None]}}


def test_a_text_is_a_regular_utf8_file_with_an_end(tmp_path):
    with open(tmp_path / "large.json", "wb") as file:
        file.truncate(1 << 30)  # takes no space
    (tmp_path / "latin.json").write_bytes(b'{"a": "\xfc"}')
    os.mkfifo(tmp_path / "pipe.json")
    for name, words in {
        "large.json": "1,073,741,824 bytes",
        "latin.json": "not UTF-8",
        "pipe.json": "no regular file",
        "none.json": "no such file",
        "/dev/zero": "no regular file",
    }.items():
        with pytest.raises(ValueError, match=words):
            read_text(tmp_path / name)


@pytest.mark.parametrize(
    "name", ["../secret", "/dev/zero", "..", "", ".", "a/../../b.mp4", "a\0.mp4", "x" * 300 + "/.."]
)
def test_a_name_leads_out_of_no_folder(tmp_path, name):
    with pytest.raises(ValueError, match="which is no name of a file in it"):
        below(tmp_path, name)


def test_a_name_within_a_folder_is_taken(tmp_path):
    for name in ("a.mp4", "set/a..b.mp4", "...", ".a/b c.mp4"):
        assert below(tmp_path, name) == tmp_path / name
    with pytest.raises(ValueError, match="no name"):
        below(tmp_path, "latents-1.safetensors", r"latents-[0-9a-f]{24}\.safetensors")


def entry(path: Path, **more) -> Entry:
    """An entry of two frames."""
    values = {"frames": 2, "fps": 8.0, "height": 16, "width": 16, "codec": "h264", "duration": 0.25}
    values |= {"bytes": 9, "reader": "decord", "stream": 0, "streams": 1, "checksums": b"01234567"}
    return Entry(**values | more, path=path, captions=("a",))


def test_a_manifest_elsewhere_holds_its_root_and_one_beside_its_files_none(tmp_path, capsys):
    import pyarrow.parquet

    there = [tmp_path / "videos" / name for name in ("a.mp4", "deep/b.mp4")]
    for out, root in ((tmp_path / "videos/m.parquet", None), (tmp_path / "lists/m.parquet", b"../videos")):
        save_manifest(out, [entry(file) for file in there])
        table = pyarrow.parquet.read_table(out)
        assert (table.schema.metadata or {}).get(b"root") == root
        assert table["path"].to_pylist() == ["a.mp4", "deep/b.mp4"]
        assert [e.path.resolve() for e in load_manifest(out)] == there
        assert ("lists files in" in capsys.readouterr().err) == bool(root)


def test_a_link_in_a_folder_is_its_owners_choice(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/linked").symlink_to(tmp_path / "elsewhere")
    assert relative(tmp_path / "videos/linked/a.mp4", tmp_path / "videos") == "linked/a.mp4"
    save_manifest(tmp_path / "videos/m.parquet", [entry(tmp_path / "videos/linked/a.mp4")])
    assert [e.path for e in load_manifest(tmp_path / "videos/m.parquet")] == [
        tmp_path / "videos/linked/a.mp4"
    ]


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("path", "../secret.mp4", "no name of a file"),
        ("path", "/dev/zero", "no name of a file"),
        ("checksums", b"", "checksums, times, a rate or a reader"),
        ("path", "passwd", "none of a video or image"),
        ("path", None, "path has a cell without a value"),
        ("captions", [None], "captions has a cell without"),
        ("frames", 10**12, "frames = 1000000000000: it must be between"),
        ("frames", 3, "checksums, times, a rate or a reader"),
        ("height", -1, "height = -1"),
        ("fps", float("nan"), "fps = nan"),
        ("reader", "exec", "checksums, times, a rate or a reader"),
    ],
)
def test_a_cell_of_a_manifest_is_refused_by_its_column(tmp_path, column, value, words):
    import pyarrow
    import pyarrow.parquet

    file = tmp_path / "m.parquet"
    save_manifest(file, [entry(tmp_path / "a.mp4"), entry(tmp_path / "b.mp4")])
    assert len(load_manifest(file)) == 2
    table = pyarrow.parquet.read_table(file)
    rows = table.to_pylist()
    rows[1][column] = value
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, table.schema), file)
    with pytest.raises(ValueError, match=words) as caught:
        load_manifest(file)
    assert str(tmp_path) in str(caught.value)


def test_a_table_that_unfolds_without_end_is_refused(tmp_path, monkeypatch):
    import pyarrow
    import pyarrow.parquet

    monkeypatch.setattr(parquet, "ALWAYS", 10**6)
    monkeypatch.setattr(parquet, "MOST_AT_ONCE", 10**6)
    save_manifest(tmp_path / "m.parquet", [entry(tmp_path / "a.mp4")])
    table = pyarrow.concat_tables([pyarrow.parquet.read_table(tmp_path / "m.parquet")] * 2000)
    text = pyarrow.DictionaryArray.from_arrays([0] * 2000, ["x" * 10_000])  # 20 MB in a kilobyte
    table = table.set_column(table.column_names.index("treatment"), "treatment", text)
    pyarrow.parquet.write_table(table, tmp_path / "m.parquet", store_schema=False)
    assert (tmp_path / "m.parquet").stat().st_size < 50_000
    with pytest.raises(ValueError, match="has more than 1,000,000 bytes in some row groups"):
        load_manifest(tmp_path / "m.parquet")
    with pytest.raises(ValueError, match="unfolds to more than"):
        parquet.read_parquet(tmp_path / "m.parquet", "")


@pytest.fixture
def cache(tmp_path) -> Path:
    """A cache of one file."""
    about = {"autoencoder": "0", "dtype": "fp32", "compression": [4, 8]}
    what = {"file": "0", "frames": [0], "size": [32, 32]}
    shard = write_shard(tmp_path, "latents", {"k": (torch.zeros(2, 4, 1, 4, 4), what)}, about)
    place = read_locations(shard)[0]["k"]
    data = {"frames": 1, "size": 32, "fps": 8.0, "clips_per_file": 1}
    made = {
        "data": data,
        "autoencoder": "0",
        "autoencoder_files": "0",
        "name": "a",
        "dtype": "fp32",
        "text": None,
    }
    save_index(tmp_path, [CachedFile(("a",), ("k",), tmp_path / "a.mp4", "0", "", (place,), ())], made, None)
    assert load_cache(tmp_path).files[0].clips == (place,)
    return tmp_path


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("clip_shard", [-1], "in no shard"),
        ("clip_shard", [1], "in no shard"),
        ("clip_offset", [-8], "outside latents"),
        ("clip_offset", [10**9], "outside latents"),
        ("clip_shape", [[2, 4, 1, 10**9, 10**9]], "outside latents"),
        ("clip_shape", [[2, 4, 0, 4, 4]], "outside latents"),
        ("clip_shape", [[2, 4, 4, 4]], "a clip .*, which it cannot be"),
        ("clip_shape", [[1, 4, 1, 4, 4]], "a clip .*, which it cannot be"),
        ("clip_shape", [[]], "a clip .*, which it cannot be"),
        ("clip_crc32", [[]], "a clip .*, which it cannot be"),
        ("clip_crc32", [[1]], "a clip .*, which it cannot be"),
        ("clip_crc32", [[1, 2, 3]], "a clip .*, which it cannot be"),
        ("clip_shape", [], "in no shard"),
        ("clip_shape", None, "without a value"),
    ],
)
def test_an_index_that_points_elsewhere_is_refused(cache, column, value, words):
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(cache / "index.parquet")
    rows = [table.to_pylist()[0] | {column: value}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, table.schema), cache / "index.parquet")
    with pytest.raises(ValueError, match=words):
        load_cache(cache)


def empty(shape: list[int], crc32: list[int] = ()) -> dict:
    """Where the empty prompt's embedding lies."""
    shard = f"texts-{'0' * 24}.safetensors"
    return {"shard": shard, "offset": 0, "shape": shape, "crc32": list(crc32)}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda about: about["shards"].update({"../x": 1}), "'../x', which is no name"),
        (lambda about: about["shards"].update({"/dev/zero": 1}), "'/dev/zero', which is no name"),
        (lambda about: about["provenance"].pop("dtype"), "provenance.dtype is missing"),
        (
            lambda about: about["provenance"]["data"].update(frames=10**9),
            "provenance.data.frames = 1000000000",
        ),
        (lambda about: about.update(empty=7), "empty = 7"),
        (lambda about: about.update(empty=empty([2, 4])), "a caption .*, which it cannot be"),
        (lambda about: about.update(empty=empty([2], [1])), "a caption .*, which it cannot be"),
        (lambda about: about.update(shards=[1]), r"shards = \[1\]"),
    ],
)
def test_the_metadata_of_an_index_are_refused_by_their_part(cache, change, words):
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(cache / "index.parquet")
    about = json.loads(table.schema.metadata[b"latent cache"])
    change(about)
    table = table.replace_schema_metadata({b"latent cache": json.dumps(about)})
    pyarrow.parquet.write_table(table, cache / "index.parquet")
    with pytest.raises(ValueError, match=words):
        load_cache(cache)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ({"depth": 10**9}, "depth = 1000000000: it must be at most 1000"),
        ({"width": 10**20}, "width = 1"),
        ({"width": 65_536, "mlp_width": 65_536}, "does not fit the model's settings"),  # 300 GB
        ({"depth": "2"}, "depth = '2'"),
    ],
)
def test_a_header_of_a_huge_model_takes_no_memory(tmp_path, shape, words):
    model = to_json(TransformerConfig(width=32, heads=2)) | shape
    parts = {"text": TextConfig(), "sampler": SamplerConfig(), "flow": FlowConfig(), "data": DataConfig()}
    settings = {"model": model} | {name: to_json(part) for name, part in parts.items()}
    file = tmp_path / "transformer.safetensors"
    save_weights(file, {"a": torch.ones(2)}, "transformer", settings)
    with pytest.raises(ValueError, match=words):
        load_model(str(tmp_path), torch.device("cpu"), torch.float32)


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"smoothed": 1.0}, "step is missing"),
        ({"step": 2}, "smoothed is missing"),
        ({"step": 2, "smoothed": "x"}, "smoothed = 'x'"),
        ({"step": None, "smoothed": 1.0}, "step = None"),
        ({}, "is missing"),
    ],
)
@pytest.mark.parametrize("kind", ["transformer checkpoint", "autoencoder checkpoint"])
def test_a_checkpoint_says_its_step_and_its_loss(tmp_path, kind, facts, words):
    file = tmp_path / "model.safetensors"
    save_weights(file, {"a": torch.ones(2)}, kind, {}, facts)
    with pytest.raises(ValueError, match=f"model.safetensors, facts in its header: .*{words}"):
        read_header(file)
    save_weights(file, {"a": torch.ones(2)}, kind.split()[0], {}, {})
    assert read_header(file).facts == {}


def test_a_header_without_its_part_is_no_traceback(tmp_path):
    config, file = autoencoder_run(tmp_path / "run"), tmp_path / "vae.safetensors"
    save_weights(file, {"a": torch.ones(2)}, "autoencoder", {})
    with pytest.raises(ValueError, match=r"vae.safetensors: 'model' is missing"):
        start_from(Autoencoder(config.model), replace(config, init=str(file)))
    for folder, text, words in (("a", {}, "text is missing"), ("b", {"text": [1]}, r"text = \[1\]")):
        (tmp_path / folder / "transformer").mkdir(parents=True)
        (tmp_path / folder / "transformer/config.json").write_text("{}")
        (tmp_path / folder / "dit.json").write_text(json.dumps(text))
        with pytest.raises(ValueError, match=rf"dit\.json: {words}"):
            check_text(TextConfig(), tmp_path / folder)


def test_sizes_that_no_network_has_are_refused_in_any_config(tmp_path):
    large = [{"num_layers": 10**9}, {"d_model": 10**20}, {"block_out_channels": [1] * 2000}]
    for values in (*large, {"dropout_rate": math.nan}):
        (tmp_path / "config.json").write_text(json.dumps(values))
        with pytest.raises(ValueError, match=f"config.json: {next(iter(values))}"):
            read_config(tmp_path / "config.json")


def test_an_archive_that_unfolds_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MOST_WEIGHTS", 10**6)
    with zipfile.ZipFile(tmp_path / "c3d.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("conv1a/W.npy", bytes(2_200_000))
    assert (tmp_path / "c3d.npz").stat().st_size < 10_000
    with pytest.raises(ValueError, match=r"c3d\.npz unfolds to 2,200,000 bytes"):
        read_c3d(tmp_path / "c3d.npz", tmp_path / "mean.npz")
    numpy.savez(tmp_path / "other.npz", a=numpy.ones(2))
    with pytest.raises(ValueError, match="it has no conv1a/W"):
        read_c3d(tmp_path / "other.npz", tmp_path / "mean.npz")


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/b", "x" * 200, ""])
def test_a_video_of_msrvtt_has_a_name_that_is_one(tmp_path, name):
    values = {"videos": [{"video_id": name, "split": "test"}], "sentences": []}
    (tmp_path / "test_videodatainfo.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match="no name of a video"):
        read_annotations(tmp_path, "test")


def test_a_config_that_contains_itself_is_one_sentence(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from configs.train import TransformerRun\na = []\na.append(a)\nconfig = TransformerRun(prompts=a)\n"
    )
    with pytest.raises(ValueError, match=r"mine\.py: .* contains itself"):
        load_run(TransformerRun, str(tmp_path / "mine.py"))
    with pytest.raises(ValueError, match="contains itself"):
        deep: list = []
        deep.append(deep)
        from_json(SampleSettings, {"prompts": deep})


@pytest.mark.parametrize(
    "words",
    [
        ("--guidance", "1e308"),
        ("--frames", "1000000000"),
        ("--height", "1000000000"),
        ("--steps", "1000000000"),
        ("--number", "1000000000"),
        ("--fps", "1e308"),
        ("--decode-memory", "1e308"),
        ("--batch", "1" + "0" * 20),
    ],
)
def test_an_absurd_setting_is_refused_by_its_range(words, capsys):
    assert run(["sample", "p", *words]) == 1
    assert "at most" in capsys.readouterr().err


def test_a_record_names_no_file_that_is_read(tmp_path, monkeypatch):
    from dit import sample as verb

    (tmp_path / "secret.txt").write_text("secret prompt")
    origin = replace(SampleSettings(prompts=("p",)), prompts_file=str(tmp_path / "secret.txt"))
    model = {"flow": {}, "text": {}}
    record = {"sample": to_json(origin), "sampler": {}, "model": model, "weights": "", "frames_sha256": ""}
    asked = []
    monkeypatch.setattr(verb, "read_record", lambda _: record | {"torch": ""})
    monkeypatch.setattr(verb, "sample", lambda settings, before: asked.append(settings) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        verb._sample_again(SampleSettings(again=str(tmp_path / "a.mp4")))
    assert (asked[0].prompts_file, asked[0].image, asked[0].prompts) == ("", "", ("p",))


def test_a_spoilt_line_of_a_log_harms_no_other(tmp_path):
    spoilt = [
        '{"step": "2", "loss": 1}',
        '{"step": 1' + "0" * 400 + "}",
        "[" * 9000,
        "\0\0\0",
        "[2]",
        '{"loss": 1}',
    ]
    odd = [{"step": 2, "loss": loss} for loss in ("x", None, [1], 10**400)]  # of which nothing is drawn
    lines = ['{"step": 1, "loss": 2.5}', *spoilt, *map(json.dumps, odd), '{"step": 3, "loss": 2}', ""]
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    assert [row["step"] for row in read_log(tmp_path / "log.jsonl")] == [1, 2, 2, 2, 2, 3]
    draw_curve(tmp_path / "log.jsonl", {"loss": "loss"}, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").is_file()


def test_an_error_has_an_end_and_steers_no_terminal():
    for error in (
        ValueError("no file " + "n" * 5000 + ": give another"),
        ValueError("no file " + "n " * 5000),
        FileNotFoundError(2, "No such file", "\x1b[31mred\u202e\ud800" + "n" * 5000),
    ):
        text = sentence(error)
        assert len(text) < LONGEST_SENTENCE * 1.1 and text.isprintable() and "…" in text
    assert sentence(ValueError("no file " + "n" * 5000 + ": give another")).endswith(": give another")
    assert sentence(ValueError("a\x1b[2J\tb\nc")) == r"a\x1b[2J\tb c"
    assert sentence(ValueError("grün 猫 😀")) == "grün 猫 😀"
