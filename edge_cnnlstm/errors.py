"""Everything this package raises on purpose.

    EdgeError
    ├── ConfigError        an option, preset or setting that does not exist or does not fit
    ├── DependencyError    an optional package that this call needs is not installed
    ├── DataError          clips or results that cannot be used
    ├── InterruptedTraining  a training that was asked to stop; all that resuming it needs is saved
    ├── CheckpointError    a checkpoint that is missing, damaged, or not what its config says
    ├── ExportError        a network that cannot be lowered, or a graph that an engine refuses
    │   └── ParityError    a graph that does not compute what the trained network computes
    ├── BundleError        a bundle that is missing, damaged, or not what its manifest says
    ├── SourceError        a camera, video or folder that cannot be opened or read
    ├── SinkError          a file that predictions cannot be written to
    ├── FrameError         a frame that the network was not made for; the state is untouched
    ├── BackendError       an engine that failed to load or to run; the state is untouched
    │   ├── PoisonError    an answer or a memory that holds NaN or infinity; the memory was emptied
    │   ├── PlanError      a plan that TensorRT does not load: of another version or GPU, or damaged
    │   ├── DeviceMemoryError  a GPU with too little memory for this
    │   └── ContextLostError   a GPU whose context died; the engine was built anew, the memory is empty
    ├── ThreadError        a stream used by two threads at once; nothing was changed
    └── ClosedError        a stream, source or backend used after it was closed

Each message says what was found, what was expected, and what to do.
"""

from __future__ import annotations


class EdgeError(Exception):
    """Base of every error here: what was found, what was expected, what to do about it."""

    def __init__(self, found: str, *, expected: str, fix: str) -> None:
        super().__init__(f"{found}\n  expected: {expected}\n  to fix:   {fix}")
        self.found = found
        self.expected = expected
        self.fix = fix

    def __reduce__(self) -> tuple[object, ...]:
        """Survive the way out of a worker process, which pickles exceptions."""
        return _rebuilt, (type(self), self.found, self.expected, self.fix)


def _rebuilt(kind: type[EdgeError], found: str, expected: str, fix: str) -> EdgeError:
    return kind(found, expected=expected, fix=fix)


class ConfigError(EdgeError):
    """An option, preset or setting that does not exist or does not fit."""


class DependencyError(EdgeError):
    """An optional package that this call needs is not installed."""


class DataError(EdgeError):
    """Data that cannot be used: clips to train or calibrate on, or the results that a report is made of."""


class InterruptedTraining(EdgeError):  # noqa: N818 - nothing went wrong: a person asked for it
    """A training that was asked to stop; all that resuming it needs is saved."""


class CheckpointError(EdgeError):
    """A checkpoint that is missing, damaged, or not what its config says."""


class ExportError(EdgeError):
    """A network that cannot be lowered, or a graph that an engine refuses."""


class ParityError(ExportError):
    """A graph that does not compute what the trained network computes."""


class BundleError(EdgeError):
    """A bundle that is missing, damaged, or not what its manifest says."""


class SourceError(EdgeError):
    """A camera, video or folder that cannot be opened or read."""


class SinkError(EdgeError):
    """A file that predictions cannot be written to."""


class FrameError(EdgeError):
    """A frame that the network was not made for; the stream's state is untouched."""


class BackendError(EdgeError):
    """An engine that failed to load or to run; the stream's state is untouched."""


class PoisonError(BackendError):
    """An answer or a memory that holds NaN or infinity; the memory was emptied, and the next frame starts anew."""


class PlanError(BackendError):
    """A plan that TensorRT does not load: built by another version or for another GPU, or damaged."""


class DeviceMemoryError(BackendError):
    """A GPU with too little memory for an engine, or for a buffer; says how much was asked for and is free."""


class ContextLostError(BackendError):
    """A GPU whose context died under a step; the engine was built anew, and the next frame starts from empty memory."""


class ThreadError(EdgeError):
    """A stream used by two threads at once; nothing was changed."""


class ClosedError(EdgeError):
    """A stream, source or backend used after it was closed."""
