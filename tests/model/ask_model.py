"""From 3.12: what may become of an ask. The monitor puts a pending call into the interpreter's queue, for a slot and its life
(queue(), ask() and itr_async_on_running() in pending_call.c). Until it runs, its interrupt may be taken back (handle_cancel()
in handles.c), be delivered by an exact call (itr_deliver_here() in exact_calls.c), or its thread may end (itr_thread_end() in
records.c, end_life() in flag_table.c) and another one be given the slot (begin_life() in flag_table.c, keeper() in threads.c).

Two threads, one after the other, in one slot; the keeper is handed on. The first interrupt is for the first thread and may be
taken back, the second for whichever of the two there is. Whoever has the interpreter lock is in `gil`; asking, ending a life
and beginning one need no lock, so the monitor's question may begin in one life and end in the next. With that, two asks of
one life may be in the queue, which does no harm; `stalls` is false: the monitor is never that slow, and there is but one.

The order of keeper()'s stores matters: t->ref, then asked = 0 (release). The other way round, a question of the life before
puts an ask for that life into the queue behind asked = 0. It is dropped, the mark stays, and nothing is asked in the new life. (keeper() does it the other way round as yet: the
variant "a new life forgets the old asks before it has its number" is what it does.)
"""

from typing import NamedTuple, Optional

from checker import Model, Next, Process, Violation, put

VARIANTS = (
    "the ask raises what it was sent for",
    "the ask does not look at exact",
    "ask without life number",
    "raises without looking at the life",
    "a new life keeps the queue",
    "a new life keeps the old asks' mark",
    "a new life forgets the old asks before it has its number",
    "cancel() leaves it in the queue",
    "the monitor asks only once",
)

ROOM = 3  # in the interpreter's queue of pending calls


class State(NamedTuple):
    # -- struct itr_slot
    life: int = 1  # even: nobody's
    pending: bool = False
    exact: bool = False
    user: bool = True
    # -- struct itr_thread, the slot's keeper
    ref: int = 1  # the life that it is for (its index is the slot's)
    queue: tuple[int, ...] = ()
    asked: bool = False
    ended: bool = False
    # -- the interpreter
    asks: tuple[tuple[int, int], ...] = ()  # its queue of pending calls: for which life (and, in a broken variant, interrupt)
    gil: str = ""  # who keeps it over several steps
    # -- what became of the interrupts
    first: str = ""
    second: str = ""
    second_for: int = 0
    # -- the processes
    target: str = "code"
    interrupter: str = "find 1"
    monitor: str = "idle"
    meant_for: int = 0  # the life that the monitor has looked at
    watched: bool = False
    due: bool = False


def build(variant: str = "", stalls: bool = True) -> "Model[State]":
    def wrong(s: State) -> Optional[str]:
        if s.pending and s.life == 3 and 2 not in s.queue:
            return "hits the thread that reuses the slot: it has not been interrupted"
        if sum(life == s.life for life, _ in s.asks) > (2 if stalls else 1):
            return "the asks pile up"
        return None

    return Model(State(), [_target(variant), _another(), _interrupter(variant), _monitor(variant, stalls)], _good, wrong)


def _good(s: State) -> bool:
    """Both have come to an end, and so have the asks."""
    over = s.interrupter == "end" and s.target == "loop" and s.first != "" and s.second != ""
    return over and not s.pending and not s.asks


def _deliver(s: State, record: int) -> State:
    if s.exact:
        raise Violation("raised inside an exact call")
    if s.life != (1 if record == 1 else s.second_for):
        raise Violation("hits the thread that reuses the slot: raised there")
    fate = s.first if record == 1 else s.second
    if fate:
        raise Violation(f"delivered twice, or although it was {fate}")
    rest = tuple(one for one in s.queue if one != record)
    delivered = s._replace(queue=rest, pending=bool(rest))
    return delivered._replace(first="delivered") if record == 1 else delivered._replace(second="delivered")


def _discard(s: State) -> State:
    for record in s.queue:
        s = s._replace(first="discarded") if record == 1 else s._replace(second="discarded")
    return s._replace(queue=())


def _kick(s: State) -> State:
    return s._replace(watched=True, due=True)


