"""The command line: python -m benchmarks [name ...] [--short] [--server KEY ...] [--json FILE]."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .machine import HERE, CannotMeasure, compile_tool, describe
from .report import judged, table, versions, write_json
from .rounds import CALM, Size, spare
from .servers import SERVERS
from .targets import Results, verdicts
from .workloads import GROUPS, WORKLOADS

NAMES = (*WORKLOADS, *GROUPS)


def main() -> int:
    """Run the workloads, print tables and verdicts; 0 if every target was met."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"workloads, of: {', '.join(NAMES)} (all)")
    parser.add_argument("--short", action="store_true", help="one round, shorter loads: a first impression")
    parser.add_argument("--server", action="append", default=[], choices=SERVERS, help="only this one (repeatable)")
    parser.add_argument("--hurry", action="store_true", help="neither wait for other programs nor measure again")
    parser.add_argument("--json", type=Path, default=HERE / "results.json", help="where the figures go")
    options = parser.parse_args()
    if unknown := set(options.names) - set(NAMES):
        parser.error(f"unknown workload {', '.join(sorted(unknown))}; there are: {', '.join(NAMES)}")
    names = [name for given in options.names or WORKLOADS for name in GROUPS.get(given, (given,))]
    if not sys.platform.startswith("linux"):
        parser.error("the readings come from /proc and epoll: run it on Linux")

    if options.hurry:
        spare.spend()
    machine = describe()
    print(f"on {machine['cores']} cores, load {machine['load_average']:.1f}, {versions()}")
    if not machine["pinned"]:
        print("one core only: server and client share it, so latencies and bursts mean little here")
    for server in SERVERS.values():
        if missing := server.missing():
            print(f"not measured: {server.title} (not installed: {', '.join(missing)})")

    results: Results = {}
    try:
        for tool in ("sseload", "writeloop"):
            compile_tool(tool)
        for name in dict.fromkeys(names):
            print(f"{name} ...", file=sys.stderr, flush=True)
            results[name] = WORKLOADS[name](Size(options.short, frozenset(options.server)))
            print(table(name, results[name]), flush=True)
    except CannotMeasure as error:
        print(f"cannot measure: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    judgement = verdicts(results)
    print(judged(judgement))
    if count := sum(row["others"] > CALM for rows in results.values() for row in rows):
        print(f"\n{count} measurements were disturbed by other programs (see `others`): run again when it is calm")
    write_json(options.json, results, judgement, options.short)
    print(f"\nfigures in {options.json}")
    # A promise that could not be measured is not kept, unless that was asked for.
    bad = (False,) if options.server else (False, None)
    missed = any(verdict.kept in bad for verdict in judgement)
    return 1 if missed or not all(results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
