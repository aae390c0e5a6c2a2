"""Training, evaluation and prediction."""

from .predictor import Predictor
from .video_predictor import VideoPredictor
