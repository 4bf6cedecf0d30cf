"""A run's account as a page and a picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from edge_cnnlstm.report.page import page
from edge_cnnlstm.report.scores import NOTHING
from edge_cnnlstm.report.streaming_plots import ages_picture, gaps_matter, timeline_picture, whole_picture


def streaming_report(account: Mapping[str, Any]) -> tuple[str, bytes]:
    """Return the page for what `edge-cnnlstm run` found, and a PNG of its ages and its time line."""
    html = page(
        "streaming.html.j2",
        **account,
        ages=ages_picture(account),
        drawn_timeline=timeline_picture(account),
        gaps_matter=gaps_matter(account),
        outcome=dict(_outcome(account)),
        settings=dict(_settings(account)),
        limits=list(_limits(account)),
    )
    return html, whole_picture(account)


def _outcome(account: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if account["deadline_ms"] is not None:
        yield f"later than {account['deadline_ms']:.2f} ms", f"{account['deadline_misses']}"
        yield "longest run of these", f"{account['longest_miss_burst']}"
    yield "answers a second", NOTHING if account["fps"] is None else f"{account['fps']:.2f}"
    yield "jitter", _spread(account["jitter_ms"])
    idle = account["first_after_idle_ms"]
    yield "came after a second of nothing", f"{idle['count']}"
    if idle["count"]:
        yield "their age", _spread(idle)
    if account["clock_faults"]:
        yield "captured in the future", f"{account['clock_faults']}"


def _spread(values: Mapping[str, float | None]) -> str:
    shown = (f"{name} {values[name]:.2f}" for name in ("p50", "p99", "max") if values[name] is not None)
    return f"{joined} ms" if (joined := ", ".join(shown)) else NOTHING


def _settings(account: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    rules, realtime = account["rules"], account["realtime"]
    yield "source", account["source"]
    yield "frames a second", "as they come" if account["rate"] is None else f"{account['rate']:g}"
    yield "late frames", account["policy"]
    yield "backend", f"{account['backend']}, cores a step: {account['threads']}"
    yield "graph", account["graph"] or NOTHING
    for name, limit in (("gap that empties the memory", rules["gap_ms"]), ("idling that does", rules["idle_ms"])):
        yield name, "none" if limit is None else f"{limit:g} ms"
    yield "also emptied at", _listed({"a change of source": rules["source_change"], "a step back": rules["seek"]})
    yield (
        "realtime",
        _listed(
            {
                "kept warm": realtime["keep_warm"],
                f"spinning for {realtime['spin_us']} µs": realtime["spin_us"],
                "no garbage collector": realtime["freeze_collector"],
                f"SCHED_FIFO {realtime['priority']}": realtime["priority"],
            }
        ),
    )
    yield "answers went to", ", ".join(account["sinks"]) or "nothing"


def _listed(options: Mapping[str, object]) -> str:
    return ", ".join(name for name, on in options.items() if on) or "nothing"


def _limits(account: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a reader might take the figures for, though they are not."""
    if account["live"]:
        yield "A frame's age begins when the driver handed it over: exposure, readout and transfer are not in it."
    elif account["rate"] is not None:
        yield "A recording was replayed: no camera, and none of the load that one puts on the machine, is in it."
    else:
        yield "Frames came as fast as the file was read, not as a camera sends them: ages are mostly time in a queue."
    if account["policy"].startswith("skip-"):
        yield f"{account['policy']} drops frames by choice: those are no sign of a machine that is too slow."
    telemetry = account["telemetry"]
    if telemetry is None:
        yield "Nothing watched the machine: whether heat or power slowed it down meanwhile is not known."
    elif telemetry["verdict"]["valid"] is None:
        yield "This machine does not say, or not to the end, whether heat or power slowed it down."
    if account["response_frames"] < account["predicted"] + account["dropped"] + account["lost"]:
        yield "Frames that were dropped before the first answer or after the last one have no age anywhere."
    if account["deadline_ms"] is not None and account["dropped"]:
        yield "A dropped frame is not counted as late, though it was never answered."
    if account["sinks"]:
        yield "The time that it took to write the answers is not part of the age; it only makes the next frame older."
    yield f"Percentiles may be up to {account['relative_error']:.1%} too high, the maximum is exact."
    yield "How often the answers were right is not looked at here: that is what `edge-cnnlstm evaluate` is for."
