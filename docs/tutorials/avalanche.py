# %% [markdown]
# # In Avalanche
#
# Every method here is an Avalanche strategy. This page compares three of them on a stream of handwritten digits: two
# new digits in each of five experiences.
#
# This page needs no download: the digits are scikit-learn's, and the backbone is a tiny ViT with random weights. So the
# figures are low, and only their order says something. With a pretrained backbone the first line is
# `continual.load_backbone("vit_base_patch16_224.augreg_in21k")`.

# %%
import warnings

import timm
import torch
from avalanche.benchmarks import nc_benchmark
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.training.plugins import EvaluationPlugin
from matplotlib import pyplot
from sklearn.datasets import load_digits
from torch.utils.data import TensorDataset

import continual

warnings.filterwarnings("ignore")  # Avalanche's own, of what its dependencies will drop

torch.manual_seed(0)
shape = {"img_size": 32, "patch_size": 8, "embed_dim": 96, "depth": 4, "num_heads": 4}
vit = timm.create_model("vit_tiny_patch16_224", num_classes=0, **shape)
backbone = continual.assemble(vit, "vit_tiny_patch16_224", shape, crop_pct=1.0)

# %% [markdown]
# ## The stream
#
# `backbone.preprocessing` resizes and normalises as this backbone was trained. 30 images of each digit are learned, and
# 20 others are tested.

# %%
digits = load_digits()
images = torch.tensor(digits.images * 255 / 16, dtype=torch.uint8)[:, None].repeat(1, 3, 1, 1)
labels = torch.tensor(digits.target)
order = labels.argsort(stable=True)
train = torch.cat([own[:30] for own in order.split(labels.bincount().tolist())])
test = torch.cat([own[30:50] for own in order.split(labels.bincount().tolist())])

prepare = backbone.preprocessing
benchmark = nc_benchmark(
    TensorDataset(images[train], labels[train]),
    TensorDataset(images[test], labels[test]),
    n_experiences=5,
    task_labels=False,
    seed=1993,
    train_transform=prepare.training(),
    eval_transform=prepare.evaluation(),
)
print([sorted(experience.classes_in_this_experience) for experience in benchmark.train_stream])

# %% [markdown]
# ## Three strategies
#
# `Finetune` trains one adapter and one head on each experience in turn. `SimpleCIL` keeps the mean of each class.
# `strategy_for("strata")` makes a strategy of the recommended method; any name of `equimos methods` will do. They are
# used like `avalanche.training.Naive`.

# %%
STRATEGIES = {
    "finetune": (continual.Finetune, {"train_epochs": 1, "train_mb_size": 16}),
    "simple_cil": (continual.SimpleCIL, {}),
    "strata": (continual.strategy_for("strata"), {}),
}
METRIC = "Top1_Acc_Stream/eval_phase/test_stream/Task000"

curves: dict[str, list[float]] = {}
for name, (make, settings) in STRATEGIES.items():
    evaluator = EvaluationPlugin(accuracy_metrics(stream=True), loggers=[])
    strategy = make(model=backbone, evaluator=evaluator, eval_mb_size=50, **settings)
    curves[name] = []
    for number, experience in enumerate(benchmark.train_stream, start=1):
        strategy.train(experience)
        found = strategy.eval(benchmark.test_stream[:number])  # all digits seen so far
        curves[name].append(100 * found[METRIC])
    print(f"{name:10}", " ".join(f"{value:5.1f}" for value in curves[name]))

# %%
figure, axes = pyplot.subplots(figsize=(6, 3.5))
for name, curve in curves.items():
    axes.plot(range(1, 6), curve, marker="o", label=name)
axes.set(xlabel="experience", ylabel="accuracy on all digits seen [%]", xticks=range(1, 6), ylim=(0, 102))
axes.legend()
figure.tight_layout()

# %% [markdown]
# Fine-tuning is right on the last two digits alone. The other two strategies change no weights, so what they knew
# stays; their curves go down because there are more digits to tell apart. Class means need better features than
# random weights give; the regression of `strata` makes more of them.
#
# ## The learner inside
#
# `strategy.learner` is the plain learner, with the same numbers to the last bit. It is saved, loaded and asked like any
# other:

# %%
strategy.learner.save("digits.safetensors", embed_backbone=True)
answer = continual.load("digits.safetensors").predict(images[test][::20])
print(answer.labels)

# %% [markdown]
# Next: [more on Avalanche](../avalanche.md), [benchmarks with a table and a report](../benchmarks.md), and
# [the methods](../methods.md).
