"""Every interleaving of the protocol's steps. The models say which functions of the C code they stand for; each is also
checked with one thing left out, which must be caught: else the model would prove nothing. The counterexamples are printed
(pytest -s)."""

import re
from pathlib import Path
from typing import Any

import ask_model
import delivery_model
import leaving_model
import park_model
import pytest
import retract_model
import trace_model
import unseen_model
from checker import LOST, Model, Result, check

STALE = "stale: "
FALSE = "false time-out: "
TAKEN_BACK = "taken back: "
TWICE = "delivered twice"
LATE = "delivered, although it was taken back"
MASKED = "delivered under a mask"
REUSED = "hits the thread that reuses the slot: "

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
    ("does not resume", "signal", True, FALSE),
    ("does not resume", "fdset", True, FALSE),
    ("does not resume", "deadline", True, FALSE),
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
    ("the ask does not look at pending", TWICE),
]
# (variant, with a monitor that may be as slow as it likes, what is violated)
ASK = [
    ("the ask raises what it was sent for", True, TWICE),
    ("the ask does not look at exact", True, "raised inside an exact call"),
    ("ask without life number", False, "the asks pile up"),
    ("raises without looking at the life", True, REUSED),
    ("a new life keeps the queue", True, REUSED),
    ("a new life keeps the old asks' mark", True, LOST),
    ("a new life forgets the old asks before it has its number", True, LOST),
    ("cancel() leaves it in the queue", True, TWICE),
    ("the monitor asks only once", True, LOST),
]
# (variant, whether the thread's function may return, what is violated)
DELIVERY = [
    ("a mask does not recall", False, MASKED),
    ("cancel() does not recall", False, LATE),
    ("a recall is not watched", False, LOST),
    ("recalls what has been raised", False, LATE),
    ("arms without taking it off the queue", False, LATE),
    ("cancel() clears pending for all", False, LOST),
    ("an exact call delivers under a mask", False, MASKED),
    ("end does not empty the queue", True, LOST),
    ("end does not recall what is armed", True, "delivered behind the end"),
    ("what comes behind the end is queued", True, LOST),
    ("recorded again without settling", False, LOST),
    ("recorded again, but not pending", False, LOST),
    ("recorded again, but still remembered", False, LATE),
    ("cancel() of what is being made", False, LATE),
    ("arms by a look before it was made", False, MASKED),
]
# (variant, whether the monitor comes again and again, whether the thread's function may return, what is violated)
TRACE = [
    ("an event does not look at pending", True, False, LOST),
    ("an event does not look at the mask", True, False, MASKED),
    ("an event does not look at exact", True, False, "raised inside an exact call"),
    ("an event raises anywhere", True, False, "raised at an unfit place"),
    ("a mask keeps it, and leaving it does not ask", False, False, LOST),
    ("stops without putting back what was there", True, False, "the program is not traced any more"),
    ("starts in front of itself", True, False, "the program is not traced any more"),
    ("does not call what it is in front of", True, False, "the program does not see an event"),
    ("end does not stop it", True, True, "the thread has ended, and is traced"),
    ("arms over what is armed", True, False, LOST),
    ("looks into the thread state of the last call", True, False, "looks into a thread state that is gone"),
]
UNSEEN = [
    ("parks without looking", STALE),
    ("leaves without looking", STALE),
    ("looks before announcing", STALE),
    ("does not wait for what has begun", STALE),
    ("does not wait for the handler", STALE),
    ("the nudge looks before it begins", STALE),
    ("the nudge does not look at park", STALE),
    ("the nudge does not look at exact", STALE),
    ("the nudge forgets the one before", STALE),
    ("nobody nudges", LOST),
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


@pytest.mark.parametrize("stalls", [True, False])
def test_asks(stalls: bool) -> None:
    holds(ask_model.build(stalls=stalls))


@pytest.mark.parametrize(("variant", "stalls", "expected"), ASK)
def test_a_broken_ask_is_caught(variant: str, stalls: bool, expected: str) -> None:
    is_caught(ask_model.build(variant, stalls), expected)


@pytest.mark.parametrize("ends", [False, True])
def test_delivery(ends: bool) -> None:
    holds(delivery_model.build(ends=ends))


@pytest.mark.parametrize(("variant", "ends", "expected"), DELIVERY)
def test_a_broken_delivery_is_caught(variant: str, ends: bool, expected: str) -> None:
    is_caught(delivery_model.build(variant, ends), expected)


@pytest.mark.parametrize("repeats", [False, True])
@pytest.mark.parametrize("ends", [False, True])
def test_tracing(repeats: bool, ends: bool) -> None:
    holds(trace_model.build(repeats=repeats, ends=ends))


@pytest.mark.parametrize(("variant", "repeats", "ends", "expected"), TRACE)
def test_a_broken_tracing_is_caught(variant: str, repeats: bool, ends: bool, expected: str) -> None:
    is_caught(trace_model.build(variant, repeats, ends), expected)


def test_unseen() -> None:
    holds(unseen_model.build())


@pytest.mark.parametrize(("variant", "expected"), UNSEEN)
def test_a_broken_nudge_is_caught(variant: str, expected: str) -> None:
    is_caught(unseen_model.build(variant), expected)


@pytest.mark.parametrize(
    ("shipped", "tried"),
    [
        (park_model.VARIANTS, PARK),
        (retract_model.VARIANTS, RETRACT),
        (leaving_model.VARIANTS, LEAVING),
        (ask_model.VARIANTS, ASK),
        (delivery_model.VARIANTS, DELIVERY),
        (trace_model.VARIANTS, TRACE),
        (unseen_model.VARIANTS, UNSEEN),
    ],
)
def test_every_variant_is_tried(shipped: Any, tried: Any) -> None:
    assert set(shipped) == {row[0] for row in tried}


SOURCES = Path(__file__).parents[2] / "src"
# "itr_mask_pop() in src/api.c", "mask_pop() and itr_mask_pop() in api.c": the names that are said to be in that file.
SAID = re.compile(r"((?:\w+\(\)(?:, | and )?)+) in (?:src/(?:python/)?)?(\w+\.c)\b")


@pytest.mark.parametrize("model", sorted(Path(__file__).parent.glob("*_model.py")), ids=lambda path: str(path.stem))
def test_what_a_model_names_is_where_it_says(model: Path) -> None:
    sources = {path.name: path.read_text() for path in SOURCES.rglob("*.c")}
    text = " ".join(re.sub(r"(?m)^ *# ?", "", model.read_text()).split())
    files = re.findall(r"\b\w+\.c\b", text)
    assert files, "it says nothing of what it stands for"
    assert [name for name in files if name not in sources] == []
    for names, file in SAID.findall(text):
        for name in re.findall(r"\w+", re.sub(r"\band\b|[(),]", " ", names)):
            assert re.search(rf"(?m)^(?:[a-z].*\b)?{name}\(", sources[file], re.I), f"{name}() is not in {file}"
