"""The account of a run becomes one page that carries everything inside, and says nothing that the account does not."""

from __future__ import annotations

import base64
import html as html_module
import json
import re
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure

from edge_cnnlstm.report import streaming, streaming_plots
from edge_cnnlstm.report.streaming import streaming_report
from edge_cnnlstm.runtime.account import Settings, account
from edge_cnnlstm.runtime.backends.scripted import Script, ScriptedBackend
from edge_cnnlstm.runtime.latency import Timings
from edge_cnnlstm.runtime.mailbox import Counts
from edge_cnnlstm.runtime.realtime import OFF, Realtime
from edge_cnnlstm.runtime.stream import Stream
from edge_cnnlstm.spec import ModelSpec

MS = 1_000_000
START = 77_000 * MS
HTML = "<script>alert('$x$')</script>"
NUMBER = re.compile(r"(?<![\w.])\d+(?:[.,:/-]\d+)*(?![\w])")


class Maker:
    """Makes accounts of runs that never were, so that every age in them is known."""

    def __init__(self, spec: ModelSpec, script: Script) -> None:
        self._spec, self._script = spec, script

    def __call__(
        self,
        ages_ms: list[float],
        *,
        lost: dict[int, int] | None = None,
        counts: Counts | None = None,
        deadline_ms: float | None = 20.0,
        telemetry: dict[str, Any] | None = None,
        error: str | None = None,
        **settings: Any,
    ) -> dict[str, Any]:
        """Frames came every 33 ms, and `lost[i]` of them were without an answer just before the i-th that had one."""
        lost = lost or {}
        stream = Stream(ScriptedBackend(self._spec, self._script), deadline_ms=deadline_ms)
        frame = 0
        for at, age in enumerate(ages_ms):
            frame += 1 + lost.get(at, 0)
            whole = round(age * MS)
            parts = (whole // 2, whole // 8, whole // 4)
            timings = Timings(*parts, whole - sum(parts), whole)
            stream.latency.record(START + frame * 33 * MS, timings, lost.get(at, 0), 33 * MS)
        dropped = sum(lost.values())
        counts = counts or Counts(len(ages_ms) + dropped, len(ages_ms), dropped)
        given = {"bundle": "tiny.edge", "source": "v.mp4", "live": False, "rate": 30.0, "policy": "newest"}
        given |= {"threads": 1, "realtime": OFF} | settings
        found = account(
            stream,
            counts,
            Settings(**given),
            started=datetime(2026, 5, 4, 3, 2, 1, tzinfo=timezone.utc),
            telemetry=telemetry,
            error=error,
        )
        return dict(json.loads(json.dumps(found)))


@pytest.fixture
def make(tiny_spec: ModelSpec, tiny_script: Script) -> Maker:
    return Maker(tiny_spec, tiny_script)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the pictures out of the page: drawing them takes longer than all the rest."""
    for name in ("ages_picture", "timeline_picture", "whole_picture"):
        monkeypatch.setattr(streaming, name, lambda _: b"\x89PNG")


def stalled(count: int = 60) -> list[float]:
    ages = np.random.default_rng(3).lognormal(0.5, 0.2, count)
    ages[30:33] = (150.0, 117.25, 84.5)
    return [float(age) for age in ages]


def hot(valid: bool | None = False) -> dict[str, Any]:
    """Telemetry that began 1 s before the first frame, and counted two throttle events 1 s after it."""
    return {
        "started_ns": START + 33 * MS - 1000 * MS,
        "times_s": [0.0, 1.0, 2.0, 3.0],
        "series": {
            "power_mw": {"VDD_IN": [5000.0, 6000.0, None, 7000.0]},
            "clocks_mhz": {"cpu": [1500.0, 1500.0, 900.0, 900.0], "gpu": [None] * 4},
            "temperatures_c": {f"zone{number}": [50.0 + number] * 4 for number in range(9)},
            "utilisation": {},
            "throttle": {"oc3": [7, 7, 9, 9]},
        },
        "verdict": {"valid": valid, "reasons": ["oc3 rose by 2"] if valid is False else []},
    }


def text_of(html: str) -> str:
    body = re.sub(r"<style>.*?</style>", " ", html, flags=re.DOTALL)
    return " ".join(html_module.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def pictures(html: str) -> list[np.ndarray[Any, Any]]:
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    return [cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR) for data in found]


def leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for name, one in value.items():
            yield name
            yield from leaves(one)
    elif isinstance(value, list):
        for one in value:
            yield from leaves(one)
    else:
        yield value


def sayable(found: dict[str, Any]) -> set[str]:
    """Every number of an account, as a page may write it; without histograms and series, which hold nearly all."""
    series = ("age_histogram_ns", "response_histogram_ns", "telemetry", "timeline")
    told: set[str] = {f"{found['timeline']['width_s']:g}", f"{found['relative_error']:.1%}".rstrip("%")}
    for value in leaves({name: value for name, value in found.items() if name not in series}):
        if isinstance(value, str):
            told |= set(re.findall(r"\d+(?:[.,:/-]\d+)*", value.replace("T", " ")))
            told |= {value.replace("T", " ")[11:16]}
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            told |= {f"{value:.2f}", f"{value:g}", str(value), f"{value:,}"}
    return told


@pytest.mark.parametrize("telemetry", [None, hot(), hot(None)])
@pytest.mark.usefixtures("undrawn")
def test_every_number_on_the_page_is_in_the_account(make: Maker, telemetry: dict[str, Any] | None) -> None:
    found = make(
        stalled(),
        lost={10: 4, 33: 2},
        counts=Counts(70, 60, 10, refused=1, lost=3),
        telemetry=telemetry,
        realtime=Realtime(),
        error="camera 5 went away",
    )
    page, _ = streaming_report(found)

    said = NUMBER.findall(text_of(page))
    assert len(said) > 60
    assert set(said) - sayable(found) == set()


def test_the_page_asks_nothing_of_the_network_and_escapes_what_others_wrote(make: Maker) -> None:
    telemetry = hot()
    telemetry["verdict"]["reasons"] = [HTML]
    telemetry["series"]["temperatures_c"] = {HTML: [1.0, 2.0, 3.0, 4.0]}
    found = make(stalled(), telemetry=telemetry, error=HTML, bundle=HTML, source=HTML, sinks=(HTML,))
    page, png = streaming_report(found)

    for request in ("<script", "http:", "https:", "url(", "@import", "<link"):
        assert request not in page
    assert page.count("&lt;script&gt;") >= 5
    assert len(pictures(page)) == 2
    assert all(picture.std() > 5 for picture in pictures(page))
    assert png.startswith(b"\x89PNG")


@pytest.mark.parametrize("count", [0, 1, 2])
@pytest.mark.parametrize("deadline_ms", [None, 0.5, 500.0])
def test_a_run_of_hardly_any_frames_can_be_reported(make: Maker, count: int, deadline_ms: float | None) -> None:
    found = make([3.0, 4.0][:count], deadline_ms=deadline_ms, counts=Counts(count + 4, count, 4, refused=4))
    page, png = streaming_report(found)

    text = text_of(page)
    assert f"{count + 4} frames in = {count} predicted + 4 dropped. Of those dropped, 4 were refused" in text
    assert ("no frame was predicted" in text) == (count == 0)
    assert "nan" not in text.lower()
    assert "None" not in text
    assert cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR) is not None


def test_frames_without_an_answer_get_a_histogram_of_their_own_kind(
    make: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm, gappy = make([2.0] * 40), make([2.0] * 40, lost={20: 5})

    assert not streaming_plots.gaps_matter(calm)
    assert streaming_plots.gaps_matter(gappy)
    first, second = (drawn(monkeypatch, found) for found in (calm, gappy))
    assert len(second.axes) == len(first.axes) + 1
    # The five came 33 ms apart: the oldest of them waited for 5 × 33 ms and the next one's age.
    assert "p99, p99.9, max  167.00 ms" in [mark.get_text() for mark in second.axes[1].texts]


def drawn(monkeypatch: pytest.MonkeyPatch, found: dict[str, Any]) -> Figure:
    """Return the figure that the picture of the whole run is made of."""
    kept: list[Figure] = []

    def keep(figure: Figure, *, dpi: int) -> bytes:
        kept.append(figure)
        return bytes([dpi])

    monkeypatch.setattr(streaming_plots, "png", keep)
    streaming_plots.whole_picture(found)
    return kept[0]


def test_the_deadline_and_every_percentile_are_marked_where_they_are(
    make: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = make(stalled(), lost={33: 6})
    every, answered = found["response_ms"], found["latency_ms"]["age"]
    panels = drawn(monkeypatch, found).axes[:2]

    for axes, summary in zip(panels, (answered, every), strict=True):
        marked = {mark.get_text(): float(mark.xy[0]) for mark in axes.texts}  # type: ignore[attr-defined]
        for name in ("p50", "p99", "max"):
            (said,) = [said for said in marked if re.search(rf"\b{name}(,|  )", said)]
            assert said.endswith(f"  {summary[name]:.2f} ms")
            assert marked[said] == summary[name]
        assert marked["deadline  20.00 ms"] == 20.0
        assert axes.get_xscale() == "log"
        low, high = axes.get_xlim()
        assert low < min(marked.values()) <= max(marked.values()) < high


def test_without_a_tail_the_axis_is_linear(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    axes, *_ = drawn(monkeypatch, make([2.0, 2.2, 2.4, 3.0], deadline_ms=5.0)).axes
    assert axes.get_xscale() == "linear"
    assert axes.get_xlim()[0] == 0


@pytest.mark.parametrize("count", [1, 2, 60, 5000])
def test_bars_hold_every_frame_once(make: Maker, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    found = make((stalled(max(count, 40)) * 2)[:count])
    axes, *_ = drawn(monkeypatch, found).axes
    heights = np.asarray(axes.patches[0].get_data().values)  # type: ignore[attr-defined]
    assert heights.sum() == pytest.approx(count, rel=1e-6)
    if count < streaming_plots.FEW:
        assert np.all(heights == heights.round())


def test_what_went_wrong_is_marked_when_it_did_by_sign_and_by_word(
    make: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = make(stalled(), lost={33: 6}, telemetry=hot())
    events = drawn(monkeypatch, found).axes[3]

    names = [label.get_text() for label in events.get_yticklabels()]
    assert names == ["no answer: 6", "late: 3", "throttled: 2"]
    lines = events.get_lines()
    assert len({line.get_marker() for line in lines}) == len({line.get_color() for line in lines}) == 3
    width = found["timeline"]["width_s"]
    decided = [(30 + at) * 0.033 + age / 1000 for at, age in enumerate(stalled()[30:33])]
    assert list(lines[1].get_xdata()) == pytest.approx(sorted({(at // width + 0.5) * width for at in decided}))
    # Two samples after the recorder began, which was 1 s before the first frame.
    assert list(lines[2].get_xdata()) == pytest.approx([1.0], abs=0.01)


def test_telemetry_lies_on_the_same_axis_of_time(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    found = make(stalled(), telemetry=hot())
    _, course, events, *series = drawn(monkeypatch, found).axes

    assert [axes.get_ylabel() for axes in series] == ["°C", "MHz", "W"]
    assert {axes.get_xlim() for axes in (course, events, *series)} == {course.get_xlim()}
    assert {round(axes.get_position().x0, 6) for axes in (course, *series)} == {round(course.get_position().x0, 6)}
    # The hottest of nine zones; no curve for a clock that nobody knows.
    legend = [entry.get_text() for axes in series for entry in axes.get_legend().get_texts()]  # type: ignore[union-attr]
    assert legend == ["zone8", "zone7", "zone6", "zone5", "zone4", "zone3", "cpu", "VDD_IN"]
    np.testing.assert_allclose(np.asarray(series[2].get_lines()[0].get_xdata(), float), [-1, 0, 1, 2], atol=0.01)
    np.testing.assert_allclose(np.asarray(series[2].get_lines()[0].get_ydata(), float), [5, 6, np.nan, 7])


def test_an_invalid_run_says_so_first_on_the_page_and_in_the_picture(
    make: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = make(stalled(), telemetry=hot())
    assert drawn(monkeypatch, found).texts[0].get_text() == "INVALID: oc3 rose by 2"
    valid = make(stalled(), telemetry=hot(valid=True))
    assert "INVALID" not in text_of(streaming_report(valid)[0])
    assert text_of(streaming_report(found)[0]).index("INVALID.") < 200


LIMITS = {
    "driver handed it over": {"live": True},
    "A recording was replayed": {},
    "as fast as the file was read": {"rate": None},
    "Nothing watched the machine": {},
    "does not say, or not to the end": {"telemetry": hot(None)},
    "before the first answer or after the last one": {"counts": Counts(9, 3, 6)},
    "is not counted as late": {"counts": Counts(9, 3, 6)},
    "to write the answers": {"sinks": ("csv",)},
    "by choice": {"policy": "skip-3"},
    "0.8% too high": {},
    "edge-cnnlstm evaluate": {},
}


@pytest.mark.parametrize("said", LIMITS)
@pytest.mark.usefixtures("undrawn")
def test_what_the_figures_do_not_say_is_said(make: Maker, said: str) -> None:
    assert said in text_of(streaming_report(make([1.0, 2.0, 3.0], **LIMITS[said]))[0])


@pytest.mark.usefixtures("undrawn")
def test_limits_that_do_not_apply_are_left_out(make: Maker) -> None:
    text = text_of(streaming_report(make([1.0, 2.0, 3.0], deadline_ms=None, telemetry=hot(valid=True)))[0])
    shown = {said for said in LIMITS if said in text}
    assert shown == {"A recording was replayed", "0.8% too high", "edge-cnnlstm evaluate"}


@pytest.mark.usefixtures("undrawn")
def test_so_many_answers_make_a_percentile_dependable(make: Maker) -> None:
    assert "A p99 to depend on takes 2,010 answers; these are 2009" in text_of(streaming_report(make([1.0] * 2009))[0])
    enough = text_of(streaming_report(make([1.0] * 2010))[0])
    assert "A p99 to depend on" not in enough
    assert "A p99.9 to depend on takes 20,140 answers; these are 2010" in enough
