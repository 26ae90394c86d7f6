"""The watchdog: finds steps of tasks that keep all others from running.

All requests share one event loop. While a task runs from one `await` to the next, a *step*, no
other request is answered. So nothing on the loop may take time in proportion to a number that users
choose: files, attributes, tensors. Where that happens nevertheless, the log has a warning with the
task, the wall time of the step, and the CPU time. Much wall time with little CPU time is a disk, a
lock or a busy machine, not the task.

The CPU time is the thread's since the loop last waited for events: that of the step, and of short
steps before it. To ask for it is a system call, so it is not asked before each step.

Example. A command of 10^6 rows is computed on the loop. The log has "the task
modelfs.fs.control.Control._answer kept all others waiting for 2435 ms (CPU 2401 ms)".
"""

import logging
import time
from dataclasses import dataclass
from typing import Final

import trio

log = logging.getLogger(__name__)

# A look-up takes less than a millisecond; people notice a tenth of a second.
STEP_SECONDS: Final = 0.1


@dataclass(frozen=True, slots=True)
class TaskStep:
    """A step of a task, in seconds."""

    task: str
    wall: float
    cpu: float


class Watchdog(trio.abc.Instrument):
    """Measures every step of every task, and warns of long ones.

    Its calls around a step take 0.2 us, and around a wait 0.7 us (`tools/run bench.overhead`).
    """

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._cpu_began = time.thread_time()

    def after_io_wait(self, timeout: float) -> None:
        self._cpu_began = time.thread_time()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._began = time.perf_counter()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        wall = time.perf_counter() - self._began
        if wall > STEP_SECONDS:
            self.exceeded(TaskStep(task.name, wall, time.thread_time() - self._cpu_began))

    def exceeded(self, step: TaskStep) -> None:
        """Warn of a step that was too long."""
        log.warning(
            "the task %s kept all others waiting for %.0f ms (CPU %.0f ms)",
            step.task,
            step.wall * 1e3,
            step.cpu * 1e3,
        )
