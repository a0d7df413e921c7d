"""What a benchmark measures: one file a family of metrics, found by its place; see `continual.metrics.base.metric`."""

from continual.metrics.base import Metric
from continual.registry import Registry

METRICS: Registry[Metric] = Registry("metric", __name__)
