"""The plain ViT: images to tokens or logits, its config and its cost; knows no files, losses or training."""
