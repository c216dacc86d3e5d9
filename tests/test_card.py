"""Proves that a run's card says what its files say, calls the rest unknown, and stays Markdown."""

import json
from dataclasses import replace

import pyarrow
import pyarrow.parquet
import pytest
import yaml

from configs.data import DataConfig
from dit.cli import run
from dit.model import Transformer
from dit.runs.card import CardSettings, write_card
from tests.written_runs import at, row, settings, write_run

STARTS = [
    {"time": at(0), "step": 0, "processes": 2, "device": "NVIDIA H100", "versions": {"torch": "2.13.0"}}
]
HOSTILE = "a | b\n# c <script> [x](y) `z` \x1b[31m"


def rows_of(text: str, title: str) -> list[list[str]]:
    """The cells of the table below a title."""
    part = text.split(f"## {title}\n")[1].split("\n## ")[0]
    lines = [line for line in part.splitlines() if line.startswith("|")]
    return [line[2:-2].split(" | ") for line in lines[2:]]


def written(folder, config, **facts):
    """A run of three rows and one wrong step."""
    rows = [
        row(10, 1.5, 3600),
        row(20, 1.0, 7200),
        {"step": 20, "validation": 0.75, "validation_t0.125": 0.5},
    ]
    rows += [{"step": 20, "event": "skipped", "samples": ["a"]}, {"step": 30, "validation": 0.8}]
    return write_run(folder, config, rows, STARTS, **facts)


def test_every_figure_of_a_card_is_the_log_s(tmp_path):
    config = settings(steps=100, seed=7)
    folder = written(tmp_path / "run", config)
    (folder / "transformer.safetensors").write_bytes(b"abc")
    score = {"metric": "fvd", "value": 12.5, "stamps": ["few clips"], "protocol": {"name": "fvd-16"}}
    (tmp_path / "fvd.json").write_text(json.dumps(score | {"protocol_sha256": "e" * 64}))
    text = write_card(
        CardSettings(str(folder), scores=(str(tmp_path / "fvd.json"),), watts=500.0)
    ).read_text()
    header = yaml.safe_load(text.split("---")[1])
    assert (header["license"], header["pipeline_tag"]) == ("unknown", "text-to-video")
    model, training = dict(rows_of(text, "Model")), dict(rows_of(text, "Training"))
    count = sum(p.numel() for p in Transformer(config.model).parameters())
    assert model["parameters"] == f"{count:,} of the transformer"
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2's own example
    assert model["SHA-256 of transformer.safetensors"] == digest
    assert training["steps"] == "30 of 100" and training["train.seed"] == "7"
    assert float(training["tokens"]) == 20 * 8 * 32 and float(training["model FLOPs"]) == 20 * 8 * 32 * 1e6
    assert float(training["device-hours"]) == 4.0  # two hours of two processes
    assert training["energy"] == "2 kWh, at 500 W a device" and training["events: skipped"] == "1"
    assert rows_of(text, "Held-out clips")[0] == ["validation", "0.8", "30", "0.75", "0.8"]
    assert rows_of(text, "Scores") == [["fvd", "12.5", "fvd-16 eeeeeeeeeeee", "few clips"]]
    assert ["train.seed", "7", "0"] in rows_of(text, "Settings that differ from the defaults")
    assert rows_of(text, "Data")[0][3] == "none needed"


def test_what_no_file_says_is_unknown(tmp_path):
    folder = write_run(tmp_path / "run", settings(), [{"step": 1, "loss": 1.0}], starts=[])
    training = dict(rows_of(text := write_card(CardSettings(str(folder))).read_text(), "Training"))
    assert [training[name] for name in ("tokens", "model FLOPs", "device-hours", "energy")] == ["unknown"] * 4
    assert "None is on record: unknown." in text.split("## Scores")[1]
    energy = dict(
        rows_of(write_card(CardSettings(str(folder), overwrite=True, watts=9.0)).read_text(), "Training")
    )
    assert energy["energy"] == "unknown"  # no hours, no energy


def test_licences_and_sources_are_those_of_the_manifest(tmp_path):
    values = {"licence": ["cc-by", "cc-by", None], "path": ["a", "b", "c"]}
    pyarrow.parquet.write_table(pyarrow.table(values), tmp_path / "manifest.parquet")
    config = replace(settings(), data=DataConfig(source=str(tmp_path)))
    cells = rows_of(write_card(CardSettings(str(written(tmp_path / "run", config)))).read_text(), "Data")[0]
    assert cells[2:] == ["3", r"cc-by (2), unknown (1)", "unknown"]


def test_whatever_a_name_holds_a_card_stays_markdown(tmp_path):
    config = replace(settings(), data=DataConfig(source=HOSTILE), autoencoder=HOSTILE)
    text = write_card(CardSettings(str(written(tmp_path / "run", config)))).read_text()
    assert "\x1b" not in text and "<script" not in text.replace(r"\<", "")
    assert [line for line in text.splitlines() if line.startswith("# ")] == ["# run"]
    escaped = dict(rows_of(text.replace(r"\|", "/"), "Model"))["autoencoder"]
    assert escaped.startswith(r"a / b \# c \<script\> \[x\]\(y\) \`z\`")


def test_nothing_is_overwritten_unasked_and_other_files_are_no_scores(tmp_path, capsys):
    folder = written(tmp_path / "run", settings())
    assert run(["card", str(folder)]) == 0
    assert run(["card", str(folder)]) == 1 and "--overwrite" in capsys.readouterr().err
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ValueError, match=r"other.json is no score of one protocol"):
        write_card(CardSettings(str(folder), overwrite=True, scores=(str(tmp_path / "other.json"),)))
