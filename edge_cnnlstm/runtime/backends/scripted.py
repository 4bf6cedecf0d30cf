"""A backend without an engine: answers from a script, with real memory. For tests of robot software."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from edge_cnnlstm.errors import BackendError, ClosedError
from edge_cnnlstm.runtime.backends.base import Arrays
from edge_cnnlstm.runtime.frame import Pixels
from edge_cnnlstm.runtime.state import RecurrentState
from edge_cnnlstm.spec import ModelSpec

Script = Callable[[Pixels, Arrays], tuple[Arrays, Arrays]]
"""(pixels, state by input name) → (outputs by name, new state by input name)."""


class ScriptedBackend:
    """Runs a Python function as the network.

    `fail_at` names steps, counted from 0, that raise BackendError after the function ran and before the state
    advances: the worst moment.
    """

    name = "scripted"

    def __init__(self, spec: ModelSpec, script: Script, *, fail_at: frozenset[int] = frozenset()) -> None:
        self.spec = spec
        self._script = script
        self._fail_at = fail_at
        self._steps = 0
        self._closed = False
        self._outputs = {output.name: output.zeros() for output in spec.outputs}
        self._state = RecurrentState(spec.states)

    def infer(self, pixels: Pixels) -> Arrays:
        if self._closed:
            raise ClosedError("a closed backend", expected="an open one", fix="open the bundle again")
        state = self._state
        outputs, after = self._script(pixels, state.snapshot())
        if after.keys() != {pair.input for pair in self.spec.states}:
            raise BackendError(
                f"the script returned the states {sorted(after)}",
                expected=f"every state of the model: {[pair.input for pair in self.spec.states]}",
                fix="return the new value of each state under its input's name",
            )
        for name, value in after.items():
            np.copyto(state.buffers(1 - state.side)[name], value)
        step, self._steps = self._steps, self._steps + 1
        if step in self._fail_at:
            raise BackendError(f"step {step} fails by script", expected="a step that works", fix="none: it is a test")
        for name, buffer in self._outputs.items():
            np.copyto(buffer, outputs[name])
        state.advance()
        return self._outputs

    def reset(self) -> None:
        self._state.reset()

    def snapshot(self) -> dict[str, NDArray[np.generic]]:
        return self._state.snapshot()

    def restore(self, snapshot: Mapping[str, NDArray[np.generic]]) -> None:
        self._state.restore(snapshot)

    def close(self) -> None:
        self._closed = True
        self._state.release()
