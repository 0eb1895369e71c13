"""The command line: python -m benchmarks [name ...] [--short] [--rounds N] [--server KEY ...] [--into FILE].

`python -m benchmarks plots FILE` draws the plots of a run instead.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path

from .machine import BUILD, RUN, CannotMeasure, compile_tool, describe, versions
from .plots import draw
from .plots import main as plots
from .record import Record
from .report import judged, table
from .rounds import CALM, Size, spare
from .servers import SERVERS, install_programs
from .targets import verdicts
from .workloads import GROUPS, WORKLOADS

NAMES = (*WORKLOADS, *GROUPS)


def main() -> int:
    """Run the workloads, print tables and verdicts; 0 if every target was met."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"workloads, of: {', '.join(NAMES)} (all)")
    parser.add_argument("--short", action="store_true", help="one round, shorter loads: a first impression")
    parser.add_argument("--rounds", type=int, help="how often each measurement is made (3, or 1 with --short)")
    parser.add_argument("--server", action="append", default=[], choices=SERVERS, help="only this one (repeatable)")
    parser.add_argument("--hurry", action="store_true", help="neither wait for other programs nor measure again")
    parser.add_argument("--install", action="store_true", help="install Debian's packages that are missing, as root")
    parser.add_argument("--into", type=Path, default=RUN, help="a file of figures to put these into")
    options = parser.parse_args()
    if unknown := set(options.names) - set(NAMES):
        parser.error(f"unknown workload {', '.join(sorted(unknown))}; there are: {', '.join(NAMES)}")
    names = [name for given in options.names or WORKLOADS for name in GROUPS.get(given, (given,))]
    if not sys.platform.startswith("linux"):
        parser.error("the readings come from /proc and epoll: run it on Linux")

    if options.install:
        install_programs()
    if options.hurry:
        spare.spend()
    machine = describe()
    print(f"on {machine['cores']} cores of {machine['cpu']}, Python {machine['python']}, {versions()}")
    if not machine["pinned"]:
        print("one core only: server and client share it, so latencies and bursts mean little here")
    for server in SERVERS.values():
        if missing := server.missing():
            print(f"not measured: {server.title} (not installed: {', '.join(missing)})")

    BUILD.mkdir(exist_ok=True)
    record = Record.read(options.into)
    if record.content.get("machine", machine) != machine:
        parser.error(f"{options.into} was taken on another machine, or Python: name another file with --into")
    size = Size(options.short, frozenset(options.server), options.rounds or (1 if options.short else 3))
    try:
        for tool in ("sseload", "writeloop"):
            compile_tool(tool)
        for name in dict.fromkeys(names):
            print(f"{name} ...", file=sys.stderr, flush=True)
            about = (WORKLOADS[name].__doc__ or "").splitlines()[0]
            record.add(name, about, WORKLOADS[name](size), short=options.short)
            print(table(name, about, record.results()[name]), flush=True)
            record.judge(verdicts(record.results()))
    except CannotMeasure as error:
        print(f"cannot measure: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    results = {name: rows for name, rows in record.results().items() if name in names}
    judgement = verdicts(results)
    print(judged(judgement))
    if count := sum(row["others"] > CALM for rows in results.values() for row in rows):
        print(f"\n{count} measurements were disturbed by other programs (see `others`): run again when it is calm")
    print(f"\nfigures in {record.path}")
    if importlib.util.find_spec("matplotlib"):
        print(*draw(record, record.path.parent), sep="\n")
    # A promise that could not be measured is not kept, unless that was asked for.
    bad = (False,) if options.server else (False, None)
    missed = any(verdict.kept in bad for verdict in judgement)
    return 1 if missed or not all(results.values()) else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["plots"]:
        sys.exit(plots(sys.argv[2:]))
    sys.exit(main())
