"""Beside other preloaded libraries, and in programs that are no Python."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from hostile_support import survives
from interruptible_threading import _preload, status
from support import GUARD, absent, c_compiler


def beside(other: str, order: str) -> dict[str, str]:
    """Before or behind ours in the variable; alone where ours is bound late."""
    ours = [path for path in os.environ.get(_preload.VARIABLE, "").split(os.pathsep) if path]
    both = [other, *ours] if order == "before" else [*ours, other]
    return {_preload.VARIABLE: os.pathsep.join(both)}


@pytest.fixture(scope="module")
def jemalloc() -> str:
    found = sorted(Path("/usr/lib").glob("*/libjemalloc.so.2"))
    if not found:
        absent("libjemalloc2 is not installed")
    return str(found[0])


@pytest.fixture(scope="module")
def asan() -> str:
    compiler = shutil.which("gcc")
    path = "" if compiler is None else subprocess.check_output([compiler, "-print-file-name=libasan.so"], text=True).strip()
    if not os.path.isabs(path):
        absent("gcc's AddressSanitizer is not installed")
    return os.path.realpath(path)  # the name that the dynamic linker knows


LOADED = """
import warnings
assert any({!r} in line for line in open("/proc/self/maps")), "it is not loaded"
for _ in range(5): works()
crowd = Crowd()
blocks = []
def allocates():
    with deliver_on_blocking():
        while not stop:
            blocks.append(bytearray(100_000))
            del blocks[:-50]
            threading.Thread(target=lambda: blocks.append([object() for _ in range(1000)])).start()
stop = []
busy = threading.Thread(target=allocates, daemon=True); busy.start()
for _ in range(10): crowd.interrupt()
stop.append(True)
busy.join()
crowd.finish()
assert subprocess.run(["sh", "-c", "echo out; exit 3"], capture_output=True).stdout == b"out\\n"
warnings.simplefilter("ignore")  # of threads in a process that forks: that is the point
pid = os.fork()
if pid == 0:
    works()
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
"""


@pytest.mark.parametrize("order", ["before", "behind"])
def test_another_allocator(order: str, jemalloc: str) -> None:
    survives(LOADED.format("libjemalloc"), env=beside(jemalloc, order))


def test_address_sanitizer(asan: str) -> None:
    """It comes first and wraps many of the calls that ours wraps: it calls ours."""
    survives(LOADED.format("libasan"), env={**beside(asan, "before"), "ASAN_OPTIONS": "detect_leaks=0"})


@pytest.fixture(scope="module")
def no_threads(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("native") / "libnothreads.so"
    source = Path(__file__).with_name("native") / "no_threads.c"
    subprocess.run([*c_compiler(), "-D_GNU_SOURCE", "-shared", "-fPIC", "-o", path, source], check=True)
    return str(path)


def test_no_thread_to_be_had(no_threads: str) -> None:
    """Who waits is woken all the same; who computes is interrupted when the monitor can be started, and status() says so."""
    survives(
        """
threads = ctypes.CDLL(sys.argv[1])
caught = []
def loops():
    try:
        while True: pass
    except ThreadInterrupted as error: caught.append(error.interrupt_id)
looping = threading.Thread(target=loops, daemon=True); looping.start()
crowd = Crowd()
until(lambda: not status()["monitor"], lambda: "it has nothing to do")
threads.refuse_threads(1)
handle = interrupt(looping)
assert not handle.wait(0.1) or sys.version_info < (3, 12)  # up to 3.11 who interrupts may have it look by itself
def sleeps(waiter):  # one that is only about to would need its wake-up repeated
    with open(f"/proc/self/task/{waiter.native_id}/stat") as file: return file.read().rpartition(")")[2].split()[0] == "S"
until(lambda: all(map(sleeps, crowd.waiters)), lambda: "they sleep")
crowd.interrupt()
found = status()
assert (found["monitor"], found["monitor_error"]) == (False, os.strerror(11)), found
assert len(found["problems"]) == 1 and "the monitor thread cannot be started" in found["problems"][0], found
threads.refuse_threads(0)
assert handle.wait(GUARD), handle.explain()
looping.join(GUARD)
assert caught == [handle.id]
assert status()["problems"] == []
crowd.finish()
works()
""",
        no_threads,
        env=beside(no_threads, "before"),
    )


#: A program that is no Python, and what it reads.
PROGRAMS = {
    "pipeline": "seq 20000 | sort --parallel=2 -R --random-source=/bin/sh | sort -n | cat | cksum",
    "background": "for i in 1 2 3 4 5; do (sleep 0.0$i; exit $i) & done; for i in 1 2 3 4 5; do wait -n 2>/dev/null || true; done; echo $?",
    "status": "sh -c 'exit 7'",
    "killed": "sh -c 'kill -TERM $$'; echo $?; kill -KILL $$",
    "trap": "trap 'echo trapped' URG; kill -URG $$; kill -URG $$; echo over",
    "ignored": "trap '' URG; sh -c 'kill -URG $$; echo alive'",
    "fifo": "mkfifo f; (echo through > f) & cat < f; wait",
    "tar": "mkdir d; for i in 1 2 3; do head -c 100000 /bin/sh > d/$i; done; tar cf - d | tar tvf - | awk '{print $3, $6}'; tar cf x.tar d && tar df x.tar",
    "timeout": "timeout 0.05 sleep 100; echo $?",
    "missing": "cat /no/such/file; echo $?; sort < /no/such/file; echo $?",
    "descriptors": "exec 3>&1 4</dev/null 5>file; echo a >&3; echo b >&5; exec 3>&- 4<&- 5>&-; cat file; ls /proc/self/fd | wc -l",
    "closed": "cat <&- ; echo $?; (echo a >&-) 2>&1; echo $?",
    "stdin": "cat; cat",
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_other_programs(program: str, tmp_path: Path) -> None:
    """The same output, errors and status with the library as without."""
    plain = {name: value for name, value in os.environ.items() if name != _preload.VARIABLE}
    results = []
    for number, environ in enumerate([plain, {**plain, _preload.VARIABLE: status()["library"]}]):
        folder = tmp_path / str(number)
        folder.mkdir()
        done = subprocess.run(
            ["sh", "-c", PROGRAMS[program]], cwd=folder, env=environ, input=b"line\n" * 100_000, capture_output=True, timeout=GUARD
        )
        results.append((done.returncode, done.stdout, done.stderr))
    assert results[0] == results[1], shlex.quote(PROGRAMS[program])
    assert results[0][1] or results[0][0], "it does something"
