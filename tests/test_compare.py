"""Proves that scores stand side by side by metric, in its decimals, and only where they compare."""

import json

import pytest

from dit.cli import run
from eval.compare import compare
from vae.training.files import write_json

PROTOCOLS = {
    "fvd": {"name": "fvd-any", "data": "any", "frames": 16, "real": 4},
    "clipsim": {"name": "msrvtt-2990", "frames": 0},
}


def score(metric: str, value: float, **changes) -> dict:
    """What scoring writes, as far as it is compared."""
    ends = {"low": value - 0.125, "high": value + 0.125}
    sides = {
        "real": {"rgb_sha256": "a" * 64, "clips": 4, "decoder": "d"},
        "fake": {"clips": 4, "decoder": "d"},
    }
    sides["made_with"] = {"torch": "2.8.0", "device": "cpu"}
    about = {"metric": metric, "value": value, "interval": ends, "stamps": [], "weights": "w" * 64}
    return about | {"protocol": PROTOCOLS[metric], "protocol_sha256": "p" * 64} | sides | changes


def reconstruction(psnr: float, **changes) -> dict:
    scores = {"psnr": psnr, "pooled_psnr": psnr, "ssim": 0.98765}
    about = {
        "metric": "reconstruction",
        "scores": scores,
        "lpips": {"trunk": "alex", "weights": "left out: /x"},
    }
    about |= {"fvd": None, "each": [{"video": "a"}, {"video": "b"}], "made_with": {"torch": "2.8.0"}}
    return about | {"real": {"rgb_sha256": "a" * 64}} | changes


@pytest.fixture
def written(tmp_path):
    """Writes scores under names; `run` is a folder of `dit eval run`."""

    def write(name: str, **scores) -> str:
        for metric, values in scores.items():
            write_json(tmp_path / name / f"{metric}.json", values)
        write_json(
            tmp_path / name / "scores.json", {"job": "msrvtt", "scores": {metric: {} for metric in scores}}
        )
        return str(tmp_path / name)

    return write


def test_a_metric_has_its_decimals(written):
    run = written("a", fvd=score("fvd", 123.456789), clipsim=score("clipsim", 0.298765))
    clipsim, fvd = compare([run, run]).split("\n\n")
    assert fvd.splitlines()[2].split()[1:] == ["123.46", "123.33", "to", "123.58", "4", "(4", "real)"]
    assert clipsim.splitlines()[2].split()[1:] == ["0.2988", "0.1738", "to", "0.4238", "4", "(4", "real)"]
    assert "generated" in fvd.splitlines()[1] and " clips" not in fvd.splitlines()[1]


def test_folders_and_files_of_a_run_compare_by_the_metrics_that_all_have(written):
    both = written("both", fvd=score("fvd", 1.0), clipsim=score("clipsim", 0.5))
    one = written("one", fvd=score("fvd", 2.0))
    lines = compare([both, one, f"{one}/fvd.json", f"{both}/scores.json"]).splitlines()
    assert lines[0] == f"fvd-any ({'p' * 12})" and len(lines) == 8
    assert [line.split()[1] for line in lines[2:6]] == ["1.00", "2.00", "2.00", "1.00"]
    assert lines[-1] == "left out, as not all have it: clipsim"
    with pytest.raises(ValueError, match=r"do not compare: metric: fvd, and clipsim$"):
        compare([one, f"{both}/clipsim.json"])


def test_the_first_difference_comes_first(written):
    one = written("a", fvd=score("fvd", 1.0))
    other = PROTOCOLS["fvd"] | {"name": "other", "frames": 8}
    two = written("b", fvd=score("fvd", 1.0, protocol=other, weights="v" * 64))
    with pytest.raises(ValueError, match=r"b do not compare: frames: 16 and 8; and also name: .*weights: "):
        compare([one, two])


CONTENT = {"rgb_sha256": "a" * 64, "clips": 4, "decoder": "d"}
UNLIKE = {
    "other frames": (
        {"real": CONTENT | {"rgb_sha256": "b" * 64}},
        r"real frames: 'aaaaaaaaaaaa' and 'bbbbbbbbbbbb'$",
    ),
    "fewer real clips": ({"real": CONTENT | {"clips": 3}}, r"real clips: 4 and 3$"),
    "fewer clips": ({"fake": {"clips": 3, "decoder": "d"}}, r"generated clips: 4 and 3$"),
    "a stamp": ({"stamps": ["small: 4 of 8"]}, r"stamps: '' and 'small: 4 of 8'$"),
    "no content": ({"real": {"clips": 4}}, r"b.fvd\.json does not say which real frames it is of"),
}


