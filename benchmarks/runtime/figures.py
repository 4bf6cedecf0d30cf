"""The runtime's figures: which measurement each is read from, and its goal."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.goals import Figure
from benchmarks.goals import median as _figure

Answers = Sequence[dict[str, Any]]
"""What one measurement answered, round by round."""
Rounds = dict[str, Answers]
"""By the measurement's name."""


def figures(rounds: Rounds) -> list[Figure]:
    """Return every figure that the measurements at hand allow."""
    found = _overhead(rounds) + _release(rounds) + _paced(rounds) + _together(rounds) + _soak(rounds)
    return found + _retained(rounds) + _cold(rounds)


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
    peers = [name for name in rounds if name.startswith("paced peer")]
    best = min(peers, key=lambda name: statistics.median(answer["p50_us"] for answer in rounds[name]))
    p50: Callable[[dict[str, Any]], float] = lambda answer: answer["p50_us"]  # noqa: E731 - a name for a key
    return [
        _figure("paced ÷ closed loop, p50", _over(rounds, "paced ours", "closed", p50), _samples(ours), 1.3),
        _figure(
            "paced untuned ÷ closed loop, p50", _over(rounds, "paced untuned", "closed", p50), _samples(ours), None
        ),
        _figure("cost of streaming on time, % of a core", [100 * a["core_share"] for a in ours], _samples(ours), 5),
        _figure("of streaming untuned", [100 * a["core_share"] for a in rounds["paced untuned"]], _samples(ours), None),
        _figure("of the best peer, paced", [100 * a["core_share"] for a in rounds[best]], _samples(rounds[best]), None),
        _figure(
            f"ours paced ÷ best peer paced ({best.removeprefix('paced peer ')}), p50",
            _over(rounds, "paced ours", best, p50),
            _samples(ours),
            0.35,
        ),
    ]


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
    ]


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
    ]


def _cold(rounds: Rounds) -> list[Figure]:
    if "cold torch" not in rounds:
        return []
    count = len(rounds["cold torch"])
    return [
        _figure(
            f"torch ÷ ours, {name} to the first answer",
            _over(rounds, "cold torch", "cold ours", lambda answer, key=key: answer[key]),  # type: ignore[misc]  # mypy has no type for a default here
            count,
            8,
            at_most=False,
        )
        for name, key in (("time from start", "seconds"), ("memory", "bytes"))
    ]
