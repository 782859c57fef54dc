"""The tests check what servers and models do when processes are killed, ports are in use, or a repository cannot be served."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from textwrap import dedent

import psutil
import pytest

from labkit.engine import Engine, SamplingParams
from labkit.errors import InvalidRequest, NotAvailable
from labkit.serving.channels import client_library
from labkit.serving.probe_mark import PARAMETER, mark_of
from labkit.serving.repository.writer import ServeSettings, write_repository
from labkit.serving.server import Server
from labkit.serving.shared_folder import shared_folder_path
from tests.patience import is_running, wait_for
from tests.sampled import one_in
from tests.serving.live.echo_model import ECHO, write_repository_of_one
from tests.serving.live.processes import model_process, processes, region_prefix, shared_memory
from tests.serving.live.requests import PROMPT, ask, ensemble, infer, long_request


def remains(server: Server, pid: int) -> list[Path]:
    """The shared-memory regions and the folders that a server has left behind at its end."""
    folders = [server.log.parent, shared_folder_path(pid)]
    return [*shared_memory(region_prefix(server)), *(folder for folder in folders if folder.exists())]


@pytest.fixture(scope="module")
def watched(triton_server: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("watched")
    write_repository(folder / "repository", ServeSettings())
    with Server(folder / "repository", log=folder / "log") as server:
        yield server


@pytest.mark.parametrize("model", one_in(4, ["gptj", "fastertransformer", "preprocessing", "postprocessing"]))
def test_a_killed_model_is_loaded_anew(watched: Server, offline: Engine, model: str) -> None:
    dog = watched.watchdog
    assert dog is not None
    before, server = len(dog.repairs), watched.pid
    model_process(watched, model).kill()
    words = []

    def answers() -> bool:
        try:
            if model == "gptj":
                ask(watched, text_input=PROMPT, max_new_tokens=2)
            else:
                infer(watched, "ensemble", ensemble([PROMPT], 2))
        except client_library().InferenceServerException as error:
            words.append(str(error.message()))
            return False
        return True

    wait_for(lambda: len(dog.repairs) > before or watched.pid != server)
    wait_for(answers)
    assert not watched.restarts, [restart.why for restart in watched.restarts]
    assert [(repair.model, repair.failure) for repair in list(dog.repairs)[before:]] == [(model, "")]
    assert all(words), "an error without words"
    assert watched.pid == server
    expected = offline.generate(PROMPT, SamplingParams(max_new_tokens=8))[0].text
    assert ask(watched, text_input=PROMPT, max_new_tokens=8)["text_output"][0] == expected
    assert infer(watched, "ensemble", ensemble([PROMPT], 8))["OUTPUT_0"][0, 0] == PROMPT + expected


@pytest.mark.parametrize("asked", one_in(2, ["ensemble", "fastertransformer"]))
def test_a_probe_that_gets_no_answer_does_not_restart_the_server(watched: Server, asked: str) -> None:
    """The engine is stopped, so that `fastertransformer` has the probe while its process is killed."""
    dog = watched.watchdog
    assert dog is not None
    before, server, marked = len(dog.repairs), watched.pid, {PARAMETER: mark_of(shared_folder_path(watched.pid))}
    engine, broken = model_process(watched, "gptj"), model_process(watched, "fastertransformer")
    with ThreadPoolExecutor(1) as pool:
        engine.send_signal(signal.SIGSTOP)
        probe = pool.submit(infer, watched, asked, long_request(asked, 8), parameters=marked, client_timeout=5.0)
        time.sleep(0.3)
        broken.kill()
        engine.send_signal(signal.SIGCONT)
        wait_for(lambda: len(dog.repairs) > before or watched.pid != server)
        assert not watched.restarts, [restart.why for restart in watched.restarts]
        assert isinstance(probe.exception(), client_library().InferenceServerException)
    assert [(repair.model, repair.failure) for repair in list(dog.repairs)[before:]] == [("fastertransformer", "")]
    assert watched.pid == server


@pytest.mark.long
def test_two_servers_on_one_repository(watched: Server, offline: Engine, tmp_path: Path) -> None:
    """The second server is started in a thread. When it ends, it leaves nothing behind, and the first server continues."""
    made: list[Server] = []
    thread = threading.Thread(target=lambda: made.append(Server(watched.repository)))
    thread.start()
    thread.join()
    (second,) = made
    pid, family = second.pid, processes(second)
    expected = offline.generate(PROMPT, SamplingParams(max_new_tokens=4))[0].text
    for server in (watched, second):
        assert infer(server, "ensemble", ensemble([PROMPT], 4))["OUTPUT_0"][0, 0] == PROMPT + expected
    assert shared_memory(region_prefix(second))
    port = int(second.grpc.rsplit(":", 1)[1])
    with pytest.raises(InvalidRequest, match=f"port {port}"):
        Server(watched.repository, grpc_port=port)
    second.stop()
    second.stop()
    assert not second.is_running
    assert remains(second, pid) == []
    assert not any(is_running(process) for process in family)
    with Server(write_repository_of_one(tmp_path), grpc_port=port):  # a port is free when its server has ended
        pass
    assert ask(watched, text_input=PROMPT, max_new_tokens=4)["text_output"][0] == expected


def test_a_killed_server_that_nobody_watches_is_told(tmp_path: Path) -> None:
    with Server(write_repository_of_one(tmp_path), watch=False) as server:
        family = processes(server)
        psutil.Process(server.pid).kill()
        wait_for(lambda: not server.is_running)
        wait_for(lambda: server.process.poll() is not None)
        assert not any(is_running(process) for process in family)
        assert not server.restarts


START = """
import sys, time
from labkit.serving.server import Server
with Server(sys.argv[1]) as server:
    print(server.pid, server.log.parent, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("number", one_in(2, [signal.SIGKILL, signal.SIGINT]))
def test_nothing_outlives_the_python_that_started_it(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-c", START, str(write_repository_of_one(tmp_path))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, process_group=0) as owner:
        assert owner.stdout is not None
        pid, folder = owner.stdout.readline().split()
        family = [*psutil.Process(owner.pid).children(recursive=True)]
        assert int(pid) in [process.pid for process in family]
        regions = f"triton-labkit-{owner.pid}-"
        found = shared_memory(regions)
        owner.send_signal(number)
    assert found
    wait_for(lambda: not any(is_running(process) for process in family))
    wait_for(lambda: not Path(folder).exists())
    assert not shared_memory(regions)
    assert not shared_folder_path(int(pid)).exists()


def test_a_model_without_code_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"mine/1/model\.py"):
        Server(write_repository_of_one(tmp_path, None))


def test_no_models(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"config\.pbtxt"):
        Server(tmp_path)
    with pytest.raises(InvalidRequest, match="no model other"):
        Server(write_repository_of_one(tmp_path), models=["other"])


def test_code_that_raises_is_told_in_its_words(tmp_path: Path) -> None:
    with pytest.raises(NotAvailable, match="the weights of Atlantis"):
        Server(write_repository_of_one(tmp_path, "raise ValueError('the weights of Atlantis')"))


def test_a_model_whose_process_ends_before_it_answers_is_not_waited_for(tmp_path: Path) -> None:
    ends = ECHO.replace("import triton", "import os\nimport triton").replace("return [", "os._exit(1)\n        return [")
    with pytest.raises(NotAvailable, match="its process ended before it had answered"):
        Server(write_repository_of_one(tmp_path, ends))


@pytest.mark.long
def test_code_that_never_comes_back_is_given_up(tmp_path: Path) -> None:
    """A model whose code never returns is given up with an error. On a busy machine, the server itself may only start within
    the longer of the two time limits.
    """
    repository = write_repository_of_one(tmp_path, "import time\ntime.sleep(600)")
    for seconds in (6, 60):
        with pytest.raises(NotAvailable) as refused:
            Server(repository, start_seconds=seconds)
        if "the server did not come up" not in str(refused.value):
            break
    assert "mine was not loaded within" in str(refused.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"cache_bytes": "99000000000000"}, "a KV cache of"), ({"model": "no-such-model"}, "no-such-model")],
)
def test_an_engine_that_cannot_be_loaded(tmp_path: Path, settings: dict[str, str], words: str) -> None:
    """The error names the cause, also when fastertransformer, which needs the engine, is loaded."""
    write_repository(tmp_path, ServeSettings())
    _set_parameters(tmp_path / "gptj" / "config.pbtxt", settings)
    with Server(tmp_path, models=[]) as server:
        for model in ("gptj", "fastertransformer"):
            with pytest.raises(NotAvailable, match=words):
                server.probes.load(model)
            assert not server.probes.is_loaded(model)


