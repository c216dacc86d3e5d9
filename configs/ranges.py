"""Ranges that settings share: a field is annotated with one, and `configs/load.py` checks it.

    steps: Steps = 1000                                  # an alias from here
    width: Annotated[int, Ge(8), MultipleOf(8)] = 64     # a range of its own, of annotated-types
    guidance: Guidance | None = None                     # None is the model's own

Every float is finite without being annotated. Upper ends lie far above anything in use: settings also come
from files of others, and a depth of 10^9 must be refused before memory is taken for it.
"""

from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt

Count = Annotated[int, Ge(1), Le(10**6)]
CountOrZero = Annotated[int, Ge(0), Le(10**6)]
Steps = Annotated[int, Ge(1), Le(10**9)]
StepsOrZero = TokensOrZero = Annotated[int, Ge(0), Le(10**9)]
Workers = Annotated[int, Ge(0), Le(1024)]
Threads = Annotated[int, Ge(1), Le(1024)]
Frames = Annotated[int, Ge(1), Le(10**5)]
Side = Annotated[int, Ge(1), Le(2**14)]
Width = Channels = Heads = Tokens = SamplerSteps = Annotated[int, Ge(1), Le(2**16)]
Depth = Annotated[int, Ge(1), Le(1000)]
Positive = Annotated[float, Gt(0), Le(1e9)]
NonNegative = Annotated[float, Ge(0), Le(1e9)]
Guidance = Annotated[float, Ge(0), Le(1000)]
Rate = Annotated[float, Gt(0), Le(1000)]
Share = Annotated[float, Ge(0), Le(1)]
Decay = Annotated[float, Ge(0), Lt(1)]
Seed = Annotated[int, Ge(0), Lt(2**63)]
