"""What becomes of a camera's frames when the network is too slow for them, by each late-frame policy.

Frame i comes at time i, counted in periods of the camera. It is judged at the end of its period, when the next frame
comes, by the latest answer that there is then: a network that needs one period for a frame, and no more, has answered.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Policy = Literal["newest", "every", "skip-k"]
POLICIES: tuple[Policy, ...] = get_args(Policy)
QUEUE_FRAMES = 32
"""Frames that `every` lets wait, as in `runtime.pipeline`; of a camera, which does not wait, further ones are lost."""
EMPTY_AFTER = 2
"""So many frames missed in a row, or more, and the state rule empties a memory that is not told of them."""
LONG_RUN = 10_000


@dataclass(frozen=True, slots=True)
class Course:
    """What became of the frames of one video.

    `taken` int64 [n], ascending, are those that the network got. `answered` int64 [frames] is, for each frame, the one
    whose answer is the latest at the end of its period; −1 before the first. `dropped` counts the frames that were not
    taken, those still waiting at the end among them, and `waited` is the most that ever waited at once.
    """

    taken: NDArray[np.int64]
    answered: NDArray[np.int64]
    dropped: int
    waited: int

    @property
    def ages(self) -> NDArray[np.int64]:
        """How many frames old each answer is, int64 [frames]; 0 is an answer about the frame itself."""
        return np.arange(len(self.answered)) - self.answered


def service_times(frames: int, load: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw how long each frame takes, in periods, when there is no time for the share `load`, 0..1, of all frames.

    One period, and longer by up to twice what leaves no time for them, uniformly. The first takes one period, so that
    an answer is there from the first frame on, and every load is judged on the same frames.
    """
    longer = 2 * _excess(load) * rng.random(frames)
    longer[:1] = 0
    return 1 + longer


def skipped(load: float) -> int:
    """Return the k of `skip-k` under this load: the fewest frames to skip that leave time for the slowest service."""
    return math.ceil(round(2 * _excess(load), 9))


def course(policy: Policy, service: NDArray[np.float64], load: float) -> Course:
    """Return what becomes of as many frames as there are service times, the n-th frame taken needing the n-th of them.

    `newest` lets one frame wait, and replaces it when another comes. `every` lets `QUEUE_FRAMES` wait, and loses what
    comes when they do. `skip-k` looks at one frame of k + 1.
    """
    every = skipped(load) + 1 if policy == "skip-k" else 1
    room = QUEUE_FRAMES if policy == "every" else 1
    waiting: deque[int] = deque()
    taken: list[int] = []
    done: list[float] = [0.0]
    waited = 0
    for now in range(len(service)):
        _serve(waiting, taken, done, service, now)
        if now % every == 0 and (len(waiting) < room or policy != "every"):
            if len(waiting) == room:
                waiting.popleft()
            waiting.append(now)
        waited = max(waited, len(waiting))
        _serve(waiting, taken, done, service, now)
    ends = np.arange(1, len(service) + 1)
    latest = np.searchsorted(done[1:], ends, side="right") - 1
    answered = np.where(latest >= 0, np.array(taken, np.int64)[latest], -1)
    return Course(np.array(taken, np.int64), answered, len(service) - len(taken), waited)


@cache
def settled_age(policy: Policy, load: float) -> float:
    """Return how many frames old answers are, on average over the last tenth of a stream of `LONG_RUN` frames."""
    service = service_times(LONG_RUN, load, np.random.default_rng(0))
    return float(course(policy, service, load).ages[-LONG_RUN // 10 :].mean())


def _serve(waiting: deque[int], taken: list[int], done: list[float], service: NDArray[np.float64], now: int) -> None:
    """Take what waits for as long as the network is free by `now`."""
    while waiting and done[-1] <= now:
        frame = waiting.popleft()
        done.append(max(done[-1], frame) + float(service[len(taken)]))
        taken.append(frame)


def _excess(load: float) -> float:
    """Return by how many periods a frame takes longer than one on average, when there is no time for this share."""
    return load / (1 - load)
