"""What a server counts."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest


class Metrics:
    """What one server counts, for Prometheus; `waiting` and `classes` are asked when they are read."""

    def __init__(self, waiting: Callable[[], int], classes: Callable[[], int]) -> None:
        here = self._registry = CollectorRegistry()
        self.requests = Counter("equimos_requests", "Requests by path and status.", ["path", "status"], registry=here)
        self.seconds = Histogram("equimos_request_seconds", "Time of a request to /predict.", registry=here)
        self.images = Counter("equimos_images", "Images answered.", registry=here)
        self.unknown = Counter("equimos_unknown_images", "Images answered as unknown.", registry=here)
        self.corrected = Counter("equimos_corrected_images", "Images that people have named.", registry=here)
        sizes = (1, 2, 4, 8, 16, 32, 64, 128)
        self.batches = Histogram("equimos_batch_images", "Images of a batch.", buckets=sizes, registry=here)
        self.reloads = Counter("equimos_reloads", "Changes of the model file by outcome.", ["outcome"], registry=here)
        Gauge("equimos_waiting_images", "Images in the queue.", registry=here).set_function(waiting)
        Gauge("equimos_classes", "Classes of the model in use.", registry=here).set_function(classes)

    def text(self) -> bytes:
        """Return all of them in Prometheus' format."""
        return generate_latest(self._registry)
