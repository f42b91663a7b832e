"""The `aoq` command, outside the package: it speaks when the package cannot be imported, and acts before torch is."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from collections.abc import Sequence

_INTERRUPTED = 130  # 128 + SIGINT, as shells have it

# How OpenMP's threads wait, by any of the variables that say so; each is read when torch is loaded.
WAIT_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
SPINS = "1000"  # some microseconds: a quiet machine loses little by it, where sleeping at once costs a fifth of a step


def main() -> int:
    limit_waiting()
    # An interrupt in the middle of an import may be swallowed there; let it end the process instead.
    handler = signal.signal(signal.SIGINT, lambda *_: os._exit(_INTERRUPTED))
    try:
        if _only_asks(sys.argv[1:]):
            _leave_out_imports("aoq_ext", "aoq_ext.training")
        from aoq_ext.cli import main as run
    except ImportError as error:
        print(f"✗ aoq_ext cannot be imported: {error}", file=sys.stderr)
        return 1
    finally:
        signal.signal(signal.SIGINT, handler)
    return run()


def limit_waiting() -> None:
    """Unless the user chose, let threads that wait sleep soon: spinning takes the cores from those they wait for."""
    if not any(name in os.environ for name in WAIT_VARIABLES):
        os.environ["GOMP_SPINCOUNT"] = SPINS


def _only_asks(arguments: Sequence[str]) -> bool:
    """Whether the answer is a text about the command line."""
    if not arguments or arguments == ["--version"]:
        return True
    return not {"-h", "--help"}.isdisjoint(arguments) and "--" not in arguments


def _leave_out_imports(*packages: str) -> None:
    """Make the modules of these packages known without running the packages' own code, which imports torch."""
    for name in packages:
        spec = importlib.util.find_spec(name)
        if spec is not None:
            sys.modules[name] = importlib.util.module_from_spec(spec)


if __name__ == "__main__":
    sys.exit(main())
