"""``python -m aoq_ext`` is the same as ``aoq``; `_start` does what must be done before torch is imported."""

from aoq_ext.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
