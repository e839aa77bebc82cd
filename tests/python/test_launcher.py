"""`python -m interruptible_threading run|exec|status`: the program's own argv, exit status, signals and streams."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import interruptible_threading
import pytest
from interruptible_threading import _preload
from support import PATIENCE, absent, c_compiler

COMMAND = [sys.executable, "-m", "interruptible_threading"]
#: Interrupts a thread that is parked in a lock, and says how it went.
PROGRAM = """
import os, sys, threading
def state():
    import interruptible_threading as it
    from interruptible_threading import _core
    lock = threading.Lock(); lock.acquire(); out = []
    def body():
        try: lock.acquire()
        except it.ThreadInterrupted: out.append("interrupted")
    thread = threading.Thread(target=body, daemon=True); thread.start()
    while not (_core.park_info(thread.ident) or {}).get("parked"): pass
    it.interrupt(thread); thread.join(60)
    return [it.status()["preloaded"], it.status()["patches"], *out]
"""
ACTIVE = "[True, True, 'interrupted']"
TELL = PROGRAM + "print(state())\n"


def clean_environment(**extra: str) -> dict[str, str]:
    """This process's environment without what the tests themselves were started with."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("INTERRUPTIBLE", "ITR_TEST"))}
    _preload.remove(environ)
    return {**environ, **extra}


def launch(
    *arguments: str, input: str = "", command: list[str] = COMMAND, env: Any = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*command, *arguments], input=input, env=env or clean_environment(), capture_output=True, text=True, timeout=PATIENCE, **options
    )


def output(done: subprocess.CompletedProcess[str]) -> str:
    assert (done.returncode, done.stderr) == (0, ""), f"exit status {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture
def script(tmp_path: Path) -> Any:
    def write(text: str, name: str = "program.py") -> str:
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write


def test_run_is_active(script: Any) -> None:
    assert output(launch("run", script(TELL))) == ACTIVE + "\n"


def test_without_the_launcher_nothing_is_active(script: Any) -> None:
    text = "import sys; print('interruptible_threading' in sys.modules)"
    assert output(launch(script(text), command=[sys.executable])) == "False\n"


def test_argv_main_and_stdin(script: Any, tmp_path: Path) -> None:
    text = "import sys\nprint(sys.argv, __name__, __file__, sys.path[0], sys.stdin.read())"
    path = script(text)
    arguments = ["one", "--no-children", "-m", "", "two words", "--", "-x"]
    through = launch("run", path, *arguments, input="line 1\nline 2")
    plain = launch(path, *arguments, input="line 1\nline 2", command=[sys.executable])
    assert output(through) == output(plain)
    assert "'two words'" in through.stdout


def test_sys_path_is_the_programs_own(script: Any) -> None:
    path = script("import sys\nprint(sys.path)")
    assert output(launch("run", path)) == output(launch(path, command=[sys.executable]))


def test_module(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("")
    (tmp_path / "package" / "__main__.py").write_text(TELL + "print(sys.argv[1:], __package__, os.path.basename(sys.argv[0]))")
    done = launch("run", "-m", "package", "-m", "x", cwd=tmp_path)
    assert output(done).splitlines() == [ACTIVE, "['-m', 'x'] package __main__.py"]
    assert output(launch("run", "-mpackage", cwd=tmp_path)).startswith(ACTIVE)


@pytest.mark.parametrize("dashes", [["--"], []])
def test_exec(script: Any, dashes: list[str]) -> None:
    assert output(launch("exec", *dashes, sys.executable, script(TELL), "-x")) == ACTIVE + "\n"


def test_exec_reaches_a_python_behind_a_shell(script: Any) -> None:
    done = launch("exec", "--", "sh", "-c", '"$0" "$1" && echo done', sys.executable, script(TELL))
    assert output(done) == ACTIVE + "\ndone\n"


def test_exec_of_what_is_no_python() -> None:
    assert output(launch("exec", "--", "cat", input="through the pipe")) == "through the pipe"
    assert output(launch("exec", "echo", "--no-children", "-x")) == "--no-children -x\n"


@pytest.mark.parametrize("how", [["run", "SCRIPT"], ["exec", "--", sys.executable, "SCRIPT"]])
@pytest.mark.parametrize("status", [0, 1, 2, 3, 42, 255])
def test_exit_status(how: list[str], status: int, script: Any) -> None:
    path = script(f"import sys\nsys.exit({status})")
    assert launch(*[path if word == "SCRIPT" else word for word in how]).returncode == status


def test_traceback_is_the_programs_own(script: Any) -> None:
    path = script("def f():\n    raise KeyError('why')\nf()\n")
    through, plain = launch("run", path), launch(path, command=[sys.executable])
    assert (through.returncode, through.stderr) == (plain.returncode, plain.stderr)
    assert through.returncode == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGABRT, signal.SIGPIPE])
