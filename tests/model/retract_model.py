"""Taking an interrupt back while its target is about to be broken for it (retract() in src/api.c, take_break() in park.c).

One target waits and is broken; one interrupter raises and takes back, again and again. Once a call has been
broken it can be given no other result, so a retraction that says "true" promises that no call was broken, and none will be.

The handshake of announcing and waking is one step here: park_model.py takes it apart. The wait is of a kind that holds by
itself (a pipe, a deadline), so there is no monitor that would hide what was forgotten.
"""

from typing import NamedTuple, Optional

from checker import Model, Next, Process, Violation

VARIANTS = (
    "no second look at pending",
    "retracts without looking at committed",
    "looks at committed before clearing",
    "puts back without waking",
    "raising resets committed",
)


class State(NamedTuple):
    # -- struct itr_slot
    parked: bool = False
    byte: bool = False  # a wake-up that stays: the byte in the pipe
    pending: int = 0  # which interrupt (the C code has a bit; the number is what it stands for); 0: none
    committed: bool = False
    # -- the target
    target: str = "running"
    waits: int = 0
    broken_for: int = 0
    # -- the interrupter
    interrupter: str = "lock"
    raised: int = 0  # interrupts raised so far
    delivered: int = 0  # the last one that was delivered
    retracted: int = 0  # ... and taken back


def build(variant: str = "", rounds: int = 3, waits: int = 2) -> "Model[State]":
    return Model(State(), [_target(variant, waits), _interrupter(variant, rounds)], _good, _wrong)


def _good(s: State) -> bool:
    return s.interrupter == "end" and s.pending == 0 and s.target in ("asleep", "done")


def _wrong(s: State) -> Optional[str]:
    if s.broken_for and s.retracted >= s.broken_for:
        return f"taken back: interrupt {s.broken_for}, but a call is broken for it"
    return None


def _target(variant: str, waits: int) -> "Process[State]":
    target: Process[State] = Process("target")

    @target.at("running")
    def park(s: State) -> State:
        """itr_park_enter(): announces the park"""
        if s.waits == waits:
            return s._replace(target="done")
        return s._replace(target="look", parked=True, waits=s.waits + 1)

    @target.at("look", "look again")
    def look(s: State) -> State:
        """take_break(): load pending"""
        if s.pending:
            return s._replace(target="commit" if s.target == "look" else "commit again")
        return s._replace(target="asleep" if s.target == "look" else "resume")

    @target.at("commit", "commit again")
    def commit(s: State) -> State:
        """take_break(): store committed (seq_cst; pairs with retract(): clear pending, load committed)"""
        return s._replace(committed=True, target=s.target.replace("commit", "second look"))

    @target.at("second look", "second look again")
    def second_look(s: State) -> State:
        """take_break(): load pending again"""
        if s.pending or variant == "no second look at pending":
            return s._replace(target="deliver", broken_for=s.pending or s.raised, parked=False, byte=False)
        return s._replace(target=s.target.replace("second look", "go on"))

    @target.at("go on", "go on again")
    def go_on(s: State) -> State:
        """take_break(): it was taken back; committed = 0"""
        return s._replace(committed=False, target="asleep" if s.target == "go on" else "resume")

    @target.at("asleep")
    def woken(s: State) -> Next[State]:
        """the call ends, woken; unannounce() and empties the pipe"""
        return s._replace(target="look again", parked=False, byte=False) if s.byte else None

    @target.at("resume")
    def resume(s: State) -> State:
        """a stale wake-up: itr_park_enter() again"""
        return s._replace(target="look", parked=True)

    @target.at("deliver")
    def deliver(s: State) -> Next[State]:
        """the wrapper, with the interpreter lock: itr_raise_next() takes it; consume(): pending &= ~bit, committed = 0"""
        if s.interrupter not in ("lock", "choose", "tried", "end"):
            return None
        if not s.pending:
            raise Violation("a call was broken for what is not pending any more")
        return s._replace(delivered=s.pending, pending=0, committed=False, broken_for=0, target="running")

    @target.at("done")
    def late(s: State) -> Next[State]:
        """running code takes what comes later (delivery_model.py)"""
        return s._replace(delivered=s.pending, pending=0) if s.pending else None

    return target


def _interrupter(variant: str, rounds: int) -> "Process[State]":
    """Raises, takes back, raises, ... all that with the interpreter lock, as the target's consume(); its take_break() runs
    without."""
    interrupter: Process[State] = Process("interrupter")

    @interrupter.at("lock")
    def lock(s: State) -> State:
        """raise_bit(): takes the slot's lock"""
        return s._replace(interrupter="reset" if variant == "raising resets committed" else "record")

    @interrupter.at("reset")
    def reset(s: State) -> State:
        """(broken) raise_locked(): nothing is pending? then committed = 0"""
        return s._replace(interrupter="record" if s.pending else "reset now")

    @interrupter.at("reset now")
    def reset_now(s: State) -> State:
        """(broken) raise_locked(): committed = 0"""
        return s._replace(committed=False, interrupter="record")

    @interrupter.at("record")
    def record(s: State) -> State:
        """raise_locked(): pending |= bit"""
        return s._replace(pending=s.raised + 1, raised=s.raised + 1, interrupter="wake")

    @interrupter.at("wake")
    def wake(s: State) -> State:
        """itr_wake_locked(), unlock"""
        return s._replace(byte=s.parked, interrupter="choose")

    @interrupter.at("choose")
    def choose(s: State) -> State:
        """handle.cancel(), unless it is delivered already"""
        if s.pending == 0:
            return s._replace(interrupter=_next(s, rounds))
        return s._replace(interrupter="peek" if variant == "looks at committed before clearing" else "clear")

    @interrupter.at("tried")
    def tried(s: State) -> Next[State]:
        """cancel() said false: so it will be delivered"""
        return s._replace(interrupter=_next(s, rounds)) if s.pending == 0 else None

    @interrupter.at("peek")
    def peek(s: State) -> State:
        """(broken) load committed before pending is cleared"""
        return s._replace(interrupter="put back" if s.committed else "clear for good")

    @interrupter.at("clear for good")
    def clear_for_good(s: State) -> State:
        """(broken) pending &= ~bit, without another look"""
        return _taken_back(s._replace(pending=0), rounds)

    @interrupter.at("clear")
    def clear(s: State) -> State:
        """retract(): pending &= ~bit (seq_cst)"""
        if variant == "retracts without looking at committed":
            return _taken_back(s._replace(pending=0), rounds)
        return s._replace(pending=0, interrupter="ask")

    @interrupter.at("ask")
    def ask(s: State) -> State:
        """retract(): load committed; 0: done, it is taken back"""
        return s._replace(interrupter="put back") if s.committed else _taken_back(s, rounds)

    @interrupter.at("put back")
    def put_back(s: State) -> State:
        """retract(): too late; pending |= bit"""
        return s._replace(pending=s.raised, interrupter="tried" if variant == "puts back without waking" else "wake for it")

    @interrupter.at("wake for it")
    def wake_again(s: State) -> State:
        """retract(): the target may have seen the cleared flag: itr_wake_locked(), unlock; cancel() says false"""
        return s._replace(byte=s.byte or s.parked, interrupter="tried")

    return interrupter


def _next(s: State, rounds: int) -> str:
    return "end" if s.raised == rounds else "lock"


def _taken_back(s: State, rounds: int) -> State:
    return s._replace(retracted=s.raised, interrupter=_next(s, rounds))
