"""One comparison: who takes part, each in a process of its own, and what came of their turns."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.peers import ours
from benchmarks.peers.accuracy import Accuracy, judge, reference_labels, write_rollout
from benchmarks.peers.as_used import AS_USED, ENGINES
from benchmarks.peers.figures import About, Closed, Paced, closed_figures, counted, paced_figures
from benchmarks.peers.loops import RATE, WARM_UP_FRAMES
from benchmarks.peers.ours import OURS, OWN, UNTUNED, WINDOW, WINDOW_FRAMES
from benchmarks.peers.peer import Material, Peer
from benchmarks.peers.prepared import prepare, without_folders
from benchmarks.peers.worker import Job
from benchmarks.processes import Message, Turns, Worker, disturbance, take_turns
from benchmarks.progress import bar
from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.cli import console
from edge_cnnlstm.errors import BackendError
from edge_cnnlstm.runtime import choice
from edge_cnnlstm.runtime.choice import Candidate
from edge_cnnlstm.runtime.selection import sound_graphs


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured.

    For each number of `threads`, so many rounds, in which each case has one turn of `steps` back to back; then as many
    rounds with turns of `paced_frames` at 30 Hz, none if that is 0. `frames` is the length of the rollout for accuracy;
    `seed` draws the order of the turns.
    """

    threads: tuple[int, ...] = (1,)
    rounds: int = 7
    steps: int = 300
    paced_frames: int = 300
    frames: int = 2_000
    seed: int = 0

    def words(self, checkpoint: Path | None, peers: Sequence[str]) -> list[object]:
        """Return the options that repeat a run, with no folder of this machine."""
        words: list[object] = [] if checkpoint is None else ["--checkpoint", checkpoint.name]
        words += [word for name in peers for word in ("--peer", name)]
        words += [word for count in self.threads for word in ("--threads", count)]
        words += ["--rounds", self.rounds, "--steps", self.steps, "--paced-frames", self.paced_frames]
        return [*words, "--frames", self.frames, "--seed", self.seed]


