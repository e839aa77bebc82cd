"""Makes the attribute ``threading.Thread`` depend on the thread that asks.

The name stays in the module's dictionary, with the plain class: threading's own code (Timer.__init__, the main and dummy
threads), pickle by that name outside interruptible threads, and everything that reads ``threading.__dict__`` find it there.
Only attribute access is answered by a property, on a subclass of the module type that the module is given for the time.
``from threading import Thread`` is attribute access too.
"""

from __future__ import annotations

import importlib
import threading
from threading import Thread
from types import ModuleType
from typing import Any, Callable

_choose: Callable[[], type[Thread]] | None = None
# For a type checker a module is no object whose class can be set.
_threading: Any = threading


class _ThreadingModule(ModuleType):
    @property
    def Thread(self) -> Any:
        try:
            stored = vars(self)["Thread"]
        except KeyError:
            raise AttributeError(f"module {self.__name__!r} has no attribute 'Thread'") from None
        # A mock or another library's class that somebody put there is what everybody is to get.
        return _choose() if stored is Thread and _choose is not None else stored

    @Thread.setter
    def Thread(self, value: Any) -> None:
        vars(self)["Thread"] = value

    @Thread.deleter
    def Thread(self) -> None:
        if vars(self).pop("Thread", None) is None:
            raise AttributeError("Thread")

    # Not the module type's own: from 3.14 on the interpreter takes whatever has that for a plain module, and reads the
    # dictionary without asking the property.
    __getattribute__ = object.__getattribute__

    def __reduce__(self) -> tuple[Any, ...]:
        # cloudpickle and dill know modules by their exact type, and would fail on this one.
        return importlib.import_module, (self.__name__,)


# What people see in a repr or an error message is a module.
_ThreadingModule.__name__ = _ThreadingModule.__qualname__ = "module"


def install(choose: Callable[[], type[Thread]]) -> None:
    """Let ``choose`` say what threading.Thread is. Nothing happens when another library has changed the module's type."""
    global _choose
    if type(threading) is ModuleType:
        _threading.__class__ = _ThreadingModule
        _choose = choose


def uninstall() -> None:
    """Make threading an ordinary module again."""
    global _choose
    _choose = None
    if type(threading) is _ThreadingModule:
        _threading.__class__ = ModuleType
