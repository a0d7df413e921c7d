"""The laws that every incremental learner keeps, to be run on a method of your own.

    from continual.testing import check_learner, synthetic_case

    def test_my_method():
        check_learner(synthetic_case(MyLearner, epochs=2))
        check_learner(synthetic_case(MyLearner, tiny_convnet()))  # if it has `any_backbone = True`
        check_learner(synthetic_case(MyLearner, tiny_backbones()))  # too

or, one test per law, `@pytest.mark.parametrize("law", LAWS)` and `law(case)`. A case of your own data needs
three or more experiences, the first three of 2, 1 and 2 new classes. `continual.testing.kinds` has the laws of adapters
and other kinds. Nothing here needs pytest.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator

from continual.testing.cases import TINY_ARGS as TINY_ARGS
from continual.testing.cases import Case as Case
from continual.testing.cases import coloured_squares as coloured_squares
from continual.testing.cases import synthetic_case as synthetic_case
from continual.testing.cases import tiny_backbone as tiny_backbone
from continual.testing.cases import tiny_backbones as tiny_backbones
from continual.testing.cases import tiny_convnet as tiny_convnet

Law = Callable[[Case], None]


def _laws() -> Iterator[Law]:
    """Yield the public functions of this folder's files that take a case and nothing else."""
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        for name, value in vars(importlib.import_module(module.name)).items():
            own = inspect.isfunction(value) and value.__module__ == module.name and name[0] != "_"
            if own and [*inspect.signature(value).parameters] == ["case"]:
                yield value


LAWS: tuple[Law, ...] = tuple(_laws())


def check_learner(case: Case) -> None:
    """Check every law; raises AssertionError that names the first one broken."""
    for law in LAWS:
        try:
            law(case)
        except AssertionError as error:
            raise AssertionError(f"{law.__name__}: {error}") from error
