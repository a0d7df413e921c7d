"""Where finished cells are logged: one file per tracker, found by its place and name; see `base`."""

from continual.experiments.trackers.base import Tracker
from continual.registry import Registry

TRACKERS: Registry[type[Tracker]] = Registry("tracker", __name__)
