from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from edge_cnnlstm.gpu.block import ALIGNMENT, Block
from edge_cnnlstm.gpu.cuda import Session
from edge_cnnlstm.spec import TensorSpec
from tests.gpu.doubles.handle import Double

TENSORS = [TensorSpec("frame", (1, 5, 7, 3), "uint8"), TensorSpec("dt", (1, 1), "float32")]


@pytest.fixture
def session(double: Double) -> Iterator[Session]:
    session = Session()
    yield session
    session.close()


@pytest.fixture(params=["copied", "mapped"])
def block(request: pytest.FixtureRequest, session: Session) -> Block:
    with session:
        return Block(session, TENSORS, "a test", mapped=request.param == "mapped")


def test_its_arrays_are_cleared_and_have_the_shapes_and_types_that_were_asked_for(block: Block) -> None:
    assert {name: (array.shape, array.dtype.name) for name, array in block.arrays.items()} == {
        tensor.name: (tensor.shape, tensor.dtype) for tensor in TENSORS
    }
    assert not any(array.any() for array in block.arrays.values())


def test_every_tensor_begins_where_tensorrt_wants_it_and_none_lies_on_another(block: Block) -> None:
    frame, dt = (block.addresses[tensor.name] for tensor in TENSORS)
    assert frame % ALIGNMENT == dt % ALIGNMENT == 0
    assert dt - frame >= block.arrays["frame"].nbytes
    assert all(array.ctypes.data % ALIGNMENT == 0 for array in block.arrays.values())


def test_what_is_written_on_one_side_is_read_on_the_other(session: Session, block: Block) -> None:
    block.arrays["frame"][...] = np.arange(105).reshape(1, 5, 7, 3)
    block.arrays["dt"][...] = 0.25
    with session:
        beside = session.host((105,), "uint8", "a test").array
        block.upload()
        session.download(beside, block.addresses["frame"])
        session.wait()
        np.testing.assert_array_equal(beside, np.arange(105))
        beside[...] = 9
        session.upload(block.addresses["frame"], beside)
        block.download()
        session.wait()
    assert (block.arrays["frame"] == 9).all()
    assert block.arrays["dt"] == 0.25


def test_one_copy_moves_all_of_it_and_none_where_the_gpu_reads_it_in_place(
    double: Double, session: Session, block: Block
) -> None:
    double.forget()
    with session:
        block.upload()
        block.download()
        session.wait()
    copies = [name for name in double.calls() if name.startswith("cuMemcpy")]
    assert copies == (["cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync"] if block.bytes_copied else [])
    assert double.moved() == ({"up": block.bytes_copied, "down": block.bytes_copied} if block.bytes_copied else {})


def test_its_arrays_outlive_the_session(session: Session, block: Block) -> None:
    block.arrays["dt"][...] = 0.25
    session.close()
    assert block.arrays["dt"] == 0.25
