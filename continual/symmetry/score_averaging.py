"""All views are answered by themselves, and the scores are averaged."""

from continual.symmetry.augmentation import Augmentation


class ScoreAveraging(Augmentation):
    """f(x) = mean_g f(g·x). Features are those of the view that is given, as with augmentation alone."""

    name, invariant, averages_scores = "score_averaging", True, True
