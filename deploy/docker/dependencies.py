"""Print what pyproject.toml depends on, one requirement a line: `python3 dependencies.py [EXTRA …]`.

With `--cuda` the networks' runtime is the one for NVIDIA GPUs, with the CUDA libraries that it needs.
"""

import sys
import tomllib
from pathlib import Path

ON_CUDA = "onnxruntime-gpu[cuda,cudnn]"

here = Path(__file__).parent
of_image = here / "pyproject.toml"  # in a build it lies beside this file
project = tomllib.loads((of_image if of_image.exists() else here.parents[1] / "pyproject.toml").read_text())[
    "project"
]
extras = [name for name in sys.argv[1:] if name != "--cuda"]
requirements = [
    *project["dependencies"],
    *(r for name in extras for r in project["optional-dependencies"][name]),
]
if "--cuda" in sys.argv:
    requirements = [
        r.replace("onnxruntime", ON_CUDA) if r.startswith("onnxruntime") else r for r in requirements
    ]
print(*requirements, sep="\n")
