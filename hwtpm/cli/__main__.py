"""`python -m hwtpm.cli`."""

import sys

from hwtpm.cli.app import main

sys.exit(main())
