"""A backend without an engine: answers from a script, with real memory. For tests of robot software."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edge_cnnlstm.errors import BackendError, ClosedError
from edge_cnnlstm.runtime.backends.base import Arrays
from edge_cnnlstm.runtime.frame import Pixels
from edge_cnnlstm.runtime.state import RecurrentState
from edge_cnnlstm.spec import ModelSpec

Script = Callable[..., tuple[Arrays, Arrays]]
"""(pixels, state by input name) → (outputs by name, new state by input name), of one stream; the arrays have a batch
of 1. A model that asks for dt hands it over as a third argument, in seconds."""


class ScriptedBackend:
    """Runs a Python function as the network, for each of the streams that `spec` asks for.

    `fail_at` names steps, counted from 0, that raise BackendError after the function ran and before the state
    advances: the worst moment.
    """

    name = "scripted"

    def __init__(self, spec: ModelSpec, script: Script, *, fail_at: frozenset[int] = frozenset()) -> None:
        self.spec = spec
        self.frames: Pixels = np.zeros(spec.frame.shape, np.uint8)
        self.dt = np.zeros((spec.batch, 1), np.float32)
        self.state = RecurrentState(spec.states)
        self._script = script
        self._fail_at = fail_at
        self._steps = 0
        self._closed = False
        self._outputs = {output.name: output.zeros() for output in spec.outputs}

    def infer(self) -> Arrays:
        answers = self._run()
        step, self._steps = self._steps, self._steps + 1
        if step in self._fail_at:
            raise BackendError(f"step {step} fails by script", expected="a step that works", fix="none: it is a test")
        for slot, outputs in enumerate(answers):
            for name, buffer in self._outputs.items():
                np.copyto(buffer[slot : slot + 1], outputs[name])
        self.state.advance()
        return self._outputs

    def rehearse(self) -> None:
        self._run()

    def close(self) -> None:
        self._closed = True
        self.state.release()

    def _run(self) -> list[Arrays]:
        if self._closed:
            raise ClosedError("a closed backend", expected="an open one", fix="open the bundle again")
        return [self._run_one(slot) for slot in range(self.spec.batch)]

    def _run_one(self, slot: int) -> Arrays:
        dt = () if self.spec.dt is None else (float(self.dt[slot, 0]),)
        outputs, after = self._script(self.frames[slot], self.state.snapshot(slot), *dt)
        if after.keys() != {pair.input for pair in self.spec.states}:
            raise BackendError(
                f"the script returned the states {sorted(after)}",
                expected=f"every state of the model: {[pair.input for pair in self.spec.states]}",
                fix="return the new value of each state under its input's name",
            )
        for name, value in after.items():
            np.copyto(self.state.buffers(1 - self.state.side)[name][:, slot : slot + 1], value)
        return outputs
