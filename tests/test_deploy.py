"""What deploy/ says is true of adreg: commands parse, probes exist, ports agree, and the pods' scripts do what they should."""

from __future__ import annotations

import configparser
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from adreg import __version__
from adreg.cli.app import command_line
from adreg.registry.push import plan_push
from adreg.registry.registry import Registry
from adreg.registry.remotes.objects.remote import open_object_store
from adreg.registry.remotes.transfer import send
from adreg.serve.server.server import GRACE_SECONDS
from adreg.settings import Settings

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
OBJECTS = [
    found for file in sorted((DEPLOY / "kubernetes").glob("*.yaml")) for found in yaml.safe_load_all(file.read_text()) if found
]
WORKLOADS = {found["metadata"]["name"]: found for found in OBJECTS if found["kind"] in ("Deployment", "StatefulSet")}
CONTAINERFILE = (DEPLOY / "Containerfile").read_text().replace("\\\n", " ")
UNIT = configparser.ConfigParser(strict=False, interpolation=None, comment_prefixes="#")
UNIT.optionxform = str  # type: ignore[assignment,method-assign]
UNIT.read(DEPLOY / "adreg.service")


def pod(name):
    return WORKLOADS[name]["spec"]["template"]["spec"]


def containers(name):
    return pod(name)["initContainers"] + pod(name)["containers"]


def main_of(name):
    (found,) = pod(name)["containers"]
    return found


def parsed(words):
    """The options of an adreg command as its own parser reads them; a wrong one is an error."""
    command, context = get_command(command_line(words)), None
    rest, name = list(words), "adreg"
    while True:
        context = command.make_context(name, rest, parent=context)
        if not hasattr(command, "commands"):
            return context.params
        name, *rest = [*context._protected_args, *context.args]
        command = command.commands[name]


def commands_in(script):
    """The adreg commands of a shell script."""
    found = re.findall(r"\badreg [^|&\n]*", script)
    return [[word for word in shlex.split(text) if not word.startswith(">")][1:] for text in found]


SCRIPTS = [each["args"][0] for name in WORKLOADS for each in containers(name) if "command" in each]
WRITTEN = [
    *(main_of(name)["args"] for name in WORKLOADS),
    *(words for script in SCRIPTS for words in commands_in(script)),
    shlex.split(UNIT["Service"]["ExecStart"])[1:],
]


@pytest.mark.parametrize("words", WRITTEN, ids=lambda words: " ".join(words)[:40])
def test_every_command_is_one_that_adreg_has(words):
    assert parsed(words) is not None


def test_the_check_of_commands_refuses_what_is_none():
    with pytest.raises(Exception, match=r"[Nn]o such option"):
        parsed(["serve", "--no-such-flag"])


@pytest.mark.parametrize("name", WORKLOADS)
def test_probes_ask_routes_that_are_open_to_all(name):
    from adreg.serve.api.app import ROUTES as served
    from adreg.serve.api.guard import OPEN_PATHS
    from adreg.serve.gateway.app import ROUTES as passed

    routes = {route.path for route in (passed if name == "gateway" else served)}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = main_of(name)[probe]["httpGet"]
        assert asked["path"] in routes and asked["path"] in OPEN_PATHS and asked["port"] == "http"


