"""fork, vfork, exec, subprocess and multiprocessing in programs whose threads are interrupted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support import PATIENCE, run_script

#: Threads that are interrupted all the time while the program does something else; and a check of the child.
STORM = """
import os, sys, threading, time, warnings
warnings.simplefilter("error")
import interruptible_threading as it
from interruptible_threading import _core
it.install_patches()
SLEEP = 10**6
class Storm:
    def __init__(self, count=2):
        self.stop = False
        self.begun = []
        self.caught = [0] * count
        self.threads = [threading.Thread(target=self.work, args=(number,), daemon=True) for number in range(count)]
        self.sender = threading.Thread(target=self.send, daemon=True)
    def work(self, number):
        try:
            with it.deliver_on_blocking():
                self.begun.append(number)
                while not self.stop:
                    try:
                        while not self.stop: time.sleep(SLEEP) if number % 2 else threading.Event().wait(SLEEP)
                    except it.ThreadInterrupted: self.caught[number] += 1
        except it.ThreadInterrupted: pass  # the last one
    def send(self):
        while not self.stop:
            for thread in self.threads: it.interrupt(thread)
            time.sleep(0.0005)
    def __enter__(self):
        for thread in self.threads: thread.start()
        while len(self.begun) < len(self.threads): time.sleep(0.0005)  # none before the mask
        self.sender.start()
        return self
    def __exit__(self, *error):
        while not all(count > 10 for count in self.caught): time.sleep(0.001)
        self.stop = True
        self.sender.join(60)
        while any(thread.is_alive() for thread in self.threads):
            for thread in self.threads: it.interrupt(thread)
            time.sleep(0.001)
def parked(thread):
    while not (_core.park_info(thread.ident) or {}).get("parked"): time.sleep(0.0005)
def works():
    "Interrupting works in this process, and no inherited slot is left."
    out = []
    def body():
        lock = threading.Lock(); lock.acquire()
        for call in (lambda: time.sleep(SLEEP), lock.acquire, lambda: __import__("select").select([], [], [], SLEEP)):
            try: call()
            except it.ThreadInterrupted: out.append(1)
    thread = threading.Thread(target=body, daemon=True); thread.start()
    for turn in range(3):
        while len(out) < turn: time.sleep(0.0005)
        parked(thread); it.interrupt(thread)
        while len(out) < turn + 1: time.sleep(0.0005)
    thread.join(60)
    return len(out)
def child_of(fork, check):
    pid = fork()
    if pid == 0:
        status = 99
        try: status = check()
        finally: os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""


def quiet_fork(script: str) -> str:
    """The threads of the program itself are what Python 3.12 and later warn of when it forks; the others must not be."""
    return STORM + "warnings.filterwarnings('ignore', message='.*multi-threaded.*')\n" + script


def test_fork_in_the_main_thread_while_others_are_interrupted() -> None:
    output = run_script(quiet_fork("with Storm() as storm:\n    print([child_of(os.fork, works) for _ in range(15)])\nprint(works())"))
    assert output == f"{[3] * 15}\n3\n"


MENDING = """
import os, sys, threading, time, warnings
warnings.filterwarnings("ignore", message=".*multi-threaded.*")  # of the program's own threads
def early(alone=[]):
    time.sleep(0.05)  # time for a thread to be started in
    alone.append(len(os.listdir("/proc/self/task")) == 1)
    return alone
os.register_at_fork(after_in_child=early)  # before the library's own
import interruptible_threading as it
it.install_patches()
status = []
def body():
    try:
        with it.critical_section():
            it.interrupt(threading.current_thread())
            pid = os.fork()
            if pid == 0: os._exit(7 if early.__defaults__[0] == [True] else 1)
            status.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    except it.ThreadInterrupted: status.append("raised")
def child_too():
    try:
        try:
            with it.critical_section():
                it.interrupt(threading.current_thread())
                pid = os.fork()
            if pid != 0: status.append("lost")
        except it.ThreadInterrupted:
            if pid == 0: os._exit(8)
            status.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    finally:
        if pid == 0: os._exit(2)
for one in (body, child_too):
    thread = threading.Thread(target=one); thread.start(); thread.join()
print(*status)
"""


def test_child_is_left_alone_until_python_has_mended_it() -> None:
    """An interrupt that the forking thread brings along is seen to in the child, but not before CPython's locks are new.

    A second thread in the child during PyOS_AfterFork_Child() met a thread key that was being made anew, and aborted.
    """
    output = run_script(MENDING)
    assert output.split() == ["7", "raised", "8"]