@pytest.mark.parametrize("what", UNLIKE)
@pytest.mark.parametrize("data", ["any", "ucf101"])
def test_scores_of_other_content_numbers_or_stamps_are_refused(written, what, data):
    """Under every protocol, of an official list too: a list says names alone."""
    changes, words = UNLIKE[what]
    protocol = {"protocol": PROTOCOLS["fvd"] | {"data": data}}
    one = written("a", fvd=score("fvd", 1.0, **protocol))
    with pytest.raises(ValueError, match=words):
        compare([one, written("b", fvd=score("fvd", 1.0, **protocol, **changes))])


def test_prompts_are_equal_where_there_are_some(written):
    one, other, same = (
        written(name, clipsim=score("clipsim", 0.5, real={}, prompts_sha256=letter * 64))
        for name, letter in (("a", "1"), ("b", "2"), ("c", "1"))
    )
    assert len(compare([one, same]).splitlines()) == 4
    with pytest.raises(ValueError, match=r"b do not compare: prompts: '1+' and '2+'$"):
        compare([one, other])


def test_another_decoder_device_or_library_is_said_below_the_table(written):
    one, same = (written(name, fvd=score("fvd", 1.0)) for name in ("a", "b"))
    assert "note" not in compare([one, same])
    made = {"made_with": {"torch": "2.9.0", "device": "cpu", "Pillow": "12"}}
    other = written("c", fvd=score("fvd", 1.0, **made, real=CONTENT | {"decoder": "e"}))
    last = compare([one, same, other]).splitlines()[-1]
    assert last == (
        f"note: {one} and {other} were not made alike: Pillow: None and '12'; torch: '2.8.0' and '2.9.0'; "
        "real side, decoder: 'd' and 'e'"
    )


def test_reconstructions_compare_where_they_are_of_the_same_videos(tmp_path):
    files = [str(tmp_path / f"{k}.json") for k in range(4)]
    between = score("fvd", 7.0)
    measured = {"psnr": 30.0, "pooled_psnr": 29.0, "ssim": 0.9, "lpips": 0.123456}
    write_json(tmp_path / "0.json", reconstruction(31.2345, fvd=between))
    write_json(tmp_path / "1.json", reconstruction(28.0, fvd=between))
    write_json(tmp_path / "2.json", reconstruction(28.0, each=[{"video": "a"}, {"video": "c"}]))
    write_json(tmp_path / "3.json", reconstruction(28.0, scores=measured))
    quality, fvd = compare(files[:2]).split("\n\n")
    assert quality.splitlines()[2].split()[1:] == ["31.23", "31.23", "0.9877", "2"]
    assert fvd.splitlines()[2].split()[1] == "7.00"
    with pytest.raises(ValueError, match=r"videos by name: '2 of .*' and '2 of "):
        compare([files[0], files[2]])
    with pytest.raises(ValueError, match=r"LPIPS: 'left out' and {'trunk': 'alex'"):
        compare([files[0], files[3]])
    write_json(tmp_path / "2.json", reconstruction(28.0, real={"rgb_sha256": "b" * 64}))
    with pytest.raises(ValueError, match=r"2\.json do not compare: real frames: 'a+' and 'b+'$"):
        compare([files[0], files[2]])
    assert compare([files[3]]).splitlines()[2].split()[1:] == ["30.00", "29.00", "0.9000", "0.1235", "2"]


def test_what_is_no_score_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "other.json").write_text('{"value": 3}')
    for name, message in (
        ("empty", "empty/scores.json: no such score; dit eval run writes it"),
        ("missing", "missing: no such score$"),
        ("other.json", "is no score of `dit eval` fvd, mmd,"),
    ):
        with pytest.raises(ValueError, match=message):
            compare([str(tmp_path / name)])


