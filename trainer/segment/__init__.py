"""Segmentation: where folds and glottis are, pixel by pixel; teachers, small students, and what passes between them."""

from trainer.segment.teacher import fit_map_teacher, load_map_teacher, predict_maps, train_map_teacher

__all__ = ["fit_map_teacher", "load_map_teacher", "predict_maps", "train_map_teacher"]
