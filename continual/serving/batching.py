"""Micro-batching: images of requests that wait at the same time go through the model together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from torch import Tensor

from continual.learning.answers import Scores
from continual.serving.model import Served


class OverloadedError(Exception):
    """More images wait than the queue holds."""


@dataclass(frozen=True)
class _Waiting:
    model: Served
    image: Tensor
    answer: asyncio.Future[tuple[Scores, int]]


class Batcher:
    """Answers images one batch after the other, in one thread; it runs between `start` and `stop`.

    A batch is what waits when the last one is done, at most `largest` images of the same model. A lone image
    waits `wait` seconds for others. More than `queue` images are refused.
    """

    def __init__(self, largest: int, wait: float, queue: int, done: Callable[[int], None] = lambda size: None) -> None:
        self.largest, self.wait, self.queue, self.done = largest, wait, queue, done
        self._waiting: deque[_Waiting] = deque()
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "model")
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def start(self) -> None:
        """Begin to answer, in the running event loop."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Stop answering; those still waiting get CancelledError."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for item in self._waiting:
            item.answer.cancel()
        self._thread.shutdown()

    async def ask(self, model: Served, image: Tensor) -> tuple[Scores, int]:
        """Return the scores of the image's batch, and its row; raises OverloadedError, or what the model raises."""
        if len(self._waiting) >= self.queue:
            raise OverloadedError(f"{len(self._waiting)} images are waiting already")
        answer: asyncio.Future[tuple[Scores, int]] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(model, image, answer))
        self._arrived.set()
        return await answer

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._arrived.wait()
            if len(self._waiting) < self.largest:
                await asyncio.sleep(self.wait)
            batch = self._next()
            if not self._waiting:
                self._arrived.clear()
            if not batch:
                continue
            try:
                scores = await loop.run_in_executor(self._thread, batch[0].model.scores, [x.image for x in batch])
            except Exception as error:  # of one batch: the next may be fine
                for item in batch:
                    if not item.answer.done():
                        item.answer.set_exception(error)
                continue
            self.done(len(batch))
            for row, item in enumerate(batch):
                if not item.answer.done():
                    item.answer.set_result((scores, row))

    def _next(self) -> list[_Waiting]:
        """Take the next images of one model; those nobody waits for any more are left out."""
        batch: list[_Waiting] = []
        while self._waiting and len(batch) < self.largest:
            if batch and self._waiting[0].model is not batch[0].model:
                break
            item = self._waiting.popleft()
            if not item.answer.done():
                batch.append(item)
        return batch
