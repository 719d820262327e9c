"""Option names of timm, Ultralytics and Hugging Face, and our names for them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Sequence

FOREIGN = {
    "checkpoint": "ckpt weights weight model model_path model_name_or_path pretrained resume load_from",
    "weights": "pretrained pretrained_weights checkpoint ckpt weight initial_checkpoint pretrained_path init_from "
    "model_name_or_path load_from finetune load",
    "source": "data src input data_dir dataset dataset_name path",
    "data": "data_dir data_path dataset dataset_name train_dir train_data train_data_dir data_root root image_folder d "
    "source src input",
    "images": "source image input path data data_dir img_path",
    "out": "output output_dir out_dir outdir save_dir project name run_dir exp experiment dst destination target o",
    "image_size": "imgsz img_size input_size img resolution size image_resolution crop_size train_crop_size",
    "epochs": "epoch num_epochs num_train_epochs n_epochs max_epochs train_epochs e",
    "minutes": "time max_time",
    "batch_size": "batch bs b per_device_train_batch_size per_device_eval_batch_size train_batch_size "
    "eval_batch_size validation_batch_size",
    "lr": "learning_rate lr0 base_lr blr initial_lr",
    "final_lr": "lrf min_lr lr_min",
    "warmup": "warmup_epochs warmup_ratio",
    "weight_decay": "wd",
    "layer_decay": "llrd layer_decay_rate",
    "optimizer": "opt optim",
    "clip": "clip_grad grad_clip max_grad_norm clip_norm gradient_clip gradient_clip_val",
    "accumulate": "grad_accum grad_accum_steps gradient_accumulation_steps accumulate_grad_batches accum_iter",
    "ema": "model_ema model_ema_decay ema_decay use_ema",
    "label_smoothing": "smoothing label_smoothing_factor",
    "augment": "aa auto_augment aug augmentation augmentations randaug",
    "tta": "augment test_time_augmentation",
    "flip": "hflip fliplr horizontal_flip",
    "erase": "reprob erasing random_erase random_erasing",
    "mixup": "mixup_alpha",
    "cutmix": "cutmix_alpha",
    "drop_path": "drop_path_rate stochastic_depth",
    "dropout": "drop drop_rate",
    "attention_dropout": "attn_drop attn_drop_rate",
    "patch_dropout": "patch_drop patch_drop_rate",
    "layer_scale": "init_values",
    "freeze": "freeze_backbone freeze_encoder linear_probe",
    "freeze_blocks": "freeze_layers",
    "lora_rank": "lora lora_r",
    "balanced": "balance class_balanced weighted_sampler",
    "class_weights": "class_weight",
    "amp=fp16": "fp16 half float16",
    "amp=bf16": "bf16 bfloat16",
    "amp=none": "no_amp fp32",
    "amp": "precision mixed_precision amp_dtype dtype",
    "device=cpu": "cpu use_cpu no_cuda",
    "device=cuda": "gpu gpus cuda use_cuda",
    "device": "devices accelerator",
    "compile": "torchcompile torch_compile",
    "recompute": "grad_checkpointing gradient_checkpointing activation_checkpointing",
    "workers": "num_workers n_workers nw j jobs num_proc dataloader_num_workers",
    "seed": "random_seed manual_seed random_state",
    "patience": "early_stop early_stopping early_stopping_patience",
    "eval_every": "eval_interval eval_steps val_interval val_period check_val_every_n_epoch",
    "save_every": "save_steps save_period save_interval save_freq checkpoint_interval",
    "keep": "save_total_limit checkpoint_hist",
    "model": "arch architecture model_name net backbone cfg a",
    "queries": "num_queries max_det",
    "threshold": "conf conf_thres conf_threshold confidence score_threshold score_thr box_score_thresh",
    "nms": "iou iou_thres iou_threshold nms_threshold",
    "top": "topk top_k k max_det max_detections",
    "knn": "k",
    "tile": "slice slice_size tile_size slice_height",
    "overlap": "overlap_ratio tile_overlap",
    "every": "vid_stride frame_stride stride",
    "json": "save_json",
    "split": "subset eval_split",
    "format": "data_format dataset_format",
    "to": "output_format target_format",
    "val": "val_split val_ratio val_size val_fraction validation_split",
    "test": "test_split test_ratio test_size test_fraction",
    "group": "group_by groups",
    "shard_mb": "shard_size max_shard_size",
    "features": "feature pool pooling",
}
"""Ours -> theirs. OURS=VALUE: theirs is a flag for one value of ours. If a foreign name is in several rows, the first
row with an option of the command applies."""

ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
"""An option in the style of Ultralytics and Hydra: name=value."""


def plain(name: str) -> str:
    """--Batch-Size -> batch_size."""
    return name.lstrip("-").replace("-", "_").lower()


def of_others(name: str, known: Collection[str]) -> str | None:
    """The option among `known` for another tool's name, possibly as OURS=VALUE; None if there is none."""
    return next((ours for ours, theirs in FOREIGN.items() if name in theirs.split() and _field(ours) in known), None)


def nearest_option(name: str, known: Collection[str]) -> str | None:
    """The option among `known` that the unknown `name` probably means; None if there is none."""
    if found := of_others(name, known):
        return found
    if name.removeprefix("no_") in known:
        return name.removeprefix("no_")
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
    if close:
        return close[0]
    theirs = {word for ours, words in FOREIGN.items() if _field(ours) in known for word in words.split()}
    for word in difflib.get_close_matches(name, [*known, *sorted(theirs)], n=1, cutoff=0.65):
        return word if word in known else of_others(word, known)
    return next((field for field in known if len(name) > 2 and field.startswith(name)), None)


def rewritten(words: Sequence[str], known: Collection[str], positional: Iterable[str]) -> list[str] | None:
    """The words with every name=value rewritten as --name value, or as a positional argument; None if no word sets an
    option of `known` in this style."""
    placed: dict[str, str] = {}
    options: list[str] = []
    changed = False
    for word in words:
        match = ASSIGNMENT.fullmatch(word)
        name = plain(match[1]) if match else ""
        if name == "model" and match and match[2].endswith((".pt", ".pth", ".safetensors")) and "weights" in known:
            name = "weights"
        ours = name if name in known else of_others(name, known)
        if match is None or ours is None:
            options.append(word)
            continue
        changed = True
        field, _, value = ours.partition("=")
        if value or match[2] in ("True", "true"):
            options += [] if match[2] in ("False", "false") else option(field, value).split()
        elif field in positional:
            placed[field] = match[2]
        elif match[2] not in ("False", "false"):
            options += [option(field), f"cuda:{match[2]}" if field == "device" and match[2].isdecimal() else match[2]]
    return [*(placed[field] for field in positional if field in placed), *options] if changed else None


def option(field: str, value: str = "") -> str:
    """The option as typed: image_size -> --image-size."""
    return f"--{field.replace('_', '-')} {value}".strip()


def _field(ours: str) -> str:
    return ours.partition("=")[0]
