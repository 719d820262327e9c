"""Readers of annotation files: COCO, YOLO, Pascal VOC."""
