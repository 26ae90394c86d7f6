"""Trials: power loss, kills, load, POSIX suites, fuzzing."""
