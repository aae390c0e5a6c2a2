"""Names of the projects that upstream installs beside the package; using one says that it is not covered."""

from . import deeplab, point_rend
