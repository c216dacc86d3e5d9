"""Proves the signals, shots, rules and copies of curation against closed forms, other implementations
and drawn clips."""

import itertools
import json

import numpy
import pyarrow
import pytest
from scipy import ndimage

from tests.bench.curation_world import joined, scene
from vae.curation.copies import find_copies, shared
from vae.curation.dedup import _choose, _Row
from vae.curation.flow import block_flow, camera
from vae.curation.hashes import SAMPLE, signature_samples
from vae.curation.rules import read_rules, reasons
from vae.curation.shots import ShotSignals, split
from vae.curation.signals import COLUMNS, Signals, blockiness, sharpness
from vae.curation.work import Journal, of_rows

RATE = 24.0


def measured(clip: numpy.ndarray, fps: float = RATE, part: int = 16) -> dict:
    """The columns of a clip that is looked at in parts."""
    state = Signals(fps, len(clip), *clip.shape[1:3])
    for first in range(0, len(clip), part):
        state.add(clip[first : first + part])
    return state.result()


def pieces(clip: numpy.ndarray, fps: float = RATE, part: int = 16) -> list[tuple[int, int, str]]:
    """A clip in shots."""
    state = ShotSignals(fps)
    for first in range(0, len(clip), part):
        state.add(clip[first : first + part])
    return state.pieces()


@pytest.fixture(scope="module")
def shot() -> numpy.ndarray:
    """A clip of one shot."""
    return scene(48, 96, 128, RATE, "test", 0)


@pytest.fixture(scope="module")
def another() -> numpy.ndarray:
    """A clip of another."""
    return scene(48, 96, 128, RATE, "test", 1)


def test_signals_do_not_depend_on_how_frames_come(shot):
    whole = measured(shot, part=48)
    assert whole.keys() == COLUMNS.keys()
    for part in (1, 7, 16):
        seen = measured(shot, part=part)
        assert [seen.pop(name) for name in ("crop", "signature")] == [
            whole[name] for name in ("crop", "signature")
        ]
        assert seen == pytest.approx({name: whole[name] for name in seen}, abs=2e-5)


def test_simple_signals_are_what_their_names_say(shot):
    seen = measured(shot)
    luma = (shot[:, ::2, ::2] @ numpy.array([0.2126, 0.7152, 0.0722])) / 255
    assert seen["luma"] == pytest.approx(luma.mean(), abs=0.01)
    assert seen["contrast"] == pytest.approx(luma.std((1, 2)).mean(), rel=0.1)
    assert (seen["black"], seen["frozen"], seen["bars"], seen["crop"]) == (0, 0, 0, [0, 0, 96, 128])
    picture = shot[0, ..., 1]
    laplacian = ndimage.laplace(picture.astype(float))[1:-1, 1:-1]
    assert sharpness(picture) == pytest.approx(laplacian.var() / picture[1:-1, 1:-1].var(), rel=1e-4)


def test_a_shift_of_the_picture_is_the_cameras_motion():
    ground = scene(1, 160, 200, RATE, "ground")[0].mean(-1)
    ground = 128 + 45 * (ground - ground.mean()) / ground.std()
    for right, down in ((0, 0), (2, 0), (-1, 3), (5, -4)):
        one = ground[20:116, 20:148].astype(numpy.float32)
        two = ground[20 - down : 116 - down, 20 - right : 148 - right].astype(numpy.float32)
        length, whole, rest = camera(*block_flow(one[None], two[None]))[0]
        assert whole == pytest.approx(numpy.hypot(right, down), abs=0.35)
        assert rest < 0.35 + 0.15 * whole and 0.85 * whole - 0.1 < length < whole + 0.6


def test_what_stands_is_static_and_what_stops_is_frozen(shot):
    static, stopped = measured(shot[:1].repeat(48, 0)), shot.copy()
    stopped[16:] = stopped[16]
    assert static["range"] == static["change"] == 0 == pytest.approx(static["motion"], abs=1e-4)
    assert static["frozen"] == pytest.approx(47 / RATE)
    assert measured(stopped)["frozen"] == pytest.approx(31 / RATE) and measured(stopped)["range"] > 0.1


