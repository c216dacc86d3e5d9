"""Proves that protocols choose the clips that their sources choose, and that jobs sample whom they say."""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from configs.protocol import (
    ClipChoice,
    FvdProtocol,
    job_protocols,
    load_protocol,
    load_protocols,
    protocol_module,
    protocol_names,
)
from dit.cli import run
from eval.benchmark import JOBS, RunEvalSettings, plan, protocols_of
from eval.clips import Source, choose_clips, video_of
from eval.fvd import fvd
from tests.test_fvd import folders, quick, settings  # noqa: F401
from vae.data.index import list_hash
from vae.data.ucf101 import SPLITS, classes_in_proportion, counts_of, read_split
from vae.data.video import read_frames, to_video
from vae.data.write import write_png_frames


def videos(*lengths: int) -> list[Source]:
    """Videos of so many frames, whose frames lie in folders."""
    pictures = [(Path("0.png"),) * length for length in lengths]
    return [Source(f"{k}/v", Path("v"), frames, key=f"v{k}") for k, frames in enumerate(pictures)]


def test_generated_clips_start_at_the_first_frame_where_their_source_does():
    sources = videos(*[200] * 40)
    for name in ("fvd-stylegan-v-2048", "fvd-stylegan-v-2048-uniform", "fvd-latte-2048-stride3"):
        protocol = load_protocol(name, "fvd")
        starts = {
            which: {clip.frames[0] for clip in choose_clips(sources, protocol.of_side(which), 0, 1)[0]}
            for which in ("real", "fake")
        }
        assert starts["fake"] == {0} and len(starts["real"]) > 20, name
    google = load_protocol("fvd-google", "fvd")
    assert google.of_side("fake") == google.of_side("real") == google
    assert load_protocol("ucf101-recon", "fvd").of_side("fake").start == "random"  # at the original's place


def test_what_follows_a_generated_clip_does_not_move_its_score(folders, quick, tmp_path):  # noqa: F811
    """Eight frames of noise after the sixteen: only where a clip may start later do they matter."""
    random = torch.Generator().manual_seed(0)
    for file in sorted(folders[1].rglob("*.mp4")):
        frames = read_frames(file, range(16))
        noise = torch.randint(256, (8, *frames.shape[1:]), dtype=torch.uint8, generator=random)
        for name, shown in (("short", frames), ("long", torch.cat([frames, noise]))):
            write_png_frames(tmp_path / name / file.stem, to_video(shown))
    for protocol, same in (("fvd-stylegan-v-2048", True), ("fvd-google", False)):
        short, long = (
            fvd(settings((folders[0], tmp_path / name), protocol=protocol, resamples=0))["value"]
            for name in ("short", "long")
        )
        assert (long == pytest.approx(short, rel=1e-9)) == same


def test_windows_are_all_clips_of_all_videos():
    clips, passed = choose_clips(videos(16, 15, 40), ClipChoice(videos="windows"), 0, 1)
    assert {clip.source.name: clip.frames for clip in clips} == {
        f"{video}/v@{first:06d}": tuple(range(first, first + 16))
        for video, starts in ((0, 1), (2, 25))
        for first in range(starts)
    }
    assert [clip.source.key for clip in clips] == sorted(clip.source.key for clip in clips)
    windows = ClipChoice(videos="windows")
    assert list(passed) == ["1/v"]
    assert {video_of(clip.source.name, windows) for clip in clips} == {"0/v", "2/v"}
    assert video_of("a@b/v_@12", windows) == "a@b/v_@12"
    assert video_of("v@000012", ClipChoice()) == "v@000012"


def test_windows_are_drawn_evenly_and_by_keys_and_seed():
    choice, sources = ClipChoice(videos="windows"), videos(515, 1015, 2515)
    clips, _ = choose_clips(sources, choice, 2000, 1)
    assert len({clip.source.name for clip in clips}) == 2000
    counts = Counter(video_of(clip.source.name, choice) for clip in clips)
    for video, windows in (("0/v", 500), ("1/v", 1000), ("2/v", 2500)):
        assert abs(counts[video] - windows / 2) < 70  # 250 +- 13, 500 +- 19, 1250 +- 22
    late = sum(clip.frames[0] >= 1250 for clip in clips if video_of(clip.source.name, choice) == "2/v")
    assert abs(late - counts["2/v"] / 2) < 90
    assert choose_clips(sources[::-1], choice, 2000, 1)[0] == clips
    named = [replace(source, name=f"other {source.name}") for source in sources]
    same = [(clip.source.key, clip.frames) for clip in choose_clips(named, choice, 2000, 1)[0]]
    assert same == [(clip.source.key, clip.frames) for clip in clips]
    assert choose_clips(sources, replace(choice, seed=1), 2000, 1)[0] != clips
    generated = replace(choice, fake_start="first").of_side("fake")
    assert [clip.frames[0] for clip in choose_clips(sources, generated, 0, 1)[0]] == [0, 0, 0]


def test_a_step_after_the_last_frame_counts_where_their_source_counts_it():
    for name, stride, least in (
        ("fvd-latte-2048-stride3", 3, 48),
        ("fvd-stylegan-v-2048-128f-subsample8", 8, 128),
        ("fvd-stylegan-v-2048-128f", 1, 128),
        ("msrvtt-2048-stride3", 3, 46),
    ):
        protocol = load_protocol(name, "fvd")
        assert protocol.real_stride == stride
        clips, passed = choose_clips(videos(least - 1, least), protocol, 0, stride)
        assert [clip.source.name for clip in clips] == ["1/v"]
        assert passed == {"0/v": f"v has {least - 1} frames, and a clip takes {least}"}
        assert len(clips[0].frames) == protocol.frames and clips[0].frames[-1] < least


