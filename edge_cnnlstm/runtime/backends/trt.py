"""TensorRT on the GPU: memory that stays there, one launch a frame, and a second life after a dead context."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from edge_cnnlstm.bundle.format import Bundle
from edge_cnnlstm.bundle.manifest import Graph
from edge_cnnlstm.errors import BackendError, ClosedError, ContextLostError, EdgeError, PlanError
from edge_cnnlstm.gpu import context, tensorrt
from edge_cnnlstm.gpu.engine import Configuration, Engine, deserialize
from edge_cnnlstm.gpu.plans import StoredPlan, plan_for
from edge_cnnlstm.gpu.progress import Progress
from edge_cnnlstm.runtime.backends.base import Arrays, Backend
from edge_cnnlstm.runtime.device_step import DeviceStep
from edge_cnnlstm.runtime.device_times import DeviceTimes
from edge_cnnlstm.runtime.optional import is_installed
from edge_cnnlstm.runtime.proof import prove
from edge_cnnlstm.runtime.wiring import AS_FOUND, Wiring
from edge_cnnlstm.spec import ModelSpec

log = logging.getLogger(__name__)


class TensorRtBackend:
    """A step graph in TensorRT.

    `load` returns the engine, built on this machine for `spec` and with its recurrent outputs watched
    (`engine.build_plan`); it is called where the GPU's context is current, and again should that die. `wiring` says how
    a step reaches the GPU. `device_times` has what it took there by the GPU's own clock, None without `cuda-bindings`;
    `bytes_copied` is what each step copies, in which there is no memory of a stream.

    Any thread may use it, one at a time: ThreadError else. When the GPU's context dies under a step, everything is
    built anew, once, and ContextLostError is raised for that frame: then the memory is empty, and `frames` and `dt` are
    other buffers. `check` is called with the backend before it serves again, and raises BackendError if it should not.
    The second time it is a BackendError, and the process had better end. Raises BackendError for an engine that is not
    what `spec` says, and DeviceMemoryError when it does not fit.
    """

    name = "tensorrt"

    def __init__(
        self,
        load: Callable[[], Engine],
        spec: ModelSpec,
        wiring: Wiring = AS_FOUND,
        *,
        check: Callable[[Backend], object] | None = None,
    ) -> None:
        self.spec = spec
        self._check = check
        self._make = partial(DeviceStep, load, spec, wiring)
        self._was_lost = False
        self._closed = False
        self._unread: int | None = None
        """The direction of the last step, while its times are not read."""
        self._take(self._make())
        self.device_times = DeviceTimes() if self._step.keeps_times else None

    @property
    def uses_graphs(self) -> bool:
        """Whether a step is a single launch."""
        return self._step.uses_graphs

    @property
    def bytes_copied(self) -> int:
        """Bytes that a step copies between processor and GPU."""
        return self._step.bytes_copied

    def infer(self) -> Arrays:
        answers = self._run()
        self._unread = self.state.side
        self.state.advance()
        return answers

    def rehearse(self) -> None:
        self._run()

    def close(self) -> None:
        if not self._closed:
            self._step.close()
            self._closed = True

    def _take(self, step: DeviceStep) -> None:
        self._step, self.state = step, step.state
        self.frames, self.dt = step.frames, step.dt
        self._unread = None

    def _run(self) -> Arrays:
        if self._closed:
            raise ClosedError("a closed backend", expected="an open one", fix="open the bundle again")
        direction = self.state.side
        try:
            self._step.run(direction, self._note_times)
        except BackendError as error:
            if not self._step.is_lost():
                raise
            raise self._after_death(error) from error
        return self._step.answers[direction]

    def _note_times(self) -> None:
        """Read the last step's times while the GPU is busy with the next, which runs in the other direction."""
        if self._unread is not None and self.device_times is not None:
            self.device_times.record(self._step.times(self._unread))
        self._unread = None

    def _after_death(self, error: BackendError) -> BackendError:
        """Return what the death of the context means to the caller; all that can be has been built anew by then."""
        if self._was_lost:
            return BackendError(
                f"the GPU's context died again: {error.found}",
                expected="an engine that lives through a second try",
                fix="restart the process; should it happen once more, look at `dmesg` and build the plan again",
            )
        self._was_lost = True
        log.error("the GPU's context died, building the engine anew: %s", error.found)
        self._closed = True
        self._step.abandon()
        try:
            self._step.revive()
            self._take(self._make())
            self._closed = False
            if self._check is not None:
                self._check(self)
        except EdgeError as failure:
            self.close()
            return BackendError(
                f"the GPU's context died under a step ({error.found}), and nothing new could be built: {failure.found}",
                expected="a GPU that comes back",
                fix="restart the process",
            )
        return ContextLostError(
            f"the GPU's context died under a step: {error.found}",
            expected="every step to succeed",
            fix="the engine was built anew and its memory is empty: go on with the next frame",
        )


def missing_for_tensorrt() -> EdgeError | None:
    """Return the error that says what this machine lacks for TensorRT, None when nothing."""
    try:
        if is_installed("pycuda"):
            tensorrt.load()  # before a context is made on the GPU for nothing
        context.describe()
    except EdgeError as error:
        return error
    return None


def plan_on_device(
    bundle: Bundle,
    graph: Graph,
    configuration: Configuration,
    progress: Progress | None = None,
    *,
    again: bool = False,
) -> StoredPlan:
    """Return the plan of one of a bundle's graphs for this device: from its cache, or built for it now and kept.

    `again` builds it in any case. Raises DependencyError without TensorRT, PyCUDA or a GPU, and what `plan_for` does.
    """
    device, trt = context.describe(), tensorrt.load()
    return plan_for(
        bundle.graph(graph.name),
        graph.name,
        bundle.manifest.members[graph.file].sha256,
        configuration,
        watch=watched(bundle),
        trt=trt,
        device=device,
        progress=progress,
        again=again,
    )


def watched(bundle: Bundle) -> list[str]:
    """Return the outputs over which a build watches whether memory is finite."""
    return [pair.output for pair in bundle.manifest.model.states]


def open_tensorrt(
    bundle: Bundle, graph: Graph, streams: int, wiring: Wiring = AS_FOUND, *, progress: Progress | None = None
) -> TensorRtBackend:
    """Load one of a bundle's graphs for so many streams; raises what `plan_on_device` and `TensorRtBackend` do.

    A plan that was kept, and that TensorRT does not load any more, is built anew.
    """
    configuration, spec = Configuration(batch=streams), bundle.manifest.model.batched(streams)
    expected = bundle.golden.expected[graph.name]
    check = partial(prove, golden=bundle.golden, expected=expected, tolerance=graph.tolerance)

    def load(plan: StoredPlan) -> TensorRtBackend:
        engine = partial(deserialize, plan.data, graph.name, tensorrt.load())
        return TensorRtBackend(engine, spec, wiring, check=check)

    plan = plan_on_device(bundle, graph, configuration, progress)
    try:
        return load(plan)
    except PlanError as error:
        if plan.why is not None:
            raise
        log.warning("graph %r: the plan that was kept serves no more: %s", graph.name, error.found)
    return load(plan_on_device(bundle, graph, configuration, progress, again=True))