@pytest.mark.parametrize("metric", ["scores", "fvd/../scores", "../secret", "run", ""])
def test_a_summary_lists_scores_of_known_metrics_alone(tmp_path, metric):
    write_json(tmp_path / "scores.json", {"job": "msrvtt", "scores": {metric: {}}})
    with pytest.raises(ValueError, match=r"scores\.json: .* is no metric; there are clipsim, .*fvd, is\b"):
        compare([str(tmp_path)])


def test_a_score_in_a_run_is_of_the_metric_that_its_name_says(written):
    run = written("a", fvd=score("clipsim", 0.5))
    with pytest.raises(ValueError, match=r"fvd\.json is a score of clipsim, not of fvd"):
        compare([run])
    run = written("b", fvd={"job": "msrvtt", "scores": {"fvd": {}}})
    with pytest.raises(ValueError, match=r"fvd\.json is no score of"):
        compare([run])


def test_no_score_passes_for_one_of_another_kind(tmp_path):
    for name, values in {
        "a": score("fvd", 1.0) | {"metric": "reconstruction"},
        "b": score("fvd", 1.0) | {"metric": "x" * 99},
        "c": reconstruction(30.0, fvd=score("fvd", 1.0) | {"metric": "reconstruction"}),
        "d": reconstruction(30.0, fvd=score("clipsim", 1.0)),
        "e": reconstruction(30.0, fvd=[1]),
    }.items():
        write_json(tmp_path / f"{name}.json", values)
        with pytest.raises(ValueError, match=rf"{name}\.json"):
            compare([str(tmp_path / f"{name}.json")])


@pytest.mark.parametrize(
    ("said", "change"),
    [
        ("is a score of fvd, by a protocol of is", {"protocol": PROTOCOLS["fvd"] | {"metric": "is"}}),
        ("interval ends at 1, below its beginning 9", {"interval": {"low": 9.0, "high": 1.0}}),
        (r"fake\.clips = -7: it must be at least 0", {"fake": {"clips": -7}}),
        (r"real\.clips = 1000000000", {"real": {"rgb_sha256": "a" * 64, "clips": 10**20}}),
    ],
)
def test_a_score_whose_parts_cannot_be_is_refused(tmp_path, said, change):
    file = tmp_path / "score.json"
    write_json(file, score("fvd", 1.0, **change))
    with pytest.raises(ValueError, match=said):
        compare([str(file)])


def test_a_score_of_nothing_is_refused(tmp_path, written):
    for name, change in {"no video": {"each": []}, "or has no number": {"scores": {}}}.items():
        write_json(tmp_path / "score.json", reconstruction(30.0, **change))
        with pytest.raises(ValueError, match=name):
            compare([str(tmp_path / "score.json")])
    with pytest.raises(ValueError, match=r"scores\.json has no score"):
        compare([written("empty")])


def test_words_of_a_foreign_score_do_not_steer_the_terminal(tmp_path, capsys):
    write_json(tmp_path / "score.json", score("fvd", 1.0, stamps=["red \x1b[31m\nand \u202e turned"]))
    assert run(["eval", "compare", str(tmp_path / "score.json")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and lines[2].endswith(r"red \x1b[31m and \u202e turned")


def test_equal_values_are_equal_bytes_whatever_their_order(tmp_path):
    values = {"b": {"y": 1, "x": [{"n": 1, "m": "é"}]}, "a": 0.1}
    turned = {"a": 0.1, "b": {"x": [{"m": "é", "n": 1}], "y": 1}}
    for name, of_one in (("one", values), ("two", turned)):
        write_json(tmp_path / name, of_one)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert json.loads((tmp_path / "one").read_text()) == values


def test_a_reconstruction_without_the_mean_of_what_its_videos_have_is_not_whole(tmp_path):
    each = [{"video": "a", "psnr": 30.0, "ssim": 0.9}]
    whole = reconstruction(30.0) | {"each": each, "scores": {"psnr": 30.0, "ssim": 0.9}}
    write_json(tmp_path / "whole.json", whole)
    assert "30.00" in compare([str(tmp_path / "whole.json")])
    write_json(tmp_path / "cut.json", whole | {"scores": {"ssim": 0.9}})
    with pytest.raises(ValueError, match=r"cut\.json has psnr of its videos, and no mean of it"):
        compare([str(tmp_path / "cut.json")])
