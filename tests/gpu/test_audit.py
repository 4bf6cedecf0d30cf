"""Documents of the shape that TensorRT's inspector prints; none of them is of an engine of ours, which takes a GPU."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from edge_cnnlstm.errors import BackendError
from edge_cnnlstm.gpu.audit import UNKNOWN, EngineLayer, EngineTensor, Stray, layers, parse, strays
from edge_cnnlstm.gpu.engine import Engine


def tensor(name: str, shape: list[int], words: str) -> dict[str, Any]:
    return {"Name": name, "Location": "Device", "Dimensions": shape, "Format/Datatype": words}


def apart(name: str, shape: list[int], form: str, dtype: str) -> dict[str, Any]:
    """As TensorRT 11 says it."""
    return {"Name": name, "Location": "Device", "Dimensions": shape, "Format": form, "Datatype": dtype}


REFORMAT = {
    "Name": "Reformatting CopyNode for Input Tensor 0 to stem_weight + /stem/Conv + /stem/Relu",
    "LayerType": "Reformat",
    "Inputs": [tensor("pixels", [1, 3, 8, 8], "Row major linear FP16 format")],
    "Outputs": [tensor("copy", [1, 3, 8, 8], "Thirty-two wide channel vectorized row major Int8 format")],
    "ParameterType": "Reformat",
    "Origin": "REFORMAT",
    "TacticValue": "0x00000000000003e8",
    "StreamId": 0,
    "Metadata": "",
}
CONVOLUTION = {
    "Name": "stem_weight + /stem/Conv + /stem/Relu",
    "LayerType": "CaskConvolution",
    "Inputs": [tensor("copy", [1, 3, 8, 8], "Thirty-two wide channel vectorized row major Int8 format")],
    "Outputs": [tensor("map", [1, 16, 4, 4], "Channel major FP16 format where channel % 8 == 0")],
    "ParameterType": "Convolution",
    "Kernel": [3, 3],
    "Weights": {"Type": "Int8", "Count": 432},
    "Bias": {"Type": "Float", "Count": 16},
    "TacticName": "sm80_xmma_fprop_implicit_gemm_interleaved_i8f16_i8i32_f32_nchw_vect_c_32_tilesize64x64x64_stage4",
    "TacticValue": "0x3bd1",
    "StreamId": 0,
    "Metadata": "[ONNX Layer: stem_weight_QuantizeLinear]\x1e[ONNX Layer: /stem/Conv]\x1f[ONNX Layer: /stem/Relu]",
}
PRODUCT = {
    "Name": "/cell/gates_x/MatMul+/cell/gates_h/MatMul_myl0_7",
    "LayerType": "gemm",
    "Inputs": [tensor("__mye5607_13", [1, 64], "Half")],
    "Outputs": [tensor("__myln_k_arg__bb1_12", [1, 128], "Half")],
    "TacticName": "sm80_xmma_gemm_f16f16_f16f16_f16_nn_n_tilesize32x32x64_stage6_warpsize2x2x1",
    "StreamId": 0,
    "Metadata": "[ONNX Layer: /cell/gates_x/MatMul][ONNX Layer: /cell/gates_h/MatMul]",
}
POINTWISE = {
    "Name": "__myl_CastMulAddTanh_myl0_8",
    "LayerType": "kgen",
    "Inputs": [tensor("__myln_k_arg__bb1_12", [1, 128], "Half"), tensor("c", [1, 32], "Float")],
    "Outputs": [tensor("c_next", [1, 32], "Float")],
    "TacticName": "__myl_CastMulAddTanh_0xf2543c36ff9f104bbb1655b0183afb47",
    "StreamId": 0,
    "Metadata": "[ONNX Layer: /cell/Tanh][ONNX Layer: /cell/Mul]",
}
TEN = {"Layers": [REFORMAT, CONVOLUTION, PRODUCT, POINTWISE], "Bindings": ["pixels", "c", "c_next"]}
ELEVEN = {
    "Layers": [
        PRODUCT
        | {
            "Inputs": [apart("__mye1_2", [2, 64], "Row major linear", "Int8")],
            "Outputs": [apart("__mye1_3", [2, 128], "Row major linear", "FP16")],
            "TacticName": "sm80_xmma_gemm_i8f32_i8i32_f32_tn_n_tilesize64x64x64",
        }
    ],
    "I/O Tensors": [{"Name": "c_next", "IOMode": "Output", "Datatype": "FP32", "Dimensions": [1, 32]}],
    "ProfilingVerbosity": "DETAILED",
}
NAMES_ONLY = {"Layers": ["stem_weight + /stem/Conv + /stem/Relu", "/cell/gates_x/MatMul_myl0_7"], "Bindings": []}


def audited(*rows: Any) -> list[EngineLayer]:
    return parse(json.dumps({"Layers": rows}))


def test_the_layers_of_tensorrt_10_are_told_with_precision_tactic_and_size() -> None:
    reformat, convolution, product, pointwise = parse(json.dumps(TEN))

    assert convolution.name == CONVOLUTION["Name"]
    assert convolution.kind == "CaskConvolution"
    assert convolution.precision == "int8"
    assert convolution.tactic == CONVOLUTION["TacticName"]
    assert convolution.weight_bytes == 432 + 16 * 4
    assert convolution.sources == ("stem_weight_QuantizeLinear", "/stem/Conv", "/stem/Relu")
    assert [(each.dtype, each.shape, each.bytes) for each in (*convolution.inputs, *convolution.outputs)] == [
        ("int8", (1, 3, 8, 8), 192),
        ("fp16", (1, 16, 4, 4), 512),
    ]
    assert convolution.bytes == 192 + 512 + 432 + 64
    assert product.precision == "fp16"
    assert product.sources == ("/cell/gates_x/MatMul", "/cell/gates_h/MatMul")
    assert [layer.computes for layer in (reformat, convolution, product, pointwise)] == [False, True, True, False]
    assert [layer.precision for layer in (reformat, pointwise)] == [UNKNOWN, UNKNOWN]
    assert reformat.tactic is None


def test_tensorrt_11_tells_format_and_type_apart() -> None:
    (layer,) = parse(json.dumps(ELEVEN))

    assert layer.precision == "int8"
    assert layer.inputs == (EngineTensor("__mye1_2", (2, 64), "Row major linear Int8"),)
    assert [each.bytes for each in (*layer.inputs, *layer.outputs)] == [128, 512]


def test_an_engine_built_without_details_tells_names_and_nothing_else() -> None:
    found = parse(json.dumps(NAMES_ONLY))

    assert [layer.name for layer in found] == NAMES_ONLY["Layers"]
    assert {layer.precision for layer in found} == {UNKNOWN}
    assert {layer.bytes for layer in found} == {None}
    # Found by the parts of their names, and of no known precision.
    planned = {"/stem/Conv": "int8", "/cell/gates_x/MatMul": "fp16"}
    assert [(stray.name, stray.found, stray.layer is not None) for stray in strays(found, planned)] == [
        ("/stem/Conv", UNKNOWN, True),
        ("/cell/gates_x/MatMul", UNKNOWN, True),
    ]


def test_names_may_be_separated_by_bytes_that_strict_json_escapes() -> None:
    document = json.dumps(TEN).replace("\\u001f", "\x1f").replace("\\u001e", "\x1e")

    assert parse(document)[1].sources == ("stem_weight_QuantizeLinear", "/stem/Conv", "/stem/Relu")


@pytest.mark.parametrize(
    "document", ["", "not JSON", "[]", "{}", '{"Layers": 3}', '{"Layers": [{}]}', '{"Layers": [1]}']
)
def test_another_document_is_refused(document: str) -> None:
    with pytest.raises(BackendError, match=r'(?s)not understood.*a list called "Layers"'):
        parse(document)


@pytest.mark.parametrize(
    ("tactic", "precision"),
    [
        ("sm80_xmma_gemm_f32f32_tf32f32_f32_tn_n_tilesize32x32x64", "tf32"),
        ("sm80_xmma_gemm_f32f32_f32f32_f32_tn_n", "fp32"),
        ("sm86_xmma_fprop_implicit_gemm_tf32f32_tf32f32_f32_nhwckrsc_nhwc", "tf32"),
        ("sm80_xmma_fprop_implicit_gemm_indexed_f16f16_f16f32_f32_nhwckrsc_nhwc", "fp16"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n", "bf16"),
        ("sm50_xmma_cublas_gemvx_f16f16_f32", "fp16"),
        ("ampere_h16816gemm_256x128_ldg8_nn_v1", "fp16"),
        ("turing_fp16_s1688cudnn_fp16_128x128_ldg8_relu", "fp16"),
        ("ampere_int32_i16832cudnn_int8_256x128_ldg16_relu", "int8"),
        ("volta_scudnn_128x64_sliced1x2_ldg4_relu_exp_large_nhwc", "fp32"),
        ("__myl_FcMul_0x8f16f32a", UNKNOWN),
    ],
)
def test_a_kernels_name_tells_what_it_multiplies(tactic: str, precision: str) -> None:
    mixed = {"Inputs": [tensor("x", [1], "Half")], "Outputs": [tensor("y", [1], "Float")]}

    (layer,) = audited(mixed | {"Name": "a", "LayerType": "fusion", "TacticName": tactic})

    assert layer.precision == precision


def test_weights_come_before_what_is_read() -> None:
    row = {"Name": "a", "LayerType": "CaskConvolution", "Inputs": [tensor("x", [1], "Half")]}

    assert audited(row)[0].precision == "fp16"
    assert audited(row | {"Weights": {"Type": "Int8", "Count": 9}})[0].precision == "int8"


def test_a_generated_kernel_is_known_by_one_type_throughout() -> None:
    row = {
        "Name": "a",
        "LayerType": "kgen",
        "Inputs": [tensor("x", [1], "Half")],
        "Outputs": [tensor("y", [1], "Half")],
    }

    assert audited(row)[0].precision == "fp16"
    assert audited(row | {"Outputs": [tensor("y", [1], "Int8")]})[0].precision == UNKNOWN


def test_layers_that_run_as_planned_are_no_strays_fused_or_not() -> None:
    planned = {"/stem/Conv": "int8", "/cell/gates_x/MatMul": "fp16", "/cell/gates_h/MatMul": "fp16"}

    assert strays(parse(json.dumps(TEN)), planned) == []


def test_a_layer_in_another_precision_is_reported_with_what_it_was_fused_into() -> None:
    found = parse(json.dumps(TEN))

    assert strays(found, {"/cell/gates_h/MatMul": "int8", "/stem/Conv": "int8"}) == [
        Stray("/cell/gates_h/MatMul", "int8", "fp16", PRODUCT["Name"])
    ]


def test_what_is_not_in_the_engine_is_unknown_and_not_sound() -> None:
    (stray,) = strays(parse(json.dumps(TEN)), {"/head/Gemm": "fp16"})

    assert stray == Stray("/head/Gemm", "fp16", UNKNOWN, None)
    assert str(stray) == "/head/Gemm: planned fp16, not found in the engine"


def test_what_only_copies_for_a_layer_does_not_speak_for_it() -> None:
    copy = POINTWISE | {"Metadata": PRODUCT["Metadata"]}

    assert strays(audited(copy, PRODUCT), {"/cell/gates_x/MatMul": "fp16"}) == []
    assert [stray.found for stray in strays(audited(copy), {"/cell/gates_x/MatMul": "fp16"})] == [UNKNOWN]


def test_a_stray_reads_as_a_sentence() -> None:
    assert str(Stray("a", "int8", "fp16", "a")) == "a: planned int8, runs in fp16"
    assert str(Stray("a", "int8", UNKNOWN, "b + a")) == "a: planned int8, what it runs in cannot be told, in 'b + a'"


def engine_that_says(document: str | None) -> Engine:
    inspector = (
        None if document is None else SimpleNamespace(get_engine_information=lambda form: {"json": document}[form])
    )
    trt = SimpleNamespace(
        __name__="tensorrt", __version__="10.3.0", LayerInformationFormat=SimpleNamespace(JSON="json")
    )
    logger = SimpleNamespace(errors=[], reason="no reason given")
    return Engine(trt, logger, None, SimpleNamespace(create_engine_inspector=lambda: inspector))


def test_the_layers_of_an_engine_are_what_its_inspector_prints() -> None:
    assert layers(engine_that_says(json.dumps(TEN))) == parse(json.dumps(TEN))

    with pytest.raises(BackendError, match=r"tensorrt 10\.3\.0 gives no inspector: no reason given"):
        layers(engine_that_says(None))
