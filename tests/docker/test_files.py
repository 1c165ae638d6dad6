"""What the container files say, held against the project; `make check` lints them. No container engine is needed."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.docker.compose import DOCKER, ROOT, UnsetError, composed, example, filled

DOCKERFILE = (DOCKER / "Dockerfile").read_text(encoding="utf-8")


def test_nothing_starts_without_passwords() -> None:
    for name in ("POSTGRES_PASSWORD", "MLFLOW_ADMIN_PASSWORD", "MLFLOW_FLASK_SERVER_SECRET_KEY"):
        with pytest.raises(UnsetError, match=r"copy docker/\.env\.example to docker/\.env"):
            composed({**filled(), name: ""})


def test_every_variable_has_its_line_in_the_example() -> None:
    compose = (DOCKER / "compose.yaml").read_text(encoding="utf-8")
    assert set(re.findall(r"\$\{(\w+)", compose)) == set(example())


def test_the_example_says_what_is_taken_without_it() -> None:
    with_defaults = {**filled(), **{name: value for name, value in example().items() if value}}
    passwords = {name: value for name, value in filled().items() if not example()[name]}
    assert composed(with_defaults) == composed(passwords)


def test_ports_are_open_to_this_machine_alone() -> None:
    ports = [port for service in composed(filled())["services"].values() for port in service.get("ports", [])]
    assert ports == ["127.0.0.1:5432:5432", "127.0.0.1:5000:5000"]


def test_what_is_kept_is_in_volumes() -> None:
    made: dict[str, Any] = composed(filled())
    mounted = {
        volume.partition(":")[0] for service in made["services"].values() for volume in service.get("volumes", [])
    }
    assert {name for name in mounted if not name.startswith(".")} == set(made["volumes"])
    for folder in ("/artifacts", "/models", "/sweeps"):  # or a new volume would be root's
        assert re.search(rf"install -d -o sweeper .*{folder}\b", DOCKERFILE)


def test_optuna_and_mlflow_have_databases_of_their_own() -> None:
    created = set(re.findall(r"CREATE DATABASE (\w+);", (DOCKER / "postgres" / "databases.sql").read_text("utf-8")))
    used = set(re.findall(r"postgresql\+psycopg://\S+/(\w+)", str(composed(filled()))))
    assert created == used == {"optuna", "mlflow", "mlflow_auth"}


def test_only_gpus_are_asked_for_where_the_image_has_cuda() -> None:
    for name, service in composed(filled())["services"].items():
        is_cuda = service["image"] == "sweeper:cuda"
        assert is_cuda == ("deploy" in service) == (name in ("launch", "worker"))
        if "build" in service:
            assert service["build"]["target"] == service["image"].partition(":")[2]
            assert f"AS {service['build']['target']}\n" in DOCKERFILE


def test_no_layer_has_a_secret_and_nobody_is_root() -> None:
    assert not re.search(r"^(ARG|ENV)\b.*(PASSWORD|TOKEN|SECRET|KEY)", DOCKERFILE, re.M)
    assert re.search(r"^USER (\d+)", DOCKERFILE, re.M)
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert ignored[0] == "*"  # `docker/.env` above all
    assert not any(".env" in line for line in ignored)


def test_everything_that_is_copied_is_sent_to_the_build() -> None:
    sent = [line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line.startswith("!")]
    sources = re.findall(r"^COPY (?!--from)(?:--\S+ )*(.+) \S+$", DOCKERFILE, re.M)
    for source in {word for words in sources for word in words.split()}:
        assert (ROOT / source).exists()
        assert any(Path(source).match(pattern) for pattern in sent), source


def test_the_extras_are_there() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    found = re.findall(r"^ARG EXTRAS=(.+)$", DOCKERFILE, re.M)
    assert len(set(found)) == 1
    assert set(found[0].split(",")) <= set(extras)


def entrypoint(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = ["sh", str(DOCKER / "entrypoint.sh"), *arguments]
    return subprocess.run(command, env={"PATH": "/usr/bin:/bin", **environ}, capture_output=True, text=True, timeout=60)


def test_a_role_says_what_it_lacks() -> None:
    lacking = entrypoint("tracking-server", MLFLOW_BACKEND_STORE_URI="sqlite:///x")
    assert (lacking.returncode, "needs MLFLOW_AUTH_DATABASE_URI in its environment" in lacking.stderr) == (2, True)
    assert entrypoint("join").returncode == 2


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder with a `sweeper` that says how it was called, and a `sleep` that ends at once."""
    for name, text in (("sweeper", 'printf "[%s]" "$@"; echo; exit 3'), ("sleep", "echo slept $1")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    return tmp_path


def test_a_pod_launches_what_its_environment_says_and_stays(programs: Path) -> None:
    path = f"{programs}:/usr/bin:/bin"
    words = 'study=/mine budget.usd=5 on_finish="stop pod $RUNPOD_POD_ID"'
    ran = entrypoint(PATH=path, SWEEPER_LAUNCH=words, RUNPOD_POD_ID="4711")
    assert ran.stdout.startswith("[launch][study=/mine][budget.usd=5][on_finish=stop pod 4711]\n")
    assert "the launch ended with 3; the container stays" in ran.stderr
    assert ran.stdout.endswith("slept infinity\n")
    assert "set SWEEPER_LAUNCH=" in entrypoint("pod", PATH=path).stdout


def test_any_other_word_is_a_command_of_sweeper(programs: Path) -> None:
    path = f"{programs}:/usr/bin:/bin"
    ran = entrypoint("export", "demo", "--to", "/out dir", PATH=path)
    assert (ran.returncode, ran.stdout) == (3, "[export][demo][--to][/out dir]\n")
    joined = entrypoint("join", "demo", PATH=path, SWEEPER_HOME="/nowhere", SWEEPER_MIRROR="file:///nas/demo")
    assert joined.stdout == "[worker][demo][--mirror][file:///nas/demo]\n"


def test_a_container_is_healthy_where_it_can_write_and_has_its_gpu(tmp_path: Path, programs: Path) -> None:
    def healthy(**environ: str) -> int:
        command = ["sh", str(DOCKER / "healthy.sh")]
        return subprocess.run(command, env={"PATH": f"{programs}:/usr/bin:/bin", **environ}, timeout=60).returncode

    assert healthy(SWEEPER_HOME=str(tmp_path)) == 0
    assert healthy(SWEEPER_HOME=str(tmp_path / "nowhere")) == 1
    (programs / "python").write_text("#!/bin/sh\nexit 1\n")
    (programs / "python").chmod(0o755)
    assert healthy(SWEEPER_HOME=str(tmp_path), SWEEPER_NEEDS_GPU="1") == 1
