"""The commands that take a model to where it is used."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Equimos = Callable[..., Any]


@pytest.mark.slow
def test_export_into_a_folder_with_the_runner(equimos: Equimos, model: Path, flowers: Path, tmp_path: Path) -> None:
    result = equimos("export", "--model", model, "--onnx", tmp_path / "box", "--images", flowers)
    assert result.exit_code == 0, result.stderr
    assert "8 images: 8 answers the same" in result.stdout
    assert {path.name for path in (tmp_path / "box").iterdir()} == {"model.onnx", "onnx_runner.py"}
    words = [sys.executable, "onnx_runner.py", "model.onnx", flowers / "rose" / "0.png"]
    done = subprocess.run(words, cwd=tmp_path / "box", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = json.loads(equimos("predict", "--model", model, flowers / "rose" / "0.png", "--json", "-").stdout)[0]
    answer = json.loads(done.stdout)
    assert answer["answer"] == expected["answer"]
    assert answer["score"] == pytest.approx(expected["score"], abs=1e-5)
    assert answer["probability"] == pytest.approx(expected["probability"], abs=1e-4)


def test_export_refuses_in_one_line(
    equimos: Equimos, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "taken").touch()
    for words, said in (
        (["--onnx", tmp_path / "no" / "x.onnx"], "no folder"),
        (["--onnx", tmp_path / "no" / "box"], "no folder"),
        (["--onnx", tmp_path / "taken"], "is a file, and a folder is needed"),
        (["--onnx", tmp_path / "x.onnx", "--unknown-rate", "2"], "--false-alarm-rate"),
        (["--onnx", tmp_path / "x.onnx", "--images", tmp_path / "none.png"], "none.png"),
    ):
        result = equimos("export", "--model", model, *words)
        assert result.exit_code == 2
        assert said in result.stderr
    for name in [name for name in sys.modules if name.startswith("continual.export")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    result = equimos("export", "--model", model, "--onnx", tmp_path / "x.onnx")
    assert result.exit_code == 2
    assert "pip install 'equimos[export]'" in result.stderr
    assert not (tmp_path / "x.onnx").exists()


def test_an_export_that_is_refused_leaves_no_folder(
    equimos: Equimos, flowers: Path, weights: Path, tmp_path: Path
) -> None:
    model = tmp_path / "m.safetensors"
    words = ("learn", "--yes", "-i", flowers, "-m", model, "--weights", weights, "--model-arg", "interpolation=lanczos")
    assert equimos(*words).exit_code == 0
    result = equimos("export", "--model", model, "--onnx", tmp_path / "box")
    assert result.exit_code == 2
    assert "cannot export preprocessing" in result.stderr
    assert not (tmp_path / "box").exists()
    (tmp_path / "box").mkdir()
    assert equimos("export", "--model", model, "--onnx", tmp_path / "box").exit_code == 2
    assert (tmp_path / "box").is_dir()


@pytest.mark.slow
def test_export_in_8_bits_says_what_it_costs(equimos: Equimos, model: Path, flowers: Path, tmp_path: Path) -> None:
    result = equimos("export", "--model", model, "--onnx", tmp_path / "x.onnx", "--images", flowers, "--int8")
    assert result.exit_code == 0, result.stderr
    assert "in 8 bits: " in result.stdout
    assert " ms per image" in result.stdout
    assert "8 images answered right: " in result.stdout


def test_serve_says_where_and_refuses_in_one_line(
    equimos: Equimos, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import uvicorn

    started: list[str] = []

    def run(self: uvicorn.Server, sockets: list[socket.socket]) -> None:
        for one in sockets:
            started.append(one.getsockname()[0])
            one.close()

    monkeypatch.setattr(uvicorn.Server, "run", run)
    result = equimos("serve", "--model", model, "--port", "0")
    assert result.exit_code == 0, result.stderr
    assert "mos, 2 classes, at http://127.0.0.1:" in result.stderr
    assert started == ["127.0.0.1"]
    for host in ("0.0.0.0", "::", "[::]"):
        found = equimos("serve", "-m", model, "--port", "0", "--host", host)
        assert f"warning: anyone who reaches {host} " in found.stderr
    for host in ("127.0.0.2", "::1", "[::1]", "localhost"):
        found = equimos("serve", "-m", model, "--port", "0", "--host", host)
        assert (found.exit_code, "anyone" in found.stderr) == (0, False), found.stderr
    for words, said in (
        (["--unknown-rate", "0"], "--false-alarm-rate"),
        (["--api-key", " "], "empty"),
        (["--api-key", "sécret"], "ASCII"),
        (["--api-key", "a b"], "without spaces"),
        (["--model", model.with_name("no")], "no model file"),
        (["--port", "70000"], "--port"),
        (["--host", "no.such.host.invalid"], "cannot listen at no.such.host.invalid"),
        (
            ["--set", "epochs=3"],
            "--set epochs: of a model that exists, early_exit, eval_batch_size, precision, within can be",
        ),
    ):
        result = equimos("serve", "--model", model, "--port", "0", *words)
        assert result.exit_code == 2
        assert said in result.stderr
    monkeypatch.delitem(sys.modules, "continual.serving.server")
    monkeypatch.delattr(sys.modules["continual.serving"], "server")
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert "pip install 'equimos[serve]'" in equimos("serve", "--model", model).stderr


def test_a_server_that_is_started_again_goes_on_with_its_folder(
    equimos: Equimos, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from continual.serving import server

    folders: list[Path | None] = []
    monkeypatch.setattr(server, "run", lambda in_use, options, sockets: folders.append(options.collect))
    own, named = model.with_name("model-corrections"), model.with_name("named")
    for words, folder in ((["--learn"], own), (["--learn", "--collect", named], named), (["--collect", named], named)):
        for _ in range(2):
            result = equimos("serve", "--model", model, "--port", "0", *words)
            assert result.exit_code == 0, result.stderr
            assert folders.pop() == folder
            (folder / "nut").mkdir(exist_ok=True)
    model.with_name("taken").touch()
    for place, said in ((model.with_name("taken"), "is a file"), (Path("/proc/named"), "cannot write in /proc")):
        result = equimos("serve", "--model", model, "--port", "0", "--collect", place)
        assert result.exit_code == 2
        assert said in result.stderr


def test_serve_answers_with_the_settings_asked_for_also_after_a_change(
    equimos: Equimos, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from continual.serving import server
    from continual.serving.model import ModelInUse

    seen: list[tuple[str, int, Any]] = []

    def run(in_use: ModelInUse, *_: Any) -> None:
        before = in_use.now.learner
        assert equimos("rename", "rose", "wild rose", "-m", model).exit_code == 0
        assert in_use.refresh(), in_use.problem
        for learner in (before, in_use.now.learner):
            seen.append((learner.settings.precision, learner.settings.eval_batch_size, learner.backbone))

    monkeypatch.setattr(server, "run", run)
    words = ("--set", "precision=bfloat16", "--set", "eval_batch_size=3")
    result = equimos("serve", "--model", model, "--port", "0", *words)
    assert result.exit_code == 0, result.stderr
    assert [row[:2] for row in seen] == [("bfloat16", 3)] * 2
    assert seen[0][2] is seen[1][2], "the backbone is loaded once"


def test_serve_takes_a_port_that_is_not_free_as_a_mistake(equimos: Equimos, model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = equimos("serve", "--model", model, "--port", taken.getsockname()[1])
    assert result.exit_code == 2
    assert "port" in result.stderr


def test_consolidate_says_the_cost_and_leaves_the_model(
    equimos: Equimos, model: Path, pictures: Any, tmp_path: Path
) -> None:
    more = equimos("learn", "--yes", "--images", pictures("more", ["iris", "aster"]), "--model", model)
    assert more.exit_code == 0, more.stderr
    before, out = model.read_bytes(), tmp_path / "single.safetensors"
    result = equimos("consolidate", "--model", model, "--out", out, "--images", tmp_path / "more", "--yes")
    assert result.exit_code == 0, result.stderr
    assert "2 adapters -> 1" in result.stdout
    assert "answered right: " in result.stdout
    assert "of 8 images answered as before" in result.stdout
    answers = json.loads(equimos("predict", "--model", out, tmp_path / "more", "--json", "-").stdout)
    assert {answer["stack"] for answer in answers} == {0}
    assert model.read_bytes() == before
    again = equimos("learn", "--dry-run", "--images", tmp_path / "more", "--model", out)
    assert "nothing new" in again.stdout + again.stderr, "what was seen is remembered"
    merge = tmp_path / "merged.safetensors"
    result = equimos("consolidate", "--model", model, "--out", merge, "--rule", "pcb", "--arg", "ratio=0.5", "--yes")
    assert result.exit_code == 0, result.stderr
    assert "2 adapters -> 1 (pcb)" in result.stdout
    unmade = ["--out", tmp_path / "none.safetensors", "--yes", "--rule"]
    for words, said in (
        ([*unmade, "pbc"], "did you mean 'pcb'"),
        ([*unmade, "pcb", "--arg", "rati=1"], "did you mean 'ratio'"),
        ([*unmade, "mean", "--arg", "ratio"], "--arg 'ratio' is not of the form key=value"),
        (["--out", out, "--yes"], "there already"),
        (["--out", tmp_path / "other.safetensors"], "--yes"),
    ):
        result = equimos("consolidate", "--model", model, *words)
        assert result.exit_code == 2
        assert said in result.stderr
    result = equimos("consolidate", "--model", out, "--out", tmp_path / "x.safetensors", "--yes")
    assert result.exit_code == 2
    assert "single adapter already" in result.stderr
