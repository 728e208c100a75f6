"""Mirrors the packages. A regular package, so that no other `tests` on the path hides it."""
