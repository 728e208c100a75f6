"""Speed and memory of the project beside plain formulas and peers; see docs/performance.md.

It stands on top of everything else: nothing imports it but python -m tools.benchmark and the tests.
"""
