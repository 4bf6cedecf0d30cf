"""Holds how the short set is run and added up, and what a page shows of it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks import budgets, machine
from benchmarks.__main__ import app
from benchmarks.bench import command
from benchmarks.bench.plan import PEERS, SHORT, Subject, Suite
from benchmarks.peers.prepared import EVERY
from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.errors import ConfigError

REFUSED = Suite("agreement", "--frames 7")
LATENCY = Suite("latency", "--loop closed --backend onnxruntime --graph fp32 --rounds 6 --steps 3")


def test_every_suite_of_the_short_set_is_a_command_that_takes_its_options(nano: Path, tmp_path: Path) -> None:
    subject = Subject(nano, bundle_format.read(nano).manifest, tmp_path)
    assert set(PEERS) <= {peer.name for peer in EVERY}
    for suite in SHORT:
        words = suite.words(subject)
        asked = CliRunner().invoke(app, [words[0], "--help"], env={"COLUMNS": "200"}, catch_exceptions=False)
        assert asked.exit_code == 0
        for option in (word for word in [*words, "-o"] if word.startswith("-")):
            assert option in asked.stdout, f"{suite.name} {option}"


def test_a_suite_is_told_of_what_it_takes_and_no_more(nano: Path) -> None:
    trained = Subject(nano, bundle_format.read(nano).manifest, Path("trained"))
    path, alone = str(nano), replace(trained, checkpoint=None)
    assert Suite("a", "--b 1").words(trained) == ["a", path, "--b", "1"]
    assert Suite("a", checkpoint=True).words(trained) == ["a", path, "--checkpoint", "trained"]
    assert Suite("a", checkpoint=True).words(alone) == ["a", path]
    assert Suite("a", for_cpu=True).words(trained) == ["a", path, "--graph", "int8_onnxruntime"]
    assert Suite("a", goals={"nano": "--goal 2", "other": "--goal 3"}).words(trained) == ["a", path, "--goal", "2"]
    assert Suite("a", chosen=("x y", "z")).words(trained) == ["a", path, "--peer", "x y", "--peer", "z"]


def test_the_short_set_is_added_up_with_what_failed_and_held_against_its_budget(
    nano: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tight, folder = tmp_path / "budgets.toml", tmp_path / "results"
    tight.write_text('[any.nano]\n"onnxruntime fp32, control ÷ *" = { at_least = 1e6 }\n')
    monkeypatch.setattr(budgets.budget_for, "__defaults__", (tight,))
    monkeypatch.setattr(command, "SHORT", (REFUSED, LATENCY))

    done = CliRunner().invoke(app, ["bench", str(nano), "--results", str(folder)], catch_exceptions=False)

    assert done.exit_code == 1
    (written,) = folder.glob("*.json")
    assert written.name.startswith(f"{machine.slug()}-nano-20")
    report = json.loads(written.read_text())
    assert list(report["suites"]) == ["latency"]
    assert report["missing"] == {"agreement": "it ended with exit code 2: what it said stands above"}
    assert {row["suite"] for row in report["ratios"]} == {"latency"}
    assert len(report["ratios"]) == len(report["suites"]["latency"]["ratios"]) >= 1
    assert report["over_budget"]
    assert all("allowed at least 1e+06" in words for words in report["over_budget"])
    assert report["suites"]["latency"]["command"].startswith("python -m benchmarks latency nano.edge")
    assert str(tmp_path) not in written.read_text()

    page = written.with_suffix(".html").read_text()
    for expected in ("All figures", "Latency", report["suites"]["latency"]["command"]):
        assert expected in page
    assert not re.search(r"<script|https?://", page)
    again = CliRunner().invoke(app, ["page", str(written), "-o", str(tmp_path / "again.html")], catch_exceptions=False)
    assert again.exit_code == 0
    assert "Latency" in (tmp_path / "again.html").read_text()


def test_an_unknown_suite_is_refused(nano: Path) -> None:
    with pytest.raises(ConfigError, match="suite 'warmth'"):
        command.bench(nano, suites=["warmth"])


@pytest.mark.parametrize(
    ("content", "found"),
    [("{", "is no result"), ("[]", "is no result"), ('{"schema_version": 1, "suite": "engines"}', "schema version 1")],
)
def test_a_page_of_what_is_no_result_is_refused(content: str, found: str, tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text(content)

    done = CliRunner().invoke(app, ["page", str(tmp_path / "old.json"), "-o", str(tmp_path / "page.html")])

    assert isinstance(done.exception, ConfigError)
    assert found in done.exception.found


@pytest.mark.parametrize(
    ("model", "dot", "slug"),
    [
        ("AMD EPYC", None, "amd-epyc-2-cores-no-int8-dot"),
        ("Intel(R) Xeon(R) Platinum 8480+ CPU @ 2.0GHz", "amx_int8", "intel-xeon-platinum-8480-2-cores-amx-int8"),
        ("NVIDIA Jetson Orin Nano", "asimddp", "nvidia-jetson-orin-nano-2-cores-asimddp"),
    ],
)
def test_a_kind_of_machine_has_a_name_for_files(
    model: str, dot: str | None, slug: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine.provenance, "cpu_model", lambda: model)
    monkeypatch.setattr(machine.provenance, "int8_dot", lambda: dot)
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: {0, 1})

    assert machine.slug() == slug