def test_bars_leave_their_inside_and_a_dark_ground_has_none(shot):
    for top, left in ((14, 0), (0, 20), (8, 8)):
        boxed = numpy.zeros_like(shot)
        boxed[:, top : 96 - top, left : 128 - left] = shot[:, top : 96 - top, left : 128 - left]
        seen = measured(boxed)
        assert seen["crop"] == [top, left, 96 - 2 * top, 128 - 2 * left]
        assert seen["bars"] == pytest.approx(1 - (96 - 2 * top) * (128 - 2 * left) / (96 * 128), abs=1e-5)
    dark = numpy.zeros_like(shot)
    dark[:, 30:66, 40:88] = numpy.where(numpy.indices((36, 48)).sum(0)[..., None] % 9 > 5, 200, 0)
    assert measured(dark)["bars"] == 0


def test_flicker_and_blocks_are_seen(shot):
    gain = (1 - 0.3 * (numpy.arange(48) % 2))[:, None, None, None]
    assert measured((shot * gain).astype(numpy.uint8))["flicker"] > 0.05 > 10 * measured(shot)["flicker"]
    picture = shot[0, ..., 1]
    blocks = picture.reshape(12, 8, 16, 8).mean((1, 3)).repeat(8, 0).repeat(8, 1).astype(numpy.uint8)
    assert blockiness(blocks) > 5 > 2 > blockiness(picture)
    assert blockiness(blocks[3:, 5:]) > 5  # wherever its grid begins


@pytest.mark.parametrize("part", [5, 16])
def test_a_cut_is_one_frame_and_a_flash_is_none(shot, another, part):
    clip, at = joined(shot, another, "cut", RATE)
    assert pieces(clip, part=part) == [(0, at, ""), (at, 96, "")]
    flash = shot.copy()
    flash[20:22] = 255
    assert pieces(flash, part=part) == [(0, 48, "")] == pieces(shot, part=part)


@pytest.mark.parametrize("how", ["fade", "dissolve"])
def test_a_fade_lies_between_shots(shot, another, how):
    clip, at = joined(shot, another, how, RATE)
    (start, first, _), (second, third, what), (fourth, end, _) = pieces(clip)
    assert (start, end, what) == (0, len(clip), how) and first == second < at < third == fourth
    black = numpy.abs(numpy.arange(len(clip)) - at) < 4
    assert not black[:first].any() and not black[third:].any()


def test_pieces_are_all_of_a_file():
    found = split(100, [10, 50, 60, 62], [(40, 55, "fade"), (54, 70, "dissolve")])
    assert found[0][0] == 0 and found[-1][1] == 100
    assert all(one[1] == other[0] for one, other in itertools.pairwise(found))
    assert [piece for piece in found if not piece[2]] == [(0, 10, ""), (10, 40, ""), (70, 100, "")]


def test_rules_say_why(tmp_path):
    file = tmp_path / "rules.toml"
    file.write_text('[still]\nmotion = "< 0.1"\n[odd]\nfps = ["< 5", "> 60"]\nlicence = "== cc-by"\n')
    rules, text = read_rules(str(file))
    assert text == file.read_text()
    table = pyarrow.table(
        {"motion": [0.05, 0.5, None], "fps": [4.0, 90.0, 30.0], "licence": ["cc-by", "cc-by", "mine"]}
    )
    assert reasons(table, rules) == {
        0: ["still (motion = 0.05 < 0.1)", "odd (fps = 4 < 5 or > 60, licence = cc-by == cc-by)"],
        1: ["odd (fps = 90 < 5 or > 60, licence = cc-by == cc-by)"],
    }
    ours, _ = read_rules("")
    assert {"static", "black", "frozen", "letterboxed", "flicker", "dark", "blurred"} < {
        rule.name for rule in ours
    }


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[a]\nmotion = 3\n", "give a comparison in quotes"),
        ("[a]\nmotion = []\n", "give comparisons in it"),
        ('[a]\nmotion = "> 1e999"\n', "no finite number"),
        ('["a\\nb"]\nmotion = "> 1"\n', "a rule's name"),
        ('[a]\nmotion = "~ 3"\n', "give a comparison in quotes"),
        ('[a]\nmotion = "< x"\n', "x is no number"),
        ("[a]\n", "give conditions below it"),
        ("", "there is no rule"),
        ("[a\n", "rules.toml"),
        ('[a]\nspeed = "< 3"\n', "there is no column speed"),
        ('[a]\nmotion = "== fast"\n', "is not compared with 'fast'"),
    ],
)
def test_a_rule_that_cannot_hold_is_refused(tmp_path, text, why):
    file = tmp_path / "rules.toml"
    file.write_text(text)
    with pytest.raises(ValueError, match=why):
        reasons(pyarrow.table({"motion": [0.05]}), read_rules(str(file))[0])


