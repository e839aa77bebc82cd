"""Up to 3.11: the thread looks at every line it comes to (src/python/trace_look.c), which is where nearly all interrupts of
running code come from. itr_async_look() in asyncexc.c, with the interpreter lock, has it do so: itr_trace_start() in trace_look.c puts
on_event() in front of whatever else traces the thread; it raises at the first fit event, or stops when there is nothing to do.
Where no event comes (one long line), itr_async_look() arms an exception instead (delivery_model.py).

Two interrupts, the first of which may be taken back. The target masks, makes exact calls, in which it may wait and which may
call Python code, sets a trace function of its own, and goes away: its function returns, or it is a thread of C's, which has a
thread state for each call of Python. All hold the interpreter lock, so a step is what one does without giving it up; only the
monitor has none. With `repeats`, the monitor comes again and again; what depends on that is not done without.
"""

from typing import NamedTuple, Optional

from checker import Model, Next, Process, Violation

VARIANTS = (
    "an event does not look at pending",
    "an event does not look at the mask",
    "an event does not look at exact",
    "an event raises anywhere",
    "a mask keeps it, and leaving it does not ask",
    "stops without putting back what was there",
    "starts in front of itself",
    "does not call what it is in front of",
    "end does not stop it",
    "arms over what is armed",
    "looks into the thread state of the last call",
)

OURS, PROGRAMS = "on_event()", "the program's"


class State(NamedTuple):
    queue: tuple[int, ...] = ()  # pending: it is not empty
    armed: int = 0
    async_exc: int = 0
    # -- the thread state
    tstate: int = 1  # which one; 0: the thread is not in Python
    tracer: str = ""  # tstate->c_tracefunc
    wanted: str = ""  # what the program has set
    # -- struct itr_thread
    seen: int = 0  # t->tstate
    behind: str = ""  # t->traced_by
    eventless: bool = False  # no event has come for long
    # -- the target
    mask: bool = False
    target: str = "code"
    actions: int = 0
    delivered: tuple[int, ...] = ()
    gone: tuple[int, ...] = ()  # taken back or discarded
    # -- the others
    interrupter: str = "first"
    monitor: str = "idle"
    watched: bool = False
    due: bool = False
    listed: bool = False  # the injector's list: somebody is to be looked at


def build(variant: str = "", repeats: bool = True, ends: bool = False, actions: int = 3) -> "Model[State]":
    """`ends`: the thread's function may return at any time."""
    target = _target(variant, actions, repeats, ends)
    return Model(State(), [target, _interrupter(variant), _monitor(repeats), _injector(variant)], _good, _wrong)


def _good(s: State) -> bool:
    """Both have come to an end, and the thread is traced by nobody but the program. (In a long line nobody notices.)"""
    over = s.interrupter == "end" and s.target in ("loop", "over", "long line") and not s.queue and not s.async_exc
    return over and (s.tracer == s.wanted or s.target == "long line") and sorted(s.delivered + s.gone) == [1, 2]


def _wrong(s: State) -> Optional[str]:
    if len(set(s.delivered + s.gone)) != len(s.delivered + s.gone):
        return "delivered twice, or although it was taken back"
    if s.tstate and s.wanted not in (s.tracer, s.behind if s.tracer == OURS else s.tracer):
        return "the program is not traced any more"
    return None


def _raised(s: State, record: int, where: str) -> State:
    if s.mask:
        raise Violation("delivered under a mask")
    if where != "fit":
        raise Violation(f"raised {where}")
    return s._replace(delivered=(*s.delivered, record))


def _taken(s: State) -> State:
    """itr_take(): off the queue; the next one: it kicks the monitor."""
    left = s.queue[1:]
    return s._replace(queue=left, watched=s.watched or bool(left), due=s.due or bool(left))


def _settle(s: State) -> State:
    return s._replace(armed=0) if s.armed and s.async_exc != s.armed else s


def _recall(s: State) -> State:
    """itr_async_recall()"""
    s = _settle(s)
    return s._replace(queue=(s.armed, *s.queue), armed=0, async_exc=0, watched=True, due=True) if s.armed else s


