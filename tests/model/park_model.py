"""The park protocol: announce, look, sleep, be woken, leave, park again (src/park.c, monitor.c, signals.c, self_pipe.c).

One target parks several times. Two interrupters, each with a bit of its own in `pending` (ITR_PENDING_API, ITR_PENDING_PY),
want it once each, and the monitor repeats. The kernel's part is modelled too: what sleeps, and what ends that.

Whatever a waker leaves behind (a signal on its way, a byte in the pipe, a deadline in the past) carries the generation of
the park that it was meant for. A park that is ended by another one's is a violation: EINTR in a call that is not ours. So is
a wait that returns to its caller though neither what it waits for has come nor an interrupt is delivered: a false time-out.

Not here: retraction (retract_model.py), what the wrapper of a broken call then does (delivery_model.py), calls of C libraries,
and handlers of the program that wait themselves.
"""

from typing import NamedTuple, Optional

from checker import Model, Next, Process, Violation, put

KINDS = ("signal", "fdset", "deadline")

# What could be left out of the C code, and what each does here: see `variant ==` below.
VARIANTS = (
    "looks at pending before announcing",
    "waker looks at park before recording",
    "leaves by a plain store",
    "does not wait for the handler",
    "does not empty the pipe",
    "no generation in the park word",
    "wakes without WAKING",
    "does not restore the deadline",
    "does not resume",
    "monitor looks only once",
    "no monitor",
)


class State(NamedTuple):
    # -- struct itr_slot
    park: int = 0  # the generation in the word; 0: not parked
    waking: bool = False  # ITR_PARK_WAKING in the same word
    pending: int = 0
    lock: str = ""
    sig_out: bool = False  # sig_sent != sig_seen: that is all that is ever asked of the two,
    sent_since: bool = False  # ... and sig_sent != p->sent_before
    piped: bool = False
    deadline: int = 0  # pulled into the past for this generation; 0: the caller's own
    # -- the kernel
    signal: int = 0  # one is on its way, sent for this generation
    pipe: int = 0  # a byte is in it, written for this generation
    event: str = "may come"  # what the call waits for, once: may come, has come, will not come
    # -- the target: struct itr_park and what became of its calls
    target: str = "begin"
    generation: int = 0
    seen_early: int = 0  # (a broken variant's look)
    ended: bool = False
    broken: bool = False
    woken: bool = False
    delivered_1: int = 0
    delivered_2: int = 0
    # -- the wakers: what each has loaded
    first: str = "lock"
    first_word: int = 0
    second: str = "lock"
    second_word: int = 0
    monitor: str = "idle"
    monitor_word: int = 0
    # -- the monitor's list
    watched: bool = False
    due: bool = False  # slot->next_ns was set by a watch(), or by the look before


def build(kind: str, variant: str = "", parks: int = 3, monitor: bool = True) -> "Model[State]":
    """`kind`: how the target waits. Without the monitor: nobody repeats anything."""
    if variant == "no monitor":
        monitor = False
    wakers = [_interrupter("first", 1, kind, variant, monitor), _interrupter("second", 2, kind, variant, monitor)]
    if monitor:
        wakers.append(_monitor(kind, variant))
    return Model(State(), [_target(kind, variant, parks), _kernel(kind), *wakers], _good, _wrong)


def _good(s: State) -> bool:
    """Each interrupt was delivered, nobody is busy, and the target is done or sleeps for its own reasons."""
    over = s.first == "end" and s.second == "end" and s.monitor == "idle" and not s.watched
    return over and s.pending == 0 and s.delivered_1 == s.delivered_2 == 1 and s.target in ("asleep", "done")


def _wrong(s: State) -> Optional[str]:
    if s.delivered_1 > 1 or s.delivered_2 > 1:
        return "delivered twice"
    return None


def _own(s: State, sent_for: int, what: str) -> State:
    if sent_for != s.generation:
        raise Violation(f"stale: wait {s.generation} is ended by the {what} that was meant for wait {sent_for}")
    return s._replace(target="leave", ended=True)


