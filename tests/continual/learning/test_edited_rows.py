"""The edit of MLP rows against a concept: what it adds where, what answers by it, and what stays as it was."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from sklearn.linear_model import LogisticRegression
from torch import nn

import continual
from continual.backbones.mlp_rows import first_matrices, with_rows
from continual.errors import BackboneError, InputError, ModelFileError
from continual.export.writing import export_onnx
from continual.learning import model_file
from continual.learning.concept import Concept
from continual.learning.extractor import Extractor
from continual.learning.surgery import SHARE, _probe, rows_of
from continual.testing import coloured_squares, tiny_backbone, tiny_backbones, tiny_convnet

QUICK: dict[str, Any] = {"epochs": 1, "batch_size": 4, "bottleneck": 4, "alignment_epochs": 1}
POOL = coloured_squares([5, 6, 7], 10, 9)[0]
LOGO = Image.new("RGBA", (8, 4), (255, 0, 0, 255))


def logo(**more: Any) -> Concept:
    return Concept.of(POOL, stamp=LOGO, name="logo", size=0.5, **more)


def learned(name: str = "ridge", backbone: Any = None) -> Any:
    kind = continual.methods.method(name)
    settings = {key: value for key, value in QUICK.items() if key in kind.settings_type.model_fields}
    learner = kind(backbone or tiny_backbone(), **settings)
    learner.learn(*coloured_squares([0, 1, 2], 5))
    return learner


def test_the_rows_most_opposed_to_the_probe_move_along_it() -> None:
    extractor = Extractor(tiny_backbone())
    edit = rows_of(logo(), extractor, 0.5)
    layers = first_matrices(extractor.backbone)
    for layer, rows, step in zip(layers, edit.rows, edit.step, strict=True):
        lengths = layer.weight.norm(dim=1)
        assert len(rows) == round(SHARE * len(lengths))
        torch.testing.assert_close(step.norm(), 0.5 * lengths.mean())
        cosines = layer.weight @ step / lengths
        rest = cosines[[k for k in range(len(cosines)) if k not in rows.tolist()]]
        assert cosines[rows].max() <= rest.min()
    opposite = rows_of(logo(), extractor, -0.5)
    assert torch.equal(opposite.rows, edit.rows)
    assert torch.equal(opposite.step, -edit.step)
    made = with_rows(extractor.backbone, [edit])
    for before, after, rows, step in zip(layers, first_matrices(made), edit.rows, edit.step, strict=True):
        moved = after.weight - before.weight
        torch.testing.assert_close(moved[rows], step.expand(len(rows), -1))
        assert int(moved.any(1).sum()) == len(rows)
    assert made.sha256 != extractor.backbone.sha256


def test_a_probe_is_that_of_scikit_learn() -> None:
    draw = torch.Generator().manual_seed(0)
    present, absent = (torch.randn(12, 5, generator=draw) + shift for shift in (0.5, 0.0))
    labels = [1] * 12 + [0] * 12
    theirs = torch.from_numpy(LogisticRegression(tol=1e-8).fit(torch.cat([present, absent]), labels).coef_[0])
    torch.testing.assert_close(_probe(present, absent).double(), theirs / theirs.norm(), atol=1e-4, rtol=1e-4)
    assert not _probe(present, present).any()


def test_the_probe_says_what_has_the_concept() -> None:
    """The edit's sign is one of the concept's: along it, what enters the MLPs of images with it lies further."""
    extractor, concept = Extractor(tiny_backbone()), logo()
    step = rows_of(concept, extractor).step[0]
    block = extractor.backbone.frozen.network.blocks[0]
    found = concept.read(
        lambda x: [block.norm2(extractor.stem(x).h).mean(1)], extractor.backbone.preprocessing, torch.device("cpu")
    )
    assert float((found[0][0] @ step).mean()) > float((found[1][0] @ step).mean())


@pytest.mark.parametrize("name", ["ridge", "strata", "simple_cil", "finetune", "ease", "mos"])
def test_answers_change_and_all_else_stays_as_it_was(name: str, tmp_path: Any) -> None:
    """Later experiences are learned as without it, files and graphs answer as edited, and `allow` takes it back."""
    learner = learned(name)
    other, plain = learner.variant(), learner.predict(POOL).scores
    learner.suppress(logo(), 3.0, edit="mlp")
    less = learner.predict(POOL).scores
    assert not torch.equal(less, plain)
    assert less.isfinite().all()
    assert learner.backbone is other.backbone
    path = tmp_path / "m.safetensors"
    learner.save(path)
    with safe_open(path, "pt") as file:
        assert int(file.metadata()["version"]) >= model_file.WITH_PARTS
    assert torch.equal(continual.load(path, learner.backbone).predict(POOL).scores, less)
    for one in (learner, other):
        one.learn(*coloured_squares([3, 4], 5))
    later = learner.predict(POOL).scores
    assert not torch.equal(later, other.predict(POOL).scores), "the edit is kept"
    learner.allow("logo")
    assert torch.equal(learner.predict(POOL).scores, other.predict(POOL).scores), "and takes no part in learning"


def test_the_other_sign_is_the_opposite_edit() -> None:
    """Of small edits, answers move as far to the one side as to the other."""
    learner = learned()
    plain = learner.predict(POOL).scores
    moved = []
    for alpha in (1e-2, -1e-2):
        learner.suppress(logo(), alpha, edit="mlp")
        moved.append(learner.predict(POOL).scores - plain)
    assert float(moved[0].abs().max()) > 1e-7
    assert float((moved[0] + moved[1]).abs().max()) < 0.2 * float(moved[0].abs().max())


def test_a_graph_answers_as_edited(tmp_path: Any) -> None:
    learner = learned()
    learner.suppress(logo(), 3.0, edit="mlp")
    assert export_onnx(learner, tmp_path / "m.onnx").holds


def test_kept_features_are_not_asked() -> None:
    from continual.learning.feature_cache import FeatureCache

    learner, cache = learned(), FeatureCache()
    learner.predict(POOL, cache=cache)
    learner.suppress(logo(), 3.0, edit="mlp")
    assert torch.equal(learner.predict(POOL, cache=cache).scores, learner.predict(POOL).scores)


def test_both_edits_of_a_concept_stand_together_and_are_in_the_features_that_are_remembered() -> None:
    learner, other = learned(), learned()
    other.suppress(logo())
    learner.suppress(logo(), 3.0, edit="mlp")
    learner.suppress(logo())
    torch.testing.assert_close(learner.state.ignored[0].rows, other.state.ignored[0].rows)
    assert learner.state.ignored[0].mlp is not None
    assert learner.concept_use(logo()).changed != other.concept_use(logo()).changed
    learner.allow("logo")
    assert torch.equal(learner.predict(POOL).scores, learned().predict(POOL).scores)


def test_what_cannot_take_it_is_one_error_and_as_it_was() -> None:
    nothing = Concept.of(POOL, stamp=lambda image: image, name="nothing")
    factored = continual.compressed(tiny_backbone(), coloured_squares(range(5), 5)[0], ratio=2, epochs=0)
    for backbone, concept, options, error, said in (
        (tiny_convnet(), logo(), {}, BackboneError, "rows of MLPs cannot be edited in resnet18: that takes one ViT"),
        (tiny_backbones(), logo(), {}, BackboneError, "takes one ViT with plain MLPs"),
        (factored, logo(), {}, BackboneError, "that is not compressed"),
        (tiny_backbone(), nothing, {}, InputError, "nothing changes no token of these images"),
        (tiny_backbone(), logo(), {"strength": 0.0}, InputError, "a number other than 0, got 0.0"),
        (tiny_backbone(), logo(), {"edit": "mlps"}, InputError, "the 'head' or the 'mlp', not 'mlps'"),
    ):
        learner = learned(backbone=backbone)
        state = learner.state
        with pytest.raises(error, match=said):
            learner.suppress(concept, **{"edit": "mlp", **options})
        assert learner.state is state
    learner = learned("slca")
    with pytest.raises(InputError, match="changes no answer of slca, which answers by weights of its own"):
        learner.suppress(logo(), edit="mlp")
    assert learner.state.ignored is None
    new = continual.methods.method("ridge")(tiny_backbone())
    with pytest.raises(InputError, match="nothing has been learned yet"):
        new.suppress(logo(), edit="mlp")


def test_it_is_allowed_before_a_merge_or_a_port() -> None:
    learner, other = learned(), learned()
    learner.suppress(logo(), edit="mlp")
    with pytest.raises(InputError, match="'logo' is suppressed by an edit of one model's backbone: allow it, merge"):
        continual.merged([learner, other])
    with pytest.raises(InputError, match="'logo' is suppressed .* allow it, port"):
        learner.port(tiny_backbone(seed=1), POOL)


def test_a_file_whose_edit_does_not_fit_is_refused(tmp_path: Any) -> None:
    learner = learned()
    learner.suppress(logo(), edit="mlp")
    edit = learner.state.ignored[0].mlp
    for wrong in (
        replace(edit, rows=edit.rows + 10_000),
        replace(edit, rows=edit.rows - 10_000),
        replace(edit, step=edit.step[:, :-1]),
        replace(edit, rows=edit.rows[:1], step=edit.step[:1]),
    ):
        broken = learner.variant()
        broken.state = replace(learner.state, ignored=(replace(learner.state.ignored[0], mlp=wrong),))
        broken.save(tmp_path / "m.safetensors")
        with pytest.raises(ModelFileError, match="the edit of MLPs is of other blocks"):
            continual.load(tmp_path / "m.safetensors", learner.backbone)
    tensors, values = learner.export()
    with pytest.raises(ValueError, match="rows are torch.float32, not int64"):
        learned().restore({**tensors, "ignored/0/mlp/rows": tensors["ignored/0/mlp/rows"].float()}, values)


def test_the_backbone_of_an_edit_stays_as_it_is() -> None:
    backbone = tiny_backbone()
    before = {name: tensor.clone() for name, tensor in backbone.frozen.network.state_dict().items()}
    learner = learned(backbone=backbone)
    learner.suppress(logo(), 3.0, edit="mlp")
    learner.predict(POOL)
    assert all(torch.equal(own, before[name]) for name, own in backbone.frozen.network.state_dict().items())
    assert isinstance(first_matrices(backbone)[0], nn.Linear)
