"""The image build is no part of the package, and its folder's name is no module name: it is put on the path by hand."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "sandbox-images"))
