"""torchrun starts ranks on one host, and on two hosts, which are network namespaces with a virtual cable between them."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import labkit
from labkit import native
from labkit.errors import InvalidRequest, RankFailed
from labkit.parallel import Layout
from labkit.parallel.torchrun import MEET_SECONDS, MEET_VARIABLE, TorchrunRanks, meet_seconds
from tests.patience import PATIENCE, if_alive, is_running, wait_for
from tests.sampled import one_in

pytestmark = pytest.mark.skipif(not native.available(), reason=f"not measured here: {native.why_not()}")

PROMPTS = ("In the beginning", "Call me Ishmael. Some years ago", "It")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]


def command(layout: Layout, *options: str) -> list[str]:
    sizes = ["--tensor-parallel", str(layout.tensor_parallel), "--pipeline-parallel", str(layout.pipeline_parallel)]
    return ["-m", "labkit", "generate", *PROMPTS, "--max-new-tokens", "20", *sizes, *options]


def tokens_of(stdout: str) -> list[list[int]]:
    return [row["token_ids"] for row in json.loads(stdout.strip().splitlines()[-1])["outputs"]]


@pytest.fixture(scope="module")
def expected() -> list[list[int]]:
    outputs = labkit.load("gptj-tiny").generate(list(PROMPTS), labkit.SamplingParams(max_new_tokens=20))
    return [output.completions[0].token_ids for output in outputs]


@pytest.mark.parametrize("layout", one_in(2, [Layout(2, 1), Layout(2, 2)]))
def test_one_host(layout: Layout, expected: list[list[int]]) -> None:
    arguments = [*TORCHRUN, "--standalone", "--nproc-per-node", str(layout.ranks), *command(layout, "--json")]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert tokens_of(done.stdout) == expected


@pytest.mark.long
def test_ranks_end_in_order_whatever_their_signs_of_life_are_doing(tmp_path: Path) -> None:
    script = tmp_path / "restless.py"
    script.write_text(
        "import sys, labkit.parallel.torchrun as torchrun\n"
        "from labkit.cli import main\n"
        "torchrun.BEAT_SECONDS = 0.0  # so that every rank ends in the middle of one\n"
        "main()\n"
    )
    arguments = [*TORCHRUN, "--standalone", "--nproc-per-node", "2", str(script), *command(Layout(2, 1), "--json")[2:]]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr


@pytest.mark.long
def test_another_number_of_ranks_than_the_layout_has_is_refused() -> None:
    arguments = [*TORCHRUN, "--standalone", "--nproc-per-node", "2", *command(Layout(2, 2))]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode != 0
    assert "tensor_parallel 2 x pipeline_parallel 2 makes 4 ranks, but 2 were started" in done.stderr


def meet(monkeypatch: pytest.MonkeyPatch, rank: int, seconds: str) -> None:
    """Begin one of two ranks; the other rank never begins."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    given = {"RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, MEET_VARIABLE: seconds}
    for name, value in given.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    TorchrunRanks(Layout(2, 1))


def test_a_rank_that_never_begins_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RankFailed, match=rf"of 2 ranks, rank 1 did not connect within 0.2 s; .* set {MEET_VARIABLE}"):
        meet(monkeypatch, 0, "0.2")
    with pytest.raises(
        RankFailed, match=rf"rank 1 could not connect to rank 0 at 127.0.0.1:\d+ .* within 0.2 s; .*{MEET_VARIABLE}"
    ):
        meet(monkeypatch, 1, "0.2")


def test_the_time_to_meet_must_be_a_number_of_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    for given in ("soon", "0", "nan", "1e9"):
        with pytest.raises(InvalidRequest, match=f"{MEET_VARIABLE} is '{given}'"):
            meet(monkeypatch, 0, given)
    monkeypatch.delenv(MEET_VARIABLE)
    assert meet_seconds() == MEET_SECONDS


def rank_of(process: psutil.Process) -> str:
    """The rank of a process that torchrun started; empty if the process is not a rank, is not yet a rank, or has ended."""
    return if_alive(process.environ, {}).get("RANK", "")


