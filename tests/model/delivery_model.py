"""From pending to delivered, up to CPython 3.11: recorded, armed by the injector, raised at a check or taken by an exact
call; recalled from there by masks, exact calls and cancel() (src/python/records.c, asyncexc.c, handles.c, masks.c).

What was raised surfaces where the program can catch it, or where nobody can (a finalizer): then core_record_again() in core.c
records it again. When the thread's function has returned, itr_thread_end() in records.c discards what is left.

All of it happens with the interpreter lock, so a step here is what one thread does without giving it up. To make the
exception may give it up: the constructor is the program's, and so is what the garbage collector calls. Only the monitor looks
at `pending` without the lock. Two interrupts with different exceptions; the first may be cancelled. The injector may find the
target anywhere outside a mask: where it stands and what is fit decides when, not whether.

From 3.12 nothing is ever armed: the ask (leaving_model.py) runs in the target itself and raises on the spot.
"""

from typing import NamedTuple, Optional

from checker import Model, Next, Process, Violation

VARIANTS = (
    "a mask does not recall",
    "cancel() does not recall",
    "a recall is not watched",
    "recalls what has been raised",
    "arms without taking it off the queue",
    "cancel() clears pending for all",
    "an exact call delivers under a mask",
    "end does not empty the queue",
    "end does not recall what is armed",
    "what comes behind the end is queued",
    "recorded again without settling",
    "recorded again, but not pending",
    "recorded again, but still remembered",
    "cancel() of what is being made",
    "arms by a look before it was made",
)


class State(NamedTuple):
    queue: tuple[int, ...] = ()  # t->queue: pending records, oldest first
    pending: bool = False  # ITR_PENDING_PY
    armed: int = 0  # t->armed
    async_exc: int = 0  # tstate->async_exc
    mask: int = 0
    target: str = "code"
    actions: int = 0
    flying: int = 0  # raised, and on its way to whoever catches it; negative: `taken`, its exception is being made
    prepared: tuple[int, ...] = ()  # armed_type is made
    surfaced: int = 0  # ... where nobody can: how often so far
    remembered: tuple[int, ...] = ()  # t->delivered
    delivered: tuple[int, int] = (0, 0)  # caught
    ended: bool = False
    discarded: tuple[int, ...] = ()
    cancelled: bool = False  # the first one: cancel() said true
    interrupter: str = "first"
    monitor: str = "idle"
    watched: bool = False
    due: bool = False
    wanted: bool = False  # the injector's list: somebody is to be looked at
    making: int = 0  # what the injector makes the exception of


def build(variant: str = "", ends: bool = False, actions: int = 4) -> "Model[State]":
    """`ends`: the thread's function may return at any time. Else nothing is ever discarded: all must be delivered."""
    return Model(
        State(), [_target(variant, ends, actions), _interrupter(variant), _monitor(), _injector(variant), _maker(variant)], _good, _wrong
    )


def _good(s: State) -> bool:
    first = s.cancelled or s.delivered[0] == 1 or 1 in s.discarded
    second = s.delivered[1] == 1 or 2 in s.discarded
    return s.interrupter == "end" and first and second and not s.pending and not s.flying and s.target in ("loop", "over")


def _wrong(s: State) -> Optional[str]:
    if max(s.delivered) > 1:
        return "delivered twice"
    if any(s.delivered[record - 1] for record in s.discarded):
        return "delivered, although it was discarded"
    return "delivered, although it was taken back" if s.cancelled and s.delivered[0] else None


def _raised(s: State, record: int) -> State:
    if s.mask:
        raise Violation("delivered under a mask")
    if s.ended:
        raise Violation("delivered behind the end")
    return s._replace(flying=record)


def _remember(s: State, record: int) -> State:
    """itr_delivered_add()"""
    return s._replace(remembered=tuple(sorted({*s.remembered, record})))


def _with(s: State, record: int) -> State:
    """prepare()"""
    return s._replace(prepared=tuple(sorted({*s.prepared, record})))


def _settle(s: State) -> State:
    """itr_async_settle(): what was armed and is in tstate->async_exc no more has been raised."""
    return _remember(s, s.armed)._replace(armed=0) if s.armed and s.async_exc != s.armed else s


