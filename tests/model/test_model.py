"""Every interleaving of the protocol's steps. The models say which functions of the C code they stand for; each is also
checked with one thing left out, which must be caught: else the model would prove nothing. The counterexamples are printed
(pytest -s)."""

from typing import Any

import delivery_model
import leaving_model
import park_model
import pytest
import retract_model
from checker import LOST, Model, Result, check

STALE = "stale: "
TAKEN_BACK = "taken back: "
TWICE = "delivered twice"
MASKED = "delivered under a mask"

# (variant, kind of wait, with the monitor's repeats, what is violated)
PARK = [
    ("looks at pending before announcing", "fdset", False, LOST),
    ("looks at pending before announcing", "deadline", False, LOST),
    ("waker looks at park before recording", "fdset", False, LOST),
    ("waker looks at park before recording", "deadline", False, LOST),
    ("leaves by a plain store", "signal", True, STALE),
    ("leaves by a plain store", "fdset", True, STALE),
    ("leaves by a plain store", "deadline", True, STALE),
    ("does not wait for the handler", "signal", True, STALE),
    ("does not wait for the handler", "deadline", True, STALE),
    ("does not empty the pipe", "fdset", True, STALE),
    ("does not restore the deadline", "deadline", True, STALE),
    ("no generation in the park word", "signal", True, STALE),
    ("no generation in the park word", "fdset", True, STALE),
    ("no generation in the park word", "deadline", True, STALE),
    ("wakes without WAKING", "signal", True, STALE),
    ("wakes without WAKING", "fdset", True, STALE),
    ("wakes without WAKING", "deadline", True, STALE),
    ("monitor looks only once", "signal", True, LOST),
    ("no monitor", "signal", False, LOST),
]
RETRACT = [
    ("no second look at pending", TAKEN_BACK),
    ("retracts without looking at committed", TAKEN_BACK),
    ("looks at committed before clearing", TAKEN_BACK),
    ("puts back without waking", LOST),
    ("raising resets committed", TAKEN_BACK),
]
LEAVING = [
    ("lowers without looking", LOST),
    ("looks before lowering", LOST),
    ("looks at the mask before recording", LOST),
    ("the ask does not look at the mask", MASKED),
]
DELIVERY = [
    ("a mask does not recall", MASKED),
    ("cancel() does not recall", "delivered, although it was taken back"),
    ("a recall is not watched", LOST),
    ("recalls what has been raised", TWICE),
    ("arms without taking it off the queue", TWICE),
    ("cancel() clears pending for all", LOST),
    ("an exact call delivers under a mask", MASKED),
]


def holds(model: "Model[Any]") -> None:
    result = check(model)
    assert result.violation is None, str(result)
    assert result.states > 50, "the model does next to nothing"
    print(result)


def is_caught(model: "Model[Any]", expected: str) -> Result:
    result = check(model)
    print(result)
    assert result.violation is not None, f"not caught, in {result.states} states"
    assert result.violation.startswith(expected), str(result)
    assert result.trace, "no counterexample"
    return result


@pytest.mark.parametrize("kind", park_model.KINDS)
def test_park(kind: str) -> None:
    holds(park_model.build(kind))


@pytest.mark.parametrize("kind", ["fdset", "deadline"])
def test_a_byte_and_a_deadline_hold_without_the_monitor(kind: str) -> None:
    holds(park_model.build(kind, monitor=False))


@pytest.mark.parametrize(("variant", "kind", "monitor", "expected"), PARK)
def test_a_broken_park_is_caught(variant: str, kind: str, monitor: bool, expected: str) -> None:
    is_caught(park_model.build(kind, variant, monitor=monitor), expected)


@pytest.mark.parametrize("variant", ["looks at pending before announcing", "waker looks at park before recording"])
@pytest.mark.parametrize("kind", park_model.KINDS)
def test_the_monitor_is_the_last_resort(variant: str, kind: str) -> None:
    holds(park_model.build(kind, variant))


def test_retraction() -> None:
    holds(retract_model.build())


@pytest.mark.parametrize(("variant", "expected"), RETRACT)
def test_a_broken_retraction_is_caught(variant: str, expected: str) -> None:
    is_caught(retract_model.build(variant), expected)


@pytest.mark.parametrize("way", leaving_model.WAYS)
@pytest.mark.parametrize("repeats", [False, True])
def test_leaving(way: str, repeats: bool) -> None:
    holds(leaving_model.build(way, repeats=repeats))


@pytest.mark.parametrize("way", leaving_model.WAYS)
@pytest.mark.parametrize(("variant", "expected"), LEAVING)
def test_a_broken_leaving_is_caught(way: str, variant: str, expected: str) -> None:
    is_caught(leaving_model.build(way, variant), expected)


@pytest.mark.parametrize("way", leaving_model.WAYS)
@pytest.mark.parametrize("variant", ["lowers without looking", "looks before lowering"])
def test_the_monitor_is_the_last_resort_there_too(way: str, variant: str) -> None:
    holds(leaving_model.build(way, variant, repeats=True))


def test_delivery() -> None:
    holds(delivery_model.build())


@pytest.mark.parametrize(("variant", "expected"), DELIVERY)
def test_a_broken_delivery_is_caught(variant: str, expected: str) -> None:
    is_caught(delivery_model.build(variant), expected)


@pytest.mark.parametrize(
    ("shipped", "tried"),
    [
        (park_model.VARIANTS, PARK),
        (retract_model.VARIANTS, RETRACT),
        (leaving_model.VARIANTS, LEAVING),
        (delivery_model.VARIANTS, DELIVERY),
    ],
)
def test_every_variant_is_tried(shipped: Any, tried: Any) -> None:
    assert set(shipped) == {row[0] for row in tried}
