"""The front of the package: what importing it loads, and what it hands on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import equivariant

PACKAGE = Path(equivariant.__file__).parent


def test_importing_the_package_loads_no_other_library_and_sets_nothing() -> None:
    code = (
        "import sys, torch; threads, seed = torch.get_num_threads(), torch.initial_seed()\n"
        "import equivariant\n"
        "assert (torch.get_num_threads(), torch.initial_seed()) == (threads, seed)\n"
        "bad = {'avalanche', 'timm', 'continual', 'torchvision', 'matplotlib', 'safetensors', 'sklearn'}\n"
        "print(sorted(bad & {name.split('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent, check=True)
    assert done.stdout.strip() == "[]"


def test_everything_public_is_exported_and_documented() -> None:
    for name in equivariant.__all__:
        assert getattr(equivariant, name).__doc__, name
