"""Train the rows of a paper's tables, and put the results beside what the paper prints."""

from .study import Comparison, Recipe, Row, SharedDetector, Study, StudyError, Table, find_project, load_study
