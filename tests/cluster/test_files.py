"""The files for clusters are valid for the tools that read them, and name only files and programs that are in the images."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from labkit.checkpoints.fetch import HUB_MODELS
from labkit.serving.server.guardian import CHILDREN_SECONDS, STOP_SECONDS
from tests.docker.queries import compare_with_promtool, needs_promtool, rules_of_the_adapter

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "environment" / "cluster"
SCHEMAS = Path(__file__).with_name("schemas")
MANIFESTS = ("kubernetes.yaml", "model_cache.yaml", "triton.yaml", "triton_nodes.yaml")
VALUES = ("jupyterhub.yaml", "prometheus_adapter.yaml")


def resources(name: str) -> list[Any]:
    """The resources of a manifest."""
    return list(yaml.safe_load_all((CLUSTER / name).read_text("utf-8")))


def schema(name: str) -> Any:
    return json.loads((SCHEMAS / name).read_text("utf-8"))


def validate(resource: dict[str, Any]) -> None:
    """Validate a resource against Kubernetes's schema. Unknown fields are refused."""
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="not measured here: no kubernetes-validate")
    if resource["kind"] != "LeaderWorkerSet":
        kubernetes_validate.validate(resource, "1.35", strict=True)
        return
    jsonschema.validate(resource, schema("leaderworkerset.json"))
    for name in ("leaderTemplate", "workerTemplate"):
        pod = {"apiVersion": "v1", "kind": "Pod"} | resource["spec"]["leaderWorkerTemplate"][name]
        kubernetes_validate.validate(pod, "1.35", strict=True)


def pods() -> list[Any]:
    """The specifications of all pods of the manifests."""

    def inside(value: Any) -> list[Any]:
        if isinstance(value, list):
            return [one for item in value for one in inside(item)]
        if isinstance(value, dict):
            return ([value] if "containers" in value else []) + [one for item in value.values() for one in inside(item)]
        return []

    return [one for name in MANIFESTS for resource in resources(name) for one in inside(resource)]


def containers() -> list[Any]:
    """All containers of the manifests."""
    return [one for pod in pods() for one in pod["containers"]]


def test_every_file_is_tested() -> None:
    assert {path.name for path in CLUSTER.glob("*.yaml")} == {*MANIFESTS, *VALUES}


@pytest.mark.parametrize("name", MANIFESTS)
def test_kubernetes_accepts_the_manifests(name: str) -> None:
    for resource in resources(name):
        validate(resource)


@pytest.mark.parametrize("where", ["spec", "spec.template.spec", "spec.template.spec.containers.0.livenessProbe"])
def test_an_unknown_field_is_found(where: str) -> None:
    inner: Any = (deployment := only_deployment())
    for key in where.split("."):
        inner = inner[int(key)] if key.isdigit() else inner[key]
    inner["imagine"] = 1
    with pytest.raises(Exception, match="imagine"):
        validate(deployment)


def test_an_unknown_field_of_a_leader_worker_set_is_found() -> None:
    resource = resources("triton_nodes.yaml")[1]
    resource["spec"]["leaderWorkerTemplate"]["nodes"] = 2
    with pytest.raises(jsonschema.ValidationError, match="nodes"):
        validate(resource)


def test_no_service_has_the_name_of_a_leader_worker_set() -> None:
    """The operator makes a service with the set's name, by which the ranks meet, only if there is no service of this name."""
    names: dict[str, list[str]] = {}
    for resource in (resource for name in MANIFESTS for resource in resources(name)):
        names.setdefault(resource["kind"], []).append(resource["metadata"]["name"])
    assert names["LeaderWorkerSet"]
    assert not set(names["LeaderWorkerSet"]) & set(names["Service"])


def test_every_pod_of_a_server_has_memory_for_exchange() -> None:
    servers = [pod for pod in pods() if any(one["image"] == "labkit-server" for one in pod["containers"])]
    assert len(servers) == 3, "of triton.yaml, and leader and worker of triton_nodes.yaml"
    for pod in servers:
        in_memory = {one["name"] for one in pod["volumes"] if one.get("emptyDir", {}).get("medium") == "Memory"}
        for one in pod["containers"]:
            mounted = [mount["name"] for mount in one["volumeMounts"] if mount["mountPath"] == "/dev/shm"]
            assert len(mounted) == 1
            assert set(mounted) <= in_memory