def test_copies_are_found_and_others_are_not(shot, another):
    smaller = shot[:, ::2, ::2]
    cropped = shot[:, 6:-6, 8:-8]
    faster = shot[numpy.arange(0, 47, 1.25).round().astype(int)]
    clips = [shot, another, smaller, cropped, faster, shot[::-1], shot[..., ::-1], shot[:1].repeat(48, 0)]
    signatures = [measured(clip)["signature"] for clip in clips]
    found = {(copy.one, copy.other) for copy in find_copies(signatures, list(range(len(clips))))}
    assert found == {(0, 2), (0, 3), (0, 4), (2, 3), (2, 4), (3, 4)}
    assert find_copies(signatures, [0] * len(clips)) == []
    after = {(copy.one, copy.other) for copy in find_copies([*signatures, b""], list(range(len(clips) + 1)))}
    assert after == found, "a last file that cannot be read hides none"


def test_the_share_of_samples_is_that_of_the_longest_common_way():
    random = numpy.random.default_rng(0)  # against all ways, of few samples
    for _ in range(20):
        bits = random.integers(0, 3, 5), random.integers(0, 3, 6)
        one, other = (numpy.zeros(len(each), SAMPLE) for each in bits)
        codes = numpy.array([0x0F0F0F0F0F0F0F0F, 0x00FF00FF00FF00FF, 0x3333333333333333], numpy.uint64)
        one["hashes"], other["hashes"] = (codes[each][:, None] for each in bits)
        best = 0
        for ways in itertools.combinations_with_replacement(range(6), 5):
            best = max(best, sum(bits[0][k] == bits[1][way] for k, way in enumerate(ways)))
        assert shared(one, other) == pytest.approx(best / 5)


def test_which_copy_stays_depends_on_no_order():
    from vae.curation.copies import Copy

    rows = [
        _Row(f"r{k}", f"f{k}", (False, -size, k), held)
        for k, (size, held) in enumerate([(3, ""), (2, ""), (1, ""), (9, ""), (5, "test")])
    ]
    links = [(0, 1), (1, 2), (3, 4)]  # a chain, of which both ends stay; and a leak
    for order in itertools.permutations(range(5)):
        place = {old: new for new, old in enumerate(order)}
        copies = [Copy(*sorted((place[a], place[b])), 1.0) for a, b in links]
        gone = _choose([rows[k] for k in order], copies)
        assert {rows[order[k]].name: rows[order[kept]].name for k, (kept, _) in gone.items()} == {
            "r1": "r0",
            "r3": "r4",
        }


def test_a_journal_of_nothing_goes_on(tmp_path):
    for _ in range(2):
        Journal(tmp_path / "out.parquet", "test").written.close()
    (journal,) = tmp_path.iterdir()
    assert journal.read_bytes() == b""


def test_a_journal_goes_on_after_a_kill(tmp_path):
    class Row:
        def __init__(self, name):
            self.path, self.key = name, name.encode()

    class Bar:
        def update(self, _):
            pass

    rows, calls, out = [Row(name) for name in "abcd"], [], tmp_path / "out.parquet"

    def work(entries):
        calls.extend(entry.path for entry in entries)
        return [{"name": entry.path, "bytes": entry.key, "crop": [1, 2]} for entry in entries]

    journal = Journal(out, "test")
    first = of_rows(rows[:2], work, journal, None, Bar())
    journal.written.write(json.dumps({"key": "63", "value": 1}).encode()[:-3])  # a kill cuts it
    journal.written.close()
    journal = Journal(out, "test")
    found = of_rows(rows, work, journal, None, Bar())
    assert calls == ["a", "b", "c", "d"] and found[:2] == first
    assert [each["bytes"] for each in found] == [b"a", b"b", b"c", b"d"]
    journal.done()
    assert list(tmp_path.iterdir()) == []


def test_a_signature_is_its_samples(shot):
    samples = signature_samples(measured(shot)["signature"])
    assert len(samples) == 8 and (samples["hashes"] != 0).all()
    assert (signature_samples(measured(numpy.full_like(shot, 128))["signature"])["hashes"] == 0).all()
