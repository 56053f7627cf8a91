"""For values that may be None by their type and are not in a test."""

from typing import TypeVar

T = TypeVar("T")


def present(value: T | None) -> T:
    """The value; an AssertionError where there is none."""
    assert value is not None
    return value
