"""The build puts OpenSeadragon into the package, which `segkit view` needs; all else is in pyproject.toml.

It is downloaded from the npm registry, or from where npm_config_registry says, and checked by its hash. A build that
cannot have it goes on: `segkit view --install-viewer` gets it later, and everything else does not need it.
"""

import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

sys.path.insert(0, str(Path(__file__).parent))  # builds have no segkit installed

from segkit.errors import SegkitError
from segkit.viewer import openseadragon


class BuildWithViewer(build_py):
    """Builds the package after OpenSeadragon has been put beside its sources."""

    def run(self) -> None:
        """Get it if it is not there, then build."""
        if not openseadragon.is_installed():
            try:
                openseadragon.install()
            except (SegkitError, OSError) as error:
                self.warn(f"OpenSeadragon is left out; `segkit view --install-viewer` gets it later. {error}")
        super().run()


setup(cmdclass={"build_py": BuildWithViewer})
