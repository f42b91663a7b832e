"""The `aoq` command, outside the package, so that it can still speak when the package cannot be imported."""

from __future__ import annotations

import sys


def main() -> int:
    try:
        from aoq_ext.cli import main as run
    except ImportError as error:
        print(f"✗ aoq_ext cannot be imported: {error}", file=sys.stderr)
        return 1
    return run()


if __name__ == "__main__":
    sys.exit(main())
