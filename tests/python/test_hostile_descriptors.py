"""The program closes every descriptor, or has none left: its threads are interrupted as ever, and its files are its own."""

from __future__ import annotations

import pytest
from hostile_support import survives

#: Ways to close everything but what the program itself goes on with, and its own files under the numbers that are free then.
CLOSING = """
import tempfile
libc = ctypes.CDLL(None, use_errno=True)
WAYS = {
    "closerange": os.closerange,
    "close_range": lambda low, high: libc.close_range(low, high - 1, 0),
    "system call": lambda low, high: libc.syscall(436, low, high - 1, 0),
    "one by one": lambda low, high: [libc.close(fd) for fd in range(low, high)],
}
close, (file, path) = WAYS[sys.argv[1]], tempfile.mkstemp()
os.unlink(path)
CONTENT = b"the program's own"
os.write(file, CONTENT)
inode = os.fstat(file).st_ino

def close_all_but(*keep):
    low = 3
    for fd in sorted({*keep, file}) + [4096]:
        if low < fd: close(low, fd)
        low = fd + 1

def own_files(count=200):
    "One under each number that has become free, the least first."
    return [os.dup(file) for _ in range(count)]

def check(own):
    for fd in own:
        assert os.fstat(fd).st_ino == inode, fd
    assert os.pread(file, 999, 0) == CONTENT
    assert os.lseek(file, 0, os.SEEK_CUR) == len(CONTENT)  # nobody has read it, either
"""

WAYS = ["closerange", "close_range", "system call", "one by one"]


@pytest.mark.parametrize("way", WAYS)
def test_closed_under_parked_threads(way: str) -> None:
    """With their pipes made, and the numbers given to the program's files while they wait."""
    survives(
        CLOSING
        + """
crowd = Crowd()
crowd.interrupt()
for turn in range(3):
    own = []
    close_all_but(*crowd.fds())
    if turn != 1: own = own_files()  # else the interrupt comes while the numbers are free
    crowd.interrupt()
    own += own_files(50)
    crowd.interrupt()
    check(own)
crowd.finish()
check(own)
works()
check(own)
""",
        way,
    )


@pytest.mark.parametrize("way", WAYS)
def test_closed_before_they_park(way: str) -> None:
    """The pipes of threads that have ended, kept for others, are gone without a word."""
    survives(
        CLOSING
        + """
for turn in range(3):
    works()
    close_all_but()
    own = own_files()
    works()
    check(own)
    for fd in own: os.close(fd)
    close_all_but()
    works()
""",
        way,
    )


def test_closed_while_they_are_interrupted() -> None:
    """Again and again, with no regard to who makes a pipe at that moment."""
    survives(
        CLOSING
        + """
crowd = Crowd()
done = []
def closer():
    while not done:
        close_all_but(*crowd.fds())
        own = own_files(30)
        check(own)
        for fd in own:
            # The library may have lost this race for its number, never the program.
            assert os.fstat(fd).st_ino == inode, fd
            os.close(fd)
def guarded():
    try: closer()
    except BaseException as error: done.append(error)
thread = threading.Thread(target=guarded); thread.start()
for _ in range(30): crowd.interrupt()
assert not done, done
done.append(None)
thread.join()
crowd.interrupt()
crowd.finish()
works()
""",
        "closerange",
    )


EXHAUST = """
import resource
def exhaust():
    "No descriptor is to be had any more."
    taken = []
    try:
        while True: taken.append(os.dup(2))
    except OSError as error: assert error.errno == 24, error
    return taken
def limit(number): resource.setrlimit(resource.RLIMIT_NOFILE, (number, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
"""


def test_no_descriptor_left() -> None:
    """Those that were parked before, those that park then, and those that come after."""
    survives(
        EXHAUST
        + """
limit(200)
before = Crowd()
unparked = [kind() for kind in KINDS]
taken = exhaust()
then = Crowd([lambda kind=kind: kind for kind in unparked])
for _ in range(3):
    before.interrupt()
    then.interrupt()
assert exhaust() == []  # nothing was taken, given back or kept
then.finish()
for fd in taken: os.close(fd)
before.interrupt()
before.finish()
works()
assert len(exhaust()) > 50
"""
    )


def test_limit_below_what_is_in_use() -> None:
    """A limit under the numbers of the pipes that there are: the kernel refuses larger sets, and the calls go on."""
    survives(
        EXHAUST
        + """
crowd = Crowd()
crowd.interrupt()
limit(4)
crowd.interrupt()
new = [simple_queue_get, sleep, lock, lock_timeout]
works(new)
crowd.interrupt()
limit(500)
crowd.interrupt()
crowd.finish()
works()
"""
    )
