"""The memory that cgroups of both versions let a process use, tested with imitated files and real cgroups of the kernel."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

from labkit.config import GPTJConfig
from labkit.engine.capacity import num_slots_for, slot_bytes, workspace_bytes
from labkit.host_memory import Limit, available_memory, limits, total_memory
from tests.control_groups import group, process, real_group
from tests.patience import PATIENCE

MB = 1_000_000
NONE_V1 = "9223372036854771712\n"


def test_version_2_and_the_groups_above(tmp_path: Path) -> None:
    tree = tmp_path / "a tree"
    group(tree, "memory")  # the host's root has no limits
    group(
        tree / "slice",
        "memory",
        max=900 * MB,
        high="max",
        current=700 * MB,
        stat=f"anon 5\ninactive_file {300 * MB}\nactive_file 7",
    )
    group(tree / "slice/job", "memory", max="max", high=800 * MB, current=100 * MB, stat="anon 5\ninactive_file 0")
    own = process(tmp_path, "0::/slice/job\n", ("/", tree, "cgroup2 cgroup2 rw"))
    assert limits(own) == [Limit(800 * MB, 100 * MB), Limit(900 * MB, 400 * MB)]
    assert available_memory(own) == 500 * MB
    assert total_memory(own) == 800 * MB


def test_version_1_writes_a_large_number_for_no_limit(tmp_path: Path) -> None:
    tree = group(tmp_path / "memory", "memory", limit_in_bytes=NONE_V1, usage_in_bytes=5)
    used = {"usage_in_bytes": 90 * MB, "stat": f"inactive_file 1\ntotal_inactive_file {20 * MB}"}
    group(tree / "docker/abc", "memory", limit_in_bytes=200 * MB, **used)
    group(tree / "docker", "memory", limit_in_bytes=NONE_V1, usage_in_bytes=5)
    cgroup = "9:cpu,cpuacct:/other\n4:memory:/docker/abc\n0::/\n"
    own = process(tmp_path, cgroup, ("/", tree, "cgroup cgroup rw,memory"), ("/", tmp_path / "cpu", "cgroup cgroup rw,cpu"))
    assert limits(own) == [Limit(200 * MB, 70 * MB)]
    assert available_memory(own) == 130 * MB


@pytest.mark.parametrize(("path", "root"), [("/docker/abc", "/docker/abc"), ("/", "/"), ("/unseen/from/here", "/docker/abc")])
def test_in_a_container_the_own_group_is_where_the_tree_is_mounted(tmp_path: Path, path: str, root: str) -> None:
    tree = group(tmp_path / "cgroup", "memory", max=300 * MB, current=100 * MB, stat="inactive_file 0")
    own = process(tmp_path, f"0::{path}\n", (root, tree, "cgroup2 cgroup rw"))
    assert available_memory(own) == 200 * MB


def test_without_limits_or_without_files_the_host_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = psutil.virtual_memory()._replace(available=123 * MB, total=456 * MB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    tree = group(tmp_path / "cgroup", "memory", max="max", high="max", current=100 * MB)
    assert available_memory(process(tmp_path, "0::/\n", ("/", tree, "cgroup2 cgroup rw"))) == 123 * MB
    assert available_memory(tmp_path / "nothing") == 123 * MB
    assert total_memory(tmp_path / "nothing") == 456 * MB


def test_a_group_that_is_full_leaves_nothing(tmp_path: Path) -> None:
    tree = group(tmp_path / "cgroup", "memory", max=MB, current=2 * MB)
    assert available_memory(process(tmp_path, "0::/\n", ("/", tree, "cgroup2 cgroup rw"))) == 0


PROGRAM = """
import sys
from pathlib import Path
for path in sys.argv[1:]:
    Path(path, "cgroup.procs").write_text("0")
import torch
from labkit.config import GPTJConfig
from labkit.engine.capacity import num_slots_for
from labkit.host_memory import available_memory, total_memory
config = GPTJConfig(hidden_size=1024, num_layers=8, num_heads=8, rotary_dim=64, context_length=2048, vocab_size=5000)
slots = num_slots_for(config, torch.device("cpu"), torch.float32, max_batch_size=64, max_step_tokens=64)
print(slots, available_memory(), total_memory())
"""


def test_the_cache_fits_a_real_group() -> None:
    size = 2000 * MB
    with real_group("memory", {1: {"memory.limit_in_bytes": size}, 2: {"memory.max": size}}) as folder:
        command = [sys.executable, "-c", PROGRAM, str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    slots, available, total = map(int, done.stdout.split())
    assert total == pytest.approx(size, abs=1 << 20)  # the kernel counts whole pages
    assert 0 < available < size
    config = GPTJConfig(hidden_size=1024, num_layers=8, num_heads=8, rotary_dim=64, context_length=2048, vocab_size=5000)
    cpu, dtype = torch.device("cpu"), torch.float32
    free = psutil.virtual_memory().available
    unlimited = num_slots_for(config, cpu, dtype, max_batch_size=64, max_step_tokens=64)
    assert slots * slot_bytes(config, cpu, dtype) < size - workspace_bytes(config, dtype, 64, 64)
    if free > 3 * size:
        assert unlimited > slots


@pytest.mark.skipif(sys.platform != "linux", reason="not measured here: no RLIMIT_AS")
def test_a_limit_on_the_address_space_counts() -> None:
    program = (
        "import resource, psutil\n"
        "from labkit.host_memory import available_memory\n"
        "used = psutil.Process().memory_info().vms\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 100_000_000,) * 2)\n"
        "print(available_memory())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert 90 * MB < int(done.stdout) <= 100 * MB
