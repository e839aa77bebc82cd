"""What is active in this process, and why something is not."""

from __future__ import annotations

from typing import Any

from . import _core, _patches


def status() -> dict[str, Any]:
    """What the C extension reports, plus ``patches`` (installed or not) and ``problems``, a list of sentences.

    An empty ``problems`` means: every blocking call that this interpreter has is covered.
    """
    report = dict(_core.status())
    report["patches"] = _patches.installed()
    problems = []
    green = _patches.green_threads()
    if green is not None:
        problems.append(f"{green} has replaced this process's threads by its own; install_patches() refuses")
    if not _patches.installed():
        problems.append("the patches are not installed: call install_patches(), or start with `interruptible run`")
    injection = str(report.get("injection", ""))
    if injection.startswith("off"):
        problems.append(f"code between blocking calls cannot be interrupted: {injection}")
    if report["monitor_error"] is not None:
        problems.append(f"the monitor thread cannot be started, so only threads that wait are interrupted: {report['monitor_error']}")
    problems += [f"{name} cannot be interrupted: {shape}" for name, shape in _core.rows() if shape.startswith("unknown")]
    report["problems"] = problems
    return report
