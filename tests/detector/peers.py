"""Run from outside the repository, where `datasets` is not ours: builds a public detector with random weights, saves
its weights, as tensors and as its users have them, and its answers. Arguments: which, folder."""

import argparse
import sys
import warnings

warnings.filterwarnings("ignore")

import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

WHICH, FOLDER = sys.argv[1:]


def randomized(model):
    """Zero biases and unit scales would hide what is mixed up."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if not tensor.is_floating_point():
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith("running_var"):
                tensor.copy_(0.5 + noise.abs())
            elif tensor.ndim >= 2:
                tensor.add_(noise * 0.02)
            else:
                tensor.add_(noise * 0.1)
    return model.eval()


def hugging_rfdetr():
    from transformers import RfDetrConfig, RfDetrDinov2Config, RfDetrForObjectDetection

    backbone = RfDetrDinov2Config(
        hidden_size=48, num_hidden_layers=4, num_attention_heads=3, image_size=96, patch_size=16,
        out_indices=[2, 3, 4], num_windows=2,
    )  # fmt: skip
    return RfDetrForObjectDetection(
        RfDetrConfig(
            backbone_config=backbone,
            group_detr=2,
            num_queries=20,
            d_model=64,
            decoder_layers=2,
            num_labels=7,
            decoder_self_attention_heads=4,
            decoder_cross_attention_heads=8,
            decoder_ffn_dim=96,
            decoder_n_points=2,
        )
    )


def hugging_lwdetr(scales=(2.0, 0.5), width=48):
    from transformers import LwDetrConfig, LwDetrForObjectDetection, LwDetrViTConfig

    backbone = LwDetrViTConfig(
        hidden_size=width, num_hidden_layers=4, num_attention_heads=3, image_size=128, pretrain_image_size=96,
        window_block_indices=[0, 2], out_indices=[2, 4], num_windows=4,
    )  # fmt: skip
    return LwDetrForObjectDetection(
        LwDetrConfig(
            backbone_config=backbone,
            projector_scale_factors=list(scales),
            group_detr=2,
            num_queries=20,
            d_model=64,
            decoder_layers=2,
            num_labels=7,
            decoder_self_attention_heads=4,
            decoder_cross_attention_heads=8,
            decoder_ffn_dim=96,
            decoder_n_points=4,
        )
    )


def rfdetr():
    from rfdetr.config import RFDETRNanoConfig, TrainConfig
    from rfdetr.models.lwdetr import build_model_from_config

    config = RFDETRNanoConfig(
        pretrain_weights=None, device="cpu", num_classes=10, resolution=128, positional_encoding_size=8,
        num_queries=40, group_detr=2,
    )  # fmt: skip
    return build_model_from_config(config, TrainConfig(dataset_dir="."))


def lwdetr_squeezed():
    return hugging_lwdetr((2.0,), 516)


def lwdetr_single():
    return hugging_lwdetr((1.0,))


torch.manual_seed(0)
model = randomized(globals()[WHICH]())
saved = {name: tensor.contiguous().clone() for name, tensor in model.state_dict().items()}
answers = {}
for height, width in ((128, 128), (192, 192), (128, 192)):
    torch.manual_seed(2)
    images = torch.randn(2, 3, height, width)
    if WHICH == "rfdetr":
        if height != width:
            continue
        with torch.no_grad():
            out = model(list(images))
        logits, boxes = out["pred_logits"], out["pred_boxes"]
    else:
        if WHICH == "hugging_rfdetr" and height != width:
            continue  # its windows are mixed up where H != W
        with torch.no_grad():
            out = model(images)
        logits, boxes = out.logits, out.pred_boxes
    key = f"{height}x{width}"
    answers |= {f"{key}.images": images, f"{key}.logits": logits.contiguous(), f"{key}.boxes": boxes.contiguous()}
save_file(saved, f"{FOLDER}/weights.safetensors")
if WHICH == "rfdetr":  # as the package's training script did
    torch.save({"model": saved, "args": argparse.Namespace(resolution=128), "epoch": 9}, f"{FOLDER}/weights.pth")
else:
    model.save_pretrained(f"{FOLDER}/saved")
save_file(answers, f"{FOLDER}/answers.safetensors")