def _recall(s: State, variant: str) -> State:
    """itr_async_recall(): back to the head of the queue, pending again, and somebody must come for it."""
    if variant != "recalls what has been raised":
        s = _settle(s)
    if not s.armed:
        return s
    watched = s if variant == "a recall is not watched" else s._replace(watched=True, due=True)
    return watched._replace(async_exc=0, armed=0, queue=(s.armed, *s.queue), pending=True)


def _take(s: State) -> tuple[int, State]:
    """itr_pop(): off the queue; the last one consumes the bit."""
    return s.queue[0], s._replace(queue=s.queue[1:], pending=len(s.queue) > 1)


def _arm(s: State, variant: str) -> State:
    """look_and_arm(): nothing while one is armed, or under a mask, or before it is prepared."""
    s = _settle(s)
    if not _may_arm(s) or s.queue[0] not in s.prepared:
        return s
    record, taken = _take(s)
    if variant == "arms without taking it off the queue":
        taken = s
    return taken._replace(armed=record, async_exc=record)


def _may_arm(s: State) -> bool:
    return not (s.armed or not s.pending or s.mask or s.async_exc or s.ended)


def _deliver_here(s: State, variant: str) -> list[State]:
    """itr_deliver_here(): recall; then raise, unless it is masked or may not be raised at this place."""
    s = _recall(s, variant)
    declined = [s]  # itr_may_raise_here()
    if not s.pending or (s.mask and variant != "an exact call delivers under a mask"):
        return declined
    record, taken = _take(s)
    return [*declined, taken._replace(flying=-record)]


def _record_again(s: State, record: int, variant: str) -> State:
    """core_record_again(): is it one that was delivered here? Then to the head of the queue, raise_bit()."""
    if variant != "recorded again without settling":
        s = _settle(s)
    if record not in s.remembered:
        return s  # somebody else's exception, or one that the hook has had before: printed
    again = s._replace(queue=(record, *s.queue))
    if variant != "recorded again, but not pending":
        again = again._replace(pending=True, watched=True, due=True)
    if variant != "recorded again, but still remembered":
        again = again._replace(remembered=tuple(one for one in s.remembered if one != record))
    return again


def _target(variant: str, ends: bool, actions: int) -> "Process[State]":
    """Some actions in any order, then a loop that does nothing but run code."""
    target: Process[State] = Process("target")

    def acted(s: State) -> State:
        return s._replace(actions=s.actions + 1)

    @target.at("code", "loop", "over")
    def check_async(s: State) -> Next[State]:
        """an eval check raises tstate->async_exc"""
        return _raised(s._replace(async_exc=0), s.async_exc) if s.async_exc and not s.flying else None

    @target.at("code", "loop")
    def made(s: State) -> Next[State]:
        """itr_take(): its exception is made, and delivered"""
        return _raised(_remember(s, -s.flying), -s.flying) if s.flying < 0 else None

    @target.at("code", "loop")
    def caught(s: State) -> Next[State]:
        """the program catches it, or the thread ends with it"""
        if s.flying <= 0:
            return None
        counts = list(s.delivered)
        counts[s.flying - 1] += 1
        return s._replace(flying=0, delivered=(counts[0], counts[1]))

    @target.at("code", "loop")
    def surfaces(s: State) -> Next[State]:
        """it comes out of a finalizer: sys.unraisablehook is called; perhaps one calls it once more, with the same"""
        if s.flying <= 0 or s.surfaced == 1:
            return None
        once = _record_again(s._replace(flying=0, surfaced=1), s.flying, variant)
        return [once, _record_again(once, s.flying, variant)]

    @target.at("code", "loop")
    def end(s: State) -> Next[State]:
        """the thread's function has returned: itr_thread_end()"""
        if s.flying or not ends:
            return None
        recalled = s if variant == "end does not recall what is armed" else _recall(s, variant)
        ended = recalled._replace(ended=True, target="over", remembered=())
        if variant == "end does not empty the queue":
            return ended
        return ended._replace(queue=(), pending=False, discarded=tuple(sorted({*s.discarded, *recalled.queue})))

    @target.at("code")
    def mask(s: State) -> Next[State]:
        """core_mask(): mask_push(), itr_async_recall()"""
        if s.mask or s.flying or s.actions == actions:
            return None
        masked = acted(s)._replace(mask=1)
        return masked if variant == "a mask does not recall" else _recall(masked, variant)

    @target.at("code")
    def unmask(s: State) -> Next[State]:
        """core_unmask(): mask_pop(), load pending; itr_deliver_here(), or kick()"""
        if not s.mask or s.flying:
            return None
        lowered = s._replace(mask=0)
        if not s.pending:
            return lowered
        return [one._replace(watched=True, due=True) if one.pending else one for one in _deliver_here(lowered, variant)]

    @target.at("code")
    def exact(s: State) -> Next[State]:
        """itr_dispatch_lock(): itr_deliver_here(), or the lock is free and try_at_once() has it"""
        if s.actions == actions or s.flying:
            return None
        return _deliver_here(acted(s), variant) if s.pending or s.armed else acted(s)

    @target.at("code")
    def settle_down(s: State) -> Next[State]:
        """no more calls: a loop of the program's own code"""
        return None if s.mask or s.flying else s._replace(target="loop")

    return target


