"""Signals that are all blocked, all taken by somebody, or handled by the program, ours among them."""

from __future__ import annotations

import pytest
from hostile_support import survives
from support import absent

ALL_SIGNALS = "ALL = set(signal.valid_signals())\n"


def test_all_blocked_before_threads_start() -> None:
    """Threads inherit the mask. They are woken, and what they read back is what was set."""
    survives(
        ALL_SIGNALS
        + """
signal.pthread_sigmask(signal.SIG_BLOCK, ALL)
works()
crowd = Crowd()
seen = []
def body():
    seen.append(signal.pthread_sigmask(signal.SIG_BLOCK, set()))
    time.sleep(LONG)
thread = Waiter(Kind(body, sleep().libc))
thread.settle()
others = seen[0]
for _ in range(5): crowd.interrupt()
crowd.finish()
assert status()["signal"] in others and {signal.SIGINT, signal.SIGTERM, signal.SIGUSR2} <= others, others
assert signal.pthread_sigmask(signal.SIG_BLOCK, set()) == others
works()
"""
    )


def test_all_blocked_by_the_threads_themselves() -> None:
    """Each blocks everything just before it waits."""
    survives(
        ALL_SIGNALS
        + """
def blocking(kind):
    def made():
        found = kind()
        def call():
            signal.pthread_sigmask(signal.SIG_BLOCK, ALL)
            return found.call()
        return found._replace(call=call)
    return made
works([blocking(kind) for kind in KINDS])
works()
"""
    )


#: The program's handler, for "before" and "after" its threads; by Python's signal module, with its wake-up descriptor.
HANDLER = """
number = _core.status()["signal"]
assert number == signal.SIGURG
seen = []
reader, writer = socket.socketpair()
for end_ in (reader, writer): end_.setblocking(False)
def handler(*what): seen.append(what[0])
def bytes_seen():
    try: return reader.recv(4096)
    except BlockingIOError: return b""
def own_signals_arrive():
    "One to the process and one to each thread that waits: none ends a call, each gets to the handler."
    bytes_seen()
    for send in [lambda: os.kill(os.getpid(), number), *(lambda w=w: signal.pthread_kill(w.ident, number) for w in crowd.waiters)]:
        del seen[:]
        counts = [len(w.got) for w in crowd.waiters]
        send()
        until(lambda: seen, lambda: "the handler is called")
        assert set(seen) == {number}, seen
        until(lambda: bytes([number]) in bytes_seen(), lambda: "and the descriptor written to")
        crowd.settle()
        assert counts == [len(w.got) for w in crowd.waiters]
def ours_do_not():
    bytes_seen()
    del seen[:]
    for _ in range(5): crowd.interrupt()
    time.sleep(0)
    assert not seen and number not in bytes_seen(), seen
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_program_handles_our_signal(when: str) -> None:
    """It gets all of its own and none of ours."""
    install = "signal.signal(number, handler); signal.set_wakeup_fd(writer.fileno())"
    survives(
        HANDLER
        + (f"{install}\ncrowd = Crowd()" if when == "before" else f"crowd = Crowd()\ncrowd.interrupt()\n{install}")
        + """
assert signal.getsignal(number) is handler
for _ in range(3):
    own_signals_arrive()
    ours_do_not()
assert _core.status()["signal"] == number and _core.status()["signal_ours"]
for other in (signal.SIG_IGN, signal.SIG_DFL):
    assert signal.signal(number, other) is not None
    ours_do_not()
    os.kill(os.getpid(), number)
    crowd.interrupt()
    assert not seen and number not in bytes_seen()
signal.signal(number, handler)
own_signals_arrive()
ours_do_not()
crowd.finish()
signal.set_wakeup_fd(-1)
works()
"""
    )


def test_handler_from_before_the_library_came() -> None:
    """The same for a handler that was there when the library was imported."""
    survives(
        """
crowd = Crowd()
number = _core.status()["signal"]
for _ in range(5): crowd.interrupt()
assert not early, early
for count in range(1, 6):
    os.kill(os.getpid(), number)
    until(lambda: len(early) == count, lambda: early)
    crowd.interrupt()
assert len(early) == 5, early
assert signal.signal(number, signal.SIG_IGN) is handler
crowd.interrupt()
crowd.finish()
""",
        before="""
import signal
early = []
def handler(*what): early.append(what[0])
signal.signal(signal.SIGURG, handler)
import builtins; builtins.early, builtins.handler = early, handler
""",
    )


@pytest.mark.parametrize("close_fds", [True, False])
def test_children_leave_the_handler_alone(close_fds: bool) -> None:
    """A child made by vfork resets all handlers on its parent's memory: the program's own must not be among them."""
    survives(
        f"""
seen = []
crowd = Crowd()
number = _core.status()["signal"]
signal.signal(number, lambda *what: seen.append(1))
for turn in range(1, 4):
    assert subprocess.run(["sh", "-c", "exit 3"], close_fds={close_fds}).returncode == 3
    os.kill(os.getpid(), number)
    until(lambda: len(seen) == turn, lambda: f"the handler is called, turn {{turn}}")
    crowd.interrupt()
crowd.finish()
assert len(seen) == 3
"""
    )


def test_ignored_before_the_library_came() -> None:
    """As `nohup` does with another signal: what is ignored at the start stays so for the program."""
    survives(
        """
number = _core.status()["signal"]
works()
assert signal.getsignal(number) == signal.SIG_IGN
assert subprocess.run(["sh", "-c", "kill -URG $$; echo alive"], capture_output=True, text=True).stdout == "alive\\n"
works()
""",
        before="import signal; signal.signal(signal.SIGURG, signal.SIG_IGN)\n",
    )


TAKERS = (
    ALL_SIGNALS
    + """
