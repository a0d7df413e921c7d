"""Whether a model file can be used, before it takes the place of one that can."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from continual.errors import ModelFileError
from continual.learning import model_file


def tried(path: Path, weights: Sequence[Path] = ()) -> str | None:
    """Read every tensor of a model file and let the model answer once; return why it did not answer, None if it did.

    Without its method's code, or its backbone's weights, which are not downloaded for this, it cannot be asked, and
    the tensors are checked alone. Raises ModelFileError, or another error of this package, if it cannot be used.
    """
    import torch

    from continual import methods
    from continual.backbones import described
    from continual.backbones.descriptions import rebuild, with_weights
    from continual.backbones.loading import in_cache

    tensors, header = model_file.read(path)
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ModelFileError(f"{path} is damaged: {name} holds numbers that are not finite")
    if header["method"] not in methods.methods():
        return f"the code of method {header['method']!r} is not loaded"
    if not weights and header["backbone_embedded"]:
        methods.load(path, device="cpu")
        return None
    about = with_weights(header["backbone"], weights)
    for part in described(about):
        file = part["weights_file"]
        if not (in_cache(part["name"]) if file is None else Path(file).is_file()):
            return f"the weights of its backbone are not {'here' if file is None else f'at {file}'}"
    methods.load(path, rebuild(about), device="cpu")
    return None
