from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from edge_cnnlstm.bundle import manifest
from edge_cnnlstm.bundle.manifest import Manifest, Member
from edge_cnnlstm.errors import BundleError
from edge_cnnlstm.spec import ModelSpec, StateRules

Json = Any


@pytest.fixture
def full(tiny_manifest: Manifest) -> Manifest:
    return replace(tiny_manifest, members={"graphs/tiny.onnx": Member("ab" * 32, 3), "golden.npz": Member("0" * 64, 0)})


def changed(full: Manifest, *path: str | int, to: Json) -> bytes:
    """The manifest as JSON, with the value at `path` replaced or added."""
    record = json.loads(manifest.dump(full))
    place = record
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = to
    return json.dumps(record).encode()


def test_what_is_dumped_is_what_is_parsed(full: Manifest) -> None:
    assert manifest.parse(manifest.dump(full)) == full


def test_equal_manifests_give_equal_bytes_in_ascii(full: Manifest) -> None:
    named = replace(full, name="größe 標籤")
    assert manifest.dump(named) == manifest.dump(copy.deepcopy(named))
    assert manifest.dump(named).isascii()
    assert manifest.parse(manifest.dump(named)).name == "größe 標籤"


def test_time_and_rules_travel_in_the_manifest(full: Manifest, tiny_dt_spec: ModelSpec) -> None:
    rules = StateRules(gap_ms=None, idle_ms=250.0, source_change=False)
    told = replace(full, model=replace(tiny_dt_spec, rules=rules))

    assert manifest.parse(manifest.dump(told)) == told
    assert json.loads(manifest.dump(told))["model"]["rules"] == {
        "gap_ms": None, "idle_ms": 250.0, "source_change": False, "seek": True, "not_finite": True,
    }  # fmt: skip
    assert json.loads(manifest.dump(full))["model"]["dt"] is None


@pytest.mark.parametrize("version", [4, 99, 10**12])
def test_a_newer_format_says_update(full: Manifest, version: int) -> None:
    with pytest.raises(BundleError, match=rf"bundle format {version}\n.*\n.*update edge-cnnlstm"):
        manifest.parse(changed(full, "format_version", to=version))


@pytest.mark.parametrize("version", [0, -1, 2, "1", "3", None, [1], {}, 1.5])
def test_any_other_format_says_export_again(full: Manifest, version: Json) -> None:
    with pytest.raises(BundleError, match="export it again"):
        manifest.parse(changed(full, "format_version", to=version))


@pytest.mark.parametrize(
    "place",
    [
        (),
        ("model",),
        ("model", "frame"),
        ("model", "states", 1),
        ("model", "outputs", 0),
        ("model", "heads", 1),
        ("model", "rules"),
        ("graphs", 0),
        ("members", "golden.npz"),
    ],
    ids=str,
)
def test_an_unknown_field_is_refused_by_name(full: Manifest, place: tuple[str | int, ...]) -> None:
    with pytest.raises(BundleError, match=r"manifest field .*surprise"):
        manifest.parse(changed(full, *place, "surprise", to=1))


@pytest.mark.parametrize(
    "field",
    ["name", "model", "graphs", "members", "made_with"],
)
def test_a_missing_field_is_refused_by_name(full: Manifest, field: str) -> None:
    record = json.loads(manifest.dump(full))
    del record[field]
    with pytest.raises(BundleError, match=f"manifest field {field}"):
        manifest.parse(json.dumps(record).encode())


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("name",), 7),
        (("name",), None),
        (("model",), []),
        (("model", "fit"), "zoom"),
        (("model", "frame", "shape"), "1883"),
        (("model", "frame", "shape"), [1, 8, 8.5, 3]),
        (("model", "frame", "dtype"), "object"),
        (("model", "states"), {}),
        (("model", "dt"), "dt"),
        (("model", "rules"), None),
        (("model", "rules", "gap_ms"), "1000"),
        (("model", "rules", "seek"), 1),
        (("model", "heads", 0, "task"), "pickle"),
        (("graphs",), None),
        (("graphs", 0, "tolerance"), "small"),
        (("graphs", 0, "dialect"), "plan"),
        (("graphs", 0, "accuracy"), [0.5]),
        (("members",), []),
        (("members", "golden.npz"), "0" * 64),
        (("members", "golden.npz", "size"), 0.5),
        (("members", "golden.npz", "size"), None),
        (("made_with",), {"torch": 2}),
    ],
    ids=str,
)
def test_a_wrong_type_is_refused_by_name(full: Manifest, path: tuple[str | int, ...], value: Json) -> None:
    with pytest.raises(BundleError, match=rf"manifest field {path[0]}"):
        manifest.parse(changed(full, *path, to=value))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b'"format_version"',
        b"7",
        b"{",
        b'{"format_version": 1',
        b"\xff\xfe\xfd",
        b"\0",
        b'{"format_version": 1} {}',
        b'{"format_version": ' + b"9" * 5000 + b"}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"format_version": 1, "name": ' + b"[" * 900 + b"]" * 900 + b"}",
        b'{"format_version": 1, "name": "\\ud800"}',
        '{"format_version": 1}'.encode("utf-16"),
    ],
    ids=len,
)
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(BundleError):
        manifest.parse(data)


