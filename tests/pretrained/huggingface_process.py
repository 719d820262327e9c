"""Run by conftest.py in a process of its own, started outside the repository: there, Hugging Face finds no `datasets/`
of ours. Writes, for each model, its file, its tensors as named in memory, and what it answers; then what it answers of
models that were exported into FOLDERs (one process for both: importing transformers takes longer than all models).

    python huggingface_process.py OUT PEER FOLDER...

PEER is vit/pretrained/convert/huggingface_process.py.
"""

import importlib.util
import sys
from pathlib import Path

import torch
import transformers as hf
from safetensors.torch import save_file


def module(file: Path):
    spec = importlib.util.spec_from_file_location(file.stem, file)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


random_weights = module(Path(__file__).with_name("random_weights.py"))

SIZES = {"native": (64, 64), "other": (48, 96)}
SMALL = {
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 512,
    "image_size": 64,
    "patch_size": 16,
}
BARE = {key: value for key, value in SMALL.items() if key != "image_size"}
INTERPOLATE = {"interpolate_pos_encoding": True}


def models():
    """name -> (model, the part that gives tokens, arguments of its call)."""
    vit = hf.ViTForImageClassification(hf.ViTConfig(**SMALL, num_labels=5))
    yield "vit", vit, vit.vit, INTERPOLATE
    yield "vit_base", *[hf.ViTModel(hf.ViTConfig(**SMALL))] * 2, INTERPOLATE
    deit = hf.DeiTForImageClassificationWithTeacher(hf.DeiTConfig(**SMALL, num_labels=5))
    yield "deit", deit, deit.deit, INTERPOLATE
    beit = hf.BeitForImageClassification(hf.BeitConfig(**SMALL, num_labels=5, use_relative_position_bias=True))
    yield "beit", beit, beit.beit, {}
    decoder = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    config = hf.ViTMAEConfig(**SMALL, mask_ratio=0.0, **{f"decoder_{key}": value for key, value in decoder.items()})
    mae = hf.ViTMAEForPreTraining(config)
    config = hf.BeitConfig(**SMALL, vocab_size=11, use_mask_token=True, use_relative_position_bias=True)
    pretraining = hf.BeitForMaskedImageModeling(config)
    yield "beit_pretraining", pretraining, pretraining.beit, {}
    config = hf.BeitConfig(**SMALL, vocab_size=11, use_mask_token=True, use_shared_relative_position_bias=True)
    shared = hf.BeitForMaskedImageModeling(config)
    yield "beit_shared", shared, shared.beit, {}
    yield "mae", mae, mae.vit, INTERPOLATE
    dinov2 = hf.Dinov2ForImageClassification(hf.Dinov2Config(**SMALL, num_labels=5))
    yield "dinov2", dinov2, dinov2.dinov2, {}
    yield "dinov2_swiglu", *[hf.Dinov2Model(hf.Dinov2Config(**SMALL, use_swiglu_ffn=True))] * 2, {}
    registers = hf.Dinov2WithRegistersConfig(**SMALL, num_labels=5)
    registers = hf.Dinov2WithRegistersForImageClassification(registers)
    yield "dinov2_registers_classifier", registers, registers.dinov2_with_registers, {}
    yield "dinov2_registers", *[hf.Dinov2WithRegistersModel(hf.Dinov2WithRegistersConfig(**SMALL))] * 2, {}
    yield "dinov3", *[hf.DINOv3ViTModel(hf.DINOv3ViTConfig(**SMALL, num_register_tokens=4))] * 2, {}
    gated = hf.DINOv3ViTConfig(**SMALL, num_register_tokens=4, use_gated_mlp=True, hidden_act="silu")
    yield "dinov3_gated", *[hf.DINOv3ViTModel(gated)] * 2, {}
    yield "siglip", *[hf.SiglipVisionModel(hf.SiglipVisionConfig(**SMALL))] * 2, INTERPOLATE
    siglip = hf.SiglipForImageClassification(hf.SiglipConfig(vision_config=SMALL, num_labels=5))
    yield "siglip_classifier", siglip, siglip.vision_model, INTERPOLATE
    clip = hf.CLIPVisionModelWithProjection(hf.CLIPVisionConfig(**SMALL, projection_dim=20))
    yield "clip", clip, clip.vision_model, INTERPOLATE
    # The public files of I-JEPA have this eps, which is not its config's default.
    ijepa = hf.IJepaForImageClassification(hf.IJepaConfig(**SMALL, num_labels=5, layer_norm_eps=1e-6))
    yield "ijepa_classifier", ijepa, ijepa.ijepa, INTERPOLATE
    yield "ijepa", *[hf.IJepaModel(hf.IJepaConfig(**SMALL, layer_norm_eps=1e-6))] * 2, INTERPOLATE
    strange = hf.ViTConfig(**SMALL, num_labels=5, layer_norm_eps=1e-4, hidden_act="gelu_new")
    strange = hf.ViTForImageClassification(strange)
    yield "vit_strange", strange, strange.vit, INTERPOLATE
    yield "aimv2", *[hf.Aimv2VisionModel(hf.Aimv2VisionConfig(**SMALL, use_head=False))] * 2, {}
    yield "naflex", *[hf.Siglip2VisionModel(hf.Siglip2VisionConfig(**BARE, num_patches=16))] * 2, {}


def inputs(name, x):
    if name == "mae":  # its masking shuffles by this noise
        tokens = x.shape[2] * x.shape[3] // 256
        return {"pixel_values": x, "noise": torch.arange(tokens).float()[None]}
    if name == "naflex":
        h, w = x.shape[2] // 16, x.shape[3] // 16
        patches = x.unflatten(3, (w, 16)).unflatten(2, (h, 16)).permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
        mask = torch.ones(1, h * w, dtype=torch.long)
        return {"pixel_values": patches, "pixel_attention_mask": mask, "spatial_shapes": torch.tensor([[h, w]])}
    return {"pixel_values": x}


@torch.no_grad()
def main(out: Path):
    for name, model, body, arguments in models():
        model.eval()
        random_weights.randomize(model)
        model.save_pretrained(out / name)
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, out / name / "memory.safetensors")
        answers = {}
        for size, (h, w) in SIZES.items():
            if name == "aimv2" and size == "other":
                continue  # it knows its own number of positions only
            given = inputs(name, random_weights.images(h, w))
            tokens = body(**given, **arguments)
            last = tokens.last_hidden_state
            # CLIP norms the class token only, BEiT's pre-training outside its body.
            norm = {"clip": "post_layernorm", "beit_pretraining": "layernorm", "beit_shared": "layernorm"}.get(name)
            part = body if name == "clip" else model
            answers[f"{size}.tokens"] = getattr(part, norm)(last) if norm else last
            if name in ("clip", "siglip", "dinov3", "dinov3_gated", "naflex"):
                answers[f"{size}.pooled"] = tokens.pooler_output
            if model is not body and name not in ("mae", "beit_pretraining", "beit_shared"):
                result = model(**given, **arguments)
                answers[f"{size}.logits"] = result.image_embeds if name == "clip" else result.logits
        save_file(
            {key: value.contiguous().clone() for key, value in answers.items()}, out / name / "answers.safetensors"
        )
    print(hf.__version__)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    peer = module(Path(sys.argv[2]))
    for folder in sys.argv[3:]:
        peer.run(Path(folder))
