"""Peaks, floors and what is taken, as tables and pictures."""

from __future__ import annotations

import math
from typing import Any

from benchmarks.show import Picture, Section, Table, figures_table

Row = dict[str, Any]
PEAKS = (
    "The best of all rounds, from loops that only multiply (registers alone) or only read. A row of numpy's matrix "
    "product says how much of the peak a good library reaches. A multiply-accumulate (MAC) counts once."
)
PAIRS = (
    "uint8 × int8 without an instruction of its own: vpmaddubsw, vpmaddwd and vpaddd for each product, exact but for "
    "saturation. It multiplies no faster than FP32 where both have as many multipliers; int8 then saves bytes only."
)
WHOLE = (
    "The compute floor is all MACs of direct convolution, but for those with padding, at the peak of their precision. "
    "The floor adds, layer by layer, the longer of arithmetic and bytes: weights at the bandwidth of the working "
    "set, or from memory (cold), as when a slow camera lets the caches go. Elementwise operators are not in it, as "
    "an engine may fuse them all. Kernels are the sum that the engine's profiler gives; the step is the whole of "
    "`Stream.step`, closed loop, without a profiler."
)
LAYERS = (
    "Taken is the median round of the engine's profiler, ×: how many times the floor. 0.0: no kernel of its own, or "
    "shorter than the profiler's clock. Other: kernels that multiply nothing, or that bear no layer's name."
)
BOARDS = (
    "PREDICTION. Nothing here was run on a Jetson. Public peak figures of the GPU, dense: a lower bound that knows "
    "nothing of launches, copies, or how badly a small layer fills a GPU. Floor: weights from "
    "memory, activations on the chip. µs a step, compute floor / floor."
)
SHOWN_LAYERS = 24


def section(report: Row) -> Section:
    """Return what a report of this suite shows."""
    graphs = {graph["name"]: graph for graph in report["graphs"]}
    layers = [_layers(case, graphs[case["graph"]]) for case in report["cases"]]
    tables = [figures_table(report, "Steps and their floors"), _peaks(report), _whole(report), *layers, _boards(report)]
    return Section("Roofline", tables, _pictures(report), _notes(report), report["missing"])


def _pictures(report: Row) -> list[Picture]:
    try:
        from benchmarks.roofline import pictures
    except ModuleNotFoundError:
        return []
    if not report["cases"]:
        return []
    return [
        Picture(
            "Roofline",
            pictures.roofline(report),
            "One mark a layer: how fast it multiplies, by how much it multiplies for each byte. No layer can be above "
            "the roofs; the further below, the more there is to gain.",
        ),
        Picture(
            f"Floor and taken, {report['cases'][0]['name']}",
            pictures.floors(report, SHOWN_LAYERS),
            f"The {SHOWN_LAYERS} layers that take most, in the order of the graph.",
        ),
    ]


def _peaks(report: Row) -> Table:
    peaks, turns = report["peaks"], report["peaks"]["turns"]
    best: dict[tuple[str, str, int], float] = {}
    for row in (row for turn in turns for row in turn["multiply"]):
        key = (row["precision"], row["instruction"], row["bits"])
        best[key] = max(best.get(key, 0), row["macs_per_second"])
    rows = [
        (f"{precision} multiply-accumulate", f"{name}, {bits} bits", f"{rate / 1e9:,.1f} GMAC/s")
        for (precision, name, bits), rate in best.items()
    ]
    products = [turn["sgemm_macs_per_second"] for turn in turns if turn["sgemm_macs_per_second"]]
    if products:
        share = max(products) / peaks["macs_per_second"]["fp32"]
        rows.append(("numpy's FP32 matrix product", f"{share:.0%} of the peak", f"{max(products) / 1e9:,.1f} GMAC/s"))
    read, used = peaks["read"], {case["graph"] for case in report["cases"]}
    places = [("first cache", 0.0), ("memory", math.inf)]
    places[1:1] = [
        (f"working set of {graph['name']}", graph["working_set_bytes"])
        for graph in report["graphs"]
        if graph["name"] in used
    ]
    for place, most in places:
        size, rate = next((each for each in reversed(read) if each[0] <= most), read[0])
        rows.append((f"read, {place}", _size(size), f"{rate / 1e9:,.1f} GB/s"))
    threads = report["plan"]["threads"]
    return Table(f"Peaks on {threads} thread{'s' if threads > 1 else ''}", ("what", "how", "peak"), rows, PEAKS)


