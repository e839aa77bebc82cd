"""Libraries that come and go: loaded, waited in, interrupted, unloaded, others at the same place."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hostile_support import native, survives
from support import c_compiler

SOURCE = """
#include <errno.h>
#include <poll.h>
#include <unistd.h>
char padding[PADDING];
int by_read(int fd) { char c; return read(fd, &c, 1) == 1 ? c : -errno; }
int by_poll(int fd) { struct pollfd set = {fd, POLLIN, 0}; return poll(&set, 1, -1) == 1 ? by_read(fd) : -errno; }
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Libraries of several sizes, so that they do not all lie alike; some bound at once, whose slots are read-only."""
    compiler = c_compiler()
    folder = tmp_path_factory.mktemp("libraries")
    (folder / "comes.c").write_text(SOURCE)
    for number in range(4):
        options = ["-Wl,-z,now,-z,relro"] if number % 2 else ["-Wl,-z,lazy"]
        command = [*compiler, "-shared", "-fPIC", f"-DPADDING={1 + number * 10_000}", *options]
        subprocess.run([*command, "-o", folder / f"libcomes{number}.so", folder / "comes.c"], check=True)
    return folder


def test_libraries_come_and_go(folder: Path) -> None:
    """Each is told of the interrupt once, which is raised when it is back; what it waited for comes to the next call."""
    survives(
        """
import _ctypes
from interruptible_threading import uninstall_patches
rescan = lambda: (sys.modules.pop("_opcode", None), __import__("_opcode"))  # an import of an extension module
r, w = os.pipe()
crowd = Crowd([sleep, lock, recv, poll])
places = set()
for turn in range(24):
    path = f"{sys.argv[1]}/libcomes{turn % 4}.so"
    library = ctypes.CDLL(path)
    call = (library.by_read, library.by_poll)[turn // 4 % 2]
    places.add(ctypes.cast(call, ctypes.c_void_p).value)
    os.write(w, b"x")
    assert call(r) == ord("x")  # bound late, nobody has looked at it yet
    if turn % 3: rescan()
    else: uninstall_patches(); install_patches()
    got = []
    def body():
        try:
            try: got.append(call(r))
            finally: got.append("back")
            while True: pass
        except ThreadInterrupted as error: got.append(error.interrupt_id)
    thread = threading.Thread(target=body, daemon=True); thread.start()
    until(lambda: (_core.park_info(thread.ident) or {}).get("parked"), lambda: "it waits in the library")
    handle = interrupt(thread)
    thread.join(GUARD)
    assert not thread.is_alive(), (turn, handle.explain())
    assert got == [-4, "back", handle.id], (turn, got)  # EINTR
    os.write(w, b"y")
    assert call(r) == ord("y")
    crowd.interrupt()
    if turn % 4 == 3: rescan()
    del call, body
    _ctypes.dlclose(library._handle)
    if turn % 5 == 0: rescan()
    crowd.interrupt()
assert len(places) < 24, "never at the same place again"
crowd.finish()
works()
""",
        str(folder),
    )


def test_the_linkers_lock_and_ours(tmp_path: Path) -> None:
    """Libraries whose constructors and destructors bind, while the dynamic linker holds its lock, beside threads that are
    interrupted; then forks amid binds: nobody waits for ever, in the children neither.
    """
    binds = native("binds", tmp_path)
    others = [shutil.copy(binds, tmp_path / f"libother{number}.so") for number in range(2)]
    survives(
        """
import warnings
warnings.simplefilter("ignore")  # of threads in a process that forks: that is the point
shim = ctypes.CDLL(status()["library"], mode=ctypes.RTLD_GLOBAL)  # where a constructor finds itr_bind
often = ctypes.CDLL(sys.argv[1])
crowd = Crowd([sleep, lock, recv, poll])
handles = []
def amid(work, then):
    threads = [threading.Thread(target=call, args=arguments, daemon=True) for call, *arguments in work]
    for thread in threads: thread.start()
    while any(thread.is_alive() for thread in threads):
        then()
        time.sleep(0.0005)
def binds_and_interrupts():
    global handles
    shim.itr_bind()
    handles = [interrupt(waiter) for waiter in crowd.waiters]
def forks():
    pid = os.fork()
    if pid == 0:
        signal.alarm(int(GUARD))
        shim.itr_bind()
        os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3, "the child hangs"
amid([(often.load_often, path.encode(), 1000) for path in sys.argv[2:]], binds_and_interrupts)
# What waits outside the wrappers, while they are not bound, could not be interrupted: so they wait inside, and for good. Who
# is parked, but has an interrupt to come, will wait anew.
until(lambda: all(handle.state == "delivered" for handle in handles), lambda: [handle.explain() for handle in handles])
crowd.settle()
amid([(often.bind_often, 1000)] * 2, forks)
shim.itr_bind()
crowd.interrupt()
crowd.finish()
works()
""",
        binds,
        *map(str, others),
    )
