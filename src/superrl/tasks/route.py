"""Following one-way links on a small map: along them (`>`), or against them (`<`).

    >ac cd da eb be:a2=    ac, cd     answer c d
    <ac cd da eb be:a2=    da, cd     answer d c

Every place has one link out and one in, so both walks are unique. `way=mixed` draws the way for every problem.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from superrl.tasks.family import Item, check_range, item

PLACES = "abcdefghij"


@dataclass(frozen=True)
class Route:
    """A round trip through `places` places, listed in no order, of which `hops` links are to be followed."""

    hops: int = 3
    places: int = 6
    way: Literal["along", "against", "mixed"] = "along"

    def __post_init__(self) -> None:
        check_range("places", self.places, 3, len(PLACES))
        check_range("hops", self.hops, 1, self.places - 1)

    def make(self, rng: random.Random) -> Item:
        way = rng.choice(("along", "against")) if self.way == "mixed" else self.way
        circle = rng.sample(PLACES, self.places)
        links = [circle[i - 1] + circle[i] for i in range(self.places)]
        listed = " ".join(rng.sample(links, len(links)))
        if way == "along":
            visited = circle[: self.hops + 1]
            working = [here + there for here, there in pairwise(visited)]
        else:
            visited = [circle[-i] for i in range(self.hops + 1)]
            working = [there + here for here, there in pairwise(visited)]
        marker = ">" if way == "along" else "<"
        return item(f"{marker}{listed}:{visited[0]}{self.hops}=", working, visited[1:])