def _whole(report: Row) -> Table:
    graphs = {graph["name"]: graph for graph in report["graphs"]}
    rows = []
    for case in report["cases"]:
        floors = graphs[case["graph"]]["floors_us"]
        times = (floors["compute"], floors["warm"], floors["cold"], case["kernels_us"], case["step_us"])
        ratio = f"{case['step_us'] / floors['compute']:.2f}"
        rows.append(
            (case["name"], f"{graphs[case['graph']]['macs'] / 1e6:,.1f}", *(f"{us:,.0f}" for us in times), ratio)
        )
    columns = ("engine and graph", "million MACs", "compute floor, µs", "floor", "cold floor", "kernels", "step", "×")
    return Table("A step and its floors", columns, rows, WHOLE)


def _layers(case: Row, graph: Row) -> Table:
    rows = []
    for layer in graph["layers"]:
        took = case["layers_us"][layer["name"]]
        bound = "arithmetic" if layer["compute_us"] >= layer["memory_us"] else "bytes"
        rows.append(
            (
                layer["name"],
                case["kinds"].get(layer["name"], ""),
                layer["precision"],
                f"{layer['macs'] / 1e6:,.2f}",
                f"{layer['weight_bytes'] / 1e3:,.1f}",
                f"{layer['activation_bytes'] / 1e3:,.1f}",
                f"{layer['floor_us']:,.1f} {bound}",
                f"{took:,.1f}",
                f"{took / layer['floor_us']:.1f}" if took else "",
            )
        )
    beyond = case["step_us"] - case["kernels_us"]
    moved = f"{graph['elementwise_bytes'] / 1e3:,.1f}"
    rows.append(("other kernels", "", "", "", "", moved, "", f"{case['other_us']:,.1f}", ""))
    rows.append(("outside the kernels", "", "", "", "", "", "", f"{beyond:,.1f}", ""))
    columns = (
        "layer",
        "kernel",
        "precision",
        "million MACs",
        "weights, kB",
        "activations, kB",
        "floor, µs",
        "taken",
        "×",
    )
    return Table(f"Layers: {case['name']}", columns, rows, LAYERS)


def _boards(report: Row) -> Table:
    names = list(dict.fromkeys(name for board in report["boards"] for name in board["graphs"]))
    rows = [
        (
            board["name"],
            f"{board['int8_tops']:g}",
            f"{board['fp16_tflops']:g}",
            f"{board['memory_gb_s']:g}",
            *(f"{found['compute_us']:,.1f} / {found['floor_us']:,.1f}" for found in board["graphs"].values()),
        )
        for board in report["boards"]
    ]
    sources = " ".join(f"{board['name']}: {board['source']}" for board in report["boards"])
    columns = ("module", "INT8 TOPS", "FP16 TFLOPS", "GB/s", *names)
    return Table("Jetson modules on paper (prediction)", columns, rows, f"{BOARDS} Sources. {sources}")


def _notes(report: Row) -> list[str]:
    plan = report["plan"]
    how = (
        f"{plan['rounds']} rounds in an order drawn at random, each part in a process of its own; a turn is "
        f"{plan['warm_up_steps']} steps to warm up, then {plan['steps']} timed, garbage collector off."
    )
    notes = [how]
    if any(row["instruction"] == "vpmaddubsw" for row in report["peaks"]["turns"][0]["multiply"]):
        notes.append(PAIRS)
    notes += [
        f"{case['name']}: the profiler adds about {case['profiler_us']:.1f} µs to each kernel, judged by its shortest "
        "ones, which only pass a tensor on; that is taken off."
        for case in report["cases"]
        if case["profiler_us"]
    ]
    return notes


def _size(size: float) -> str:
    return f"{size / 2**20:,.1f} MiB" if size >= 2**20 else f"{size / 2**10:,.0f} KiB"
