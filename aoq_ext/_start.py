"""``python -m aoq_ext`` is the command line: imported before torch, as `aoq_command` does its part before."""

import sys

import aoq_command

# Until Python has found the module to run, its arguments begin with -m; those it was started with have the name too.
if sys.argv[:1] == ["-m"] and sys.orig_argv[-len(sys.argv)].removeprefix("-m") == __package__:
    aoq_command.limit_waiting()
