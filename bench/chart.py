"""Draws how figures grow: a panel for each series, both axes logarithmic, a line for each contender, as SVG.

A hundred lines are drawn by these hundred; a library for it would be larger than all that holdfast is installed with.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

from bench.harness import Figure

WIDTH, HEIGHT = 380, 250
"""Of a panel, in pixels; two stand beside each other."""
LEFT, RIGHT, TOP, BOTTOM = 66, 30, 34, 48
_COLOURS = ("#555555", "#c2571a", "#0b6fb8", "#5a8f29")
_STYLE = (
    "text{font:12px sans-serif;fill:#222}.t{font-weight:bold}.g{stroke:#ddd}"
    ".a{text-anchor:end}.m{text-anchor:middle}"
)


def drawn(figures: Sequence[Figure]) -> str:
    """The chart of every series that has more than one size."""
    series = {
        one.series: [two for two in figures if two.series == one.series]
        for one in figures
        if one.series
    }
    grown = {
        name: sorted(of, key=lambda one: one.size) for name, of in series.items() if len(of) > 1
    }
    whos = list(dict.fromkeys(who for of in grown.values() for one in of for who in one.samples))
    colours = dict(zip(whos, _COLOURS, strict=False))
    rows = math.ceil(len(grown) / 2)
    width, height = 2 * WIDTH, rows * HEIGHT + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">',
        f"<style>{_STYLE}</style>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for number, who in enumerate(whos):
        x = LEFT + 150 * number
        parts.append(f'<rect x="{x}" y="10" width="12" height="12" fill="{colours[who]}"/>')
        parts.append(f'<text x="{x + 18}" y="21">{escape(who)}</text>')
    for number, of in enumerate(grown.values()):
        at = f"translate({number % 2 * WIDTH} {number // 2 * HEIGHT + 30})"
        parts += [f'<g transform="{at}">', *_panel(of, colours), "</g>"]
    return "\n".join([*parts, "</svg>", ""])


def _panel(figures: Sequence[Figure], colours: dict[str, str]) -> list[str]:
    sizes = [one.size for one in figures]
    values = [
        value for one in figures for taken in one.samples.values() for value in taken if value > 0
    ]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    high = max(high, low + 1)
    wide = math.log10(sizes[-1] / sizes[0])

    def across(size: int) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * math.log10(size / sizes[0]) / wide

    def up(value: float) -> float:
        share = (math.log10(max(value, 10.0**low)) - low) / (high - low)
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share

    parts = [
        f'<text class="t" x="{LEFT}" y="22">{escape(figures[0].series)} ({escape(figures[0].unit)})</text>'
    ]
    for decade in range(low, high + 1):
        y = up(10.0**decade)
        parts.append(f'<path class="g" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(
            f'<text class="a" x="{LEFT - 6}" y="{y + 4:.1f}">{_number(10.0**decade)}</text>'
        )
    y = HEIGHT - BOTTOM + 18
    parts += [f'<text class="m" x="{across(size):.1f}" y="{y}">{size:,}</text>' for size in sizes]
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="m" x="{middle}" y="{y + 16}">{escape(figures[0].of)}</text>')
    for who, colour in colours.items():
        of = [one for one in figures if who in one.samples]
        points = [(across(one.size), up(one.medians[who])) for one in of]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for (x, y), one in zip(points, of, strict=True):
            least, most = up(min(one.samples[who])), up(max(one.samples[who]))
            parts.append(
                f'<path stroke="{colour}" stroke-width="5" opacity=".4" d="M{x:.1f} {least:.1f}V{most:.1f}"/>'
            )
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>')
    return parts


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"