@pytest.mark.parametrize("how", ["run", "exec"])
def test_death_by_signal(number: int, how: str, script: Any) -> None:
    reset = "" if number == signal.SIGKILL else f"signal.signal({int(number)}, signal.SIG_DFL)"
    path = script(f"import os, signal\n{reset}\nos.kill(os.getpid(), {int(number)})")
    assert launch(*(["run", path] if how == "run" else ["exec", "--", sys.executable, path])).returncode == -number


def test_sigint_is_keyboard_interrupt(script: Any) -> None:
    path = script("import time\ntry:\n    print('ready', flush=True)\n    time.sleep(1000)\nexcept KeyboardInterrupt: print('Ctrl-C')")
    with subprocess.Popen([*COMMAND, "run", path], stdout=subprocess.PIPE, env=clean_environment(), text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == "Ctrl-C\n"
    assert process.returncode == 0


def test_pid_is_kept(script: Any) -> None:
    path = script("import os\nprint(os.getpid())")
    with subprocess.Popen([*COMMAND, "run", path], stdout=subprocess.PIPE, env=clean_environment(), text=True) as process:
        assert process.stdout is not None
        assert int(process.stdout.read()) == process.pid


def test_interpreter_options_are_passed_on(script: Any) -> None:
    path = script("import sys, warnings\nprint(sys.flags.optimize, sys.flags.dont_write_bytecode, sys.flags.dev_mode, sys.warnoptions)")
    command = [sys.executable, "-O", "-B", "-X", "dev", "-W", "ignore::UserWarning", "-m", "interruptible_threading"]
    through, plain = launch("run", path, command=command), launch(path, command=command[:-2])
    assert output(through) == output(plain)


def test_program_may_install_again(script: Any) -> None:
    text = """
import interruptible_threading as it
it.install_patches(interrupt_exc=KeyError)
try: it.install_patches()
except ValueError as error: print(error)
import threading
print(it.interrupt(threading.Thread()).exc)
it.uninstall_patches()
print(it.status()["patches"])
"""
    assert output(launch("run", script(text))).splitlines() == ["patches already installed", "<class 'KeyError'>", "False"]


CHILDREN = (
    PROGRAM
    + """
import multiprocessing, subprocess
CHILD = "import sys; it = sys.modules.get('interruptible_threading'); print(it is not None and it.status()['patches'])"
if __name__ == "__main__":
    print(state())
    sys.stdout.flush()
    subprocess.run([sys.executable, "-c", CHILD], check=True)
    os.system(f'"{sys.executable}" -c "{CHILD}"')
    print([key for key in os.environ if key == "INTERRUPTIBLE_CHILDREN" or "libinterruptible" in os.environ[key]])
    print("_site" in os.environ.get("PYTHONPATH", ""))
"""
)


def test_children_take_part(script: Any) -> None:
    assert output(launch("run", script(CHILDREN))).splitlines() == [ACTIVE, "True", "True", "['LD_PRELOAD']", "True"]


@pytest.mark.parametrize("how", [["run", "--no-children"], ["exec", "--no-children", "--", sys.executable]])
def test_no_children(how: list[str], script: Any) -> None:
    assert output(launch(*how, script(CHILDREN))).splitlines() == [ACTIVE, "False", "False", "[]", "False"]


def test_no_children_keeps_what_others_have_set(script: Any, tmp_path: Path) -> None:
    """Only our own entries are taken out of the variables."""
    compiler = c_compiler()
    other = tmp_path / "libother.so"
    (tmp_path / "other.c").write_text("int other;")
    subprocess.run([*compiler, "-shared", "-fPIC", "-o", other, tmp_path / "other.c"], check=True)
    text = "import os\nprint(os.environ.get('LD_PRELOAD'), os.environ.get('PYTHONPATH'))"
    environ = clean_environment(PYTHONPATH=os.pathsep.join(["/somewhere", os.environ.get("PYTHONPATH", "")]), LD_PRELOAD=str(other))
    assert output(launch("run", "--no-children", script(text), env=environ)).split() == [str(other), environ["PYTHONPATH"]]


def test_users_sitecustomize_runs(script: Any, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text("import sys\nsys.user_site_ran = [__file__, 'interruptible_threading' in sys.modules]")
    path = script("import sys, sitecustomize\nprint(sys.user_site_ran, sitecustomize.__file__)")
    own = str(site / "sitecustomize.py")
    environ = clean_environment(PYTHONPATH=os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]))
    assert output(launch("run", path, env=environ)) == f"{[own, True]} {own}\n"


