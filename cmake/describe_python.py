"""Print what the build needs to know about the interpreter that runs this file, as one JSON object.

With an argument, print that fact alone: describe_python.py tag.

The tag names one build of one version, such as 3.13.0-shared or 3.13.5t-static.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import sysconfig


def is_shared() -> bool:
    """Whether the interpreter comes from libpython. Where both kinds are packaged the configuration cannot tell."""
    try:
        with open("/proc/self/maps") as maps:
            return any("/libpython3" in line for line in maps)
    except OSError:
        return bool(sysconfig.get_config_var("Py_ENABLE_SHARED"))


def describe() -> dict[str, object]:
    kind = "shared" if is_shared() else "static"
    include = sysconfig.get_path("include")
    return {
        "version": list(sys.version_info[:3]),
        "implementation": platform.python_implementation(),
        "tag": f"{platform.python_version()}{sys.abiflags}-{kind}",
        "include": include,
        "suffix": sysconfig.get_config_var("EXT_SUFFIX"),
        "headers": os.path.exists(os.path.join(include, "Python.h")),
    }


if __name__ == "__main__":
    print(describe()[sys.argv[1]] if len(sys.argv) > 1 else json.dumps(describe()))
