"""The manifests for Kubernetes are valid, fit segkit and ask for no more rights than they need."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml

from segkit import errors
from segkit.cli.app import load_command
from segkit.training.distributed import rank_of
from segkit.workflows.sharing import current_share
from tests.deploy.places import DEPLOY, MANIFESTS

SLIDES, TRAIN, SEVERAL = (
    DEPLOY / "kubernetes" / f"{name}.yaml" for name in ("predict-indexed-job", "train-job", "train-pytorchjob")
)
OLDEST = "1.29"


def read(path: Path) -> dict[str, Any]:
    (document,) = yaml.safe_load_all(path.read_text(encoding="utf-8"))
    assert isinstance(document, dict)
    return document


def templates_of(path: Path) -> list[dict[str, Any]]:
    """Return the templates of all pods that a manifest makes."""
    spec = read(path)["spec"]
    if "template" in spec:
        return [spec["template"]]
    return [replica["template"] for replica in spec["pytorchReplicaSpecs"].values()]


def container_of(template: dict[str, Any]) -> dict[str, Any]:
    (container,) = template["spec"]["containers"]
    assert isinstance(container, dict)
    return container


def environment_of(container: dict[str, Any]) -> dict[str, str]:
    return {one["name"]: one["value"] for one in container.get("env", [])}


EVERY_POD = [(path, template) for path in MANIFESTS for template in templates_of(path)]
each_pod = pytest.mark.parametrize(("path", "template"), EVERY_POD, ids=lambda one: getattr(one, "name", ""))


def test_there_are_manifests() -> None:
    assert MANIFESTS == [SLIDES, TRAIN, SEVERAL]


@pytest.mark.parametrize("path", [SLIDES, TRAIN], ids=lambda path: path.name)
def test_kubernetes_schemas_take_a_job(path: Path) -> None:
    schemas = pytest.importorskip("kubernetes_validate")
    for version in (OLDEST, schemas.latest_version()):
        schemas.validate(read(path), version, strict=True)


@each_pod
def test_kubernetes_schemas_take_a_pod(path: Path, template: dict[str, Any]) -> None:
    schemas = pytest.importorskip("kubernetes_validate")
    # As the operator makes it of a PyTorchJob's template.
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", **template["metadata"]}}
    for version in (OLDEST, schemas.latest_version()):
        schemas.validate({**pod, "spec": template["spec"]}, version, strict=True)


@each_pod
def test_a_pod_has_no_more_rights_than_it_needs(path: Path, template: dict[str, Any]) -> None:
    pod, container = template["spec"], container_of(template)
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


@each_pod
def test_a_pod_has_what_it_writes_to_and_memory_for_it(path: Path, template: dict[str, Any]) -> None:
    pod, container = template["spec"], container_of(template)
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert {"/data", "/tmp"} <= set(mounts.values()) <= {"/data", "/tmp", "/dev/shm"}
    assert mounts.keys() == {volume["name"] for volume in pod["volumes"]}
    for volume in pod["volumes"]:
        if mounts[volume["name"]] != "/data":
            assert volume["emptyDir"]["medium"] == "Memory"
            assert volume["emptyDir"]["sizeLimit"]
    resources = container["resources"]
    assert resources["requests"]["memory"] == resources["limits"]["memory"]  # segkit plans with the limit


@each_pod
def test_a_pod_has_time_to_save(path: Path, template: dict[str, Any]) -> None:
    grace = template["spec"]["terminationGracePeriodSeconds"]
    assert grace >= (60 if path == SLIDES else 120)
    if path != SLIDES:
        # What starts several processes waits for them, and ends before the pod is killed.
        waits = int(environment_of(container_of(template))["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"])
        assert 60 <= waits < grace


@each_pod
def test_a_pods_command_can_be_parsed_and_be_given_again(path: Path, template: dict[str, Any]) -> None:
    container = container_of(template)
    words = segkit_words(container)
    parameters = load_command(words[0]).make_context(words[0], words[1:]).params
    assert "--log-json" in words
    if words[0] == "train":
        assert parameters["out"] == parameters["resume"]
        assert parameters["out"].is_relative_to("/data")
        assert parameters["data"].is_relative_to("/data")
    else:
        assert [str(one) for one in parameters["inputs"]] == ["/data/slides"]
        assert parameters["models"]  # which run is the newest may change between two pods


def segkit_words(container: dict[str, Any]) -> list[str]:
    """Return the arguments of segkit in a container's command."""
    words: list[str] = list(container["args"])
    if "command" in container:
        assert container["command"] == ["torchrun"]
        assert words[:2] == ["-m", "segkit"]
        return words[2:]
    return words  # the image's entry point is segkit


