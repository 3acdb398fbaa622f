from __future__ import annotations

import pytest

from state.spec.units import format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [("512MiB", 536_870_912), ("2GiB", 2 << 30), ("1TiB", 1 << 40), ("0KiB", 0), ("007KiB", 7168)],
)
def test_a_size_is_a_whole_number_and_a_unit(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "value",
    [
        *["512", "512MB", "512M", "1.5GiB", "-1GiB", "1111111111GiB", "٣GiB"],
        *(" 1GiB", "1GiB\n", "1 GiB", "", 512, 1.5, True, None),
    ],
)
def test_what_is_no_size_is_quoted_with_a_size_to_write(value: object) -> None:
    with pytest.raises(ValueError, match=r"is no size \(write .* like 512MiB\)"):
        parse_size(value)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90.0), ("10m", 600.0), ("2h", 7200.0), ("1d", 86400.0), ("250ms", 0.25)],
)
def test_a_time_is_a_whole_number_and_a_unit(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("value", ["90", "1.5s", "-1s", "1s\n", "", 90, True, None, "1w"])
def test_what_is_no_time_is_quoted_with_a_time_to_write(value: object) -> None:
    with pytest.raises(ValueError, match=r"is no time \(write .* like 90s\)"):
        parse_duration(value)


def test_sizes_and_times_are_shown_as_they_are_written() -> None:
    assert [format_size(size) for size in (512 << 20, 2 << 30, 1000, 0)] == [
        "512MiB",
        "2GiB",
        "1000B",
        "0B",
    ]
    assert [format_duration(time) for time in (90.0, 120.0, 0.0, 0.25)] == [
        "90s",
        "2m",
        "0s",
        "250ms",
    ]
