"""Generated data with exact truth."""

from .occshapes import GENERATOR_VERSION, OcclusionStatistics, occshapes_scene, write_contact_sheet, write_occshapes
from .outlines import CATEGORIES, SEEN, UNSEEN
from .scene import Camera, Look, Rendering, Scene, SceneObject, render, sample_scene
