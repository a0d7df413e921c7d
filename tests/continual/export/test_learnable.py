"""An edge device that learns, with numpy alone: its answers are those of the learner in PyTorch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from continual.errors import InputError
from continual.export import onnx_learner, standalone
from continual.export.onnx_learner import Learner
from continual.export.onnx_runner import Runner
from continual.export.writing import export_onnx
from continual.methods.mos.learner import MOSLearner
from continual.methods.ridge import RidgeLearner
from continual.methods.simple_cil import SimpleCILLearner
from continual.methods.strata import StrataLearner
from continual.testing import coloured_squares
from tests.support.served import BACKBONE, taught

METHODS = [
    (StrataLearner, {}),
    *(
        pytest.param(kind, settings, marks=pytest.mark.slow)
        for kind, settings in (
            (StrataLearner, {"answer_views": 1, "balance": 0.0}),
            (StrataLearner, {"mirror": False, "balance": 0.5}),
            (RidgeLearner, {}),
            (SimpleCILLearner, {}),
        )
    ),
]


def arrays(kind: int, count: int, seed: int) -> list[np.ndarray]:
    return [image.permute(1, 2, 0).numpy() for image in coloured_squares([kind], count, seed=seed)[0]]


def agree(box: Learner, learner: Any, images: list[np.ndarray]) -> None:
    ours, theirs = learner.predict(images), box.outputs(images)
    assert list(learner.classes) == box.classes
    assert np.abs(ours.scores.numpy() - theirs["scores"]).max() <= 1e-5
    assert (ours.probabilities is None) == ("probabilities" not in theirs)
    if ours.probabilities is not None:
        assert np.abs(ours.probabilities.numpy() - theirs["probabilities"]).max() <= 1e-4
    if ours.p_value is not None:
        assert np.abs(ours.p_value.numpy() - theirs["familiarity"]).max() <= 2 / 1025
    assert (ours.anomaly is None) == ("anomaly" not in theirs)
    if ours.anomaly is not None:
        np.testing.assert_allclose(theirs["anomaly"], ours.anomaly.numpy(), rtol=1e-5)


@pytest.mark.parametrize(("kind", "settings"), METHODS, ids=str)
def test_it_answers_as_pytorch_does_whatever_it_learns(kind: Any, settings: dict[str, Any], tmp_path: Path) -> None:
    learner = taught(kind(BACKBONE, **settings), [0, 1], [2])
    export_onnx(learner, tmp_path / "m.onnx", learnable=True)
    box, asked = Learner(tmp_path / "m.onnx", tmp_path / "m.sums.npz"), []
    for n in range(6):
        asked += arrays(n, 3, 70 + n)
    agree(box, learner, asked)
    for act, name, images in (
        ("learn", "nut", arrays(5, 3, 1)),  # a new class
        ("correct", "class 0", arrays(4, 2, 2)),
        ("learn", "ring", arrays(3, 1, 3)),  # of a single image
        ("learn", "nut", arrays(5, 2, 4)),  # more of it
    ):
        getattr(box, act)(images, name)
        getattr(learner, act)(images, *([[name] * len(images)] if act == "learn" else [name]))
        agree(box, learner, asked)
    box.save()
    agree(Learner(tmp_path / "m.onnx", tmp_path / "m.sums.npz"), learner, asked)


@pytest.mark.slow
def test_refusals_change_nothing(tmp_path: Path) -> None:
    learner = taught(SimpleCILLearner(BACKBONE), [0, 1])
    export_onnx(learner, tmp_path / "m.onnx", learnable=True)
    box = Learner(tmp_path / "m.onnx", tmp_path / "m.sums.npz")
    for act, said in (
        (lambda: box.correct(arrays(0, 1, 0), "nut"), "no class 'nut'"),
        (lambda: box.learn([], "nut"), "no image"),
        (lambda: box.learn(arrays(0, 1, 0), 7), "use one kind"),
        (lambda: box.learn(["none.png"], "nut"), "none.png"),
    ):
        with pytest.raises(InputError, match=said):
            act()
    agree(box, learner, arrays(0, 2, 5))
    (tmp_path / "bad.npz").write_bytes(b"no sums")
    with pytest.raises(InputError, match="no sums that can be read"):
        Learner(tmp_path / "m.onnx", tmp_path / "bad.npz")
    with pytest.raises(InputError, match="cannot learn with mos"):
        export_onnx(taught(MOSLearner(BACKBONE, epochs=1), [0, 1]), tmp_path / "x.onnx", learnable=True)
    assert not (tmp_path / "x.onnx").exists()


@pytest.mark.slow
def test_the_file_to_copy_needs_nothing_of_this_package(tmp_path: Path) -> None:
    learner = taught(StrataLearner(BACKBONE), [0, 1])
    export_onnx(learner, tmp_path / "m.onnx", learnable=True)
    (tmp_path / "onnx_learner.py").write_text(standalone.source(standalone.LEARNER), encoding="utf-8")
    for n, image in enumerate(arrays(5, 3, 1)):
        Image.fromarray(image).save(tmp_path / f"{n}.png")
    program = "import sys; sys.modules.update(dict.fromkeys(['torch', 'continual', 'scipy']))\n"
    program += "import onnx_learner; sys.exit(onnx_learner.main(sys.argv[1:]))"
    words = [sys.executable, "-c", program, "m.onnx", "m.sums.npz", "--class", "nut", "0.png", "1.png", "2.png"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"learned": 3, "class": "nut", "classes": 3}
    learner.learn([str(tmp_path / f"{n}.png") for n in range(3)], ["nut"] * 3)
    agree(Learner(tmp_path / "m.onnx", tmp_path / "m.sums.npz"), learner, arrays(5, 3, 9))


def test_a_model_of_one_class_says_what_is_unusual_and_learns_a_second(tmp_path: Path) -> None:
    learner = taught(StrataLearner(BACKBONE), [0])
    export_onnx(learner, tmp_path / "m.onnx", learnable=True)
    asked = [*arrays(0, 4, 6), *arrays(3, 4, 6)]
    exported = Runner(tmp_path / "m.onnx").predict(asked)
    np.testing.assert_allclose([one["anomaly"] for one in exported], learner.predict(asked).anomaly.numpy(), rtol=1e-5)
    assert not exported[0]["unknown"]
    assert exported[-1]["unknown"]
    box = Learner(tmp_path / "m.onnx", tmp_path / "m.sums.npz")
    agree(box, learner, asked)
    for name, images in (("class 0", arrays(0, 5, 4)), ("class 1", arrays(1, 4, 5)), ("class 0", arrays(0, 3, 8))):
        box.learn(images, name)
        learner.learn(images, [name] * len(images))
        agree(box, learner, asked)
    assert box.classes == ["class 0", "class 1"]
    assert box.outputs(arrays(0, 2, 6))["scores"].shape == (2, 2)


def test_the_second_of_two_savers_is_refused(tmp_path: Path) -> None:
    export_onnx(taught(SimpleCILLearner(BACKBONE), [0, 1]), tmp_path / "m.onnx", learnable=True)
    one, two = (Learner(tmp_path / "m.onnx", tmp_path / "m.sums.npz") for _ in range(2))
    for number, box in enumerate((one, two), 2):
        box.learn(arrays(number, 3, 5), f"class {number}")
    one.save()
    one.save()
    with pytest.raises(InputError, match="was changed by another since it was read"):
        two.save()
    assert Learner(tmp_path / "m.onnx", tmp_path / "m.sums.npz").classes == ["class 0", "class 1", "class 2"]


def test_a_class_is_not_learned_twice_under_another_spelling(tmp_path: Path) -> None:
    export_onnx(taught(SimpleCILLearner(BACKBONE), [0, 1]), tmp_path / "m.onnx", learnable=True)
    box = Learner(tmp_path / "m.onnx", tmp_path / "m.sums.npz")
    for name in ("Class 0", "class  0 "):
        with pytest.raises(InputError, match="is one name with 'class 0' for people: say 'class 0'"):
            box.learn(arrays(3, 2, 1), name)
    assert box.classes == ["class 0", "class 1"]


def test_what_a_device_has_learned_is_not_overwritten_by_another_export(tmp_path: Path) -> None:
    learner = taught(SimpleCILLearner(BACKBONE), [0, 1])
    path, sums = tmp_path / "m.onnx", tmp_path / "m.sums.npz"
    export_onnx(learner, path, learnable=True)
    export_onnx(learner, path, learnable=True)  # nothing is lost
    for kind, name, said in ((0, "class 0", "more images"), (2, "nut", "the class 'nut'")):
        box = Learner(path, sums)
        box.learn(arrays(kind, 2, 1), name)
        box.save()
        kept = sums.read_bytes()
        with pytest.raises(InputError, match=f"{said} on a device, which would be lost: move it away first"):
            export_onnx(learner, path, learnable=True)
        assert sums.read_bytes() == kept
    export_onnx(learner, path)  # an ordinary export leaves the sums, which do not go with it
    with pytest.raises(InputError, match="not of the model in .*: export both together, with --learnable"):
        Learner(path, sums)


def test_the_command_answers_by_all_classes_so_far(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export_onnx(taught(SimpleCILLearner(BACKBONE), [0, 1]), tmp_path / "m.onnx", learnable=True)
    for n, image in enumerate(arrays(5, 3, 1)):
        Image.fromarray(image).save(tmp_path / f"{n}.png")
    words, images = (
        [str(tmp_path / "m.onnx"), str(tmp_path / "m.sums.npz")],
        [str(tmp_path / f"{n}.png") for n in range(3)],
    )
    assert onnx_learner.main([*words, "--class", "nut", *images]) == 0
    assert onnx_learner.main([*words, *images, str(tmp_path / "none.png")]) == 1
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one.get("answer") for one in said[1:]] == ["nut", "nut", "nut", None]
    assert "no image at" in said[-1]["error"]
    assert onnx_learner.main(words) == 2
    assert onnx_learner.main([*words, "--klass", "nut", *images]) == 2