@pytest.mark.parametrize("harm", [signal.SIGSTOP, signal.SIGKILL])
@pytest.mark.long
def test_a_rank_that_goes_ends_the_run_and_is_named(harm: signal.Signals) -> None:
    arguments = [*TORCHRUN, "--standalone", "--nproc-per-node", "2", "--monitor-interval", "0.2"]
    sampling = ["--max-new-tokens", "200", "--num-samples", "60", "--temperature", "1"]
    script = ["-m", "labkit", "generate", *PROMPTS * 20, *sampling, "--tensor-parallel", "2", "--json"]
    run = subprocess.Popen([*arguments, *script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def computing() -> list[psutil.Process]:
        ranks = [child for child in psutil.Process(run.pid).children() if rank_of(child)]
        return ranks if len(ranks) == 2 and all(child.cpu_times().user > 4 for child in ranks) else []

    ranks = wait_for(computing, "two ranks in the middle of their work")
    first, victim = sorted(ranks, key=rank_of)
    os.kill(victim.pid, harm)
    wait_for(lambda: not is_running(first), "the end of rank 0 after rank 1 had gone")
    if harm == signal.SIGSTOP:
        os.kill(victim.pid, signal.SIGCONT)  # otherwise torchrun waits half a minute until this process ends
    _, errors = run.communicate(timeout=PATIENCE)
    assert run.returncode != 0
    assert not any(is_running(child) for child in ranks)
    if harm == signal.SIGSTOP:
        assert re.search(r"labkit: rank 1 \(shard 1 of 2\) on \S+ failed at step \d+: it gave no sign of life for \d s", errors)
    else:
        assert "rank" in errors
        assert "Signal 9" in errors


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=PATIENCE)


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[str, str]]:
    """Two network namespaces, joined by a veth pair."""
    names = ("labkit-a", "labkit-b")
    if shutil.which("ip") is None:
        pytest.skip("not measured here: two hosts need the command ip, to make network namespaces")
    for name in names:
        subprocess.run(["ip", "netns", "del", name], capture_output=True)
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", "lk-a", "netns", names[0], "type", "veth", "peer", "name", "lk-b", "netns", names[1])
        for number, name in enumerate(names):
            device = f"lk-{'ab'[number]}"
            ip("-n", name, "addr", "add", f"10.77.0.{number + 1}/24", "dev", device)
            ip("-n", name, "link", "set", device, "up")
            ip("-n", name, "link", "set", "lo", "up")
    except (subprocess.CalledProcessError, PermissionError) as error:
        why = error.stderr.decode().strip() if isinstance(error, subprocess.CalledProcessError) else str(error)
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
        pytest.skip(f"not measured here: two hosts need network namespaces ({why})")
    yield names
    for name in names:
        ip("netns", "del", name)


def run_on(hosts: tuple[str, str], layout: Layout, folder: Path) -> str:
    """Start torchrun in both namespaces. Return the output of rank 0."""
    runs = []
    for number, name in enumerate(hosts):
        device = f"lk-{'ab'[number]}"
        environ = os.environ | {"GLOO_SOCKET_IFNAME": device, "TP_SOCKET_IFNAME": device, "OMP_NUM_THREADS": "1"}
        options = ["--nnodes", "2", "--node-rank", str(number), "--nproc-per-node", "1", "--master-addr", "10.77.0.1"]
        arguments = ["ip", "netns", "exec", name, *TORCHRUN, *options, "--master-port", "29577", *command(layout, "--json")]
        with (folder / f"{number}.out").open("w") as out, (folder / f"{number}.err").open("w") as err:
            runs.append(subprocess.Popen(arguments, env=environ, stdout=out, stderr=err))
    codes = [run.wait(timeout=PATIENCE) for run in runs]
    assert codes == [0, 0], "".join((folder / f"{number}.err").read_text() for number in (0, 1))
    return (folder / "0.out").read_text()


@pytest.mark.parametrize("link", ["fast", "slow"])
@pytest.mark.parametrize("layout", [Layout(2, 1), Layout(1, 2)])
@pytest.mark.long
def test_two_hosts(hosts: tuple[str, str], layout: Layout, link: str, expected: list[list[int]], tmp_path: Path) -> None:
    if link == "slow":
        shape = ["tc", "qdisc", "add", "dev", "lk-a", "root", "tbf", "rate", "10mbit", "burst", "32kbit", "latency", "400ms"]
        try:
            subprocess.run(["ip", "netns", "exec", hosts[0], *shape], check=True, capture_output=True, timeout=PATIENCE)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"not measured here: a slow link needs tc with tbf ({error.stderr.decode().strip()})")
    try:
        assert tokens_of(run_on(hosts, layout, tmp_path)) == expected
    finally:
        if link == "slow":
            subprocess.run(["ip", "netns", "exec", hosts[0], "tc", "qdisc", "del", "dev", "lk-a", "root"], capture_output=True)
