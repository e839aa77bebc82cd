"""A wake-up for a thread that waits in an exact call without a park (src/unseen.c), and where it must not end up.

The target sits in libc's own function, which nobody sees. A signal makes it come back with EINTR, and CPython makes the
call again, through our wrapper: it parks. Or the call completes by itself, and it parks in another one, or leaves the exact
call and waits in one that is not ours. The monitor looks again and again, as fast or as slow as it likes: nudge() in unseen.c
against itr_park_settle() in park.c, which announce() in park.c and itr_exact_leave() in exact_calls.c come to.

A signal that ends a park, or anything behind the exact call, is a violation. So is an interrupt that is never delivered.

What makes such a signal a danger is that the interrupt may be taken back meanwhile: then no park is broken any more.

Not here: how a park is ended in its own way (park_model.py; a step here), and how long the monitor waits before it looks.
"""

from typing import NamedTuple, Optional

from checker import Model, Next, Process, Violation

# What could be left out of the C code: see `variant ==` below.
VARIANTS = (
    "parks without looking",
    "leaves without looking",
    "looks before announcing",
    "does not wait for what has begun",
    "does not wait for the handler",
    "the nudge looks before it begins",
    "the nudge does not look at park",
    "the nudge does not look at exact",
    "the nudge forgets the one before",
    "nobody nudges",
)


class State(NamedTuple):
    # -- struct itr_slot
    park: bool = False
    exact: bool = True
    pending: bool = False
    nudge: str = "none"
    sig_out: bool = False  # sig_sent != sig_seen
    # -- the kernel
    signal: bool = False  # one is on its way
    event: str = "may come"  # what the unseen call waits for: may come, has come, will not come
    # -- the target
    target: str = "unseen"
    then: str = ""  # where it goes on when it has settled
    parks: int = 0
    delivered: int = 0
    # -- the others
    interrupter: str = "record"
    monitor: str = "idle"
    before: str = "none"
    seen: bool = False  # (a broken variant's look)


def build(variant: str = "", parks: int = 2) -> "Model[State]":
    others = [] if variant == "nobody nudges" else [_monitor(variant)]
    return Model(State(), [_target(variant, parks), _kernel(), _interrupter(), *others], _good, _wrong)


def _good(s: State) -> bool:
    if s.interrupter == "taken back":
        return s.target in ("unseen", "done") and s.delivered == 0 and s.monitor == "idle" and not s.signal
    return s.target == "done" and s.delivered == 1 and s.monitor == "idle"


def _wrong(s: State) -> Optional[str]:
    return "delivered twice" if s.delivered > 1 else None


def _target(variant: str, parks: int) -> "Process[State]":
    target: Process[State] = Process("target")

    def settle(s: State, then: str) -> State:
        """a load of slot->nudge, and itr_park_settle() when it is set"""
        return s._replace(target=then) if s.nudge == "none" else s._replace(target="settle", then=then)

    @target.at("completes")
    def completes(s: State) -> list[State]:
        """the call that nobody saw has completed: the exact call makes another one, or is over"""
        again = [s._replace(target="announce")] if s.parks < parks else []
        return [*again, s._replace(target="leave")]

    @target.at("announce")
    def announce(s: State) -> State:
        """announce(): store park (seq_cst; pairs with nudge()'s load behind its store of BEGUN)"""
        s = s._replace(parks=s.parks + 1)
        if variant == "looks before announcing":
            return settle(s, "announce late")
        return s._replace(park=True, target="look" if variant == "parks without looking" else "announced")

    @target.at("announce late")
    def announce_late(s: State) -> State:
        """(broken) store park, behind the look at nudge"""
        return s._replace(park=True, target="look")

    @target.at("announced")
    def announced(s: State) -> State:
        """announce(): load nudge (seq_cst)"""
        return settle(s, "look")

    @target.at("settle")
    def wait(s: State) -> Next[State]:
        """itr_park_settle(): load nudge; BEGUN: yield"""
        if s.nudge == "begun" and variant != "does not wait for what has begun":
            return None
        return s._replace(target="handler" if s.nudge == "sent" else s.then)

    @target.at("handler")
    def handled(s: State) -> Next[State]:
        """await_handler()"""
        if s.sig_out and variant != "does not wait for the handler":
            return None
        return s._replace(target="take note")

    @target.at("take note")
    def take_note(s: State) -> State:
        """itr_park_settle(): CAS nudge, SENT to NONE; another look has begun: once more"""
        return s._replace(nudge="none", target=s.then) if s.nudge == "sent" else s._replace(target="settle")

    @target.at("look")
    def look(s: State) -> State:
        """take_break(): load pending"""
        return s._replace(target="break" if s.pending else "asleep")

    @target.at("asleep")
    def asleep(s: State) -> list[State]:
        """what it waits for comes; or it is woken as parks are"""
        woken = [s._replace(target="break")] if s.pending else []
        return [*woken, s._replace(target="unannounce")]

    @target.at("unannounce")
    def unannounce(s: State) -> State:
        """unannounce(): park = 0; the call has its result"""
        return s._replace(park=False, target="completes")

    @target.at("break")
    def broken(s: State) -> State:
        """unannounce(): park = 0; the call is broken"""
        return s._replace(park=False, target="leave")

    @target.at("leave")
    def leave(s: State) -> State:
        """itr_exact_leave(): store exact (seq_cst; pairs with nudge()'s load behind its store of BEGUN)"""
        return s._replace(exact=False, target="deliver" if variant == "leaves without looking" else "left")

    @target.at("left")
    def left(s: State) -> State:
        """itr_exact_leave(): load nudge (seq_cst)"""
        return settle(s, "deliver")

    @target.at("deliver")
    def deliver(s: State) -> State:
        """the wrapper, or the next fit instruction, raises what is pending"""
        done = s._replace(target="behind")
        return done._replace(pending=False, delivered=s.delivered + 1) if s.pending else done

    @target.at("behind")
    def behind(s: State) -> State:
        """it waits in a call that is not ours, and comes back from it"""
        return s._replace(target="done")

    @target.at("done")
    def late(s: State) -> Next[State]:
        """takes what came later"""
        return s._replace(pending=False, delivered=s.delivered + 1) if s.pending else None

    return target


