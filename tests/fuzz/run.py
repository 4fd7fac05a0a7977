# ruff: noqa: T201  it is a program
"""Runs every fuzz target under atheris for a while, two at a time; fails if one of them crashes.

A target is a file ``fuzz_*.py`` beside this one with a function ``test_one_input(data: bytes)``
and, if it likes, a list ``SEEDS`` of inputs to begin with.
"""

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
MAX_LENGTH = 4_096  # bytes of an input
GRACE = 60  # seconds beyond the time for a target: importing instrumented code takes some

Target = Callable[[bytes], None]


def targets() -> list[Path]:
    """Every target, by name."""
    return sorted(HERE.glob("fuzz_*.py"))


for folder in (str(ROOT), str(ROOT / "tests")):  # as pytest has it
    if folder not in sys.path:
        sys.path.insert(0, folder)


def load(path: Path) -> tuple[Target, list[bytes]]:
    """Import a target: its function and its seeds."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(str(path))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.test_one_input, list(getattr(module, "SEEDS", []))


def fuzz(path: Path, arguments: Sequence[str]) -> None:
    """Fuzz one target in this process; does not return."""
    import atheris  # noqa: PLC0415  only here is it needed

    with atheris.instrument_imports(include=["hipctl", "overlay", "sipgw"]):
        target, _ = load(path)
    atheris.Setup([str(path), *arguments], target)
    atheris.Fuzz()


def run(path: Path, seconds: int) -> bool:
    """Fuzz one target in a process of its own; say whether it held."""
    _, seeds = load(path)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        for number, seed in enumerate(seeds):
            (corpus / str(number)).write_bytes(seed)
        argv = [sys.executable, __file__, "--target", str(path), str(corpus)]
        argv += [f"-max_total_time={seconds}", f"-max_len={MAX_LENGTH}", "-timeout=10"]
        argv += [f"-artifact_prefix={folder}/crash-", "-rss_limit_mb=1024", "-print_final_stats=1"]
        try:
            done = subprocess.run(
                argv,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=seconds + GRACE,
                check=False,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
            )
            status, output = done.returncode, done.stdout + done.stderr
        except subprocess.TimeoutExpired:
            status, output = -1, "it did not end in time"
        crashes = [found.read_bytes().hex() for found in Path(folder).glob("crash-*")]
    if status == 0:
        runs = [line for line in output.splitlines() if "number_of_executed_units" in line]
        print(f"{path.stem}: held, {runs[-1].split()[-1] if runs else '?'} inputs", flush=True)
        return True
    print(f"{path.stem}: FAILED\n{output[-4_000:]}", flush=True)
    for crash in crashes:
        print(f"input: {crash}", flush=True)
    return False


def main() -> int:
    """Run all, or the one that a child process was started for."""
    if sys.argv[1:2] == ["--target"]:
        fuzz(Path(sys.argv[2]), sys.argv[3:])
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--budget", type=int, default=600, help="seconds for all of them")
    parser.add_argument("--jobs", type=int, default=2, help="targets at a time")
    options = parser.parse_args()
    found = targets()
    if not found:
        print("no fuzz targets")
        return 1
    rounds = -(-len(found) // options.jobs)
    seconds = max(5, min(options.seconds, options.budget // rounds))
    with ThreadPoolExecutor(options.jobs) as pool:
        held = list(pool.map(lambda path: run(path, seconds), found))
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
