"""The number of cores that a process can keep busy: it depends on quotas of both versions of cgroups, and on hardware threads
that share a core.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from labkit import host_cores
from labkit.host_cores import physical_cores, quotas, usable_cores
from tests.conftest import THREADS
from tests.control_groups import cpu_quota, group, process, real_group
from tests.patience import PATIENCE


def test_version_2_and_the_groups_above(tmp_path: Path) -> None:
    tree = tmp_path / "a tree"
    group(tree, "cpu")  # the host's root has no quota
    group(tree / "slice", "cpu", max="150000 100000")
    group(tree / "slice/job", "cpu", max="max 100000")
    group(tree / "slice/job/step", "cpu", max="400000 200000")
    own = process(tmp_path, "0::/slice/job/step\n", ("/", tree, "cgroup2 cgroup2 rw"))
    assert quotas(own) == [2.0, 1.5]


def test_version_1(tmp_path: Path) -> None:
    tree = group(tmp_path / "cpu,cpuacct", "cpu", cfs_quota_us=-1, cfs_period_us=100000)
    group(tree / "docker/abc", "cpu", cfs_quota_us=25000, cfs_period_us=50000)
    own = process(tmp_path, "4:memory:/other\n9:cpu,cpuacct:/docker/abc\n0::/\n", ("/", tree, "cgroup cgroup rw,cpu,cpuacct"))
    assert quotas(own) == [0.5]


def test_in_a_container_the_own_group_is_where_the_tree_is_mounted(tmp_path: Path) -> None:
    tree = group(tmp_path / "cgroup", "cpu", max="300000 100000")
    assert quotas(process(tmp_path, "0::/docker/abc\n", ("/docker/abc", tree, "cgroup2 cgroup rw"))) == [3.0]


def test_without_groups_there_is_no_quota(tmp_path: Path) -> None:
    assert quotas(tmp_path / "nothing") == []


@pytest.mark.parametrize(("found", "cores"), [([], 5), ([9.0], 5), ([2.9, 4.0], 2), ([0.5], 1)])
def test_a_quota_is_rounded_down_but_one_core_remains(monkeypatch: pytest.MonkeyPatch, found: list[float], cores: int) -> None:
    monkeypatch.setattr(host_cores, "quotas", lambda: found)
    monkeypatch.setattr(host_cores, "physical_cores", lambda processors: 5)
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert usable_cores() == cores


def test_hardware_threads_of_a_core_count_once(tmp_path: Path) -> None:
    for number, siblings in enumerate(["0,4", "1,5", "2,6", "3", "0,4", "1,5", "2,6"]):
        folder = tmp_path / f"cpu{number}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{siblings}\n")
    assert physical_cores({0, 1, 4, 5}, tmp_path) == 2
    assert physical_cores({2, 3, 6}, tmp_path) == 2
    assert physical_cores({0, 1, 8, 9}, tmp_path) == 4  # no file describes the hardware threads 8 and 9


PROGRAM = """
import sys
from pathlib import Path
Path(sys.argv[1], "cgroup.procs").write_text("0")
from labkit.host_cores import quotas, usable_cores
from labkit.native import library
print(*quotas(), usable_cores(), library.threads())
"""


def test_a_real_quota() -> None:
    with real_group("cpu", cpu_quota(1.5)) as folder:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, folder],
            env={name: value for name, value in os.environ.items() if name not in THREADS},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-3:] == ["1.5", "1", "1"]
