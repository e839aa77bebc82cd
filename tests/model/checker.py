"""A small explicit-state model checker.

A model is an immutable state (a NamedTuple) and some processes. Each process has one field of the state as its program
counter, and one step for each value of it. A step stands for ONE atomic access of the C code (or for a stretch of it that
a lock makes atomic), so every interleaving of the real threads is a path here.

Steps are sequentially consistent: what one has stored, all see at once. That is no simplification for the words that the
models are about: slot->park, ->pending, ->committed and ->mask are stored and loaded with memory_order_seq_cst where two
threads decide something by them; the others (piped, sig_sent, ...) are handed over by the WAKING bit (release, acquire), by
slot->lock or by the interpreter lock.

What is checked, in all states that can be reached:

- no state is wrong by itself (`wrong`), and no step is (it raises `Violation`);
- from every state a good end can still be reached (`good`). A wake-up is lost when it cannot: nobody can act any more, or
  all that act do so in vain for ever. Threads are scheduled fairly, so what can always be reached is reached in the end.
"""

from collections import deque
from collections.abc import Iterable
from typing import Any, Callable, Generic, NamedTuple, Optional, TypeVar, Union, cast

S = TypeVar("S", bound=tuple[object, ...])
Next = Union[None, S, list[S]]
Step = Callable[[S], Next[S]]


def put(state: S, **fields: Any) -> S:
    """state._replace(), for fields whose names are computed."""
    named_tuple: Any = state
    return cast(S, named_tuple._replace(**fields))


class Violation(Exception):
    """Raised by a step that must not be taken."""


class Process(Generic[S]):
    """The steps of one thread, by program counter. A step gives the next state, several (a choice), or None (it waits)."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.steps: dict[object, list[tuple[str, Step[S]]]] = {}

    def at(self, *pcs: object) -> Callable[[Step[S]], Step[S]]:
        """The decorated function is a step at these places; its docstring is how a trace names it."""

        def add(step: Step[S]) -> Step[S]:
            for pc in pcs:
                self.steps.setdefault(pc, []).append((" ".join((step.__doc__ or step.__name__).split()), step))
            return step

        return add


class Model(Generic[S]):
    def __init__(
        self,
        start: S,
        processes: Iterable[Process[S]],
        good: Callable[[S], bool],
        wrong: Callable[[S], Optional[str]] = lambda _: None,
    ) -> None:
        self.start = start
        self.processes = list(processes)
        self.good = good
        self.wrong = wrong

    def moves(self, state: S) -> Iterable[tuple[str, S, Optional[str]]]:
        """(what happens, the state behind it, what is wrong about it)."""
        for process in self.processes:
            for text, step in process.steps.get(getattr(state, process.name), []):
                label = f"{process.name}: {text}"
                try:
                    after = step(state)
                except Violation as violation:
                    yield label, state, str(violation)
                    continue
                for one in after if isinstance(after, list) else [] if after is None else [after]:
                    if one != state:
                        yield label, one, self.wrong(one)


class Result(NamedTuple):
    states: int
    violation: Optional[str]
    trace: list[str]

    def __str__(self) -> str:
        if self.violation is None:
            return f"{self.states} states, nothing wrong"
        return "\n".join([f"{self.violation}, after", *(f"  {i:2}. {step}" for i, step in enumerate(self.trace, 1))])


LOST = "lost: nobody who could end this well is left to act"


def check(model: "Model[S]", limit: int = 2_000_000) -> Result:
    """Breadth first, so that a counterexample is as short as can be."""
    came_from: dict[S, Optional[tuple[S, str]]] = {model.start: None}
    before: dict[S, list[S]] = {model.start: []}
    todo: deque[S] = deque([model.start])
    while todo:
        state = todo.popleft()
        for label, after, fault in model.moves(state):
            if fault is not None:
                return Result(len(came_from), fault, [*_path(came_from, state), label])
            if after not in came_from:
                came_from[after] = (state, label)
                before[after] = []
                todo.append(after)
            before[after].append(state)
        if len(came_from) > limit:
            raise RuntimeError("the model is too large")
    return _lost(model, came_from, before)


def _lost(model: "Model[S]", came_from: dict[S, Optional[tuple[S, str]]], before: dict[S, list[S]]) -> Result:
    """Go back from the good ends. What is not met on the way leads to none."""
    hopeful = {state for state in came_from if model.good(state)}
    todo = list(hopeful)
    while todo:
        for earlier in before[todo.pop()]:
            if earlier not in hopeful:
                hopeful.add(earlier)
                todo.append(earlier)
    for state in came_from:  # in the order in which they were found: the shortest path first
        if state not in hopeful:
            return Result(len(came_from), LOST, [*_path(came_from, state), f"left with {_difference(model.start, state)}"])
    return Result(len(came_from), None, [])


def _path(came_from: dict[S, Optional[tuple[S, str]]], state: S) -> list[str]:
    steps: list[str] = []
    link = came_from[state]
    while link is not None:
        state, label = link
        steps.append(label)
        link = came_from[state]
    return steps[::-1]


def _difference(start: tuple[object, ...], state: tuple[object, ...]) -> str:
    names: tuple[str, ...] = getattr(state, "_fields", ())
    return ", ".join(f"{name}={now!r}" for name, was, now in zip(names, start, state) if was != now)
