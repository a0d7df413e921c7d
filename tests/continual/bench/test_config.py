"""Configs: what loads, what is refused, and in which words."""

from __future__ import annotations

from pathlib import Path

import pytest

from continual.bench.config import load_config
from continual.errors import InputError

GOOD = """
title = "t"
seeds = [1, 2]
[data]
source = "folder"
train = "a"
test = "b"
[stream]
classes = 2
[backbone]
name = "vit_tiny_patch16_224"
[settings]
epochs = 3
precision = "bfloat16"
[methods.mos]
alpha = 0.3
[methods.mos.variants]
alone = { ensemble = false }
[methods.plain]
method = "simple_cil"
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "c.toml"
    path.write_text(GOOD)
    return path


def test_shared_settings_go_to_the_methods_that_have_them(config: Path) -> None:
    loaded = load_config(config)
    assert loaded.methods["mos"].settings == {"epochs": 3, "precision": "bfloat16", "alpha": 0.3}
    assert loaded.methods["plain"].settings == {"precision": "bfloat16"}
    assert loaded.methods["mos"].make_settings(seed=7).seed == 7


def test_paths_are_found_beside_the_config(config: Path) -> None:
    assert load_config(config).data.train == config.parent / "a"


def test_the_command_line_comes_before_the_file(config: Path) -> None:
    loaded = load_config(config, ["settings.epochs=9", "seeds=[5]", "data.train=/elsewhere", "methods.mos.alpha=0"])
    assert loaded.methods["mos"].settings["epochs"] == 9
    assert loaded.methods["mos"].settings["alpha"] == 0
    assert loaded.seeds == [5]
    assert loaded.data.train == Path("/elsewhere")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("titel=1", "unknown key 'titel': did you mean 'title'"),
        ("stream.per_clas=1", "unknown key 'stream.per_clas': did you mean 'per_class'"),
        ("backbone.nam=x", "did you mean 'name'"),
        ("settings.epoch=1", "unknown key 'settings.epoch': did you mean 'epochs'"),
        ("methods.mos.alhpa=1", "did you mean 'alpha'"),
        ("methods.mos.alpha=2", "alpha"),
        ("methods.mos.method=mso", "unknown method 'mso': did you mean"),
        ("methods.mos.preset=papr", "unknown preset 'papr': did you mean 'paper'"),
        ("methods.mos.variants.x.ensembel=true", "did you mean 'ensemble'"),
        ("methods.mos=3", "must be a table"),
        ("data.source=cifar", "'cifar10'"),
        ("stream.classes=many", "stream.classes"),
        ("seeds=[]", "seeds"),
        ("nonsense", "not of the form key=value"),
        ("a b=1", "is not a key"),
        ("title.x=1", "is a value, not a table"),
    ],
)
def test_a_wrong_config_is_refused_with_the_cure(config: Path, change: str, said: str) -> None:
    with pytest.raises(InputError) as error:
        load_config(config, [change])
    assert said in str(error.value)


def test_every_problem_is_reported_at_once(config: Path) -> None:
    with pytest.raises(InputError) as error:
        load_config(config, ["titel=1", "stream.per_class=0", "device=3"])
    assert all(word in str(error.value) for word in ("titel", "per_class", "device"))


@pytest.mark.parametrize("text", ["x = [", "\xff"])
def test_a_file_that_is_not_toml(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match="not readable TOML"):
        load_config(path)
    with pytest.raises(InputError, match="is a folder"):
        load_config(tmp_path)
    with pytest.raises(InputError, match="no config"):
        load_config(tmp_path / "none.toml")
