"""`python -m continual` is the command `equimos`.

Python puts the working folder first among the places of modules; the command takes it away again, so that no file that
happens to lie there is run in place of a module. `equimos` and `python -P -m continual` never have it.
"""

import os
import sys

if __name__ == "__main__":
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120 - nothing is imported yet
    if not sys.flags.safe_path and sys.path and sys.path[0] != root:
        del sys.path[0]

    from continual.cli.app import main

    main()