def _kernel() -> "Process[State]":
    """What happens to the target by itself."""
    kernel: Process[State] = Process("event")

    @kernel.at("may come")
    def event(s: State) -> list[State]:
        """what the unseen call waits for comes, or never will"""
        return [s._replace(event="will not come"), s._replace(event="has come")]

    @kernel.at("has come")
    def completes(s: State) -> Next[State]:
        """the unseen call completes"""
        return s._replace(target="completes", event="will not come") if s.target == "unseen" else None

    @kernel.at("may come", "has come", "will not come")
    def handler(s: State) -> Next[State]:
        """the signal arrives: the handler says sig_seen = sig_sent; a call that sleeps ends with EINTR"""
        if not s.signal:
            return None
        if s.target in ("asleep", "behind"):
            raise Violation("stale: EINTR " + ("in an announced park" if s.target == "asleep" else "behind the exact call"))
        seen = s._replace(signal=False, sig_out=False)
        return seen._replace(target="announce") if s.target == "unseen" else seen

    return kernel


def _interrupter() -> "Process[State]":
    interrupter: Process[State] = Process("interrupter")

    @interrupter.at("record")
    def record(s: State) -> State:
        """raise_locked(): pending |= bit; park is 0, so nobody is woken"""
        return s._replace(pending=True, interrupter="recorded")

    @interrupter.at("recorded")
    def retract(s: State) -> Next[State]:
        """retract(): pending &= ~bit (committed: retract_model.py); or nobody ever does"""
        kept = s._replace(interrupter="end")
        return [kept, s._replace(pending=False, interrupter="taken back")] if s.pending else kept

    return interrupter


def _monitor(variant: str) -> "Process[State]":
    monitor: Process[State] = Process("monitor")
    early = variant == "the nudge looks before it begins"

    @monitor.at("idle")
    def idle(s: State) -> Next[State]:
        """look(): pending, not parked, and still; nudge(): itr_lock_ref()"""
        return s._replace(monitor="early" if early else "begin") if s.pending else None

    @monitor.at("early")
    def look_first(s: State) -> State:
        """(broken) loads exact and park, and only then says so"""
        return s._replace(seen=s.exact and not s.park, monitor="begin")

    @monitor.at("begin")
    def begin(s: State) -> State:
        """nudge(): exchange nudge, BEGUN (seq_cst)"""
        return s._replace(before=s.nudge, nudge="begun", monitor="seen" if early else "exact")

    @monitor.at("seen")
    def seen(s: State) -> State:
        """(broken) what was so before"""
        return s._replace(seen=False, monitor="send" if s.seen else "put back")

    @monitor.at("exact")
    def exact(s: State) -> State:
        """nudge(): load exact (seq_cst)"""
        return s._replace(monitor="park" if s.exact or variant == "the nudge does not look at exact" else "put back")

    @monitor.at("park")
    def park(s: State) -> State:
        """nudge(): load park (seq_cst)"""
        return s._replace(monitor="pending" if not s.park or variant == "the nudge does not look at park" else "put back")

    @monitor.at("pending")
    def pending(s: State) -> State:
        """nudge(): load pending"""
        return s._replace(monitor="send" if s.pending else "put back")

    @monitor.at("send")
    def send(s: State) -> State:
        """itr_signal_send(): nothing while one is on its way; else sig_sent + 1"""
        return s._replace(monitor="sent") if s.sig_out else s._replace(sig_out=True, monitor="queue")

    @monitor.at("queue")
    def queue(s: State) -> State:
        """itr_signal_send(): rt_tgsigqueueinfo()"""
        return s._replace(signal=True, monitor="sent")

    @monitor.at("sent")
    def sent(s: State) -> State:
        """nudge(): store nudge, SENT (release); itr_unlock()"""
        return s._replace(nudge="sent", before="none", monitor="idle")

    @monitor.at("put back")
    def put_back(s: State) -> State:
        """nudge(): store nudge, what was there; itr_unlock()"""
        nudge = "none" if variant == "the nudge forgets the one before" else s.before
        return s._replace(nudge=nudge, before="none", monitor="idle")

    return monitor
