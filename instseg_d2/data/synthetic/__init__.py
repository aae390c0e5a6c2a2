"""Generated data with exact truth."""

from .motion import VideoPlan
from .occshapes import GENERATOR_VERSION, OcclusionStatistics, occshapes_scene, write_contact_sheet, write_occshapes
from .outlines import CATEGORIES, SEEN, UNSEEN
from .scene import Camera, Look, Rendering, Scene, SceneObject, render, sample_scene
from .video import Video, composite, occvideo, occvideo_plan, render_video
from .video_set import VIDEO_GENERATOR_VERSION, VideoStatistics, write_occvideo
