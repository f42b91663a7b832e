"""``python -m aoq_ext`` is the same as ``aoq``."""

from aoq_ext.cli import main

raise SystemExit(main())
