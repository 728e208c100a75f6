"""Speed and memory of the project beside plain formulas and peers; see docs/performance.md."""