def test_subinterpreters_start_as_ever(script: Any) -> None:
    """They take no part, and nobody is told of it."""
    path = script("""
try: import _interpreters as interpreters
except ImportError: import _xxsubinterpreters as interpreters
number = interpreters.create()
failed = interpreters.run_string(number, "import os, time; time.sleep(0.001); os.write(1, b'inside\\\\n')")
interpreters.destroy(number)
print(failed)
""")
    if not any(map(find_spec, ["_interpreters", "_xxsubinterpreters"])):
        absent("no module that makes interpreters")
    assert output(launch("run", path)) == "inside\nNone\n"


def test_failing_sitecustomize_is_reported_as_ever(script: Any, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text("import no_such_module_at_all")
    environ = clean_environment(PYTHONPATH=os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]))
    done = launch("run", script("print('runs')"), env=environ)
    assert done.stdout == "runs\n"
    assert "no_such_module_at_all" in done.stderr
    assert done.returncode == 0


def test_disabled(script: Any) -> None:
    text = "import sys; print('interruptible_threading' in sys.modules)"
    assert output(launch("run", script(text), env=clean_environment(INTERRUPTIBLE_DISABLE="1"))) == "False\n"


def test_wakeup_signal_can_be_chosen(script: Any) -> None:
    text = PROGRAM + "import interruptible_threading as it, signal\nprint(state(), it.status()['signal'] == signal.SIGUSR2)"
    for value in ("SIGUSR2", str(int(signal.SIGUSR2))):
        assert output(launch("run", script(text), env=clean_environment(INTERRUPTIBLE_SIGNAL=value))) == ACTIVE + " True\n"


# ---- errors: one line, exit status 2 ------------------------------------------------------------------------------------------------


