"""The file manager through which all paths go: local files, http(s) links and ``detectron2://`` names."""

from iopath.common.file_io import HTTPURLHandler, OneDrivePathHandler, PathHandler
from iopath.common.file_io import PathManager as _PathManager

__all__ = ["PathManager", "PathHandler"]

# One manager of our own, so that handlers registered by other libraries do not meet ours.
PathManager = _PathManager()


class Detectron2Handler(PathHandler):
    """Maps ``detectron2://x`` to the public download server of detectron2's weights."""

    PREFIX = "detectron2://"
    S3_DETECTRON2_PREFIX = "https://dl.fbaipublicfiles.com/detectron2/"

    def _get_supported_prefixes(self) -> list[str]:
        return [self.PREFIX]

    def _link(self, path: str) -> str:
        return self.S3_DETECTRON2_PREFIX + path.removeprefix(self.PREFIX)

    def _get_local_path(self, path: str, **kwargs) -> str:
        return PathManager.get_local_path(self._link(path), **kwargs)

    def _open(self, path: str, mode: str = "r", **kwargs):
        return PathManager.open(self._link(path), mode, **kwargs)


for _handler in (HTTPURLHandler(), OneDrivePathHandler(), Detectron2Handler()):
    PathManager.register_handler(_handler)
