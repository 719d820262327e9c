"""Run from outside the repository: transformers' deformable attention, its answer and gradients.

Arguments: a file of inputs, a file for the answers.
"""

import sys
import warnings

warnings.filterwarnings("ignore")

from safetensors.torch import load_file, save_file  # noqa: E402
from transformers.models.lw_detr.modeling_lw_detr import MultiScaleDeformableAttention  # noqa: E402

values = load_file(sys.argv[1])
grids = [tuple(grid) for grid in values["grids"].tolist()]
inputs = {name: values[name].requires_grad_() for name in ("values", "places", "weights")}
answer = MultiScaleDeformableAttention()(
    inputs["values"], values["grids"], grids, None, inputs["places"], inputs["weights"], 64
)
(answer * values["factor"]).sum().backward()
save_file({"answer": answer.detach(), **{name: tensor.grad for name, tensor in inputs.items()}}, sys.argv[2])
