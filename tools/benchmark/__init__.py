"""Compares speed and memory with plain formulas and other methods; see docs/performance.md."""