def only_deployment() -> Any:
    (deployment,) = (resource for resource in resources("triton.yaml") if resource["kind"] == "Deployment")
    return deployment


def seconds_of(probe: dict[str, Any]) -> int:
    """How many seconds a probe may fail before Kubernetes acts."""
    return int(probe["periodSeconds"] * probe["failureThreshold"])


def test_a_server_gives_up_before_kubernetes_does() -> None:
    servers = [one for one in containers() if "startupProbe" in one]
    assert len(servers) == 2, "triton.yaml and the leader of triton_nodes.yaml"
    for server in servers:
        (seconds,) = (int(word.partition("=")[2]) for word in server["args"] if word.startswith("--start-seconds="))
        assert seconds < seconds_of(server["startupProbe"])
        assert "livenessProbe" not in server or seconds < seconds_of(server["livenessProbe"]), "a restart takes as long"


def test_a_pod_that_is_to_end_has_time_for_its_requests_and_for_its_end() -> None:
    pod = only_deployment()["spec"]["template"]["spec"]
    program, seconds = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert program == "sleep"
    (drain,) = (int(word.partition("=")[2]) for word in pod["containers"][0]["args"] if word.startswith("--drain-seconds="))
    assert pod["terminationGracePeriodSeconds"] >= int(seconds) + drain + STOP_SECONDS + CHILDREN_SECONDS


def test_the_servers_read_the_volume_that_the_job_fills() -> None:
    claim, job = resources("model_cache.yaml")
    (download,) = job["spec"]["template"]["spec"]["containers"]
    model = HUB_MODELS["gpt-j-6b"]
    assert download["command"] == ["hf", "download", model.repository]
    assert download["args"] == [*model.files, f"--revision={model.revision}"]
    in_text = f"persistentVolumeClaim: {{claimName: {claim['metadata']['name']}, readOnly: true}}"
    for pod in (pod for pod in pods() if any(one["image"] == "labkit-server" for one in pod["containers"])):
        (models,) = (volume for volume in pod["volumes"] if volume["name"] == "models")
        is_own = "emptyDir" in models  # one server with the model in its image works without the shared volume
        assert is_own or models["persistentVolumeClaim"] == {"claimName": claim["metadata"]["name"], "readOnly": True}
        for one in pod["containers"]:
            (mount,) = (mount for mount in one["volumeMounts"] if mount["name"] == models["name"])
            assert mount.get("readOnly", False) != is_own
            assert {"name": "HF_HUB_CACHE", "value": mount["mountPath"]} in one["env"]
    assert in_text in (CLUSTER / "triton.yaml").read_text("utf-8")


def test_torchrun_takes_the_options_and_the_first_pod_keeps_the_store() -> None:
    """With `c10d`, torchrun asks whether the store's name is its own name, which a pod may not know yet when it starts."""
    from torch.distributed.run import config_from_args, parse_args

    service, job = resources("kubernetes.yaml")
    pod = job["spec"]["template"]["spec"]
    args = pod["containers"][0]["args"]
    index = "$(JOB_COMPLETION_INDEX)"
    assert any(index in word for word in args)
    for number in range(job["spec"]["completions"]):
        given = parse_args([word.replace(index, str(number)) for word in args])
        config, *_ = config_from_args(given)
        assert config.rdzv_backend == "static"
        assert config.rdzv_configs["rank"] == number
        assert config.max_nodes == job["spec"]["completions"]
        assert config.rdzv_endpoint == f"{job['metadata']['name']}-0.{service['metadata']['name']}:29500"
        assert given.training_script == "labkit"


def test_the_chart_of_jupyterhub_accepts_its_values() -> None:
    values = yaml.safe_load((CLUSTER / "jupyterhub.yaml").read_text("utf-8"))
    jsonschema.validate(values, schema("jupyterhub-values.json"))
    wrong = values | {"singleuser": values["singleuser"] | {"imagine": 1}}
    with pytest.raises(jsonschema.ValidationError, match="imagine"):
        jsonschema.validate(wrong, schema("jupyterhub-values.json"))


