"""Models on the Hugging Face hub: a model file with a card of measured figures, and back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from continual import methods
from continual.backbones import described
from continual.backbones.descriptions import licence_of
from continual.errors import InputError, ModelFileError
from continual.learning.learner import IncrementalLearner
from continual.lifecycle import contents, versions
from continual.lifecycle.model_card import card, labelled_folder, measure

FILE = "model.safetensors"


def push_to_hub(
    model: str | Path,
    name: str,
    *,
    images: str | Path | None = None,
    learner: IncrementalLearner[Any] | None = None,
    license: str | None = None,
    private: bool = True,
    token: str | None = None,
    endpoint: str | None = None,
) -> str:
    """Upload a model file to the repository `name` (USER/NAME), and return the card that goes with it.

    The card has what is measured on `images`, a folder of class folders that were not learned, by the model's `learner`
    (loaded from the file where none is given). `token` is that of `hf auth login` unless given. Earlier versions stay
    here. Raises InputError for images or a name that cannot be used, ModelFileError if the hub refuses.
    """
    path = Path(model)
    found = contents.read(path)
    measured = None
    if images is not None:
        learner = learner or methods.load(path)
        measured = measure(learner, *labelled_folder(Path(images), found.classes))
    licences = [licence_of(part["name"]) for part in described(found.header["backbone"])]
    history = [version.about() for version in versions.versions(path)]
    text = card(found, name, measured, license=license, backbone_licenses=licences, history=history)
    api, refused = _api(token, endpoint)
    try:
        api.create_repo(name, private=private, exist_ok=True)
        with TemporaryDirectory() as folder:
            (Path(folder) / "README.md").write_text(text, encoding="utf-8")
            (Path(folder) / FILE).write_bytes(path.read_bytes())
            api.upload_folder(repo_id=name, folder_path=folder, commit_message=f"{found.method}, {path.name}")
    except refused as error:
        raise _said(name, error) from error
    return text


def from_hub(
    name: str,
    *,
    revision: str | None = None,
    weights: Sequence[Path] = (),
    device: str = "cpu",
    token: str | None = None,
    endpoint: str | None = None,
    cache: str | Path | None = None,
) -> IncrementalLearner[Any]:
    """Return the learner of a model file in the hub's repository `name`; a file names code and never loads it.

    `weights` are the backbone's, where they are neither in the file nor on the hub. Raises ModelFileError where the hub
    has none, and for a file that is damaged.
    """
    from continual.backbones.descriptions import rebuild, with_weights

    path = fetched(name, revision=revision, token=token, endpoint=endpoint, cache=cache)
    found = contents.read(path)
    backbone = rebuild(with_weights(found.header["backbone"], weights)) if weights else None
    return methods.load(path, backbone, device=device)


def fetched(
    name: str,
    *,
    revision: str | None = None,
    token: str | None = None,
    endpoint: str | None = None,
    cache: str | Path | None = None,
) -> Path:
    """Return where the model file of a repository lies once it is downloaded, in the hub's cache."""
    api, refused = _api(token, endpoint)
    try:
        return Path(api.hf_hub_download(name, FILE, revision=revision, cache_dir=cache))
    except refused as error:
        raise _said(name, error) from error


def _api(token: str | None, endpoint: str | None) -> tuple[Any, tuple[type[Exception], ...]]:
    """Return the hub's client, and what it raises."""
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError as error:
        raise InputError("the hub needs its client: pip install huggingface_hub") from error
    return HfApi(endpoint, token), (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError)


def _said(name: str, error: Exception) -> ModelFileError:
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return ModelFileError(f"the hub does not give or take {name} ({first}): check the name, and `hf auth login`")