def _set_parameters(config: Path, settings: dict[str, str]) -> None:
    text = config.read_text()
    for name, value in settings.items():
        entry = dedent(f"""
            parameters {{ key: "{name}" value: {{ string_value: "{value}" }} }}
        """)
        lines = text.split("parameters {")
        text = "parameters {".join(part for part in lines if f'key: "{name}"' not in part) + entry
    config.write_text(text)


@pytest.mark.long
def test_ranks(tmp_path: Path, offline: Engine) -> None:
    """An engine on two processes gives the same tokens. When one is killed, requests get errors and the model is reloaded."""
    write_repository(tmp_path / "repository", ServeSettings(tensor_parallel=2))
    with Server(tmp_path / "repository", models=["gptj"], log=tmp_path / "log") as server:
        assert server.watchdog is not None
        expected = offline.generate(PROMPT, SamplingParams(max_new_tokens=8))[0].token_ids
        assert ask(server, text_input=PROMPT, max_new_tokens=8)["token_ids"].tolist() == expected
        (rank,) = [each for each in processes(server) if "labkit.parallel.rank_main" in each.cmdline()]
        rank.kill()
        words = []

        def answers() -> bool:
            try:
                ask(server, text_input=PROMPT, max_new_tokens=200, ignore_eos=True)
            except client_library().InferenceServerException as error:
                words.append(str(error.message()))
                return False
            return bool(server.watchdog and server.watchdog.repairs)

        wait_for(answers)
        assert any("rank 1" in each for each in words), words
        assert [(repair.model, repair.failure) for repair in server.watchdog.repairs] == [("gptj", "")]
        assert ask(server, text_input=PROMPT, max_new_tokens=8)["token_ids"].tolist() == expected