def test_sessions_read_the_volume_that_the_job_fills() -> None:
    singleuser = yaml.safe_load((CLUSTER / "jupyterhub.yaml").read_text("utf-8"))["singleuser"]
    claim, _ = resources("model_cache.yaml")
    (models,) = (v for v in singleuser["storage"]["extraVolumes"] if "persistentVolumeClaim" in v)
    assert models["persistentVolumeClaim"] == {"claimName": claim["metadata"]["name"], "readOnly": True}
    (mount,) = (m for m in singleuser["storage"]["extraVolumeMounts"] if m["name"] == models["name"])
    assert mount["readOnly"]
    assert mount["mountPath"] == singleuser["extraEnv"]["HF_HUB_CACHE"]
    assert singleuser["storage"]["homeMountPath"] == "/home/learner/course"


def test_what_the_containers_run_is_in_the_image() -> None:
    lines = [line for one in containers() for line in one.get("args", []) + probes_of(one)]
    lines += yaml.safe_load((CLUSTER / "jupyterhub.yaml").read_text("utf-8"))["singleuser"]["cmd"]
    named = [line.removeprefix("/opt/course/") for line in lines if line.startswith("/opt/course/")]
    assert {"docker/serve.sh", "docker/serve_nodes.sh", "docker/answers.py", "docker/start.sh"} == set(named)
    assert all((ROOT / name).is_file() for name in named)


def probes_of(container: dict[str, Any]) -> list[str]:
    """The words of all commands that a container's probes run."""
    probes = [container[f"{kind}Probe"] for kind in ("startup", "readiness", "liveness") if f"{kind}Probe" in container]
    return [word for probe in probes for word in probe["exec"]["command"]]


def test_the_autoscaler_asks_for_a_metric_that_the_adapter_has() -> None:
    scaler = next(resource for resource in resources("triton.yaml") if resource["kind"] == "HorizontalPodAutoscaler")
    adapter = yaml.safe_load((CLUSTER / "prometheus_adapter.yaml").read_text("utf-8"))
    offered = [rule["name"]["as"] for rule in adapter["rules"]["external"]]
    assert [metric["external"]["metric"]["name"] for metric in scaler["spec"]["metrics"]] == offered


@needs_promtool
@pytest.mark.parametrize("interval", ["5s", "15s", "30s", "1m"])
@pytest.mark.parametrize(
    ("queue", "requests", "found"),
    [("0+40x60", "0+4x60", [10]), ("7+0x60", "8+0x60", [0]), (None, None, [])],
    ids=["ten seconds in the queue", "no requests", "no readings"],
)
def test_the_autoscaler_sees_the_queue_at_every_usual_interval(
    tmp_path: Path, interval: str, queue: str | None, requests: str | None, found: list[float]
) -> None:
    """Without readings there is no value, so that the autoscaler keeps the number of pods; 0 would end pods."""
    (rule,) = rules_of_the_adapter()
    series = {"labkit_queue_seconds_total": queue, "labkit_requests_total": requests}
    expected = {
        "expr": f"round({rule['metricsQuery']}, 0.001)",
        "eval_time": "5m10s",  # between two readings
        "exp_samples": [{"value": v, "labels": "{}"} for v in found],
    }
    compare_with_promtool(tmp_path, interval, {name: values for name, values in series.items() if values}, [expected])


@pytest.mark.parametrize("name", ["slurm.sbatch", "slurm_serve.sbatch"])
def test_the_jobs_of_slurm_are_bash_and_state_their_needs(name: str) -> None:
    subprocess.run(["bash", "-n", CLUSTER / name], check=True)
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)", (CLUSTER / name).read_text("utf-8"), re.MULTILINE))
    assert {"job-name", "nodes", "ntasks-per-node", "cpus-per-task", "time"} <= set(options)


@pytest.mark.parametrize("name", ["slurm.sbatch", "slurm_serve.sbatch"])
def test_a_step_gets_the_cores_of_its_job(name: str) -> None:
    """Since Slurm 22.05, srun does not take `--cpus-per-task` from sbatch."""
    steps = re.findall(r"^srun (.*)", (CLUSTER / name).read_text("utf-8"), re.MULTILINE)
    assert steps
    assert all('--cpus-per-task="$SLURM_CPUS_PER_TASK" ' in step for step in steps)
