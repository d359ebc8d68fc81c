"""Small charts as SVG, made on the server; the page puts the table with the same numbers behind each."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

_HEIGHT = 70
_GAP = 3


def bars(values: Sequence[float], *, name: str, top: str) -> Markup:
    """Give a bar for each value.

    Args:
        values: the numbers, in the table's order.
        name: what a screen reader says.
        top: how the highest is written.
    """
    wide = 14
    highest = max(values, default=0) or 1
    shapes = Markup("").join(
        Markup('<rect class="bar" x="{}" y="{}" width="{}" height="{}"/>').format(
            place * (wide + _GAP), round(_HEIGHT - value / highest * _HEIGHT + 14, 1), wide,
            round(max(1.0, value / highest * _HEIGHT), 1),
        )
        for place, value in enumerate(values)
    )  # fmt: skip
    width = max(180, len(values) * (wide + _GAP))
    return Markup(
        '<svg role="img" aria-label="{name}" width="{width}" height="{full}" viewBox="0 0 {width} {full}">'
        '<text x="0" y="10">{top}</text>{shapes}<line class="axis" x1="0" x2="{width}" y1="{base}" y2="{base}"/></svg>'
    ).format(name=name, width=width, full=_HEIGHT + 18, base=_HEIGHT + 15, top=top, shapes=shapes)
