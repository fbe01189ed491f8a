"""`python -m encoder_service`: starts a camera node."""

import sys

from encoder_service.server import main

if __name__ == "__main__":
    main(sys.argv[1:])
