"""Proves that a step's draws are a function of the step, each in one step, dealt evenly under the caps."""

import itertools
import math
from array import array
from collections import Counter
from pathlib import Path

import numpy
import pytest
import torch

from configs.data import DataConfig
from configs.model import TransformerConfig
from dit.bench.flops import sample_cost, step_flops, training_flops
from vae.compression import PATCH, Compression
from vae.data import mixture, sizes
from vae.data.clips import DrawnWorld, VideoFiles, clip_of
from vae.data.columns import Entry
from vae.data.mixture import MixedSizes, Shares
from vae.data.plan import CLOSE, Cost, Plan, deal, padding
from vae.data.rows import RowList
from vae.data.sizes import EqualSizes, FileSizes, Sizes
from vae.data.video import TICKS, UnreadableVideo

COST = Cost(1.0, 8064.0)


def file_entry(name: str, frames: int, height: int, width: int, fps: float = 8.0, times: list = ()) -> Entry:
    """A file of a manifest that nobody reads."""
    ticks = array("I", [round(time * TICKS) for time in times]).tobytes()
    about = {"codec": "", "duration": 0.0, "bytes": 0, "reader": "decord", "stream": 0, "streams": 1}
    return Entry(
        frames, fps, height, width, path=Path(name), captions=(), checksums=b"", times=ticks, **about
    )


ENTRIES = RowList(
    [
        file_entry("image", 1, 48, 64, 0.0),
        file_entry("short", 3, 32, 32),
        file_entry("wide", 40, 32, 128),
        file_entry("long", 33, 64, 64),
        file_entry("fast", 40, 64, 48, 24.0),
        file_entry("uneven", 5, 64, 64, times=[0.0, 0.1, 0.9, 1.0, 2.0]),
        file_entry("tall", 9, 200, 40),
    ]
)


class GreyFiles(VideoFiles):
    """Files whose frames are grey, of which some cannot be read."""

    bad = frozenset()

    def content(self, entry, start):
        """A grey clip of as many frames as the clip has."""
        if entry.path.name in self.bad:
            raise UnreadableVideo(f"{entry.path} is bad")
        indices, height, width = clip_of(entry, start, self.config, self.compression)
        return torch.zeros(3, len(indices), height, width), ()


def grey_files(compression: Compression) -> GreyFiles:
    """Clips of at most 17 frames of about 64 x 64 of all of them."""
    return GreyFiles(DataConfig(source="grey", frames=17, size=64), 3, ENTRIES, compression)


def tokens_in(clip, compression: Compression) -> int:
    """The tokens of a clip that was read."""
    return math.prod(compression.latent_size(*clip.video.shape[1:])) // math.prod(PATCH)


@pytest.mark.parametrize("compression", [Compression(), Compression(8, 16), Compression(1, 8)])
def test_planned_sizes_are_those_of_the_clips_that_come(compression):
    files = grey_files(compression)
    world = DrawnWorld(DataConfig(frames=9, size=64), 0)
    for data in (files, world):
        planned = data.sizes(compression).tokens(range(3, 20))
        assert planned.tolist() == [tokens_in(data[draw], compression) for draw in range(3, 20)]
    assert len(set(files.sizes(compression).tokens(range(7)).tolist())) > 2


def test_planned_sizes_are_worked_out_by_hand():
    """Rows of 16 pixels, and latent frames of 4 frames after the first: 17 frames are 5, 14 are 13 and 4."""
    counts = grey_files(Compression()).sizes(Compression()).files_N
    assert dict(zip([entry.path.name for entry in ENTRIES], counts, strict=True)) == {
        "image": 3 * 5,
        "short": 4 * 4,
        "wide": 2 * 8 * 5,
        "long": 4 * 4 * 5,
        "fast": 5 * 3 * 4,
        "uneven": 4 * 4 * 5,
        "tall": 9 * 2 * 3,
    }


