"""Runs the tests of the kernels under a sanitizer: ``python -m tests.simt asan|tsan [arguments of pytest]``.

Without arguments, every tests/simt/test_*.py; the first access that is out of bounds, or the first race, ends the run.
"""

import subprocess
import sys

from .build import ROOT, SANITIZERS, environment, prefix


def main() -> int:
    flavours = [flavour for flavour in SANITIZERS if flavour != "plain"]
    if len(sys.argv) < 2 or sys.argv[1] not in flavours:
        print(__doc__, file=sys.stderr)
        return 2
    chosen = sys.argv[2:] or [str(ROOT / "tests/simt")]
    # Output is not captured: a sanitizer ends the process, and its report would be lost.
    command = [*prefix(sys.argv[1]), sys.executable, "-m", "pytest", "--capture=no", *chosen]
    return subprocess.run(command, env=environment(sys.argv[1])).returncode


if __name__ == "__main__":
    sys.exit(main())
