"""The compiled operators: the library that has them, typed calls, fakes for tracing, and their derivatives."""
