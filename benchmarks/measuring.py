"""What the timings have in common: a clock, sides that alternate, the machine's ceilings, tables."""

from __future__ import annotations

import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from continual.learning.model_file import versions

Call = Callable[[], Any]


def seconds(call: Call) -> float:
    """Time one call: by the clock on a GPU; on a CPU in processor time, which other programs lengthen less."""
    if not torch.cuda.is_available():
        started = time.process_time()
        call()
        return time.process_time() - started
    torch.cuda.synchronize()
    started = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - started


def peak_bytes(call: Call) -> int:
    """Return the peak of the memory that torch gives out during one call, above what is held before it."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - held
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    changes = sorted((event["ts"], event["args"]["Bytes"]) for event in events if event["name"] == "[memory]")
    held = peak = 0
    for _, change in changes:
        held += change
        peak = max(peak, held)
    return peak


def interleaved(sides: Mapping[str, Call], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of every side in every round, after a round that is not counted."""
    for call in sides.values():
        call()
    taken = [{name: seconds(call) for name, call in sides.items()} for _ in range(rounds)]
    return {name: [one[name] for one in taken] for name in sides}


def ratio(taken: Mapping[str, Sequence[float]], side: str, to: str) -> float:
    """Return the median over the rounds of one side's time in another's of the same round."""
    return statistics.median(a / b for a, b in zip(taken[side], taken[to], strict=True))


def ceilings(device: str = "cpu") -> dict[str, float]:
    """Measure the rates nothing can exceed: products of square matrices, and copying 256 MiB."""
    found, size = {}, 1536 if device == "cpu" else 8192
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        a, b = torch.randn(2, size, size, device=device).to(dtype)
        best = min(interleaved({"product": lambda a=a, b=b: a @ b}, 5)["product"])
        found[f"{name} [GFLOP/s]"] = 2 * size**3 / best / 1e9
    source = torch.ones(64 * 2**20, device=device)
    target = torch.empty_like(source)
    best = min(interleaved({"copy": lambda: target.copy_(source)}, 5)["copy"])
    return found | {"copy [GB/s]": 2 * source.numel() * 4 / best / 1e9}


def surroundings() -> dict[str, Any]:
    """Say what it ran on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.processor(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        **versions(),
    }


def forward_flops(vit: Any, adapters: int = 0) -> float:
    """Return the operations of one image's forward pass: products alone, with adapters of that width if asked.

    A multiplication with its addition counts as two.
    """
    attention, mlp = _halves(vit)
    tokens, depth = vit.patch_embed.num_patches + vit.num_prefix_tokens, len(vit.blocks)
    return _embedding(vit) + depth * (attention + mlp + 4.0 * tokens * vit.embed_dim * adapters)


def pass_flops(vit: Any, adapters: int) -> tuple[float, float]:
    """Return the operations of MOS's first pass of an image and of each that follows.

    In the last block one token asks and goes on, without keys and values of the others; later passes share embedding,
    first attention and first MLP.
    """
    attention, mlp = _halves(vit)
    tokens, width = vit.patch_embed.num_patches + vit.num_prefix_tokens, vit.embed_dim
    asks = 2.0 * (4 * width**2 + 2 * tokens * width * vit.blocks[0].attn.num_heads)
    first = forward_flops(vit, adapters) - (mlp + attention) + mlp / tokens + asks
    return first, first - _embedding(vit) - attention - mlp


def _embedding(vit: Any) -> float:
    height, width = vit.patch_embed.patch_size
    return 2.0 * vit.patch_embed.num_patches * 3 * height * width * vit.embed_dim


def _halves(vit: Any) -> tuple[float, float]:
    """Return the operations of a block's attention and of its MLP."""
    width, tokens = vit.embed_dim, vit.patch_embed.num_patches + vit.num_prefix_tokens
    hidden = vit.blocks[0].mlp.fc1.out_features
    return 2.0 * tokens * (4 * width**2 + 2 * tokens * width), 4.0 * tokens * width * hidden


def profile(call: Call, rows: int = 8) -> list[tuple[str, float, int]]:
    """Return what takes most of a call: operation, its own share of the (device's) time, number of calls."""
    call()
    activities, key = [torch.profiler.ProfilerActivity.CPU], "self_cpu_time_total"
    if torch.cuda.is_available():
        activities, key = [*activities, torch.profiler.ProfilerActivity.CUDA], "self_device_time_total"
    with torch.profiler.profile(activities=activities) as profiler:
        call()
    # A GPU's kernels are listed by themselves too, beside the operations that they belong to.
    own = [event for event in profiler.key_averages() if event.device_type == torch.autograd.DeviceType.CPU]
    events = sorted(own, key=lambda event: getattr(event, key), reverse=True)
    whole = sum(getattr(event, key) for event in events)
    return [(event.key, getattr(event, key) / whole, event.count) for event in events[:rows]]


def profiles(entries: Mapping[str, Sequence[tuple[str, float, int]]]) -> str:
    """Return tables of what `profile` said of several sides."""
    text = ""
    for name, rows in entries.items():
        lines = [[key, f"{part:.1%}", str(count)] for key, part, count in rows]
        text += f"\n{table([f'{name}: operation', 'share of the time', 'calls'], lines)}"
    return text


def spread(values: Sequence[float], form: str = ".1f") -> str:
    """Return the mean of values, with ± their standard deviation if there are several.

    >>> spread([1.0, 2.0, 3.0]), spread([2.0]), spread([1.0, 2.0], "+.1f")
    ('2.0 ± 1.0', '2.0', '+1.5 ± 0.7')
    """
    found = f"{statistics.mean(values):{form}}"
    return f"{found} ± {statistics.stdev(values):.1f}" if len(values) > 1 else found


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; all but the first column are aligned to the right."""
    rule = ["---", *["---:"] * (len(headings) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (headings, rule, *rows)) + "\n"


def records_in(out: Path) -> list[Any]:
    """Return what an earlier call has measured: the records of a file, if it is there."""
    return list(json.loads(out.read_text(encoding="utf-8"))) if out.is_file() else []


def write(out: Path, name: str, record: Mapping[str, Any], text: str) -> None:
    """Write NAME.json and NAME.md, and print the latter."""
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (out / f"{name}.md").write_text(text, encoding="utf-8")
    print(text)
