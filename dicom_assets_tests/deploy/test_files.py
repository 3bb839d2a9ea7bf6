"""What lies in deploy/ holds before anything is built: by the linter, Dagster's own checks and Kubernetes' schemas."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path
from uuid import uuid4

import dagster as dg
import kubernetes_validate
import pytest
import yaml
from dagster_k8s.client import DagsterKubernetesClient
from dagster_k8s.container_context import K8sContainerContext
from dagster_k8s.job import construct_dagster_k8s_job
from dagster_k8s.launcher import K8sRunLauncher
from kubernetes.client import ApiClient
from packaging.requirements import Requirement

from dicom_assets.config.settings import load_settings
from dicom_assets_tests.dagster_private import validate_home
from dicom_assets_tests.processes import PROJECT

DEPLOY = PROJECT / "deploy"
KUBERNETES_VERSION = "1.34"
USER = 10001


def load(path: str) -> dict:
    return yaml.safe_load((DEPLOY / path).read_text())


def snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])([A-Z])", lambda found: f"_{found[1].lower()}", name)


def write_home(folder: Path, config: dict) -> str:
    (folder / "dagster.yaml").write_text(yaml.safe_dump(config))
    return str(folder)


def assert_as_the_project(config: dict) -> None:
    project = yaml.safe_load((PROJECT / "dagster.yaml").read_text())
    assert config["concurrency"]["pools"] == project["concurrency"]["pools"]
    assert config["sensors"] == project["sensors"]


@pytest.fixture
def values() -> dict:
    return load("kubernetes/values.yaml")


@pytest.fixture
def as_the_chart_says(values, tmp_path) -> dict:
    """The dagster.yaml that the chart's templates make of the values, for a cluster that is not asked."""
    (tmp_path / "kubeconfig").write_text(
        yaml.safe_dump(
            {
                "current-context": "none",
                "contexts": [{"name": "none", "context": {"cluster": "none", "user": "none"}}],
                "clusters": [{"name": "none", "cluster": {"server": "https://127.0.0.1:1"}}],
                "users": [{"name": "none", "user": {}}],
            }
        )
    )
    given = values["runLauncher"]["config"]["k8sRunLauncher"]
    launcher = {snake(key): value for key, value in given.items()}
    launcher |= {
        "env_config_maps": [source["name"] for source in given["envConfigMaps"]],
        "env_secrets": [source["name"] for source in given["envSecrets"]],
        "run_k8s_config": {snake(key): value for key, value in given["runK8sConfig"].items()},
        "service_account_name": values["global"]["serviceAccountName"],
        "postgres_password_secret": values["global"]["postgresqlSecretName"],
        "instance_config_map": "dagster-instance",
        "dagster_home": "/opt/dagster/dagster_home",
        "job_namespace": "dicom",
        "load_incluster_config": False,
        "kubeconfig_file": str(tmp_path / "kubeconfig"),
    }
    logs = values["computeLogManager"]["config"]["azureBlobComputeLogManager"]
    daemon, concurrency = values["dagsterDaemon"], values["concurrency"]
    queue = ("dagster._core.run_coordinator", "QueuedRunCoordinator")
    no_queue = ("dagster._core.run_coordinator.sync_in_memory_run_coordinator", "SyncInMemoryRunCoordinator")
    module, coordinator = queue if daemon["runCoordinator"]["enabled"] else no_queue
    days = {
        snake(key): {"purge_after_days": kept["purgeAfterDays"]}
        for key, kept in values["retention"].items()
        if key != "enabled"
    }
    return {
        "run_launcher": {"module": "dagster_k8s", "class": "K8sRunLauncher", "config": launcher},
        "compute_logs": {
            "module": "dagster_azure.blob.compute_log_manager",
            "class": "AzureBlobComputeLogManager",
            "config": {snake(key): value for key, value in logs.items()},
        },
        "run_coordinator": {"module": module, "class": coordinator},
        "run_monitoring": {snake(key): value for key, value in daemon["runMonitoring"].items()},
        "sensors": {snake(key): value for key, value in daemon["sensors"].items()},
        "concurrency": {
            name: {snake(key): value for key, value in concurrency[name].items()} for name in ("runs", "pools")
        },
        "retention": days,
    }


def test_dockerfile_obeys_the_linter():
    linter = Path(sys.executable).with_name("hadolint")
    lint = subprocess.run([linter, DEPLOY / "Dockerfile"], capture_output=True, text=True, timeout=300, check=False)
    assert (lint.returncode, lint.stdout) == (0, "")


def test_image_runs_as_the_user_that_kubernetes_is_told(values):
    text = (DEPLOY / "Dockerfile").read_text()
    final = text[text.rindex("FROM") :]
    assert f"USER {USER}:{USER}" in final
    assert "pip install" not in final
    for pod in (
        values["dagsterWebserver"],
        values["dagsterDaemon"],
        *values["dagster-user-deployments"]["deployments"],
    ):
        assert pod["podSecurityContext"]["runAsUser"] == USER
    assert len(set(re.findall(r"FROM (\S+)", text))) == 1, "Python's version in both stages"


