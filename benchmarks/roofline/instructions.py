"""The instructions that multiply and add up, as loops of nothing else, compiled by LLVM for the processor at hand.

A loop keeps its operands and its sums in registers, so that nothing but the multipliers bounds it. The instruction is
written out, because a compiler would move a product that never changes out of the loop.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_cnnlstm.errors import ConfigError, DependencyError

Operand = NDArray[Any]
ADD_PAIRS = "vpmaddubsw $3, $2, $1\\0Avpmaddwd $4, $1, $1\\0Avpaddd $1, $0, $0"
"""uint8 times int8 without an instruction of its own: pairs in 16 bits, which saturate, then sums in 32."""


@dataclass(frozen=True, slots=True)
class Multiply:
    """One way to multiply and add up: `text` is what runs, `needs` the processor's features that it takes.

    `bits` is a register's width, `sums` how many of them are added to in turn, so that none has to wait for the last
    result; `register` is LLVM's letter for their kind. `pairs` multiplies in two stages, over 16 bits. A `tile` is a
    product of 2×8 by 8×2, the others are dot products of as many as fit into a sum's 32 bits.
    """

    precision: str
    name: str
    text: str
    needs: tuple[str, ...]
    bits: int
    register: str
    sums: int
    pairs: bool = False
    tile: bool = False

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one instruction, or of one sequence of them."""
        return self.bits // (8 if self.precision == "int8" else 32) * (2 if self.tile else 1)

    @property
    def lanes(self) -> int:
        """Sums in one register."""
        return self.bits // 32

    def operands(self) -> tuple[Operand, Operand]:
        """Return a register's worth of each factor, small enough that no instruction saturates or rounds."""
        if self.precision == "fp32":
            return np.arange(self.lanes, dtype=np.float32), np.full(self.lanes, 0.5, np.float32)
        count = self.bits // 8
        return np.arange(count, dtype=np.uint8) % 64, (np.arange(count) % 61 - 30).astype(np.int8)

    def sums_of(self, left: Operand, right: Operand) -> Operand:
        """Return what one multiplication adds to a register of sums, computed by numpy."""
        if self.precision == "fp32":
            return np.asarray(left * right)
        wide, other = left.astype(np.int32), right.astype(np.int32)
        if self.tile:
            return np.asarray((wide.reshape(2, 8) @ other.reshape(2, 8).T).ravel())
        return np.asarray((wide * other).reshape(-1, 4).sum(1))


MULTIPLIES = (
    Multiply("fp32", "vfmadd231ps", "vfmadd231ps $2, $1, $0", ("x86_64", "avx512f"), 512, "v", 24),
    Multiply("fp32", "vfmadd231ps", "vfmadd231ps $2, $1, $0", ("x86_64", "avx2", "fma"), 256, "x", 12),
    Multiply("fp32", "fmla", "fmla $0.4s, $1.4s, $2.4s", ("aarch64", "neon"), 128, "w", 24),
    Multiply("int8", "vpdpbusd", "vpdpbusd $2, $1, $0", ("x86_64", "avx512vnni"), 512, "v", 24),
    Multiply("int8", "vpdpbusd", "{vex} vpdpbusd $2, $1, $0", ("x86_64", "avxvnni"), 256, "x", 12),
    Multiply("int8", "vpmaddubsw", ADD_PAIRS, ("x86_64", "avx512bw"), 512, "v", 24, pairs=True),
    Multiply("int8", "vpmaddubsw", ADD_PAIRS, ("x86_64", "avx2"), 256, "x", 12, pairs=True),
    Multiply("int8", "usmmla", "usmmla $0.4s, $1.16b, $2.16b", ("aarch64", "i8mm"), 128, "w", 24, tile=True),
    Multiply("int8", "sdot", "sdot $0.4s, $1.16b, $2.16b", ("aarch64", "dotprod"), 128, "w", 24),
)
"""Without a tile unit (AMX, SME), which no processor of a robot has."""


def multiplies() -> list[Multiply]:
    """Return those that this processor has.

    Raises DependencyError without llvmlite, and ConfigError for a processor that lacks a way to multiply one precision.
    """
    features = load_llvm().get_host_cpu_features()
    able = {platform.machine(), *(name for name, has in features.items() if has)}
    found = [each for each in MULTIPLIES if able.issuperset(each.needs)]
    missing = {"fp32", "int8"} - {each.precision for each in found}
    if missing:
        raise ConfigError(
            f"a processor ({platform.machine()}) without a known instruction for {' and '.join(sorted(missing))}",
            expected="AVX2 with FMA, or Arm with the dot product extension",
            fix="add its instruction to benchmarks/roofline/instructions.py",
        )
    return found


def load_llvm() -> Any:
    """Return LLVM, ready to compile for this processor; raises DependencyError when llvmlite is not installed."""
    try:
        binding: Any = import_module("llvmlite.binding")
    except ImportError as error:
        raise DependencyError(
            f"cannot import llvmlite: {error}",
            expected="llvmlite to be installed: it compiles the loops that measure a processor's peak",
            fix="pip install llvmlite",
        ) from error
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    binding.initialize_native_asmparser()
    return binding


