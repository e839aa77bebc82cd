#!/usr/bin/env python3
"""How fast threads are interrupted, and what the library costs those that are not. Measures; does not pass or fail.

Each measurement is a process of its own, and those that are compared run by turns.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from overhead import INTERRUPT_WAITS
from statistic import median

HERE = Path(__file__).resolve().parent
LAUNCHER = [sys.executable, "-m", "interruptible_threading", "run"]
Json = dict[str, Any]
#: What there is with the library only, and what else of the same process it is compared with.
BESIDE = {
    "check_interrupt()": "empty C call",
    "call under @uninterruptible": "Python call",
    INTERRUPT_WAITS: "call under @uninterruptible",
}


def run(script: str, *arguments: object, library: bool = True) -> Any:
    environ = dict(os.environ)
    if not library:
        environ.pop("LD_PRELOAD", None)
        environ["INTERRUPTIBLE_DISABLE"] = "1"
    command = [*(LAUNCHER if library else [sys.executable]), str(HERE / script), *map(str, arguments)]
    done = subprocess.run(command, env=environ, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def verdict(value: float, most: float) -> str:
    return "meets" if value <= most else "misses"


# ---- measuring -------------------------------------------------------------------------------------------------------------


def latency(runs: int, rounds: int, loops: int) -> tuple[Json, Json]:
    done = [run("latency.py", rounds, loops) for _ in range(runs)]
    parked: Json = {}
    for name, first in done[0]["parked"].items():
        same = [one["parked"][name] for one in done]
        keys = ("p50", "p99", "floor_p50", "floor_p99", "ratio")
        parked[name] = {"call": first["call"], **{key: median([one[key] for one in same]) for key in keys}}
        p50, ratio = parked[name]["p50"], parked[name]["ratio"]
        parked[name]["target"] = "<= 500 us" if name.startswith("TLS") else "<= 1.5x"
        parked[name]["verdict"] = verdict(p50, 500.0) if name.startswith("TLS") else verdict(ratio, 1.5)
    running: Json = {}
    for name in done[0]["loops"]:
        running[name] = {key: median([one["loops"][name][key] for one in done]) for key in ("p50", "p99")}
        # Up to 3.12 a loop of C calls gives up the GIL only when asked to: a few switch intervals.
        most = 30_000.0 if "upper" in name and sys.version_info < (3, 13) else 200.0
        running[name].update(target=f"<= {most:.0f} us", verdict=verdict(running[name]["p50"], most))
    return parked, running


def overhead(runs: int, scale: float) -> Json:
    ours, plain = [], []
    for _ in range(runs):
        ours.append(run("overhead.py", scale))
        plain.append(run("overhead.py", scale, library=False))
    results: Json = {}
    for name in ours[0]:
        mine = median([one[name] for one in ours])
        if name in BESIDE:
            base = median([one[BESIDE[name]] for one in ours])
            ratio = median([one[name] / one[BESIDE[name]] for one in ours])
        else:
            base = median([one[name] for one in plain])
            ratio = median([a[name] / b[name] for a, b in zip(ours, plain)])
        results[name] = {"ns": mine, "base_ns": base, "ratio": ratio}
    for name, most in (("with lock", 1.25), ("check_interrupt()", 1.5), (INTERRUPT_WAITS, 2.0)):
        results[name].update(target=f"<= {most}x", verdict=verdict(results[name]["ratio"], most))
    return results


# ---- showing ---------------------------------------------------------------------------------------------------------------


def show(title: str, head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(row[at]) for row in [head, *rows]) for at in range(len(head))]
    print(f"\n{title}\n")
    for row in [head, *rows]:
        # Names to the left, numbers to the right.
        cells = [
            cell.ljust(width) if at == 0 or not any(map(str.isdigit, cell)) else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths))
        ]
        print("  ".join(cells).rstrip())


def us(value: float) -> str:
    return f"{value:.1f}"


def show_all(report: Json) -> None:
    parked = report["parked"]
    show(
        f"Parked threads: microseconds from interrupt() to the except clause, beside Event.set(); median of {report['runs']} runs",
        ("call", "parked in", "p50", "p99", "set p50", "set p99", "ratio", "target", "verdict"),
        [
            (
                name,
                r["call"],
                us(r["p50"]),
                us(r["p99"]),
                us(r["floor_p50"]),
                us(r["floor_p99"]),
                f"{r['ratio']:.2f}",
                r["target"],
                r["verdict"],
            )
            for name, r in parked.items()
        ],
    )
    show(
        "Running threads: microseconds from interrupt() to the except clause",
        ("loop", "p50", "p99", "target", "verdict"),
        [(name, us(r["p50"]), us(r["p99"]), r["target"], r["verdict"]) for name, r in report["loops"].items()],
    )
    show(
        "Nobody interrupted: nanoseconds, with the library and without (or beside another that is like it)",
        ("what", "with", "without", "ratio", "target", "verdict"),
        [
            (name, f"{r['ns']:.0f}", f"{r['base_ns']:.0f}", f"{r['ratio']:.2f}", r.get("target", ""), r.get("verdict", ""))
            for name, r in report["overhead"].items()
        ],
    )
    show(
        "Clients built on C libraries, and look-ups: microseconds from interrupt() to the except clause",
        ("client", "parked in", "p50", "worst", "target", "verdict"),
        [
            (name, r["call"], us(r["p50"]), us(r["worst"]), "<= 5000 us", verdict(r["worst"], 5000.0))
            for name, r in report["clients"].items()
        ],
    )
    many = report["many"]
    print(f"\n{many['threads']} parked threads\n")
    print(f"voluntary context switches in {many['seconds']:.0f} s: {many['idle_switches']} (target 0: {verdict(many['idle_switches'], 0)})")
    for key, what in (("interrupt", "interrupt() each"), ("event_set", "Event.set() each")):
        r = many[key]
        print(
            f"{what}: calls done after {r['calls_ms']:.1f} ms, half of the threads run after {r['p50'] / 1e3:.1f} ms, all after "
            f"{r['all_ms']:.1f} ms"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the time, and less to be trusted")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the numbers to FILE too")
    options = parser.parse_args()
    runs = 2 if options.quick else 5
    report: Json = {
        "python": platform.python_version(),
        "implementation": sys.version,
        "machine": platform.platform(),
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
        "runs": runs,
    }
    print(f"Python {report['python']}, {report['machine']}, {report['cpus']} CPUs, load {report['load']:.1f}")
    if report["load"] > 0.5:
        print("The machine is not idle: latencies will be higher, and depend on what else runs.")
    report["parked"], report["loops"] = latency(runs, 50 if options.quick else 300, 10 if options.quick else 50)
    report["overhead"] = overhead(runs, 0.1 if options.quick else 1.0)
    report["many"] = run("many.py", 1000, 2 if options.quick else 10)
    report["clients"] = run("clients.py", 5 if options.quick else 20)
    show_all(report)
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