class Comparison:
    """What takes part, made ready in a folder; `missing` says by name who does not and why, `order` who ran when."""

    def __init__(self, material: Material, plan: Plan, peers: Sequence[Peer], folder: Path) -> None:
        self._material, self._plan, self._folder = material, plan, folder
        bundle = bundle_format.read(material.bundle)
        self._manifest = bundle.manifest
        self.rollout = write_rollout(bundle, plan.frames, folder)
        self._reference = reference_labels(material.bundle, folder)
        self._paths, self.missing = prepare(peers, material, folder)
        self._peers = [peer for peer in peers if peer.name in self._paths]
        self.chosen: dict[int, Candidate] = {}
        self.order: dict[str, list[list[str]]] = {}
        self.disturbances: list[str] = []
        self._accuracy: dict[str, Accuracy] = {}

    def closed(self, threads: int) -> list[Closed]:
        """Measure every case back to back, with so many cores a step."""
        peers = [peer for peer in self._peers if peer not in AS_USED]
        jobs = [self._own(name, threads) for name in ours.CLOSED] + [self._job(peer, threads) for peer in peers]
        turns = self._take_turns(f"back to back, {counted(threads)}", jobs, {"steps": self._plan.steps})
        if threads == 1 and (kept := disturbance(turns.answers)) is not None:
            self.disturbances.append(kept)
        hows = dict.fromkeys(ours.CLOSED, "Stream.step") | {WINDOW: f"reset, {WINDOW_FRAMES} steps, one answer"}
        hows |= {peer.name: peer.settings for peer in peers}
        return [
            Closed(
                about=self._about(name, threads, hows[name]),
                threads=threads,
                whole_ns=turns.samples(name, "whole_ns"),
                bare_ns=None if name in OWN else turns.samples(name, "bare_ns"),
                accuracy=self._accuracy[name],
                deviation=turns.ready[name]["deviation"],
                waiting_cpu_s=[answer["waiting_cpu_s"] for answer in answers],
            )
            for name, answers in turns.answers.items()
        ]

    def paced(self) -> list[Paced]:
        """Measure our stream at 30 Hz, and peers as they are commonly used, on all cores where that is asked."""
        cores = len(os.sched_getaffinity(0))
        peers = [peer for peer in self._peers if peer in AS_USED or peer.family not in ENGINES]
        jobs = [self._own(name, 1) for name in ours.PACED] + [self._job(peer, cores) for peer in peers]
        turns = self._take_turns(f"at {RATE:g} Hz", jobs, {"frames": self._plan.paced_frames})
        permitted = "" if turns.answers[OURS][0]["first_in_line"] else ", which the system does not permit"
        hows = dict.fromkeys(ours.PACED, f"Pipeline with Realtime(): rehearsals, spinning, SCHED_FIFO{permitted}")
        hows |= {UNTUNED: "Pipeline"}
        hows |= {peer.name: peer.settings + ("" if peer in AS_USED else f"; {counted(cores)}") for peer in peers}
        return [
            Paced(
                about=self._about(name, 1, hows[name]),
                paced_ns=turns.samples(name, "paced_ns"),
                core_share=[answer["core_share"] for answer in answers],
                accuracy=self._accuracy[name],
                deviation=turns.ready[name]["deviation"],
                waiting_cpu_s=[answer["waiting_cpu_s"] for answer in answers],
            )
            for name, answers in turns.answers.items()
        ]

    def _take_turns(self, doing: str, jobs: Sequence[Job], request: Message) -> Turns:
        workers = [Worker(job.name, "benchmarks.peers.worker", job.words()) for job in jobs]
        with bar(doing) as started:
            turns = take_turns(workers, request, self._plan.rounds, self._plan.seed, started)
        self.order[doing] = turns.order
        refused = {name: without_folders(why, self._folder, self._material) for name, why in turns.refused.items()}
        for name in OWN.keys() & refused.keys():
            raise BackendError(refused[name], expected="our own case to run", fix="run `edge-cnnlstm verify`")
        self.missing |= {f"{name}, {doing}": why for name, why in refused.items()}
        for name, ready in turns.ready.items():
            if name not in self._accuracy:
                self._accuracy[name] = judge(ready["labels"], self._reference, self.rollout.truth)
        return turns

    def _own(self, name: str, threads: int) -> Job:
        chosen = self._choose(threads)
        return replace(self._blank(name, threads), backend=chosen.backend, graph=chosen.graph.name)

    def _job(self, peer: Peer, threads: int) -> Job:
        checkpoint = str(self._material.checkpoint) if self._material.checkpoint else None
        return replace(self._blank(peer.name, threads), checkpoint=checkpoint, prepared=str(self._paths[peer.name]))

    def _blank(self, name: str, threads: int) -> Job:
        rollout = None if name in self._accuracy else str(self._folder)
        return Job(name, str(self._material.bundle), threads, rollout)

    def _choose(self, threads: int) -> Candidate:
        """Return what `auto` takes for this processor: measured now, while nothing else runs, or remembered."""
        if threads not in self.chosen:
            path, graphs = self._material.bundle, sound_graphs(self._manifest)
            self.chosen[threads] = choice.fastest(path, self._manifest, graphs, threads=threads, streams=1)
        return self.chosen[threads]

    def _about(self, name: str, threads: int, how: str) -> About:
        if name in OWN:
            chosen = self._choose(threads)
            return About(name, None, chosen.graph.precision, f"{how}; graph {chosen.graph.name} in {chosen.backend}")
        peer = next(peer for peer in self._peers if peer.name == name)
        return About(name, peer.family, peer.precision, how)


def compare(material: Material, plan: Plan, peers: Sequence[Peer], folder: Path) -> dict[str, Any]:
    """Measure our stream and peers, and return the results as JSON data; `folder` takes what is prepared.

    Raises ConfigError for a bundle without an FP32 graph or a label, and BackendError when our own case, or any that
    was ready, fails.
    """
    with console.console.status("drawing the rollout, and preparing peers"):
        comparison = Comparison(material, plan, peers, folder)
    closed = [case for threads in plan.threads for case in comparison.closed(threads)]
    paced = comparison.paced() if plan.paced_frames else []
    figures = [figure for threads in plan.threads for figure in closed_figures(closed, threads)] + paced_figures(paced)
    return {
        "plan": asdict(plan) | {"warm_up_frames": WARM_UP_FRAMES, "rate_hz": RATE, "window_frames": WINDOW_FRAMES},
        "rollout": {"frames": len(comparison.rollout.frames), "truth": comparison.rollout.truth is not None},
        "ratios": [figure.document() for figure in figures],
        "closed": [asdict(case) for case in closed],
        "paced": [asdict(case) for case in paced],
        "order": comparison.order,
        "missing": comparison.missing,
        "disturbances": comparison.disturbances,
    }
