"""The chaos command: `make chaos ARGS="--seed 7 --faults 60 --messages 5000"`. Exit code 1: the sums did not agree."""

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.chaos import drama, plan
from tests.chaos.drama import Figures, Violated
from tests.chaos.faults import KINDS


def main(arguments: Sequence[str]) -> int:
    options = _options(arguments)
    if options.list:
        print("\n".join(f"{kind.name:20} {kind.group:13} {kind.about}" for kind in KINDS))
        return 0
    possible, left_out = drama.possible(plan.kinds(options.scenario))
    for name, lack in left_out.items():
        print(f"left out: {name}: it needs {lack}", file=sys.stderr)
    if not possible:
        print("nothing is left to do", file=sys.stderr)
        return 2
    scenarios = plan.draw(options.seed, options.faults, options.messages, possible)
    if options.plan:
        print("\n".join(f"{one.number} ({one.messages} messages): {one.name}" for one in scenarios))
        return 0
    print(
        f"seed {options.seed}, {options.faults} faults, {options.messages} messages, {options.fsync}", file=sys.stderr
    )
    figures = Figures(options.seed, options.fsync, left_out=left_out)
    home = options.home or Path(tempfile.mkdtemp(prefix="msgsys-chaos-"))
    among = sorted({drawn.kind for one in scenarios for blow in one.blows for drawn in blow.faults}, key=KINDS.index)
    code = 0
    # Asked to end, it must not leave its processes behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    try:
        drama.run(home, figures, scenarios, among, server=options.server, database=options.database)
    except Violated as error:
        print(f"\n{error}", file=sys.stderr)
        code = 1
    print(table(figures))
    if options.json:
        options.json.write_text(json.dumps(figures.as_dict(), indent=2) + "\n", encoding="utf-8")
    if code == 0 and not options.keep and not options.home:
        shutil.rmtree(home, ignore_errors=True)
    else:
        print(f"kept: {home}", file=sys.stderr)
    return code


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make chaos", description="Break things under load, and count.")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000), help="default: any")
    parser.add_argument("--faults", type=_positive, default=60)
    parser.add_argument("--messages", type=_positive, default=12_000)
    parser.add_argument(
        "--scenario", action="append", default=[], metavar="NAME", help="only this fault or group of faults; repeatable"
    )
    parser.add_argument("--fsync", choices=["everysec", "always"], default="everysec", help="Redis' appendfsync")
    parser.add_argument("--server", default="", metavar="PROGRAM", help="redis-server or valkey-server to use")
    parser.add_argument("--database", choices=["sqlite", "mariadb"], default="sqlite", help="where the registry stores")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--home", type=Path, metavar="DIR", help="an empty folder to work in; it is kept")
    parser.add_argument("--keep", action="store_true", help="keep the folder even when all is well")
    parser.add_argument("--plan", action="store_true", help="show what the seed means, and do nothing")
    parser.add_argument("--list", action="store_true", help="list the faults and their groups")
    options = parser.parse_args(arguments)
    try:
        plan.kinds(options.scenario)
    except ValueError as error:
        parser.error(str(error))
    return options


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def table(figures: Figures) -> str:
    """Show the figures to a person."""
    rows = [
        ("seed", figures.seed),
        ("appendfsync", figures.fsync),
        ("scenarios", figures.scenarios),
        ("faults injected", figures.faults.total()),
        *((f"  {name}", _times(figures, name)) for name in sorted(figures.faults)),
        ("messages accepted", figures.accepted),
        ("  stored", figures.stored),
        ("  queued or held", figures.waiting),
        ("  dead letters", figures.dead),
        ("lost", figures.lost),
        ("duplicated", figures.doubled + figures.unknown),
        ("longest recovery", f"{figures.longest_recovery:.1f} s (scenario {figures.slowest_scenario})"),
        (
            "answers of ingest",
            ", ".join(f"{count} x {status or 'none'}" for status, count in sorted(figures.answers.items())),
        ),
        (
            "ended by themselves",
            ", ".join(f"{count} x {who}" for who, count in figures.ended_by_themselves.items()) or "-",
        ),
        ("duration", f"{figures.seconds:.0f} s"),
        *(("left out", f"{name}: {lack}") for name, lack in figures.left_out.items()),
        *(("remark", remark) for remark in figures.remarks),
    ]
    return "\n".join(f"{name:24} {value}" for name, value in rows)


def _times(figures: Figures, name: str) -> str:
    idle = figures.without_effect[name]
    return f"{figures.faults[name]}" + (f" ({idle} met no request)" if idle else "")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