def _target(kind: str, variant: str, parks: int) -> "Process[State]":
    target: Process[State] = Process("target")

    @target.at("begin")
    def begin(s: State) -> State:
        """the last call has returned to its caller; the next that may wait: itr_park_begin() counts the generation up"""
        if s.ended:
            raise Violation("false time-out: a wait ended that was woken for nothing")
        if s.generation == parks:
            return s._replace(target="running")
        return s._replace(target="resume", generation=s.generation + 1, broken=False)

    @target.at("resume")
    def resume(s: State) -> State:
        """park_sleep(), timed_sem(): the caller's own deadline is put into the slot, before the park is announced"""
        return s._replace(target="enter", deadline=s.deadline if variant == "does not restore the deadline" else 0)

    @target.at("enter")
    def enter(s: State) -> State:
        """itr_park_enter(): woken = false, sent_before = sig_sent"""
        early = s.pending if variant == "looks at pending before announcing" else 0
        return s._replace(target="announce", woken=False, ended=False, sent_since=False, seen_early=early)

    @target.at("announce")
    def announce(s: State) -> State:
        """itr_park_enter(): store park (seq_cst; pairs with the waker's load behind its store of pending)"""
        return s._replace(target="look", park=s.generation)

    @target.at("look")
    def look(s: State) -> State:
        """itr_park_enter(), take_break(): load pending; if set, the call is not made"""
        seen = s.seen_early if variant == "looks at pending before announcing" else s.pending
        return s._replace(target="leave", broken=True) if seen else s._replace(target="gap")

    @target.at("gap")
    def call(s: State) -> State:
        """the libc call begins: the kernel looks at what it waits for, and puts it to sleep"""
        if s.event == "has come":
            return s._replace(target="leave", ended=False, event="will not come")
        if kind == "fdset" and s.pipe:
            return _own(s, s.pipe, "byte in the pipe")
        if kind == "deadline" and s.deadline:
            return _own(s, s.deadline, "deadline")
        return s._replace(target="asleep")

    @target.at("leave")
    def leave(s: State) -> Next[State]:
        """unannounce(): CAS park from the bare word to 0; while WAKING is set it fails, and woken = true"""
        if s.waking and variant != "leaves by a plain store":
            return None if s.woken else s._replace(woken=True)
        return s._replace(target="handled", park=0, waking=False)

    @target.at("handled")
    def handled(s: State) -> Next[State]:
        """unannounce(): sig_sent against sent_before; wait until the handler has run (the bound is for hostile handlers)"""
        if s.sig_out and variant != "does not wait for the handler":
            return None
        return s._replace(target="piped", woken=s.woken or s.sent_since)

    @target.at("piped")
    def piped(s: State) -> State:
        """unannounce(): piped? then woken = true, piped = false"""
        drained = "verdict" if variant == "does not empty the pipe" else "drain"
        return s._replace(target=drained, woken=True, piped=False) if s.piped else s._replace(target="verdict")

    @target.at("drain")
    def drain(s: State) -> Next[State]:
        """itr_pipe_drain(): under the lock, read until it is empty"""
        return None if s.lock else s._replace(target="verdict", pipe=0)

    @target.at("verdict")
    def verdict(s: State) -> State:
        """itr_park_leave(): an effect is kept; else look at pending: break, or wait on if a waker was here"""
        if s.broken:
            return s._replace(target="deliver")
        if not s.ended:
            return s._replace(target="begin")
        if s.pending:
            return s._replace(target="deliver")
        if s.woken:
            return s._replace(target="begin" if variant == "does not resume" else "resume")
        raise Violation("stale: the wait was ended by something that it does not know of")

    @target.at("deliver")
    def deliver(s: State) -> State:
        """the wrapper takes one interrupt: consume(), pending &= ~bit"""
        return _consume(s)._replace(target="begin", ended=False)

    @target.at("running")
    def running(s: State) -> State:
        """runs code that does not wait, and takes what is still pending (delivery_model.py)"""
        return _consume(s) if s.pending else s._replace(target="done")

    @target.at("done")
    def late(s: State) -> Next[State]:
        """takes what came later"""
        return _consume(s) if s.pending else None

    return target


def _consume(s: State) -> State:
    if s.pending & 2:
        return s._replace(pending=s.pending & ~2, delivered_2=s.delivered_2 + 1)
    if s.pending & 1:
        return s._replace(pending=s.pending & ~1, delivered_1=s.delivered_1 + 1)
    raise Violation("a call was broken for nothing")


def _kernel(kind: str) -> "Process[State]":
    """What happens to the target by itself. (Its program counter is the target's, so that it can act at any time.)"""
    kernel: Process[State] = Process("event")
    anywhere = ("may come", "has come", "will not come")

    @kernel.at("may come")
    def event(s: State) -> list[State]:
        """what the target waits for comes, or never will"""
        return [s._replace(event="will not come"), s._replace(event="has come")]

    @kernel.at("has come")
    def completes(s: State) -> Next[State]:
        """the sleeping call completes"""
        return s._replace(target="leave", ended=False, event="will not come") if s.target == "asleep" else None

    @kernel.at(*anywhere)
    def handler(s: State) -> Next[State]:
        """the signal arrives: handler() says sig_seen = sig_sent; a call that sleeps ends with EINTR"""
        if not s.signal:
            return None
        seen = s._replace(signal=0, sig_out=False)
        return _own(seen, s.signal, "signal") if s.target == "asleep" else seen

    @kernel.at(*anywhere)
    def readable(s: State) -> Next[State]:
        """the pipe is readable: poll() returns"""
        return _own(s, s.pipe, "byte in the pipe") if kind == "fdset" and s.pipe and s.target == "asleep" else None

    return kernel


