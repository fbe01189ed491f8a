"""`python -m ndsc.viewer`: starts the viewer."""

import sys

try:
    from ndsc.viewer.server import main
except ModuleNotFoundError as error:
    if error.name != "aiohttp":
        raise
    sys.exit("error: aiohttp is not installed; pip install 'ndsc[viewer]'")

main()
