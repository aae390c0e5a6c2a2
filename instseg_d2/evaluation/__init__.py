"""Evaluators beyond plain COCO: category and instance subsets, occlusion bins, masks with the boxes given."""
