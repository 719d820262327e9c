"""Read annotation files: COCO, YOLO, Pascal VOC."""
