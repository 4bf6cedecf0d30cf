"""The runtime's figures: which measurement each is read from, and its goal."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

from benchmarks.goals import Figure
from benchmarks.goals import median as _figure
from benchmarks.runtime.recovery import STALL_S
from benchmarks.runtime.slope import slope
from benchmarks.statistics import SAMPLES_FOR, percentile

Answers = Sequence[dict[str, Any]]
"""What one measurement answered, round by round."""
Rounds = dict[str, Answers]
"""By the measurement's name."""


def figures(rounds: Rounds) -> list[Figure]:
    """Return every figure that the measurements at hand allow."""
    found = _overhead(rounds) + _release(rounds) + _paced(rounds) + _jitter(rounds) + _recovery(rounds)
    return found + _together(rounds) + _soak(rounds) + _retained(rounds) + _cold(rounds)


def _over(rounds: Rounds, upper: str, lower: str, value: Callable[[dict[str, Any]], float]) -> list[float]:
    return [value(over) / value(under) for over, under in zip(rounds[upper], rounds[lower], strict=True)]


def _samples(answers: Answers) -> int:
    return sum(answer["samples"] for answer in answers)


def _overhead(rounds: Rounds) -> list[Figure]:
    answers = rounds.get("overhead", [])
    if not answers:
        return []
    count = _samples(answers)

    def over(tail: str) -> list[float]:
        return [answer["step_us"][tail] - answer["bare_us"][tail] for answer in answers]

    return [
        _figure("step − bare engine call, p50, µs", over("p50"), count, 10),
        _figure("step − bare engine call, p99, µs", over("p99"), count, 20),
        _figure(
            "step ÷ bare engine call, p50", [a["step_us"]["p50"] / a["bare_us"]["p50"] for a in answers], count, None
        ),
        _figure("224×224 frame into the engine's input, p50, µs", [a["copy_us"]["p50"] for a in answers], count, 3),
    ]


def _release(rounds: Rounds) -> list[Figure]:
    found = []
    for kind, goals in (("spun", (1, 50)), ("slept", (None, None))):
        answers = rounds.get(f"release {kind}", [])
        for tail, goal in zip(("p99", "p99_9"), goals, strict=True) if answers else ():
            name = f"release lateness, {kind}, {tail.replace('_', '.')}, µs"
            found.append(_figure(name, [answer[tail] for answer in answers], _samples(answers), goal))
    if "release spun" in rounds:
        share = [100 * answer["core_share_at_30_hz"] for answer in rounds["release spun"]]
        found.append(_figure("cost of spinning at 30 Hz, % of a core", share, _samples(rounds["release spun"]), 1))
    return found


def _paced(rounds: Rounds) -> list[Figure]:
    if "paced ours" not in rounds:
        return []
    ours = rounds["paced ours"]
    p50: Callable[[dict[str, Any]], float] = lambda answer: answer["p50_us"]  # noqa: E731 - a name for a key
    return [
        _figure(
            "control: closed loop ÷ itself, p50",
            _over(rounds, "closed again", "closed", p50),
            _samples(rounds["closed"]),
        ),
        _figure("paced ÷ closed loop, p50", _over(rounds, "paced ours", "closed", p50), _samples(ours), 1.3),
        _figure(
            "paced untuned ÷ closed loop, p50", _over(rounds, "paced untuned", "closed", p50), _samples(ours), None
        ),
        _figure("cost of streaming on time, % of a core", [100 * a["core_share"] for a in ours], _samples(ours), 5),
        _figure("of streaming untuned", [100 * a["core_share"] for a in rounds["paced untuned"]], _samples(ours), None),
    ]


def _jitter(rounds: Rounds) -> list[Figure]:
    """How evenly decisions come: over the rounds, the median of their intervals' standard deviations, and the p99 of
    all, where there are enough.
    """
    found = []
    for kind in ("ours", "untuned"):
        intervals = [answer["intervals_ns"] for answer in rounds.get(f"paced {kind}", [])]
        pooled = [each for one_round in intervals for each in one_round]
        name = f"interval between decisions, paced {kind}"
        if intervals:
            spread = [statistics.pstdev(one_round) / 1e3 for one_round in intervals]
            found.append(_figure(f"{name}, standard deviation, µs", spread, len(pooled)))
        if len(pooled) >= SAMPLES_FOR["p99"]:
            found.append(Figure(f"{name}, p99, ms", percentile(pooled, 99) / 1e6, len(pooled)))
    return found


