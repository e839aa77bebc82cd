"""Runs at the start of every Python below `interruptible run` and `interruptible exec`.

Installs the patches, then runs the sitecustomize module that this one hides, if there is one. A Python that the package was
not built for starts as if nothing had been said. So this file must run on any Python.
"""
# ruff: noqa: C419, UP031

import os
import sys

_here = os.path.dirname(os.path.abspath(__file__))
_package = os.path.dirname(_here)
_name = os.path.basename(_package)

# The directory has served its purpose: the program sees the path it would have had. PYTHONPATH keeps it, for children.
sys.path[:] = [entry for entry in sys.path if entry != _here]
sys.path_importer_cache.pop(_here, None)

if os.environ.get("INTERRUPTIBLE_DISABLE", "0") in ("", "0") and sys.version_info >= (3, 9):
    from importlib.machinery import EXTENSION_SUFFIXES as _suffixes

    if any([os.path.exists(os.path.join(_package, "_core" + suffix)) for suffix in _suffixes]):
        try:
            if _name not in sys.modules:
                # Not by sys.path: it must be this copy, which the preloaded library belongs to, wherever it lies.
                import importlib.util as _util

                _spec = _util.spec_from_file_location(_name, os.path.join(_package, "__init__.py"), submodule_search_locations=[_package])
                assert _spec is not None and _spec.loader is not None
                _module = _util.module_from_spec(_spec)
                sys.modules[_name] = _module
                _spec.loader.exec_module(_module)
            import importlib as _importlib

            _importlib.import_module(_name + "._startup").install()
        except Exception:
            for _loaded in [key for key in sys.modules if key == _name or key.startswith(_name + ".")]:
                del sys.modules[_loaded]
            _error = sys.exc_info()[1]
            # A subinterpreter has a start of its own, and takes no part: the program need not hear of it.
            _others = None
            for _other in ["_interpreters", "_xxsubinterpreters"]:
                try:
                    _others = _others or __import__(_other)
                except ImportError:
                    continue
            if _others is None or _others.get_current() == _others.get_main():
                sys.stderr.write("interruptible: the patches are not installed: %s\n" % (_error,))

# Importing it under the name that is being imported right now: the import system returns what is left under the name.
_ourselves = sys.modules.pop("sitecustomize", None)
try:
    import sitecustomize  # type: ignore[import-not-found, unused-ignore]  # noqa: F401
except ImportError:
    # Only its absence is no error. (Python 2 does not say which module is missing.)
    if getattr(sys.exc_info()[1], "name", "sitecustomize") != "sitecustomize":
        raise
finally:
    if _ourselves is not None:
        sys.modules.setdefault("sitecustomize", _ourselves)
