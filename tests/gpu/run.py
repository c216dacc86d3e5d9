"""The first minutes on a GPU: the CPU's numbers, the machine's roofline, speed and memory, in one table.

    bash tests/gpu/prepare.sh wheels                  # where there is a network: what the other machine lacks
    python3 -m tests.gpu.run --wheels wheels --out gpu    # on the machine with the GPU, in the project's root
    python -m tests.gpu.run --dry cpu --out gpu       # tiny sizes on a CPU, to see that the script is sound

Every part is a process of its own with its own time limit; one that fails or takes too long stops no other,
and what it found before that counts. The parts most wanted come first. At most eight minutes in all.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

PARTS = {  # part -> its file, and its limit in seconds
    "machine": ("checks", 20),
    "roofline": ("speeds", 25),
    "training": ("speeds", 95),
    "networks": ("checks", 60),
    "attention": ("speeds", 30),
    "trainings": ("checks", 75),
    "autoencoder": ("speeds", 45),
    "samples": ("checks", 30),
    "wan": ("speeds", 55),
    "diffusers": ("speeds", 45),
}


def main() -> None:
    """Runs the parts, prints the table and writes `gpu.json`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=Path(os.environ.get("OUT", "gpu")), help="folder of what it finds"
    )
    parser.add_argument(
        "--wheels", type=Path, help="folder of wheels to install beside it, for this run alone"
    )
    parser.add_argument("--parts", nargs="+", choices=[*PARTS], default=[*PARTS], help="what to run")
    parser.add_argument("--dry", choices=["cpu", "pretended"], help="tiny sizes, without a GPU")
    parser.add_argument("--total", type=float, default=480, help="seconds for all parts")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([os.getcwd(), *_installed(given)]),
        "PYTHONUNBUFFERED": "1",
    }
    if given.dry:
        environment |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    started, results, total = time.monotonic(), {}, given.total * (20 if given.dry else 1)
    for part in given.parts:
        left = total - (time.monotonic() - started)
        results[part] = _run(part, min(PARTS[part][1] * (20 if given.dry else 1), left), given, environment)
    table = "\n".join(_table(results))
    print(f"\n{table}")
    (given.out / "gpu.txt").write_text(table + "\n")
    (given.out / "gpu.json").write_text(json.dumps({"dry": given.dry, "parts": results}, indent=1) + "\n")
    sys.exit(any(result["ended"] for result in results.values()))


def _installed(given: argparse.Namespace) -> list[str]:
    """Installs the wheels into a folder of the run; returns what joins Python's path."""
    wheels = sorted(given.wheels.glob("*.whl")) if given.wheels else []
    if not wheels:
        return []
    place = given.out.resolve() / "packages"
    options = ["--quiet", "--no-index", "--no-deps", "--no-compile", "--upgrade", "--target", str(place)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, *map(str, wheels)], check=True)
    return [str(place)]


def _run(part: str, limit: float, given: argparse.Namespace, environment: dict[str, str]) -> dict:
    """A part's rows, its seconds, and why it ended early, if it did."""
    print(f"\n=== {part}", flush=True)
    rows, module = given.out / f"{part}.jsonl", f"tests.gpu.{PARTS[part][0]}"
    rows.unlink(missing_ok=True)
    code = f"import sys; {_PRETENDED * (given.dry == 'pretended')} from {module} import PARTS; " + _CALL
    words = [sys.executable, "-c", code, part, str(rows), str(given.out / part), *["--dry"] * bool(given.dry)]
    began, ended = time.monotonic(), ""
    with open(given.out / f"{part}.log", "w") as log:
        try:
            if limit <= 0:
                raise subprocess.TimeoutExpired(words, 0)
            process = subprocess.run(
                words, env=environment, stdout=None, stderr=log, timeout=limit, check=False
            )
            ended = f"status {process.returncode}" if process.returncode else ""
        except subprocess.TimeoutExpired:
            ended = f"no time left after {max(limit, 0):.0f} s"
    if ended:
        print(
            "".join((given.out / f"{part}.log").read_text().splitlines(keepends=True)[-12:]),
            ended,
            flush=True,
        )
    found = [json.loads(line) for line in rows.read_text().splitlines()] if rows.exists() else []
    return {"rows": found, "seconds": round(time.monotonic() - began, 1), "ended": ended}


_PRETENDED = "from tests import pretended; pretended.install();"
_CALL = "from tests.gpu.rows import run_part; run_part(PARTS)"


def _table(results: dict[str, dict]) -> list[str]:
    """Every row under its part's line."""
    from tests.gpu.rows import in_words

    lines = []
    for part, result in results.items():
        ended = f": {result['ended']}" if result["ended"] else ""
        lines += [f"== {part}, {result['seconds']} s{ended}", *map(in_words, result["rows"])]
    wrong = sum(row["good"] is False for result in results.values() for row in result["rows"])
    return [
        *lines,
        f"{wrong} checks or goals not met, {sum(bool(r['ended']) for r in results.values())} parts not ended",
    ]


if __name__ == "__main__":
    main()
