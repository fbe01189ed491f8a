"""Print what pyproject.toml depends on, one requirement a line: `python3 dependencies.py [EXTRA …]`."""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parent / "pyproject.toml").read_text())["project"]
extras = [project["optional-dependencies"][name] for name in sys.argv[1:]]
print(*project["dependencies"], *(requirement for extra in extras for requirement in extra), sep="\n")