def _add(s: State, life: int, variant: str) -> State:
    """add_pending(); full: the mark is taken off again."""
    if len(s.asks) == ROOM:
        return s._replace(asked=False)
    record = s.queue[0] if variant == "the ask raises what it was sent for" and s.queue else 0
    return s._replace(asks=(*s.asks, (life, record)))


def _has_python(s: State) -> bool:
    """Some thread runs in this life, and may take the interpreter lock."""
    return s.gil == "" and s.user and s.life == s.ref


def _target(variant: str) -> "Process[State]":
    target: Process[State] = Process("target")

    @target.at("code")
    def enter(s: State) -> Next[State]:
        """an exact call: itr_deliver_here() first; it may not raise there, or itr_exact_enter()"""
        if s.gil:
            return None
        entered = s._replace(exact=True, target="exact")
        if not s.pending or s.ended:
            return entered
        return [_deliver(s, s.queue[0]), entered]

    @target.at("exact")
    def leave(s: State) -> Next[State]:
        """itr_exact_leave(), broken: it holds the lock again, and itr_deliver_here() takes it"""
        if s.gil or not s.pending:
            return None
        return _deliver(s._replace(exact=False, target="code"), s.queue[0])

    @target.at("exact")
    def complete(s: State) -> State:
        """itr_exact_leave(): store exact (seq_cst)"""
        return s._replace(exact=False, target="left")

    @target.at("left")
    def left(s: State) -> State:
        """itr_exact_leave(): load pending; kick the monitor"""
        return (_kick(s) if s.pending else s)._replace(target="code")

    @target.at("code")
    def settle_down(s: State) -> State:
        """no more calls: a loop of the program's own code"""
        return s._replace(target="loop")

    @target.at("code", "exact", "loop")
    def ask(s: State) -> Next[State]:
        """an eval check runs the ask: it looks whose it is, whether anything is pending, and where it stands"""
        if s.gil or not s.asks:
            return None
        (life, record), ran = s.asks[0], s._replace(asks=s.asks[1:])
        if life != s.life and variant != "ask without life number":
            return ran
        ran = ran._replace(asked=False)
        if variant == "the ask raises what it was sent for" and record:
            return ran if s.exact else _deliver(ran, record)
        if not s.pending or s.ended:
            return ran
        if s.exact and variant != "the ask does not look at exact":
            return ran  # leaving it asks
        again = _add(ran._replace(asked=True), s.ref, variant)  # unfit: queue()
        return [_deliver(ran, s.queue[0]), again]

    @target.at("code")
    def end(s: State) -> Next[State]:
        """the function has returned, under a runner: itr_thread_end()"""
        if s.gil or s.life != 1:
            return None
        return _discard(s)._replace(ended=True, pending=False, target="over")

    @target.at("code", "over")
    def end_untold(s: State) -> Next[State]:
        """the thread ends (here: without telling Python): end_life()"""
        if s.life != 1 or s.gil == "target":
            return None
        return s._replace(life=2, pending=False, target="none")

    @target.at("none")
    def begin(s: State) -> State:
        """another thread: begin_life()"""
        return s._replace(life=3, pending=False, exact=False, user=False, target="keeper")

    @target.at("keeper")
    def keep(s: State) -> Next[State]:
        """it comes to Python: keeper() discards what the last owner left"""
        if s.gil:
            return None
        kept = s if variant == "a new life keeps the queue" else _discard(s)
        early = variant == "a new life forgets the old asks before it has its number"
        return kept._replace(gil="target", ended=False, target="forgets" if early else "numbers")

    @target.at("forgets")
    def forget(s: State) -> State:
        """keeper(): asked = 0"""
        forgets = s if variant == "a new life keeps the old asks' mark" else s._replace(asked=False)
        return forgets._replace(target="numbers" if s.ref == 1 else "user")

    @target.at("numbers")
    def number(s: State) -> State:
        """keeper(): t->ref"""
        early = variant == "a new life forgets the old asks before it has its number"
        return s._replace(ref=3, target="user" if early else "forgets")

    @target.at("user")
    def publish(s: State) -> State:
        """keeper(): store slot->user (release)"""
        return s._replace(user=True, gil="", target="code")

    return target