def test_lists_are_those_of_their_splits(ucf101_lists):
    listed = [p for name in protocol_names() if (p := load_protocols(name).get("fvd")) and p.data == "ucf101"]
    assert len(listed) >= 8
    for protocol in listed:
        files = read_split(ucf101_lists, protocol.split)
        assert protocol.list_sha256 == list_hash([Path(file).stem for file in files]), protocol.name
        assert protocol.real <= len(files) or protocol.videos == "windows"


def says_what_is_not_certain(text: str) -> bool:
    """Whether a protocol's text says it, or says of which protocol all else is, whose own text does."""
    text = " ".join(text.split())
    if re.search("NOT comparable|Known to differ|[Nn]ot confirmed|no paper's protocol", text):
        return True
    base = re.search(r"All else[^`.]* as in `([\w-]+)`", text)
    found = base and base[1] in protocol_names()
    return bool(found) and says_what_is_not_certain(protocol_module(base[1]).__doc__)


def test_every_protocol_says_what_is_not_certain():
    for name in protocol_names():
        text = " ".join(protocol_module(name).__doc__.split())
        assert says_what_is_not_certain(text), name
        assert not re.search("seed and the (file's )?name", text), name  # nothing is drawn by names
    for text in ("FVD as its paper has it.", "All else is as usual.", "All else is as in `no-protocol`."):
        assert not says_what_is_not_certain(text)


def test_jobs_and_protocols_name_each_other():
    named = {job for name in protocol_names() for job in getattr(protocol_module(name), "JOBS", ())}
    assert named == {*JOBS}
    made = {job: {metric: p.name for metric, p in job_protocols(job).items()} for job in JOBS}
    for job, protocols in {
        "ucf101-zeroshot-13320": {"fvd": "ucf101-zeroshot-13320", "is": "is-c3d-10k"},
        "ucf101-class-magvit": {"fvd": "ucf101-class-magvit", "is": "is-c3d-10k-one-split"},
        "msrvtt-stride3": {"fvd": "msrvtt-2048-stride3"},
    }.items():
        assert made[job].items() >= protocols.items() and ("is" in made[job]) == ("is" in protocols)


@pytest.mark.parametrize("split", SPLITS)
def test_classes_come_as_often_as_real_ones(ucf101_lists, split):
    real = Counter(name.split("/")[0] for name in read_split(ucf101_lists, split))
    assert real == counts_of(split)
    order = classes_in_proportion(split)
    assert Counter(order) == real
    for first in (1, 100, 101, 2048, len(order) - 1):
        made = Counter(order[:first])
        assert all(abs(made[kind] - first * real[kind] / len(order)) <= 1 for kind in real), first


@pytest.mark.parametrize("job", [job for job in JOBS if job.startswith("ucf101")])
def test_a_job_plans_its_classes(job, ucf101_lists):
    asked = RunEvalSettings(job=job, sample_only=True)
    samples = plan(asked, protocols_of(asked))
    made = Counter(sample.name.split("/")[0] for sample in samples)
    takes = {"ucf101-zeroshot-13320": 13320, "ucf101-zeroshot-2048": 2048, "ucf101-class-tats": 2048}
    assert len(samples) == sum(made.values()) == takes.get(job, len(samples)) and len(made) == 101
    in_shares_of = {"ucf101-zeroshot-2048": "all", "ucf101-zeroshot-13320": "all"}
    in_shares_of |= {"ucf101-class-magvit": "train1", "ucf101-class-walt": "train1"}
    if job in in_shares_of:
        real = Counter(name.split("/")[0] for name in read_split(ucf101_lists, in_shares_of[job]))
        share = len(samples) / real.total()
        assert all(abs(made[kind] - share * real[kind]) <= 1 for kind in real)
    else:
        assert max(made.values()) - min(made.values()) <= 1
    assert (
        len({sample.name for sample in samples}) == len({sample.seed for sample in samples}) == len(samples)
    )


def test_long_and_short_clips_of_one_source_differ_in_their_frames_alone():
    def fields(name: str) -> dict:
        protocol = load_protocol(name, "fvd")
        assert isinstance(protocol, FvdProtocol)
        return vars(protocol)

    def apart(one: str, other: str) -> set[str]:
        return {key for key, value in fields(one).items() if value != fields(other)[key]} - {"name"}

    short = "fvd-stylegan-v-2048"
    assert apart(short, f"{short}-128f") == {"frames"}
    assert apart(short, f"{short}-128f-subsample8") == {"real_stride", "fake_stride"}
    assert apart("fvd-latte-2048-stride3", "fvd-latte-20480-stride3") == {"real", "fake"}
    assert apart("ucf101-class-magvit", "ucf101-class-walt") == {"frames"}
    assert apart("ucf101-zeroshot-10k", "ucf101-zeroshot-2048") == {"real", "fake"}


def test_no_job_is_named_with_all_of_them(capsys):
    assert run(["eval", "run"]) == 1
    told = capsys.readouterr().err
    assert all(job in told for job in JOBS)
