"""Compile a kernel without a GPU and read its registers, spilled bytes, shared memory and PTX.

Triton's compiler needs no GPU. Spilled registers cost memory traffic, too much shared memory makes a launch fail, and
narrow loads waste memory bandwidth. These three problems can be seen in the compiled kernel.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from labkit.errors import NotAvailable
from labkit.ops.kernels.triton_runtime import INSTALLED, Kernel, interpreted, recorded

SHARED_LIMITS = {80: 163 * 1024, 86: 99 * 1024, 89: 99 * 1024, 90: 227 * 1024}
"""The bytes of shared memory that a block may use, by compute capability (CUDA programming guide, technical specifications)."""
REGISTER_LIMIT = 255
"""The number of registers that a thread may use, on all GPUs in `SHARED_LIMITS`."""
SETTINGS = ("num_warps", "num_stages", "num_ctas", "maxnreg")
"""The launch options that the compiler uses. All other options are constants of the kernel."""

_TYPES = {
    torch.float64: "fp64",
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float8_e4m3fn: "fp8e4nv",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.int16: "i16",
    torch.int8: "i8",
    torch.uint8: "u8",
    torch.bool: "i1",
}

_ACCESS = r"\b{}\.global(?:\.[a-zL]\w*(?:::\w+)*)*?(?:\.v(\d))?\.[bfsu](\d+)\b"
"""Matches a load or a store in PTX. For example, `ld.global.L1::evict_last.v4.b32` moves 4 * 32 bits."""
_COPY = r"cp\.async\.c[ag]\.shared\.global \[[^]]*\], \[[^]]*\], (\w+)"
"""Matches a copy from global to shared memory in PTX. Its third operand is the number of bytes."""


@dataclass(frozen=True)
class CompiledKernel:
    """A kernel compiled for compute capability `arch` / 10.

    `registers` is the number of registers per thread. `spill_bytes` is the local memory per thread for spilled registers.
    `shared_bytes` is the shared memory per block.
    """

    name: str
    arch: int
    registers: int
    spill_bytes: int
    shared_bytes: int
    ptx: str

    def global_accesses(self, kind: str = "ld") -> dict[int, int]:
        """The number of PTX instructions that load from global memory ("ld") or store to it ("st"), by bytes per thread.

        Copies to shared memory that bypass the registers (`cp.async`) count as loads.
        """
        found = Counter(int(vector or 1) * int(bits) // 8 for vector, bits in re.findall(_ACCESS.format(kind), self.ptx))
        if kind == "ld":
            found.update(int(size, 0) for size in re.findall(_COPY, self.ptx))
        return dict(found)

    def problems(self) -> list[str]:
        """The reasons why this kernel would not launch or would run badly; an empty list if there are none."""
        limit = SHARED_LIMITS.get(self.arch, min(SHARED_LIMITS.values()))
        found = []
        if self.registers > REGISTER_LIMIT:
            found.append(f"{self.name} takes {self.registers} registers per thread; the limit is {REGISTER_LIMIT}")
        if self.spill_bytes:
            found.append(
                f"{self.name} spills {self.spill_bytes} bytes per thread to local memory: use smaller blocks or more warps"
            )
        if self.shared_bytes > limit:
            found.append(f"{self.name} takes {self.shared_bytes} bytes of shared memory; sm_{self.arch} has {limit} per block")
        return found


def compile_kernel(kernel: Kernel, args: tuple[Any, ...], options: dict[str, Any], arch: int = 90) -> CompiledKernel:
    """Compile `kernel[grid](*args, **options)` for a GPU of compute capability `arch` / 10; no GPU is needed.

    Tensors in `args` can be on any device, "meta" included; their types and alignment are used as in a launch. Raises
    `NotAvailable` if Triton is missing, and in a process that interprets kernels, because such a process cannot compile them.
    """
    if not INSTALLED:
        raise NotAvailable("compiling a kernel needs the package triton, which is not installed; install triton (Linux)")
    if interpreted():
        raise NotAvailable("this process interprets kernels and cannot compile them; start Python without TRITON_INTERPRET")
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    settings = {name: value for name, value in options.items() if name in SETTINGS}
    values = dict(zip(kernel.arg_names, args, strict=False)) | options
    signature, constexprs, attributes = {}, {}, {}
    for place, parameter in enumerate(kernel.params):
        value = values[parameter.name]
        specialize = not parameter.do_not_specialize
        signature[parameter.name] = kind = "constexpr" if parameter.is_constexpr else _type(value, specialize)
        if kind == "constexpr":
            constexprs[parameter.name] = value
        elif specialize and _divides_by_16(value):
            attributes[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constexprs, attributes)
    made = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=settings)
    registers, spilled = _resources(made.asm["cubin"])
    return CompiledKernel(kernel.__name__, arch, registers, spilled, made.metadata.shared, made.asm["ptx"])


def compile_call(call: Callable[[], Any], arch: int = 90) -> list[CompiledKernel]:
    """Compile every kernel that `call` launches, without running it. The tensors of `call` should be on the device "meta"."""
    with recorded(arch) as launches:
        call()
    return [compile_kernel(launch.kernel, launch.args, launch.options, arch) for launch in launches]


def _type(value: Any, specialize: bool) -> str:
    """Return the Triton type of an argument at a launch. The number 1 becomes a constant, so strides of 1 cost nothing."""
    if isinstance(value, Tensor):
        return f"*{_TYPES[value.dtype]}"
    if isinstance(value, bool):
        return "u1"
    if value is None or (specialize and isinstance(value, int) and value == 1):
        return "constexpr"
    if isinstance(value, int):
        return "i32" if -(2**31) <= value < 2**31 else "i64"
    return "fp32"


def _divides_by_16(value: Any) -> bool:
    """Whether a launch tells the compiler that this address or integer is a multiple of 16. Wide loads need this promise."""
    if isinstance(value, Tensor):
        return value.data_ptr() % 16 == 0
    return isinstance(value, int) and not isinstance(value, bool) and value % 16 == 0


def _resources(cubin: bytes) -> tuple[int, int]:
    """Return the number of registers and the bytes of local memory that a thread uses.

    They are read from the machine code by NVIDIA's cuobjdump, which is part of the Triton package.
    """
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        said = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+) .*?LOCAL:(\d+)", said)
    if found is None:
        raise NotAvailable(f"{tool.name} did not say how many registers the kernel takes; its output was: {said.strip()!r}")
    return int(found[1]), int(found[2]) + int(found[3])
