"""The laws that every incremental learner keeps, to be run on a method of your own.

    from continual.testing import check_learner, synthetic_case

    def test_my_method():
        check_learner(synthetic_case(MyLearner, epochs=2))
        check_learner(synthetic_case(MyLearner, tiny_convnet()))  # if it has `any_backbone = True`

or, one test a law, `@pytest.mark.parametrize("law", LAWS)` and `law(case)`. A case of your own data needs
three or more experiences, the first three of 2, 1 and 2 new classes. Nothing here needs pytest.
"""

from __future__ import annotations

from collections.abc import Callable

from continual.testing.cases import (
    TINY_ARGS,
    Case,
    coloured_squares,
    synthetic_case,
    tiny_backbone,
    tiny_convnet,
)
from continual.testing.editing import (
    correcting_trains_no_adapter,
    forgetting_is_refused_where_it_makes_no_sense,
    forgetting_leaves_the_other_classes,
    renaming_changes_a_name_alone,
)
from continual.testing.laws import (
    a_cache_changes_no_answer,
    backbone_is_frozen,
    batch_size_does_not_matter,
    bfloat16_works,
    class_seen_again_stays_one_class,
    classes_keep_their_names,
    finishing_early_changes_nothing,
    gradients_reach_only_what_is_trained,
    loader_workers_do_not_matter,
    loading_restores_everything,
    memory_grows_by_classes_and_experiences_alone,
    order_of_images_does_not_matter,
    predicting_twice_gives_the_same_bits,
    random_state_is_left_alone,
    same_seed_gives_the_same_bits,
    small_and_unbalanced_experiences_work,
)
from continual.testing.moving import turned_images_get_the_same_answers
from continual.testing.one_door import one_door_to_every_answer
from continual.testing.refusals import bad_input_is_refused, failure_changes_nothing
from continual.testing.resuming import stopping_after_any_epoch_changes_nothing

Law = Callable[[Case], None]

LAWS: tuple[Law, ...] = (
    predicting_twice_gives_the_same_bits,
    batch_size_does_not_matter,
    order_of_images_does_not_matter,
    random_state_is_left_alone,
    a_cache_changes_no_answer,
    one_door_to_every_answer,
    turned_images_get_the_same_answers,
    backbone_is_frozen,
    gradients_reach_only_what_is_trained,
    finishing_early_changes_nothing,
    same_seed_gives_the_same_bits,
    loader_workers_do_not_matter,
    bfloat16_works,
    loading_restores_everything,
    stopping_after_any_epoch_changes_nothing,
    memory_grows_by_classes_and_experiences_alone,
    classes_keep_their_names,
    small_and_unbalanced_experiences_work,
    class_seen_again_stays_one_class,
    renaming_changes_a_name_alone,
    forgetting_leaves_the_other_classes,
    forgetting_is_refused_where_it_makes_no_sense,
    correcting_trains_no_adapter,
    failure_changes_nothing,
    bad_input_is_refused,
)


def check_learner(case: Case) -> None:
    """Check every law; raises AssertionError that names the first one broken."""
    for law in LAWS:
        try:
            law(case)
        except AssertionError as error:
            raise AssertionError(f"{law.__name__}: {error}") from error


__all__ = [
    "LAWS",
    "TINY_ARGS",
    "Case",
    "Law",
    "check_learner",
    "coloured_squares",
    "synthetic_case",
    "tiny_backbone",
    "tiny_convnet",
]