class Loop:
    """Machine code of one function that takes addresses and counts and returns nothing.

    Calling it releases the interpreter, so that threads run side by side. The caller keeps what it points at alive.
    """

    def __init__(self, text: str) -> None:
        llvm = load_llvm()
        module = llvm.parse_assembly(text)
        module.verify()
        cpu, features = llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()
        target = llvm.Target.from_default_triple().create_target_machine(cpu=cpu, features=features)
        self._engine = llvm.create_mcjit_compiler(module, target)
        self._engine.finalize_object()
        address = self._engine.get_function_address("loop")
        kind: Callable[[int], Callable[..., None]] = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 4)
        self._call = kind(address)

    def __call__(self, *words: int) -> None:
        self._call(*words)


def multiply_loop(each: Multiply) -> str:
    """Return the program that multiplies two registers `times` over, and adds each product to every sum.

    Its arguments are the addresses of two operands and of the sums, and `times`.
    """
    factor = f"<{each.bits // 8} x i8>" if each.precision == "int8" else f"<{each.lanes} x float>"
    total = f"<{each.lanes} x {'i32' if each.precision == 'int8' else 'float'}>"
    letter, operands = each.register, f"{factor} %left, {factor} %right"
    if each.pairs:
        given = f"{operands}, <{each.bits // 16} x i16> splat (i16 1)"
        made, constraints = f"{{{total}, {total}}}", f"={letter},=&{letter},{letter},{letter},{letter},0"
    else:
        given, made, constraints = operands, total, f"={letter},{letter},{letter},0"
    body = []
    for k in range(each.sums):
        call = f'call {made} asm sideeffect "{each.text}", "{constraints}"({given}, {total} %sum{k})'
        body += [f"%pair{k} = {call}", f"%next{k} = extractvalue {made} %pair{k}, 0"] if each.pairs else []
        body += [] if each.pairs else [f"%next{k} = {call}"]
    return f"""
define void @loop(ptr %a, ptr %b, ptr %sums, i64 %times) {{
entry:
  %left = load {factor}, ptr %a, align 1
  %right = load {factor}, ptr %b, align 1
  br label %again
again:
  %done = phi i64 [0, %entry], [%more, %again]
  {_lines(f"%sum{k} = phi {total} [zeroinitializer, %entry], [%next{k}, %again]" for k in range(each.sums))}
  {_lines(body)}
  %more = add i64 %done, 1
  %on = icmp ult i64 %more, %times
  br i1 %on, label %again, label %end
end:
  {_lines(_stores(each.sums, total, each.bits // 8))}
  ret void
}}"""


READ_VECTORS = 4
READ_BYTES = 64 * READ_VECTORS
"""Bytes that one turn of the reading loop takes; what is read is a multiple of it."""


def read_loop() -> str:
    """Return the program that reads a buffer `times` over, as fast as it can add up what it reads.

    Its arguments are the addresses of the buffer and of 64 bytes for the sum, the buffer's bytes, and `times`.
    """
    total = "<16 x i32>"
    reads, sums = [], []
    for k in range(READ_VECTORS):
        reads += [
            f"%place{k} = getelementptr i8, ptr %here, i64 {64 * k}",
            f"%read{k} = load {total}, ptr %place{k}, align 64",
            f"%next{k} = add {total} %sum{k}, %read{k}",
        ]
        sums.append(f"%sum{k} = phi {total} [%start{k}, %pass], [%next{k}, %again]")
    starts = (f"%start{k} = phi {total} [zeroinitializer, %entry], [%next{k}, %passed]" for k in range(READ_VECTORS))
    return f"""
define void @loop(ptr %data, ptr %sums, i64 %bytes, i64 %times) {{
entry:
  br label %pass
pass:
  %done = phi i64 [0, %entry], [%more, %passed]
  {_lines(starts)}
  br label %again
again:
  %offset = phi i64 [0, %pass], [%onward, %again]
  {_lines(sums)}
  %here = getelementptr i8, ptr %data, i64 %offset
  {_lines(reads)}
  %onward = add i64 %offset, {READ_BYTES}
  %in = icmp ult i64 %onward, %bytes
  br i1 %in, label %again, label %passed
passed:
  %more = add i64 %done, 1
  %on = icmp ult i64 %more, %times
  br i1 %on, label %pass, label %end
end:
  %low = add {total} %next0, %next1
  %high = add {total} %next2, %next3
  %all = add {total} %low, %high
  store {total} %all, ptr %sums, align 1
  ret void
}}"""


def _stores(count: int, kind: str, size: int) -> Sequence[str]:
    return [
        line
        for k in range(count)
        for line in (
            f"%to{k} = getelementptr i8, ptr %sums, i64 {size * k}",
            f"store {kind} %next{k}, ptr %to{k}, align 1",
        )
    ]


def _lines(lines: Iterable[str]) -> str:
    return "\n  ".join(lines)