def test_lock_has_a_hash_and_a_fitting_version_of_every_dependency():
    lines = (DEPLOY / "requirements.lock").read_text().replace("\\\n", " ").splitlines()
    locked = {line.split("==")[0]: line for line in lines if line and not line.lstrip().startswith("#")}
    assert all("--hash=sha256:" in line for line in locked.values())
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    for text in (*project["dependencies"], *project["optional-dependencies"]["cluster"]):
        wanted = Requirement(text)
        given = locked[wanted.name].split("==")[1].split()[0]
        assert wanted.specifier.contains(given), text
    assert locked["dagster"].split("==")[1].split()[0] == version("dagster"), "tested with what is deployed"


def test_dagster_accepts_the_instance_of_the_compose_file(tmp_path, monkeypatch):
    home = write_home(tmp_path, load("compose/dagster.yaml"))
    for name in ("HOST", "USERNAME", "PASSWORD", "DB"):
        monkeypatch.setenv(f"DAGSTER_PG_{name}", "x")
    config, ref = validate_home(home)
    assert_as_the_project(config)
    assert ref.storage_data.class_name == "DagsterPostgresStorage"


def test_compose_gives_postgres_password_to_dagster_and_shows_the_ui_to_this_machine_alone():
    services = load("compose/compose.yaml")["services"]
    assert services["webserver"]["ports"] == ["127.0.0.1:3000:3000"]
    named = set(re.findall(r"env: (DAGSTER_PG_\w+)", (DEPLOY / "compose/dagster.yaml").read_text()))
    assert named == set(services["code"]["environment"])
    (place,) = load("compose/workspace.yaml")["load_from"]
    assert place["grpc_server"]["host"] in services
    assert f"EXPOSE {place['grpc_server']['port']}" in (DEPLOY / "Dockerfile").read_text()


def test_dagster_accepts_the_instance_that_the_values_describe(as_the_chart_says, tmp_path, values):
    config, ref = validate_home(write_home(tmp_path, as_the_chart_says))
    assert_as_the_project(config)
    assert values["concurrency"]["enabled"] is True
    assert config["concurrency"]["runs"]["max_concurrent_runs"] == 8
    assert ref.run_coordinator_data.class_name == "QueuedRunCoordinator", "places are kept by the queue alone"


def test_webserver_is_asked_whether_it_is_ready_where_it_listens(values):
    webserver = values["dagsterWebserver"]
    assert webserver["readinessProbe"]["httpGet"]["port"] == webserver["service"]["port"], "the chart's own asks 80"


@pytest.mark.deep
def test_dagster_azure_accepts_where_the_output_of_runs_is_kept(as_the_chart_says, tmp_path):
    blob = pytest.importorskip("dagster_azure.blob", reason="`make cluster` installs it")
    _, ref = validate_home(write_home(tmp_path, as_the_chart_says))
    manager = ref.compute_logs_data.rehydrate(as_type=blob.AzureBlobComputeLogManager)
    assert isinstance(manager, blob.AzureBlobComputeLogManager)


def test_job_of_a_run_is_valid_bound_to_the_identity_and_without_privileges(as_the_chart_says, tmp_path, values):
    _, ref = validate_home(write_home(tmp_path, as_the_chart_says))
    launcher = ref.run_launcher_data.rehydrate(as_type=K8sRunLauncher)
    assert isinstance(launcher._api_client, DagsterKubernetesClient)
    context = K8sContainerContext.create_for_run(dg.DagsterRun("hours"), launcher, include_run_tags=False)
    job = construct_dagster_k8s_job(
        job_config=context.get_k8s_job_config(job_image="registry/dicom-assets:1", run_launcher=launcher),
        args=["dagster", "api", "execute_run"],
        job_name=f"dagster-run-{uuid4()}",
        user_defined_k8s_config=context.run_k8s_config,
        labels={"dagster/run-id": str(uuid4())},
    )
    built = ApiClient().sanitize_for_serialization(job)
    kubernetes_validate.validate(built, KUBERNETES_VERSION, strict=True)
    pod = built["spec"]["template"]
    assert pod["metadata"]["labels"]["azure.workload.identity/use"] == "true"
    assert pod["spec"]["serviceAccountName"] == "dicom-assets"
    assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
    (container,) = pod["spec"]["containers"]
    assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert container["resources"] == values["runLauncher"]["config"]["k8sRunLauncher"]["resources"]
    assert {"configMapRef": {"name": "dicom-assets"}} in container["envFrom"]
    assert built["spec"]["activeDeadlineSeconds"] == 86400


def test_objects_applied_beforehand_are_valid_and_the_settings_in_them_can_be_used():
    account, settings = yaml.safe_load_all((DEPLOY / "kubernetes/before.yaml").read_text())
    for built in (account, settings):
        kubernetes_validate.validate(built, KUBERNETES_VERSION, strict=True)
    used = {
        name: value.replace("WORKSPACE-SERVICE", "ws-svc").replace("ACCOUNT", "account")
        for name, value in settings["data"].items()
    }
    assert load_settings(used).change_feed_pool == "dicom_service"
