"""Leaving a state that says "do not inject": lower the mask, then look at pending; against: set pending, then look at the
mask (mask_pop() and itr_mask_pop() in src/api.c; core_unmask() in masks.c; itr_exact_leave() in exact_calls.c; on the other
side raise_bit() in api.c, look() in monitor.c, ask() and itr_async_on_running() in pending_call.c).

`mask` stands for every such state: slot->mask and slot->exact are stored and looked at in the same way. The target runs code
here and waits nowhere. Delivery is the pending call of CPython 3.12 and later: the monitor asks, and the ask runs in the
target at one of its checks; ask_model.py has what else may become of an ask. (itr_async_on_running() loads `mask` relaxed, but behind the seq_cst load of pending, and behind the lock
that the recording has released. So it cannot miss a mask that was lowered before the target's look missed the recording.)

With `repeats`, the monitor comes again and again while something is pending. That is the last resort: all must hold without.
"""

from typing import NamedTuple, Optional

from checker import Model, Next, Process, Violation

WAYS = ("delivers", "kicks")  # core_unmask() raises by itself; itr_mask_pop() and itr_exact_leave() kick the monitor
VARIANTS = (
    "lowers without looking",
    "looks before lowering",
    "looks at the mask before recording",
    "the ask does not look at the mask",
    "the ask does not look at pending",
)


class State(NamedTuple):
    mask: int = 0
    pending: bool = False
    asked: bool = False  # t->asked: a pending call of ours is in the queue
    # -- the target
    target: str = "outside"
    entries: int = 0
    saw: bool = False  # (a broken variant's early look)
    delivered: int = 0
    # -- the others
    interrupter: str = "record"
    monitor: str = "idle"
    watched: bool = False
    due: bool = False


def build(way: str, variant: str = "", repeats: bool = False, entries: int = 2) -> "Model[State]":
    processes = [_target(way, variant, entries), _interrupter(variant), _monitor(repeats)]
    return Model(State(), processes, _good, _wrong)


def _good(s: State) -> bool:
    return s.interrupter == "end" and s.target == "loop" and not s.pending and s.delivered == 1


def _wrong(s: State) -> Optional[str]:
    return "delivered twice" if s.delivered > 1 else None


def _target(way: str, variant: str, entries: int) -> "Process[State]":
    target: Process[State] = Process("target")

    @target.at("outside")
    def enter(s: State) -> State:
        """mask_push(), itr_exact_enter(): store mask"""
        if s.entries == entries:
            return s._replace(target="loop")
        return s._replace(mask=1, entries=s.entries + 1, target="early" if variant == "looks before lowering" else "inside")

    @target.at("early")
    def early(s: State) -> State:
        """(broken) load pending, and only then lower the mask"""
        return s._replace(saw=s.pending, target="inside")

    @target.at("inside")
    def leave(s: State) -> State:
        """mask_pop(), itr_exact_leave(): store mask (seq_cst)"""
        return s._replace(mask=0, target="outside" if variant == "lowers without looking" else "lowered")

    @target.at("lowered")
    def look(s: State) -> State:
        """itr_mask_pop(), core_unmask(), itr_exact_leave(): load pending (seq_cst); deliver, or kick the monitor"""
        seen = s.saw if variant == "looks before lowering" else s.pending
        if not seen:
            return s._replace(target="outside", saw=False)
        if way == "delivers" and s.pending:
            return _deliver(s._replace(target="outside", saw=False))
        return s._replace(target="outside", saw=False, watched=True, due=True)

    @target.at("outside", "inside", "loop")
    def ask(s: State) -> Next[State]:
        """an eval check runs the pending call: ask() looks where it stands; raises, declines, or declines and asks anew"""
        if not s.asked:
            return None
        ran = s._replace(asked=False)
        if not s.pending and variant != "the ask does not look at pending":
            return ran
        if s.mask and variant != "the ask does not look at the mask":
            return ran  # leaving it asks anew
        unfit = ran._replace(asked=s.mask == 0)
        result: list[State] = [_deliver(ran), unfit]
        return result

    return target


def _deliver(s: State) -> State:
    if s.mask:
        raise Violation("delivered under a mask")
    return s._replace(pending=False, delivered=s.delivered + 1)


def _interrupter(variant: str) -> "Process[State]":
    interrupter: Process[State] = Process("interrupter")
    early = variant == "looks at the mask before recording"

    @interrupter.at("record")
    def record(s: State) -> State:
        """raise_locked(): pending |= bit (seq_cst)"""
        if early:
            return s._replace(interrupter="masked" if s.mask else "not masked")
        return s._replace(pending=True, interrupter="watch")

    @interrupter.at("masked", "not masked")
    def record_late(s: State) -> State:
        """(broken) it has looked at the mask, and only now records"""
        return s._replace(pending=True, interrupter="end" if s.interrupter == "masked" else "watch")

    @interrupter.at("watch")
    def watch(s: State) -> State:
        """itr_monitor_watch()"""
        return s._replace(watched=True, due=True, interrupter="end")

    return interrupter


def _monitor(repeats: bool) -> "Process[State]":
    monitor: Process[State] = Process("monitor")

    @monitor.at("idle")
    def claim(s: State) -> Next[State]:
        """run(): the slot is due; claimed = next_ns = INT64_MAX"""
        return s._replace(due=False, monitor="wanted") if s.watched and s.due else None

    @monitor.at("wanted")
    def wanted(s: State) -> State:
        """look(): load pending (seq_cst); 0: nothing more to do"""
        return s._replace(monitor="running" if s.pending else "unwatch")

    @monitor.at("running")
    def running(s: State) -> State:
        """itr_async_on_running(): load mask and exact; if set, leaving that state asks; else queue()"""
        asked = s if s.mask else s._replace(asked=True)
        return asked._replace(monitor="repeat" if repeats else "idle")

    @monitor.at("repeat")
    def repeat(s: State) -> State:
        """run(): next_ns = now + delay"""
        return s._replace(due=True, monitor="idle")

    @monitor.at("unwatch")
    def unwatch(s: State) -> State:
        """run(): next_ns != claimed: somebody watches anew; else unwatch_locked()"""
        return s._replace(monitor="idle", watched=s.due)

    return monitor