def _another() -> "Process[State]":
    """Any other thread of the interpreter that comes to an eval check."""
    another: Process[State] = Process("gil")

    @another.at("")
    def drop(s: State) -> Next[State]:
        """another thread runs the ask: it is not the one that is meant; nothing"""
        if not s.asks:
            return None
        dropped = s._replace(asks=s.asks[1:])
        mine = s.asks[0][0] == s.life and s.user and s.ref == s.life
        return dropped._replace(asked=False) if mine else dropped

    return another


def _interrupter(variant: str) -> "Process[State]":
    interrupter: Process[State] = Process("interrupter")

    def then(record: int) -> str:
        return "choose" if record == 1 else "end"

    @interrupter.at("find 1", "find 2")
    def find(s: State) -> Next[State]:
        """itr_thread_find(), itr_record_enqueue(), with the interpreter lock"""
        record = 1 if s.interrupter == "find 1" else 2
        if s.gil:
            return None
        if record == 1 and s.life != 1:
            return s._replace(first="refused", interrupter=then(1))
        if not _has_python(s):
            return None
        if s.ended:
            fate = {"first": "discarded"} if record == 1 else {"second": "discarded"}
            return put(s, interrupter=then(record), **fate)
        told = s if record == 1 else s._replace(second_for=s.life)
        return told._replace(queue=(*s.queue, record), gil="interrupter", interrupter=f"raise {record}")

    @interrupter.at("raise 1", "raise 2")
    def record_it(s: State) -> State:
        """raise_bit(): itr_lock_ref(); the thread may have ended meanwhile; pending |= bit (seq_cst), itr_monitor_watch()"""
        done = s._replace(gil="", interrupter=then(1 if s.interrupter == "raise 1" else 2))
        if s.life != s.ref and (variant != "raises without looking at the life" or s.life == 2):
            return done
        return _kick(done._replace(pending=True))

    @interrupter.at("choose")
    def leave_it(s: State) -> State:
        """does not cancel"""
        return s._replace(interrupter="find 2")

    @interrupter.at("choose")
    def cancel(s: State) -> Next[State]:
        """handle_cancel(): its thread has ended? else retract(), off the queue"""
        if s.gil:
            return None
        done = s._replace(interrupter="find 2")
        if s.first:
            return done
        if s.life != 1:
            rest = tuple(record for record in s.queue if record != 1)
            return done._replace(first="discarded", queue=rest)
        left = s.queue if variant == "cancel() leaves it in the queue" else ()
        return done._replace(first="taken back", queue=left, pending=False)

    return interrupter


def _monitor(variant: str, stalls: bool) -> "Process[State]":
    monitor: Process[State] = Process("monitor")

    @monitor.at("idle")
    def claim(s: State) -> Next[State]:
        """run(): the slot is due; claimed = next_ns = INT64_MAX"""
        return s._replace(due=False, monitor="look") if s.watched and s.due else None

    @monitor.at("look")
    def look(s: State) -> State:
        """look(): with the slot's lock: live, pending; which life"""
        wanted = s.pending and s.life != 2
        return s._replace(monitor="check", meant_for=s.life) if wanted else s._replace(monitor="unwatch")

    @monitor.at("check")
    def check(s: State) -> State:
        """itr_async_on_running(): load user, t->ref, exact"""
        fits = s.user and s.ref == s.meant_for and not s.exact
        checked = s._replace(monitor="mark" if fits else "repeat", meant_for=0)
        if fits and not stalls:
            at_once = checked._replace(asked=True, monitor="repeat")
            return at_once if s.asked else _add(at_once, s.ref, variant)
        return checked

    @monitor.at("mark")
    def mark(s: State) -> State:
        """queue(): exchange asked; set already: one is in the queue"""
        return s._replace(asked=True, monitor="repeat" if s.asked else "add")

    @monitor.at("add")
    def add(s: State) -> State:
        """queue(): load t->ref, add_pending()"""
        return _add(s, s.ref, variant)._replace(monitor="repeat")

    @monitor.at("repeat")
    def repeat(s: State) -> State:
        """run(): next_ns = now + delay"""
        if variant == "the monitor asks only once":
            return s._replace(monitor="unwatch")
        return s._replace(due=True, monitor="idle")

    @monitor.at("unwatch")
    def unwatch(s: State) -> State:
        """run(): next_ns != claimed: somebody watches anew; else unwatch_locked()"""
        return s._replace(monitor="idle", watched=s.due)

    return monitor