def test_fork_in_a_worker_that_is_interrupted() -> None:
    """The child of an interrupted worker is whole; the parent knows its pid and reaps it: none is lost."""
    output = run_script(
        quiet_fork(
            """
forked, reaped, begun, caught, stop = [0], [0], [], [], []
def more(): return forked[0] < 30 or not caught
def rounds():
    while more():
        time.sleep(0)
        with it.critical_section():
            pid = os.fork()
            if pid == 0: os._exit(7)
            forked[0] += 1
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
            reaped[0] += 1
def body():
    try:
        with it.deliver_on_blocking():
            begun.append(1)
            while more():
                try: rounds()
                except it.ThreadInterrupted: caught.append(1)
            stop.append(1)
    except it.ThreadInterrupted: pass  # the last one
thread = threading.Thread(target=body, daemon=True); thread.start()
while not begun: time.sleep(0.001)
while thread.is_alive() and not stop:
    it.interrupt(thread); time.sleep(0.001)
thread.join(60)
print(forked == reaped, forked[0] >= 30, len(caught) > 0)
try: os.waitpid(-1, os.WNOHANG)
except ChildProcessError: print("no child left")
"""
        )
    )
    assert output == "True True True\nno child left\n"


def test_child_of_a_worker_keeps_its_own_thread_only() -> None:
    output = run_script(
        quiet_fork(
            """
pending = []
other = threading.Thread(target=time.sleep, args=(SLEEP,), daemon=True); other.start(); parked(other)
def check():
    # The forking worker is the child's main thread; the threads that are gone cannot be interrupted.
    assert threading.main_thread() is threading.current_thread()
    assert not other.is_alive() and it.interrupt(other).state == "discarded"
    assert set(_core.threads()) <= {threading.get_ident()}, _core.threads()
    for target in (threading.current_thread(), threading.get_ident()):
        try: it.interrupt(target)
        except ValueError as error: assert "main thread" in str(error)
        else: return 98
    return works()
def body(): pending.append(child_of(os.fork, check))
thread = threading.Thread(target=body); thread.start(); thread.join()
print(pending, other.is_alive())
"""
        )
    )
    assert output == "[3] True\n"


def test_pending_interrupt_stays_with_the_parent() -> None:
    output = run_script(
        quiet_fork(
            """
out = []
def body():
    try:
        with it.critical_section():
            it.interrupt(threading.current_thread())
            pid = os.fork()
            if pid == 0: os._exit(5)
            out.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    except it.ThreadInterrupted: out.append("interrupted")
thread = threading.Thread(target=body); thread.start(); thread.join()
print(out)
"""
        )
    )
    assert output == "[5, 'interrupted']\n"


@pytest.mark.parametrize("parked_in", ["select", "sleep"])
def test_fork_beside_parked_threads_keeps_their_pipes_apart(parked_in: str) -> None:
    """Interrupting in the child must not wake a thread of the parent, nor the other way round."""
    output = run_script(
        quiet_fork(
            f"""
import select
r, w = os.pipe()
out = []
def body():
    try: {"select.select([r], [], [])" if parked_in == "select" else "time.sleep(SLEEP)"}
    except it.ThreadInterrupted: out.append(1)
thread = threading.Thread(target=body, daemon=True); thread.start(); parked(thread)
parks = _core.park_info(thread.ident)["parks"]
print([child_of(os.fork, works) for _ in range(5)], _core.park_info(thread.ident)["parks"] == parks, out)
it.interrupt(thread); thread.join(60)
print(out)
"""
        )
    )
    assert output == "[3, 3, 3, 3, 3] True []\n[1]\n"


def test_no_warning_of_our_own_threads() -> None:
    """From 3.12 on Python warns when a process with another thread forks: ours must be gone by then."""
    output = run_script(
        STORM
        + """
for turn in range(10):
    assert works() == 3  # the monitor has something to do, and the injector too
    thread = threading.Thread(target=lambda: [None for _ in iter(int, 1)], daemon=True)
    it.interrupt(thread, SystemExit); thread.start(); thread.join(60)
    # threading has forgotten a thread a moment before the system has
    while len(os.listdir("/proc/self/task")) > 1 + _core.status()["monitor"]: time.sleep(0.001)
    assert child_of(os.fork, lambda: 0) == 0  # warnings are errors
print("quiet")
"""
    )
    assert output == "quiet\n"


def test_subprocesses_beside_a_storm() -> None:
    """fork_exec, vfork and posix_spawn: every child starts, says what it has to, and is reaped once."""
    output = run_script(
        quiet_fork(
            """
import subprocess
with Storm():
    for turn in range(20):
        assert subprocess.run(["echo", str(turn)], capture_output=True, text=True).stdout == f"{turn}\\n"
        assert subprocess.run(["sh", "-c", "exit 3"], preexec_fn=os.getpid).returncode == 3
        pid = os.posix_spawn("/bin/true", ["true"], os.environ)
        assert os.waitpid(pid, 0) == (pid, 0)
        assert os.system("exit 4") == 4 << 8
try: os.waitpid(-1, os.WNOHANG)
except ChildProcessError: print("no child left")
"""
        )
    )
    assert output == "no child left\n"


