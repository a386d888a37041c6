"""Lays out the stages of a run as a graph of boxes and rounded lines.

Each stage stands one layer after the last stage that it takes values from.  Stages of one layer lie side by
side in lanes, the first lane for those that took part.  Lines between neighbouring layers are direct; those
that skip layers run in tracks beside the first lane, so that no line crosses a box of it.

The layout knows only *along* (the way of the data) and *across*; the same one gives the wide drawing, from left
to right, and the tall one for phones, from top to bottom.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from lib.report.reading import Stage

ARROW = 7.0  # pixels
RADIUS = 8.0
MARGIN = 2.0
LIFT = 13.0  # from the first lane to the nearest track

Point = tuple[float, float]


@dataclass(frozen=True)
class Measures:
    """Sizes of a drawing in pixels, along and across the way of the data."""

    along: float
    across: float
    gap: float  # between layers
    lane_gap: float
    track: float  # between lines beside the first lane
    tall: bool  # along is from top to bottom


WIDE = Measures(along=126, across=54, gap=25, lane_gap=16, track=13, tall=False)
TALL = Measures(along=46, across=138, gap=22, lane_gap=10, track=11, tall=True)


@dataclass(frozen=True)
class Box:
    """A stage's place."""

    stage: int  # its number in the run
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Line:
    """A line between two boxes: SVG path data of its body and its arrow head."""

    body: str
    head: str
    kind: str  # takes: values pass; after: it only runs later
    live: bool  # both ends took part


@dataclass(frozen=True)
class Drawing:
    """All boxes and lines, and the size that holds them."""

    width: float
    height: float
    boxes: tuple[Box, ...]
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class _Edge:
    source: int
    target: int
    kind: str


def draw(stages: Sequence[Stage], measures: Measures) -> Drawing:
    """Lay out stages and the lines between them.

    Parameters
    ----------
    stages : sequence of Stage
        In the order of the run.  What a stage needs is looked for among those before it.
    measures : Measures
        ``WIDE`` or ``TALL``.
    """
    layers, edges = _layers(stages)
    lanes = _lanes(stages, layers)
    tracks = _tracks(edges, layers)
    depth = max(tracks.values()) * measures.track if tracks else None
    start = MARGIN + (depth + LIFT if depth is not None else 0)
    step_along, step_across = measures.along + measures.gap, measures.across + measures.lane_gap
    corners = [
        (MARGIN + layers[number] * step_along, start + lanes[number] * step_across)
        for number in range(len(stages))
    ]
    lines = []
    for edge in edges:
        track = start - LIFT - tracks[edge] * measures.track if edge in tracks else None
        points = _route(edge, corners, lanes, track, measures)
        live = all(stages[end].status not in ("skipped", "pending") for end in (edge.source, edge.target))
        lines.append(_line(points, edge.kind, live, measures.tall))
    boxes = []
    for number, (along, across) in enumerate(corners):
        x, y = (across, along) if measures.tall else (along, across)
        size = (measures.across, measures.along) if measures.tall else (measures.along, measures.across)
        boxes.append(Box(number, x, y, *size))
    length = max((box.x + box.width for box in boxes), default=0) + MARGIN
    height = max((box.y + box.height for box in boxes), default=0) + MARGIN
    return Drawing(length, height, tuple(boxes), tuple(sorted(lines, key=lambda line: line.live)))


def _layers(stages: Sequence[Stage]) -> tuple[list[int], list[_Edge]]:
    """Return the layer of each stage, and the lines between stages.

    A stage that takes nothing stands beside the stage whose values it would have published, as an alternative;
    otherwise after all that ran before it.
    """
    number_of = {stage.name: number for number, stage in reversed(list(enumerate(stages)))}
    needs = [
        sorted({number_of[name] for name in stage.needs if number_of.get(name, number) < number})
        for number, stage in enumerate(stages)
    ]
    alternatives = {
        number: other
        for number, stage in enumerate(stages)
        if not needs[number] and (other := _alternative(number, stage, stages, needs)) is not None
    }
    layers: dict[int, int] = {}
    edges = []
    for number in range(len(stages)):
        if number in alternatives:
            continue
        if needs[number]:
            layers[number] = 1 + max((layers[need] for need in needs[number] if need in layers), default=-1)
            edges += [_Edge(need, number, "takes") for need in needs[number] if need in layers]
        elif layers:
            last = max(layers, key=lambda other: (layers[other], -other))
            layers[number] = layers[last] + 1
            edges.append(_Edge(last, number, "after"))
        else:
            layers[number] = 0
    for number, other in alternatives.items():
        layers[number] = layers[other]
    return [layers[number] for number in range(len(stages))], edges


