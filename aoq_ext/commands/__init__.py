"""One module a command: ``run(argv)`` does it and returns the exit status."""