def _stop(s: State, variant: str) -> State:
    """itr_trace_stop(): only while it is ours."""
    if s.tracer != OURS or s.seen != s.tstate:
        return s
    return s._replace(tracer="" if variant == "stops without putting back what was there" else s.behind, behind="")


def _event(s: State, where: str, variant: str) -> State:
    """on_event(): first what it is in front of; then it raises, waits for the next event, or stops."""
    if s.behind == OURS:
        raise Violation("calls itself for ever")
    if s.behind == PROGRAMS and variant == "does not call what it is in front of":
        raise Violation("the program does not see an event that it traces")
    s = s._replace(seen=s.tstate, eventless=False)
    if (not s.queue and variant != "an event does not look at pending") or s.armed or s.target == "over":
        return _stop(s, variant)
    if s.mask and variant != "an event does not look at the mask":
        return _stop(s, variant)  # leaving it asks anew
    if where == "inside an exact call" and variant == "an event does not look at exact":
        where = "fit" if s.target == "code" else where
    elif where != "fit" and not (where == "at an unfit place" and variant == "an event raises anywhere"):
        return s
    if not s.queue:
        return s  # nothing is raised
    return _raised(_stop(_taken(s), variant), s.queue[0], where)


def _look(s: State, variant: str) -> State:
    """look(): start it, or arm where no event comes."""
    s = _settle(s)
    armed = s.armed and variant != "arms over what is armed"
    if armed or not s.queue or s.target == "over" or not s.tstate:
        return s
    running = s.target in ("code", "loop", "long line") and not s.mask  # itr_fit_position()
    if running and s.seen != s.tstate and s.seen and variant == "looks into the thread state of the last call":
        raise Violation("looks into a thread state that is gone")
    in_vain = s.tracer == OURS and s.eventless
    if not (running and in_vain):
        if s.tracer == OURS and variant != "starts in front of itself":
            return s
        if s.mask:
            return s  # leaving it asks anew
        return s._replace(seen=s.tstate, behind=s.tracer, tracer=OURS, eventless=False)
    s = _stop(s, variant)
    return s if s.async_exc and variant != "arms over what is armed" else _arm(s)


def _arm(s: State) -> State:
    return _taken(s)._replace(armed=s.queue[0], async_exc=s.queue[0])