def _alternative(
    number: int, stage: Stage, stages: Sequence[Stage], needs: Sequence[Sequence[int]]
) -> int | None:
    """Return the stage, of those that take something, which publishes what this one would have."""
    for other, candidate in enumerate(stages):
        if other != number and needs[other] and set(stage.publishes) & set(candidate.publishes):
            return other
    return None


def _lanes(stages: Sequence[Stage], layers: Sequence[int]) -> list[int]:
    """Return the lane of each stage in its layer: those that took part first."""
    lanes = [0] * len(stages)
    for layer in set(layers):
        members = [number for number in range(len(stages)) if layers[number] == layer]
        members.sort(key=lambda number: (stages[number].status == "skipped", number))
        for lane, number in enumerate(members):
            lanes[number] = lane
    return lanes


def _tracks(edges: Sequence[_Edge], layers: Sequence[int]) -> dict[_Edge, int]:
    """Return the track of each line that skips layers; short ones are nearest to the boxes."""

    def span(edge: _Edge) -> tuple[int, int]:
        return layers[edge.source], layers[edge.target]

    long = [edge for edge in edges if layers[edge.target] - layers[edge.source] > 1]
    taken: list[list[tuple[int, int]]] = []
    tracks = {}
    for edge in sorted(long, key=lambda edge: (span(edge)[1] - span(edge)[0], span(edge))):
        first, last = span(edge)
        for track in itertools.count():
            if track == len(taken):
                taken.append([])
            if all(last <= other_first or other_last <= first for other_first, other_last in taken[track]):
                break
        taken[track].append((first, last))
        tracks[edge] = track
    return tracks


def _route(
    edge: _Edge, corners: Sequence[Point], lanes: Sequence[int], track: float | None, measures: Measures
) -> list[Point]:
    """Return the corners of a line as (along, across)."""
    (from_along, from_across), (to_along, to_across) = corners[edge.source], corners[edge.target]
    leave = from_along + measures.along
    middle_from, middle_to = from_across + measures.across / 2, to_across + measures.across / 2
    if track is None:
        between = leave + measures.gap * 0.45
        if middle_from == middle_to:
            return [(leave, middle_from), (to_along, middle_to)]
        return [(leave, middle_from), (between, middle_from), (between, middle_to), (to_along, middle_to)]
    points: list[Point] = []
    if lanes[edge.source] == 0:
        out = from_along + measures.along * 0.8
        points += [(out, from_across), (out, track)]
    else:
        out = leave + measures.gap * 0.3
        points += [(leave, middle_from), (out, middle_from), (out, track)]
    if lanes[edge.target] == 0:
        into = to_along + measures.along * 0.2
        points += [(into, track), (into, to_across)]
    else:
        into = to_along - measures.gap * 0.55
        points += [(into, track), (into, middle_to), (to_along, middle_to)]
    return points


def _line(points: list[Point], kind: str, live: bool, tall: bool) -> Line:
    """Return a rounded line through the points with an arrow head at its end."""
    if tall:
        points = [(across, along) for along, across in points]
    (before_x, before_y), (end_x, end_y) = points[-2:]
    way_x, way_y = _direction(before_x, before_y, end_x, end_y)
    base = (end_x - way_x * ARROW, end_y - way_y * ARROW)
    half = ARROW * 0.5
    wings = [
        (base[0] - way_y * half, base[1] + way_x * half),
        (base[0] + way_y * half, base[1] - way_x * half),
    ]
    head = f"M{_at((end_x, end_y))} L{_at(wings[0])} L{_at(wings[1])} Z"
    return Line(_rounded([*points[:-1], base]), head, kind, live)


def _rounded(points: Sequence[Point]) -> str:
    """Return SVG path data through points with rounded corners."""
    path = f"M{_at(points[0])}"
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        radius = min(RADIUS, _distance(before, corner) / 2, _distance(corner, after) / 2)
        in_x, in_y = _direction(*before, *corner)
        out_x, out_y = _direction(*corner, *after)
        path += f" L{_at((corner[0] - in_x * radius, corner[1] - in_y * radius))}"
        path += f" Q{_at(corner)} {_at((corner[0] + out_x * radius, corner[1] + out_y * radius))}"
    return f"{path} L{_at(points[-1])}"


def _direction(from_x: float, from_y: float, to_x: float, to_y: float) -> Point:
    length = _distance((from_x, from_y), (to_x, to_y)) or 1.0
    return (to_x - from_x) / length, (to_y - from_y) / length


def _distance(one: Point, other: Point) -> float:
    return float(((one[0] - other[0]) ** 2 + (one[1] - other[1]) ** 2) ** 0.5)


def _at(point: Point) -> str:
    return f"{point[0]:.1f},{point[1]:.1f}"
