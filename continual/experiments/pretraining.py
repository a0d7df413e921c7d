"""A backbone for people without pretrained weights: a ViT trained in full on the first experience.

From then on it is frozen, as any backbone of this library. Its features know the first classes only, so this protocol
shows how methods behave, not how good they can be.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from continual.backbones.loading import Backbone, assemble, create
from continual.data.inputs import as_experience
from continual.data.loaders import training_loader
from continual.datasets.streams import Experience
from continual.experiments.config import BackboneConfig
from continual.learning.loop import go_back, snapshot
from continual.learning.training import Checkpoints, Progress
from continual.seeding import seeded


def untrained(config: BackboneConfig) -> Backbone:
    """Return a backbone like the one that is named, with random weights."""
    assert config.name is not None
    return assemble(create(config.name, config.args), config.name, config.args, **config.preprocessing)


def pretrained_on(
    experience: Experience,
    config: BackboneConfig,
    seed: int,
    progress: Progress | None = None,
    checkpoints: Checkpoints | None = None,
    value_range: str | None = None,
) -> Backbone:
    """Return a frozen backbone whose every weight was trained on one experience's images.

    The head predicts the classes, and with `turns` each class's quarter turns as well (4 outputs per class); it is
    thrown away. With `checkpoints` the training is kept after every epoch and resumes from there. `value_range` is the
    stream's.
    """
    pretrain = config.pretrain
    assert pretrain is not None
    assert config.name is not None
    with seeded(seed, "pretraining"):
        frame = untrained(config)
    vit: Any = frame.frozen.network
    vit.requires_grad_(True).train()
    index, turns = {c: i for i, c in enumerate(experience.classes)}, 4 if pretrain.turns else 1
    with seeded(seed, "pretraining head"):
        head = nn.Linear(frame.width, turns * len(index))
    optimizer = torch.optim.AdamW([*vit.parameters(), *head.parameters()], lr=pretrain.lr, weight_decay=0.05)
    images, known = experience.train_images, experience.train_labels
    data = as_experience(images, known, frame.preprocessing, value_range=value_range)
    loader, sampler = training_loader(data.training, pretrain.batch_size, seed, -1)
    steps = pretrain.epochs * len(loader)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, pretrain.lr, total_steps=steps)
    done, loss = 0, torch.tensor(torch.nan)
    live = {f"{part}/{name}": t for part, m in (("vit", vit), ("head", head)) for name, t in m.state_dict().items()}
    if checkpoints is not None and (found := checkpoints.latest()) is not None:
        done = found[0]
        go_back(found[1], live, optimizer, schedule)
    for epoch in range(done, pretrain.epochs):
        sampler.epoch = epoch
        for images, labels in loader:
            targets = torch.tensor([index[label] for label in labels])
            batch = torch.cat([images.rot90(k, (2, 3)) for k in range(turns)])
            target = torch.cat([targets + k * len(index) for k in range(turns)])
            loss = F.cross_entropy(head(vit(batch)), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        if checkpoints is not None:
            checkpoints.keep(epoch + 1, snapshot(live, optimizer, schedule))
        if progress is not None:
            progress("training the backbone", epoch + 1, pretrain.epochs, {"loss": float(loss.detach())})
    vit.eval()
    return assemble(vit, config.name, config.args, **config.preprocessing)