def _recovery(rounds: Rounds) -> list[Figure]:
    found = []
    for name, answers in rounds.items():
        word, _, what = name.partition(" ")
        if word != "recovery":
            continue
        stalls, policy = what.split()
        stall = f"a {1000 * STALL_S:.0f} ms stall of the {stalls}, {policy}"
        recovered = [answer["recovery_ms"] for answer in answers if answer["recovery_ms"] is not None]
        if len(recovered) == len(answers):
            found.append(_figure(f"on time again after {stall}, ms", recovered, len(answers)))
        else:
            missed = Figure(f"rounds that did not recover from {stall}", len(answers) - len(recovered), len(answers))
            found.append(missed)
        found.append(_figure(f"frames dropped in {stall}", [a["dropped"] for a in answers], _samples(answers)))
    return found


def _together(rounds: Rounds) -> list[Figure]:
    return [
        _figure(
            f"{name}: batched ÷ in turn, throughput", [a["ratio"] for a in answers], _samples(answers), 2, at_most=False
        )
        for name, answers in rounds.items()
        if "streams on" in name
    ]


def _soak(rounds: Rounds) -> list[Figure]:
    answers = rounds.get("soak", [])
    if not answers:
        return []
    frames, span = sum(answer["produced"] for answer in answers), answers[0]["seconds"]
    return [
        _figure(
            f"frames late or dropped in {span:.0f} s at 30 Hz", [a["late"] + a["dropped"] for a in answers], frames, 0
        ),
        _figure("longest collector pause, ms", [answer["collector_pause_ms"] for answer in answers], frames, 0.1),
        _figure("growth of resident memory meanwhile, MB", [a["grown_bytes"] / 1e6 for a in answers], frames, 1),
        *_slope(
            "resident memory, kB a minute", answers[0]["resident"]["seconds"], answers[0]["resident"]["bytes"], 1e3
        ),
        *_slope("mean age, µs a minute", answers[0]["ages"]["start_s"], answers[0]["ages"]["mean_age_ms"], 1e-3),
    ]


def _slope(what: str, seconds: Sequence[float], values: Sequence[float], unit: float) -> list[Figure]:
    found = slope(seconds, values)
    if found is None:
        return []
    value, low, high = (each / unit for each in (found.per_minute, found.low, found.high))
    return [Figure(f"slope of {what}", value, len(values), low, high)]


def _retained(rounds: Rounds) -> list[Figure]:
    answers = rounds.get("retained", [])
    if not answers:
        return []
    frames = answers[0]["samples"]
    return [
        _figure("bytes that Python retains a frame", [a["retained_bytes_a_frame"] for a in answers], frames, 0.1),
        _figure(
            f"growth of resident memory over {frames:,} frames, MB",
            [a["grown_bytes"] / 1e6 for a in answers],
            frames,
            1,
        ),
        _figure("resident memory then, MB", [a["resident_bytes"] / 1e6 for a in answers], frames),
    ]


def _cold(rounds: Rounds) -> list[Figure]:
    """Ours below torch, and what bounds it: numpy and ONNX Runtime with the same graph, and nothing else."""
    found = []
    sides = (("torch", "ours", 8), ("torch", "floor", None), ("ours", "floor", None))
    for upper, lower, goal in sides:
        if not {f"cold {upper}", f"cold {lower}"} <= rounds.keys():
            continue
        for name, key in _COLD.items():
            over = _over(rounds, f"cold {upper}", f"cold {lower}", itemgetter(key))
            held = None if key == "cpu_seconds" else goal
            title = f"{upper} ÷ {lower}, {name} to the first answer"
            found.append(_figure(title, over, len(over), held, at_most=False))
    if ours := rounds.get("cold ours"):
        found.append(_figure("ours, memory to the first answer, MB", [a["bytes"] / 1e6 for a in ours], len(ours)))
    return found


_COLD = {"time from start": "seconds", "processor time": "cpu_seconds", "memory": "bytes"}
