"""Beside other preloaded libraries, and in programs that are no Python."""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hostile_support import beside, native, survives
from interruptible_threading import _preload, status
from support import GUARD, Scene, absent, c_compiler


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
    return native("no_threads", tmp_path_factory.mktemp("native"))


def test_no_thread_to_be_had(no_threads: str) -> None:
    """Who waits is woken all the same; who computes is interrupted when the monitor can be started, and status() says so."""
    survives(
        """
threads = ctypes.CDLL(sys.argv[1])
begun, caught = [], []
def loops():
    try:
        begun.append(1)
        while True: pass
    except ThreadInterrupted as error: caught.append(error.interrupt_id)
looping = threading.Thread(target=loops, daemon=True); looping.start()
crowd = Crowd()
until(lambda: begun, lambda: "it loops")
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


@pytest.mark.parametrize("order", ["before", "behind"])
def test_another_wrapper_of_the_same_call(order: str, tmp_path: Path) -> None:
    """Each sees what the program calls, and no call reaches libc past either."""
    counts = native("counts", tmp_path)
    survives(
        """
reads = ctypes.CDLL(sys.argv[1]).reads
r, w = os.pipe()
def one_more():
    before = reads()
    os.write(w, b"x")
    assert os.read(r, 1) == b"x"
    return reads() - before
assert one_more() == 1
got = []
def body():
    try: os.read(r, 1)
    except ThreadInterrupted as error: got.append(error.interrupt_id)
thread = threading.Thread(target=body, daemon=True); thread.start()
until(lambda: (_core.park_info(thread.ident) or {}).get("parked"), lambda: "it waits")
handle = interrupt(thread)
thread.join(GUARD)
assert got == [handle.id], handle.explain()
from interruptible_threading import uninstall_patches
uninstall_patches()
assert one_more() == 1
install_patches()
assert one_more() == 1
works()
""",
        counts,
        env=beside(counts, order),
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


#: Says who runs it, whether the kernel calls that secure, what it was given, which signals it handles, what it has of ours.
SET_USER_ID = r"""
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>
int itr_attach(void) __attribute__((weak));
static void show(const char *file, const char *word) {
    char line[4096];
    FILE *lines = fopen(file, "r");
    while (lines != NULL && fgets(line, sizeof line, lines) != NULL) {
        if (strstr(line, word) != NULL) { fputs(line, stdout); }
    }
}
int main(int argc, char **argv) {
    if (itr_attach != NULL) { itr_attach(); }
    printf("%d %s %d %lu\n", argc, argv[1], getuid() == geteuid(), getauxval(AT_SECURE));
    show("/proc/self/status", "SigCgt");
    show("/proc/self/maps", "libinterruptible");
    return 7;
}
"""


def caught(lines: list[str]) -> int:
    """The signals it handles, but those of libc, 32 and 33."""
    return int(next(line for line in lines if line.startswith("SigCgt")).split()[1], 16) & ~(3 << 31)


@pytest.mark.parametrize("linked", [False, True], ids=["preloaded", "linked"])
def test_set_user_id_program(linked: bool) -> None:
    """The dynamic linker leaves out what is preloaded; what is linked heeds no variable of the caller's."""
    if os.getuid() != 0:
        absent("only root can make a program of root's for others to run")
    nobody = pwd.getpwnam("nobody")
    as_nobody: Any = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    with Scene() as scene:
        folder = Path(scene.folder())
        folder.chmod(0o755)
        shim = folder / "libinterruptible.so"
        shutil.copy(status()["library"], shim)
        shim.chmod(0o755)
        program = folder / "program"
        (folder / "program.c").write_text(SET_USER_ID)
        libraries = ["-Wl,--no-as-needed", shim, f"-Wl,-rpath,{folder}"] if linked else []
        subprocess.run([*c_compiler(), "-D_GNU_SOURCE", "-o", program, folder / "program.c", *libraries], check=True)

        def run(mode: int, **environ: str) -> tuple[list[str], str]:
            program.chmod(mode)
            done = subprocess.run([program, "text"], env=environ, capture_output=True, text=True, timeout=GUARD, **as_nobody)
            assert done.returncode == 7, done
            return done.stdout.splitlines(), done.stderr

        asked = {"INTERRUPTIBLE_SIGNAL": "USR1", **({} if linked else {_preload.VARIABLE: str(shim)})}
        plain, said = run(0o755, **asked)
        assert said == ""
        assert plain[0] == "2 text 1 0"
        assert "libinterruptible" in plain[-1], plain
        assert caught(plain) == 1 << signal.SIGUSR1 - 1
        secure, said = run(0o4755, **asked)
        if secure[0] == "2 text 1 0":
            absent("set-user-ID programs have no effect in the folder for temporary files")
        if linked:
            assert caught(secure) == 1 << signal.SIGURG - 1
        else:
            assert (secure, "") == run(0o4755), "as without it"
            assert len(secure) == 2, secure
        assert secure[0] == "2 text 0 1"
        assert said == "" or "cannot be preloaded" in said
