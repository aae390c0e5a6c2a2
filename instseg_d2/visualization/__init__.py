"""Pictures of data, predictions and runs."""

from .overlay import draw_instances
from .sheet import side_by_side, tile
from .strips import draw_strips
