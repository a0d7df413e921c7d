"""The law of interruption: what is stopped and started again ends with the bits of what was never stopped."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from continual.data.inputs import as_experience
from continual.learning import checkpoints
from continual.learning.checkpoints import CheckpointFolder
from continual.testing.assertions import assert_same, expect
from continual.testing.cases import Case, Images, Learner


class _Stopped(Exception):  # noqa: N818 - it stands for the end of the process, not for an error
    pass


class _StopsAfter(CheckpointFolder):
    """A folder after whose given checkpoint the process is gone."""

    def __init__(self, folder: Path, last: int) -> None:
        super().__init__(folder)
        self.last = last

    def keep(self, number: int, value: Any) -> None:
        super().keep(number, value)
        if number == self.last:
            raise _Stopped


def stopping_after_any_epoch_changes_nothing(case: Case) -> None:
    """A training stopped after any epoch resumes from its checkpoint, in a new learner, to the same bits.

    Twice: as the first experience, and as a later one of a learner that is restored from a file, which gets
    its images back if it keeps them.
    """
    # With three epochs, a schedule that starts again after the first has gone wrong by the third.
    settings = {"epochs": 3} if getattr(case.make().settings, "epochs", 0) else {}
    for earlier in (case.experiences[:0], case.experiences[:2]):
        experience = case.experiences[len(earlier)]
        plain = case.after([*earlier, experience], **settings)
        expected = plain.predict(case.images)
        for epoch in range(1, settings.get("epochs", 0) + 1):
            with tempfile.TemporaryDirectory() as name:
                folder, before = Path(name), case.after(earlier, **settings)
                checkpoints.write(folder / "state", before.export())
                try:
                    before.learn(*experience, checkpoints=_StopsAfter(folder, epoch))
                except _Stopped:
                    expect(before.state.updates == len(earlier), "an experience that was stopped was kept")
                resumed = _restored(case.make(**settings), folder / "state", earlier)
                resumed.learn(*experience, checkpoints=CheckpointFolder(folder))
                what = f"stopped after epoch {epoch} of experience {len(earlier) + 1}, it ended otherwise"
                assert_same(expected, resumed.predict(case.images), what)


def _restored(learner: Learner, file: Path, earlier: Sequence[Images]) -> Learner:
    found = checkpoints.read(file)
    if found is None:
        raise AssertionError("the state did not survive its file")
    learner.restore(*found)
    learner.recall([as_experience(images, labels, learner.preprocessing) for images, labels in earlier])
    return learner