def _interrupter(variant: str) -> "Process[State]":
    interrupter: Process[State] = Process("interrupter")

    @interrupter.at("first", "second")
    def interrupt(s: State) -> list[State]:
        """itr_interrupt_thread(): enqueued, raise_bit(), watched; itr_async_try() looks at once"""
        record, then = (1, "second") if s.interrupter == "first" else (2, "choose")
        s = _settle(s)._replace(interrupter=then)
        if s.ended and variant != "what comes behind the end is queued":
            return [s._replace(discarded=(*s.discarded, record))]
        s = s._replace(watched=True, due=True, pending=True)
        s = s._replace(queue=(*s.queue, record))
        return [s, _arm(s, variant)]

    @interrupter.at("choose")
    def leave_it(s: State) -> State:
        """does not cancel"""
        return s._replace(interrupter="end")

    @interrupter.at("choose")
    def cancel(s: State) -> State:
        """handle_cancel() of the first: recall if it is armed; retract(); off the queue"""
        s = _settle(s)._replace(interrupter="end")
        if s.armed == 1:
            s = s._replace(cancelled=True) if variant == "cancel() does not recall" else _recall(s, variant)
        if variant == "cancel() of what is being made" and s.flying == -1:
            return s._replace(cancelled=True)
        if 1 not in s.queue:
            return s
        only = s.queue == (1,) or variant == "cancel() clears pending for all"
        rest = tuple(record for record in s.queue if record != 1)
        return s._replace(queue=rest, pending=s.pending and not only, cancelled=True)

    return interrupter


def _monitor() -> "Process[State]":
    monitor: Process[State] = Process("monitor")

    @monitor.at("idle")
    def claim(s: State) -> Next[State]:
        """run(): the slot is due; claimed = next_ns = INT64_MAX"""
        return s._replace(due=False, monitor="look") if s.watched and s.due else None

    @monitor.at("look")
    def look(s: State) -> State:
        """look(): load pending; 0: nothing more to do; else itr_async_on_running() puts it on the injector's list"""
        return s._replace(monitor="repeat", wanted=True) if s.pending else s._replace(monitor="unwatch")

    @monitor.at("repeat")
    def repeat(s: State) -> State:
        """run(): next_ns = now + delay"""
        return s._replace(due=True, monitor="idle")

    @monitor.at("unwatch")
    def unwatch(s: State) -> State:
        """run(): next_ns != claimed: somebody watches anew; else unwatch_locked()"""
        return s._replace(monitor="idle", watched=s.due)

    return monitor


def _injector(variant: str) -> "Process[State]":
    injector: Process[State] = Process("wanted")

    @injector.at(True)
    def look(s: State) -> State:
        """look(), with the interpreter lock: armed, if it is prepared; else that comes first"""
        s = _arm(s._replace(wanted=False), variant)
        if not _may_arm(s) or s.making:
            return s
        record, taken = _take(s)
        return (taken if variant == "arms by a look before it was made" else s)._replace(making=record)

    return injector


def _maker(variant: str) -> "Process[State]":
    """The injector, which gives up the interpreter lock while it makes the exception."""
    maker: Process[State] = Process("making")

    @maker.at(1, 2)
    def made(s: State) -> State:
        """look(): prepare() is done; look_and_arm() looks anew"""
        record = s.making
        s = _with(s._replace(making=0), record)
        if variant == "arms by a look before it was made":
            return s._replace(armed=record, async_exc=record)
        return _arm(s, variant)

    return maker
