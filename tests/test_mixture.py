"""Proves that a mixture draws each source by its share, as often as is due, whoever asks and from where."""

import itertools
import math
from collections import Counter
from dataclasses import replace

import pytest
import torch

from configs.data import DataConfig
from configs.load import parse
from configs.train import TransformerRun
from tests.test_plan import COST, ENTRIES, GreyFiles, file_entry, tokens_in
from vae.compression import Compression
from vae.data.clips import DrawnWorld, HeldOutFiles, batches, files_hash, held_out_split
from vae.data.mixture import BLOCK, HeldOutMixture, Mixture, Shares, open_mixture, source_weights
from vae.data.plan import Plan
from vae.data.rows import RowList

WEIGHTS = ("videos=0.7", "images=0.25", "shapes=0.05")
FILES = {
    "videos": [file_entry(f"video {k}", e.frames, e.height, e.width) for k, e in enumerate(ENTRIES * 3)],
    "images": [file_entry(f"image {k}", 1, 32 + 16 * (k % 4), 64, 0.0) for k in range(50)],
}


def open_one(config: DataConfig, seed: int, validation: int) -> tuple:
    """Training and held-out clips of one source."""
    if config.source == "shapes":
        assert not config.held_out and not config.group, "open_data refuses these of the drawn world"
        return DrawnWorld(config, seed), DrawnWorld(config, seed + 1)
    files = FILES[config.source]
    places = held_out_split(len(files), lambda: (f.path.as_posix() for f in files), config, seed, validation)
    kept, held = (RowList(files[k] for k in side) for side in places)
    data = GreyFiles(config, seed, kept, Compression())
    return data, HeldOutFiles(held, data)


def opened(weights: tuple[str, ...] = WEIGHTS, seed: int = 3, validation: int = 16, **settings) -> tuple:
    """A mixture of clips of at most 17 frames of about 64 x 64, and what of it is held out."""
    config = DataConfig(sources=weights, frames=17, size=64, **settings)
    return open_mixture(config, seed, validation, open_one)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (("a", "b=1"), r"data\.sources = 'a' has no weight above 0: give sources with their weights, as in"),
        (("a=", "b=1"), "'a=' has no weight"),
        (("=1", "b=1"), "'=1' has no weight"),
        (("a=0", "b=1"), "'a=0' has no weight"),
        (("a=nan", "b=1"), "'a=nan' has no weight"),
        (("a=inf", "b=1"), "'a=inf' has no weight"),
        (("a=1", "a=2"), "names a twice"),
        (("a=1",), "one source alone: give it as --data.source a$"),
    ],
)
def test_weights_that_are_none_are_refused_in_a_sentence(weights, message):
    with pytest.raises(ValueError, match=message):
        source_weights(DataConfig(sources=weights))


def test_the_command_line_gives_sources_with_weights():
    given = parse(TransformerRun, ["--data.sources", "clips/a=b=0.5", "images=2"], "dit train")
    assert source_weights(given.data) == {"clips/a=b": 0.5, "images": 2.0}
    assert source_weights(DataConfig(source="clips")) == {"clips": 1.0}
    with pytest.raises(ValueError, match="'clips' are both given"):
        source_weights(DataConfig(source="clips", sources=("a=1", "b=1")))
    with pytest.raises(ValueError, match="b has less than one draw in 10000: give it more weight"):
        open_mixture(DataConfig(sources=("a=1", "b=1e-9")), 0, 1, open_one)
    with pytest.raises(ValueError, match=r"of several sources give a share, such as 0\.05"):
        open_mixture(DataConfig(sources=WEIGHTS, held_out="list.txt"), 0, 1, open_one)


def test_shares_are_exact_in_every_block_and_random_within():
    shares = opened()[0].shares
    assert shares.slots == (7000, 2500, 500)
    assert opened(("videos=1", "images=1", "shapes=1"))[0].shares.slots == (3334, 3333, 3333)
    for block in (0, 1, 977):
        drawn = [shares.place(draw)[0] for draw in range(block * BLOCK, (block + 1) * BLOCK)]
        assert Counter(drawn) == dict(enumerate(shares.slots))
        for source, slots in enumerate(shares.slots):
            share, so_far = slots / BLOCK, 0
            for k, of in enumerate(drawn[:-1], start=1):
                so_far += of == source  # hypergeometric
                deviation = math.sqrt(k * share * (1 - share) * (BLOCK - k) / (BLOCK - 1))
                assert abs(so_far - k * share) < 5 * deviation + 1
    halves = [(seed, first) for seed in (0, 1) for first in (0, BLOCK)]
    orders = {tuple(Shares((5000, 5000), s).place(first + k)[0] for k in range(200)) for s, first in halves}
    assert len(orders) == 4, "seeds and blocks have orders of their own"


def test_every_source_goes_through_its_own_draws_in_their_order():
    shares = Shares((7000, 2999, 1), 5)
    met = [shares.place(draw) for draw in range(3 * BLOCK)]
    for source, slots in enumerate(shares.slots):
        assert [place for of, place in met if of == source] == list(range(3 * slots))


def test_files_of_each_source_come_once_in_each_of_its_epochs():
    data, _ = opened()
    clips = [data[draw] for draw in range(150)]
    assert [clip.draw for clip in clips] == list(range(150))
    for name, part in zip(("video", "image"), data.parts[:2], strict=True):
        mine = [clip.source for clip in clips if clip.source.startswith(name)]
        count = len(part.entries)
        for first in range(0, len(mine) - count, count):
            assert len(set(mine[first : first + count])) == count
    assert any(clip.source.startswith("scene") for clip in clips)
    drawn = [clip.source for clip in clips if clip.source.startswith("scene")]
    assert drawn == [f"scene {k}" for k in range(len(drawn))]