def _add_waking(waker: "Process[State]", name: str, kind: str, variant: str) -> None:
    """itr_wake_locked(): the same steps for interrupters and monitor, from "load" to "unlock"."""
    word = f"{name}_word"

    def to(s: State, pc: str) -> State:
        return put(s, **{name: pc})

    @waker.at("load")
    def load(s: State) -> State:
        """itr_wake_locked(): load park (seq_cst); nothing to do when it is 0"""
        return to(put(s, **{word: s.generation}), "cas") if s.park else to(s, "unlock")

    @waker.at("cas")
    def cas(s: State) -> State:
        """itr_wake_locked(): CAS WAKING into the word it saw; fails when the target has left"""
        if variant == "wakes without WAKING":
            return to(s, "wake")
        same = s.park != 0 if variant == "no generation in the park word" else s.park == getattr(s, word)
        return to(s._replace(waking=True), "wake") if same else to(s, "unlock")

    @waker.at("wake")
    def wake(s: State) -> State:
        """itr_wake_locked(): a byte into the pipe, or the deadline into the past, or only the signal"""
        meant_for = getattr(s, word)
        if kind == "fdset":
            return to(s._replace(pipe=meant_for), "piped")
        return to(s._replace(deadline=meant_for) if kind == "deadline" else s, "send")

    @waker.at("piped")
    def piped(s: State) -> State:
        """itr_wake_locked(): piped = true"""
        return to(s._replace(piped=True), "clear")

    @waker.at("send")
    def send(s: State) -> State:
        """itr_signal_send(): nothing while one is on its way; else sig_sent + 1"""
        if s.sig_out:
            return to(s, "clear")
        return to(s._replace(sig_out=True, sent_since=True), "queue")

    @waker.at("queue")
    def queue(s: State) -> State:
        """itr_signal_send(): rt_tgsigqueueinfo()"""
        meant_for = getattr(s, word)
        return to(s._replace(signal=meant_for), "clear")

    @waker.at("clear")
    def clear(s: State) -> State:
        """itr_wake_locked(): clear WAKING (release; pairs with the target's CAS)"""
        return to(put(s, waking=False, **{word: 0}), "unlock")


def _interrupter(name: str, bit: int, kind: str, variant: str, monitor: bool) -> "Process[State]":
    """itr_interrupt(), raise_bit()."""
    waker: Process[State] = Process(name)
    early = variant == "waker looks at park before recording"

    @waker.at("lock")
    def lock(s: State) -> Next[State]:
        """itr_lock_ref()"""
        if s.lock:
            return None
        return put(s, lock=name, **{name: "early" if early else "record"})

    @waker.at("record")
    def record(s: State) -> State:
        """raise_locked(): pending |= bit (seq_cst; pairs with the target's load behind its store of park)"""
        return put(s, pending=s.pending | bit, **{name: "load"})

    @waker.at("early")
    def look_first(s: State) -> State:
        """(broken) load park, and only then record"""
        return put(s, **{name: "record" if s.park else "record and go"})

    @waker.at("record and go")
    def record_and_go(s: State) -> State:
        """(broken) pending |= bit, park was 0 a moment ago"""
        return put(s, pending=s.pending | bit, **{name: "unlock"})

    _add_waking(waker, name, kind, variant)

    @waker.at("unlock")
    def unlock(s: State) -> State:
        """itr_unlock()"""
        return put(s, lock="", **{name: "watch", f"{name}_word": 0})

    @waker.at("watch")
    def watch(s: State) -> State:
        """itr_monitor_watch(): next_ns is set, the slot is on the list"""
        return put(s, watched=monitor, due=monitor, **{name: "end"})

    return waker


def _monitor(kind: str, variant: str) -> "Process[State]":
    """run() and look(). Time is whatever comes first: the monitor may be as fast or as slow as it likes."""
    waker: Process[State] = Process("monitor")

    @waker.at("idle")
    def claim(s: State) -> Next[State]:
        """run(): the slot is due; claimed = next_ns = INT64_MAX"""
        return s._replace(due=False, monitor="lock") if s.watched and s.due else None

    @waker.at("lock")
    def lock(s: State) -> Next[State]:
        """look(): takes the slot's lock"""
        return None if s.lock else s._replace(lock="monitor", monitor="wanted")

    @waker.at("wanted")
    def wanted(s: State) -> State:
        """look(): load pending; 0: nothing more to do"""
        return s._replace(monitor="load") if s.pending else s._replace(lock="", monitor="unwatch")

    _add_waking(waker, "monitor", kind, variant)

    @waker.at("unlock")
    def unlock(s: State) -> State:
        """look(): releases the lock; a delay until the next look"""
        once = variant == "monitor looks only once"
        return s._replace(lock="", monitor="unwatch" if once else "repeat", monitor_word=0)

    @waker.at("repeat")
    def repeat(s: State) -> State:
        """run(): next_ns = now + delay"""
        return s._replace(due=True, monitor="idle")

    @waker.at("unwatch")
    def unwatch(s: State) -> State:
        """run(): next_ns != claimed: somebody watches anew; else unwatch_locked()"""
        return s._replace(monitor="idle", watched=s.due)

    return waker
