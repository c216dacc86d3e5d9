"""Ranges that settings share: a field is annotated with one, and `configs/load.py` checks it.

    steps: Count = 1000                                  # an alias from here
    width: Annotated[int, Ge(8), MultipleOf(8)] = 64     # a range of its own, of annotated-types
    guidance: NonNegative | None = None                  # None is the model's own

Every float is finite without being annotated.
"""

from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt

Count = Annotated[int, Ge(1)]
CountOrZero = Annotated[int, Ge(0)]
Positive = Annotated[float, Gt(0)]
NonNegative = Annotated[float, Ge(0)]
Share = Annotated[float, Ge(0), Le(1)]
Decay = Annotated[float, Ge(0), Lt(1)]
Seed = Annotated[int, Ge(0), Lt(2**63)]
