"""Proves that a draw is a function of its key alone: the same everywhere, and another for every other key."""

import ast
import hashlib
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch

from vae.training.seeds import generator, normal, shuffled, uniform

ROOT = Path(__file__).parent.parent
KEYS = [
    (seed, what, index)
    for seed in (0, 1, 2**40)
    for what in ("noise", "noise ", "time", "1")
    for index in (*range(40), "0", "1")
]
# Where a generator other than `seeds.py` may be: weights' first values, benches' networks, what a protocol
# fixes of numpy's, and foreign code that draws by PyTorch.
ELSEWHERE = {
    "vae/training/seeds.py": {"numpy.random.Generator", "numpy.random.SFC64"},
    "vae/train.py": {"torch.manual_seed"},
    "dit/train.py": {"torch.manual_seed"},
    "dit/bench/autoencoder.py": {"torch.manual_seed"},
    "dit/bench/passes.py": {"torch.manual_seed"},
    "eval/inception.py": {"numpy.random.RandomState"},
    "eval/networks/i3d.py": {"numpy.random.RandomState"},
    "eval/networks/c3d.py": {"numpy.random.RandomState"},
    "eval/interval.py": {"numpy.random.Generator"},
    "eval/networks/aesthetic.py": {"torch.random.fork_rng", "torch.manual_seed"},
    "eval/networks/clip.py": {"torch.random.fork_rng", "torch.manual_seed"},
    "eval/networks/dino.py": {"torch.random.fork_rng", "torch.manual_seed"},
    "eval/networks/encoder.py": {"torch.random.fork_rng", "torch.manual_seed"},
    "eval/people/page.py": {"secrets", "secrets.token_bytes"},  # which no voter may guess
    "vae/diffusers_models.py": {"torch.manual_seed"},
    "vae/training/device.py": {"torch.random.fork_rng"},
    "dit/pipelines.py": {"torch.Generator", "torch.Generator().manual_seed"},
}
SOURCE = re.compile(
    r"(numpy|np|torch)\.random\.\w+|random\.(seed|choice|choices|sample|shuffle|randint|randrange)"
    r"|torch\.(rand|randn|randint|randperm|rand_like|randn_like|randint_like|normal|bernoulli|multinomial)"
    r"|(secrets|os)\.(urandom|token_\w+|randbelow)|.*\b(manual_seed|seed_everything|Generator|default_rng)"
)


def first_words(*key: int | str, count: int = 2) -> bytes:
    return generator(*key).bit_generator.random_raw(count).tobytes()


def test_a_draw_depends_on_nothing_drawn_before():
    noise = normal((5,), 0, "noise", 3)
    others = uniform(0, "time", 3), shuffled(9, 0, "order", 1).tolist()
    torch.manual_seed(5)
    numpy.random.seed(5)
    normal((100,), 0, "noise", 2)
    shuffled.cache_clear()
    assert torch.equal(normal((5,), 0, "noise", 3), noise)
    assert (uniform(0, "time", 3), shuffled(9, 0, "order", 1).tolist()) == others
    assert torch.initial_seed() == 5  # and leaves the global streams alone
    assert numpy.random.random() == numpy.random.RandomState(5).random()


def test_distinct_keys_have_distinct_uncorrelated_streams():
    """Also where keys join to the same text, and where a number and its text differ in type only."""
    draws = torch.stack([normal((500,), *key) for key in KEYS])
    assert len({first_words(*key) for key in KEYS}) == len(KEYS)
    correlation = torch.corrcoef(draws) - torch.eye(len(KEYS))
    assert correlation.abs().max() < 6 / 500**0.5
    assert correlation.square().mean().item() == pytest.approx(1 / 500, rel=0.05)
    assert first_words("ab", "c") != first_words("a", "bc")
    assert first_words(12, 3) != first_words(1, 23)


