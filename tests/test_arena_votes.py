"""Proves what becomes of votes: a planted winner and side are found, and votes that are none are named."""

import json
from collections import Counter

import pytest

from dit.cli import run
from eval.people.page import read_key
from eval.people.strengths import TIE
from eval.people.tally import as_numbers
from eval.people.votes import read_votes
from tests.test_arena import arena, counted, folders, key_of, pairs_of, vote, write_votes  # noqa: F401


def test_a_planted_winner_is_found_and_all_is_said(arena, tmp_path, capsys):  # noqa: F811
    pairs = pairs_of(arena)
    for voter in range(6):
        others = {0: "bad", 1: "tie", 2: "quagga" if voter > 1 else "zebra"}
        choices = [others.get((voter + k) % 6, "quagga") for k in range(4)]
        votes = [
            vote(arena, f"v{voter}", pairs[k], choices[k], swapped=(voter // 2 + k) % 2) for k in range(4)
        ]
        votes.append(vote(arena, f"v{voter}", pairs[0], choices[0] if voter else "zebra", again=True))
        write_votes(tmp_path / f"{voter}.jsonl", votes)
    file = tmp_path / "arena.json"
    words = ["--count", str(tmp_path), "--key", str(arena.with_suffix(".key.json")), "--json", str(file)]
    assert run(["eval", "arena", *words]) == 0
    result, said = json.loads(file.read_text()), capsys.readouterr().out
    first, second = result["models"]
    numbers = [first[name] for name in ("model", "won", "lost", "ties", "both_bad")]
    assert numbers == ["quagga", 14, 2, 4, 4] and (second["won"], second["lost"]) == (2, 14)
    assert first["win_rate"] == pytest.approx((14 + 4) / 24)
    assert first["score"] == pytest.approx(-second["score"]) and first["beats_next"]["low"] > 0.5
    assert result["again"] == {"pairs": 6, "same": 5} and result["seconds"]["median"] == 2.5
    assert result["agreement"]["pairs"] == 4 and -1 < result["agreement"]["alpha"] < 1
    assert result["stamps"] == ["small: of 30 votes on each model zebra has 24, quagga has 24"]
    assert result["reasons"] == {"zebra": {"motion": 2}, "quagga": {"motion": 14}}
    assert result["protocol_sha256"] == key_of(arena).protocol_sha256 and result["votes"] == 24
    assert [row["votes"] for row in result["voters"]] == [4] * 6
    for line in (
        "24 votes of 6 voters on 4 prompts",
        "Krippendorff's alpha",
        "5 of 6 answers the same",
        "2.5 s a vote",
    ):
        assert line in said
    assert said.index("quagga") < said.index("zebra", said.index("win rate"))


def test_a_side_that_is_always_said_is_found(arena, tmp_path):  # noqa: F811
    pairs = pairs_of(arena)
    for voter in range(6):
        votes = [vote(arena, f"v{voter}", pair, "left", swapped=k % 2) for k, pair in enumerate(pairs)]
        write_votes(tmp_path / f"{voter}.jsonl", votes)
    result = counted(arena, tmp_path)
    assert result["position"]["low"] > 0.7 and result["position"]["left"] == 24
    assert abs(result["models"][0]["score"]) < 0.2  # each model was left as often
    assert [row["left"] for row in result["voters"]] == [1.0] * 6


def test_who_is_preferred_is_what_counts_wherever_it_stood(arena, tmp_path):  # noqa: F811
    votes, others = [], []
    for voter in range(3):
        for k, pair in enumerate(pairs_of(arena)):
            choice = ("zebra", "quagga", "bad", "zebra")[k]
            votes.append(vote(arena, f"v{voter}", pair, choice, swapped=(voter + k) % 2))
            others.append(vote(arena, f"v{voter}", pair, "tie" if choice == "bad" else choice))
    result = counted(arena, write_votes(tmp_path / "votes.jsonl", votes))
    assert result["agreement"]["alpha"] == 1
    numbers = as_numbers(read_votes((str(tmp_path / "votes.jsonl"),), key_of(arena))[0], key_of(arena))
    assert Counter(numbers.answer.tolist())[TIE] == 3  # both bad is no preference
    same = counted(arena, write_votes(tmp_path / "others.jsonl", others))
    assert [row["won"] for row in same["models"]] == [row["won"] for row in result["models"]] == [6, 3]


def test_votes_that_are_none_are_named_by_file_and_line_and_counted(arena, tmp_path, capsys):  # noqa: F811
    key = key_of(arena)
    pairs = sorted(key.pairs)
    good = vote(arena, "v", pairs[0], "left")
    wrong = {
        "is not JSON": '{"page": ',
        "it must be": "[1, 2]",
        "choice = 'middle'": good | {"choice": "middle"},
        "voter is missing": {name: value for name, value in good.items() if name != "voter"},
        "unknown setting model": good | {"model": "zebra"},
        "seconds = -1": good | {"seconds": -1},
        "seconds = 'NaN'": good | {"seconds": "NaN"},
        "a vote on another page": good | {"page": "0" * 64},
        "no pair 'ff' is in the page": good | {"pair": "ff"},
        "are not the videos of the pair": good | {"left": good["right"], "right": good["right"]},
        "'\\x1b[31m' is no reason of the page": good | {"reasons": ["\x1b[31m"]},
        "the voter has no name": good | {"voter": " "},
        "a value is nested too deep": "[" * 100_000 + "]" * 100_000,
    }
    file = write_votes(tmp_path / "votes.jsonl", [good, *wrong.values(), "", good])
    other = tmp_path / "binary.jsonl"
    other.write_bytes(b"\xff\x00\x80")
    result = counted(arena, file, other)
    assert result["votes"] == 1
    passed = result["passed_over"]
    assert list(passed) == [f"{file}, line {k}" for k in range(2, 2 + len(wrong))] + [str(other)]
    for number, said in enumerate(wrong, 2):
        reason = passed[f"{file}, line {number}"]
        assert f"line {number}" in reason
        assert said in reason or "nested" in said, (said, reason)
    assert f"{len(wrong) + 1} passed over" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"no vote on this page: .*line 1"):
        counted(arena, write_votes(tmp_path / "none.jsonl", ["x"]))
    with pytest.raises(ValueError, match="no such file or folder of votes"):
        counted(arena, tmp_path / "absent")
    assert run(["eval", "arena", "--count", str(file), "--key", str(tmp_path / "k.json")]) == 1
    assert "no such key" in capsys.readouterr().err


def test_of_two_votes_of_one_voter_on_a_pair_the_last_counts(arena, tmp_path):  # noqa: F811
    pair = min(key_of(arena).pairs)
    later = vote(arena, "v", pair, "zebra", at="2026-01-02T00:00:00.000Z")
    early = vote(arena, "v", pair, "quagga")
    for order in ((early, later, later), (later, early), (later, later, early)):
        file = write_votes(tmp_path / "votes.jsonl", list(order))
        result = counted(arena, file)
        assert result["models"][0]["model"] == "zebra" and result["votes"] == 1
        assert "a second vote of 'v'" in next(iter(result["passed_over"].values()))


def test_a_key_whose_parts_do_not_fit_is_refused(arena, tmp_path):  # noqa: F811
    whole = json.loads(arena.with_suffix(".key.json").read_text())
    first = min(whole["videos"])
    for part, wrong in {
        "a model that is not there": whole | {"models": ["zebra"]},
        "videos that are not there": whole | {"videos": {first: whole["videos"][first]}},
        "pairs": whole | {"pairs": []},
        "no pairs": whole | {"pairs": {}},
        "page is missing": {name: value for name, value in whole.items() if name != "page"},
        "was edited": whole | {"protocol": whole["protocol"] | {"question": "Which one is ours?"}},
        r"protocol: reasons = 7": whole | {"protocol": whole["protocol"] | {"reasons": 7}},
        r"reasons\[0\] = \['motion'\]": whole | {"protocol": whole["protocol"] | {"reasons": [["motion"]]}},
        "two models have one name": whole | {"models": ["zebra", "zebra"]},
        "models = .*: it must be": whole | {"models": [f"model {k}" for k in range(3000)]},
        "of one model's videos": whole
        | {"videos": {k: v | {"model": 0} for k, v in whole["videos"].items()}},
        r"\.frames = -3": whole
        | {"videos": whole["videos"] | {first: whole["videos"][first] | {"frames": -3}}},
    }.items():
        (tmp_path / "key.json").write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match=part):
            read_key(tmp_path / "key.json")


# The mean red, green and blue of what either side shows.
