r"""Half B, hidden: other scenes, sentences and notations than half A.

Written before half A and before the similarity `maths`, and not changed since; nobody looked at what fails here while
`maths` was developed. Every draw is right by construction: numbers are computed, never typed.
"""

from __future__ import annotations

from gaming import half_b_one, half_b_two
from gaming.item import Template

TEMPLATES: tuple[Template, ...] = half_b_one.TEMPLATES + half_b_two.TEMPLATES
