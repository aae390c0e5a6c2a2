"""Training, evaluation and prediction."""

from .predictor import Predictor