def some_sizes() -> dict[str, Sizes]:
    """Sizes of each kind."""
    random = numpy.random.default_rng(0)
    files_N, few_N = random.integers(1, 60, 23), random.integers(1, 90, 3)
    return {
        "equal": EqualSizes(12),
        "files": FileSizes(files_N, 5),
        "one file": FileSizes(numpy.array([7]), 5),
        "mixture": MixedSizes(
            Shares((30, 13, 7), 5), (EqualSizes(12), FileSizes(files_N, 5), FileSizes(few_N, 6))
        ),
    }


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Mixtures whose blocks are short, so that these tests cross many of them."""
    monkeypatch.setattr(mixture, "BLOCK", 50)
    yield
    for kept in (mixture._block, mixture._block_tokens, sizes._ends):
        kept.cache_clear()


@pytest.mark.parametrize("name", some_sizes())
def test_steps_cut_the_row_of_samples_at_every_budget(name):
    """A second implementation walks the row; the plan knows any step without walking there."""
    given = some_sizes()[name]
    drawn = given.tokens(range(4_600))
    assert given.mean == pytest.approx(drawn.mean(), rel=5e-3) and given.largest == drawn.max()
    plan = Plan(given, batch=1, tokens=97)
    ends = numpy.concatenate([given.tokens(range(k, k + 1)) for k in range(600)]).cumsum()
    steps = -(-ends // 97)  # the step in which each draw's last token falls
    for step in range(1, int(steps[-1])):
        assert list(plan.draws(step)) == numpy.flatnonzero(steps == step).tolist() != []
        assert abs(ends[plan.draws(step)[-1]] - step * 97) < given.largest
    assert [given.before(k) for k in range(1, 600)] == ends[:-1].tolist()
    assert numpy.array_equal(given.tokens(range(100, 500)), numpy.diff(ends)[99:499])


@pytest.mark.parametrize("name", some_sizes())
def test_a_far_step_is_known_at_once_and_follows_the_one_before(name, monkeypatch):
    shuffles = []
    real = sizes.permutation
    monkeypatch.setattr(sizes, "permutation", lambda count, *key: shuffles.append(key) or real(count, *key))
    plan = Plan(some_sizes()[name], batch=1, tokens=97)
    far = [plan.draws(10**6 + k) for k in range(1, 9)]
    assert all(one.stop == two.start and len(one) for one, two in itertools.pairwise(far))
    assert len(shuffles) < 130, "no more than those epochs are ordered"


def test_with_a_batch_a_step_has_so_many_draws():
    plan = Plan(EqualSizes(5), batch=6)
    assert [list(plan.draws(step)) for step in (1, 2, 1001)] == [
        [*range(6)],
        [*range(6, 12)],
        [*range(6000, 6006)],
    ]


@pytest.mark.parametrize("bad", [frozenset(), frozenset({"wide", "image"})])
def test_every_file_comes_once_an_epoch_and_none_is_lost(bad, monkeypatch):
    """Also where files turn out to be unreadable, so that steps have other sizes than were planned."""
    monkeypatch.setattr(GreyFiles, "bad", bad)
    data = grey_files(Compression())
    plan = Plan(data.sizes(Compression()), batch=1, tokens=100, pack_tokens=96, cost=COST)
    epochs, count = 5, len(ENTRIES)
    met = []
    for step in itertools.count(1):
        packs = plan.packs(step, 2)
        assert len(packs[0]) == len(packs[1])
        draws = sorted(draw for rank in packs for pack in rank for draw in pack)
        assert draws == list(plan.draws(step))
        met += [data[draw] for draw in draws]
        if len(met) >= epochs * count:
            break
    assert [clip.draw for clip in met] == list(range(len(met)))
    for epoch in range(epochs):
        clips = met[epoch * count : (epoch + 1) * count]
        names = Counter(clip.source for clip in clips)
        skipped = {path for clip in clips for path in clip.skipped}
        assert set(names) == {entry.path.name for entry in ENTRIES} - bad and skipped == bad
        assert sum(names.values()) == count and (bad or max(names.values()) == 1)


def test_a_budget_or_a_pack_smaller_than_a_clip_is_refused():
    given = FileSizes(numpy.array([4, 90, 8]), 0)
    for setting, flag in {"tokens": "tokens", "pack_tokens": "pack-tokens"}.items():
        with pytest.raises(ValueError, match=rf"^train\.{flag} = 89, but a clip .* 90 tokens: give at least"):
            Plan(given, batch=4, **{setting: 89})
        Plan(given, batch=4, **{setting: 90})


def costs_of(tokens_N: numpy.ndarray, dealt: list) -> numpy.ndarray:
    """The cost of each process' packs."""
    return numpy.array([[COST.of(tokens_N[pack]).sum() for pack in packs] for packs in dealt])


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
@pytest.mark.parametrize("cap", [0, 20_000, 40_000])
def test_every_sample_is_dealt_once_under_the_cap_and_all_have_as_many_packs(ranks, cap):
    random = numpy.random.default_rng(ranks)
    for count in (0, 1, 2, 7, 30, 60, 100, 100, 100):
        tokens_N = random.choice([64, 1024, 4096, 16_384, 20_000], count)
        tokens_N = numpy.where(random.random(count) < 0.5, random.integers(1, 20_000, count), tokens_N)
        dealt = deal(tokens_N, ranks, cap, COST)
        assert sorted(k for packs in dealt for pack in packs for k in pack) == list(range(count))
        assert len(dealt) == ranks and len({len(packs) for packs in dealt}) == 1
        assert all(tokens_N[pack].sum() <= (cap or math.inf) for packs in dealt for pack in packs)
        if not cap:
            assert len(dealt[0]) == 1
        assert dealt == deal(tokens_N.tolist(), ranks, cap, COST)
        assert all(pack == sorted(pack) for packs in dealt for pack in packs)
        costs = costs_of(tokens_N, dealt)
        assert (numpy.diff(costs, axis=1) <= 1e-6 * costs.max(initial=1)).all(), (
            "costly packs meet each other"
        )