def test_a_manifest_is_utf_8_and_holds_text_that_can_be_written(full: Manifest) -> None:
    with pytest.raises(BundleError, match="not a JSON object"):
        manifest.parse(manifest.dump(full).decode().encode("utf-16"))
    with pytest.raises(BundleError, match="not a JSON object"):
        manifest.parse(changed(full, "name", to="half a pair: \ud800"))


def test_a_whole_number_will_do_for_a_measurement_unless_a_float_cannot_hold_it(full: Manifest) -> None:
    assert manifest.parse(changed(full, "graphs", 0, "tolerance", to=1)).graphs[0].tolerance == 1.0
    with pytest.raises(BundleError, match="manifest field graphs"):
        manifest.parse(changed(full, "graphs", 0, "tolerance", to=10**400))


def _without_a_name(record: Json) -> None:
    record["model"]["frame"]["name"] = ""


def _repeated_tensor(record: Json) -> None:
    record["model"]["outputs"][1]["name"] = "h"


def _too_few_labels(record: Json) -> None:
    record["model"]["heads"][0]["labels"].pop()


def _unknown_output(record: Json) -> None:
    record["model"]["heads"][0]["outputs"] = ["elsewhere"]


def _float_frame(record: Json) -> None:
    record["model"]["frame"]["dtype"] = "float32"


def _two_times(record: Json) -> None:
    record["model"]["dt"] = {"name": "dt", "shape": [1, 2], "dtype": "float32"}


def _never_a_gap(record: Json) -> None:
    record["model"]["rules"]["gap_ms"] = 0.0


def _flat_output(record: Json) -> None:
    record["model"]["outputs"][0]["shape"] = [3]


@pytest.mark.parametrize(
    "change",
    [
        *(_without_a_name, _repeated_tensor, _too_few_labels, _unknown_output, _float_frame, _flat_output),
        *(_two_times, _never_a_gap),
    ],
)
def test_a_contradiction_in_the_model_is_a_bundle_error(full: Manifest, change: Callable[[Json], None]) -> None:
    record = json.loads(manifest.dump(full))
    change(record)
    with pytest.raises(BundleError):
        manifest.parse(json.dumps(record).encode())


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("format_version",), True),
        (("format_version",), 1.0),
        (("graphs", 0, "tolerance"), "0.5"),
        (("members", "golden.npz", "size"), "0"),
        (("model", "frame", "shape"), [True, 8.0, "8", 3]),
    ],
    ids=str,
)
def test_a_value_that_only_looks_like_a_number_is_refused(
    full: Manifest, path: tuple[str | int, ...], value: Json
) -> None:
    with pytest.raises(BundleError):
        manifest.parse(changed(full, *path, to=value))


@pytest.mark.parametrize("tolerance", [float("inf"), float("nan"), -1.0])
def test_a_tolerance_that_proves_nothing_is_refused(full: Manifest, tolerance: float) -> None:
    with pytest.raises(BundleError, match="tolerance"):
        manifest.parse(changed(full, "graphs", 0, "tolerance", to=tolerance))


@pytest.mark.parametrize("count", [0, 2])
def test_graphs_are_there_and_have_names_of_their_own(full: Manifest, count: int) -> None:
    with pytest.raises(BundleError):
        manifest.parse(manifest.dump(replace(full, graphs=full.graphs * count)))
