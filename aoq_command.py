"""The `aoq` command, outside the package, so that it can still speak when the package cannot be imported."""

from __future__ import annotations

import os
import signal
import sys

_INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def main() -> int:
    # An interrupt in the middle of an import may be swallowed there; let it end the process instead.
    handler = signal.signal(signal.SIGINT, lambda *_: os._exit(_INTERRUPTED))
    try:
        from aoq_ext.cli import main as run
    except ImportError as error:
        print(f"✗ aoq_ext cannot be imported: {error}", file=sys.stderr)
        return 1
    finally:
        signal.signal(signal.SIGINT, handler)
    return run()


if __name__ == "__main__":
    sys.exit(main())