def test_a_draw_is_the_same_whoever_asks_and_wherever_a_run_begins():
    data, _ = opened()
    plan = Plan(data.sizes(Compression()), 1, tokens=300, cost=COST)
    wanted = {draw: opened()[0][draw] for draw in plan.draws(50)}
    for ranks in (1, 3):
        shares = [list(itertools.chain(*packs)) for packs in plan.packs(50, ranks)]
        for clips, draws in zip(batches(data, shares, workers=0), shares, strict=True):
            for clip, draw in zip(clips, draws, strict=True):
                assert (clip.source, clip.draw) == (wanted.pop(draw).source, draw)
        assert not wanted
        wanted = {draw: data[draw] for draw in plan.draws(50)}
    assert [clip.source for clip in next(batches(data, [list(plan.draws(50))], workers=1))] == [
        clip.source for clip in wanted.values()
    ]
    other = opened(seed=4)[0]
    assert [other[draw].source for draw in wanted] != [clip.source for clip in wanted.values()]


def test_planned_sizes_are_those_of_the_clips_that_come():
    data, _ = opened()
    planned = data.sizes(Compression()).tokens(range(20, 60))
    assert planned.tolist() == [tokens_in(data[draw], Compression()) for draw in range(20, 60)]
    assert len(set(planned.tolist())) > 4


def test_sources_of_one_content_do_not_draw_alike():
    """Two sources of the same files have orders of their own, and so have noise and captions of samples."""
    parts = opened(("videos=1", "images=1"))[0].parts
    assert parts[0].seed != parts[1].seed
    twins = Mixture(Shares((5000, 5000), 0), (parts[0], GreyFiles(**vars_of(parts[0], parts[1].seed))))
    clips = [twins[draw] for draw in range(40)]
    first, second = ([clip for clip in clips if twins.shares.place(clip.draw)[0] == k] for k in (0, 1))
    assert [clip.source for clip in first[:10]] != [clip.source for clip in second[:10]]
    assert len({clip.draw for clip in clips}) == 40


def vars_of(files: GreyFiles, seed: int) -> dict:
    """What makes the same files with another seed."""
    return {"config": files.config, "seed": seed, "entries": files.entries, "compression": files.compression}


@pytest.mark.parametrize("held_out", ["", "0.2"])
def test_clips_of_every_source_are_held_out_none_twice_and_none_trained_on(held_out):
    data, held = opened(held_out=held_out)
    clips = [held[draw] for draw in range(len(held))]
    assert [clip.draw for clip in clips] == list(range(len(clips)))
    names = [clip.source for clip in clips]
    count = Counter(name.split()[0] for name in names)
    assert count["image"] == 4 and count["scene"] == 1 and count["video"] == (4 if held_out else 5)
    assert len(set(names)) == len(names)
    for so_far, (kind, n) in itertools.product(range(len(names)), count.items()):
        met = sum(name.startswith(kind) for name in names[:so_far])
        assert abs(met - so_far * n / len(names)) <= 1, "sources stand evenly among each other"
    trained = {entry.path.as_posix() for entry in data.entries}
    assert not trained & set(names) and len(trained) == 71 - len({e.path for e in held.entries})
    if held_out:
        assert len(held.entries) == round(0.2 * 21) + round(0.2 * 50)


def test_what_a_run_depends_on_has_the_shares_and_every_source():
    before = files_hash(*opened())
    assert files_hash(*opened()) == before
    alike = (opened(weights, held_out="0.2") for weights in (WEIGHTS, ("videos=6", "images=3", "shapes=1")))
    assert len({files_hash(data) for data, _ in alike}) == 2, "only the shares differ"
    assert files_hash(*opened(("videos=7", "images=2.5", "shapes=0.5"))) == before, "the same shares"
    assert files_hash(*opened(("videos=0.6", "images=0.35", "shapes=0.05"))) != before
    assert files_hash(*opened(("images=0.25", "videos=0.7", "shapes=0.05"))) != before
    assert files_hash(*opened(("videos=0.7", "images=0.3"))) != before
    FILES["images"][3] = replace(FILES["images"][3], bytes=7)
    try:
        assert files_hash(*opened()) != before
    finally:
        FILES["images"][3] = replace(FILES["images"][3], bytes=0)
    assert files_hash(*opened()) == before


def test_a_clip_of_a_mixture_is_its_source_s():
    """But for the number of its draw, on which its noise depends."""
    data, _ = opened()
    for draw in range(30):
        source, place = data.shares.place(draw)
        clip, alone = data[draw], data.parts[source][place]
        assert (clip.source, clip.caption, clip.draw) == (alone.source, alone.caption, draw)
        assert torch.equal(clip.video, alone.video)


def test_a_mixture_of_drawn_worlds_has_no_files():
    worlds = DrawnWorld(DataConfig(), 0), DrawnWorld(DataConfig(), 1)
    data = Mixture(Shares((5000, 5000), 0), worlds)
    held = HeldOutMixture(data.shares, data.parts, 4)
    assert len(data.entries) == len(held.entries) == 0 and len([*data.captions()]) > 0