def test_no_two_of_300_000_draws_are_equal():
    """By 53 bits of each one's hash, for a tenth by the first 64 drawn; 32 bits made 15 of them equal."""
    count = 300_000
    words = numpy.array([uniform(seed, "noise", k) for seed in (0, 2**32) for k in range(count // 2)])
    assert len(numpy.unique(words)) == count  # 53 bits each
    streams = {first_words(seed, "noise", k, count=1) for seed in (0, 2**32) for k in range(count // 20)}
    assert len(streams) == count // 10


@pytest.mark.parametrize("shape", [(), (0,), (1,), (2,), (3, 5, 7), (16, 5, 32, 32)])
def test_normal_numbers_are_those_of_their_words(shape):
    """Box and Muller's equation in double precision, from the generator's words."""
    numbers, count = normal(shape, 4, "noise"), math.prod(shape)
    assert numbers.shape == shape and numbers.dtype == torch.float32
    pairs = (count + 1) // 2
    words = generator(4, "noise").integers(0, 2**64, pairs, numpy.uint64).view("<u4").astype(float)
    radius, angle = numpy.sqrt(-2 * numpy.log((words[:pairs] + 0.5) / 2**32)), words[pairs:] / 2**32
    turned = [radius * wave(2 * math.pi * angle) for wave in (numpy.cos, numpy.sin)]
    wanted = numpy.concatenate(turned)[:count].reshape(shape)
    assert numpy.allclose(numbers.numpy(), wanted, atol=2e-6, rtol=0)


def test_normal_numbers_are_normal():
    """Against the normal distribution's own function and moments; neighbours and pairs do not correlate."""
    count = 400_000
    numbers = normal((count,), 1, "noise").double()
    share = (1 + torch.erf(numbers.sort().values / 2**0.5)) / 2
    assert (share - torch.arange(1, count + 1) / count).abs().max() < 1.95 / count**0.5
    for power, moment, spread in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert numbers.pow(power).mean().item() == pytest.approx(moment, abs=4 * (spread / count) ** 0.5)
    assert 4.2 < numbers.abs().max() < 6.7  # of so many; 32 bits reach 6.66
    for other in (1, 2, count // 2):
        for power in (1, 2):
            one, two = numbers[other:] ** power, numbers[:-other] ** power
            assert torch.corrcoef(torch.stack([one, two]))[0, 1].abs() < 4 / len(one) ** 0.5


def test_uniform_is_uniform():
    values = torch.tensor([uniform(0, "dropout", k) for k in range(4000)], dtype=torch.float64).sort().values
    steps = torch.arange(1, 4001) / 4000
    assert (values - steps).abs().max() < 1.95 / 4000**0.5  # Kolmogorov and Smirnov, one in a thousand
    assert values[0] >= 0 and values[-1] < 1


def test_uniform_stays_below_1(monkeypatch):
    class Highest:
        def digest(self):
            return b"\xff" * 16

    monkeypatch.setattr(hashlib, "blake2b", lambda *_, **__: Highest())
    assert uniform("any") == 1 - 2**-53


def test_orders_are_permutations_and_every_epoch_has_its_own():
    orders = [tuple(shuffled(50, 0, "order", epoch).tolist()) for epoch in range(20)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len(set(orders)) == 20
    assert tuple(shuffled(50, 1, "order", 0).tolist()) != orders[0]


def test_a_fresh_process_draws_the_same():
    """Python salts the hash of text anew in every process; the key must not go through it."""
    code = (
        "from vae.training.seeds import *; "
        "print(normal((3,), 7, 'noise', 1).tolist(), uniform('x', 2), shuffled(6, 'o', 3))"
    )
    fresh = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    here = normal((3,), 7, "noise", 1).tolist()
    assert fresh.strip() == f"{here} {uniform('x', 2)} {shuffled(6, 'o', 3)}"


def sources(code: str) -> set[str]:
    """What a file names of generators and draws of Python's, numpy's and PyTorch's."""
    tree = ast.parse(code)
    modules = {
        name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names
    } & {"random", "secrets", "uuid"}
    names = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    in_place = {name for name in names if re.search(r"\.(uniform_|exponential_|random_|bernoulli_)$", name)}
    return modules | in_place | {name for name in names if SOURCE.fullmatch(name)}


@pytest.mark.parametrize(
    "code",
    [
        "import random",
        "torch.randn(3)",
        "torch.rand_like(x)",
        "numpy.random.rand(3)",
        "np.random.default_rng(0)",
        "torch.Generator().manual_seed(0)",
        "x.uniform_(0, 1)",
        "torch.cuda.manual_seed(1)",
    ],
)
def test_a_source_of_randomness_is_seen(code):
    assert sources(code)


def test_nothing_is_drawn_past_the_seeds():
    found = {}
    for folder in ("configs", "samplers", "vae", "dit", "eval"):
        for path in (ROOT / folder).rglob("*.py"):
            if names := sources(path.read_text()):
                found[path.relative_to(ROOT).as_posix()] = names
    assert found == ELSEWHERE