def best_spread(costs: numpy.ndarray, bins: int) -> float:
    """The smallest possible cost of the costliest bin, by trying all ways."""
    ways = itertools.product(range(bins), repeat=len(costs))
    return min(max(numpy.bincount(way, costs, bins)) for way in ways)


def test_few_samples_are_dealt_nearly_as_well_as_can_be():
    random = numpy.random.default_rng(0)
    over = []
    for bins, count in [(2, 7), (2, 9), (3, 7), (3, 8)] * 3:
        tokens_N = random.integers(100, 20_000, count)
        dealt = costs_of(tokens_N, deal(tokens_N, bins, 0, COST)).max()
        over.append(dealt / best_spread(COST.of(tokens_N), bins) - 1)
    assert min(over) > -1e-9 and max(over) < 4 / 3 - 1 / 9 - 1, "Graham's bound"
    assert numpy.mean(over) < 0.02


def test_no_move_or_exchange_is_left_that_would_make_the_costliest_cheaper():
    random = numpy.random.default_rng(1)
    for _ in range(20):
        tokens_N = random.integers(100, 20_000, 24)
        dealt, costs_N = deal(tokens_N, 4, 0, COST), COST.of(tokens_N)
        loads = costs_of(tokens_N, dealt)[:, 0]
        high = int(loads.argmax())
        if loads.max() - loads.min() <= CLOSE * loads.mean():
            continue
        for low in set(range(4)) - {high}:
            gap = loads[high] - loads[low]
            moved = [costs_N[a] - b for a in dealt[high][0] for b in [0, *costs_N[dealt[low][0]]]]
            assert gap <= CLOSE * loads.mean() or not any(gap * 1e-6 < m < gap * (1 - 1e-6) for m in moved)


def test_packs_are_few():
    """Twelve samples of a third of the cap need four packs on one process and two each on two."""
    tokens_N = numpy.full(12, 100)
    assert [len(deal(tokens_N, ranks, 300, COST)[0]) for ranks in (1, 2, 4, 12)] == [4, 2, 1, 1]


@pytest.mark.parametrize("multiple", [0, 1, 7, 256])
def test_padding_brings_a_pack_to_a_multiple_and_leaves_none_empty(multiple):
    for tokens in range(600):
        more = padding(tokens, multiple)
        assert more >= 0 and tokens + more > 0 and (tokens + more) % max(1, multiple) == 0
        assert more < max(2, multiple + 1) and (tokens == 0 or more < max(1, multiple))


def test_the_cost_of_samples_is_their_flops_and_what_attention_computes_again():
    config = TransformerConfig(width=256, depth=3, heads=4, mlp_width=512, text_width=64)
    for text in (0, 77):
        cost = sample_cost(config, text)
        for n in (16, 999):
            ours = cost.of(numpy.array([n]))[0]
            attention = config.depth * 4 * config.width * n * (n + text)
            assert ours == 3 * step_flops(config, [n], [text], 0) + attention / 2
    assert cost.of(numpy.array([n]))[0] > training_flops(config, [n], [0], 0)