import struct
libc = ctypes.CDLL(None, use_errno=True)
taken, stop = [], []
OWN = {signal.SIGUSR2, signal.SIGCHLD}
full = (ctypes.c_uint64 * 16)(*[2**64 - 1] * 16)
def waits():
    "sigwaitinfo() of everything, by libc and by system call."
    signal.pthread_sigmask(signal.SIG_BLOCK, ALL)
    while not stop:
        found = signal.sigwait(ALL)
        if found not in OWN: taken.append(("sigwait", found))
def waits_by_system_call():
    signal.pthread_sigmask(signal.SIG_BLOCK, ALL)
    info = ctypes.create_string_buffer(128)
    while not stop:
        found = libc.syscall(128, full, info, None, 8)
        if found not in (-1, *OWN): taken.append(("rt_sigtimedwait", found))
fd = -1
def reads():
    "A signalfd on everything, in a thread that blocks everything."
    signal.pthread_sigmask(signal.SIG_BLOCK, ALL)
    while not stop:
        (found,) = struct.unpack_from("I", os.read(fd, 128))
        if found not in OWN: taken.append(("signalfd", found))
"""
)


@pytest.mark.parametrize("taker", ["waits", "waits_by_system_call", "reads"])
@pytest.mark.parametrize("blocked", ["all", "takers"])
def test_others_take_all_signals(taker: str, blocked: str) -> None:
    """A thread that takes every signal there is sees none of our wake-ups, and takes none from their threads."""
    survives(
        TAKERS
        + f"""
if {blocked == "all"}: signal.pthread_sigmask(signal.SIG_BLOCK, ALL)
fd = libc.signalfd(-1, full, 0)
assert fd >= 0
taker = threading.Thread(target={taker}, daemon=True); taker.start()
crowd = Crowd()
for _ in range(20): crowd.interrupt()
number = _core.status()["signal"]
assert not taken, taken
crowd.finish()
works()
assert not taken, taken
# What is the program's own, it gets: the taker is awake.
stop.append(True)
signal.pthread_kill(taker.ident, signal.SIGUSR2)
taker.join(GUARD)
assert not taker.is_alive() and not taken, taken
"""
    )


#: What keeps wake-ups from being known by their mark.
UNMARKED = {
    "forbidden": """
class Filter(ctypes.Structure): _fields_ = [("code", ctypes.c_uint16), ("yes", ctypes.c_uint8), ("no", ctypes.c_uint8), ("k", ctypes.c_uint32)]
class Program(ctypes.Structure): _fields_ = [("length", ctypes.c_uint16), ("filters", ctypes.POINTER(Filter))]
queueinfo = {"x86_64": 297, "aarch64": 240}[os.uname().machine]
filters = (Filter * 4)(
    (0x20, 0, 0, 0),  # the number of the system call
    (0x15, 0, 1, queueinfo),
    (0x06, 0, 0, 0x00050000 | errno.EPERM),  # SECCOMP_RET_ERRNO
    (0x06, 0, 0, 0x7FFF0000),  # SECCOMP_RET_ALLOW
)
assert libc.prctl(38, 1, 0, 0, 0) == 0, "PR_SET_NO_NEW_PRIVS"
if libc.prctl(22, 2, ctypes.byref(Program(4, filters)), 0, 0) != 0: print("no seccomp"); end(); sys.exit()
assert libc.syscall(queueinfo, 0, 0, 0, None) == -1 and ctypes.get_errno() == errno.EPERM
""",
    "no memory": """
import resource
resource.setrlimit(resource.RLIMIT_SIGPENDING, (0, resource.getrlimit(resource.RLIMIT_SIGPENDING)[1]))
""",
}


@pytest.mark.parametrize("reasons", [["forbidden"], ["no memory"], ["forbidden", "no memory"]], ids=" and ".join)
@pytest.mark.parametrize("handled", ["early", "late"])
def test_wake_ups_without_a_mark(reasons: list[str], handled: str) -> None:
    """They break calls all the same, and another process's signals go to the program, whether kill or tgkill sent them."""
    output = survives(
        HANDLER
        + "import errno; libc = ctypes.CDLL(None, use_errno=True)\n"
        + "".join(UNMARKED[reason] for reason in reasons)
        + f"""
if {handled == "early"}: signal.signal(number, handler)
crowd = Crowd()
for _ in range(5): crowd.interrupt()
signal.signal(number, handler)
tgkill = {{"x86_64": 234, "aarch64": 131}}[os.uname().machine]
def a_child_sends(call):
    del seen[:]
    counts = [len(w.got) for w in crowd.waiters]
    child = f"import ctypes, os; assert {{call}} == 0"
    environ = {{name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}}
    subprocess.run([sys.executable, "-c", child], check=True, env=environ)
    until(lambda: seen, lambda: "the handler is called")
    crowd.settle()
    assert seen == [number] and counts == [len(w.got) for w in crowd.waiters], seen
for w in crowd.waiters[::4]:
    a_child_sends(f"os.kill({{os.getpid()}}, {{number}}) or 0")
    ours_do_not()
    a_child_sends(f"ctypes.CDLL(None).syscall({{tgkill}}, {{os.getpid()}}, {{w.native_id}}, {{number}})")
    ours_do_not()
assert _core.status()["signal"] == number and _core.status()["signal_ours"]
crowd.finish()
works()
"""
    )
    if "no seccomp" in output:
        absent("the kernel has no seccomp filters")
