"""How far a build is, as TensorRT tells it."""

from __future__ import annotations

from typing import Any, Protocol

from edge_cnnlstm.gpu.tensorrt import Interrupt


class Progress(Protocol):
    """Is told how many steps of a phase are done, of how many: first 0, then after each step, at the end all.

    Phases nest, and a phase may be walked through many times. May be called in any thread that TensorRT builds in, and
    often: hundreds of times a second. What it raises cancels the build, and is raised again by `build_plan`.
    """

    def __call__(self, phase: str, done: int, total: int) -> None: ...


def monitor(trt: Any, progress: Progress | None, interrupt: Interrupt) -> Any:
    """Return a TensorRT progress monitor that tells `progress`, and cancels the build once `interrupt` is asked.

    `failure` is what `progress` raised, if it did: nothing may be raised into TensorRT, whose binding drops it.
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # the base class exists only once TensorRT is imported
        def __init__(self) -> None:
            super().__init__()
            self.failure: BaseException | None = None
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, _parent_phase: str | None, num_steps: int) -> None:
            self._steps[phase_name] = num_steps
            self._tell(phase_name, 0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._tell(phase_name, step + 1)
            return self.failure is None and not interrupt.asked

        def phase_finish(self, phase_name: str) -> None:
            # Steps that turn out not to be needed are not told one by one.
            self._tell(phase_name, self._steps[phase_name])

        def _tell(self, phase: str, done: int) -> None:
            if progress is None or self.failure is not None:
                return
            try:
                progress(phase, done, self._steps[phase])
            except BaseException as failure:  # noqa: BLE001 - it is raised again once TensorRT has come back
                self.failure = failure

    return Monitor()