def test_popen_in_an_interrupted_worker() -> None:
    """No child is lost: whatever Popen() made is known to it, or was killed and reaped by it."""
    output = run_script(
        quiet_fork(
            """
import random, subprocess
runs, caught, stop = [0], [0], []
def body():
    while not stop:
        try:
            while not stop:
                subprocess.run(["true"], stdin=subprocess.PIPE, stdout=subprocess.PIPE); runs[0] += 1
        except it.ThreadInterrupted: caught[0] += 1
thread = threading.Thread(target=body); thread.start()
for turn in range(100):
    before = runs[0]
    while runs[0] == before: time.sleep(0.0002)
    time.sleep(random.random() * 0.003)
    handle = it.interrupt(thread)
    assert handle.wait(60), handle.explain()
    while caught[0] == turn: time.sleep(0.0002)
stop.append(1)
thread.join(60)
print(thread.is_alive(), caught[0], len(subprocess._active))
try: print(os.waitpid(-1, os.WNOHANG))
except ChildProcessError: print("no child left")
"""
        )
    )
    assert output == "False 100 0\nno child left\n"


MULTIPROCESSING = (
    STORM
    + """
warnings.simplefilter("default"); warnings.filterwarnings("ignore", message=".*multi-threaded.*")
import multiprocessing
def task(value): return value * value
def tell(queue, name): queue.put((name, works()))
def main():
    context = multiprocessing.get_context(sys.argv[1])
    with Storm():
        queue = context.Queue()
        processes = [context.Process(target=tell, args=(queue, number)) for number in range(3)]
        for process in processes: process.start()
        results = sorted(queue.get(timeout=200) for _ in processes)
        for process in processes: process.join(200)
        assert [process.exitcode for process in processes] == [0, 0, 0]
        assert results == [(0, 3), (1, 3), (2, 3)], results
        with context.Pool(2) as pool: assert pool.map(task, range(10)) == [value * value for value in range(10)]
        import concurrent.futures
        with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
            assert list(pool.map(task, range(5))) == [0, 1, 4, 9, 16]
    queue.close(); queue.join_thread()
    print("all done")
if __name__ == "__main__": main()
"""
)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(method: str, tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(MULTIPROCESSING)
    done = subprocess.run([sys.executable, str(path), method], capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stdout, done.stderr) == (0, "all done\n", "")


def test_exit_while_threads_are_interrupted() -> None:
    """Finalisation with daemon threads under fire: no crash, no hang, no message."""
    script = STORM + "storm = Storm(4); storm.__enter__()\nwhile not all(storm.caught): time.sleep(0.0005)\nprint('bye')"
    for _ in range(5):
        assert run_script(script) == "bye\n"


#: What is blocked, pending, ignored and caught, to begin with. libc keeps two signals for itself, 32 and 33.
SIGNALS = """
def signals():
    with open("/proc/self/status") as file: lines = dict(line.split(":", 1) for line in file)
    return [int(lines[name], 16) & ~(3 << 31) for name in ("SigBlk", "SigPnd", "ShdPnd", "SigIgn", "SigCgt")]
signals_at_first = signals()
"""
NEW_IMAGE = (
    SIGNALS
    + "import sys\nassert str(signals_at_first) == sys.argv[1], (signals_at_first, sys.argv[1])\n"
    + STORM
    + "print('replaced', works())"
)


@pytest.mark.parametrize("number", ["URG", "USR1"])
def test_exec_from_a_worker(number: str) -> None:
    """It is interrupted all the while. The new image finds signals as the old one did, and interrupts a thread of its own;
    a late wake-up would end it where that is USR1.
    """
    output = run_script(
        SIGNALS
        + STORM
        + """
def body():
    caught = 0
    with it.deliver_on_blocking():
        begun.append(1)
        while True:
            try:
                if caught > 10: os.execv(sys.executable, [sys.executable, "-c", sys.argv[1], str(signals_at_first)])
                time.sleep(SLEEP)
            except it.ThreadInterrupted: caught += 1
storm = Storm(); storm.__enter__()
begun = []
thread = threading.Thread(target=body, daemon=True); thread.start()
while not begun: time.sleep(0.001)
def interrupts():
    while True: it.interrupt(thread)
threading.Thread(target=interrupts, daemon=True).start()
thread.join()
""",
        NEW_IMAGE,
        env={"INTERRUPTIBLE_SIGNAL": number},
    )
    assert output == "replaced 3\n"


@pytest.mark.skipif(not hasattr(__import__("os"), "forkpty"), reason="no forkpty here")
def test_forkpty() -> None:
    output = run_script(
        quiet_fork(
            """
fds = []
def fork():
    pid, fd = os.forkpty(); fds.append(fd); return pid
with Storm():
    print([child_of(fork, works) for _ in range(5)])
"""
        )
    )
    assert output == f"{[3] * 5}\n"