def test_every_pod_of_the_indexed_job_knows_its_share() -> None:
    job = read(SLIDES)["spec"]
    assert job["completionMode"] == "Indexed"
    assert job["parallelism"] <= job["completions"]
    environ = environment_of(container_of(job["template"]))
    shares = [current_share(None, environ | {"JOB_COMPLETION_INDEX": str(i)}) for i in range(job["completions"])]
    assert [share.number for share in shares] == list(range(1, job["completions"] + 1))
    assert {share.count for share in shares} == {job["completions"]}


def hopeless_codes(job: dict[str, Any], action: str) -> Sequence[int]:
    """Return the exit codes after which a Job is not tried again, checking the rest of its policy."""
    assert job["template"]["spec"]["restartPolicy"] == "Never"
    assert job["podReplacementPolicy"] == "Failed"
    eviction, hopeless = job["podFailurePolicy"]["rules"]  # the first that applies
    assert eviction == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    assert hopeless["action"] == action
    condition = hopeless["onExitCodes"]
    assert condition["containerName"] == container_of(job["template"])["name"]
    assert condition["operator"] == "In"
    codes: list[int] = condition["values"]
    return codes


def test_an_index_that_cannot_succeed_fails_at_once_and_alone() -> None:
    job = read(SLIDES)["spec"]
    assert job["backoffLimitPerIndex"] >= 1
    kinds = (errors.UsageError, errors.InputError, errors.PartialError)
    assert hopeless_codes(job, "FailIndex") == [kind.exit_code for kind in kinds]


def test_a_training_that_cannot_succeed_fails_at_once() -> None:
    job = read(TRAIN)["spec"]
    assert job["backoffLimit"] >= 1
    kinds = (errors.UsageError, errors.InputError, errors.DivergedError)
    assert hopeless_codes(job, "FailJob") == [kind.exit_code for kind in kinds]


def test_the_pytorchjob_is_what_the_operator_expects() -> None:
    job = read(SEVERAL)
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v1", "PyTorchJob")
    spec = job["spec"]
    assert spec.keys() == {"nprocPerNode", "runPolicy", "pytorchReplicaSpecs"}
    assert spec["runPolicy"] == {"backoffLimit": 6, "cleanPodPolicy": "Running"}
    replicas = spec["pytorchReplicaSpecs"]
    assert replicas.keys() == {"Master", "Worker"}
    assert replicas["Master"]["replicas"] == 1
    for replica in replicas.values():
        assert replica["restartPolicy"] == "OnFailure"
        container = container_of(replica["template"])
        assert container["name"] == "pytorch"  # the operator looks for it
        assert str(container["resources"]["limits"]["nvidia.com/gpu"]) == spec["nprocPerNode"]


def test_what_the_operator_and_torchrun_say_is_enough_for_segkit(tmp_path: Path) -> None:
    from torch.distributed.run import config_from_args, parse_args

    job = read(SEVERAL)["spec"]
    container = container_of(job["pytorchReplicaSpecs"]["Worker"]["template"])
    # As kubeflow/training-operator sets them, pkg/controller.v1/pytorch/envvar.go of v1.9.0.
    operator = {
        "MASTER_ADDR": "segkit-train-master-0",
        "MASTER_PORT": "23456",
        "WORLD_SIZE": "8",
        "RANK": "1",
        "PET_MASTER_ADDR": "segkit-train-master-0",
        "PET_MASTER_PORT": "23456",
        "PET_NODE_RANK": "1",
        "PET_NPROC_PER_NODE": job["nprocPerNode"],
        "PET_NNODES": "2",
    }
    with mock.patch.dict(os.environ, operator):
        config, _, words = config_from_args(parse_args(container["args"]))
    assert (config.min_nodes, config.max_nodes, config.nproc_per_node) == (2, 2, 4)
    assert config.rdzv_configs["rank"] == 1
    assert config.rdzv_endpoint == "segkit-train-master-0:23456"
    assert [str(one) for one in words][-len(container["args"]) + 1 :] == container["args"][1:]
    # torchrun then replaces RANK and WORLD_SIZE by those of the process.
    place = rank_of(operator | {"TORCHELASTIC_RUN_ID": "none", "RANK": "5", "LOCAL_RANK": "1"})
    assert place is not None
    assert (place.rank, place.processes, place.local_rank) == (5, 8, 1)
