from __future__ import annotations

from itertools import permutations

import pytest

from morphseq_dagster.segmentation.tracking import Position, match_places, measure_cost


def square(x: float, y: float, side: float = 10.0) -> Position:
    return Position((x, y, x + side, y + side))


def test_cost_of_the_same_place_is_zero() -> None:
    assert measure_cost(square(0, 0), square(0, 0), diameter=10) == 0.0


def test_cost_by_hand() -> None:
    # Half a diameter apart: 0.5, boxes share 50 of 150: 1 - 1/3, equal areas: 0.
    assert measure_cost(square(0, 0), square(5, 0), diameter=10) == pytest.approx(0.5 + 2 / 3)


def test_cost_of_another_size_in_the_same_place_by_hand() -> None:
    # No distance; 100 of 400 shared: 1 - 1/4; four times the area: half of ln 4, whichever of both is the larger.
    small, large = square(5, 5), square(0, 0, side=20)

    assert measure_cost(small, large, diameter=10) == pytest.approx(0.75 + 0.693147)
    assert measure_cost(large, small, diameter=10) == pytest.approx(0.75 + 0.693147)


def test_neighbour_of_the_right_size_is_taken_rather_than_a_large_one_around_the_place() -> None:
    # 0.5 + 2/3 = 1.17 against 0.75 + 0.69 = 1.44; without the sizes it would be 1.17 against 0.75.
    assert match_places({1: square(5, 5)}, [square(0, 0, side=20), square(10, 5)]) == {1: 1}


def test_total_cost_decides_not_the_nearest_neighbour() -> None:
    # Embryo 2 moved onto where 1 was, 1 moved on: greedy matching of 2's box to embryo 1 would lose one.
    matched = match_places({1: square(4, 0), 2: square(0, 0)}, [square(4.5, 0), square(8, 0)])

    assert matched == {1: 1, 2: 0}


def test_order_of_candidates_does_not_matter() -> None:
    last = {1: square(0, 0), 2: square(30, 0), 3: square(0, 30)}
    places = {1: square(1, 1), 2: square(31, 0), 3: square(0, 29)}

    for order in permutations((1, 2, 3)):
        matched = match_places(last, [places[n] for n in order])
        assert {n: order[i] for n, i in matched.items()} == {1: 1, 2: 2, 3: 3}


def test_far_candidate_is_not_matched() -> None:
    assert match_places({1: square(0, 0)}, [square(40, 0)]) == {}


def test_gate_is_not_circumvented_by_an_assignment_that_must_use_all() -> None:
    assert match_places({1: square(0, 0), 2: square(100, 0)}, [square(1, 0), square(50, 50)]) == {1: 0}


def test_more_candidates_than_embryos_leave_some_out() -> None:
    assert match_places({1: square(0, 0)}, [square(60, 0), square(1, 0)]) == {1: 1}


def test_nobody_and_nothing_match_nobody() -> None:
    assert match_places({}, [square(0, 0)]) == {}
    assert match_places({1: square(0, 0)}, []) == {}


def test_size_tells_neighbours_apart() -> None:
    small, large = Position((0, 0, 10, 10)), Position((-5, -5, 15, 15))

    assert match_places({1: small, 2: large}, [large, small]) == {1: 1, 2: 0}
