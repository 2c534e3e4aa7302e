# ruff: noqa: INP001
"""`python deploy/emulator`."""

import sys

from cost import main

sys.exit(main())