def _target(variant: str, actions: int, repeats: bool, ends: bool) -> "Process[State]":
    """Some actions in any order, then a loop, in which events come, or one long line, in which none do."""
    target: Process[State] = Process("target")

    def acted(s: State, pc: str) -> Optional[State]:
        return None if s.actions == actions else s._replace(actions=s.actions + 1, target=pc)

    @target.at("code", "loop", "over", "exact")
    def event(s: State) -> Next[State]:
        """a line, a call, a jump back: fit or unfit; in an exact call, that of Python code that it calls"""
        if s.tracer != OURS:
            return None
        if s.target == "exact":
            return _event(s, "inside an exact call", variant)
        return [_event(s, "fit", variant), _event(s, "at an unfit place", variant)]

    @target.at("code", "loop", "long line")
    def check_async(s: State) -> Next[State]:
        """an eval check raises tstate->async_exc"""
        if not s.async_exc:
            return None
        target_ = "code" if s.target == "long line" else s.target
        return _raised(s._replace(async_exc=0, target=target_), s.async_exc, "fit")

    @target.at("code")
    def mask(s: State) -> Next[State]:
        """core_mask(): itr_async_recall()"""
        masked = None if s.mask else acted(s, "code")
        return _recall(masked._replace(mask=True)) if masked else None

    @target.at("code")
    def unmask(s: State) -> Next[State]:
        """core_unmask(): delivers here, or kicks the monitor"""
        if not s.mask:
            return None
        lowered = s._replace(mask=False)
        if not s.queue or variant == "a mask keeps it, and leaving it does not ask":
            return lowered
        here = _raised(_taken(lowered), s.queue[0], "fit")
        return [one._replace(watched=True, due=True) if one.queue else one for one in (here, lowered)]

    @target.at("code")
    def enter(s: State) -> Next[State]:
        """an exact call begins, and may wait"""
        entered = acted(s, "exact")
        return _recall(entered) if entered else None

    @target.at("exact")
    def leave(s: State) -> list[State]:
        """it ends: itr_exact_leave() kicks the monitor when something is pending; or it is broken: raised from the call"""
        left = s._replace(target="code", watched=s.watched or bool(s.queue), due=s.due or bool(s.queue))
        if not s.queue or s.mask:
            return [left]
        return [left, _raised(_taken(left), s.queue[0], "fit")]

    @target.at("code")
    def long_line(s: State) -> Next[State]:
        """it goes on for long without an event"""
        return acted(s, "long line") if repeats and not s.mask else None

    @target.at("long line")
    def in_vain(s: State) -> State:
        """time passes; itr_trace_in_vain() will say so"""
        return s._replace(eventless=s.tracer == OURS)

    @target.at("code")
    def set_trace(s: State) -> Next[State]:
        """sys.settrace(): ours is replaced"""
        set_ = acted(s, "code") if repeats else None
        return set_._replace(tracer=PROGRAMS, wanted=PROGRAMS, behind="") if set_ else None

    @target.at("code")
    def return_to_c(s: State) -> Next[State]:
        """a thread of C's leaves Python: its thread state is freed"""
        left = acted(s, "in C") if repeats and not s.mask and s.tstate == 1 else None
        return _recall(left)._replace(tstate=0, tracer="", wanted="", behind="") if left else None

    @target.at("in C")
    def come_again(s: State) -> State:
        """it calls Python once more, with another thread state"""
        return s._replace(target="code", tstate=2)

    @target.at("code", "loop")
    def end(s: State) -> Next[State]:
        """the thread's function has returned: itr_thread_end(): recalls, stops, discards"""
        if not ends or s.mask:
            return None
        s = _recall(s)
        s = s if variant == "end does not stop it" else _stop(s, variant)
        return s._replace(target="over", gone=(*s.gone, *s.queue), queue=())

    @target.at("over")
    def over(s: State) -> Next[State]:
        """the thread state goes: what traces it is called no more"""
        if s.tracer == OURS:
            raise Violation("the thread has ended, and is traced")
        return None

    @target.at("code")
    def settle_down(s: State) -> Next[State]:
        """no more calls: a loop of the program's own code"""
        return None if s.mask else s._replace(target="loop")

    return target


def _interrupter(variant: str) -> "Process[State]":
    interrupter: Process[State] = Process("interrupter")

    @interrupter.at("first", "second")
    def interrupt(s: State) -> list[State]:
        """itr_interrupt_thread(): enqueued, watched; itr_async_try() looks at once"""
        record, then = (1, "second") if s.interrupter == "first" else (2, "choose")
        s = _settle(s)._replace(interrupter=then)
        if s.target == "over":
            return [s._replace(gone=(*s.gone, record))]
        s = s._replace(queue=(*s.queue, record), watched=True, due=True)
        return [s, _look(s, variant)]

    @interrupter.at("choose")
    def leave_it(s: State) -> State:
        """does not cancel"""
        return s._replace(interrupter="end")

    @interrupter.at("choose")
    def cancel(s: State) -> State:
        """handle_cancel() of the first"""
        s = (_recall(s) if s.armed == 1 else s)._replace(interrupter="end")
        if 1 not in s.queue:
            return s
        return s._replace(queue=tuple(one for one in s.queue if one != 1), gone=(*s.gone, 1))

    return interrupter


def _monitor(repeats: bool) -> "Process[State]":
    monitor: Process[State] = Process("monitor")

    @monitor.at("idle")
    def claim(s: State) -> Next[State]:
        """run(): the slot is due; claimed = next_ns = INT64_MAX"""
        return s._replace(due=False, monitor="look") if s.watched and s.due else None

    @monitor.at("look")
    def look(s: State) -> State:
        """look(): load pending; 0: nothing more to do; else itr_async_on_running() puts it on the injector's list"""
        if not s.queue:
            return s._replace(monitor="unwatch")
        return s._replace(monitor="repeat" if repeats else "unwatch", listed=True)

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
    injector: Process[State] = Process("listed")

    @injector.at(True)
    def look(s: State) -> State:
        """the injector, with the interpreter lock: look()"""
        return _look(s._replace(listed=False), variant)

    return injector
