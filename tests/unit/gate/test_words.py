import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.gate.words import bound, decimals, margin, percent, points


def test_numbers_read_as_a_person_writes_them() -> None:
    assert [percent(0.978), bound(0.95), bound(0.995), points(-0.012), points(0.003)] == [
        "97.8%",
        "95%",
        "99.5%",
        "−1.2",
        "+0.3",
    ]
    assert [margin(0.01), margin(0.005), margin(0)] == ["1 point", "0.5 points", "0 points"]


@pytest.mark.parametrize(("width", "expected"), [(0.03, 1), (0.004, 1), (0.003, 2), (0.0003, 3), (0.00001, 4)])
def test_an_interval_gets_the_decimals_that_its_width_deserves(width: float, expected: int) -> None:
    assert decimals(0.9, 0.9 + width) == expected


@pytest.mark.parametrize(("low", "expected"), [(0.9496, 2), (0.94996, 3), (0.949996, 4), (0.95, 1), (0.951, 1)])
def test_a_near_miss_gets_the_decimals_that_show_it(low: float, expected: int) -> None:
    assert decimals(low, 0.99, 0.95) == expected


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_near_miss_is_not_written_like_the_bound(low: float, asked: float) -> None:
    digits = decimals(low, 1.0, asked)
    assert percent(low, digits) != percent(asked, digits) or abs(low - asked) < 1e-5
