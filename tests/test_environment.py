"""The description of a machine is read from files like those of several machines; `labkit doctor` draws right conclusions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from labkit import environment, host_cores, native
from labkit.cli.doctor import lab_report
from labkit.environment import GPU, describe, find_cpu, find_gpus, find_versions

X86 = """\
processor	: 0
vendor_id	: GenuineIntel
model name	: Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz
flags		: fpu sse2 avx fma avx2 avx512f avx512dq avx512_vnni avx512_bf16 amx_tile amx_bf16 amx_int8

processor	: 1
model name	: Another
flags		: fpu
"""
OLD_X86 = "processor\t: 0\nmodel name\t: Intel(R) Core(TM) i5-2400\nflags\t\t: fpu sse2 avx avx512fake\n"
ARM = """\
processor	: 0
BogoMIPS	: 2000.00
Features	: fp asimd evtstrm aes asimddp sve bf16 i8mm
CPU implementer	: 0x41
CPU part	: 0xd4f
"""


def test_an_x86_processor() -> None:
    cpu = find_cpu(X86)
    assert cpu.model == "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz"
    assert cpu.instruction_sets == ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
    assert find_cpu(OLD_X86).instruction_sets == ()


def test_an_arm_processor_has_no_model_name() -> None:
    cpu = find_cpu(ARM)
    assert cpu.instruction_sets == ("asimd", "asimddp", "i8mm", "bf16", "sve")
    assert cpu.model
    assert cpu.model != "0xd4f"


def test_no_cpuinfo_at_all() -> None:
    cpu = find_cpu("")
    assert cpu.model
    assert cpu.instruction_sets == ()
    assert cpu.usable_cores >= 1


def test_cores_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_cores, "quotas", list)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {700, 703, 707})
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: None)
    cpu = find_cpu(X86)
    assert (cpu.cores, cpu.usable_cores) == (3, 3)
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert find_cpu(X86).usable_cores == 5


# GPUs -------------------------------------------------------------------------------------------------------------------
class NVMLError(Exception):
    pass


def library(gpus: int = 2, **changes: Any) -> Any:
    """A stand-in for NVIDIA's management library, with H100s that have 18 NVLinks, of which 4 are up."""

    def link(handle: int, link: int) -> int:
        if link >= 6:
            raise NVMLError
        return 1 if link < 4 else 0

    functions: dict[str, Any] = {
        "NVMLError": NVMLError,
        "NVML_FEATURE_ENABLED": 1,
        "NVML_NVLINK_MAX_LINKS": 18,
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: gpus,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetCudaComputeCapability": lambda handle: (9, 0),
        "nvmlDeviceGetName": lambda handle: b"NVIDIA H100" if handle else "NVIDIA H100",
        "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(total=80 * 2**30 + handle),
        "nvmlSystemGetDriverVersion": lambda: "570.1",
        "nvmlDeviceGetMaxPcieLinkGeneration": lambda handle: 5,
        "nvmlDeviceGetMaxPcieLinkWidth": lambda handle: 16,
        "nvmlDeviceGetNvLinkState": link,
    }
    return SimpleNamespace(**functions | changes)


def refuse(*arguments: Any) -> Any:
    raise NVMLError("Driver Not Loaded")


def test_gpus_and_their_links(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", library())
    gpus, why = find_gpus()
    assert why == ""
    first = GPU(0, "NVIDIA H100", 80 * 2**30, "570.1", "9.0", "gen 5 x16", 4)
    assert gpus == (first, replace(first, index=1, memory_bytes=80 * 2**30 + 1))
    monkeypatch.setitem(sys.modules, "pynvml", library(nvmlDeviceGetMaxPcieLinkWidth=refuse))
    assert find_gpus()[0][0].pcie == "unknown"


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (None, "the package nvidia-ml-py is not installed"),
        (library(nvmlInit=refuse), "no NVIDIA driver answered (Driver Not Loaded)"),
        (library(nvmlDeviceGetCount=refuse), "the NVIDIA driver refused the request (Driver Not Loaded)"),
        (library(gpus=0), "the NVIDIA driver sees no GPU"),
    ],
)
def test_why_there_is_no_gpu_in_words(found: Any, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", found)
    assert find_gpus() == ((), said)
    assert describe().gpus_why_none == said


# The whole machine ------------------------------------------------------------------------------------------------------
def test_the_machine_is_plain_values_for_json() -> None:
    machine = describe()
    values = json.loads(json.dumps(machine.to_dict()))
    assert values["cpu"]["model"] == machine.cpu.model
    assert values["memory_bytes"] >= values["memory_available_bytes"] > 0
    assert values["disk_free_bytes"] > 0
    assert bool(values["gpus"]) != bool(values["gpus_why_none"])
    assert "torch" in values["versions"]
    assert f"Python {sys.version_info.major}.{sys.version_info.minor}" in values["system"]


def test_versions_of_what_is_installed_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "PACKAGES", ("numpy", "a-package-that-does-not-exist"))
    assert list(find_versions()) == ["numpy"]


def test_doctor_says_why_labs_do_not_run() -> None:
    machine = describe()
    bare = replace(machine, versions={"torch": "2.11"})
    for row in lab_report(bare):
        assert (row["runs"], row["why_not"]) == (False, "transformers not installed: run `make env`")
    assert all(row["runs"] for row in lab_report(machine))


def test_doctor_lists_the_exercises_that_are_not_measured_here(monkeypatch: pytest.MonkeyPatch) -> None:
    from labkit.exercises import registry

    (first, second, *_) = registry.of_lab("00")
    needy = (replace(first, requires=("two_gpus",)), replace(second, requires=("cuda",)))
    monkeypatch.setattr(registry, "of_lab", lambda lab: needy if lab == "00" else ())
    gpu = GPU(0, "NVIDIA H100", 80 * 2**30, "570", "9.0", "gen 5 x16", 18)
    none = replace(describe(), gpus=())
    rows = {count: lab_report(replace(none, gpus=(gpu,) * count))[0]["not_measured_here"] for count in (0, 1, 2)}
    assert rows[0] == [
        {"exercise": first.name, "why_not": "needs two NVIDIA GPUs"},
        {"exercise": second.name, "why_not": "needs an NVIDIA GPU"},
    ]
    assert rows[1] == rows[0][:1]
    assert rows[2] == []


WITHOUT_TORCH = """
import sys
from importlib import metadata
sys.modules["torch"] = None
version = metadata.version
def found(name):
    if name == "torch":
        raise metadata.PackageNotFoundError(name)
    return version(name)
metadata.version = found
from labkit.cli import main
sys.argv = ["labkit", "doctor", "--json"]
main()
"""


def test_doctor_works_where_torch_is_missing() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], capture_output=True, text=True, check=True)
    report = json.loads(done.stdout.splitlines()[-1])
    assert {row["why_not"] for row in report["labs"]} == {"torch not installed: run `make env`"}
    assert report["native_kernels"] == {"instruction_set": "", "why_not": "torch not installed"}


@pytest.mark.parametrize("wanted", ["0", "1"])
def test_doctor_says_which_kernels_run(wanted: str) -> None:
    environ = os.environ | {"LABKIT_NATIVE": wanted}
    command = [sys.executable, "-m", "labkit", "doctor", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environ)
    found = json.loads(done.stdout.splitlines()[-1])["native_kernels"]
    if wanted == "0":
        assert found["instruction_set"] == ""
        assert "LABKIT_NATIVE" in found["why_not"]
        assert "not used" in done.stdout
    elif native.available():
        assert found == {"instruction_set": native.instruction_set(), "why_not": ""}
    else:
        assert found["why_not"]