@pytest.mark.long
def test_two_instances(tmp_path: Path, offline: Engine) -> None:
    """Both engines get work: each has a process of its own, and both processes use processor time."""
    write_repository(tmp_path / "repository", ServeSettings(instances=2, cache_bytes=64 * 2**20))
    with Server(tmp_path / "repository", watch=False, log=tmp_path / "log") as server:
        stubs = [each for each in processes(server) if any(f"gptj_0_{number}" in each.cmdline() for number in (0, 1))]
        assert len(stubs) == 2
        before = [sum(each.cpu_times()[:2]) for each in stubs]
        expected = offline.generate(PROMPT, SamplingParams(max_new_tokens=40))[0].text
        texts = []
        asking = [
            threading.Thread(target=lambda: texts.append(infer(server, "ensemble", ensemble([PROMPT] * 4, 40))["OUTPUT_0"]))
            for _ in range(8)
        ]
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join()
        assert all(text[row, 0] == PROMPT + expected for text in texts for row in range(4))
        worked = [sum(each.cpu_times()[:2]) - start for each, start in zip(stubs, before, strict=True)]
        assert min(worked) > max(worked) / 10, worked


def test_a_forked_child_that_ends_leaves_the_server_of_its_parent(served: Server) -> None:
    if not (child := os.fork()):
        served.stop()  # as at the end of a program
        os._exit(0)
    os.waitpid(child, 0)
    assert served.is_running
    assert served.probes.answers("gptj")
