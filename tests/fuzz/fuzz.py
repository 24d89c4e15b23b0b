"""``make fuzz``: damaged inputs for everything that parses foreign bytes, in a table of what became of them.

    .venv/bin/python tests/fuzz/fuzz.py --inputs 1000000 --seed 1
    .venv/bin/python tests/fuzz/fuzz.py --target settings --seconds 60
    .venv/bin/python tests/fuzz/fuzz.py --target settings --replay fuzz-failures/settings/0123456789abcdef

The exit code is 1 if an input crashed a parser, ended its process, took longer than 30 seconds or was not accounted for.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT)]  # started as a script, this file finds only its own folder

from tests.fuzz.catalogue import TARGETS  # noqa: E402  found only now
from tests.fuzz.runner import Result, run_target, save_failures  # noqa: E402  likewise

_COLUMNS = ("target", "inputs", "accepted", "rejected", "reasons", "crashes", "memory MiB", "slowest ms", "s")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the targets that were asked for; returns the exit code."""
    options = _parse(arguments)
    if options.replay is not None:
        return _replay(options.target[0], options.replay)
    targets = {name: TARGETS[name]() for name in options.target or TARGETS}
    shares = sum(target.share for target in targets.values())
    results: dict[str, Result] = {}
    for name, target in targets.items():
        count = max(1, round(options.inputs * target.share / shares)) if options.seconds is None else sys.maxsize
        results[name] = run_target(TARGETS[name], options.seed, count, options.seconds)
        if not options.json:
            _print_row(name, results[name], is_first=len(results) == 1)
        for path, reason in save_failures(target, options.seed, results[name].failures, options.failures):
            print(f"{path}: {reason}", file=sys.stderr)  # noqa: T201  a script
    _print_total(results, options.seed, as_json=options.json)
    return 0 if all(result.is_whole and not result.failures for result in results.values()) else 1


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--inputs", type=int, default=1_000_000, help="of all targets together; slow ones get fewer")
    parser.add_argument("--seconds", type=float, help="for each target, instead of a number of inputs")
    parser.add_argument("--seed", type=int, default=1, help="the same seed gives the same inputs")
    parser.add_argument("--target", action="append", choices=list(TARGETS), help="only this one; may be given again")
    parser.add_argument("--failures", type=Path, default=Path("fuzz-failures"), help="folder for inputs that crash a parser")
    parser.add_argument("--replay", type=Path, help="parse this file only; needs --target")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options = parser.parse_args(arguments)
    if options.replay is not None and len(options.target or ()) != 1:
        parser.error("--replay needs one --target")
    return options


def _replay(name: str, path: Path) -> int:
    """Parse one file, with the whole traceback of a crash."""
    target = TARGETS[name]()
    try:
        target.parse(path.read_bytes())
    except target.errors as error:
        print(f"rejected: {type(error).__name__}: {error}")  # noqa: T201  a script
    else:
        print("accepted")  # noqa: T201  a script
    return 0


def _print_row(name: str, result: Result, *, is_first: bool) -> None:
    if is_first:
        print(f"| {' | '.join(_COLUMNS)} |\n|{'---|' * len(_COLUMNS)}")  # noqa: T201  a script
    cells = [name, *(f"{value:,}".replace(",", " ") for value in _values(result).values())]
    print(f"| {' | '.join(cells)} |", flush=True)  # noqa: T201  a script


def _values(result: Result) -> dict[str, int]:
    return {
        "inputs": result.inputs,
        "accepted": result.accepted,
        "rejected": result.rejected.total(),
        "reasons": len(result.rejected),
        "crashes": len(result.failures),
        "memory_mib": round(result.memory_bytes / 2**20),
        "slowest_ms": round(1000 * result.slowest_s),
        "wall_s": round(result.wall_s),
    }


def _print_total(results: dict[str, Result], seed: int, *, as_json: bool) -> None:
    total = Result()
    for result in results.values():
        total.merge(result)
        total.wall_s += result.wall_s
    if not as_json:
        _print_row("all", total, is_first=False)
        return
    rows = {name: {**_values(result), "rejections": dict(result.rejected)} for name, result in results.items()}
    print(json.dumps({"seed": seed, "targets": rows, "all": _values(total)}, indent=2))  # noqa: T201  a script


if __name__ == "__main__":
    sys.exit(main())
