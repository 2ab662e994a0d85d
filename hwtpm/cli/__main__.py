"""`python -m hwtpm.cli`."""

import sys

from hwtpm.cli.start import main

sys.exit(main())
