"""What `group="auto"` took in the first experience. Importing this loads no torch."""

from __future__ import annotations

from dataclasses import dataclass

#: what the setting `group` says to have it decided on the first experience's images
AUTO = "auto"
#: the group of images without an up: all quarter turns and mirror images
NO_UP = "D4"


#: so many images, each left out, say something of a group; of fewer, none is taken
FEWEST = 12


@dataclass(frozen=True)
class GroupChoice:
    """What `group="auto"` took, and by how much."""

    saved: float  #: which share of the squared error of images left out all their views save; below 0, they add to it
    plain: (
        float  #: the share that is answered right upright: as they are, or with their mirror images if that is better
    )
    whole: float  #: the same by all views
    images: int  #: how many were left out
    group: str | None = None  #: None: images have an up, or too little speaks against one
    up: float | None = None  #: how often moved images are recognised, 0.5 by chance; None in older files

    @property
    def words(self) -> str:
        r"""What was taken and why, in one sentence.

        >>> choice = GroupChoice(0.12, plain=0.786, whole=0.821, images=28, group="D4", up=0.6)
        >>> print(*choice.words.split("; "), sep="\n")
        group: D4, these images have no up
        of 28 images, each left out once, 82.1% are right by all views, with 12% less squared error, and 78.6% upright
        60% of moved images are recognised as moved, 50% by chance
        """
        if not self.images:
            return "group: none, as there are fewer than two classes of two images to tell by"
        if self.images < FEWEST and self.group is None:
            few = f"{self.images} images of classes with several are too few to tell by"
            return f"group: none, as {few}: name one, as D4, if you know that they have no up"
        taken = f"{self.group}, these images have no up" if self.group else "none, these images seem to have an up"
        change = f"{abs(self.saved):.0%} {'less' if self.saved >= 0 else 'more'}"
        seen = "" if self.up is None else f"; {self.up:.0%} of moved images are recognised as moved, 50% by chance"
        return (
            f"group: {taken}; of {self.images} images, each left out once, {self.whole:.1%} are right by all views, "
            f"with {change} squared error, and {self.plain:.1%} upright{seen}"
        )
