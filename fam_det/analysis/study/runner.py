"""Run a study's jobs: what is done is skipped, what was interrupted goes on."""

import time
from collections.abc import Callable, Mapping, Sequence

from fam_det.analysis.processes import claimed
from fam_det.analysis.study.child import Slot, Training, stop_all
from fam_det.analysis.study.jobs import Job, needed_job
from fam_det.analysis.study.plan import CHECKPOINT, Plan
from fam_det.analysis.study.progress import Progress
from fam_det.analysis.study.results import Result, read_output

POLL_SECONDS = 0.25


class Runner:
    """Works through a study.

    Args:
        plan: what is to do.
        settings: what the placeholders stand for.
        command: the training tool.
        options: KEY VALUE pairs for every training that change no result.
        progress: where to say how far it is.
        on_result: called after every result.
    """

    def __init__(
        self,
        plan: Plan,
        settings: Mapping[str, str],
        command: Sequence[str],
        *,
        options: Sequence[str] = (),
        progress: Progress | None = None,
        on_result: Callable[[], object] = lambda: None,
    ) -> None:
        self.plan, self.settings, self.command = plan, settings, command
        self.options, self.on_result = list(options), on_result
        self.progress = progress or Progress()
        self.running: list[Training] = []

    def run(self, slots: Sequence[Slot]) -> None:
        """Do all jobs, one a slot at a time; whatever ends this call stops the trainings first.

        Raises:
            BlockingIOError: another process is at this study.
        """
        with claimed(self.plan.outputs):
            for job in self.plan.stale():
                self.progress.say(f"{job.title}: its result is of another definition; done again")
            try:
                while self._start(slots):
                    self._wait()
            finally:
                stop_all(self.running)
                self.progress.close()

    def _start(self, slots: Sequence[Slot]) -> bool:
        """Fill the free slots; whether anything runs."""
        todo = self.plan.to_do()
        for slot in slots:
            busy = [training.job.name for training in self.running]
            if slot in [training.slot for training in self.running]:
                continue
            job = next((j for j in todo if j.name not in busy and self._can_start(j, busy)), None)
            if job is None:
                break
            self.running.append(self._training(job, slot))
        waiting = [seed for run in self.plan.undecided() for seed in run.seeds]
        self.progress.plan(self.plan, todo, len(waiting), len(slots))
        return bool(self.running)

    def _can_start(self, job: Job, busy: Sequence[str]) -> bool:
        needed = needed_job(self.plan.study, job)
        return self.plan.is_ready(job) and (needed is None or needed.name not in busy)

    def _training(self, job: Job, slot: Slot) -> Training:
        settings = dict(self.settings)
        needed = needed_job(self.plan.study, job)
        if needed is not None:
            settings["needs"] = str(self.plan.folder(needed))
        options = [*job.arguments(settings), *self.options]
        return Training(job, self.command, self.plan.folder(job), options, slot)

    def _wait(self) -> None:
        """Until a training ends."""
        while not (ended := [t for t in self.running if t.process.poll() is not None]):
            self.progress.show(self.running)
            time.sleep(POLL_SECONDS)
        for training in ended:
            self.running.remove(training)
            self._finish(training)

    def _finish(self, training: Training) -> None:
        job, results = training.job, self.plan.results
        try:
            if training.process.returncode != 0:
                raise ValueError(training.failure(self.settings))
            if not (training.folder / CHECKPOINT).exists():
                raise ValueError(f"it ended without a {CHECKPOINT}; {training.where_log}")
            result = read_output(job, training.folder, self.plan.study.metric)
            training.delete_checkpoints()
        except ValueError as error:
            result = Result(job.definition, {}, [], 0.0, str(error))
            self.plan.failed[job.name] = str(error)
            training.forget_bad_checkpoint()
        if self.plan.is_open(job):  # a teacher that is trained again in another clone has a result
            results.write(job, result)
            self.on_result()
        figure = result.figures.get(self.plan.study.metric)
        self.progress.say(
            f"{job.title}: " + (result.failure or f"{self.plan.study.metric} {figure:.2f}")
        )
