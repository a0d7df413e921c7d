"""The Dockerfile, which no test builds: every file that it copies exists, and its commands are ones that there are."""

from __future__ import annotations

import ast
import json
import re
import shlex
import tomllib
from fnmatch import fnmatch

import typer
from packaging.requirements import Requirement

from continual.cli.app import app
from tests.conftest import ROOT

TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def instructions() -> list[tuple[str, str]]:
    """Return each instruction and what stands after it; lines that go on are joined, comments are left out."""
    plain = re.sub(r"^#.*\n", "", TEXT, flags=re.MULTILINE).replace("\\\n", " ")
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in plain.splitlines() if line)]


def test_what_is_copied_is_there() -> None:
    copied = [path for word, rest in instructions() if word == "COPY" for path in rest.split()[:-1]]
    assert {"pyproject.toml", "continual", "equivariant"} <= set(copied)
    assert [path for path in copied if not (ROOT / path).exists()] == []


def test_what_is_copied_is_in_the_build_context() -> None:
    ignored = [line.rstrip("/") for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line]
    copied = [path for word, rest in instructions() if word == "COPY" for path in rest.split()[:-1]]
    assert [path for path in copied if any(fnmatch(path, pattern) for pattern in ignored)] == []


def test_what_is_built_has_all_its_files() -> None:
    about = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project = about["project"]
    copied = {path for word, rest in instructions() if word == "COPY" for path in rest.split()[:-1]}
    assert {project["readme"], *project["license-files"]} <= copied
    packages = {pattern.rstrip("*") for pattern in about["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert packages <= copied
    (extra,) = re.findall(r'"\.\[(\w+)\]"', TEXT)
    assert extra in project["optional-dependencies"]
    image = next(rest for word, rest in instructions() if word == "FROM")
    (version,) = re.findall(r"python:([\d.]+)-", image)
    assert Requirement(f"python{project['requires-python']}").specifier.contains(version)


def test_its_commands_exist() -> None:
    assert ("USER", "equimos") in instructions()
    entry = json.loads(next(rest for word, rest in instructions() if word == "ENTRYPOINT"))
    health = json.loads(next(rest for word, rest in instructions() if word == "HEALTHCHECK").removeprefix("CMD "))
    ast.parse(health[-1])
    assert "/health" in health[-1]
    shown = re.sub(r"\\\n# +", "", "".join(re.findall(r"^# ?(.*\n)", TEXT, flags=re.MULTILINE)))
    assert "docker run -p 8000:8000" in shown
    (more,) = re.findall(r"equimos (--model \S+)", TEXT)
    group = typer.main.get_command(app)
    command = group.commands[entry[1]]  # type: ignore[attr-defined]
    for words in (more, f"{more} --learn --collect /models/named", f"{more} --weights /models/FILE"):
        made = command.make_context("serve", [*entry[2:], *shlex.split(words)], resilient_parsing=True)
        assert str(made.params["model"]) == "/models/parts.safetensors"
        assert made.params["host"] == "0.0.0.0"
