"""Tokenrelay as one import package: in a checkout the folders below it are links to the ones beside it.

Code says `tokenrelay.server.edge`, never `server.edge`, so that no module is ever loaded under two names.
"""

from pathlib import Path
from typing import Final

__version__: Final = "0.2.0"

FOLDER: Final = Path(__file__).resolve().parent
"""Of this package: what is no code (the JavaScript client) is found below it, in a checkout and in a wheel alike."""
