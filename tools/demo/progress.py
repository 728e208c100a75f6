"""How far the demo is, read from the ``metrics.json`` that Detectron2 writes as it trains."""

import sys
import time
from collections.abc import Mapping
from typing import TextIO

from tqdm import tqdm

LINE_SECONDS = 20  # between two lines where there is no terminal to draw a bar on


def evaluations(metrics: list[dict[str, float]], key: str) -> list[dict[str, float]]:
    """The lines with a score of an evaluation, such as "bbox/AP"."""
    return [line for line in metrics if key in line]


class _Bar(tqdm):
    """Without tqdm's own thread: we refresh often, and fork."""

    monitor_interval = 0


class Progress:
    """One bar with the time left for all stages; a line now and then where there is no terminal.

    Args:
        costs: title of each stage and about how long it takes, in any unit.
        stream: where to write.
    """

    def __init__(self, costs: Mapping[str, float], stream: TextIO | None = None) -> None:
        self._costs = dict(costs)
        self._stream = stream or sys.stderr
        self._total = sum(self._costs.values())
        self._skipped = 0.0  # units done before this run
        self._finished = 0.0  # units of the stages that are done
        self._stage = ""
        self._started = time.monotonic()
        self._last_line = float("-inf")
        self._bar = self._draw_bar() if self._stream.isatty() else None

    def _draw_bar(self) -> _Bar:
        layout = "{percentage:3.0f}%|{bar:30}| {desc} | {elapsed} passed{postfix}"
        return _Bar(total=self._total, bar_format=layout, file=self._stream, postfix="? left")

    def close(self) -> None:
        """Leave the bar as it is and end its line."""
        if self._bar is not None:
            self._bar.close()

    def start(self, stage: str, done: float = 0.0) -> None:
        """A stage begins, of which an earlier run did some part (0 to 1)."""
        self._stage = stage
        self._skipped += done * self._costs[stage]
        self._last_line = float("-inf")
        self.update(done)

    def finish(self, note: str = "") -> None:
        """The stage is done."""
        self._last_line = float("-inf")
        self.update(1.0, note)
        self._finished += self._costs[self._stage]

    def update(self, part: float, note: str = "") -> None:
        """Show how far the stage is (0 to 1)."""
        units = self._finished + part * self._costs[self._stage]
        text = f"{self._stage}{', ' + note if note else ''}"
        if self._bar is not None:
            self._bar.n = units
            self._bar.set_description_str(text, refresh=False)
            self._bar.postfix = f"{self._time_left(units)} left"
            self._bar.refresh()
        elif time.monotonic() - self._last_line >= LINE_SECONDS:
            self._last_line = time.monotonic()
            left = self._time_left(units)
            print(
                f"[{units / self._total:4.0%}] {text}, {left} left", file=self._stream, flush=True
            )

    def _time_left(self, units: float) -> str:
        """At the pace of this run so far."""
        fresh = units - self._skipped
        if fresh <= 0.01 * self._total:
            return "?"
        pace = (time.monotonic() - self._started) / fresh
        interval: str = tqdm.format_interval(pace * (self._total - units))
        return interval
