"""Four sites learn the digits that they see, and their models become one, without moving an image.

Each site sees only some of the ten digits, and two sites share some. The merged model is compared with one that
learned all images in one place. A small ViT with random weights stands in for a pretrained one, so nothing is fetched.
"""

import timm
import torch
from sklearn.datasets import load_digits

import continual

digits = load_digits()
images = torch.from_numpy(digits.images * 15.9).to(torch.uint8)[:, None].expand(-1, 3, -1, -1).contiguous()
labels = digits.target.tolist()
train, test = range(0, 1200), range(1200, len(labels))

torch.manual_seed(0)
args = {"img_size": 16, "patch_size": 4, "embed_dim": 96, "depth": 4, "num_heads": 4}
network = timm.create_model("vit_tiny_patch16_224", num_classes=0, **args).eval()
backbone = continual.assemble(network, "vit_tiny_patch16_224", args)


def learned(rows: list[int]) -> continual.StrataLearner:
    learner = continual.StrataLearner(backbone)
    learner.learn(images[rows], [labels[row] for row in rows])
    return learner


sites = {
    "north": [row for row in train if labels[row] in (0, 1, 2)],
    "east": [row for row in train if labels[row] in (3, 4, 5) and row % 2],
    "south": [row for row in train if labels[row] in (3, 4, 5) and not row % 2],
    "west": [row for row in train if labels[row] in (6, 7, 8, 9)],
}
models = {name: learned(rows) for name, rows in sites.items()}
joint, whole = continual.merged([*models.values()]), learned(list(train))

truth = [labels[row] for row in test]
for name, learner in {**models, "merged": joint, "one place": whole}.items():
    answers = learner.predict(images[list(test)]).labels
    right = sum(answer == own for answer, own in zip(answers, truth, strict=True)) / len(truth)
    print(f"{name:<10} {len(learner.classes):>2} classes  {right:.1%} of all digits right")

columns = [joint.classes.index(label) for label in whole.classes]
difference = joint.predict(images[list(test)]).scores[:, columns] - whole.predict(images[list(test)]).scores
print(f"largest difference of a score between merged and one place: {difference.abs().max():.0e}")
