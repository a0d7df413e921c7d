"""Configs: what loads, what is refused, and in which words."""

from __future__ import annotations

from pathlib import Path

import pytest

from continual.errors import InputError
from continual.experiments.config import load_config, load_runs

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


def test_a_source_beside_a_config_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = 'source = "folder"\ntrain = "a"\ntest = "b"'
    for source in ("./photos", "photos/", "./photos/inner"):
        Path("c.toml").write_text(GOOD.replace(data, f'source = "{source}"'))
        assert Path(load_config(Path("c.toml")).data.source) == Path(source)


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
        ("seeds=[1, 1]", "name one twice"),
        ("seeds=[-1]", "seeds.0"),
        ("settings=3", "must be a table"),
        ("settings.lr=inf", "settings.lr is inf: give a finite number"),
        ("backbone.args.drop_rate=nan", "backbone.args.drop_rate is nan"),
        ("backbone.pretrain.lr=inf", "backbone.pretrain.lr is inf"),
        ("backbone.preprocessing.crop_pc=1.0", "unknown preprocessing 'crop_pc': did you mean 'crop_pct'"),
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
        load_config(
            config,
            [
                "titel=1",
                "stream.per_class=0",
                "device=3",
                "settings.epohcs=1",
                "settings.lr=nan",
                "methods.mos.alhpa=1",
                "methods.mso.alpha=1",
            ],
        )
    words = ("'titel'", "per_class", "device", "settings.lr is nan", "'alhpa'", "unknown method 'mso'")
    assert all(word in str(error.value) for word in words), error.value


SWEEP = """
[sweep.small]
stream.per_class = 5
title = "Small"
[sweep.other-data]
data = { train = "c" }
methods.plain.precision = "float32"
"""


def test_a_sweep_is_a_run_for_each_of_its_tables(config: Path) -> None:
    config.write_text(GOOD + SWEEP)
    small, other = load_runs(config, ["seeds=[5]", "stream.per_class=7"]).values()
    assert (small.title, other.title, small.seeds, other.seeds) == ("Small", "t", [5], [5])
    assert small.stream.per_class == 7, "the command line comes last"
    assert (small.data.train, other.data.train) == (config.parent / "a", config.parent / "c")
    assert other.data.test == config.parent / "b"
    assert other.methods["plain"].settings["precision"] == "float32"
    small, other = load_runs(config, ["sweep.other-data.stream.per_class=9", "seeds=[5]"]).values()
    assert (small.stream.per_class, other.stream.per_class, other.seeds) == (5, 9, [5]), "an override of one run"
    with pytest.raises(InputError, match="unknown key 'sweep'"):
        load_runs(config, ["sweep.othr.seeds=[5]"])
    with pytest.raises(InputError, match="is a sweep of small, other-data"):
        load_config(config)
    with pytest.raises(InputError, match=r"sweep.small: .*titel.*; sweep.other-data: .*titel"):
        load_runs(config, ["titel=3"])


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


def test_a_method_s_name_may_hold_its_preset(config: Path) -> None:
    rows = 'methods={mos_reference={alpha=0.2}, "strong"={method="mos_paper", epochs=2}}'
    methods = load_config(config, [rows]).methods
    assert [(m.method, m.preset) for m in methods.values()] == [("mos", "reference"), ("mos", "paper")]
    settings = methods["mos_reference"].make_settings()
    assert (settings.merge, settings.alpha) == ("per_forward", 0.2)
    with pytest.raises(InputError, match="'mos_paper' is 'mos' with the preset 'paper'"):
        load_config(config, ['methods={x={method="mos_paper", preset="reference"}}'])
