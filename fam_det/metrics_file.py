"""Reading ``metrics.json``, which Detectron2 writes as it trains: a JSON object a line."""

import json
from pathlib import Path


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The lines of a ``metrics.json``, by iteration; none if there is no such file.

    A run that was stopped and resumed has written some iterations twice, of which the later counts,
    and may have left half a line, which is passed over.
    """
    by_iteration: dict[float, dict[str, float]] = {}
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
        except ValueError:
            continue
        by_iteration.setdefault(line["iteration"], {}).update(line)
    return [by_iteration[iteration] for iteration in sorted(by_iteration)]
