"""``python -m aoq_ext`` is the same as ``aoq``."""

from aoq_ext.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