@pytest.mark.parametrize("name", WORKLOADS)
def test_ports_agree(name):
    told = parsed(main_of(name)["args"])
    (port,) = main_of(name)["ports"]
    assert (port["name"], port["containerPort"]) == ("http", told["port"])
    (service,) = [found for found in OBJECTS if found["kind"] == "Service" and found["metadata"]["name"] == name]
    labels = WORKLOADS[name]["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["ports"][0]["targetPort"] == "http" and service["spec"]["selector"].items() <= labels.items()
    (policy,) = [found for found in OBJECTS if found["kind"] == "NetworkPolicy" and found["metadata"]["name"] == name]
    assert policy["spec"]["ingress"][0]["ports"][0]["port"] == told["port"]
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= labels.items()


def test_the_gateway_asks_every_replica():
    serve = WORKLOADS["serve"]["spec"]
    port = parsed(main_of("serve")["args"])["port"]
    expected = [f"http://serve-{index}.{serve['serviceName']}:{port}" for index in range(serve["replicas"])]
    assert list(parsed(main_of("gateway")["args"])["upstream"]) == expected


@pytest.mark.parametrize("name", WORKLOADS)
def test_pods_are_locked_down_and_their_images_pinned(name):
    told = pod(name)["securityContext"]
    assert told["runAsNonRoot"] and told["runAsUser"] == 10001 and told["seccompProfile"] == {"type": "RuntimeDefault"}
    writable = {volume["name"] for volume in pod(name)["volumes"] if "emptyDir" in volume}
    for container in containers(name):
        locked = container["securityContext"]
        assert locked["readOnlyRootFilesystem"] and locked["allowPrivilegeEscalation"] is False
        assert locked["capabilities"] == {"drop": ["ALL"]}
        assert container["image"].endswith(f":{__version__}")
        mounted = {mount["name"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
        assert mounted == writable == {"home", "cache", "tmp"}


def test_everybody_waits_for_the_drain():
    for name in WORKLOADS:
        before = int(main_of(name)["lifecycle"]["preStop"]["exec"]["command"][1])
        assert pod(name)["terminationGracePeriodSeconds"] > before + GRACE_SECONDS
    assert int(UNIT["Service"]["TimeoutStopSec"]) > GRACE_SECONDS


def test_the_image_is_made_of_what_is_here():
    froms = re.findall(r"^FROM (\S+)", CONTAINERFILE, re.MULTILINE)
    (python,) = re.findall(r"^ARG PYTHON=(\S+)$", CONTAINERFILE, re.MULTILINE)
    assert froms == ["${PYTHON}", "${PYTHON}"] and re.search(r":3\.\d+\.\d+-slim-\w+$", python)
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", CONTAINERFILE, re.MULTILINE)
    assert all((ROOT / name).exists() for line in copied for name in line.split())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (extras,) = re.findall(r"\"\.\[([\w,]+)\]\"", CONTAINERFILE)
    assert set(extras.split(",")) <= set(project["optional-dependencies"])
    assert "USER 10001:10001" in CONTAINERFILE and "/health'" in CONTAINERFILE and 'ENTRYPOINT ["adreg"]' in CONTAINERFILE


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not here")
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path):
    unit = tmp_path / "adreg.service"
    unit.write_text((DEPLOY / "adreg.service").read_text().replace("/opt/adreg/bin/adreg", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def environment(home, **others):
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, "ADREG_HOME": str(home), "BASE": "tiny", "PATH": path, **others}


def test_a_pod_starts_with_the_registry_and_may_start_again(tmp_path, tiny_llama, llama_adapter):
    source = Registry(Settings(tmp_path / "source"))
    base = source.bases.add(str(tiny_llama), "tiny")
    version = source.adapters.push(plan_push(llama_adapter), "voice", "prod", base).version
    send(source, version, open_object_store(f"file://{tmp_path}/remote"), "prod")
    said = environment(tmp_path / "pod", BASE_FOLDER=str(tiny_llama), REMOTE=f"file://{tmp_path}/remote")
    (script,) = {script for script in SCRIPTS if "base add" in script}
    for _ in range(2):
        subprocess.run(["/bin/sh", "-ec", script], check=True, env=said, timeout=100, capture_output=True)
    found = Registry(Settings(tmp_path / "pod"))
    assert found.adapters.aliases("voice")[0].name == "prod" and found.adapters.all()[0].base == "tiny"


def test_the_follower_ends_with_its_pod(tmp_path):
    (script,) = {script for script in SCRIPTS if "trap" in script}
    process = subprocess.Popen(
        ["/bin/sh", "-c", script], env=environment(tmp_path, SYNC_SECONDS="3600"), start_new_session=True
    )
    try:
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=5) == 0
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # the sleep that it leaves behind ends with its container