WRONG: dict[str, tuple[list[str], str]] = {
    "nothing": ([], "which command"),
    "unknown command": (["walk"], "unknown command walk"),
    "unknown option": (["--walk"], "unknown option --walk"),
    "run nothing": (["run"], "which script"),
    "run -m nothing": (["run", "-m"], "which module"),
    "run unknown option": (["run", "--walk", "x.py"], "unknown option --walk"),
    "run missing script": (["run", "/no/such/script.py"], "no such script: /no/such/script.py"),
    "exec nothing": (["exec"], "which command"),
    "exec -- nothing": (["exec", "--"], "which command"),
    "exec unknown option": (["exec", "--walk", "true"], "unknown option --walk"),
    "exec missing command": (["exec", "--", "no-such-command-at-all"], "command not found: no-such-command-at-all"),
    "exec missing file": (["exec", "--", "/no/such/command"], "no such file: /no/such/command"),
    "exec no executable": (["exec", "--", __file__], "not an executable file"),
    "exec a directory": (["exec", "--", "/tmp/"], "not an executable file"),
    "status arguments": (["status", "x"], "no arguments"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_command_line(name: str) -> None:
    arguments, message = WRONG[name]
    done = launch(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("interruptible: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr


def compile_static(tmp_path: Path) -> str:
    source, program = tmp_path / "static.c", tmp_path / "static"
    source.write_text("int main(void) { return 0; }")
    if subprocess.run([*c_compiler(), "-static", "-o", program, source], capture_output=True).returncode:
        absent("the C compiler cannot link statically")
    return str(program)


def test_static_program_is_refused(tmp_path: Path) -> None:
    program = compile_static(tmp_path)
    assert subprocess.run([program]).returncode == 0
    done = launch("exec", "--", program)
    assert (done.returncode, done.stdout) == (2, "")
    assert "statically linked" in done.stderr
    assert done.stderr.count("\n") == 1


def test_set_user_id_program_is_refused(tmp_path: Path) -> None:
    program = tmp_path / "program"
    shutil.copy("/bin/true", program)
    program.chmod(0o4755)
    done = launch("exec", "--", str(program))
    assert done.returncode == 2
    assert "set-user-ID" in done.stderr


@pytest.mark.parametrize("option", ["-I", "-E", "-S"])
def test_run_needs_its_start_up_hook(option: str, script: Any) -> None:
    home = str(Path(interruptible_threading.__file__).parent.parent)
    start = f"import sys; sys.path.insert(0, {home!r}); import interruptible_threading.launcher as l; sys.exit(l.main(sys.argv[1:]))"
    done = launch("run", script(""), command=[sys.executable, option, "-c", start])
    assert done.returncode == 2
    assert "start-up hook" in done.stderr


@pytest.mark.parametrize("option", ["-I", "-E", "-S"])
def test_exec_warns_of_a_deaf_python(option: str, script: Any) -> None:
    done = launch("exec", "--", sys.executable, option, script("print('runs')"))
    assert (done.returncode, done.stdout) == (0, "runs\n")
    assert done.stderr.count("\n") == 1
    assert option in done.stderr
    assert "install_patches" in done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["help"]])
def test_help(arguments: list[str]) -> None:
    text = output(launch(*arguments))
    assert "usage: interruptible run" in text
    assert "INTERRUPTIBLE_SIGNAL" in text


def test_version_and_status() -> None:
    assert output(launch("--version")) == f"interruptible-threading {interruptible_threading.__version__}\n"
    done = launch("exec", "--", *COMMAND, "status")
    assert "preloaded: True" in output(done)
    assert "patches: True" in done.stdout


LOOK = """
import os, sys
names = {"_ctypes", "_multiprocessing", "_queue", "_socket", "_ssl", "select", "fcntl", "_posixsubprocess"}
print(sorted(names & set(sys.modules)), [fd for fd in range(64) if os.path.exists(f"/proc/self/fd/{fd}")])
"""
LATER = """
from interruptible_threading import _core
import ctypes, fcntl, multiprocessing.synchronize, queue, select, socket, ssl, subprocess
print([name for name, state in _core.rows() if state == "not imported"])
"""


def test_nothing_is_imported_for_its_calls() -> None:
    """The modules whose calls are swapped come when the program wants them, and so do the descriptors that some of them
    keep open (libffi's own file, for _ctypes)."""
    plain = subprocess.run([sys.executable, "-c", LOOK], env=clean_environment(), stdout=subprocess.PIPE, text=True, check=True)
    assert output(launch("exec", sys.executable, "-c", LOOK)) == plain.stdout
    assert output(launch("exec", sys.executable, "-c", LATER)) == "[]\n"
