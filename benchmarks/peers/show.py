"""The comparison as tables, and one picture of them."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from benchmarks.goals import Figure, Rounds, ratio
from benchmarks.peers.figures import counted
from benchmarks.peers.ours import AGAIN
from benchmarks.peers.reading import Case, groups, own, timed
from benchmarks.show import Picture, Section, Table, figures_table
from benchmarks.statistics import SAMPLES_FOR, percentile

FEW, STRAYS = "*", "†"
CLOSED = (
    "Of ours the whole step, uint8 frame in and label out, in Python; of a peer its engine's bare call, the frame laid "
    "beforehand. Its whole answer is that call as people write it: lay, run, read the outputs, take the label."
)
PACED = (
    "From the instant a frame was due to its label. Ours with everything that --realtime switches on, and untuned; "
    "peers as they are commonly used: asleep between frames, on all cores where they do not choose, with no priority."
)
EQUAL = f"{STRAYS} loses more than half a point to FP32: not the same work, and no peer in any figure."
TAKING_PART = (
    "Same weights, same frames; every case has a process of its own, and in every round each has one turn, in an order "
    "drawn anew."
)
WARM_UP = (
    "Each turn begins with {warm_up_frames} frames that are not counted, after the golden rollout when the engine "
    "was opened: more than any engine's documentation asks for. The garbage collector is off meanwhile. While "
    "others had their turns, no process used more than {waiting:.2f} s of CPU."
)
ACCURACY = (
    "Agreement: share of the {rollout} frames of one rollout, memory carried without a reset, with the label of FP32 "
    "in ONNX Runtime. Accuracy: share with the right label, where it is known. Deviation: the largest difference of an "
    "output from FP32's over the golden rollout, relative to that output's largest value."
)
EQUALLY = "Back to back, nobody has a priority that others have not. A ratio above 1 says that ours takes longer."
NOTES = (TAKING_PART, WARM_UP, ACCURACY, EQUALLY)


def section(report: dict[str, Any]) -> Section:
    """Return what the suite shows of its report."""
    figures = [row for row in report["ratios"] if row["goal"] is not None or row["name"].startswith(AGAIN)]
    tables = [figures_table(report | {"ratios": figures})]
    tables += [_closed(group, threads) for threads, group in groups(report)]
    if report["paced"]:
        tables.append(_paced(report["paced"]))
    tables.append(_settings(report))
    told = report["plan"] | {"rollout": f"{report['rollout']['frames']:,}", "waiting": _waiting(report)}
    notes = [*report["disturbances"], *(note.format(**told) for note in NOTES)]
    return Section("Peers", tables, _pictures(report), notes, report["missing"])


def _waiting(report: dict[str, Any]) -> float:
    return max(float(sum(case["waiting_cpu_s"])) for case in (*report["closed"], *report["paced"]))


def _pictures(report: dict[str, Any]) -> list[Picture]:
    if find_spec("matplotlib") is None:
        return []
    from benchmarks.peers.plot import beside_ours

    title = "The time of one frame, as a multiple of ours"
    return [
        Picture(
            title,
            beside_ours(report),
            "Median round and its 95 % interval; a case right of the line takes longer than ours. Filled: what a case "
            "is compared by; hollow: a peer's whole answer.",
        )
    ]


def _closed(cases: list[Case], threads: int) -> Table:
    ours = own(cases)
    columns = ("case", "precision", "p50, µs", "p99, µs", "p99 ÷ p50", "ours ÷ it", "whole, p50, µs", "ours ÷ whole")
    rows = []
    for case in _fastest_first(cases):
        whole = ("", "") if case["bare_ns"] is None else (_us(case["whole_ns"], 50), _ratio(ours, case["whole_ns"]))
        beside = "" if case is ours else _ratio(ours, timed(case))
        rows.append((*_who(case), *_tails(timed(case)), beside, *whole, *_accuracy(case)))
    title = f"Back to back, {counted(threads)}"
    return Table(title, (*columns, "agreement", "accuracy", "deviation"), rows, _caption(CLOSED, cases))


def _paced(cases: list[Case]) -> Table:
    ours = own(cases)
    columns = ("case", "precision", "p50, µs", "p99, µs", "p99 ÷ p50", "ours ÷ it", "share of a core")
    rows = []
    for case in _fastest_first(cases):
        share = percentile([round(1000 * share) for share in case["core_share"]], 50) / 10
        beside = "" if case is ours else _ratio(ours, timed(case))
        rows.append((*_who(case), *_tails(timed(case)), beside, f"{share:.1f} %", *_accuracy(case)))
    return Table(
        "One frame every 33 ms", (*columns, "agreement", "accuracy", "deviation"), rows, _caption(PACED, cases)
    )


def _settings(report: dict[str, Any]) -> Table:
    cases = {f"{case['about']['name']}, paced": case for case in report["paced"]}
    cases |= {case["about"]["name"]: case for case in report["closed"]}
    return Table("Settings", ("case", "how"), [(name, case["about"]["settings"]) for name, case in cases.items()])


def _caption(text: str, cases: list[Case]) -> str:
    notes = [text]
    if any(_few(timed(case)) for case in cases):
        notes.append(f"{FEW} from fewer than {SAMPLES_FOR['p99']:,} samples: too few to depend on a p99.")
    if not all(case["accuracy"]["equal"] for case in cases):
        notes.append(EQUAL)
    return " ".join(notes)


def _fastest_first(cases: list[Case]) -> list[Case]:
    return sorted(cases, key=lambda case: percentile(_all(timed(case)), 50))


def _who(case: Case) -> tuple[str, str]:
    about = case["about"]
    return about["name"] + ("" if case["accuracy"]["equal"] else f" {STRAYS}"), about["precision"]


def _tails(rounds: Rounds) -> tuple[str, str, str]:
    samples = _all(rounds)
    few = FEW if _few(rounds) else ""
    p50, p99 = percentile(samples, 50), percentile(samples, 99)
    return _us(rounds, 50), few + _us(rounds, 99), f"{few}{p99 / p50:.2f}"


def _accuracy(case: Case) -> tuple[str, str, str]:
    found, strays = case["accuracy"], case["deviation"]
    return (
        f"{found['agreement']:.2%}",
        "" if found["accuracy"] is None else f"{found['accuracy']:.2%}",
        "not finite" if strays is None else f"{strays:.2g}",
    )


def _ratio(ours: Case, other: Rounds) -> str:
    found: Figure = ratio("", timed(ours), other)
    return f"{found.value:.2f}" + ("" if found.low is None else f" ({found.low:.2f}–{found.high:.2f})")


def _us(rounds: Rounds, percent: float) -> str:
    return f"{percentile(_all(rounds), percent) / 1e3:,.0f}"


def _few(rounds: Rounds) -> bool:
    return len(_all(rounds)) < SAMPLES_FOR["p99"]


def _all(rounds: Rounds) -> list[int]:
    return [sample for turn in rounds for sample in turn]
