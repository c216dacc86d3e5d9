"""Laws of scaling: a loss as a sum of powers of parameters, data or compute, fitted, with intervals.

L = E + A / N^a + B / D^b (Hoffmann et al. 2022, arXiv 2203.15556, eq. 10), or fewer of its terms, by Huber's
loss on logarithms from a grid of starts. Their threshold of 0.001 is for hundreds of runs; here it is 1.345
times what the losses scatter, which loses 5 % where they scatter normally. Intervals come from a parametric
bootstrap: losses are drawn from the fitted law with a scatter that is itself drawn, as few runs tell it
badly, and fitted again. Runs drawn again with replacement would leave fewer different ones than a law has
constants.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy
from numpy import ndarray

from vae.training.seeds import generator

TERMS = {"N": ("A", "a"), "D": ("B", "b"), "C": ("K", "c")}  # of parameters, samples, FLOPs: their constants
SETTLES = 0.871  # of a normal scatter, where squares weighed by it settle: c^2 = 2 Phi(1.345 c) - 1
HUBER = 1.345  # scatters, beyond which a residual counts linearly: 95 % efficient where all is normal
EXPONENTS = 0.05, 0.2, 0.5, 1.2  # that a fit starts from, of each term
FLOORS = 0.02, 0.4, 0.8, 0.95  # of the least loss, that E starts from
ITERATIONS = 120
PASSES = 10  # in which the scatter and the fit come to agree
LEAST = -30.0  # of a logarithm: a term so small is none


@dataclass(frozen=True)
class Law:
    """A fitted law: which terms, its constants by name, its scatter in the logarithm, and redraws of both.

    `centre` has the logarithms around which terms are fitted; `draws` [S, P] and `scatters` [S] say how
    uncertain they are.
    """

    terms: tuple[str, ...]
    floor: bool
    centre: ndarray
    fitted: ndarray
    scatter: float
    draws: ndarray
    scatters: ndarray

    def losses(self, at: Mapping[str, ndarray | float], drawn: bool = False) -> ndarray:
        """The law's losses at values of its terms' variables, [n]; of every redraw, [S, n]."""
        x = _logs(self.terms, at) - self.centre
        losses = numpy.exp(_logarithm(self.draws if drawn else self.fitted[None], x, self.floor)[0])
        return losses if drawn else losses[0]

    def forecast(self, at: Mapping[str, float], level: float) -> tuple[float, float, float]:
        """The loss that a run there is to have, and its interval's ends: of the law and the run's scatter."""
        noise = generator(0, "forecast").standard_normal(len(self.scatters))
        drawn = self.losses(at, drawn=True)[:, 0] * numpy.exp(self.scatters * noise)
        return float(self.losses(at)[0]), *_ends(drawn, level)

    def constants(self, level: float) -> dict[str, tuple[float, float, float]]:
        """Every constant of the law by its letter, with the ends of its interval."""
        values, drawn = (_letters(x, self) for x in (self.fitted[None], self.draws))
        return {name: (float(values[name][0]), *_ends(drawn[name], level)) for name in values}

    def __str__(self) -> str:
        floor = ["E"] * self.floor
        return "L = " + " + ".join(
            floor + [f"{TERMS[term][0]} / {term}^{TERMS[term][1]}" for term in self.terms]
        )


def count(terms: Sequence[str], floor: bool) -> int:
    """How many constants a law has."""
    return 2 * len(terms) + floor


def fit(
    terms: Sequence[str],
    floor: bool,
    at: Mapping[str, ndarray],
    losses: ndarray,
    redraws: int = 1000,
    seed: int = 0,
) -> Law:
    """The law of these terms that losses [n] at its variables' values [n] obey, more than its constants."""
    x, y = _logs(terms, at), numpy.log(numpy.asarray(losses, dtype=float))
    freedom = len(y) - count(terms, floor)
    assert freedom > 0, "as many constants as runs say nothing of a scatter"
    centre = x.mean(axis=0)
    starts = _starts(len(terms), floor, y)
    fitted, scatter = _robust(starts, x - centre, y, floor, freedom)

    # Losses as the law might have had them, each fitted again from the law and from a few other starts.
    random = generator(seed, "redraws")
    scatters = scatter * numpy.sqrt(freedom / random.chisquare(freedom, redraws))
    truth = _logarithm(fitted[None], x - centre, floor)[0]
    drawn = truth + scatters[:, None] * random.standard_normal((redraws, len(y)))
    some = numpy.concatenate([fitted[None], starts[:: max(1, len(starts) // 4)]])
    every = numpy.repeat(some[None], redraws, axis=0).reshape(-1, len(fitted))
    limits = numpy.repeat(HUBER * scatters, len(some))
    refitted, costs = _minimise(every, x - centre, numpy.repeat(drawn, len(some), axis=0), floor, limits)
    costs = costs.reshape(redraws, len(some))
    draws = refitted.reshape(redraws, len(some), -1)[numpy.arange(redraws), costs.argmin(axis=1)]
    return Law(tuple(terms), floor, centre, fitted, scatter, draws, scatters)


def optimal_split(law: Law, growth: tuple[float, float], flops: ndarray) -> tuple[ndarray, ndarray]:
    """Parameters and samples of the least loss that FLOPs [n] buy, where one sample costs k N^m of them.

    The law's derivative along C = k N^m D is zero where a A / N^a = m b B / D^b. `growth` is k and m.
    """
    k, m = growth
    value = {name: letters[0] for name, letters in law.constants(0.5).items()}
    a, b = value["a"], value["b"]
    parameters = (a * value["A"] / (m * b * value["B"]) * (flops / k) ** b) ** (1 / (a + m * b))
    return parameters, flops / (k * parameters**m)


def split_exponent(law: Law, growth: tuple[float, float], level: float) -> tuple[float, float, float]:
    """The power of compute with which the best count of parameters grows, and the ends of its interval."""
    values = []
    for constants in (law.fitted[None], law.draws):
        letters = _letters(constants, law)
        values.append(letters["b"] / (letters["a"] + growth[1] * letters["b"]))
    return float(values[0][0]), *_ends(values[1], level)


def _ends(drawn: ndarray, level: float) -> tuple[float, float]:
    """The ends of the interval that holds the middle of what was drawn."""
    low, high = numpy.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _logs(terms: Sequence[str], at: Mapping[str, ndarray | float]) -> ndarray:
    """The logarithms of the terms' variables, [n, K]."""
    return numpy.stack([numpy.log(numpy.atleast_1d(numpy.asarray(at[term], float))) for term in terms], -1)


def _letters(constants: ndarray, law: Law) -> dict[str, ndarray]:
    """Constants as they are fitted, [S, P], as the law's own by their letters."""
    result = {"E": numpy.exp(constants[:, 0])} if law.floor else {}
    for k, term in enumerate(law.terms):
        size, power = constants[:, law.floor + 2 * k], numpy.exp(constants[:, law.floor + 2 * k + 1])
        large, small = TERMS[term]
        result |= {large: numpy.exp(numpy.minimum(size + power * law.centre[k], 700)), small: power}
    return result


def _starts(terms: int, floor: bool, y: ndarray) -> ndarray:
    """Constants that a fit starts from, [S, P]: every floor with every exponent of terms that share it."""
    rows = []
    for share, *exponents in itertools.product(FLOORS if floor else (0.0,), *[EXPONENTS] * terms):
        rest = numpy.log(max(numpy.exp(y.mean()) - share * numpy.exp(y.min()), 1e-9) / terms)
        powers = [part for power in exponents for part in (rest, numpy.log(power))]
        rows.append(([numpy.log(share) + y.min()] if floor else []) + powers)
    return numpy.array(rows)


def _robust(starts: ndarray, x: ndarray, y: ndarray, floor: bool, freedom: int) -> tuple[ndarray, float]:
    """The best fit of all starts, and its scatter: by squares first, then by Huber's loss of that scatter."""
    limit, best, scatter = numpy.inf, starts, 0.0
    for number in range(2 + PASSES):
        fits, costs = _minimise(best, x, y, floor, numpy.full(len(best), limit))
        fitted = fits[costs.argmin()]
        residuals = y - _logarithm(fitted[None], x, floor)[0][0]
        weighed = residuals**2 * _weights(residuals, limit)
        scatter = float(numpy.sqrt(weighed.sum() / freedom))
        limit = max(HUBER * scatter, 1e-9)
        best = numpy.concatenate([fitted[None], starts]) if number == 0 else fitted[None]
    return fitted, scatter / SETTLES


def _logarithm(constants: ndarray, x: ndarray, floor: bool) -> tuple[ndarray, ndarray]:
    """Logarithms of laws' losses at x [n, K], [S, n], and their slopes by the constants, [S, n, P]."""
    sizes, powers = constants[:, floor::2], numpy.exp(constants[:, floor + 1 :: 2])
    parts = sizes[:, None] - powers[:, None] * x[None]
    if floor:
        first = numpy.repeat(constants[:, None, :1], len(x), axis=1)
        parts = numpy.concatenate([first, parts], axis=-1)
    top = parts.max(axis=-1, keepdims=True)
    sums = numpy.exp(parts - top).sum(axis=-1, keepdims=True)
    shares = numpy.exp(parts - top) / sums
    slopes = numpy.empty((*parts.shape[:2], constants.shape[1]))
    slopes[..., 0] = shares[..., 0]
    slopes[..., floor::2] = shares[..., floor:]
    slopes[..., floor + 1 :: 2] = -shares[..., floor:] * powers[:, None] * x[None]
    return (top + numpy.log(sums))[..., 0], slopes


def _weights(residuals: ndarray, limits: ndarray | float) -> ndarray:
    """What a squared residual counts in Huber's loss."""
    return numpy.minimum(1.0, limits / numpy.maximum(numpy.abs(residuals), 1e-300))


def _minimise(
    starts: ndarray, x: ndarray, y: ndarray, floor: bool, limits: ndarray
) -> tuple[ndarray, ndarray]:
    """Constants of the least Huber loss from every start [S, P], and those losses, by Levenberg-Marquardt.

    All starts, each with its own losses y [S, n] or the same [n], go on side by side: thousands in a second.
    """

    def cost(residuals: ndarray) -> ndarray:
        size = numpy.abs(residuals)
        limit = numpy.minimum(limits, 1e30)[:, None]
        return numpy.where(size <= limit, size**2 / 2, limit * (size - limit / 2)).sum(axis=-1)

    constants, damping = starts.copy(), numpy.full(len(starts), 1e-2)
    predicted, slopes = _logarithm(constants, x, floor)
    residuals = y - predicted
    costs = cost(residuals)
    diagonal = numpy.arange(constants.shape[1])
    for _ in range(ITERATIONS):
        weights = _weights(residuals, limits[:, None])[..., None]
        curvature = numpy.einsum("snp,snq->spq", weights * slopes, slopes)
        downhill = numpy.einsum("snp,sn->sp", weights * slopes, residuals)
        scale = damping[:, None] * (curvature[:, diagonal, diagonal] + 1e-8)
        curvature[:, diagonal, diagonal] += scale + 1e-14
        move = numpy.linalg.solve(curvature, downhill[..., None])[..., 0]
        tried = numpy.maximum(constants + numpy.clip(move, -2, 2), LEAST)
        tried[:, floor + 1 :: 2] = numpy.clip(tried[:, floor + 1 :: 2], -7, 2)  # exponents of 0.001 to 7
        predicted, other = _logarithm(tried, x, floor)
        after = cost(y - predicted)
        better = after < costs
        gain = numpy.where(better, costs - after, 0).max()
        constants, residuals = (
            numpy.where(better[:, None], new, old)
            for new, old in ((tried, constants), (y - predicted, residuals))
        )
        slopes, costs = numpy.where(better[:, None, None], other, slopes), numpy.where(better, after, costs)
        damping = numpy.clip(numpy.where(better, damping / 5, damping * 4), 1e-12, 1e12)
        if (better.any() and gain < 1e-13) or damping.min() > 1e9:
            break
    return constants, costs
