"""The choice of how many threads work."""

from __future__ import annotations

from lib.fm.pace import Pace


def simulate(pace: Pace, speeds: dict[int, float], pieces: int) -> list[int]:
    """Let pieces of work, each of which one unit of speed does in a second, be done; return the choices."""
    chosen = []
    for _ in range(pieces):
        chosen.append(pace.choose())
        pace.learn(chosen[-1], 1.0, 1.0 / speeds[chosen[-1]])
    return chosen


def test_all_threads_are_used_while_they_are_fastest():
    chosen = simulate(Pace(2), {1: 100, 2: 180}, 1000)
    assert chosen[0] == 2
    assert chosen.count(1) < 0.05 * len(chosen)


def test_one_thread_is_used_on_a_busy_machine():
    pace = Pace(2)
    chosen = simulate(pace, {1: 50, 2: 5}, 300)
    assert chosen[0] == 2
    lost = chosen.count(2) / 5
    assert lost < 0.1 * (lost + chosen.count(1) / 50)
    after = simulate(pace, {1: 100, 2: 180}, 2000)
    assert after[-200:].count(2) > 180


def test_the_best_of_many_numbers_is_found():
    speeds = {16: 300, 8: 400, 4: 700, 2: 500, 1: 260}
    chosen = simulate(Pace(16), speeds, 5000)
    assert chosen[-1000:].count(4) > 800


def test_short_pieces_are_measured_together():
    pace = Pace(2)
    assert simulate(pace, {1: 50_000, 2: 10_000}, 20) == [2] * 20
    chosen = simulate(pace, {1: 50_000, 2: 10_000}, 2000)
    assert chosen.count(1) > 1900


def test_one_thread_has_no_choice():
    assert set(simulate(Pace(1), {1: 10}, 50)) == {1}
