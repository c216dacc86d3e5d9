"""Proves that a file of jobs is run line by line, resumed and listed, and shared by processes to the bit."""

import json
from pathlib import Path

import pytest

import dit.load
from configs.sampling import SampleSettings
from dit.cli import run
from dit.jobs import read_jobs
from tests.test_sample import folder, message, picture  # noqa: F401
from tests.test_sample_files import calls, state  # noqa: F401
from tests.tiny import launch
from vae.data.write import read_metadata


def write_jobs(file: Path, *lines: dict) -> Path:
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def listed(home: Path) -> list[dict]:
    return [json.loads(line) for line in (home / "results.jsonl").read_text().splitlines()]


def test_every_line_is_a_call_and_what_is_there_is_kept(folder, picture, tmp_path, capsys, monkeypatch):  # noqa: F811
    whole, loads = dit.load.load_model, []
    monkeypatch.setattr(dit.load, "load_model", lambda *a: loads.append(a) or whole(*a))
    jobs = write_jobs(
        tmp_path / "jobs.jsonl",
        {"prompt": "a cat", "seed": 7, "steps": 2},
        {"prompts": ["a dog", "a cow"], "negative_prompt": "fog", "frames": 1, "out": str(tmp_path / "more")},
        {"prompt": "a cat", "image": picture.name, "out": str(tmp_path / "b.gif")},
    )
    words = ["sample", "--jobs", str(jobs), "--model", str(folder), "--out", str(tmp_path / "out")]
    assert run(words) == 0
    printed = capsys.readouterr().out.split()
    rows = listed(tmp_path / "out")
    assert [row["job"] for row in rows] == [1, 2, 3] and [len(row["files"]) for row in rows] == [1, 3, 1]
    assert printed == [*(name for row in rows for name in row["files"]), str(tmp_path / "out/results.jsonl")]
    assert len(loads) == 1, "one model for all of them"
    record = read_metadata(rows[0]["files"][0])
    assert (record["seed"], record["sampler"]["steps"], record["prompt"]) == (7, 2, "a cat")
    assert read_metadata(rows[1]["files"][1])["negative"] == "fog"
    assert "givens" in json.loads((tmp_path / "b.json").read_text())
    before = {name: value for name, value in state(tmp_path).items() if "results" not in name}
    Path(rows[0]["files"][0]).unlink()
    gone = {name for name in before if name.endswith("a-cat-7.mp4")}
    assert run(words) == 0 and listed(tmp_path / "out") == rows
    after = state(tmp_path)
    assert all(after[name] == before[name] for name in before.keys() - gone if "a-cat-7" not in name)
    assert all(after[name][1] == before[name][1] for name in gone), "made again to the bit"
    # Alone, each is the same.
    alone = ["sample", "a cat", "--seed", "7", "--steps", "2", "--model", str(folder), "--out"]
    assert run([*alone, str(tmp_path / "alone.mp4")]) == 0
    assert read_metadata(tmp_path / "alone.mp4")["frames_sha256"] == record["frames_sha256"]


def test_a_job_that_fails_is_listed_and_the_others_go_on(folder, calls, tmp_path, capsys):  # noqa: F811
    good, bad = {"prompt": "a cat"}, {"prompt": "a dog", "height": 50}
    jobs = write_jobs(tmp_path / "jobs.jsonl", bad, good)
    words = ["sample", "--jobs", str(jobs), "--model", str(folder), "--out", str(tmp_path / "out")]
    assert run(words) == 1
    said = capsys.readouterr().err
    assert "1 of 2 jobs failed" in said and "of line 1: height 50 is no positive multiple of 16" in said
    rows = listed(tmp_path / "out")
    assert "height 50" in rows[0]["error"] and Path(rows[1]["files"][0]).is_file() and len(calls) == 1
    write_jobs(jobs, bad | {"height": 48}, good)
    assert run(words) == 0 and len(calls) == 2, "what was done is not made again"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"prompt": "a", "sede": 3}, "jobs.jsonl, line 2: unknown setting sede; did you mean seed?"),
        ({"seed": 3}, "jobs.jsonl, line 2, has no prompt"),
        ({"prompt": "a", "prompts": ["b"]}, "line 2, has both prompt and prompts"),
        ({"prompt": "a", "steps": 0}, "line 2: steps = 0"),
        ({"prompt": "a", "again": "x.mp4"}, "line 2, has again, which no job takes"),
        ({"prompt": "a cat", "steps": 7}, "a-cat-0.mp4, as line 1 does: give it another seed"),
    ],
)
def test_a_line_that_is_no_job_is_named_before_anything_is_made(folder, calls, tmp_path, capsys, line, said):  # noqa: F811
    jobs = write_jobs(tmp_path / "jobs.jsonl", {"prompt": "a cat"}, line)
    assert said in message(capsys, "--jobs", jobs, "--model", folder, "--out", tmp_path / "out")
    assert calls == [] and not (tmp_path / "out").exists()


def test_files_of_a_line_lie_in_the_folder_of_the_jobs(tmp_path):
    line = {"prompt": "a", "join": ["a.mp4", "/b.mp4"], "keyframe": ["c.png@4"], "image": "d.png", "mask": ""}
    [job] = read_jobs(write_jobs(tmp_path / "jobs.jsonl", line), SampleSettings(last="e.png"))
    assert job.join == (f"{tmp_path}/a.mp4", "/b.mp4") and job.keyframe == (f"{tmp_path}/c.png@4",)
    assert (job.image, job.mask, job.last) == (f"{tmp_path}/d.png", "", "e.png")


def test_jobs_take_no_other_prompts(tmp_path, capsys):
    jobs = write_jobs(tmp_path / "jobs.jsonl", {"prompt": "a cat"})
    assert "has the prompts in its lines" in message(capsys, "a dog", "--jobs", jobs)
    assert "give --jobs a folder" in message(capsys, "--jobs", jobs, "--out", tmp_path / "a.mp4")
    assert "no such file of jobs" in message(capsys, "--jobs", tmp_path / "none.jsonl")


@pytest.mark.long
def test_two_processes_make_the_videos_of_one(folder, tmp_path):  # noqa: F811
    """Of a prompts file they share the packs, of jobs the lines; frames, records and lists are one's."""
    prompts = tmp_path / "p.txt"
    prompts.write_text("a cat\na dog\na cow\na pig\na hen\n")
    jobs = write_jobs(tmp_path / "jobs.jsonl", *({"prompt": f"job {k}", "seed": k} for k in range(3)))
    for words in (["--prompts-file", prompts, "--batch", 2], ["--jobs", jobs]):
        made = {}
        for count in (1, 2):
            out = tmp_path / f"{words[0]}-{count}"
            arguments = [*words, "--model", folder, "--steps", 2, "--out", out]
            done = launch("dit.sample", *arguments, processes=count)
            assert done.returncode == 0, done.stderr
            made[count] = {f.name: f for f in out.iterdir()}
            assert len(done.stdout.split()) == len(set(done.stdout.split())) == (6 if len(words) > 2 else 4)
        assert made[1].keys() == made[2].keys()
        for name in made[1]:
            if name.endswith(".mp4"):
                one, two = (read_metadata(made[count][name]) for count in (1, 2))
                assert one["frames_sha256"] == two["frames_sha256"] and one["AIGC"] == two["AIGC"]
